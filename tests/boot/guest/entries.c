// SPDX-License-Identifier: Apache-2.0
/*
 * Enters the kernel in all ways, again and again, and says how it goes.
 *
 * usage: entries beat          until it is ended, a line for each round
 *        entries stack MS      timer interrupts on a stack that is not there
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include "check.h"
#include "ways.h"

#define PAGE	4096UL
#define HOLE	((char *)0xfffffffefffff000)
#define FLAG_TF	0x100UL

static char altstack[65536] __attribute__((aligned(16)));
static volatile unsigned long alarms, steps;

static void on_alarm(int sig) { (void)sig; alarms++; }

static char *volatile absent;

/* On a static stack, which is another case for the entry. */
static void on_trap(int sig)
{
	uint64_t end;

	(void)sig;
	steps++;
	if (absent && steps % 4 == 0) {
		for (int i = 0; i < 4; i++)
			absent[i * PAGE] = 1;
		getppid();
		for (end = __builtin_ia32_rdtsc() + 300000; __builtin_ia32_rdtsc() < end;)
			;
	}
}

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* Take a page fault, for a byte to read, with the stack pointer anywhere. */
static void touch_on(char *stack, char *page)
{
	asm volatile("mov %%rsp, %%r12\n"
		     "mov %0, %%rsp\n"
		     "movb (%1), %%al\n"
		     "mov %%r12, %%rsp\n"
		     : : "r"(stack), "r"(page) : "rax", "r12", "memory");
}

/* Spin for some cycles with the stack pointer somewhere, without a single access there. */
static void spin_on(char *stack, uint64_t cycles)
{
	asm volatile("mov %%rsp, %%r12\n"
		     "mov %0, %%rsp\n"
		     "rdtsc\n"
		     "shl $32, %%rdx\n"
		     "or %%rdx, %%rax\n"
		     "lea (%%rax, %1), %%r13\n"
		     "1: rdtsc\n"
		     "shl $32, %%rdx\n"
		     "or %%rdx, %%rax\n"
		     "cmp %%r13, %%rax\n"
		     "jb 1b\n"
		     "mov %%r12, %%rsp\n"
		     : : "r"(stack), "r"(cycles) : "rax", "rdx", "r12", "r13", "memory", "cc");
}

static __attribute__((noinline)) unsigned long deep(unsigned long levels)
{
	volatile char room[3000];

	room[0] = (char)levels;
	return levels ? deep(levels - 1) + (unsigned char)room[0] : 0;
}

static int stack(long ms)
{
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
	stack_t alt = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART };
	size_t size = 64 * PAGE;
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct timespec nap = { 0, 10000000 };
	int64_t end = now_us() + ms * 1000, before;
	unsigned long rounds = 0, present = 0;
	unsigned char core[64];

	sigaltstack(&alt, NULL);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (now_us() < end) {
		/* Several ticks long; nothing is pushed there, so the pages must not appear. */
		spin_on(area + size - 16, 30000000);
		mincore(area, size, core);
		for (size_t i = 0; i < size / PAGE; i++)
			present += core[i] & 1;
		deep(200);
		rounds++;
	}
	/* The clock also goes on while the host does something else. */
	check(rounds > 0 && alarms * 2 >= rounds, "stack.alarms", "%lu in %lu rounds", alarms,
	      rounds);
	check(!present, "stack.not_touched", "%lu pages", present);
	memset(&every, 0, sizeof(every));
	setitimer(ITIMER_REAL, &every, NULL);
	before = now_us();
	nanosleep(&nap, NULL);
	check(now_us() - before < 5000000, "stack.timer_goes_on", "a nap took %ld us",
	      (long)(now_us() - before));
	return check_failed;
}

static char static_stack[256] __attribute__((aligned(16)));

/* Take single steps with the stack pointer anywhere. */
static void step_on(char *stack)
{
	asm volatile("mov %%rsp, %%r12\n"
		     "pushfq\n"
		     "orq %1, (%%rsp)\n"
		     "popfq\n"
		     "mov %0, %%rsp\n"
		     "nop\n"
		     "mov %%r12, %%rsp\n"
		     "pushfq\n"
		     "andq %2, (%%rsp)\n"
		     "popfq\n"
		     : : "r"(stack), "i"(FLAG_TF), "i"(~FLAG_TF) : "r12", "memory", "cc");
}

static void beat(void)
{
	stack_t alt = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	struct sigaction action = { .sa_handler = on_trap, .sa_flags = SA_ONSTACK };
	char *area = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long round, wrong = 0;
	int fds[2];
	long pid = getpid();

	sigaltstack(&alt, NULL);
	sigaction(SIGTRAP, &action, NULL);
	if (pipe(fds))
		_exit(1);
	for (round = 0;; round++) {
		unsigned long before = steps;

		/* Page faults of the program's own, and of the kernel on its behalf. */
		madvise(area, 16 * PAGE, MADV_DONTNEED);
		for (int i = 0; i < 8; i++)
			area[i * PAGE] = (char)i;
		for (int i = 8; i < 16; i++) {
			area[0] = 'x';
			wrong += write(fds[1], area, 1) != 1 || read(fds[0], area + i * PAGE, 1) != 1;
			wrong += area[i * PAGE] != 'x';
		}
		for (int i = 0; i < 20; i++) {
			wrong += by_call(SYS_getpid, 0, 0, 0) != pid;
			wrong += by_function(SYS_getpid, 0, 0, 0) != pid;
			wrong += syscall(SYS_getpid) != pid;
		}
		/* A step: #DB. */
		madvise(area, 16 * PAGE, MADV_DONTNEED);
		absent = area;
		step_on(area + PAGE);
		step_on(static_stack + sizeof(static_stack));
		step_on(HOLE);
		wrong += steps < before + 3;
		/* Ticks, on a stack that is not there. */
		madvise(area, 16 * PAGE, MADV_DONTNEED);
		spin_on(area + 8 * PAGE, 3000000);
		/* And on one that cannot be: the hole below the kernel's image. */
		touch_on(HOLE, area);
		spin_on(HOLE, 3000000);
		if (round % 16 == 0) {
			char line[64];
			int n = snprintf(line, sizeof(line), "beat %lu %lu\n", round, wrong);

			wrong += write(1, line, n) != n;
		}
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 2 && !strcmp(argv[1], "stack"))
		return stack(atol(argv[2]));
	beat();
	return 0;
}
