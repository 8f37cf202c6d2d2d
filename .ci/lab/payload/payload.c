// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Plays an exploit, in a guest that is thrown away: takes SMEP and SMAP away and has code in memory of the process call
 * prepare_kernel_cred. The kernel needs `nopti` for it. */
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/uaccess.h>

/* sub $8, %rsp; mov %rdi, %rax; mov %rsi, %rdi; call *%rax; add $8, %rsp; ret */
static const u8 code[] = { 0x48, 0x83, 0xec, 0x08, 0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7,
			   0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3 };

typedef void *(*caller)(void *function, void *argument);

static int __init payload_init(void)
{
	unsigned long page, cr4;
	struct cred *cred;

	page = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(page))
		return page;
	if (copy_to_user((void __user *)page, code, sizeof(code)))
		return -EFAULT;
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" : : "r"(cr4 & ~(1ul << 20 | 1ul << 21)) : "memory");
	cred = ((caller)page)(prepare_kernel_cred, NULL);
	asm volatile("mov %0, %%cr4" : : "r"(cr4) : "memory");
	vm_munmap(page, PAGE_SIZE);
	if (cred)
		abort_creds(cred);
	return cred ? 0 : -ENOMEM;
}

static void __exit payload_exit(void)
{
}

module_init(payload_init);
module_exit(payload_exit);
MODULE_DESCRIPTION("A kernel payload, for a test");
MODULE_LICENSE("Dual BSD/GPL");
