// SPDX-License-Identifier: Apache-2.0
/*
 * What is to be counted, of a length that is known.
 *
 *     counted ROUNDS CALLS		that many rounds of two instructions, then system calls
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../../measure/mark.h"

/* Nothing is between the marks but what is here. */
static void loop(long rounds)
{
	asm volatile("nopl %c1(%%rax)\n"
		     "1: dec %0\n"
		     "jnz 1b\n"
		     "nopl %c2(%%rax)"
		     : "+r"(rounds)
		     : "i"(MARK_PLACE + MARK_BEGIN), "i"(MARK_PLACE + MARK_END)
		     : "cc", "memory");
}

static void calls(long n)
{
	mark(MARK_BEGIN);
	for (long i = 0; i < n; i++)
		syscall(SYS_getppid);
	mark(MARK_END);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	printf("bench: 1 1 loop\nbench: 1 1 calls\n");
	fflush(stdout);
	/* Once before, so that no page is missing. */
	syscall(SYS_getppid);
	loop(atol(argv[1]));
	calls(atol(argv[2]));
	puts("bench: done");
	return 0;
}
