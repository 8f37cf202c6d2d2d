#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#
# build.sh          compiles process.bpf.c to process.bpf.o, which is checked in: dependents need no clang
# build.sh --check  compiles it elsewhere and compares
#
# The bytes depend on the sources and on clang's major version alone: no header from outside this folder is read, no
# path of the machine gets in, and the BPF target is the same on every host. CLANG and LLVM_STRIP name the tools.
set -eu
cd "$(dirname "$0")"
clang=${CLANG:-clang}
major=$("$clang" -dumpversion | cut -d. -f1)
strip=${LLVM_STRIP:-$(command -v "llvm-strip-$major" || echo llvm-strip)}

compile() {
	"$clang" -target bpfel -mcpu=v3 -O2 -g -nostdinc -Wall -Wextra -Werror \
		-fdebug-compilation-dir=. -ffile-prefix-map="$PWD"=. -c process.bpf.c -o "$1"
	# DWARF goes, BTF and the relocations stay.
	"$strip" -g "$1"
}

case ${1:-} in
"")
	compile process.bpf.o
	echo "$major" >process.bpf.clang
	echo "built process.bpf.o with clang $major"
	;;
--check)
	recorded=$(cat process.bpf.clang)
	fresh=$(mktemp)
	trap 'rm -f "$fresh"' EXIT
	compile "$fresh"
	if [ "$major" != "$recorded" ]; then
		echo "it builds; the bytes were not compared, because this is clang $major and process.bpf.o is from clang $recorded"
	elif cmp "$fresh" process.bpf.o; then
		echo "process.bpf.o is what its sources give with clang $major"
	else
		echo "process.bpf.o is not what its sources give: run bpf/build.sh" >&2
		exit 1
	fi
	;;
*)
	sed -n '4,5s/^# //p' "$0" >&2
	exit 2
	;;
esac
