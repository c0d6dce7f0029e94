/* SPDX-License-Identifier: Apache-2.0 */
/* In which ring a program is, and the ways in which it may make a system call. */
#ifndef RING_H
#define RING_H

#define UNUSED __attribute__((unused))

UNUSED static int ring(void)
{
	unsigned short cs;

	asm("mov %%cs, %0" : "=r"(cs));
	return cs & 3;
}

/* The kernel's entry; ways.h has one for ring 3. */
UNUSED static long by_call(long nr, long a, long b, long c)
{
	long ret;

	asm volatile("call ukl_syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c)
		     : "rcx", "r11", "memory");
	return ret;
}

#define GATES	451
extern long (*const gates[GATES])(void);	/* ukl_sys_0 and so on, see ways.h */

/* What the C library does where the number is a constant. */
UNUSED static long by_function(long nr, long a, long b, long c)
{
	long ret;

	if ((unsigned long)nr >= GATES)
		return by_call(nr, a, b, c);
	asm volatile("call *%[gate]" : "=a"(ret), "+D"(a), "+S"(b), "+d"(c) : [gate] "m"(gates[nr])
		     : "rcx", "r8", "r9", "r10", "r11", "cc", "memory");
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
