#!/bin/sh
# /init of a lab guest (busybox): mounts this machine's / and what a sensor needs, then runs /cmd. See vm-run.sh.
PATH=/bin
export PATH

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null

# Modules need one another in an order that differs between kernels: try until all have found their turn.
for _ in 1 2 3 4; do
  for module in /mod/*.ko; do
    [ -e "$module" ] && insmod "$module" 2>/dev/null && rm "$module"
  done
done
# The device files are numbered in the order in which the kernel finds the devices: go by the ports' names.
port() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    for name in /sys/class/virtio-ports/*/name; do
      [ "$(cat "$name" 2>/dev/null)" = "$1" ] && basename "$(dirname "$name")" && return
    done
    sleep 0.1
  done
  echo null
}
output=/dev/$(port output)
reports=/dev/$(port reports)
report() { echo "$1" >"$reports"; }

mount -t tmpfs tmpfs /rw
mkdir -p /rw/upper /rw/work
mount -t virtiofs -o ro share0 /ro || report "error: cannot mount the root share"
mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new || report "error: cannot mount the overlay"
for directory in proc sys dev run tmp var/tmp; do mkdir -p "/new/$directory"; done
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mount -t tmpfs tmpfs /new/run
mount -t tmpfs tmpfs /new/tmp
mount -t tmpfs tmpfs /new/var/tmp
chmod 1777 /new/tmp /new/var/tmp
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t securityfs security /new/sys/kernel/security
mount -t bpf bpf /new/sys/fs/bpf
mount -t cgroup2 cgroup /new/sys/fs/cgroup
mount -t tracefs tracefs /new/sys/kernel/tracing
mount -t debugfs debugfs /new/sys/kernel/debug
mount -t selinuxfs selinux /new/sys/fs/selinux 2>/dev/null
ip link set lo up
if [ -r /shares ]; then
  while read -r tag directory mode; do
    mkdir -p "/new$directory"
    mount -t virtiofs -o "$mode" "$tag" "/new$directory" || report "error: cannot mount $directory"
  done </shares
fi

mkdir /new/run/lab
cp /cmd /bin/busybox /new/run/lab/
environment="SLS_LAB_GUEST=1"
while read -r variable; do environment="$environment $variable"; done </environment
[ ! -e /spare.ko ] || { cp /spare.ko /new/run/lab/; environment="$environment SLS_LAB_MODULE=/run/lab/spare.ko"; }
cat >/new/run/lab/init <<INIT
#!/run/lab/busybox sh
/run/lab/busybox env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb $environment \
  /bin/bash /run/lab/cmd </dev/null >$output 2>&1
echo "status \$?" >$reports
# A write to a port returns before QEMU has taken the bytes.
/run/lab/busybox sleep 0.1
/run/lab/busybox poweroff -f
/run/lab/busybox sleep 100
INIT
chmod +x /new/run/lab/init
umount /proc /sys /dev 2>/dev/null
exec switch_root /new /run/lab/init
