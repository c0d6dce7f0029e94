/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_UKL_H
#define _LINUX_UKL_H

#include <linux/types.h>

struct mm_struct;
struct page;
struct pt_regs;

/*
 * What the file CONFIG_UKL_NAME begins with: e_ident of a 64-bit ELF file, for
 * debuggers look there for what a process is, with a name in the padding.
 */
#define UKL_MAGIC	"\177ELF\2\1\1\0\0UKL app"
#define UKL_MAGIC_LEN	16

#ifdef CONFIG_UNIKERNEL_LINUX
#define mm_is_ukl(mm)	((mm)->context.ukl != NULL)

bool ukl_is_private(struct mm_struct *mm, unsigned long addr);
int ukl_get_gate_page(struct mm_struct *mm, unsigned long addr,
		      unsigned int gup_flags, struct page **page);
void __noreturn ukl_exit_init(int code);

long ukl__x64_sys_read(const struct pt_regs *regs);
long ukl__x64_sys_write(const struct pt_regs *regs);
long ukl__x64_sys_sendto(const struct pt_regs *regs);
long ukl__x64_sys_recvfrom(const struct pt_regs *regs);
long ukl__x64_sys_epoll_wait(const struct pt_regs *regs);
#else
static inline bool mm_is_ukl(struct mm_struct *mm)
{
	return false;
}

static inline bool ukl_is_private(struct mm_struct *mm, unsigned long addr)
{
	return false;
}

static inline int ukl_get_gate_page(struct mm_struct *mm, unsigned long addr,
				    unsigned int gup_flags, struct page **page)
{
	return -EFAULT;
}

static inline void ukl_exit_init(int code) { }
#endif

#endif
