// SPDX-License-Identifier: Apache-2.0
/*
 * Who looks at a task's system calls sees each of them, in whichever way it is made.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include "check.h"
#include "ring.h"

#define SECRET	0x5ec7e7L
#define REFUSED	77
#define SYS_USER_DISPATCH	2	/* siginfo_t.si_code */

typedef long (*way_fn)(long, long, long, long);
static const struct way {
	const char *name;
	way_fn fn;
} ways[] = { { "instruction", by_instruction }, { "call", by_call }, { "function", by_function } };

static const char *label(const char *what, const struct way *way)
{
	static char text[100];

	snprintf(text, sizeof(text), "observed.%s.%s", what, way->name);
	return text;
}

/* --- seccomp --- */

static void filter(unsigned int action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SECRET, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(90);
}

static volatile int caught_nr, caught_code, caught;
static volatile char selector;

static void on_sys(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	selector = 0;	/* SYSCALL_DISPATCH_FILTER_ALLOW: for the way back as well */
	caught_nr = info->si_syscall;
	caught_code = info->si_code;
	caught++;
}

static void catch_sys(void)
{
	struct sigaction action = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO };

	sigaction(SIGSYS, &action, NULL);
	caught = caught_nr = caught_code = 0;
}

/* Run something in a child, and return its status. */
static int in_child(int (*what)(const struct way *), const struct way *way)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(what(way));
	waitpid(pid, &status, 0);
	return status;
}

static int refused(const struct way *way)
{
	long parent = getppid();

	filter(SECCOMP_RET_ERRNO | REFUSED);
	if (way->fn(SYS_getppid, 0, 0, SECRET) != -REFUSED)
		return 1;
	return way->fn(SYS_getppid, 0, 0, SECRET + 1) == parent ? 0 : 2;
}

static int trapped(const struct way *way)
{
	catch_sys();
	filter(SECCOMP_RET_TRAP);
	way->fn(SYS_getppid, 0, 0, SECRET);
	return caught == 1 && caught_nr == SYS_getppid ? 0 : 1;
}

static int killed(const struct way *way)
{
	filter(SECCOMP_RET_KILL_PROCESS);
	way->fn(SYS_getppid, 0, 0, SECRET);
	return 1;
}

/* --- system call user dispatch --- */

static int dispatched(const struct way *way)
{
	long parent = getppid();

	catch_sys();
	if (prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector))
		return 3;
	selector = 1;	/* SYSCALL_DISPATCH_FILTER_BLOCK */
	way->fn(SYS_getppid, 1, 2, 3);
	if (caught != 1 || caught_nr != SYS_getppid || caught_code != SYS_USER_DISPATCH)
		return 1;
	return way->fn(SYS_getppid, 1, 2, 3) == parent && caught == 1 ? 0 : 2;
}

/* --- ptrace --- */

static int traced(const struct way *way)
{
	struct user_regs_struct regs;
	int status, seen = 0, changed = 0;
	pid_t pid = fork();

	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(way->fn(SYS_getppid, 11, 22, SECRET) == 1234 ? 7 : 8);
	}
	waitpid(pid, &status, 0);
	for (;;) {
		if (ptrace(PTRACE_SYSCALL, pid, 0, 0) || waitpid(pid, &status, 0) != pid)
			return 1;
		if (!WIFSTOPPED(status))
			break;
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		if (regs.orig_rax != SYS_getppid || regs.rdx != SECRET)
			continue;
		seen += regs.rdi == 11 && regs.rsi == 22;
		if (regs.rax != (unsigned long)-ENOSYS) {
			regs.rax = 1234;
			changed = !ptrace(PTRACE_SETREGS, pid, 0, &regs);
		}
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 7 && seen == 2 && changed ? 0 : 2;
}

/* --- a task that waits in a system call --- */

static int ends[2];

/* Read from the pipe with values in the registers that a function preserves. */
#define READ_MARKED(enter)								\
	asm volatile("push %%rbp\n"							\
		     "mov $0x1111, %%ebx; mov $0x2222, %%r12d; mov $0x3333, %%r13d\n"	\
		     "mov $0x4444, %%r14d; mov $0x5555, %%r15d; mov $0x6666, %%ebp\n"	\
		     enter "\n"								\
		     "cmp $0x1111, %%rbx; jne 1f\n"					\
		     "cmp $0x2222, %%r12; jne 1f\n"					\
		     "cmp $0x3333, %%r13; jne 1f\n"					\
		     "cmp $0x4444, %%r14; jne 1f\n"					\
		     "cmp $0x5555, %%r15; jne 1f\n"					\
		     "cmp $0x6666, %%rbp; je 2f\n"					\
		     "1: mov $-999, %%rax\n"						\
		     "2: pop %%rbp\n"							\
		     : "=a"(ret), "+D"(fd), "+S"(byte), "+d"(size) : "a"(SYS_read)	\
		     : "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory")

static long read_marked(const struct way *way, char *byte)
{
	long ret, fd = ends[0], size = 1;

	_Static_assert(SYS_read == 0, "of ukl_sys_0");
	if (way->fn == by_function)
		READ_MARKED("call ukl_sys_0");
	else if (way->fn == by_call)
		READ_MARKED("call ukl_syscall");
	else
		READ_MARKED("syscall");
	return ret;
}

static pid_t waiting_child(const struct way *way)
{
	char byte = 0;
	pid_t pid;

	if (pipe(ends))
		_exit(98);
	pid = fork();
	if (!pid)
		_exit(read_marked(way, &byte) == 1 && byte == 'x' ? 5 : 6);
	return pid;
}

/* What /proc tells of the call that a task waits in. */
static int shown(pid_t pid, unsigned long *values)
{
	char path[64], line[256];
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (int i = 0; i < 2000; i++) {
		FILE *file = fopen(path, "r");

		n = 0;
		if (file && fgets(line, sizeof(line), file))
			n = sscanf(line, "%lu %lx %lx %lx %lx %lx %lx %lx %lx", &values[0], &values[1],
				   &values[2], &values[3], &values[4], &values[5], &values[6],
				   &values[7], &values[8]);
		if (file)
			fclose(file);
		if (n == 9 && values[0] == SYS_read && values[1] == (unsigned long)ends[0])
			return 1;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return 0;
}

static int ends_well(pid_t pid)
{
	int status;

	if (write(ends[1], "x", 1) != 1)
		return 0;
	waitpid(pid, &status, 0);
	close(ends[0]);
	close(ends[1]);
	return WIFEXITED(status) && WEXITSTATUS(status) == 5;
}

static void test_proc(const struct way *way)
{
	unsigned long values[9] = { 0 };
	char here;
	pid_t pid = waiting_child(way);
	int found = shown(pid, values);

	check(found && values[3] == 1 && values[7] - ((unsigned long)&here - 4096) < 8192,
	      label("proc", way), "%d: %lu %lx %lx, sp %lx, here %p", found, values[0], values[1],
	      values[3], values[7], (void *)&here);
	check(ends_well(pid), label("proc_goes_on", way), "not as it should");
}

/* A debugger comes while it waits: all registers are there, and the call begins again. */
static void test_attach(const struct way *way)
{
	struct user_regs_struct regs = { 0 };
	unsigned long values[9];
	pid_t pid = waiting_child(way);
	int found = shown(pid, values), status;

	if (ptrace(PTRACE_ATTACH, pid, 0, 0) || waitpid(pid, &status, 0) != pid ||
	    ptrace(PTRACE_GETREGS, pid, 0, &regs))
		found = 0;
	check(found && regs.rbx == 0x1111 && regs.r12 == 0x2222 && regs.r13 == 0x3333 &&
	      regs.r14 == 0x4444 && regs.r15 == 0x5555 && regs.rbp == 0x6666 &&
	      regs.rdi == (unsigned long)ends[0] && regs.rdx == 1,
	      label("attach", way), "%d: rbx %llx r15 %llx rbp %llx", found, regs.rbx, regs.r15, regs.rbp);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	check(ends_well(pid), label("attach_goes_on", way), "not as it should");
}

int main(void)
{
	for (unsigned int i = 0; i < 3; i++) {
		const struct way *way = &ways[i];
		int status = in_child(refused, way);

		check(status == 0, label("seccomp_errno", way), "status %x", status);
		status = in_child(trapped, way);
		check(status == 0, label("seccomp_trap", way), "status %x", status);
		status = in_child(killed, way);
		check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, label("seccomp_kill", way),
		      "status %x", status);
		status = in_child(dispatched, way);
		check(status == 0, label("user_dispatch", way), "status %x", status);
		status = in_child(traced, way);
		check(status == 0, label("ptrace", way), "status %x", status);
		test_proc(way);
		test_attach(way);
	}
	return check_failed;
}
