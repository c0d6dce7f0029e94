/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_UKL_H
#define _LINUX_UKL_H

#include <linux/types.h>

struct mm_struct;

/* What the file CONFIG_UKL_NAME begins with. */
#define UKL_MAGIC	"\x7fUKL application"
#define UKL_MAGIC_LEN	16

#ifdef CONFIG_UNIKERNEL_LINUX
#define mm_is_ukl(mm)	((mm)->context.ukl != NULL)

void __noreturn ukl_exit_init(int code);
#else
static inline bool mm_is_ukl(struct mm_struct *mm)
{
	return false;
}

static inline void ukl_exit_init(int code) { }
#endif

#endif
