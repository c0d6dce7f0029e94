// SPDX-License-Identifier: GPL-2.0
/*
 * Where an application at CPL 0 executes SYSCALL instead of calling
 * ukl_syscall(), and how often: code that was not built for CPL 0.
 */
#include <linux/atomic.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <asm/syscall.h>

#define UKL_NR_STRAYS	256	/* what does not fit is counted as one */
#define SYSCALL_INSN	2	/* bytes */

/* An open hash table by address, to which entries are only added. */
static struct ukl_stray {
	unsigned long ip;
	atomic_long_t hits;
} ukl_strays[UKL_NR_STRAYS];

static atomic_long_t ukl_other_strays;

/* Runs before the kernel knows that it was entered. */
noinstr void ukl_count_stray(unsigned long return_ip)
{
	unsigned long ip = return_ip - SYSCALL_INSN;
	struct ukl_stray *stray;
	unsigned long old;
	unsigned int i;

	for (i = 0; i < UKL_NR_STRAYS; i++) {
		stray = &ukl_strays[(ip + i) % UKL_NR_STRAYS];
		old = arch_cmpxchg(&stray->ip, 0, ip);
		if (!old || old == ip) {
			arch_atomic_long_inc(&stray->hits);
			return;
		}
	}
	arch_atomic_long_inc(&ukl_other_strays);
}

static int ukl_strays_show(struct seq_file *m, void *v)
{
	long others = atomic_long_read(&ukl_other_strays);
	struct ukl_stray *stray;

	for (stray = ukl_strays; stray < ukl_strays + UKL_NR_STRAYS; stray++)
		if (stray->ip)
			seq_printf(m, "%ld %pS\n", atomic_long_read(&stray->hits),
				   (void *)stray->ip);
	if (others)
		seq_printf(m, "%ld others\n", others);
	return 0;
}

static int __init ukl_strays_init(void)
{
	return proc_create_single("ukl_syscalls", 0400, NULL, ukl_strays_show) ? 0 : -ENOMEM;
}
fs_initcall(ukl_strays_init);
