// SPDX-License-Identifier: Apache-2.0
/*
 * An ordinary program that has #DB arrive where it hurts: a hardware watchpoint
 * on a variable that is loaded to SS.  The processor holds #DB back until the
 * next instruction is done; if that is SYSCALL or INT, #DB hits the kernel's
 * first instruction, after SYSCALL on the stack and GS base of the program.
 *
 * QEMU does not hold it back, but reports it before the next instruction.  So
 * a debugger of the machine can play one more; MARK in RBX tells it where.
 *
 * usage: movss ROUNDS [played]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include "check.h"

#define DR(n)	offsetof(struct user, u_debugreg[n])
/* Local, slot 0: 2 bytes, read or written. */
#define DR7	(1 | 3 << 16 | 1 << 18)

#define MARK	0x6d6f767373UL

static void child(long rounds)
{
	volatile unsigned short *var;
	unsigned short ss;
	/* On the stack, as that is what SYSCALL keeps. */
	volatile unsigned short on_stack;
	long i, got, wrong = 0;
	pid_t pid = getpid();
	int sink = open("/dev/urandom", O_WRONLY);

	asm volatile("mov %%ss, %0" : "=r"(ss));
	on_stack = ss;
	var = &on_stack;
	if (ptrace(PTRACE_TRACEME, 0, 0, 0))
		_exit(2);
	/* Where the variable is. */
	asm volatile("syscall" : "=a"(got) : "a"(SYS_kill), "D"(pid), "S"(SIGSTOP),
		     "d"(var) : "rcx", "r11", "memory");
	for (i = 0; i < rounds; i++) {
		asm volatile("mov (%1), %%ss\n\tsyscall"
			     : "=a"(got) : "r"(var), "b"(MARK), "a"(SYS_getppid) : "rcx", "r11", "memory");
		wrong += got != getppid();
		asm volatile("mov (%1), %%ss\n\tsyscall"
			     : "=a"(got) : "r"(var), "b"(MARK), "a"(SYS_getpid) : "rcx", "r11", "memory");
		wrong += got != pid;
		asm volatile("mov (%0), %%ss\n\tint3" : : "r"(var), "b"(MARK) : "memory");
		/* Not a gate of user mode: #GP. */
		asm volatile("mov (%0), %%ss\n\tint $0x81" : : "r"(var), "b"(MARK) : "memory");
		asm volatile("mov (%0), %%ss\n\tint $4" : : "r"(var), "b"(MARK) : "memory");
		/* The kernel reads it as well. */
		wrong += write(sink, (void *)var, sizeof(*var)) != sizeof(*var);
	}
	_exit(wrong ? 3 : 0);
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 1000;
	int played = argc > 2;
	struct user_regs_struct regs;
	long watched = 0, in_user = 0, after = 0, others = 0, int3 = 0, faults = 0;
	int status;
	pid_t pid = fork();

	if (!pid)
		child(rounds);
	waitpid(pid, &status, 0);
	ptrace(PTRACE_GETREGS, pid, 0, &regs);
	check(WIFSTOPPED(status) && !ptrace(PTRACE_POKEUSER, pid, DR(0), regs.rdx) &&
	      !ptrace(PTRACE_POKEUSER, pid, DR(7), DR7),
	      "movss.watchpoint", "status %x errno %d", status, errno);
	ptrace(PTRACE_CONT, pid, 0, 0);
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		unsigned long dr6 = ptrace(PTRACE_PEEKUSER, pid, DR(6), 0);
		int sig = WSTOPSIG(status);
		unsigned long code;

		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		if (sig == SIGTRAP && dr6 & 1) {
			watched++;
			code = ptrace(PTRACE_PEEKTEXT, pid, regs.rip, 0);
			/* Before the next instruction, or has that been done? */
			if ((code & 0xffff) == 0x050f || (code & 0xff) == 0xcc ||
			    (code & 0xff) == 0xcd)
				in_user++;
			else
				after++;
			ptrace(PTRACE_POKEUSER, pid, DR(6), 0);
		} else if (sig == SIGTRAP) {
			int3++;
		} else if (sig == SIGSEGV) {
			/* INT $0x81 is not done: skip it.  INT $4 is a trap. */
			faults++;
			code = ptrace(PTRACE_PEEKTEXT, pid, regs.rip, 0);
			if ((code & 0xffff) == 0x81cd)
				regs.rip += 2;
			ptrace(PTRACE_SETREGS, pid, 0, &regs);
		} else {
			others++;
		}
		ptrace(PTRACE_CONT, pid, 0, 0);
	}
	printf("movss: %ld watched, %ld before the next instruction, %ld after it, int3 %ld, SIGSEGV %ld\n",
	       watched, in_user, after, int3, faults);
	fflush(stdout);
	check(WIFEXITED(status) && !WEXITSTATUS(status), "movss.survives", "status %x", status);
	/* Each load is, unless it was the kernel that met it. */
	check(!others && (played || (watched && (!in_user || watched == 5 * rounds))), "movss.reports", "%ld of %ld, %ld others",
	      watched, 5 * rounds, others);
	return check_failed;
}
