#!/bin/bash
# Builds the fuzz targets and runs each for some seconds. Exit status: 0 without a finding, 1 with one.
#
#   .ci/fuzz.sh [-t SECONDS] [TARGET…]      default: 10 s for every target of fuzz/Cargo.toml
#
# A run starts from fuzz/seeds/TARGET (committed) and fuzz/corpus/TARGET (what earlier runs found on this machine).
# A finding is written to fuzz/artifacts/TARGET: `.ci/fuzz.sh TARGET FILE…` runs a target on such files only.
#
# This is what cargo-fuzz does, without having to build it: coverage counters by stable compiler flags, and the address
# sanitizer, which the stable toolchain contains but asks for RUSTC_BOOTSTRAP to switch on. SLS_FUZZ_SANITIZER=none
# leaves it off.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
FUZZ=$ROOT/fuzz
SECONDS_EACH=10
SANITIZER=${SLS_FUZZ_SANITIZER:-address}
# What libFuzzer may do before it counts as a finding: one input may take 5 s, the process 1 GiB.
LIMITS=(-timeout=5 -rss_limit_mb=1024)

while getopts t: option; do
  case $option in
    t) SECONDS_EACH=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

mapfile -t ALL < <(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"/\1/p' "$FUZZ/Cargo.toml")
targets=() files=()
for argument; do
  if [ -e "$argument" ]; then files+=("$argument"); else targets+=("$argument"); fi
done
[ ${#targets[@]} -gt 0 ] || targets=("${ALL[@]}")
[ ${#targets[@]} -gt 0 ] || { echo "fuzz: no targets in $FUZZ/Cargo.toml" >&2; exit 2; }

host=$(rustc -vV | sed -n 's/^host: //p')
flags=(--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares)
if [ "$SANITIZER" != none ]; then
  flags+=("-Zsanitizer=$SANITIZER")
  export RUSTC_BOOTSTRAP=1
fi
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
# With --target, build scripts and macros are built without the flags.
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --manifest-path "$FUZZ/Cargo.toml" \
  --target-dir "$FUZZ/target" --target "$host" "${bins[@]}"

# libFuzzer prints the stack itself, and the panic's message must not scroll away.
export RUST_BACKTRACE=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
  binary=$FUZZ/target/$host/release/$target
  if [ ${#files[@]} -gt 0 ]; then
    "$binary" "${LIMITS[@]}" "${files[@]}"
    continue
  fi
  seeds=$FUZZ/seeds/$target corpus=$FUZZ/corpus/$target artifacts=$FUZZ/artifacts/$target
  compgen -G "$seeds/*" >/dev/null || { echo "fuzz: no seed in $seeds" >&2; exit 2; }
  mkdir -p "$corpus" "$artifacts"
  options=()
  [ ! -e "$FUZZ/dictionaries/$target" ] || options+=("-dict=$FUZZ/dictionaries/$target")
  if ! "$binary" "${LIMITS[@]}" "${options[@]}" -max_total_time="$SECONDS_EACH" -print_final_stats=1 \
    -artifact_prefix="$artifacts/" "$corpus" "$seeds" >"$log" 2>&1; then
    grep -am5 -A3 'panicked at' "$log" || true
    tail -60 "$log"
    echo "fuzz: $target: FINDING, see $artifacts" >&2
    exit 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  printf 'fuzz: %-10s no finding in %s s, %s runs, %s edges\n' "$target" "$SECONDS_EACH" "$runs" "$coverage"
done
