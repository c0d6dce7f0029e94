// SPDX-License-Identifier: Apache-2.0
/*
 * Crashes in the way that is asked for, for what ukl-run says of it.
 *
 *     crash WAY
 *
 * Each way is a function of its own, so that a report has a name to find.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define APART	__attribute__((noinline, noclone))

static volatile unsigned long zero;
static const char constant[] = "constant";
static unsigned char code[16] = { 0xc3 };

APART static void null(void)
{
	*(volatile int *)zero = 1;
}

static inline __attribute__((always_inline)) void store(unsigned long where)
{
	*(volatile int *)where = 1;
}

APART static void inlined(void)
{
	store(zero + 64);
}

APART static void wild(void)
{
	(void)*(volatile int *)(zero + 0x123456789000UL);
}

APART static void noncanonical(void)
{
	(void)*(volatile int *)(zero + 0x6b6b6b6b6b6b6b6bUL);
}

APART static void kernel(void)
{
	(void)*(volatile int *)(zero + 0xffffc00000000000UL);
}

APART static int overflow(int depth)
{
	volatile char room[4096];

	room[0] = depth;
	return depth < 0 ? 0 : overflow(depth + 1) + room[0];
}

APART static void readonly(void)
{
	*(volatile char *)(zero + (unsigned long)constant) = 'C';
}

APART static void data(void)
{
	((void (*)(void))(zero + (unsigned long)code))();
}

APART static void user_data(void)
{
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);

	page[0] = 0xc3;
	((void (*)(void))page)();
}

APART static void jump(void)
{
	((void (*)(void))(zero + 0x123456789000UL))();
}

APART static int divide(int by)
{
	return 1000 / by;
}

APART static void illegal(void)
{
	__builtin_trap();
}

APART static void newer(void)
{
	__asm__ volatile("vpxord %zmm0, %zmm0, %zmm0");
}

APART static void privileged(void)
{
	/* No task is in the local table: ring 0 is refused by it, ring 3 by the instruction. */
	__asm__ volatile("ltr %w0" : : "r"(4));
}

APART static void aborts(void)
{
	abort();
}

APART static void asserts(void)
{
	assert(zero == 1);
}

APART static void library(void)
{
	memset((void *)zero, 1, 100000);
}

APART static void smashed(void)
{
	extern void __stack_chk_fail(void);

	__stack_chk_fail();
}

APART static void freed(void)
{
	/* Larger than what its lists of small blocks take. */
	char *volatile block = malloc(5000), *volatile next = malloc(5000);

	free(block);
	free(block);
	free(next);
}

APART static void memory(void)
{
	for (;;)
		memset(malloc(1 << 20), 1, 1 << 20);
}

APART static void unsupported(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	printf("mmap: %s\n", strerror(page == MAP_FAILED ? errno : 0));
	fflush(stdout);
	aborts();
}

APART static void enosys(void)
{
	long ret = syscall(SYS_bpf, 0, NULL, 0);

	printf("bpf: %s\n", strerror(ret < 0 ? errno : 0));
	fflush(stdout);
	aborts();
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*crash)(void); } ways[] = {
		{ "null", null }, { "inlined", inlined }, { "wild", wild },
		{ "noncanonical", noncanonical }, { "kernel", kernel },
		{ "readonly", readonly }, { "data", data }, { "user-data", user_data },
		{ "jump", jump }, { "illegal", illegal }, { "newer", newer },
		{ "privileged", privileged }, { "aborts", aborts }, { "asserts", asserts },
		{ "library", library }, { "smashed", smashed }, { "freed", freed },
		{ "memory", memory }, { "unsupported", unsupported }, { "enosys", enosys },
	};
	const char *way = argc > 1 ? argv[1] : "";

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (!strcmp(way, ways[i].name))
			ways[i].crash();
	if (!strcmp(way, "overflow"))
		return overflow(0);
	if (!strcmp(way, "divide"))
		return divide(zero);
	return 2;
}
