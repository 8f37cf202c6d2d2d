#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
#
# build.sh          compiles each NAME.bpf.c to NAME.bpf.o, which is checked in: dependents need no clang
# build.sh --check  compiles them elsewhere and compares
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
		-fdebug-compilation-dir=. -ffile-prefix-map="$PWD"=. -c "$1" -o "$2"
	# DWARF goes, BTF and the relocations stay.
	"$strip" -g "$2"
}

case ${1:-} in
"")
	for source in *.bpf.c; do
		compile "$source" "${source%.c}.o"
		echo "built ${source%.c}.o with clang $major"
	done
	echo "$major" >clang.version
	;;
--check)
	recorded=$(cat clang.version)
	fresh=$(mktemp)
	trap 'rm -f "$fresh"' EXIT
	for source in *.bpf.c; do
		object=${source%.c}.o
		compile "$source" "$fresh"
		if [ "$major" != "$recorded" ]; then
			echo "$source builds; the bytes were not compared, because this is clang $major and $object is from clang $recorded"
		elif cmp "$fresh" "$object"; then
			echo "$object is what its sources give with clang $major"
		else
			echo "$object is not what its sources give: run bpf/build.sh" >&2
			exit 1
		fi
	done
	;;
*)
	sed -n '4,5s/^# //p' "$0" >&2
	exit 2
	;;
esac
