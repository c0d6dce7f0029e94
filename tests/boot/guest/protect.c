// SPDX-License-Identifier: Apache-2.0
/*
 * Which of the processor's protections are on; only ring 0 may ask.
 *
 *     protect pti|nopti          also, whether the kernel separates the page tables
 *     protect spin               do nothing until killed, so that the host can look
 */
#include <fcntl.h>
#include "check.h"

static volatile unsigned long spins;

static unsigned long read_msr(unsigned int msr)
{
	unsigned int low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (unsigned long)high << 32 | low;
}

int protect_main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned long cr0, cr4, efer;
	char text[100] = "";
	int fd;

	if (!strcmp(what, "spin"))
		for (;;)
			spins++;
	asm volatile("mov %%cr0, %0" : "=r"(cr0));
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	efer = read_msr(0xc0000080);
	check(cr0 >> 16 & 1, "protect.wp", "cr0 %lx", cr0);
	check(cr4 >> 20 & 1, "protect.smep", "cr4 %lx", cr4);
	check(cr4 >> 21 & 1, "protect.smap", "cr4 %lx", cr4);
	check(cr4 >> 11 & 1, "protect.umip", "cr4 %lx", cr4);
	check(efer >> 11 & 1, "protect.nx", "efer %lx", efer);
	printf("# la57 %lu\n", cr4 >> 12 & 1);
	fflush(stdout);

	fd = open("/sys/devices/system/cpu/vulnerabilities/meltdown", O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		snprintf(text, sizeof(text), "errno %d", errno);
	check(!!strstr(text, "Mitigation: PTI") == !strcmp(what, "pti"), "protect.pti",
	      "%s, but the kernel says: %s", what, text);
	return check_failed;
}
