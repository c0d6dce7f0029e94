// SPDX-License-Identifier: Apache-2.0
/*
 * Flags, signals, restarts, stacks, fork: what an interrupted program keeps.
 *
 * Runs in both rings, and makes its system calls in all ways: by the SYSCALL
 * instruction, by a call of ukl_syscall, and by one of a system call's own gate.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include "check.h"
#include "ways.h"

#define FLAG_TF	0x100UL
#define FLAG_IF	0x200UL
#define FLAG_DF	0x400UL
#define FLAG_AC	0x40000UL

typedef long (*syscall_fn)(long nr, long a, long b, long c);
static const struct way {
	const char *name;
	syscall_fn fn;
} ways[] = { { "call", by_call }, { "syscall", by_instruction }, { "function", by_function } };

static const char *label(const char *what, const char *way)
{
	static char text[2][100];
	static int i;

	i = !i;
	snprintf(text[i], sizeof(text[i]), "context.%s.%s", what, way);
	return text[i];
}

/* --- registers and flags over a system call --- */

#define KEEP_REGISTERS(enter)								\
	asm volatile("mov $0x1111, %%rbx; mov $0x2222, %%r12; mov $0x3333, %%r13\n"	\
		     "mov $0x4444, %%r14; mov $0x5555, %%r15; mov $0x6666, %%r8\n"	\
		     "mov $0x7777, %%r9; mov $0x8888, %%r10; mov $39, %%eax\n"		\
		     enter "\n"								\
		     "mov %%rbx, (%0); mov %%r12, 8(%0); mov %%r13, 16(%0); mov %%r14, 24(%0)\n" \
		     "mov %%r15, 32(%0); mov %%r8, 40(%0); mov %%r9, 48(%0); mov %%r10, 56(%0)\n" \
		     : : "D"(regs) : "rax", "rbx", "rcx", "r8", "r9", "r10", "r11", "r12",	\
		     "r13", "r14", "r15", "memory")

static void test_registers(const struct way *way)
{
	unsigned long regs[8] = { 0 };

	if (way->fn == by_call)
		KEEP_REGISTERS("call ukl_syscall");
	else
		KEEP_REGISTERS("syscall");
	check(regs[0] == 0x1111 && regs[1] == 0x2222 && regs[2] == 0x3333 && regs[3] == 0x4444 &&
	      regs[4] == 0x5555 && regs[5] == 0x6666 && regs[6] == 0x7777 && regs[7] == 0x8888,
	      label("registers", way->name), "%lx %lx", regs[0], regs[7]);
}

static void test_flags(const struct way *way)
{
	unsigned long flags;
	long ret;

	asm volatile("std" : : : "cc");
	ret = way->fn(SYS_getppid, 0, 0, 0);
	asm volatile("pushf; pop %0; cld" : "=r"(flags) : : "cc");
	check((flags & FLAG_DF) && ret == getppid(), label("direction_flag", way->name),
	      "flags %lx", flags);

	/* NT: IRET faults with it in 64-bit mode, unless it is handled. */
	asm volatile("pushf; orq $0x4000, (%%rsp); popf" : : : "cc", "memory");
	ret = way->fn(SYS_getppid, 0, 0, 0);
	asm volatile("pushf; pop %0; pushf; andq $~0x4000, (%%rsp); popf" : "=r"(flags) : : "cc", "memory");
	check((flags & 0x4000) && ret == getppid(), label("nested_task_flag", way->name),
	      "flags %lx", flags);
}

/* POPF can clear AC in ring 0; memory must be there all the same, in the end. */
static void test_no_ac(void)
{
	static volatile int in_data;
	volatile int *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int read;

	*page = 5;
	asm volatile("pushf; andq $~0x40000, (%%rsp); popf\n"
		     "movl (%1), %0; movl $7, (%1); movl $8, %2"
		     : "=&r"(read), "+r"(page), "=m"(in_data) : : "cc", "memory");
	check(read == 5 && *page == 7 && in_data == 8, "context.no_ac", "%d %d %d", read, *page, in_data);
	munmap((void *)page, 4096);
}

/* --- single step through a system call --- */

static volatile int traps, ending;

static void on_trap(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	traps++;
	if (ending || traps > 1000)
		uc->uc_mcontext.gregs[REG_EFL] &= ~FLAG_TF;
}

static void test_single_step(const struct way *way)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	long ret;

	sigaction(SIGTRAP, &action, NULL);
	traps = ending = 0;
	asm volatile("pushf; orq $0x100, (%%rsp); popf" : : : "cc", "memory");
	ret = way->fn(SYS_getppid, 0, 0, 0);
	ending = 1;
	asm volatile("nop; nop");
	check(ret == getppid() && traps > 3 && traps < 200, label("single_step", way->name),
	      "%ld, %d traps", ret, traps);
	signal(SIGTRAP, SIG_DFL);
}

/* --- restart --- */

static volatile int alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

static int alarm_fd;

/* The third lets the reader go, so it has been interrupted whatever the host is doing. */
static void on_alarm_write(int sig)
{
	(void)sig;
	if (++alarms == 3 && write(alarm_fd, "x", 1) != 1)
		_exit(98);
}

static void arm(long first_us, long interval_us)
{
	struct itimerval timer = { .it_value.tv_usec = first_us, .it_interval.tv_usec = interval_us };

	setitimer(ITIMER_REAL, &timer, NULL);
}

static void test_restart(const struct way *way)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct timespec delay = { .tv_nsec = 500000000 }, left = { 0 };
	int fds[2], status = -1;
	char c = 0;
	int stopped;
	pid_t pid;
	long ret;

	if (pipe(fds) < 0)
		_exit(98);
	sigaction(SIGALRM, &action, NULL);
	alarms = 0;
	/* Again and again: on a busy host the first may come before the call it is to interrupt. */
	arm(30000, 30000);
	ret = way->fn(SYS_read, fds[0], (long)&c, 1);
	arm(0, 0);
	check(ret == -EINTR && alarms >= 1, label("eintr", way->name), "%ld, %d alarms", ret, alarms);

	action.sa_handler = on_alarm_write;
	action.sa_flags = SA_RESTART;
	sigaction(SIGALRM, &action, NULL);
	alarms = 0;
	alarm_fd = fds[1];
	arm(30000, 30000);
	ret = way->fn(SYS_read, fds[0], (long)&c, 1);
	arm(0, 0);
	check(ret == 1 && c == 'x' && alarms >= 3, label("sa_restart", way->name),
	      "%ld, %d alarms", ret, alarms);
	action.sa_handler = on_alarm;

	/* ERESTART_RESTARTBLOCK: stop and continue in nanosleep, without a handler. */
	pid = fork();
	if (!pid)
		_exit(way->fn(SYS_nanosleep, (long)&delay, (long)&left, 0) != 0);
	usleep(30000);
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	stopped = WIFSTOPPED(status);
	kill(pid, SIGCONT);
	waitpid(pid, &status, 0);
	check(stopped && status == 0, label("restart_block", way->name), "stopped %d status %x",
	      stopped, status);

	/* ERESTARTNOHAND, and back to the place with all registers. */
	pid = fork();
	if (!pid) {
		sigset_t none;
		long r;

		action.sa_flags = 0;
		sigaction(SIGALRM, &action, NULL);
		sigemptyset(&none);
		arm(30000, 30000);
		r = way->fn(SYS_rt_sigsuspend, (long)&none, 8, 0);
		_exit(r != -EINTR);
	}
	waitpid(pid, &status, 0);
	check(status == 0, label("sigsuspend", way->name), "status %x", status);
	close(fds[0]);
	close(fds[1]);
}

/* --- preemption on a static stack, with a red zone --- */

static char static_stack[64 * 1024] __attribute__((aligned(64)));

static int pokes;

struct spin {
	unsigned long bad;
	unsigned long rounds;
	volatile int *stop;
};

/*
 * Leaf code that keeps values below its stack pointer while it is interrupted: in each word, as an
 * XSAVE area leaves most of what is on its end alone.
 */
static void *spin(void *arg)
{
	struct spin *spin = arg;

	while (!*spin->stop) {
		unsigned long bad = 0;

		asm volatile("mov $-16, %%ecx\n"
			     "1: movslq %%ecx, %%rax; mov %%rax, (%%rsp, %%rax, 8)\n"
			     "inc %%ecx; jnz 1b\n"
			     "mov $20000, %%ecx\n"
			     "2: pause; dec %%ecx; jnz 2b\n"
			     "mov $-16, %%ecx\n"
			     "3: movslq %%ecx, %%rax; xor (%%rsp, %%rax, 8), %%rax; or %%rax, %0\n"
			     "inc %%ecx; jnz 3b\n"
			     : "+r"(bad) : : "rax", "rcx", "memory", "cc");
		spin->bad += !!bad;
		spin->rounds++;
	}
	return NULL;
}

static void on_poke(int signal)
{
	(void)signal;
	__atomic_add_fetch(&pokes, 1, __ATOMIC_RELAXED);
}

/* For what a busy host makes slow: only what never comes is wrong. */
enum { ENOUGH_S = 30 };

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* Timers interrupt the threads, and signals that have frames on their stacks. */
static void test_preemption(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct sigaction poke = { .sa_handler = on_poke };
	volatile int stop = 0;
	struct spin spins[3] = { { .stop = &stop }, { .stop = &stop }, { .stop = &stop } };
	pthread_attr_t attr;
	pthread_t threads[3];
	struct timespec start;
	bool enough;

	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &poke, NULL);
	alarms = 0;
	pokes = 0;
	for (int i = 0; i < 3; i++) {
		pthread_attr_init(&attr);
		if (i == 0)
			pthread_attr_setstack(&attr, static_stack, sizeof(static_stack));
		if (pthread_create(&threads[i], &attr, spin, &spins[i]))
			check(0, "context.preemption", "no thread");
	}
	arm(5000, 5000);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		usleep(1000);
		for (int i = 0; i < 3; i++)
			pthread_kill(threads[i], SIGUSR1);
		enough = alarms >= 20 && pokes >= 60;
		for (int i = 0; i < 3; i++)
			enough = enough && __atomic_load_n(&spins[i].rounds, __ATOMIC_RELAXED) > 10;
	} while (seconds_since(&start) < (enough ? 1 : ENOUGH_S));
	stop = 1;
	arm(0, 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	check(alarms >= 20, "context.preemption.alarms", "%d alarms", alarms);
	check(pokes >= 60, "context.preemption.signals", "%d signals", pokes);
	for (int i = 0; i < 3; i++)
		check(spins[i].rounds > 10 && !spins[i].bad,
		      i ? "context.preemption.red_zone" : "context.preemption.static_stack",
		      "%lu rounds, %lu bad", spins[i].rounds, spins[i].bad);
}

/* --- floating point state over preemption and signals --- */

static void on_alarm_fpu(int sig)
{
	(void)sig;
	asm volatile("pxor %%xmm7, %%xmm7; pxor %%xmm8, %%xmm8" : : : "xmm7", "xmm8");
	alarms++;
}

/* One of two on a processor, which the timer gives to each in turn, without a call in between. */
static void *hold_vectors(void *pattern)
{
	unsigned long want = (unsigned long)pattern, a = 0, b = 0, bad = 0;
	struct timespec start;
	cpu_set_t first;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	pthread_setaffinity_np(pthread_self(), sizeof(first), &first);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		asm volatile("movq %2, %%xmm7; movq %2, %%xmm8; mov $200000, %%ecx\n"
			     "1: dec %%ecx; jnz 1b\n"
			     "movq %%xmm7, %0; movq %%xmm8, %1"
			     : "=&r"(a), "=&r"(b) : "r"(want) : "rcx", "xmm7", "xmm8");
		bad += a != want || b != want;
	} while (seconds_since(&start) < 1);
	return (void *)bad;
}

static void test_fpu_taken(void)
{
	pthread_t other;
	void *mine, *its;
	cpu_set_t before;

	pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	pthread_create(&other, NULL, hold_vectors, (void *)0x3333333333333333);
	mine = hold_vectors((void *)0x4444444444444444);
	pthread_join(other, &its);
	pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	check(!mine && !its, "context.fpu_taken", "%lu and %lu times wrong", (unsigned long)mine,
	      (unsigned long)its);
}

static void test_fpu(void)
{
	struct sigaction action = { .sa_handler = on_alarm_fpu };
	unsigned long a = 0, b = 0, bad = 0;

	sigaction(SIGALRM, &action, NULL);
	alarms = 0;
	arm(2000, 2000);
	while (alarms < 50) {
		asm volatile("movq %2, %%xmm7; movq %3, %%xmm8; mov $20000, %%ecx\n"
			     "1: pause; dec %%ecx; jnz 1b\n"
			     "movq %%xmm7, %0; movq %%xmm8, %1"
			     : "=r"(a), "=r"(b) : "r"(0x1111111111111111), "r"(0x2222222222222222)
			     : "rcx", "xmm7", "xmm8");
		bad += a != 0x1111111111111111 || b != 0x2222222222222222;
	}
	arm(0, 0);
	check(!bad, "context.fpu", "%lu times wrong", bad);
}

/* --- timer interrupts while the stack grows into pages that are not there --- */

static void __attribute__((noinline)) deep(int depth)
{
	volatile char frame[3000];

	frame[0] = frame[2999] = 1;
	if (depth)
		deep(depth - 1);
	frame[1] = 2;
}

static void *grow(void *arg)
{
	(void)arg;
	for (int i = 0; i < 30; i++)
		deep(1500);
	return NULL;
}

static void test_stack_growth(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	int status, lost = 0;

	/* A fresh stack every time, at the mercy of the timer. */
	for (int round = 0; round < 20; round++) {
		pid_t pid = fork();

		if (!pid) {
			sigaction(SIGALRM, &action, NULL);
			arm(1000, 1000);
			deep(2000);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		lost += status != 0;
	}
	check(!lost, "context.stack_growth", "%d of 20 died", lost);

	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 8 << 20);
	sigaction(SIGALRM, &action, NULL);
	alarms = 0;
	arm(1000, 1000);
	pthread_create(&thread, &attr, grow, NULL);
	pthread_join(thread, NULL);
	arm(0, 0);
	/* A lost interrupt stops the timer for good. */
	alarms = 0;
	arm(1000, 1000);
	usleep(100000);
	arm(0, 0);
	check(alarms > 0, "context.timer_after_growth", "no alarm any more");
}

/* --- fork --- */

static int in_data = 1;
static int in_bss;

static void test_fork(void)
{
	int fds[2], status;
	char c;
	pid_t pid;

	in_data = 10;
	in_bss = 20;
	if (pipe(fds) < 0)
		_exit(98);
	pid = fork();
	if (!pid) {
		int good = in_data == 10 && in_bss == 20;

		in_data = 11;
		in_bss = 21;
		if (read(fds[0], &c, 1) != 1)
			good = 0;
		_exit(good && in_data == 11 && in_bss == 21 ? 0 : 1);
	}
	in_data = 12;
	in_bss = 22;
	if (write(fds[1], "x", 1) != 1)
		_exit(98);
	waitpid(pid, &status, 0);
	check(status == 0 && in_data == 12 && in_bss == 22, "context.fork.private_data",
	      "status %x, %d %d", status, in_data, in_bss);

	pid = vfork();
	if (!pid) {
		in_data = 33;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	check(in_data == 33, "context.vfork.shared_data", "%d", in_data);
	close(fds[0]);
	close(fds[1]);
}

static void test_many_forks(void)
{
	int bad = 0, status;

	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(i & 0x7f);
		waitpid(pid, &status, 0);
		bad += !WIFEXITED(status) || WEXITSTATUS(status) != (i & 0x7f);
	}
	check(!bad, "context.fork.many", "%d wrong", bad);
}

/* --- fork and exec of an ordinary program: back to ring 3 --- */

static void test_exec_ordinary(void)
{
	int status = -1;
	pid_t pid;

	pid = fork();
	if (!pid) {
		execl("/tests/ring", "ring", (char *)NULL);
		_exit(99);
	}
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 3, "context.exec_ordinary", "status %x", status);
}

/* --- a debugger that may: the application's own root parent --- */

static void test_ptrace(void)
{
	struct user_regs_struct regs, again;
	int status, steps = 0, bad = 0;
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (int i = 0; i < 3; i++) {
			by_call(SYS_getppid, 0, 0, 0);
			by_instruction(SYS_getppid, 0, 0, 0);
			by_function(SYS_getppid, 0, 0, 0);
		}
		_exit(7);
	}
	waitpid(pid, &status, 0);
	check(WIFSTOPPED(status), "context.ptrace.traceme", "status %x", status);
	bad += ptrace(PTRACE_GETREGS, pid, 0, &regs) != 0;
	bad += ptrace(PTRACE_SETREGS, pid, 0, &regs) != 0;
	bad += ptrace(PTRACE_GETREGS, pid, 0, &again) != 0;
	bad += memcmp(&regs, &again, sizeof(regs)) != 0;
	check(!bad, "context.ptrace.setregs", "cs %llx, errno %d", regs.cs, errno);
	regs.cs = ring() ? 0x10 : 0x33;
	check(ptrace(PTRACE_SETREGS, pid, 0, &regs) < 0, "context.ptrace.cs_stays", "changed");
	check(ptrace(PTRACE_POKEDATA, pid, &in_data, 77) == 0 &&
	      ptrace(PTRACE_PEEKDATA, pid, &in_data, 0) == 77,
	      "context.ptrace.poke_data", "errno %d", errno);
	while (steps < 100000) {
		if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0)
			break;
		waitpid(pid, &status, 0);
		if (!WIFSTOPPED(status))
			break;
		steps++;
	}
	check(WIFEXITED(status) && WEXITSTATUS(status) == 7 && steps > 20, "context.ptrace.singlestep",
	      "status %x after %d steps", status, steps);
}

/* --- get_user_pages on globals --- */

static char global[8192] __attribute__((aligned(4096)));
static char from[5 * 4096 + 1000], to[sizeof(from)];

static void test_gup(void)
{
	struct iovec iov = { .iov_base = global, .iov_len = 4096 };
	char copy[16] = "";
	struct iovec local = { .iov_base = copy, .iov_len = 8 };
	int fds[2];

	strcpy(global, "globals");
	if (pipe(fds) < 0)
		_exit(98);
	check(vmsplice(fds[1], &iov, 1, 0) == 4096 && read(fds[0], copy, 8) == 8 &&
	      !strcmp(copy, "globals"), "context.gup.vmsplice", "errno %d", errno);
	iov.iov_len = 8;
	memset(copy, 0, sizeof(copy));
	check(process_vm_readv(getpid(), &local, 1, &iov, 1, 0) == 8 && !strcmp(copy, "globals"),
	      "context.gup.process_vm_readv", "errno %d", errno);
	strcpy(copy, "written");
	check(process_vm_writev(getpid(), &local, 1, &iov, 1, 0) == 8 && !strcmp(global, "written"),
	      "context.gup.process_vm_writev", "errno %d", errno);
	/* Of several pages: all at once, and beginning in the middle of one. */
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (char)(i * 31 + i / 4096);
	iov = (struct iovec){ from + 100, sizeof(from) - 100 };
	local = (struct iovec){ to + 100, sizeof(to) - 100 };
	check(process_vm_readv(getpid(), &local, 1, &iov, 1, 0) == (ssize_t)iov.iov_len &&
	      !memcmp(from + 100, to + 100, iov.iov_len), "context.gup.pages", "errno %d", errno);
	memset(to, 0, sizeof(to));
	check(vmsplice(fds[1], &iov, 1, 0) == (ssize_t)iov.iov_len,
	      "context.gup.vmsplice_pages", "errno %d", errno);
	static unsigned int word;
	check(syscall(SYS_futex, &word, 1 /* FUTEX_WAKE, shared */, 1, NULL, NULL, 0) == 0,
	      "context.gup.shared_futex", "errno %d", errno);
}

/* --- sigreturn cannot be used to leave the ring --- */

static void on_usr1(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	/* CS, GS, FS, SS: as if a ring-3 frame were restored here and the other way round. */
	uc->uc_mcontext.gregs[REG_CSGSFS] ^= 0x23;
	uc->uc_mcontext.gregs[REG_EFL] &= ~(FLAG_IF | FLAG_AC);
	uc->uc_mcontext.gregs[REG_EFL] |= 0x3000;
}

static void test_sigreturn(void)
{
	struct sigaction action = { .sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO };
	unsigned long flags;
	int before = ring();

	if (before)	/* there a bad selector is a SIGSEGV, rightly */
		return;
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	asm volatile("pushf; pop %0" : "=r"(flags));
	check(ring() == before && (flags & FLAG_IF) && (flags & FLAG_AC) && !(flags & 0x3000),
	      "context.sigreturn", "ring %d flags %lx", ring(), flags);
}

/* --- the count of SYSCALL instructions, which only ring 0 has --- */

long stray_getppid(void);
asm(".text\n"
    ".type stray_getppid, @function\n"
    "stray_getppid: mov $110, %eax\n"
    "	syscall\n"
    "	ret\n"
    ".size stray_getppid, . - stray_getppid");

/* How often the instruction of stray_getppid() was executed; -1 if nobody says so. */
static long strays(void)
{
	FILE *file = fopen("/proc/ukl_syscalls", "r");
	char line[256];
	long hits = 0;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (strstr(line, " ukl.stray_getppid+0x5/"))
			hits = atol(line);
	fclose(file);
	return hits;
}

static void test_strays(void)
{
	long before = strays(), after;
	int status;
	pid_t pid;

	for (int i = 0; i < 100; i++)
		stray_getppid();
	after = strays();
	check(before == 0 && after == 100, "context.strays.counted", "%ld, then %ld", before, after);

	pid = fork();
	if (!pid)
		_exit(setuid(1000) == 0 && strays() == -1 && errno == EACCES ? 0 : 1);
	waitpid(pid, &status, 0);
	check(status == 0, "context.strays.secret", "status %#x", status);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("# ring %d\n", ring());
	for (unsigned int i = 0; i < 3; i++) {
		/* A function keeps neither the registers of its arguments nor flags. */
		if (ways[i].fn != by_function) {
			test_registers(&ways[i]);
			test_flags(&ways[i]);
		}
		test_single_step(&ways[i]);
		test_restart(&ways[i]);
	}
	test_no_ac();
	test_preemption();
	test_fpu();
	test_fpu_taken();
	test_stack_growth();
	test_fork();
	test_many_forks();
	test_exec_ordinary();
	test_ptrace();
	test_gup();
	test_sigreturn();
	if (ring() == 0)
		test_strays();
	return check_failed;
}
