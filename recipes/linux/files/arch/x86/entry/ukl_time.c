// SPDX-License-Identifier: GPL-2.0
/*
 * The time without a system call: what the vDSO is to a process at CPL 3.
 *
 * At CPL 0 the vDSO's pages cannot be executed, they are the user's (SMEP). So
 * its code stands here a second time, as application text: it can fault, be
 * interrupted and get signals on the application's stack, takes no lock, and
 * calls nothing of the kernel. It reads the kernel's own copy of the data.
 */
#include <asm/cpufeatures.h>	/* first: <asm/segment.h> takes it for granted */
#include <linux/compiler.h>
#include <linux/init.h>
#include <linux/time.h>
#include <linux/types.h>
#include <asm/pvclock.h>
#include <asm/segment.h>
#include <asm/ukl.h>

/* The vDSO has it at a fixed place in its own image. */
#define pvclock_page (*ukl_pvclock_page)

#include "../../../lib/vdso/gettimeofday.c"

/* flatten: nothing may stay outside of the section. */
#define __flatten	__attribute__((flatten))
#define __ukl_text	__section(".ukl.text")

struct pvclock_vsyscall_time_info *ukl_pvclock_page __ro_after_init;

/* For the clocks that only the kernel can read. */
static __always_inline long ukl_call(long nr, const void *one, const void *two)
{
	long ret;

	asm volatile("call ukl_syscall"
		     : "=a" (ret), ASM_CALL_CONSTRAINT
		     : "0" (nr), "D" (one), "S" (two)
		     : "rcx", "r11", "cc", "memory");
	return ret;
}

int __ukl_text __flatten ukl_clock_gettime(clockid_t clock, struct __kernel_timespec *ts)
{
	if (unlikely(__cvdso_clock_gettime_common(_vdso_data, clock, ts)))
		return ukl_call(__NR_clock_gettime, (void *)(long)clock, ts);
	return 0;
}

int __ukl_text __flatten ukl_clock_getres(clockid_t clock, struct __kernel_timespec *res)
{
	if (unlikely(__cvdso_clock_getres_common(_vdso_data, clock, res)))
		return ukl_call(__NR_clock_getres, (void *)(long)clock, res);
	return 0;
}

int __ukl_text __flatten ukl_gettimeofday(struct __kernel_old_timeval *tv, struct timezone *tz)
{
	struct __kernel_timespec ts;

	if (unlikely(tz || !tv ||
		     __cvdso_clock_gettime_common(_vdso_data, CLOCK_REALTIME, &ts)))
		return ukl_call(__NR_gettimeofday, tv, tz);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = (u32)ts.tv_nsec / NSEC_PER_USEC;
	return 0;
}

__kernel_old_time_t __ukl_text __flatten ukl_time(__kernel_old_time_t *t)
{
	return __cvdso_time_data(_vdso_data, t);
}

long __ukl_text __flatten ukl_getcpu(unsigned int *cpu, unsigned int *node, void *unused)
{
	vdso_read_cpunode(cpu, node);
	return 0;
}

static int __init ukl_time_init(void)
{
	ukl_pvclock_page = pvclock_get_pvti_cpu0_va();
	return 0;
}
core_initcall(ukl_time_init);
