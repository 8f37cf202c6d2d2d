#!/bin/sh
# refuse.sh OBJECT: compiles refuse.bpf.c, for the guest that has tracepoints only.
set -eu
cd "$(dirname "$0")"
clang -target bpfel -mcpu=v3 -O2 -g -nostdinc -Wall -Wextra -Werror -I../../sls-probe/bpf -c refuse.bpf.c -o "$1"
