/* SPDX-License-Identifier: Apache-2.0 */
/* In which ring a program is, and the two ways in which it may make a system call. */
#ifndef RING_H
#define RING_H

#define UNUSED __attribute__((unused))

UNUSED static int ring(void)
{
	unsigned short cs;

	asm("mov %%cs, %0" : "=r"(cs));
	return cs & 3;
}

/* The kernel's entry; context.c has one for ring 3. */
UNUSED static long by_call(long nr, long a, long b, long c)
{
	long ret;

	asm volatile("call ukl_syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c)
		     : "rcx", "r11", "memory");
	return ret;
}

UNUSED static long by_instruction(long nr, long a, long b, long c)
{
	long ret;

	asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c)
		     : "rcx", "r11", "memory");
	return ret;
}

#endif
