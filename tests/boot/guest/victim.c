// SPDX-License-Identifier: Apache-2.0
/*
 * What happens to the application: crashes, other instances of it, other processes.
 *
 *     victim exit                ends at once
 *     victim crash KIND          dies in one of several ways
 *     victim hold BYTE           fills its data, says so with a byte on 3, waits for one on 4,
 *                                ends with 0 if all is as it was
 *     victim traceme             asks its parent to trace it; ends with the error
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/ptrace.h>
#include "check.h"

#define HOLE	0xffffffff00000000UL

static volatile unsigned char in_data[20000] = { 1 };
static volatile unsigned char in_bss[20000];

int victim_main(int argc, char **argv);

static void __attribute__((noinline)) crash(const char *kind)
{
	if (!strcmp(kind, "null_call")) {
		asm volatile("call *%0" : : "r"(0UL) : "memory");
	} else if (!strcmp(kind, "wild_read")) {
		(void)*(volatile char *)HOLE;
	} else if (!strcmp(kind, "wild_write")) {
		*(volatile char *)HOLE = 1;
	} else if (!strcmp(kind, "wild_call")) {
		asm volatile("call *%0" : : "r"(HOLE) : "memory");
	} else if (!strcmp(kind, "wild_stack")) {
		asm volatile("mov %0, %%rsp; push %%rax" : : "r"(HOLE) : "memory");
	} else if (!strcmp(kind, "user_stack")) {
		asm volatile("mov %0, %%rsp; push %%rax" : : "r"(0x10UL) : "memory");
	} else if (!strcmp(kind, "divide")) {
		asm volatile("div %0" : : "r"(0UL), "a"(1UL), "d"(0UL));
	} else if (!strcmp(kind, "undefined")) {
		asm volatile("ud2");
	} else if (!strcmp(kind, "breakpoint")) {
		asm volatile("int3");
	} else if (!strcmp(kind, "abort")) {
		abort();
	} else if (!strcmp(kind, "overflow")) {
		asm volatile("1: push %rax; jmp 1b");
	} else if (!strcmp(kind, "call_stack")) {
		unsigned char code[16] = { 0xc3 };

		asm volatile("call *%0" : : "r"(code) : "memory");
	} else if (!strcmp(kind, "call_mapping")) {
		unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		code[0] = 0xc3;
		asm volatile("call *%0" : : "r"(code) : "memory");
	} else if (!strcmp(kind, "write_text")) {
		*(volatile char *)victim_main = 1;
	}
}

static int hold(unsigned char byte)
{
	char c = 0;

	if (in_data[0] != 1 || in_bss[0] || in_bss[sizeof(in_bss) - 1])
		return 3;
	memset((void *)in_data, byte, sizeof(in_data));
	memset((void *)in_bss, byte, sizeof(in_bss));
	if (write(3, "x", 1) != 1 || read(4, &c, 1) != 1)
		return 4;
	for (unsigned int i = 0; i < sizeof(in_data); i++)
		if (in_data[i] != byte || in_bss[i] != byte)
			return 5;
	return 0;
}

int victim_main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "exit"))
		return 0;
	if (!strcmp(what, "crash") && argc > 2)
		crash(argv[2]);
	else if (!strcmp(what, "hold") && argc > 2)
		return hold((unsigned char)atoi(argv[2]));
	else if (!strcmp(what, "traceme"))
		return ptrace(PTRACE_TRACEME, 0, 0, 0) ? errno : 0;
	return 2;
}
