# What people do with redis-py's cluster client. It begins at the shared port and goes on at the shards' own.
import sys
from redis.cluster import RedisCluster

port = int(sys.argv[1])
r = RedisCluster(host="127.0.0.1", port=port, decode_responses=True)
nodes = r.get_primaries()
assert len(nodes) == 2 and all(node.port != port for node in nodes), nodes
for n in range(1000):
    assert r.set(f"key:{n}", n)
assert [r.get(f"key:{n}") for n in range(1000)] == [str(n) for n in range(1000)]
assert r.mset_nonatomic({f"m:{n}": n for n in range(100)})
assert r.mget_nonatomic([f"m:{n}" for n in range(100)]) == [str(n) for n in range(100)]
assert r.mset({"{tag}a": 1, "{tag}b": 2}) and r.mget("{tag}a", "{tag}b") == ["1", "2"]
assert r.exists("key:1", "key:2", "nothing") == 2
with r.pipeline() as pipe:
    for n in range(200):
        pipe.incr(f"counter:{n}")
    assert pipe.execute() == [1] * 200
assert r.cluster_keyslot("{user1000}.following") == 3443
assert len(r.cluster_nodes()) == 2
assert r.cluster_info(target_nodes=nodes[0])["cluster_state"] == "ok"
assert r.cluster_countkeysinslot(r.keyslot("key:1")) >= 1
assert {r.cluster_myid(node) for node in nodes} == set(
    node["node_id"] for node in r.cluster_nodes().values()
)
assert sum(1 for key in r.scan_iter(match="key:*")) >= 1000
assert r.ping(target_nodes=RedisCluster.ALL_NODES)
assert r.flushall(target_nodes=RedisCluster.PRIMARIES)
assert r.get("key:1") is None
