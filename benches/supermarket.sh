#!/bin/sh
# The simulator against the closed form of the supermarket model (Mitzenmacher 1996): the mean time
# that calls take with the shortest of D queues drawn, each line a load. Near saturation 1,000 servers are
# too few to be as good as infinitely many, and D = 1 needs minutes to settle.
#
#   cargo build --release && benches/supermarket.sh [SEED]
set -eu
bench=$(dirname "$0")/../target/release/catena-bench
[ -x "$bench" ] || { echo "$0: $bench is missing; cargo build --release" >&2; exit 1; }
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT

# The sum of load^((D^i - D) / (D - 1)).
closed_form() {
    awk -v d="$1" -v load="$2" 'BEGIN {
        for (i = 1; i < 20000; i++) {
            exponent = d == 1 ? i - 1 : (d ^ i - d) / (d - 1)
            term = exponent > 1e6 ? 0 : load ^ exponent
            if (term < 1e-13) break
            sum += term
        }
        print sum }'
}

printf '%s\t%s\t%s\t%s\t%s\t%s\n' D load servers simulated 'closed form' off
while read -r choices load servers warmup measured; do
    cat >"$dir/scenario.toml" <<TOML
about = ""
duration = "$((warmup + measured))ms"
warmup = "${warmup}ms"
rate = $(awk "BEGIN { printf \"%.0f\", $load * $servers * 1000 }")
[[servers]]
count = $servers
model = "queue"
time = "exp:1ms"
TOML
    "$bench" balance --sim --scenario "$dir/scenario.toml" --policy "ll:$choices" \
        --seed "${1:-1}" --json "$dir/report" >/dev/null
    mean=$(sed -n 's/^ *"mean": \([0-9.]*\),$/\1/p' "$dir/report" | head -n 1)
    form=$(closed_form "$choices" "$load")
    awk -v line="$choices	$load	$servers" -v mean="$mean" -v form="$form" 'BEGIN {
        printf "%s\t%.4f\t%.4f\t%+.2f %%\n", line, mean / 1000, form, (mean / 1000 / form - 1) * 100 }'
done <<END
1 0.5 1000 50 400
2 0.5 1000 20 200
3 0.5 1000 20 200
1 0.7 1000 100 800
2 0.7 1000 30 200
3 0.7 1000 30 200
1 0.8 1000 300 1000
2 0.8 1000 50 250
3 0.8 1000 50 250
1 0.9 1000 1000 2000
2 0.9 1000 100 300
3 0.9 1000 100 300
1 0.95 1000 5000 13000
2 0.95 1000 250 500
3 0.95 1000 250 500
2 0.99 10000 300 500
3 0.99 10000 300 500
1 0.99 1000 60000 80000
END
