#!/bin/bash
# Builds payload.ko for a lab kernel of Debian 12, with its headers from apt, and prints where it is.
#
#   .ci/lab/payload/build.sh [SERIES]      default: 6.1
#
# Then, as one line, with the test binary that cargo built:
#   .ci/lab/vm-run.sh -k 6.1 -a nopti -s "$PWD" -- env SLS_PAYLOAD_MODULE=target/lab/payload/payload.ko \
#     target/debug/deps/security-… payload
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/../../.." && pwd)
LAB=${SLS_LAB:-$HOME/.cache/sls-lab}
SERIES=${1:-6.1}
OUT=${CARGO_TARGET_DIR:-$ROOT/target}/lab/payload
IMAGE=$(compgen -G "$LAB/kernels/$SERIES/boot/vmlinuz-*" | head -1) || { echo "payload: no kernel $SERIES" >&2; exit 2; }
RELEASE=${IMAGE##*/vmlinuz-}

mkdir -p "$OUT"
cd "$OUT"
if [ ! -d "usr/src/linux-headers-$RELEASE" ]; then
  apt-get download -qq "linux-headers-$RELEASE" "linux-headers-${RELEASE%-cloud-amd64}-common" "linux-kbuild-$SERIES"
  for package in *.deb; do dpkg-deb -x "$package" .; rm "$package"; done
  # It names the other package by the path where it would be installed.
  sed -i "s|/usr/src/|$OUT/usr/src/|" "usr/src/linux-headers-$RELEASE/Makefile"
fi
cp "$ROOT"/.ci/lab/payload/{payload.c,Makefile} .
make -s -C "usr/src/linux-headers-$RELEASE" M="$OUT" modules >&2
echo "$OUT/payload.ko"
