"""The key-value tree as an unmodified Consul client (py-consul) sees it, from an agent that is no server.

Run on a host whose agent is at 127.0.0.1:8500; ends with 0 only if every answer is what Consul gives.
"""

import threading

import consul
from consul.exceptions import BadRequest

from asking import http, raises, until


def values(c):
    kv = c.kv
    index, nothing = kv.get("app/colour")
    assert nothing is None and int(index) >= 1, index
    assert kv.put("app/colour", "blue", flags=42) is True
    index, entry = kv.get("app/colour")
    assert (entry["Key"], entry["Value"], entry["Flags"], entry["LockIndex"]) == ("app/colour", b"blue", 42, 0), entry
    assert "Session" not in entry and int(index) == entry["ModifyIndex"] == entry["CreateIndex"], entry
    assert kv.put("app/colour", "green") is True
    _, changed = kv.get("app/colour")
    assert changed["CreateIndex"] == entry["CreateIndex"] and changed["ModifyIndex"] > entry["ModifyIndex"], changed
    assert changed["Flags"] == 0, changed
    # The same again is no change.
    assert kv.put("app/colour", "green") is True
    assert kv.get("app/colour")[1] == changed
    assert kv.put("app/empty", None) is True and kv.get("app/empty")[1]["Value"] is None
    binary = bytes(range(256))
    assert kv.put("app/\u00e9 space/binary", binary) and kv.get("app/\u00e9 space/binary")[1]["Value"] == binary
    status, headers, body = http("GET", "kv/app/colour?raw")
    assert (status, headers["Content-Type"], headers["X-Content-Type-Options"], body) == (200, "text/plain", "nosniff", b"green")
    for mode, level in [("", "leader"), ("?consistent", "consistent"), ("?stale", "stale")]:
        status, headers, body = http("GET", f"kv/app/colour{mode}")
        assert (status, headers["X-Consul-Effective-Consistency"], headers["X-Consul-KnownLeader"]) == (200, level, "true")


def trees(c):
    kv = c.kv
    for key in ["t/a", "t/a/b", "t/a/c", "t/d", "u"]:
        assert kv.put(key, key)
    assert [one["Key"] for one in kv.get("t/", recurse=True)[1]] == ["t/a", "t/a/b", "t/a/c", "t/d"]
    assert [one["Key"] for one in kv.get("t/a", recurse=True)[1]] == ["t/a", "t/a/b", "t/a/c"]
    assert kv.get("t/", keys=True)[1] == ["t/a", "t/a/b", "t/a/c", "t/d"]
    assert kv.get("t/", keys=True, separator="/")[1] == ["t/a", "t/a/", "t/d"]
    assert kv.get("none/", recurse=True)[1] is None and kv.get("none/", keys=True)[1] is None
    assert set(kv.get("", keys=True, separator="/")[1]) >= {"app/", "t/", "u"}
    assert kv.delete("t/a") is True and kv.get("t/a")[1] is None
    assert kv.delete("t/a") is True
    assert kv.delete("t/", recurse=True) is True
    assert kv.get("t/", recurse=True)[1] is None and kv.get("u")[1]["Value"] == b"u"


def conditions(c):
    kv = c.kv
    assert kv.put("cas", "1", cas=0) is True
    assert kv.put("cas", "2", cas=0) is False
    index = kv.get("cas")[1]["ModifyIndex"]
    assert kv.put("cas", "2", cas=index) is True
    assert kv.put("cas", "3", cas=index) is False
    assert kv.get("cas")[1]["Value"] == b"2"
    assert kv.delete("cas", cas=index) is False
    assert kv.delete("cas", cas=kv.get("cas")[1]["ModifyIndex"]) is True
    assert kv.get("cas")[1] is None
    # Of many who want to count, each counts once.
    assert kv.put("count", "0")

    def add():
        own = consul.Consul()
        while True:
            entry = own.kv.get("count")[1]
            if own.kv.put("count", str(int(entry["Value"]) + 1), cas=entry["ModifyIndex"]):
                return

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kv.get("count")[1]["Value"] == b"8", kv.get("count")


def blocking(c):
    """Each key and each prefix has its own index; deletes are heard too."""
    kv = c.kv
    for key in ["w/a", "w/b", "x/a"]:
        assert kv.put(key, "1")
    woken = {}

    def wait(name, key, index, **kwargs):
        woken[name] = consul.Consul().kv.get(key, index=index, wait="30s", **kwargs)

    waits = [("key", "w/a", {}), ("gone", "w/b", {}), ("tree", "w/", {"recurse": True}), ("keys", "w/", {"keys": True}),
             ("absent", "w/none", {}), ("other", "x/", {"recurse": True}), ("same", "w", {})]
    threads = {}
    for name, key, kwargs in waits:
        index, _ = kv.get(key, **kwargs)
        threads[name] = (threading.Thread(target=wait, args=(name, key, index), kwargs=kwargs, daemon=True), index)
        threads[name][0].start()
    for n in range(20):
        assert kv.put("noise", str(n)) and kv.put("w0", str(n)) and kv.put("xx", str(n))
    assert not woken, woken
    assert kv.put("w/a", "2")
    for name in ["key", "tree", "keys"]:
        threads[name][0].join(10)
        assert int(woken[name][0]) > int(threads[name][1]), (name, woken)
    assert woken["key"][1]["Value"] == b"2" and len(woken["tree"][1]) == 2, woken
    assert set(woken) == {"key", "tree", "keys"}, woken
    assert kv.delete("w/b")
    threads["gone"][0].join(10)
    assert woken["gone"][1] is None and int(woken["gone"][0]) > int(threads["gone"][1]), woken
    tree, _ = kv.get("w/", recurse=True)
    assert int(tree) >= int(woken["gone"][0]), (tree, woken)
    assert kv.put("w/none", "now") and kv.delete("x/", recurse=True)
    for name in ["absent", "other"]:
        threads[name][0].join(10)
    assert woken["absent"][1]["Value"] == b"now" and woken["other"][1] is None, woken
    assert "same" not in woken, woken


def limits(c):
    assert c.kv.put("big", "x" * 524288) is True
    assert len(c.kv.get("big")[1]["Value"]) == 524288
    status, _, body = http("PUT", "kv/big", b"y" * 524289)
    assert status == 413 and b"too large" in body, (status, body)
    assert c.kv.get("big")[1]["Value"][:1] == b"x"
    for method, path, said in [
        ("PUT", "kv/", b"Missing key name"), ("GET", "kv/", b"Missing key name"), ("DELETE", "kv/", b"Missing key name"),
        ("PUT", "kv//a", b"must not begin"), ("PUT", "kv/a?cas=x", b"cas"), ("PUT", "kv/a?flags=-1", b"flags"),
        ("PUT", "kv/a?cas=1&acquire=b", b"Conflicting flags"), ("DELETE", "kv/a?recurse&cas=1", b"Conflicting flags"),
        ("GET", "kv/a?index=x", b"Invalid index"), ("GET", "kv/a?stale&consistent", b"conflicting"),
        ("PUT", "kv/" + "k" * 4097, b"4096"),
    ]:
        status, headers, body = http(method, path)
        assert status == 400 and said in body, (method, path, status, body)
    status, headers, body = http("GET", "kv/none")
    assert (status, body) == (404, b"") and int(headers["X-Consul-Index"]) >= 1
    assert http("PUT", "kv/" + "k" * 4096, b"v")[0] == 200
    assert http("GET", "kv/?recurse&keys")[0] == 200
    status, _, body = http("PUT", "kv/lock?acquire=00000000-0000-0000-0000-000000000000", b"v")
    assert status == 500 and b"invalid session" in body, (status, body)
    assert http("PUT", "kv/lock?release=00000000-0000-0000-0000-000000000000", b"v")[2] == b"false"
    assert http("DELETE", "kv/?recurse")[0] == 200
    assert http("GET", "kv/?recurse")[0] == 404 and http("GET", "kv/?keys")[2] == b"[]"


if __name__ == "__main__":
    client = consul.Consul()
    for step in [values, trees, conditions, blocking, limits]:
        step(client)
        print(f"{step.__name__}: ok", flush=True)
