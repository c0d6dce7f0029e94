// SPDX-License-Identifier: Apache-2.0
/*
 * What the application gets for a bad access: the same as an ordinary process.
 *
 * The same source runs in both rings.  In ring 3 it shows that the expectation
 * is right, in ring 0 that it holds there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "check.h"
#include "ring.h"

static sigjmp_buf back;
static volatile siginfo_t got;
static char altstack[65536] __attribute__((aligned(16)));
static const char readonly[4096] __attribute__((aligned(4096))) = "constant";
static char data[4096] __attribute__((aligned(4096))) = "data";

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	got = *info;
	siglongjmp(back, 1);
}

#define ANY ((void *)-1)

static void expect(const char *name, int sig, int code, const void *addr)
{
	char full[100];

	snprintf(full, sizeof(full), "faults.%s", name);
	check(got.si_signo == sig && got.si_code == code &&
	      (addr == ANY || got.si_addr == addr), full,
	      "signal %d code %d address %p, expected %d %d %p", got.si_signo,
	      got.si_code, got.si_addr, sig, code, addr);
}

/* Run a statement that is expected to fault. */
#define RUN(statement) do {						\
	memset((void *)&got, 0, sizeof(got));				\
	if (!sigsetjmp(back, 1)) {					\
		statement;						\
	}								\
} while (0)

#define FAULT(name, sig, code, addr, statement) do {			\
	RUN(statement);							\
	expect(name, sig, code, addr);					\
} while (0)

/*
 * Where QEMU raises other exceptions than a processor, or the number of paging levels decides, the
 * host compares what both rings got.
 */
#define SAME(name, statement) do {					\
	RUN(statement);							\
	check(got.si_signo != 0, "faults." name ".faults", "no signal");	\
	printf("# same faults.%s %d %d\n", name, got.si_signo, got.si_code);	\
	fflush(stdout);							\
} while (0)

#define READ(p)		((void)*(volatile char *)(p))
#define WRITE(p)	(*(volatile char *)(p) = 1)
#define CALL(p)		asm volatile("call *%0" : : "r"((unsigned long)(p)) : "memory")
/* Push on a wild stack; the handler has one of its own. */
#define PUSH(sp)	asm volatile("mov %%rsp, %%r12; mov %0, %%rsp; push %%rax; mov %%r12, %%rsp" \
				     : : "r"((unsigned long)(sp)) : "r12", "memory")

static int end_of_child(void (*body)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		body();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void kill_child(const char *name, void (*body)(void), int sig)
{
	int status = end_of_child(body);
	char full[100];

	snprintf(full, sizeof(full), "faults.death.%s", name);
	check(WIFSIGNALED(status) && WTERMSIG(status) == sig, full, "status %x", status);
}

static void die_null_call(void) { CALL(NULL); }
static void die_wild_read(void) { READ(0xffffffff00000000); }
static void die_wild_stack(void) { PUSH(0xffffffff00000000); }
static void die_user_stack(void) { PUSH(0x10); }
static void die_noncanonical_stack(void) { PUSH(0x8000000000000000); }
static void die_wild_return(void)
{
	asm volatile("push %0; ret" : : "r"(0x8000000000000000));
}
static void die_stack_overflow(void)
{
	asm volatile("1: push %rax; jmp 1b");
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *unmapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fds[2], status, sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };

	munmap(unmapped, 4096);
	page[0] = (char)0xc3;
	sigaltstack(&stack, NULL);
	for (unsigned int i = 0; i < sizeof(sigs) / sizeof(*sigs); i++)
		sigaction(sigs[i], &action, NULL);
	printf("# ring %d\n", ring());
	fflush(stdout);

	FAULT("read_unmapped", SIGSEGV, SEGV_MAPERR, unmapped + 5, READ(unmapped + 5));
	FAULT("write_unmapped", SIGSEGV, SEGV_MAPERR, unmapped + 5, WRITE(unmapped + 5));
	FAULT("read_null", SIGSEGV, SEGV_MAPERR, NULL, READ(NULL));
	FAULT("call_null", SIGSEGV, SEGV_MAPERR, NULL, CALL(NULL));
	FAULT("call_unmapped", SIGSEGV, SEGV_MAPERR, unmapped, CALL(unmapped));
	FAULT("read_prot_none", SIGSEGV, SEGV_ACCERR, none, READ(none));
	FAULT("write_prot_none", SIGSEGV, SEGV_ACCERR, none + 4096, WRITE(none + 4096));
	FAULT("write_read_only", SIGSEGV, SEGV_ACCERR, constant, WRITE(constant));
	FAULT("write_own_rodata", SIGSEGV, SEGV_ACCERR, readonly + 1, WRITE(readonly + 1));
	FAULT("write_own_text", SIGSEGV, SEGV_ACCERR, (char *)expect, WRITE(expect));
	FAULT("call_user_memory", SIGSEGV, SEGV_ACCERR, page, CALL(page));
	FAULT("call_own_data", SIGSEGV, SEGV_ACCERR, data, CALL(data));
	FAULT("read_noncanonical", SIGSEGV, SI_KERNEL, NULL, READ(0x8000000000000000));
	FAULT("call_noncanonical", SIGSEGV, SI_KERNEL, NULL, CALL(0x8000000000000000));
	FAULT("read_kernel_hole", SIGSEGV, SEGV_MAPERR, (char *)0xffffffff00000000,
	      READ(0xffffffff00000000));
	FAULT("call_kernel_hole", SIGSEGV, SEGV_MAPERR, (char *)0xffffffff00000000,
	      CALL(0xffffffff00000000));
	FAULT("stack_null", SIGSEGV, SEGV_MAPERR, (char *)8, PUSH(0x10));
	FAULT("stack_unmapped", SIGSEGV, SEGV_MAPERR, unmapped + 8, PUSH(unmapped + 16));
	FAULT("stack_prot_none", SIGSEGV, SEGV_ACCERR, none + 8, PUSH(none + 16));
	FAULT("stack_kernel_hole", SIGSEGV, SEGV_MAPERR, (char *)0xfffffffeffffff00,
	      PUSH(0xfffffffeffffff08));
	SAME("stack_noncanonical", PUSH(0x8000000000000000));
	SAME("stack_noncanonical_low", PUSH(0x0100000000000000));
	FAULT("undefined_instruction", SIGILL, ILL_ILLOPN, ANY, asm volatile("ud2"));
	FAULT("divide_by_zero", SIGFPE, FPE_INTDIV, ANY,
	      asm volatile("div %0" : : "r"(0), "a"(1), "d"(0)));
	FAULT("breakpoint", SIGTRAP, SI_KERNEL, ANY, asm volatile("int3"));
	SAME("icebp", asm volatile(".byte 0xf1"));

	/* The kernel must not be made to do what the program cannot. */
	if (pipe2(fds, O_NONBLOCK) < 0)
		return 1;
	check(write(fds[1], readonly, 8) == 8, "faults.write_from_rodata", "errno %d", errno);
	check(read(fds[0], data, 8) == 8 && !memcmp(data, readonly, 8), "faults.read_to_data",
	      "errno %d", errno);
	check(write(fds[1], data, 8) == 8, "faults.write_from_data", "errno %d", errno);
	check(read(fds[0], (char *)readonly, 8) < 0 && errno == EFAULT, "faults.read_to_rodata",
	      "errno %d", errno);
	check(write(fds[1], (void *)expect, 8) == 8, "faults.write_from_text", "errno %d", errno);
	/* A page of the direct map, of modules, of the fixmap, of nothing. */
	unsigned long wild[] = { 0xffff888000001000, 0xffffffffc0000000, 0xffffffffff5ff000,
				 0xffffffff00000000, 0x8000000000000000, 0x7ffffffff000,
				 ((unsigned long)data & -0x200000) - 4096 };
	for (unsigned int i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		char name[100];
		void *p = (void *)wild[i];

		snprintf(name, sizeof(name), "faults.efault.%u", i);
		check(syscall(SYS_write, fds[1], p, 8) < 0 && errno == EFAULT &&
		      syscall(SYS_read, fds[0], p, 8) < 0 && errno == EFAULT &&
		      syscall(SYS_open, p, 0) < 0 && errno == EFAULT &&
		      syscall(SYS_getcpu, p, NULL, NULL) < 0 && errno == EFAULT &&
		      syscall(SYS_sendfile, 1, 0, p, 1) < 0 && errno == EFAULT,
		      name, "%p errno %d", p, errno);
	}
	if (!ring()) {
		check(mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED &&
		      errno == EACCES, "faults.mmap_exec_eacces", "errno %d", errno);
		check(mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0 && errno == EACCES,
		      "faults.mprotect_exec_eacces", "errno %d", errno);
	}

	kill_child("null_call", die_null_call, SIGSEGV);
	kill_child("wild_read", die_wild_read, SIGSEGV);
	kill_child("wild_stack", die_wild_stack, SIGSEGV);
	kill_child("user_stack", die_user_stack, SIGSEGV);
	status = end_of_child(die_noncanonical_stack);
	check(WIFSIGNALED(status), "faults.death.noncanonical_stack.dies", "status %x", status);
	printf("# same faults.death.noncanonical_stack %d 0\n", status);
	fflush(stdout);
	kill_child("wild_return", die_wild_return, SIGSEGV);
	kill_child("stack_overflow", die_stack_overflow, SIGSEGV);
	return check_failed;
}
