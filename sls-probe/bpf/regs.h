/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The registers that kprobes and uprobes get. One object serves all architectures: the running kernel's type says which
 * one it is, and the verifier drops the rest. */
#ifndef SLS_REGS_H
#define SLS_REGS_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs___x86 {
	unsigned long di, si, dx, cx, r8, r9, ax, sp;
};

struct user_pt_regs___arm64 {
	u64 regs[31];
};

struct pt_regs___arm64 {
	struct user_pt_regs___arm64 user_regs;
};

#pragma clang attribute pop

#define REGISTER_ARGUMENTS 6

#define on_x86 field_exists(((struct pt_regs___x86 *)0)->di)
#define on_arm64 field_exists(((struct pt_regs___arm64 *)0)->user_regs)

/* An argument of the function at whose entry the probe is, counted from 0. `number` is a constant. */
INLINE u64 argument(void *regs, u32 number)
{
	if (on_x86) {
		switch (number) {
		case 0:
			return read(struct pt_regs___x86, regs, di);
		case 1:
			return read(struct pt_regs___x86, regs, si);
		case 2:
			return read(struct pt_regs___x86, regs, dx);
		case 3:
			return read(struct pt_regs___x86, regs, cx);
		case 4:
			return read(struct pt_regs___x86, regs, r8);
		case 5:
			return read(struct pt_regs___x86, regs, r9);
		}
	} else if (on_arm64) {
		switch (number) {
		case 0:
			return read(struct pt_regs___arm64, regs, user_regs.regs[0]);
		case 1:
			return read(struct pt_regs___arm64, regs, user_regs.regs[1]);
		case 2:
			return read(struct pt_regs___arm64, regs, user_regs.regs[2]);
		case 3:
			return read(struct pt_regs___arm64, regs, user_regs.regs[3]);
		case 4:
			return read(struct pt_regs___arm64, regs, user_regs.regs[4]);
		case 5:
			return read(struct pt_regs___arm64, regs, user_regs.regs[5]);
		}
	}
	return 0;
}

/* What the function returned, at its end. */
INLINE u64 returned(void *regs)
{
	if (on_x86)
		return read(struct pt_regs___x86, regs, ax);
	return argument(regs, 0);
}

/* Where the function will return to, at its entry. */
INLINE u64 return_address(void *regs)
{
	u64 address = 0;

	if (on_x86)
		bpf_probe_read_kernel(&address, sizeof(address), (void *)read(struct pt_regs___x86, regs, sp));
	else if (on_arm64)
		address = read(struct pt_regs___arm64, regs, user_regs.regs[30]);
	return address;
}

/* Below the split between a process's memory and the kernel's. On arm64 one bit tells, and what is above it may be the
 * signature of the pointer. */
INLINE bool is_user_address(u64 address)
{
	return on_arm64 ? !(address & 1ull << 55) : (s64)address >= 0;
}

#endif
