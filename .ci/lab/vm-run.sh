#!/bin/bash
# Runs a command as root under another kernel, in QEMU, and exits with its status.
#
#   .ci/lab/vm-run.sh [OPTION]… -- COMMAND [ARGUMENT]…
#
#   -k SERIES      kernel, as fetched by fetch-kernels.sh (6.12)
#   -s DIR[:rw]    show DIR at the same path; needed for what lies under /tmp or /run, which are fresh in the guest, and
#                  for what the command is to write to (may be repeated)
#   -m MB          memory (768)
#   -c CPUS        processors (1)
#   -t SECONDS     time-out (180)
#   -a ARGUMENTS   more kernel arguments
#   -M MODULES     more modules to load before the command, in this order
#   -l FILE        keep the console's log here
#
# The guest's root is this machine's / through virtiofs, read-only under an overlay: the command finds the same paths
# and libraries as here, and what it writes vanishes. It starts in the current directory, without a terminal and with an
# environment of its own (README.md); its standard output and error come out on our standard output.
#
# Exit status: the command's; 2 usage; 124 time-out; 125 the guest never reported (panic, hang): see the console's log.
# The guest is emulated (SLS_LAB_ACCEL=kvm overrides): the result is the same on every machine, nested ones included.
set -euo pipefail

LAB=${SLS_LAB:-$HOME/.cache/sls-lab}
ACCEL=${SLS_LAB_ACCEL:-tcg,thread=multi}
SERIES=6.12 MEMORY=768 CPUS=1 TIMEOUT=180 APPEND='' MORE_MODULES='' LOG=''
SHARES=(/)

usage() { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
die() { echo "vm-run: $2" >&2; exit "$1"; }

while getopts k:s:m:c:t:a:M:l: option; do
  case $option in
    k) SERIES=$OPTARG ;;
    s) SHARES+=("$OPTARG") ;;
    m) MEMORY=$OPTARG ;;
    c) CPUS=$OPTARG ;;
    t) TIMEOUT=$OPTARG ;;
    a) APPEND=$OPTARG ;;
    M) MORE_MODULES=$OPTARG ;;
    l) LOG=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
[ "$(id -u)" = 0 ] || die 2 "needs root: virtiofsd serves this machine's /"

KERNEL=$LAB/kernels/$SERIES
IMAGE=$(compgen -G "$KERNEL/boot/vmlinuz*" | head -1) || die 2 "no kernel $SERIES in $LAB: .ci/lab/fetch-kernels.sh $SERIES"
VIRTIOFSD=$(find /usr/lib/qemu/virtiofsd -maxdepth 0 2>/dev/null) || die 2 "no virtiofsd: .ci/setup.sh lab"
MODULES="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console fuse virtiofs overlay"
MODULES+=" $MORE_MODULES"
# A module that is there to be loaded by a test: $SLS_LAB_MODULE. Every kernel has it, and it needs no other.
SPARE=dummy

WORK=$(mktemp -d "${TMPDIR:-/tmp}/sls-vm.XXXXXX")
LOG=${LOG:-$WORK/console.log}
PIDS=()
# shellcheck disable=SC2317 # Reached by the trap.
cleanup() {
  [ ${#PIDS[@]} = 0 ] || kill "${PIDS[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# unpack_module NAME TO: nothing, where it is built in or this kernel has no such module.
unpack_module() {
  local file
  file=$(find "$KERNEL" \( -name "$1.ko" -o -name "$1.ko.xz" -o -name "$1.ko.zst" \) -print -quit)
  case $file in
    *.ko) cat "$file" >"$2" ;;
    *.xz) xz -dc "$file" >"$2" ;;
    *.zst) zstd -qdc "$file" >"$2" ;;
  esac
}

# The part of the initramfs that is the same for every command.
base_initramfs() {
  local root=$WORK/root number=100 applet module
  mkdir -p "$root"/{bin,mod,proc,sys,dev,tmp,new,ro,rw,run}
  cp /bin/busybox "$root/bin/"
  for applet in sh mount umount insmod basename cat chmod cp dirname ip mkdir rm sleep switch_root; do
    ln -s busybox "$root/bin/$applet"
  done
  for module in $MODULES; do
    unpack_module "$module" "$root/mod/$number-$module.ko"
    number=$((number + 1))
  done
  unpack_module $SPARE "$root/spare.ko"
  cp "$(dirname "$0")/guest-init.sh" "$root/init"
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet)
}

# Named after all that it is made of, so that it is never stale.
mkdir -p "$LAB/cache"
key=$({ echo "$IMAGE $MODULES $SPARE"; cat "$0" "$(dirname "$0")/guest-init.sh"; } | sha256sum | cut -c1-16)
BASE=$LAB/cache/$SERIES-$key.cpio
if [ ! -s "$BASE" ]; then
  base_initramfs >"$BASE.$$"
  mv "$BASE.$$" "$BASE"
fi

# The part that is this run's: the command, the shares.
mkdir "$WORK/run"
{
  printf 'cd %q || exit 125\n' "$PWD"
  printf '%q ' "$@"
  echo
} >"$WORK/run/cmd"
echo "SLS_LAB_KERNEL=$IMAGE" >"$WORK/run/environment"
[ "${ACCEL#tcg}" = "$ACCEL" ] || echo SLS_LAB_EMULATED=1 >>"$WORK/run/environment"

# Without cmpxchg16b: QEMU 7.2 emulates it wrongly, and slub falls over that (a double fault in kmem_cache_alloc).
# shellcheck disable=SC2054 # The commas are QEMU's.
QEMU=(nice -n 10 qemu-system-x86_64 -accel "$ACCEL" -M q35 -cpu max,-cx16 -m "$MEMORY" -smp "$CPUS"
  -nodefaults -no-reboot -display none -device virtio-rng-pci
  -object "memory-backend-memfd,id=memory,size=${MEMORY}M,share=on" -numa node,memdev=memory)
for index in "${!SHARES[@]}"; do
  share=${SHARES[$index]}
  [[ $share != *[[:space:]]* ]] || die 2 "cannot share a path with white space: $share"
  mode=ro cache=always
  # What two sides write must not be cached.
  [ "$share" = "${share%:rw}" ] || mode=rw cache=auto
  [ "$index" = 0 ] || echo "share$index ${share%:rw} $mode" >>"$WORK/run/shares"
  nice -n 10 "$VIRTIOFSD" --socket-path="$WORK/share$index.sock" -o source="${share%:rw}" -o cache=$cache \
    -o sandbox=chroot -o xattr -o log_level=err -f </dev/null >"$WORK/share$index.log" 2>&1 &
  PIDS+=($!)
  for _ in $(seq 250); do [ -S "$WORK/share$index.sock" ] && break; sleep 0.02; done
  QEMU+=(-chardev "socket,id=share$index,path=$WORK/share$index.sock"
    -device "vhost-user-fs-pci,chardev=share$index,tag=share$index,queue-size=1024")
done
(cd "$WORK/run" && find . | cpio -o -H newc --quiet) | cat "$BASE" - >"$WORK/initrd"

# One port carries the output, the other the guest's reports: what the command prints can never be taken for a report.
mkfifo "$WORK/output"
: >"$WORK/reports"
cat "$WORK/output" &
OUTPUT=$!
# shellcheck disable=SC2054
QEMU+=(-kernel "$IMAGE" -initrd "$WORK/initrd"
  -append "console=ttyS0 quiet clocksource=hpet panic=-1 oops=panic lsm=landlock,lockdown,yama,integrity,apparmor,bpf $APPEND"
  -serial "file:$LOG" -chardev "file,id=output,path=$WORK/output" -chardev "file,id=reports,path=$WORK/reports"
  -device virtio-serial-pci -device virtserialport,chardev=output,name=output
  -device virtserialport,chardev=reports,name=reports)
timeout -k 5 "$TIMEOUT" "${QEMU[@]}" </dev/null &
PIDS+=($!)
qemu_status=0
wait $! || qemu_status=$?
# Had QEMU not even opened the pipe, its reader would wait for ever.
: <>"$WORK/output"
[ "$qemu_status" = 0 ] || kill $OUTPUT 2>/dev/null || true
wait $OUTPUT || true

console() { tail -15 "$LOG" 2>/dev/null | sed 's/^/vm-run: console: /' >&2 || true; }
if [ "$qemu_status" = 124 ]; then
  console
  die 124 "time-out after $TIMEOUT s"
fi
status=$(sed -n 's/^status //p' "$WORK/reports")
if [ -z "$status" ]; then
  grep '^error' "$WORK/reports" >&2 || true
  console
  die 125 "no status from the guest (QEMU: $qemu_status)"
fi
exit "$status"
