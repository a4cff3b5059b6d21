"""Sessions, locks and transactions as an unmodified Consul client (py-consul) sees them.

Run on host h2, whose agent is at 127.0.0.1:8500; ends with 0 only if every answer is what Consul gives.
"""

import base64
import json
import threading

import consul
from consul.exceptions import ConsulException

from asking import http, raises, until


def sessions(c):
    s = c.session
    one = s.create(name="one", ttl=20, lock_delay=1)
    index, info = s.info(one)
    assert (info["ID"], info["Name"], info["Node"], info["TTL"]) == (one, "one", "h2", "20s"), info
    assert (info["LockDelay"], info["Behavior"], info["NodeChecks"]) == (10**9, "release", ["serfHealth"]), info
    assert int(index) >= info["CreateIndex"] == info["ModifyIndex"], (index, info)
    assert s.info("11111111-1111-1111-1111-111111111111")[1] is None
    assert [x["ID"] for x in s.list()[1]] == [one] == [x["ID"] for x in s.node("h2")[1]]
    assert s.node("h1")[1] == []
    assert s.renew(one)["ID"] == one
    assert "not found" in raises(ConsulException, lambda: s.renew("11111111-1111-1111-1111-111111111111"))
    woken, index = [], s.list()[0]
    thread = threading.Thread(target=lambda: woken.append(consul.Consul().session.list(index=index, wait="30s")))
    thread.start()
    assert s.destroy(one) is True
    thread.join(10)
    assert woken[0][1] == [], woken
    assert s.destroy(one) is True and s.info(one)[1] is None
    for body, status, said in [
        ({"TTL": "5s"}, 500, b"Invalid Session TTL '5s', must be between [10s=24h0m0s]"),
        ({"Node": "nowhere"}, 500, b"Missing node registration"),
        ({"NodeChecks": ["none"]}, 500, b"Missing check 'none' registration"),
        ({"Behavior": "keep"}, 400, b"Behavior"), ({"LockDelay": "x"}, 400, b"LockDelay"), ({"Wrong": 1}, 400, b"Wrong"),
    ]:
        got, _, text = http("PUT", "session/create", json.dumps(body).encode())
        assert got == status and said in text, (body, got, text)
    status, _, body = http("PUT", "session/create")
    assert status == 200 and s.destroy(json.loads(body)["ID"])


def locks(c):
    kv, s = c.kv, c.session
    a, b = s.create(name="a", lock_delay=1), s.create(name="b", lock_delay=0, behavior="delete")
    assert kv.put("leader", "a", acquire=a) is True
    assert kv.put("leader", "b", acquire=b) is False
    entry = kv.get("leader")[1]
    assert (entry["Session"], entry["LockIndex"], entry["Value"]) == (a, 1, b"a"), entry
    assert kv.put("leader", "again", acquire=a) is True and kv.get("leader")[1]["LockIndex"] == 1
    assert kv.put("leader", "b", release=b) is False
    index = kv.get("leader")[0]
    woken = []
    thread = threading.Thread(target=lambda: woken.append(consul.Consul().kv.get("leader", index=index, wait="30s")))
    thread.start()
    assert kv.put("leader", "free", release=a) is True
    thread.join(10)
    assert "Session" not in woken[0][1] and woken[0][1]["Value"] == b"free", woken
    assert kv.put("leader", "b", acquire=b) is True and kv.get("leader")[1]["LockIndex"] == 2
    # What a session that deletes held is gone with it, and without a delay it is free at once.
    assert s.destroy(b) and kv.get("leader")[1] is None
    assert kv.put("leader", "a", acquire=a) is True
    # A delay is kept: whoever held it may still be at work.
    assert s.destroy(a) and "Session" not in kv.get("leader")[1]
    d = s.create(name="d")
    assert kv.put("leader", "d", acquire=d) is False
    until("the delay is over", lambda: kv.put("leader", "d", acquire=d))
    # Bound to a check: when it turns critical, the session ends.
    assert c.agent.service.register("web", check=consul.Check.ttl("10m"))
    assert c.agent.check.ttl_pass("service:web")
    status, _, body = http("PUT", "session/create", json.dumps(
        {"Name": "bound", "LockDelay": "0s", "ServiceChecks": [{"ID": "service:web"}]}).encode())
    assert status == 200, body
    bound = json.loads(body)["ID"]
    assert kv.put("bound", "x", acquire=bound) is True
    assert c.agent.check.ttl_fail("service:web")
    until("the session ended", lambda: s.info(bound)[1] is None)
    assert "Session" not in kv.get("bound")[1]
    assert s.destroy(d) and c.agent.service.deregister("web")


def expiry(c):
    """A session that nobody renews ends after its time, but not before."""
    kept, lost = c.session.create(name="kept", ttl=10), c.session.create(name="lost", ttl=10, lock_delay=0)
    assert c.kv.put("ttl", "x", acquire=lost)

    def ended():
        assert c.session.renew(kept)["ID"] == kept
        return c.session.info(lost)[1] is None

    assert not ended()
    until("the session ran out", ended, 60)
    assert "Session" not in c.kv.get("ttl")[1] and c.session.info(kept)[1]["ID"] == kept
    assert c.session.destroy(kept)


def b64(text):
    return base64.b64encode(text.encode()).decode()


def txn(c, *ops, status=200, query=""):
    got, headers, body = http("PUT", "txn" + query, json.dumps(list(ops)).encode())
    assert got == status, (got, body)
    return json.loads(body) if status in (200, 409) else body


def op(verb, key, **more):
    return {"KV": {"Verb": verb, "Key": key, **more}}


def transactions(c):
    done = c.txn.put([op("set", "x/a", Value=b64("1"), Flags=5), op("get", "x/a"), op("set", "x/b", Value=b64("2"))])
    kvs = [one["KV"] for one in done["Results"]]
    assert [(kv["Key"], kv["Value"], kv["Flags"]) for kv in kvs] == [("x/a", None, 5), ("x/a", b64("1"), 5), ("x/b", None, 0)], done
    assert done["Errors"] is None and len({kv["ModifyIndex"] for kv in kvs}) == 1, done
    index = kvs[0]["ModifyIndex"]
    failed = txn(c, op("set", "x/a", Value=b64("no")), op("cas", "x/b", Value=b64("no"), Index=1), op("get", "x/none"), status=409)
    assert failed["Results"] is None, failed
    assert [(one["OpIndex"], one["What"]) for one in failed["Errors"]] == [
        (1, 'failed to set key "x/b", index is stale'), (2, 'key "x/none" doesn\'t exist')], failed
    assert c.kv.get("x/a")[1]["Value"] == b"1"
    # Reads alone, in every consistency.
    for query in ["", "?stale", "?consistent"]:
        tree = txn(c, op("get-tree", "x/"), op("check-index", "x/a", Index=index), op("get-or-empty", "x/none"), query=query)
        assert [one["KV"]["Key"] for one in tree["Results"]] == ["x/a", "x/b", "x/a", "x/none"], tree
    assert txn(c, op("check-not-exists", "x/a"), status=409)["Errors"][0]["What"] == 'key "x/a" exists'
    s = c.session.create(lock_delay=0)
    txn(c, op("lock", "x/l", Value=b64("me"), Session=s), op("check-session", "x/l", Session=s))
    assert c.kv.get("x/l")[1]["Session"] == s
    txn(c, op("unlock", "x/l", Session=s), op("delete-cas", "x/a", Index=index), op("delete", "x/b"), {"Session": {"Verb": "delete", "Session": {"ID": s}}})
    assert [one["Key"] for one in c.kv.get("x/", recurse=True)[1]] == ["x/l"] and c.session.info(s)[1] is None
    txn(c, op("delete-tree", "x/"))
    # The catalog, with keys.
    done = txn(c, {"Node": {"Verb": "set", "Node": {"Node": "ext", "Address": "10.9.9.9", "Meta": {"k": "v"}}}},
               {"Service": {"Verb": "set", "Node": "ext", "Service": {"ID": "db-1", "Service": "db", "Port": 5432}}},
               {"Check": {"Verb": "set", "Check": {"Node": "ext", "CheckID": "up", "Name": "up", "Status": "passing", "ServiceID": "db-1"}}},
               op("set", "x/known", Value=b64("yes")))
    node, service, check, _ = done["Results"]
    assert (node["Node"]["Meta"], service["Service"]["Port"], check["Check"]["ServiceName"]) == ({"k": "v"}, 5432, "db"), done
    assert [one["Service"]["ID"] for one in c.health.service("db", passing=True)[1]] == ["db-1"]
    stale = {"Node": {"Verb": "cas", "Node": {"Node": "ext", "Address": "10.9.9.8", "ModifyIndex": 1}}}
    assert "index is stale" in txn(c, op("delete", "x/known"), stale, status=409)["Errors"][0]["What"]
    foreign = {"Service": {"Verb": "set", "Node": "h1", "Service": {"Service": "intruder"}}}
    assert b"h1" in txn(c, foreign, status=403)
    txn(c, {"Service": {"Verb": "get", "Node": "ext", "Service": {"ID": "db-1"}}}, {"Node": {"Verb": "delete", "Node": {"Node": "ext"}}},
        op("delete", "x/known"))
    assert c.catalog.node("ext")[1] is None
    # Limits.
    many = [op("get-or-empty", "x")]
    assert len(txn(c, *many * 128)["Results"]) == 128
    assert b"too many operations (129 > 128)" in txn(c, *many * 129, status=413)
    assert b"too large" in txn(c, op("set", "big", Value="A" * 524288), status=413)
    assert b"unknown KV verb" in txn(c, op("fly", "x"), status=400)


if __name__ == "__main__":
    client = consul.Consul()
    for step in [sessions, locks, transactions, expiry]:
        step(client)
        print(f"{step.__name__}: ok", flush=True)
