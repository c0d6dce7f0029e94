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
#include <time.h>
#include <x86intrin.h>

enum {
	MARK_LOAD, /* the task that executes it makes the requests, and is no part of what is measured */
	MARK_BEGIN,
	MARK_END,
	MARK_READY, /* the application has answered for the first time */
};

#define mark(which) asm volatile("nopl %c0(%%rax)" ::"i"(MARK_PLACE + (which)) : "memory")

/* What is between is a batch: counted by the plugin, timed by the guest's clock without it. */
static inline long long begin(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	mark(MARK_BEGIN);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Return the nanoseconds since begin() returned @begun. */
static inline long long end(long long begun)
{
	struct timespec now;

	mark(MARK_END);
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec - begun;
}

/* When all batches are over: a console takes its time. */
static inline void say_times(const long long *took, int batches)
{
	printf("bench: took");
	for (int i = 0; i < batches; i++)
		printf(" %lld", took[i]);
	putchar('\n');
	fflush(stdout);
}

/* By -icount the counter is that of the guest's nanoseconds since power-on, the firmware's too. */
static inline void ready(void)
{
	unsigned long long now = __rdtsc();

	mark(MARK_READY);
	printf("bench: ready at %llu\n", now);
}
#endif

#endif
