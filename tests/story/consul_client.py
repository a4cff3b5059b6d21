"""An unmodified Consul client (py-consul) against an agent of Purlin.

Run on a host whose agent is at 127.0.0.1:8500; ends with 0 only if every answer is what Consul gives.
"""

import threading

import consul
from consul import Check
from consul.exceptions import ACLDisabled, BadRequest, ConsulException

from asking import raises, until


def ids(entries):
    return sorted(entry["Service"]["ID"] for entry in entries)


def services(c):
    assert c.agent.service.register(
        "db", service_id="db-1", port=5432, tags=["primary", "v1"], meta={"engine": "pg"},
        check=Check.ttl("10m"), extra_checks=[Check.tcp("127.0.0.1", 1, "1h", timeout="1s")],
        enable_tag_override=True, tagged_addresses={"lan": {"address": "10.9.9.9", "port": 1}},
    )
    assert c.agent.service.register("db", service_id="db-2", port=5433, tags=["replica"], check=Check.ttl("10m"), weights={"passing": 7, "warning": 2})
    assert c.agent.service.register("web", port=80, connect={"sidecar_service": {"proxy": {"upstreams": [
        {"destination_name": "db", "local_bind_port": 9191}]}}}, meta={"team": "shop"})
    mine = c.agent.services()
    assert {"db-1", "db-2", "web", "web-sidecar-proxy"} <= set(mine), mine
    assert mine["db-1"]["Meta"] == {"engine": "pg"} and mine["db-1"]["EnableTagOverride"] is True, mine
    assert mine["db-2"]["Weights"] == {"Passing": 7, "Warning": 2}, mine
    assert mine["web-sidecar-proxy"]["Proxy"]["DestinationServiceID"] == "web", mine
    assert set(c.agent.services(filter_expr='"primary" in Tags')) == {"db-1"}
    one = c.agent.service_definition("db-1")
    assert one["Port"] == 5432 and one["ContentHash"], one
    assert c.agent.service_definition("none") is None
    # Registered anew without its checks, with the wish to lose those that are gone.
    assert len([1 for check in c.agent.checks().values() if check["ServiceID"] == "db-1"]) == 2
    assert c.agent.service.register("db", service_id="db-1", port=5432, tags=["primary", "v1"], meta={"engine": "pg"},
                                    check=Check.ttl("10m"), replace_existing_checks=True)
    assert len([1 for check in c.agent.checks().values() if check["ServiceID"] == "db-1"]) == 1
    error = raises(BadRequest, lambda: c.agent.service.register("bad", port=70000))
    assert "70000" in error, error
    assert "derived" in raises(BadRequest, lambda: c.agent.service.register("web-sidecar-proxy", port=1))


def checks(c):
    assert c.agent.check.ttl_pass("service:db-1", notes="all is well")
    until("db-1 passes", lambda: ids(c.health.service("db", passing=True)[1]) == ["db-1"])
    assert c.agent.checks()["service:db-1"]["Output"] == "all is well"
    assert c.agent.check.ttl_warn("service:db-1")
    until("db-1 warns", lambda: [one["CheckID"] for one in c.health.state("warning")[1]] == ["service:db-1"])
    assert c.health.service("db", passing=True)[1] == []
    assert c.agent.check.ttl_pass("service:db-1") and c.agent.check.ttl_pass("service:db-2")
    until("both pass", lambda: ids(c.health.service("db", passing=True)[1]) == ["db-1", "db-2"])
    assert c.agent.check.ttl_fail("service:db-2", notes="broken")
    until("db-2 fails", lambda: ids(c.health.service("db", passing=True)[1]) == ["db-1"])

    assert c.agent.check.register("memory", check=Check.ttl("10m"), check_id="mem", notes="of the node")
    assert c.agent.check.register("own", check=Check.http("http://127.0.0.1:1/", "1h"), check_id="own", service_id="db-2")
    found = c.agent.checks()
    assert (found["mem"]["ServiceID"], found["own"]["ServiceName"], found["mem"]["Notes"]) == ("", "db", "of the node")
    assert set(c.agent.checks(filter_expr='ServiceName == "db"')) == {"service:db-1", "service:db-2", "own"}
    # A check of the node counts for all of its services.
    until("the node's check counts", lambda: c.health.service("db", passing=True)[1] == [])
    assert c.agent.check.deregister("mem") and c.agent.check.deregister("own")
    until("it is gone", lambda: ids(c.health.service("db", passing=True)[1]) == ["db-1"])
    # py-consul takes 404 for no answer, never for a success.
    assert c.agent.check.ttl_pass("none") is False and c.agent.check.deregister("none") is False
    # Scripts over the API are off.
    raises(ConsulException, lambda: c.agent.check.register("script", check=Check.script(["true"], "10s")))

    assert c.agent.service.maintenance("db-1", True, "upgrade")
    until("maintenance takes it out", lambda: c.health.service("db", passing=True)[1] == [])
    assert c.agent.service.maintenance("db-1", False)
    assert c.agent.maintenance(True, "disk")
    until("so does that of the node", lambda: c.health.service("web", passing=True)[1] == [])
    assert c.agent.maintenance(False)
    until("and back", lambda: ids(c.health.service("db", passing=True)[1]) == ["db-1"])


def catalog(c):
    assert c.catalog.datacenters() == ["dc1"]
    index, nodes = c.catalog.nodes()
    assert int(index) > 0 and sorted(node["Node"] for node in nodes) == ["h1", "h2"], nodes
    assert [node["Node"] for node in c.catalog.nodes(node_meta={"rack": "7"}, near="_agent")[1]] == ["h2", "h1"]
    assert c.catalog.nodes(node_meta={"rack": "8"})[1] == []
    assert [node["Node"] for node in c.catalog.nodes(filter_expr="Node == h2", consistency="consistent")[1]] == ["h2"]
    found = c.catalog.services(consistency="stale")[1]
    assert sorted(found["db"]) == ["primary", "replica", "v1"] and found["web"] == [], found
    entries = c.catalog.service("db")[1]
    assert sorted((one["ServiceID"], one["ServicePort"]) for one in entries) == [("db-1", 5432), ("db-2", 5433)]
    assert entries[0]["Address"] == "10.77.0.2" and entries[0]["Datacenter"] == "dc1", entries
    assert [one["ServiceID"] for one in c.catalog.service("db", tag="replica")[1]] == ["db-2"]
    assert [one["ServiceID"] for one in c.catalog.service("db", filter_expr="ServiceMeta.engine == pg")[1]] == ["db-1"]
    assert c.catalog.service("none")[1] == []
    assert [one["ServiceID"] for one in c.catalog.connect("web")[1]] == ["web-sidecar-proxy"]
    node = c.catalog.node("h2")[1]
    assert node["Node"]["Node"] == "h2" and node["Services"]["db-1"]["Port"] == 5432, node
    assert c.catalog.node("none")[1] is None

    # What no agent speaks for: an external node.
    assert c.catalog.register("printer", "10.77.0.9", service={"Service": "print", "ID": "print-1", "Port": 631, "Tags": ["a4"]},
                              check={"Node": "printer", "CheckID": "ink", "Name": "ink", "Status": "passing", "ServiceID": "print-1"},
                              node_meta={"floor": "2"})
    entries = c.health.service("print", passing=True)[1]
    assert [(one["Node"]["Address"], one["Service"]["Port"], one["Checks"][0]["CheckID"]) for one in entries] == [("10.77.0.9", 631, "ink")], entries
    assert c.catalog.deregister("printer", service_id="print-1")
    until("it is gone", lambda: c.catalog.service("print")[1] == [])
    assert c.catalog.deregister("printer")
    until("so is its node", lambda: c.catalog.node("printer")[1] is None)


def health(c):
    assert ids(c.health.service("db")[1]) == ["db-1", "db-2"]
    entry = c.health.service("db", tag=["primary", "v1"])[1][0]
    assert entry["Service"]["ID"] == "db-1" and entry["Node"]["Meta"]["rack"] == "7", entry
    assert {check["CheckID"] for check in entry["Checks"]} == {"serfHealth", "service:db-1"}, entry
    assert c.health.service("db", tag=["primary", "replica"])[1] == []
    assert ids(c.health.service("db", filter_expr='Service.Tags contains "replica"')[1]) == ["db-2"]
    assert [one["Service"]["ID"] for one in c.health.connect("web")[1]] == ["web-sidecar-proxy"]
    assert {one["CheckID"] for one in c.health.checks("db")[1]} == {"service:db-1", "service:db-2"}
    assert {one["CheckID"] for one in c.health.node("h2")[1]} >= {"serfHealth", "service:db-1"}
    assert {one["CheckID"] for one in c.health.state("critical")[1]} == {"service:db-2"}
    assert len(c.health.state("any", filter_expr='CheckID == serfHealth')[1]) == 2
    assert "expression" in raises(BadRequest, lambda: c.health.service("db", filter_expr="Service.ID =="))
    assert "datacenter" in raises(ConsulException, lambda: c.health.service("db", dc="elsewhere"))


def blocking(c):
    """A question that waits is answered by a change of what it asks, not by another's."""
    index, before = c.health.service("db", passing=True)
    woken = {}

    def wait(name, client, **kwargs):
        woken[name] = client.health.service(name, index=kwargs["index"], wait="20s", passing=True)

    other, _ = c.health.service("web", passing=True)
    threads = [threading.Thread(target=wait, args=("db", consul.Consul()), kwargs={"index": index}),
               threading.Thread(target=wait, args=("web", consul.Consul()), kwargs={"index": other})]
    for thread in threads:
        thread.start()
    # Changes of others first; only then the one that is waited for.
    for port in range(3):
        assert c.agent.service.register("noise", port=port + 1)
    assert not woken, woken
    assert c.agent.check.ttl_pass("service:db-2")
    threads[0].join(10)
    assert int(woken["db"][0]) > int(index) and ids(woken["db"][1]) == ["db-1", "db-2"] and before != woken["db"][1]
    assert "web" not in woken, woken
    assert c.agent.service.deregister("web")
    threads[1].join(10)
    assert woken["web"][1] == [], woken
    # One whose time is over says the same again.
    index, now = c.health.service("db")
    again, same = c.health.service("db", index=index, wait="100ms")
    assert (again, same) == (index, now)
    index, listed = c.catalog.services()
    assert c.agent.service.register("fresh", port=1)
    assert "fresh" in c.catalog.services(index=index, wait="10s")[1]


def intentions(c):
    i = c.connect.intentions
    assert i.check("web", "db") is False
    assert i.upsert("web", "db", action="allow", description="orders", meta={"team": "shop"})
    assert i.check("web", "db") is True
    one = i.read("web", "db")
    assert (one["Action"], one["Description"], one["Precedence"], one["Meta"]) == ("allow", "orders", 9, {"team": "shop"}), one
    assert i.upsert("*", "db", action="deny") and i.upsert("web", "db", action="deny")
    assert i.check("web", "db") is False
    assert [(x["SourceName"], x["Precedence"]) for x in i.list()] == [("web", 9), ("*", 8)]
    assert [x["SourceName"] for x in i.list(filter_expr='SourceName == "*"')] == ["*"]
    assert [x["SourceName"] for x in i.match("destination", "db")["db"]] == ["web", "*"]
    assert i.delete("*", "db") and i.delete("web", "db")
    assert i.read("web", "db") is None and i.list() == []
    raises(BadRequest, lambda: i.upsert("web", "db", permissions=[{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]))


def config(c):
    assert c.config.set("service-defaults", "db", {"Protocol": "http"})
    entry = c.config.get("service-defaults", "db")
    assert entry["Protocol"] == "http" and entry["Kind"] == "service-defaults", entry
    assert c.connect.intentions.upsert("web", "db", permissions=[{"Action": "allow", "HTTP": {"PathPrefix": "/v1"}}])
    assert c.config.get("service-intentions", "db")["Sources"][0]["Permissions"][0]["HTTP"] == {"PathPrefix": "/v1"}
    assert [one["Name"] for one in c.config.list("service-defaults")] == ["db"]
    assert c.config.set("service-defaults", "db", {"Protocol": "http2"}, cas=1) is False
    assert c.config.set("service-defaults", "db", {"Protocol": "http2"}, cas=entry["ModifyIndex"]) is True
    assert c.connect.intentions.delete("web", "db")
    assert c.config.delete("service-defaults", "db")
    assert c.config.get("service-defaults", "db") is None and c.config.list("service-defaults") == []
    raises(BadRequest, lambda: c.config.set("service-defaults", "db", {"Protocol": "nonsense"}))


def certificates(c):
    assert c.agent.service.register("web", port=80, connect={"sidecar_service": {}})
    roots = c.connect.ca.roots()
    assert roots["TrustDomain"].endswith(".mesh.internal") and roots["Roots"][0]["Active"] is True, roots
    assert c.agent.connect.ca.roots()["ActiveRootID"] == roots["ActiveRootID"]
    leaf = until("web has a leaf", lambda: c.agent.connect.ca.leaf("web"))
    uri = f"spiffe://{roots['TrustDomain']}/ns/default/dc/dc1/svc/web"
    assert leaf["ServiceURI"] == uri and "BEGIN CERTIFICATE" in leaf["CertPEM"] and "PRIVATE KEY" in leaf["PrivateKeyPEM"], leaf["ServiceURI"]
    asked = lambda: c.agent.connect.authorize("db", uri, leaf["SerialNumber"])["Authorized"]
    assert asked() is False
    assert c.connect.intentions.upsert("web", "db", action="allow")
    until("web may call db", asked)
    assert c.connect.ca.configuration()["Provider"] == "consul"


def agent(c):
    own = c.agent.self()
    assert own["Config"]["NodeName"] == "h2" and own["Member"]["Addr"] == "10.77.0.2" and own["Meta"] == {"rack": "7"}, own
    assert {member["Name"]: member["Status"] for member in c.agent.members()} == {"h1": 1, "h2": 1}
    assert c.status.leader() == "10.77.0.1:8300" and c.status.peers() == ["10.77.0.1:8300"]
    assert c.agent.metrics()["Gauges"] is not None
    assert "# TYPE" in c.agent.metrics(format_prometheus=True)
    assert c.agent.reload() is True
    raises(ACLDisabled, lambda: c.acl.token.list())


def leftovers(c):
    for name in ["db-1", "db-2", "web", "noise", "fresh"]:
        assert c.agent.service.deregister(name), name
    assert c.agent.services() == {} and c.agent.checks() == {}
    assert c.agent.service.deregister("db-1") is False
    until("the catalog is empty", lambda: set(c.catalog.services()[1]) <= {"consul"})


if __name__ == "__main__":
    client = consul.Consul()
    for step in [agent, services, checks, catalog, health, blocking, intentions, config, certificates, leftovers]:
        step(client)
        print(f"{step.__name__}: ok", flush=True)
