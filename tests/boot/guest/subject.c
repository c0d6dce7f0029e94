// SPDX-License-Identifier: Apache-2.0
/*
 * What debuggers, tracers and profilers are pointed at.
 *
 *     subject calls         makes system calls of many kinds, in all ways, and ends as /tests/ring
 *     subject wait          says where it is on 3, counts the bytes it is given on 4, ends with the
 *                           count when there are no more
 *     subject spin [FRAME]  says where it is on 3, then computes for ever, with FRAME (a number) for
 *                           a frame pointer
 *     subject crash         dies of SIGSEGV at address CRASH_ADDRESS, with a second thread beside
 *     subject trigger TYPE  has LKDTM provoke that, in a system call
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "check.h"
#include "ring.h"
#include "subject.h"

#define CRASH_ADDRESS	0x10UL
#define DEBUGFS		"/sys/kernel/debug"
#define LKDTM		DEBUGFS "/provoke-crash/DIRECT"

#define KEEP_FRAME	__attribute__((noinline, optimize("no-omit-frame-pointer")))
/* What comes behind a call must not be nothing, or the caller's frame is gone by then. */
#define NOT_LAST	asm volatile("")

int subject_main(int argc, char **argv);

/* --- calls --- */

static volatile int signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static void *nothing(void *arg)
{
	return arg;
}

static int calls(void)
{
	static char text[] = "some text\n", in_bss[64];
	struct iovec iov[2] = { { text, 5 }, { text + 5, 5 } };
	struct sigaction action = { .sa_handler = on_signal };
	struct timespec delay = { .tv_nsec = 1000 };
	long (*ways[])(long, long, long, long) = { by_instruction, by_call, by_function };
	int fds[2], status, good = 1;
	pthread_t thread;
	void *page;
	pid_t pid, parent = getppid();

	good &= open("/no/such\tfile", O_RDONLY) < 0 && errno == ENOENT;
	good &= !pipe2(fds, O_CLOEXEC);
	good &= writev(fds[1], iov, 2) == 10 && read(fds[0], in_bss, sizeof(in_bss)) == 10;
	good &= !memcmp(text, in_bss, 10);
	for (int i = 0; i < 3; i++) {
		good &= ways[i](SYS_getppid, 1, 2, 3) == parent;
		good &= ways[i](SYS_dup, -1, 0, 0) == -EBADF;
		good &= ways[i](5000, 1, 2, 3) == -ENOSYS;
	}
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	good &= page != MAP_FAILED && !mprotect(page, 4096, PROT_READ) && !munmap(page, 8192);
	sigaction(SIGUSR1, &action, NULL);
	good &= !raise(SIGUSR1) && signals == 1;
	good &= !nanosleep(&delay, NULL);
	good &= !pthread_create(&thread, NULL, nothing, NULL) && !pthread_join(thread, NULL);
	pid = fork();
	if (!pid)
		_exit(5);
	good &= waitpid(pid, &status, 0) == pid && status == 5 << 8;
	if (!good)
		return 1;
	execl("/tests/ring", "ring", "x", (char *)NULL);
	return 2;
}

/* --- wait, spin --- */

static long subject_global = SUBJECT_GLOBAL;
static const long subject_constant = SUBJECT_CONSTANT;

static void __attribute__((noinline)) subject_hit(void)
{
	subject_global++;
	NOT_LAST;
}

static KEEP_FRAME void subject_inner(void)
{
	/* Asked for, or a function that calls nothing has none. */
	asm volatile("1: pause; jmp 1b" : : "r"(__builtin_frame_address(0)));
}

static KEEP_FRAME void subject_outer(void)
{
	subject_inner();
	NOT_LAST;
}

static int tell(void)
{
	struct subject subject = {
		.ring = ring(),
		.global = &subject_global,
		.constant = &subject_constant,
		.hit = subject_hit,
		.inner = subject_inner,
		.outer = subject_outer,
	};

	return write(3, &subject, sizeof(subject)) == sizeof(subject);
}

static int wait_for_bytes(void)
{
	char c;

	while (read(4, &c, 1) == 1)
		subject_hit();
	return subject_global == SUBJECT_GLOBAL ? 0 : subject_global & 0x7f;
}

/* --- crash --- */

static volatile long crash_in_data = 1, crash_in_bss;
static const char *volatile crash_text = "not yet";

static void __attribute__((noinline)) crash_inner(unsigned long address)
{
	asm volatile("mov $0x1234567, %%r15d; movq $1, (%0)" : : "r"(address) : "r15", "memory");
}

static void __attribute__((noinline)) crash_outer(int depth, unsigned long address)
{
	if (depth)
		crash_outer(depth - 1, address);
	else
		crash_inner(address);
	NOT_LAST;
}

static void *crash_beside(void *arg)
{
	(void)!write(*(int *)arg, "x", 1);
	pause();
	return NULL;
}

static int crash(void)
{
	pthread_t thread;
	int fds[2];
	char c;

	crash_in_data = 22;
	crash_in_bss = 33;
	crash_text = "crashing now";
	if (pipe(fds) || pthread_create(&thread, NULL, crash_beside, &fds[1]) ||
	    read(fds[0], &c, 1) != 1)
		return 1;
	crash_outer(3, CRASH_ADDRESS);
	return 1;
}

/* --- trigger --- */

static int trigger(const char *type)
{
	ssize_t written;
	int fd;

	if (access(LKDTM, F_OK) && mount("debugfs", DEBUGFS, "debugfs", 0, NULL))
		return 1;
	fd = open(LKDTM, O_WRONLY);
	written = write(fd, type, strlen(type));
	return written != (ssize_t)strlen(type);
}

int subject_main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "calls"))
		return calls();
	if (!strcmp(what, "wait"))
		return tell() ? wait_for_bytes() : 1;
	if (!strcmp(what, "spin") && tell()) {
		if (argc > 2)
			asm volatile("mov %0, %%rbp; 1: pause; jmp 1b"
				     : : "r"(strtoul(argv[2], NULL, 0)));
		else
			subject_outer();
	}
	if (!strcmp(what, "crash"))
		return crash();
	if (!strcmp(what, "trigger") && argc > 2)
		return trigger(argv[2]);
	return 2;
}
