// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A probe of the user's own, on a function of the kernel or of a program. Each is an instance of this object: what it fetches
 * is constant, and the verifier drops the rest. */
#include "common.h"
#include "regs.h"
#include "self.h"

/* src/points.rs has the same numbers. */
#define ARGUMENTS 8
#define STEPS 3
#define TEXT_BYTES 256
#define PLACE_RETURN 6

enum form {
	FORM_NUMBER = 0,
	FORM_KERNEL_TEXT = 1,
	FORM_USER_TEXT = 2,
};

struct fetch {
	u8 place;
	u8 form;
	u8 bytes; /* of the number behind the last step */
	u8 steps;
	u8 user[STEPS]; /* whether the step is into the memory of the process */
	u8 zero;
	s32 offset[STEPS];
	u32 text_at; /* in the detail */
};

/* Set by user space before the program is loaded. */
struct probe {
	u32 id;
	u32 record_bytes;
	u32 arguments;
	u32 zero;
	struct fetch fetch[ARGUMENTS];
};

_Static_assert(sizeof(struct fetch) == 24 && sizeof(struct probe) == 16 + ARGUMENTS * 24, "src/points.rs counts on it");

const volatile struct probe probe SEC(".rodata.probe") = { .record_bytes = sizeof(struct record) };

struct probe_detail {
	u32 id;
	u32 unreadable; /* a bit an argument */
	u64 values[ARGUMENTS]; /* of a text its length, with the NUL */
	/* texts of TEXT_BYTES each */
};

INLINE u64 at_place(void *regs, u32 place)
{
	return place == PLACE_RETURN ? returned(regs) : argument(regs, place);
}

INLINE long load(void *to, u32 size, u64 from, bool user)
{
	return user ? bpf_probe_read_user(to, size, (void *)from) : bpf_probe_read_kernel(to, size, (void *)from);
}

/* Follows the steps of one argument. Returns whether that failed. `index` and what is in `probe` are constants. */
INLINE bool follow(u32 index, u64 *value)
{
	u32 steps = probe.fetch[index].steps;
	bool text = probe.fetch[index].form != FORM_NUMBER;
	bool failed = 0;
	u32 step;

#pragma clang loop unroll(full)
	for (step = 0; step < STEPS; step++) {
		bool user = probe.fetch[index].user[step];
		u64 from, to = 0;

		if (step >= steps)
			break;
		from = *value + (s64)probe.fetch[index].offset[step];
		if (step + 1 < steps) {
			failed |= load(&to, 8, from, user) != 0;
		} else if (text) {
			/* The text itself is there. */
			to = from;
		} else {
			switch (probe.fetch[index].bytes) {
			case 1:
				failed |= load(&to, 1, from, user) != 0;
				break;
			case 2:
				failed |= load(&to, 2, from, user) != 0;
				break;
			case 4:
				failed |= load(&to, 4, from, user) != 0;
				break;
			default:
				failed |= load(&to, 8, from, user) != 0;
			}
		}
		*value = to;
	}
	return failed;
}

SEC("kprobe")
int on_probe(void *regs)
{
	struct probe_detail *detail;
	struct record *r;
	u32 unreadable = 0;
	u32 i;

	if (is_self())
		return 0;
	/* Not a scratch: in user probes a program can be preempted by itself. */
	r = reserve_bytes(RECORD_PROBE, probe.record_bytes);
	if (!r)
		return 0;
	fill_current(r, RECORD_PROBE);
	r->len = probe.record_bytes;
	r->detail_len = probe.record_bytes - sizeof(*r);
	detail = (void *)(r + 1);
	detail->id = probe.id;
#pragma clang loop unroll(full)
	for (i = 0; i < ARGUMENTS; i++) {
		u32 form = probe.fetch[i].form;
		u64 value;
		long len;

		detail->values[i] = 0;
		if (i >= probe.arguments)
			continue;
		value = at_place(regs, probe.fetch[i].place);
		if (follow(i, &value)) {
			unreadable |= 1u << i;
			continue;
		}
		if (form != FORM_NUMBER) {
			void *text = (void *)detail + probe.fetch[i].text_at;

			len = form == FORM_USER_TEXT ? bpf_probe_read_user_str(text, TEXT_BYTES, (void *)value) :
						       bpf_probe_read_kernel_str(text, TEXT_BYTES, (void *)value);
			if (len <= 0)
				unreadable |= 1u << i;
			value = len;
		}
		detail->values[i] = value;
	}
	detail->unreadable = unreadable;
	submit(r);
	return 0;
}
