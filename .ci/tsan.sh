#!/bin/bash
# Builds the sensor with the thread sanitizer and has it do what its threads do: events, actions and their confirmation,
# outputs, held operations, name resolution, containers, reloads. Exit status: 0 without a report of the sanitizer, 1 with one.
#
#   .ci/tsan.sh [SECONDS]        as root; default 20
#
# It takes the nightly toolchain with rust-src, because the standard library has to be built with the sanitizer, too, and some
# 2 GiB in target/tsan, which can be removed afterwards. libbpf is C and is not built with it: what it does between two calls is
# not seen. .ci/tsan-suppressions names what is reported although it is none, each with its reason.
set -euo pipefail
cd "$(dirname "$0")/.."

toolchain=${SLS_NIGHTLY:-nightly}
if ! sysroot=$(rustc "+$toolchain" --print sysroot 2>/dev/null) || [ ! -e "$sysroot/lib/rustlib/src/rust/library" ]; then
  echo "tsan: skipped: it takes \`rustup toolchain install $toolchain --component rust-src\`" >&2
  exit 0
fi
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer' CARGO_INCREMENTAL=0 \
  CARGO_PROFILE_DEV_DEBUG=line-tables-only \
  cargo "+$toolchain" build --quiet --target-dir target/tsan --target "$host" -Zbuild-std -p sls-cli
sls=$PWD/target/tsan/$host/debug/sls

scratch=$(mktemp -d)
sensor=
trap '[ -z "$sensor" ] || kill -KILL "$sensor" 2>/dev/null || true; rm -rf "$scratch"' EXIT
cp /bin/true "$scratch/killed"
cp /bin/true "$scratch/held"
mkdir "$scratch/files"
policies() {
  cat <<END
K: {policy: program, responseActions: [alert, kill], rules: ['match programName == "$scratch/killed"', default ignore]}
T: {policy: program, responseActions: [alert, kill-tree], rules: ['match programName == "$scratch/tree"', default ignore]}
H: {policy: program, responseActions: [alert, block], rules: ['match programName == "$scratch/held"', default ignore]}
F: {policy: filemonitor, rules: ['match filePath == "$scratch/files/*"', default ignore]}
N: {policy: connect, rules: ['match remoteHost in \$hosts', default ignore]}
C: {policy: container, rules: ['match containerId == "$1"', default ignore]}
hosts: {type: hosts, list: [localhost, 192.0.2.0/24]}
END
}
policies first >"$scratch/policies.yaml"
cp "$(command -v sleep)" "$scratch/tree"

TSAN_OPTIONS="log_path=$scratch/report suppressions=$PWD/.ci/tsan-suppressions" \
  "$sls" run --no-content --policy "$scratch/policies.yaml" --output "file:$scratch/alerts" --message-type alert \
  --message-type audit >"$scratch/log" 2>&1 &
sensor=$!
# Until the first alert shows that it watches.
for _ in $(seq 600); do
  "$scratch/killed" || true
  [ ! -s "$scratch/alerts" ] || break
  kill -0 "$sensor" 2>/dev/null || { cat "$scratch/log" >&2; echo 'tsan: the sensor did not start' >&2; exit 1; }
  sleep 0.1
done
[ -s "$scratch/alerts" ] || { cat "$scratch/log" >&2; echo 'tsan: no alert' >&2; exit 1; }
end=$((SECONDS + ${1:-20})) round=0
while [ $SECONDS -lt $end ]; do
  round=$((round + 1))
  "$scratch/killed" || true
  "$scratch/held" 2>/dev/null || true
  "$scratch/tree" 60 || true
  echo x >"$scratch/files/$round"
  (: >/dev/tcp/127.0.0.1/9) 2>/dev/null || true
  # A reload, by the file and by the signal.
  policies "$round" >"$scratch/new" && mv "$scratch/new" "$scratch/policies.yaml"
  [ $((round % 4)) -ne 0 ] || kill -HUP "$sensor"
done
kill -TERM "$sensor"
wait "$sensor" || echo "tsan: the sensor ended with status $?" >&2
sensor=
echo "tsan: $round rounds, $(wc -l <"$scratch/alerts") alerts"
if compgen -G "$scratch/report*" >/dev/null; then
  cat "$scratch"/report*
  exit 1
fi
