#!/bin/bash
# Builds the fuzz targets and runs each for some seconds. Exit status: 0 without a finding, 1 with one.
#
#   .ci/fuzz.sh [-t SECONDS] [TARGET…]      default: 10 s for every target of fuzz/Cargo.toml
#   .ci/fuzz.sh TARGET FILE…                a target on such files only: a finding
#   .ci/fuzz.sh -m [TARGET…]                commits to what was found: adds the inputs with most coverage to fuzz/seeds
#   .ci/fuzz.sh -c [TARGET…]                what seeds and corpus cover; of all targets, renews the table in docs/fuzzing.md
#
# A run starts from fuzz/seeds/TARGET (committed) and fuzz/corpus/TARGET (what earlier runs found on this machine), and adds a
# line to fuzz/corpus/runs.tsv. A finding is written to fuzz/artifacts/TARGET.
#
# This is what cargo-fuzz does, without having to build it: coverage counters by stable compiler flags, and the address
# sanitizer, which the stable toolchain contains but asks for RUSTC_BOOTSTRAP to switch on. SLS_FUZZ_SANITIZER=none
# leaves it off.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
FUZZ=$ROOT/fuzz
RUNS=$FUZZ/corpus/runs.tsv
SECONDS_EACH=10
SANITIZER=${SLS_FUZZ_SANITIZER:-address}
# What libFuzzer may do before it counts as a finding: one input may take 10 s (a machine can be busy), the process 1 GiB.
# Its own record of rare features costs more than the slow targets do, so it is off.
LIMITS=(-timeout=10 -rss_limit_mb=1024 -entropic=0)
# Of each target, what is committed of the inputs that were found.
MOST_SEEDS=32
MOST_SEED_BYTES=2048

mode=run
while getopts t:mc option; do
  case $option in
    t) SECONDS_EACH=$OPTARG ;;
    m) mode=minimise ;;
    c) mode=coverage ;;
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
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done

# build DIRECTORY FLAG…
build() {
  local directory=$1
  shift
  # With --target, build scripts and macros are built without the flags.
  RUSTFLAGS="--cfg fuzzing $*" cargo build --quiet --release --manifest-path "$FUZZ/Cargo.toml" \
    --target-dir "$directory" --target "$host" "${bins[@]}"
  built=$directory/$host/release
}

# libFuzzer prints the stack itself, and the panic's message must not scroll away.
export RUST_BACKTRACE=0
scratch=$(mktemp -d)
# The targets that need files have them in memory.
shared=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch" "$shared"' EXIT
export TMPDIR=$shared

counters=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares)

fuzz() {
  local target log status runs coverage start
  log=$scratch/log
  if [ "$SANITIZER" != none ]; then
    counters+=("-Zsanitizer=$SANITIZER")
    export RUSTC_BOOTSTRAP=1
  fi
  build "$FUZZ/target" "${counters[@]}"
  for target in "${targets[@]}"; do
    if [ ${#files[@]} -gt 0 ]; then
      "$built/$target" "${LIMITS[@]}" "${files[@]}"
      continue
    fi
    local seeds=$FUZZ/seeds/$target corpus=$FUZZ/corpus/$target artifacts=$FUZZ/artifacts/$target
    compgen -G "$seeds/*" >/dev/null || { echo "fuzz: no seed in $seeds" >&2; exit 2; }
    mkdir -p "$corpus" "$artifacts"
    if [ $mode = minimise ]; then
      minimise "$target" "$seeds" "$corpus"
      continue
    fi
    local options=()
    [ ! -e "$FUZZ/dictionaries/$target" ] || options+=("-dict=$FUZZ/dictionaries/$target")
    start=$SECONDS status=0
    "$built/$target" "${LIMITS[@]}" "${options[@]}" -max_total_time="$SECONDS_EACH" -print_final_stats=1 \
      -artifact_prefix="$artifacts/" "$corpus" "$seeds" >"$log" 2>&1 || status=1
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    printf '%s\t%s\t%s\t%s\n' "$target" $((SECONDS - start)) "${runs:-0}" "$status" >>"$RUNS"
    if [ $status -ne 0 ]; then
      grep -am5 -A3 'panicked at' "$log" || true
      tail -60 "$log"
      echo "fuzz: $target: FINDING, see $artifacts" >&2
      exit 1
    fi
    printf 'fuzz: %-19s no finding in %s s, %s runs, %s edges\n' "$target" "$SECONDS_EACH" "$runs" "$coverage"
  done
}

# minimise TARGET SEEDS CORPUS: those that together cover what all do, the best first, and of these what is small.
minimise() {
  local merged=$scratch/merged file name added=0
  rm -rf "$merged"
  mkdir "$merged"
  "$built/$1" -timeout=10 -rss_limit_mb=2048 -set_cover_merge=1 "$merged" "$2" "$3" >"$scratch/log" 2>&1
  rm -f "$2"/found-*
  while read -r file; do
    name=found-$(sha1sum <"$file" | cut -c1-12)
    cmp -s "$file" "$2/$name" || cp "$file" "$2/$name"
    added=$((added + 1))
  done < <(find "$merged" -type f -size "-${MOST_SEED_BYTES}c" -printf '%s %p\n' | sort -rn | head -n $MOST_SEEDS | cut -d' ' -f2-)
  printf 'fuzz: %-19s %s inputs in %s bytes added to the seeds\n' "$1" "$added" \
    "$(cat "$2"/found-* 2>/dev/null | wc -c)"
}

coverage() {
  local tools target about sources profile report executions seconds findings
  tools=$(rustc --print sysroot)/lib/rustlib/$host/bin
  [ -x "$tools/llvm-cov" ] || { echo "fuzz: coverage needs: rustup component add llvm-tools" >&2; exit 2; }
  # libFuzzer takes its own counters for what it needs to run; without the sanitizer the numbers are those of the code.
  build "$FUZZ/target/coverage" "${counters[@]:0:4}" -Cinstrument-coverage
  {
    echo '| target | attacks | fuzzed | executions | regions | lines | findings open |'
    echo '|---|---|---|---|---|---|---|'
    for target in "${targets[@]}"; do
      profile=$scratch/$target
      mkdir -p "$FUZZ/corpus/$target"
      LLVM_PROFILE_FILE=$profile.raw "$built/$target" -runs=0 "$FUZZ/corpus/$target" "$FUZZ/seeds/$target" >"$scratch/log" 2>&1 ||
        { tail -20 "$scratch/log" >&2; echo "fuzz: $target fails on its corpus" >&2; exit 1; }
      "$tools/llvm-profdata" merge -sparse "$profile.raw" -o "$profile.data"
      IFS=$'\t' read -r _ about sources < <(grep -P "^$target\t" "$FUZZ/targets.tsv")
      mapfile -t files < <(cd "$ROOT" && for source in $sources; do
        [ ! -e "$source" ] || find "$PWD/$source" -name '*.rs'
      done)
      report=$("$tools/llvm-cov" report "$built/$target" -instr-profile="$profile.data" "${files[@]}" | awk '
        $1 == "TOTAL" { printf "%d of %d (%s) | %d of %d (%s)", $2 - $3, $2, $4, $8 - $9, $8, $10 }')
      read -r seconds executions findings < <(awk -F'\t' -v target="$target" \
        '$1 == target { s += $2; runs += $3 } END { print s + 0, runs + 0, 0 }' "$RUNS" 2>/dev/null || echo 0 0 0)
      findings=$(find "$FUZZ/artifacts/$target" -type f 2>/dev/null | wc -l)
      echo "| \`$target\` | $about | $seconds s | $executions | $report | $findings |"
    done
  } | tee "$scratch/table"
  [ ${#targets[@]} -eq ${#ALL[@]} ] || return 0
  sed -i -e '/^<!-- targets:/,/^<!-- end of targets/{/^|/d}' -e "/^<!-- targets:/r $scratch/table" "$ROOT/docs/fuzzing.md"
}

mkdir -p "$FUZZ/corpus"
case $mode in
  run | minimise) fuzz ;;
  coverage) coverage ;;
esac
