#!/bin/sh
# CPU of `catena proxy` for each request it passes on, over that of the engine's echo, taking turns.
# Proxy or echo on core 0; the generator, and the servers behind the proxy, on core 1.
#
#   cargo build --release && benches/proxy.sh [ROUNDS [SERVERS [proxy's options …]]]
#   SIZE=1024 benches/proxy.sh 5 1 --copy-max 0
set -eu
bin=$(dirname "$0")/../target/release
for program in catena catena-bench; do
    [ -x "$bin/$program" ] || { echo "$0: $bin/$program is missing; cargo build --release" >&2; exit 1; }
done
rounds=${1:-5}; servers=${2:-1}
[ $# -ge 2 ] && shift 2 || shift $#
dir=$(mktemp -d); pids=
end() { [ -z "$pids" ] || { kill $pids; wait $pids; } 2>/dev/null || true; pids=; }
trap 'end; rm -r "$dir"' EXIT

# start NAME COMMAND…: leaves its pid in $pid and its address in $address.
start() {
    name=$1; shift; : >"$dir/$name"
    "$@" >"$dir/$name" 2>/dev/null & pid=$!; pids="$pids $pid"
    until address=$(sed -n 's/^listening on //p' "$dir/$name") && [ -n "$address" ]; do sleep 0.05; done
}

cpu_ns() { cat /proc/"$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

# Prints µs of the process $pid for each request that is answered at $address.
measure() {
    before=$(cpu_ns "$pid")
    "$bin/catena-bench" run "catena://$address" -c "${CONNS:-32}" -n "${DEPTH:-16}" -s "${SIZE:-32}" \
        -d "${LASTS:-2s}" --warmup 1ms --cores 1 --json "$dir/report" >/dev/null 2>&1
    after=$(cpu_ns "$pid")
    ok=$(sed -n 's/^ *"ok": \([0-9]*\),*$/\1/p' "$dir/report")
    awk "BEGIN { printf \"%.3f\", ($after - $before) / 1000 / $ok }"
}

echo_cpu() { start echo "$bin/catena-bench" serve -p 0 --cores 0 --poll never; echo=$(measure); end; }

proxy_cpu() {
    upstreams=
    for n in $(seq "$servers"); do
        start "server$n" "$bin/catena-bench" serve -p 0 --cores 1 --poll never
        upstreams="$upstreams --upstream $address"
    done
    start proxy "$bin/catena" proxy --listen 0 --cpus 0 --poll never $upstreams "$@"
    proxy=$(measure); end
}

for round in $(seq "$rounds"); do
    if [ $((round % 2)) = 1 ]; then echo_cpu; proxy_cpu "$@"; else proxy_cpu "$@"; echo_cpu; fi
    ratio=$(awk "BEGIN { printf \"%.2f\", $proxy / $echo }")
    echo "$ratio" >>"$dir/ratios"
    echo "round $round: echo $echo µs, proxy $proxy µs a request: $ratio"
done
sort -n "$dir/ratios" | awk '{ r[NR] = $1 } END { printf "median ratio %.2f\n", (r[int((NR + 1) / 2)] + r[int(NR / 2) + 1]) / 2 }'
