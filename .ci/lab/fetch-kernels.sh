#!/bin/bash
# Gets kernels for the lab from the Debian archive, without installing them.
#
#   .ci/lab/fetch-kernels.sh [SERIES…]      default: every series below
#
# They land in $SLS_LAB/kernels/SERIES (SLS_LAB defaults to ~/.cache/sls-lab). A series that is there already is left
# alone, so a second run needs no network. The downloads use an apt state of their own: the system's is not touched.
set -euo pipefail

SERIES=(5.10 6.1 6.12 6.18 7.3)
SUITES=(bullseye bookworm bookworm-backports trixie-backports)

LAB=${SLS_LAB:-$HOME/.cache/sls-lab}
KEY=/usr/share/keyrings/debian-archive-keyring.gpg
[ $# -eq 0 ] || SERIES=("$@")

have() { compgen -G "$LAB/kernels/$1/boot/vmlinuz*" >/dev/null; }

private_apt() {
  local tool=$1
  shift
  "$tool" -qq -o Dir::Etc::sourcelist="$LAB/apt/list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$LAB/apt/lists" \
    -o Dir::Cache::archives="$LAB/apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Sandbox::User=root "$@"
}

# The mirror that this machine is set up for: its owner may have no way to another.
mirror() {
  grep -rhE '^(URIs:|deb )' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | sed 's,/* *$,,' || true
}

update_lists() {
  local base suite
  base=$(mirror)
  base=${base:-http://deb.debian.org/debian}
  mkdir -p "$LAB"/apt/{lists,archives}/partial
  for suite in "${SUITES[@]}"; do echo "deb [signed-by=$KEY] $base $suite main"; done >"$LAB/apt/list"
  echo "deb [signed-by=$KEY] $base-security bullseye-security main" >>"$LAB/apt/list"
  # The archive answers with an error now and then.
  private_apt apt-get update 2>/dev/null || { sleep 5; private_apt apt-get update; }
}

fetch() {
  local series=$1 image version extra archive work=$LAB/deb.$$
  # The cloud flavour is small, has BTF, and has the virtio drivers that the lab needs.
  image=$(private_apt apt-cache search --names-only "^linux-image-${series//./\\.}\\.[0-9].*-cloud-amd64\$" |
    awk '{print $1}' | grep -vE 'deb11|unsigned|dbg' | sort -V | tail -1) || true
  [ -n "$image" ] || { echo "$series: no such kernel in ${SUITES[*]}" >&2; return 1; }
  version=${image#linux-image-}
  local packages=("$image")
  # Newer packaging splits the image: the kernel and its modules are packages of their own.
  # (Not grep -q: it would end apt-cache by SIGPIPE, which pipefail takes for a failure.)
  for extra in "linux-base-$version" "linux-binary-$version" "linux-modules-$version"; do
    ! private_apt apt-cache policy "$extra" 2>/dev/null | grep 'Candidate: [0-9]' >/dev/null || packages+=("$extra")
  done
  rm -rf "$work"
  mkdir -p "$work/root"
  (cd "$work" && private_apt apt-get download "${packages[@]}")
  for archive in "$work"/*.deb; do dpkg -x "$archive" "$work/root"; done
  if ! compgen -G "$work/root/boot/vmlinuz*" >/dev/null; then
    mkdir -p "$work/root/boot"
    find "$work/root" -name 'vmlinuz*' -exec cp {} "$work/root/boot/" \;
  fi
  # Moved into place as a whole: an interrupted run leaves nothing that looks complete.
  mkdir -p "$LAB/kernels"
  rm -rf "${LAB:?}/kernels/$series"
  mv "$work/root" "$LAB/kernels/$series"
  rm -rf "$work"
  echo "$series: $image"
}

mkdir -p "$LAB"
# Runs at the same time take turns.
exec 9>"$LAB/.lock"
flock 9
missing=()
for series in "${SERIES[@]}"; do
  if have "$series"; then echo "$series: there"; else missing+=("$series"); fi
done
[ ${#missing[@]} -gt 0 ] || exit 0
update_lists
for series in "${missing[@]}"; do fetch "$series"; done
