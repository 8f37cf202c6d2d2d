#!/bin/bash
# Installs what this repository needs to build and test on Debian and its derivatives. Idempotent.
#
#   .ci/setup.sh MODE…
#
#   build  a C toolchain and the headers of libelf and zlib: `cargo build` compiles libbpf
#   bpf    clang: only to rebuild or to check the committed BPF object
#   test   what the tests run against, and a C++ compiler for libFuzzer
#   coverage  llvm-tools of the toolchain, for `make fuzz-coverage`
#   count  valgrind, for `make instructions`
#   lint   shellcheck, clippy and rustfmt
#   deny   cargo-deny
#   lab    QEMU and what it takes to assemble a guest
#
# Cargo itself (https://rustup.rs) is the one thing that must be there already. Works as root, else through sudo.
set -euo pipefail

declare -A PACKAGES=(
  [build]="gcc libc6-dev make pkg-config libelf-dev zlib1g-dev"
  [bpf]="clang"
  [test]="wget runc crun podman busybox-static bpftool libcap2-bin g++"
  [coverage]="gcc libc6-dev"
  [count]="valgrind"
  [lint]="shellcheck"
  [deny]="gcc libc6-dev"
  [lab]="qemu-system-x86 qemu-system-common busybox-static cpio xz-utils zstd"
)
# Pinned, so that a new release of a tool cannot fail an old commit.
CARGO_DENY=0.20.2

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || die "neither root nor sudo; as root, run: $*"
    sudo "$@"
  fi
}

# apt NAME…: installs the packages that are missing.
apt() {
  local missing=() package
  # dpkg-query also lists packages that were removed: only "installed" counts.
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true)
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "apt-get update"
  # A broken third-party source must not stop us: whether the packages can be had shows in the next step.
  as_root apt-get -qq update || say "apt-get update failed; going on with the lists at hand"
  say "apt-get install ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "${missing[@]}" </dev/null >/dev/null
}

# rustup's minimal profile comes without these.
components() {
  local component
  for component in clippy:cargo-clippy rustfmt:rustfmt; do
    command -v "${component#*:}" >/dev/null && "${component#*:}" --version >/dev/null 2>&1 && continue
    say "rustup component add ${component%:*}"
    rustup --quiet component add "${component%:*}"
  done
}

llvm_tools() {
  local sysroot
  sysroot=$(rustc --print sysroot)
  ! compgen -G "$sysroot/lib/rustlib/*/bin/llvm-cov" >/dev/null || return 0
  say "rustup component add llvm-tools"
  rustup --quiet component add llvm-tools
}

# Every optimisation of its release profile is off: it runs for a second, and would take minutes more to build.
cargo_deny() {
  # A second run waits for the first, and then finds that there is nothing left to do.
  exec 9>"${CARGO_HOME:-$HOME/.cargo}/.sls-setup.lock"
  flock 9
  ! command -v cargo-deny >/dev/null || return 0
  say "cargo install cargo-deny $CARGO_DENY (about a minute, once)"
  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
    CARGO_PROFILE_RELEASE_DEBUG=none cargo install --quiet --locked "cargo-deny@$CARGO_DENY"
}

[ $# -gt 0 ] || die "usage: $0 MODE…; modes: ${!PACKAGES[*]}"
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v cargo >/dev/null || die "cargo is missing: install it from https://rustup.rs"
command -v apt-get >/dev/null || die "no apt-get here; install the equivalents of: ${PACKAGES[*]}"

wanted=()
for mode; do
  [ -n "${PACKAGES[$mode]:-}" ] || die "unknown mode $mode; modes: ${!PACKAGES[*]}"
  read -ra more <<<"${PACKAGES[$mode]}"
  wanted+=("${more[@]}")
done
apt "${wanted[@]}"
for mode; do
  case $mode in
    lint) components ;;
    coverage) llvm_tools ;;
    deny) cargo_deny ;;
  esac
done
