#!/bin/sh
# `catena serve` beside `redis-server`, taking turns: server on core 0, redis-benchmark on core 1.
#
#   cargo build --release && benches/store.sh WHAT [ROUNDS [catena serve's options …]]
#
#   cpu         CPU time a request, and the rate, of SET and GET in memory, at depth 1 and 16
#   sync        the same of SET, each acknowledged when it is on the disk (Redis: appendfsync always)
#   bytes       memory for each of a million keys of 16 bytes with values of 32
#   recovery    from the start of a server that was killed to its first answer, and its memory then
#   checkpoint  the 99.9th percentile of GET while checkpoints are taken, one after the other, and without
#
# CPU time is that of the server's process, kernel included, for each request that was answered. KEYS sets how
# many keys there are (a million), DIR where files go (a new directory under TMPDIR).
set -eu
bin=$(dirname "$0")/../target/release/catena
[ -x "$bin" ] || { echo "$0: $bin is missing; cargo build --release" >&2; exit 1; }
for program in redis-server redis-benchmark redis-cli; do
    command -v $program >/dev/null || { echo "$0: $program is not installed" >&2; exit 1; }
done
what=${1:-}; rounds=${2:-3}; keys=${KEYS:-1000000}
[ $# -ge 2 ] && shift 2 || shift $#
dir=$(mktemp -d ${DIR:+-p "$DIR"}); pid=
end() { [ -z "$pid" ] || { kill "$pid"; wait "$pid"; } 2>/dev/null || true; pid=; }
trap 'end; rm -r "$dir"' EXIT

cpu_ns() { cat /proc/"$pid"/task/*/schedstat 2>/dev/null | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

# start_redis|start_catena OPTION…: leaves $pid, and $port where it serves.
start_redis() {
    port=$((20000 + $$ % 20000))
    taskset -c 0 redis-server --port $port --save '' --dir "$dir" --logfile /dev/null "$@" >/dev/null & pid=$!
    until redis-cli -p $port ping >/dev/null 2>&1; do sleep 0.05; done
}
start_catena() {
    : >"$dir/said"
    taskset -c 0 "$bin" serve --listen 0 --cpus 0 "$@" >"$dir/said" 2>/dev/null & pid=$!
    until port=$(sed -n 's/^listening on .*:\([0-9]*\) .*/\1/p' "$dir/said") && [ -n "$port" ]; do sleep 0.02; done
    until redis-cli -p "$port" dbsize 2>/dev/null | grep -q '^[0-9]'; do sleep 0.02; done
}

# load NAME TEST DEPTH REQUESTS: a line, and "NAME TEST DEPTH µs rate p99" into $dir/figures.
load() {
    before=$(cpu_ns)
    csv=$(taskset -c 1 redis-benchmark -p "$port" -c 32 -P "$3" -d 32 -r "$keys" -n "$4" -t "$2" --csv | tail -1 | tr -d '"')
    after=$(cpu_ns)
    echo "$csv" | awk -F, -v name="$1" -v depth="$3" -v ns=$((after - before)) -v n="$4" -v out="$dir/figures" '{
        printf "%-7s %s depth %-2d  %6.3f µs CPU a request  %9.0f/s  p50 %.3f ms  p99 %.3f ms\n", name, $1, depth, ns / 1000 / n, $2, $5, $7
        printf "%s %s %d %.4f %.0f %.3f\n", name, $1, depth, ns / 1000 / n, $2, $7 >>out
    }'
}

# The medians of all rounds, and the ratio of Catena's to Redis'.
medians() {
    sort "$dir/figures" | awk '
        function median(list, n,   i, j, t, v) {
            split(list, v, " ")
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
            return (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2
        }
        { k = $2 " depth " $3; names[k]; count[$1, k]++; cpu[$1, k] = cpu[$1, k] " " $4; rate[$1, k] = rate[$1, k] " " $5; p99[$1, k] = p99[$1, k] " " $6 }
        END { for (k in names) {
            n = count["catena", k]; m = count["redis", k]
            printf "median  %s: CPU %.2f, rate %.2f, p99 %.2f of that of Redis\n", k,
                median(cpu["catena", k], n) / median(cpu["redis", k], m),
                median(rate["catena", k], n) / median(rate["redis", k], m),
                median(p99["catena", k], n) / median(p99["redis", k], m)
        } }' | sort
}

in_turn() { if [ $(($1 % 2)) = 1 ]; then echo redis catena; else echo catena redis; fi; }

bench_cpu() {
    for round in $(seq "$rounds"); do for name in $(in_turn "$round"); do
        case $name in redis) start_redis --appendonly no ;; catena) start_catena "$@" ;; esac
        # All keys are there before anything is measured.
        taskset -c 1 redis-benchmark -p "$port" -c 32 -P 64 -d 32 -r "$keys" -n $((4 * keys)) -t set -q >/dev/null
        for depth in 1 16; do for test in set get; do load $name $test $depth $((depth * 250000)); done; done
        end
    done; done
    medians
}

bench_sync() {
    for round in $(seq "$rounds"); do for name in $(in_turn "$round"); do
        mkdir "$dir/data"
        case $name in
            redis) start_redis --dir "$dir/data" --appendonly yes --appendfsync always ;;
            catena) start_catena --dir "$dir/data/store" "$@" ;;
        esac
        load $name set 1 60000
        load $name set 16 1500000
        end; rm -r "$dir/data"
    done; done
    medians
    if command -v fio >/dev/null; then
        fio --name=bare --filename="$dir/bare" --size=64m --bs=4k --rw=write --direct=1 --fdatasync=1 --time_based \
            --runtime=5 --ioengine=psync --output-format=json >"$dir/fio"
        awk '/"write" :/ { w = 1 } /"sync" :/ { s = 1 } w && !s && /"99.000000"/ { gsub(/[^0-9]/, "", $3); write = $3 }
             s && /"99.000000"/ { gsub(/[^0-9]/, "", $3); sync = $3; exit }
             END { printf "bare    write of 4 KiB p99 %.3f ms, then fdatasync p99 %.3f ms\n", write / 1e6, sync / 1e6 }' "$dir/fio"
    fi
}

resident_kib() { awk '/^Rss:/ { print $2 }' /proc/"$pid"/smaps_rollup; }

# fill NAME: $keys keys of 16 bytes, values of 32, each set once.
fill() {
    awk -v keys="$keys" 'BEGIN { for (i = 0; i < keys; i++)
        printf "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$32\r\n%032d\r\n", i, i }' | redis-cli -p "$port" --pipe >/dev/null
    [ "$(redis-cli -p "$port" dbsize)" -ge "$keys" ] || { echo "$0: not all keys are there" >&2; exit 1; }
}

bench_bytes() {
    for round in $(seq "$rounds"); do for name in $(in_turn "$round"); do
        case $name in redis) start_redis --appendonly no ;; catena) start_catena "$@" ;; esac
        before=$(resident_kib); fill; after=$(resident_kib)
        used=$(redis-cli -p "$port" info memory | tr -d '\r' | sed -n 's/^used_memory://p')
        echo "$name $keys $before $after $used" | tee -a "$dir/figures" | awk '{
            printf "%-7s %d keys: %.1f B resident a key, used_memory %.1f B a key\n", $1, $2, ($4 - $3) * 1024 / $2, $5 / $2 }'
        end
    done; done
    awk '{ sum[$1] += $4 - $3 } END { printf "ratio   %.2f of the memory of Redis\n", sum["catena"] / sum["redis"] }' "$dir/figures"
}

bench_recovery() {
    for round in $(seq "$rounds"); do
        mkdir "$dir/data"
        start_catena --dir "$dir/data/store" "$@"
        fill; redis-cli -p "$port" bgsave >/dev/null
        until ls "$dir"/data/store/gen-1/shard-*/checkpoint-1 >/dev/null 2>&1; do sleep 0.05; done
        # A tenth of the keys once more, so that there is a log behind the checkpoint.
        taskset -c 1 redis-benchmark -p "$port" -c 8 -P 64 -d 32 -r $((keys / 10)) -n $((keys / 10)) -t set -q >/dev/null
        kill -9 "$pid"; wait "$pid" 2>/dev/null || true
        began=$(date +%s%N)
        start_catena --dir "$dir/data/store" "$@"
        ended=$(date +%s%N); there=$(redis-cli -p "$port" dbsize); held=$(resident_kib)
        used=$(redis-cli -p "$port" info memory | tr -d '\r' | sed -n 's/^used_memory://p')
        echo "$((ended - began)) $there $held $used" | awk '{
            printf "recovery  %d keys in %.2f s: %.2f million a second; %.1f MiB resident, %.2f of the %.1f MiB that keys take\n",
                $2, $1 / 1e9, $2 / $1 * 1000, $3 / 1024, $3 * 1024 / $4, $4 / 1048576 }'
        sed -n 's/^serving/          serving/p' "$dir/said"
        end; rm -r "$dir/data"
    done
}

# The 99.9th percentile of GET in ms.
p999() {
    taskset -c 1 redis-benchmark -p "$port" -c 32 -P 1 -d 32 -r "$keys" -n 400000 -t get |
        awk '/percentile distribution/ { p = 1 } /Cumulative distribution/ { p = 0 } p && $1 ~ /%$/ && $1 + 0 >= 99.9 && !found { print $3; found = 1 }'
}

bench_checkpoint() {
    mkdir "$dir/data"
    start_catena --dir "$dir/data/store" "$@"
    fill; p999 >/dev/null
    for round in $(seq "$rounds"); do
        without=$(p999)
        number() { ls "$dir"/data/store/gen-1/shard-0/ | sed -n 's/^checkpoint-\([0-9]*\)$/\1/p' | sort -n | tail -1; }
        first=$(number)
        # One process that hardly runs: what starts anew each time would take the cores from who is measured.
        nice taskset -c 1 redis-cli -p "$port" -r -1 -i 0.1 bgsave >/dev/null & asks=$!
        with=$(p999)
        kill $asks; wait $asks 2>/dev/null || true
        echo "${with:-0} ${without:-0} $(($(number) - ${first:-0}))" | tee -a "$dir/figures" | awk '{
            printf "GET p99.9 %.3f ms while %d checkpoints were taken, %.3f ms without: %.2f\n", $1, $3, $2, $1 / $2 }'
    done
    sort -n "$dir/figures" | awk '{ r[NR] = $1 / $2 } END { n = asort_(r, NR); printf "median ratio %.2f\n", (r[int((n + 1) / 2)] + r[int(n / 2) + 1]) / 2 }
        function asort_(v, n,   i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t } return n }'
    end
}

case $what in
    cpu | sync | bytes | recovery | checkpoint) bench_$what "$@" ;;
    *) sed -n '2,14p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
