#!/bin/bash
# Runs unit tests of sls-core under Miri, isolated from the machine.
#
#   .ci/miri.sh [FILTER…]      default: the modules below
#
# Miri takes some hundred times as long as the processor. What loads policies compiles regular expressions, which takes
# minutes a test, so the modules are those that work on bytes and tables themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${SLS_NIGHTLY:-nightly}
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
  echo "miri: skipped: it takes \`rustup toolchain install $toolchain --component miri --component rust-src\`" >&2
  exit 0
fi
if [ $# = 0 ]; then
  set -- action:: alert:: bytes:: enforcement:: event:: event_clock:: matcher::candidates matcher::edges matcher::grams \
    matcher::hash matcher::ranges matcher::regexes::tests::counts_bytes
fi
# Two cases of each property; proptest asks where it is to keep failures, and is told that there is no such place.
export MIRIFLAGS="-Zmiri-isolation-error=hide -Zmiri-env-set=PROPTEST_CASES=2 ${MIRIFLAGS:-}"
cargo "+$toolchain" miri test --target-dir target/miri -p sls-core --lib -- "$@"
