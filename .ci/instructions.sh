#!/bin/bash
# Counts the instructions that the matcher takes for an event that no policy responds to, and compares them with what is
# committed in benches/instructions. Exit status: 0 if none has risen by more than 5 %, 1 if one has.
#
#   .ci/instructions.sh            compares
#   .ci/instructions.sh --bless    writes what was counted into the file
#
# A count does not depend on how busy the machine is, as a time does. It depends on the compiler, which is named in the file.
set -euo pipefail
cd "$(dirname "$0")/.."

FILE=benches/instructions
POLICIES=(1 10 100 1000)
# Percent.
TOLERANCE=5

bless=false
case ${1-} in
  '') ;;
  --bless) bless=true ;;
  *) echo "usage: $0 [--bless]" >&2; exit 2 ;;
esac

cargo build --quiet --release -p sls-benches --bin miss-path
binary=${CARGO_TARGET_DIR:-target}/release/miss-path
out=$(mktemp)
trap 'rm -f "$out" "$out".*' EXIT

compiler=$(rustc --version)
counted="# Instructions for an event that no policy responds to, by number of policies. \`make bless-instructions\` renews it.
# $compiler"
status=0
fallen=false
for policies in "${POLICIES[@]}"; do
  # Everything but the counted function is run without being counted.
  events=$(valgrind --quiet --tool=callgrind --toggle-collect='*counted_by_callgrind*' --callgrind-out-file="$out" \
    "$binary" "$policies" 2>"$out.log") || { cat "$out.log" >&2; exit 2; }
  total=$(sed -n 's/^\(summary\|totals\): *//p' "$out" | head -1)
  [ "${total:-0}" -gt 0 ] || { echo "instructions: callgrind counted nothing: $(head -3 "$out.log")" >&2; exit 2; }
  each=$((total / events))
  counted+=$'\n'"$policies $each"
  committed=$(sed -n "s/^$policies //p" "$FILE" 2>/dev/null || true)
  if $bless; then
    printf 'instructions: %5d policies: %6d, was %s\n' "$policies" "$each" "${committed:-nothing}"
  elif [ -z "$committed" ]; then
    printf 'instructions: %5d policies: %6d, and %s has no such line\n' "$policies" "$each" "$FILE" >&2
    status=1
  else
    change=$(awk -v new="$each" -v old="$committed" 'BEGIN { printf "%+.1f", (new / old - 1) * 100 }')
    printf 'instructions: %5d policies: %6d, committed %6d, %s %%\n' "$policies" "$each" "$committed" "$change"
    if [ $((each * 100)) -gt $((committed * (100 + TOLERANCE))) ]; then
      status=1
    elif [ $((each * 100)) -lt $((committed * (100 - TOLERANCE))) ]; then
      fallen=true
    fi
  fi
done
if $bless; then
  printf '%s\n' "$counted" >"$FILE"
  exit 0
fi
if [ "$status" != 0 ]; then
  echo "instructions: the matcher takes over $TOLERANCE % more than before. If that is worth it: make bless-instructions" >&2
  committed_by=$(sed -n 's/^# \(rustc .*\)/\1/p' "$FILE" 2>/dev/null || true)
  [ "$committed_by" = "$compiler" ] || echo "instructions: counted with $compiler, committed with ${committed_by:-none}" >&2
fi
if [ "$status" = 0 ] && $fallen; then
  echo "instructions: fewer than committed. So that it stays so: make bless-instructions"
fi
exit "$status"
