/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The record that the programs send: a fixed header, then five strings back to back. src/record.rs reads the same
 * layout. Little endian, no implicit padding. */
#ifndef SLS_RECORD_H
#define SLS_RECORD_H

/* Changes whenever the meaning of a byte does. */
#define RECORD_VERSION 3

enum record_kind {
	RECORD_EXEC = 0,
	RECORD_FORK = 1,
	RECORD_EXIT = 2,
	RECORD_BASELINE = 3,
	RECORD_KINDS = 4,
};

enum record_flag {
	/* The start of the executable's path, or of the working directory's, is missing. */
	FLAG_EXE_CUT = 1 << 0,
	FLAG_CWD_CUT = 1 << 1,
	/* The end of argv is missing. */
	FLAG_ARGV_CUT = 1 << 2,
	/* It exists, but could not be read. */
	FLAG_EXE_UNKNOWN = 1 << 3,
	FLAG_CWD_UNKNOWN = 1 << 4,
	FLAG_ARGV_UNKNOWN = 1 << 5,
	FLAG_INVOKED_UNKNOWN = 1 << 6,
	/* The kernel ran it through an interpreter (#! or binfmt_misc). */
	FLAG_SCRIPT = 1 << 7,
	FLAG_MEMFD = 1 << 8,
	FLAG_DELETED = 1 << 9,
	FLAG_KERNEL_THREAD = 1 << 10,
	/* `device` and `inode` are set. */
	FLAG_FILE = 1 << 11,
};

/* Longest name in a directory, with its NUL. */
#define NAME_BYTES 256
/* A path that needs less than this is whole; the last component may go over it. */
#define PATH_BYTES 4096
/* Steps from the file to the root, each a component or a mount: as many as a path of PATH_BYTES can have components. The
 * quick ones come first, and are not counted among them. */
#define PATH_STEPS 2048
#define QUICK_STEPS 16
/* "/dev/fd/4294967295/" and a path of PATH_MAX fit with room to spare. */
#define INVOKED_BYTES 4128
#define ARGV_BYTES 8192
#define TTY_BYTES 64
#define COMM_BYTES 16
/* Changes no position in a path. */
#define POS_MASK 0x3fff
#define TAIL_BYTES (2 * (PATH_BYTES + NAME_BYTES) + INVOKED_BYTES + ARGV_BYTES + TTY_BYTES)

struct record {
	u32 len; /* header and strings */
	u8 kind;
	u8 version;
	u16 flags;
	u64 time; /* CLOCK_BOOTTIME, ns */
	u64 lost; /* records of this kind lost since the start */
	u64 start; /* start of the process, CLOCK_BOOTTIME, ns */
	u64 parent_start;
	u64 creator_start; /* of the process that made this one; forks only */
	u64 pidfd_inode; /* 0: the kernel has none */
	u64 cgroup_id; /* 0: unknown */
	u64 inode;
	u32 pid;
	u32 parent_pid;
	u32 creator_pid; /* 0: not known */
	u32 pid_namespace; /* 0: unknown */
	u32 mount_namespace; /* the same */
	u32 uid;
	u32 gid;
	u32 euid;
	u32 egid;
	u32 loginuid; /* ~0: not set */
	u32 device; /* kernel encoding: major << 20 | minor */
	u32 exit_status; /* as wait(2) gives it */
	u16 exe_len; /* components leaf to root, each with a NUL */
	u16 cwd_len; /* the same */
	u16 invoked_len; /* without a NUL */
	u16 argv_len; /* arguments, each with a NUL */
	u16 tty_len; /* without a NUL */
	u16 zero0;
	u32 zero1;
	u8 comm[COMM_BYTES];
};

_Static_assert(sizeof(struct record) == 152, "src/record.rs counts on it");
_Static_assert(TAIL_BYTES < 65536, "lengths are 16 bits");

_Static_assert(POS_MASK > 2 * (PATH_BYTES + NAME_BYTES) && POS_MASK + NAME_BYTES <= TAIL_BYTES, "names fit");
_Static_assert(2 * PATH_STEPS >= PATH_BYTES, "the bytes are what limits a path");
_Static_assert(QUICK_STEPS * NAME_BYTES <= PATH_BYTES, "the quick steps need not look at the end");

/* A walk under way: pointers to a mount, to its root, and to a dentry in it; and the position at which it is to end. */
struct walk {
	u64 mount;
	u64 root;
	u64 at;
	u32 end;
	u32 zero;
};

/* The scratch in which a record is built. `pos` lives in it so that the verifier forgets its value after each
 * iteration, and all iterations look the same to it. */
struct scratch {
	struct record record;
	u8 tail[TAIL_BYTES];
	u32 pos;
	u32 zero;
	struct walk walk;
};

/* Set by user space before the programs are loaded. */
struct config {
	u64 wake_bytes; /* a sleeping reader is woken when this much waits */
	u32 exit_has_group_dead; /* sched_process_exit has its second argument (Linux 6.16) */
	u32 zero;
};

_Static_assert(sizeof(struct config) == 16, "src/loader.rs counts on it");

#endif
