// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The cgroups that come and go, so that the reader knows the path of each before a process is in it. */
#include "common.h"

/* TRACE_CGROUP_PATH_LEN of kernel/cgroup/cgroup-internal.h */
#define CGROUP_PATH_BYTES 1024

struct cgroup_detail {
	u64 id;
	u32 hierarchy; /* 0: version 2; else the kernel's number */
	u32 removed;
};

struct cgroup_record {
	struct record record;
	struct cgroup_detail detail;
	u8 path[CGROUP_PATH_BYTES];
};

_Static_assert(sizeof(struct cgroup_detail) == 16, "src/record/cgroup.rs counts on it");

/* The hierarchy of version 1 that is looked at; 0: none. */
const volatile u32 legacy_hierarchy SEC(".rodata.legacy") = 0;

/* One for all: the kernel calls these tracepoints with a lock held, that of the buffer that the path is in. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct cgroup_record);
} cgroup_scratch SEC(".maps");

INLINE void send_cgroup(struct cgroup *cgroup, const char *path, u32 removed)
{
	u32 hierarchy = cgroup->root->hierarchy_id, zero = 0, size;
	struct cgroup_record *s;
	long len;

	if (hierarchy && hierarchy != legacy_hierarchy)
		return;
	s = bpf_map_lookup_elem(&cgroup_scratch, &zero);
	if (!s)
		return;
	fill_current(&s->record, RECORD_CGROUP);
	s->detail.id = cgroup->kn->id;
	s->detail.hierarchy = hierarchy;
	s->detail.removed = removed;
	s->record.detail_len = sizeof(s->detail);
	len = bpf_probe_read_kernel_str(s->path, sizeof(s->path), path);
	size = len > 0 ? len - 1 : 0;
	opaque(size);
	if (size >= sizeof(s->path))
		return;
	if (len <= 0)
		s->record.flags |= FLAG_TEXT_UNKNOWN;
	if (size == sizeof(s->path) - 1)
		s->record.flags |= FLAG_TEXT_CUT;
	s->record.text_len = size;
	size += sizeof(s->record) + sizeof(s->detail);
	s->record.len = size;
	if (bpf_ringbuf_output(&process_ring, s, size, BPF_RB_NO_WAKEUP))
		count_loss(RECORD_CGROUP, LOST_FULL);
	/* The sooner what a container is can be looked up, the likelier it is known when its first program runs. */
	wake(removed ? wake_bytes() : 0);
}

SEC("tp_btf/cgroup_mkdir")
int on_cgroup_mkdir(u64 *ctx)
{
	send_cgroup((void *)ctx[0], (void *)ctx[1], 0);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int on_cgroup_rmdir(u64 *ctx)
{
	send_cgroup((void *)ctx[0], (void *)ctx[1], 1);
	return 0;
}
