# What people do with redis-py's single client.
import sys
import redis

port = int(sys.argv[1])
r = redis.Redis(port=port, decode_responses=True, client_name="single")
assert r.ping()
assert r.client_getname() == "single"
assert r.set("a", "1") is True
assert r.get("a") == "1"
assert r.set("a", "2", nx=True) is None
assert r.set("a", "2", xx=True, get=True, ex=1000) == "1"
assert 0 < r.ttl("a") <= 1000
assert r.incrby("a", 40) == 42
assert r.incrbyfloat("a", 0.5) == 42.5
assert r.append("text", "hello") == 5 and r.getrange("text", 1, 3) == "ell"
assert r.mset({"{m}1": "x", "{m}2": "y"}) and r.mget("{m}1", "{m}2", "{m}3") == ["x", "y", None]
assert r.exists("a") == 1 and r.delete("a") == 1 and r.get("a") is None
assert r.type("text") == "string"
assert r.expire("text", 100) is True and r.persist("text") is True
try:
    r.execute_command("INCR", "text")
    raise AssertionError("a text was incremented")
except redis.ResponseError as error:
    assert str(error) == "value is not an integer or out of range", error

with r.pipeline(transaction=False) as pipe:
    for n in range(1000):
        pipe.set(f"key:{n}", n)
        pipe.get(f"key:{n}")
    answers = pipe.execute()
assert answers == [x for n in range(1000) for x in (True, str(n))]

assert set(r.scan_iter(match="key:*", count=100)) == {f"key:{n}" for n in range(1000)}
assert len(r.keys("key:1*")) == 111
assert r.dbsize() == 1003
assert r.randomkey() is not None
info = r.info()
assert info["redis_version"] == "7.0.15" and info["role"] == "master", info
assert info["cluster_enabled"] == 1 and info["connected_clients"] >= 1
assert r.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
assert r.config_set("slowlog-max-len", 50) and r.config_get("slowlog-max-len") == {"slowlog-max-len": "50"}
assert any(client["name"] == "single" for client in r.client_list())
assert r.client_info()["name"] == "single" and r.client_id() > 0
assert r.command_count() == len(r.command())
assert r.command()["mset"]["step_count"] == 2
assert r.command_getkeys("MSET", "a", "1", "b", "2") == ["a", "b"]
assert isinstance(r.time()[0], int)
assert r.slowlog_len() >= 0 and isinstance(r.slowlog_get(), list)
assert r.wait(0, 0) == 0
assert r.memory_usage("text") > 0
assert r.echo("binary \x00") == "binary \x00"
assert r.flushall() and r.dbsize() == 0

binary = redis.Redis(port=port)
value = bytes(range(256)) * 4096
assert binary.set(b"\x00\xff", value) and binary.get(b"\x00\xff") == value

if int(redis.__version__.split(".")[0]) >= 5:
    r = redis.Redis(port=port, protocol=3, decode_responses=True)
    assert r.set("a", "1") and r.get("a") == "1"
    assert r.config_get("appendonly") == {"appendonly": "no"}
else:
    print("skipped: redis-py", redis.__version__, "speaks no RESP3")
