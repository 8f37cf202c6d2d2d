#!/bin/bash
# Runs the smoke checks under each kernel and prints a table. Exit status: 0 if all are good, 1 if not, 2 if it cannot run.
#
#   .ci/lab/smoke.sh [SERIES…]      default: the whole matrix
#
# What is checked are the binaries that are built: `make vm-smoke` and `make vm-test` build them first.
set -euo pipefail

SERIES=(5.10 6.1 6.12 6.18 7.3)
# Each check: a name, and the command line, which runs as root in a guest of its own, so that a panic costs no other
# check its result. TARGET/ stands for the directory that cargo built the newest of the binaries into, in every word.
CHECKS=(
  "probe     TARGET/examples/probe_smoke"
  "kill      .ci/lab/kill.sh TARGET/sls"
)

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
LOGS=$TARGET/lab
TIMEOUT=240
[ $# -eq 0 ] || SERIES=("$@")

# binary PATH: the newest of the debug and the release build.
binary() {
  { find "$TARGET"/{debug,release}/"${1#TARGET/}" -maxdepth 0 -printf '%T@ %p\n' 2>/dev/null || true; } |
    sort -n | tail -1 | sed 's/^[^ ]* //'
}

"$ROOT/.ci/lab/fetch-kernels.sh" "${SERIES[@]}"
mkdir -p "$LOGS"
cd "$ROOT"
rows=() failed=0
for series in "${SERIES[@]}"; do
  for check in "${CHECKS[@]}"; do
    read -r name words <<<"$check"
    command=()
    for word in $words; do
      case $word in
        TARGET/*)
          path=$(binary "$word")
          [ -n "$path" ] || { echo "smoke: $word is not built" >&2; exit 2; }
          command+=("$path")
          ;;
        *) command+=("$word") ;;
      esac
    done
    log=$LOGS/$series-$name
    started=$EPOCHREALTIME status=0
    "$ROOT/.ci/lab/vm-run.sh" -k "$series" -s "$ROOT" -t "$TIMEOUT" -l "$log.console" -- "${command[@]}" \
      >"$log.log" 2>&1 || status=$?
    seconds=$(awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }')
    case $status in
      0) result=good ;;
      124) result='TIME-OUT' ;;
      125) result='NO ANSWER' ;;
      *) result="FAILED ($status)" ;;
    esac
    [ "$status" = 0 ] || { failed=1; echo "--- $series $name ($log.log):"; tail -40 "$log.log"; }
    rows+=("$(printf '%-8s %-12s %-12s %6s s' "$series" "$name" "$result" "$seconds")")
  done
done
printf '\n%-8s %-12s %-12s %8s\n' kernel check result time
printf '%s\n' "${rows[@]}"
exit $failed
