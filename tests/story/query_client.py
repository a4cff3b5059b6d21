"""Events and prepared queries with an unmodified Consul client (py-consul).

Run on host 2 of a mesh of two, whose agent is at 127.0.0.1:8500 and which runs `db`.
"""

import threading

import consul
from consul.exceptions import BadRequest, ConsulException

from asking import raises, until


def events(c):
    assert c.event.list() == ("1", []), c.event.list()
    fired = c.event.fire("deploy", "v2")
    assert (fired["Name"], fired["Version"], fired["LTime"]) == ("deploy", 1, 0), fired
    index, found = c.event.list()
    assert [(one["ID"], one["Payload"], one["LTime"]) for one in found] == [(fired["ID"], b"v2", 1)], found
    high, low = divmod(int(fired["ID"].replace("-", ""), 16), 2 ** 64)
    assert int(index) == high ^ low, index
    heard = []
    wait = threading.Thread(target=lambda: heard.append(consul.Consul().event.list(index=index, wait="60s")))
    wait.start()
    assert c.event.fire("restart", node="^h2$", service="^db$", tag="^primary$")["TagFilter"] == "^primary$"
    assert c.event.fire("elsewhere", node="^h1$")["NodeFilter"] == "^h1$"
    wait.join(20)
    assert [one["Name"] for one in heard[0][1]] == ["deploy", "restart"] and heard[0][0] != index, heard
    assert [one["Name"] for one in c.event.list(name="restart")[1]] == ["restart"]
    assert c.event.list(name="none") == ("1", [])
    assert [one["Name"] for one in c.event.list(node="^h2$")[1]] == ["deploy", "restart"]
    assert c.event.list(node="^h1$") == ("1", [])
    assert "node filter" in raises(BadRequest, lambda: c.event.fire("x", node="("))
    assert "tag filter" in raises(BadRequest, lambda: c.event.fire("x", tag="v1"))
    assert "512" in raises(ConsulException, lambda: c.event.fire("x", "p" * 513))
    c.event.fire("x", "p" * 512)


def queries(c):
    assert c.query.list() == []
    # This client makes a template of every query.
    made = c.query.create("db", name="front", ttl="10s", tags=["primary", "!old"], onlypassing=True,
                          nearestn=2, datacenters=["dc1", "dc9"])
    one = c.query.get(made["ID"])
    assert len(one) == 1 and one == c.query.list(), one
    query = one[0]
    assert (query["ID"], query["Name"], query["Session"]) == (made["ID"], "front", ""), query
    assert query["DNS"] == {"TTL": "10s"} and query["Template"]["Type"] == "name_prefix_match", query
    assert query["Service"]["Failover"] == {"NearestN": 2, "Datacenters": ["dc1", "dc9"], "Targets": []}, query
    assert 0 < query["CreateIndex"] == query["ModifyIndex"], query
    found = until("db is found", lambda: c.query.execute("front")["Nodes"] and c.query.execute("front"))
    assert (found["Service"], found["Datacenter"], found["Failovers"]) == ("db", "dc1", 0), found
    assert [node["Service"]["ID"] for node in found["Nodes"]] == ["db"] and found["DNS"] == {"TTL": "10s"}, found
    assert found["Nodes"][0]["Node"]["Node"] == "h2" and found["Nodes"][0]["Checks"], found
    assert c.query.execute("front", near="_agent", limit=1)["Nodes"] == found["Nodes"]

    other = c.query.create("${match(1)}", name="geo-", regexp="^geo-(.+)$")["ID"]
    assert c.query.explain("geo-db")["Query"]["Service"]["Service"] == "db"
    assert [node["Service"]["ID"] for node in c.query.execute("geo-db")["Nodes"]] == ["db"]
    assert c.query.execute("geo-none")["Nodes"] == []
    assert c.query.update(made["ID"], "none", name="front") is True
    assert c.query.get(made["ID"])[0]["Service"]["Service"] == "none"
    assert c.query.execute("front")["Nodes"] == []
    assert c.query.execute("nothing") is None and c.query.explain("nothing") is None
    assert "aliases" in raises(ConsulException, lambda: c.query.create("db", name="FRONT"))
    assert "Service name" in raises(BadRequest, lambda: c.query.create("", name="x"))
    assert "Bad format" in raises(BadRequest, lambda: c.query.create("${nonsense}", name="x"))
    assert c.query.delete(made["ID"]) is True and c.query.delete(other) is True
    assert c.query.delete(made["ID"]) is False and c.query.get(made["ID"]) is None
    assert c.query.list() == []


if __name__ == "__main__":
    client = consul.Consul()
    for step in [events, queries]:
        step(client)
        print(f"{step.__name__}: ok", flush=True)
