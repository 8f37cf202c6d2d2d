/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The record that the programs send: a fixed header, then what only its kind has (`detail_len` bytes, see detail.h), then
 * five strings back to back. src/record.rs reads the same layout. Little endian, no implicit padding. */
#ifndef SLS_RECORD_H
#define SLS_RECORD_H

/* Changes whenever the meaning of a byte does. */
#define RECORD_VERSION 5

enum record_kind {
	RECORD_EXEC = 0,
	RECORD_FORK = 1,
	RECORD_EXIT = 2,
	RECORD_BASELINE = 3,
	RECORD_FILE = 4,
	RECORD_CONNECT = 5,
	RECORD_ACCEPT = 6,
	RECORD_LISTEN = 7,
	RECORD_PTRACE = 8,
	RECORD_MEMORY = 9,
	RECORD_CREDENTIALS = 10,
	RECORD_MODULE = 11,
	RECORD_USERFAULTFD = 12,
	RECORD_SECURITY = 13,
	RECORD_PROBE = 14,
	/* A cgroup was made or removed: for the reader alone. */
	RECORD_CGROUP = 15,
	/* An operation that was refused. */
	RECORD_REFUSED = 16,
	RECORD_KINDS = 17,
};

/* Ways to the reader with room of their own. src/lanes.rs has the same. */
enum lane {
	LANE_PROCESS = 0,
	LANE_ACTIVITY = 1,
	LANES = 2,
};

/* What does not go by the process's lane, unless the kernel has decided about it; a bit each. */
#define ACTIVITY_KINDS                                                                                              \
	(1 << RECORD_FILE | 1 << RECORD_CONNECT | 1 << RECORD_ACCEPT | 1 << RECORD_LISTEN | 1 << RECORD_MEMORY | \
	 1 << RECORD_USERFAULTFD | 1 << RECORD_PROBE)

/* Why a record is not sent. src/losses.rs has the same. */
enum lost_cause {
	LOST_FULL = 0,
	LOST_OVER_BUDGET = 1,
	LOST_SHED = 2,
	LOST_NOT_RUN = 3,
	/* What a program had to remember found no room. */
	LOST_UNTRACKED = 4,
	LOST_CAUSES = 5,
};

enum record_flag {
	/* The start of a path is missing. */
	FLAG_PATH_CUT = 1 << 0,
	FLAG_PATH2_CUT = 1 << 1,
	/* The end of the text is missing. */
	FLAG_TEXT_CUT = 1 << 2,
	/* It exists, but could not be read. */
	FLAG_PATH_UNKNOWN = 1 << 3,
	FLAG_PATH2_UNKNOWN = 1 << 4,
	FLAG_TEXT_UNKNOWN = 1 << 5,
	FLAG_NAME_UNKNOWN = 1 << 6,
	/* The kernel ran it through an interpreter (#! or binfmt_misc). */
	FLAG_SCRIPT = 1 << 7,
	FLAG_MEMFD = 1 << 8,
	FLAG_DELETED = 1 << 9,
	FLAG_KERNEL_THREAD = 1 << 10,
	/* `device` and `inode` are set. */
	FLAG_FILE = 1 << 11,
	/* A string was read from memory that the process can change, or the kernel did not resolve it. */
	FLAG_UNTRUSTED = 1 << 12,
};

/* Longest name in a directory, with its NUL. */
#define NAME_BYTES 256
/* A path that needs less than this is whole; the last component may go over it. */
#define PATH_BYTES 4096
/* Steps from the file to the root, each a component or a mount: as many as a path of PATH_BYTES can have components. The
 * quick ones come first, and are not counted among them. */
#define PATH_STEPS 2048
#define QUICK_STEPS 16
#define STEPS_AT_ONCE 64
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
	/* Of forks, of the process that made this one. In the lane of activities, how far the other was filled: what is there has
	 * to be read first. */
	u64 creator_start;
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
	u16 path_len; /* components leaf to root, each with a NUL; of an exec the executable */
	u16 path2_len; /* the same; of an exec the working directory */
	u16 name_len; /* without a NUL; of an exec the path as it was passed */
	u16 text_len; /* of an exec the arguments, each with a NUL */
	u16 tty_len; /* without a NUL */
	u16 detail_len; /* of what stands before the strings */
	u32 legacy_cgroup; /* the cgroup in the hierarchy of version 1, the lower half of its id; 0: not asked for */
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
	u32 below; /* where the name before the last stands, if SLS_PATH_TOPS is defined */
	u32 bad; /* a name could not be read */
	u32 zero;
};

/* The scratch in which a record is built. `pos` lives in it so that the verifier forgets its value after each
 * iteration, and all iterations look the same to it. */
struct scratch {
	struct record record;
	u8 tail[TAIL_BYTES];
	u32 pos;
	u32 top; /* where the last name stands, if SLS_PATH_TOPS is defined */
	struct walk walk;
};

/* Set by user space before the programs are loaded. */
struct config {
	struct {
		u64 bytes; /* of the ring */
		u64 burst; /* bytes of a cgroup in the second half; 0: no budgets */
		u64 rate; /* bytes that leak out of that in 2^30 ns */
	} lanes[LANES];
	u32 exit_has_group_dead; /* sched_process_exit has its second argument (Linux 6.16) */
	u32 legacy_controller; /* whose hierarchy of version 1 is asked for: 1 + its number; 0: none */
};

_Static_assert(sizeof(struct config) == 56, "src/loader.rs counts on it");

#endif
