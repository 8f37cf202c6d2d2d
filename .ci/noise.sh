#!/bin/bash
# What the built-in policies say to ordinary work on this machine: an idle minute or two, packages installed, a build, a
# container. As root, on Debian. It leaves nothing behind, but for the packages that it installs again.
#
#   .ci/noise.sh [--check] [--idle SECONDS] [ACTIVITY…]
#
#   --check   fail if an alert has High priority
#   --idle    how long the machine is left alone (120)
#   ACTIVITY  of idle, apt, cargo, container; all of them by default
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

# With maintainer scripts, triggers, units and a setuid program among them.
PACKAGES=(wget openssl passwd cron ca-certificates)

die() { printf 'noise: %s\n' "$*" >&2; exit 2; }

check=false idle=120 activities=()
while [ $# -gt 0 ]; do
  case $1 in
    --check) check=true ;;
    --idle) idle=${2:?--idle takes seconds}; shift ;;
    idle | apt | cargo | container) activities+=("$1") ;;
    *) die "usage: $0 [--check] [--idle SECONDS] [idle|apt|cargo|container]…" ;;
  esac
  shift
done
[ ${#activities[@]} -gt 0 ] || activities=(idle apt cargo container)
[ "$(id -u)" = 0 ] || die "the sensor needs root"

.ci/setup.sh build test
cargo build --quiet -p sls-cli
sls=$(realpath "${CARGO_TARGET_DIR:-target}/debug/sls")

work=$(mktemp -d /var/tmp/sls-noise.XXXXXX)
sensor=
clean() {
  [ -z "$sensor" ] || kill "$sensor" 2>/dev/null || true
  runc delete -f "sls-noise-$$" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

do_idle() { sleep "$idle"; }

do_apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --reinstall -o DPkg::Lock::Timeout=300 "${PACKAGES[@]}"
}

do_cargo() { CARGO_TARGET_DIR=$work/target cargo build --quiet -p sls-core; }

do_container() {
  local bundle=$work/bundle
  mkdir -p "$bundle/rootfs/bin"
  cp "$(command -v busybox)" "$bundle/rootfs/bin/busybox"
  ln -s busybox "$bundle/rootfs/bin/sh"
  (
    cd "$bundle"
    runc spec
    sed -i -e 's/"terminal": true/"terminal": false/' \
      -e '/"args": \[/,/\]/c "args": ["/bin/sh", "-c", "/bin/busybox id; /bin/busybox ls /"],' config.json
    runc run "sls-noise-$$"
  )
}

# Waits for a line of the sensor's.
until_says() {
  local tries
  for tries in {1..300}; do
    ! grep -q "$1" "$work/log" || return 0
    kill -0 "$sensor" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/log" >&2
  die "the sensor did not say '$1' ($tries tries)"
}

# The value of the first key of this name in each line.
values() { sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/"; }

printf '%-10s %-7s %-52s %s\n' activity priority policy alerts
high=0
for activity in "${activities[@]}"; do
  : >"$work/alerts"
  "$sls" run --dry-run --output "file:$work/alerts" 2>"$work/log" &
  sensor=$!
  until_says watching
  "do_$activity" </dev/null >"$work/out" 2>&1 || { tail -20 "$work/out" >&2; die "$activity failed"; }
  kill -TERM "$sensor"
  wait "$sensor" || die "the sensor failed"
  sensor=
  ! grep -q 'stopped.* lost=[1-9]' "$work/log" || die "events were lost: $(grep stopped "$work/log")"
  if [ -s "$work/alerts" ]; then
    paste -d'|' <(values priority <"$work/alerts") <(values strategy_name <"$work/alerts") | sort | uniq -c | sort -k2,2 -k1,1nr |
      while read -r count rest; do
        printf '%-10s %-7s %-52s %s\n' "$activity" "${rest%%|*}" "${rest#*|}" "$count"
      done
  else
    printf '%-10s %-7s %-52s %s\n' "$activity" - - 0
  fi
  while IFS= read -r alert; do
    high=$((high + 1))
    printf '  High: %s\n' "$(values matched_rule <<<"$alert")" >&2
    printf '        %s\n' "$(sed -E 's/.*"process_info":\{[^}]*"name":"([^"]*)"[^}]*"args":("[^"]*"|\[[^]]*\]).*/\1 \2/' <<<"$alert")" >&2
  done < <(grep '"priority":"High"' "$work/alerts" || true)
done
if $check && [ $high -gt 0 ]; then
  printf 'noise: %s alerts of High priority\n' "$high" >&2
  exit 1
fi
