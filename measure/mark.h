/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How a program in the guest tells the plugin where it is: by an instruction that does nothing
 * in either ring, NOP with a displacement that no compiler and no assembler makes.
 */
#ifndef MARK_H
#define MARK_H

#define MARK_PLACE 0x554b4c00 /* "UKL", and the mark */

#ifndef __ASSEMBLER__
#include <stdio.h>
#include <x86intrin.h>

enum {
	MARK_LOAD, /* the task that executes it makes the requests, and is no part of what is measured */
	MARK_BEGIN,
	MARK_END,
	MARK_READY, /* the application has answered for the first time */
};

#define mark(which) asm volatile("nopl %c0(%%rax)" ::"i"(MARK_PLACE + (which)) : "memory")

/* By -icount the counter is that of the guest's nanoseconds since power-on, the firmware's too. */
static inline void ready(void)
{
	unsigned long long now = __rdtsc();

	mark(MARK_READY);
	printf("bench: ready at %llu\n", now);
}
#endif

#endif
