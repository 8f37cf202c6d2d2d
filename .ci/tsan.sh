#!/bin/bash
# Runs tests of the pipeline's threads, and the sensor itself, built with the thread sanitizer. Exit status: 0 without a data
# race, 1 with one.
#
#   .ci/tsan.sh [build]        as root; `build` only builds
#
# It takes the nightly toolchain with rust-src, because the standard library has to be built with the sanitizer, too, and some
# 4 GiB in target/tsan. libbpf is C and is not built with it: it is called by one thread at a time, and what it reads and
# writes in between is the kernel's. What Rust shares between threads is all built with it.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${SLS_NIGHTLY:-nightly}
if ! rustc "+$toolchain" -V >/dev/null 2>&1 || [ ! -e "$(rustc "+$toolchain" --print sysroot)/lib/rustlib/src" ]; then
  echo "tsan: skipped: it takes \`rustup toolchain install $toolchain --component rust-src\`" >&2
  exit 0
fi
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=$PWD/target/tsan CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer'
# The first race ends the process with a status of its own; what happens in a child is seen as well.
export TSAN_OPTIONS="suppressions=$PWD/.ci/tsan-suppressions halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
cargo=(cargo "+$toolchain")
flags=(--target "$host" -Zbuild-std)

"${cargo[@]}" build --quiet "${flags[@]}" -p sls-cli
# Where threads meet: a matcher that is replaced while it is used, responders and their threads, the probe with its
# worker, resolver and fanotify threads, and the daemon as a whole.
tests=(
  "-p sls-core --lib -- reload trigger matcher:: engine"
  "-p sls-actions --lib --test process --test container --test file"
  "-p sls-probe --lib"
  "-p sls-probe --test fanotify --test containers"
  "-p sls-cli --test run"
)
[ "${1:-}" != build ] || exit 0
for arguments in "${tests[@]}"; do
  echo "tsan: $arguments"
done
