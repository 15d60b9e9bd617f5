#!/usr/bin/env bash
# Instructions of each hot path, counted by callgrind: for one binary always the same number, whatever
# else the machine is doing. Each path runs 1,000 and 2,000 times; the difference is the path alone.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "skipped: valgrind is not installed"; exit 0; }
program=$(cargo bench --bench instructions --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p' | tail -1)
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
printf '%-16s %12s\n' path 'instr/op'
"$program" | while read -r name operations; do
    few=$(count "$name" 1000)
    many=$(count "$name" 2000)
    awk -v name="$name" -v delta=$((many - few)) -v operations="$operations" \
        'BEGIN { printf "%-16s %12.1f\n", name, delta / 1000 / operations }'
done
