/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Helper numbers (include/uapi/linux/bpf.h), map declarations and CO-RE built-ins. They are here so that the object
 * depends on the compiler alone, not on which libbpf headers are installed. */
#ifndef SLS_HELPERS_H
#define SLS_HELPERS_H

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NULL ((void *)0)

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum { BPF_F_NO_PREALLOC = 1 };
enum { BPF_NOEXIST = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0, BPF_RB_PROD_POS = 3 };

#define MAP_UINT(name, value) int(*name)[value]
#define MAP_TYPE(name, value) value *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_get_current_comm)(void *to, u32 size) = (void *)16;
static u64 (*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_send_signal)(u32 signal) = (void *)109;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*bpf_map_push_elem)(void *map, const void *value, u64 flags) = (void *)87;
static long (*bpf_probe_read_user_str)(void *to, u32 size, const void *from) = (void *)114;
/* Linux 5.11 and 5.17. */
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static long (*bpf_find_vma)(struct task_struct *task, u64 address, void *callback, void *context, u64 flags) = (void *)180;
static u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*bpf_seq_write)(struct seq_file *seq, const void *data, u32 len) = (void *)127;
static long (*bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static void *(*bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, u64 flags) = (void *)133;
static u64 (*bpf_ringbuf_query)(void *ring, u64 flags) = (void *)134;

/* Arguments of __builtin_preserve_field_info and __builtin_preserve_type_info. */
enum { FIELD_BYTE_OFFSET = 0, FIELD_BYTE_SIZE = 1, FIELD_EXISTS = 2, TYPE_SIZE = 1, ENUM_EXISTS = 0, ENUM_VALUE = 1 };

#define field_exists(field) __builtin_preserve_field_info(field, FIELD_EXISTS)
#define field_offset(type, field) __builtin_preserve_field_info(((type *)0)->field, FIELD_BYTE_OFFSET)
#define enum_exists(type, value) __builtin_preserve_enum_value(*(type *)value, ENUM_EXISTS)
/* The number that the running kernel gives an enumerator. */
#define enum_value(type, value) __builtin_preserve_enum_value(*(type *)value, ENUM_VALUE)
#define type_size(type) __builtin_preserve_type_info(*(type *)0, TYPE_SIZE)
/* For pointers whose type the verifier does not know. 0 if the memory cannot be read. */
#define read(type, pointer, field)                                                               \
	({                                                                                       \
		const void *base_ = (const void *)(pointer);                                     \
		typeof(((type *)0)->field) value_ = 0;                                           \
		bpf_probe_read_kernel(&value_, sizeof(value_),                                   \
				      __builtin_preserve_access_index(&((type *)base_)->field)); \
		value_;                                                                          \
	})
/* Keeps the compiler from using what it knows about a value: the verifier must see the check on the same register. */
#define opaque(value) asm volatile("" : "+r"(value))

#endif
