// SPDX-License-Identifier: Apache-2.0
/*
 * What a program is started with, and programs that start others in every way.
 *
 *     start state [ARG...]        tells all that it was given
 *     start from HOW PROGRAM      prepares itself as HOW says, and becomes "PROGRAM state"
 *     start exit N                ends with this status
 *     start load, start ud2       ends by SIGSEGV, by SIGILL
 *
 * Both rings run it.  A line is "start KEY: VALUE"; where a line may differ between two programs
 * its key says so: path.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static void must(int good, const char *what)
{
	if (good)
		return;
	printf("start failed: %s, errno %d\n", what, errno);
	fflush(stdout);
	_exit(99);
}

/* --- what it was given --- */

static void say(const char *key, const char *value, size_t len)
{
	printf("start %s: ", key);
	if (len > 100) {
		/* Long ones by their length and sum: a console is slow. */
		unsigned long sum = 5381;

		for (size_t i = 0; i < len; i++)
			sum = sum * 33 + (unsigned char)value[i];
		printf("%zu bytes, %lx\n", len, sum);
		return;
	}
	for (size_t i = 0; i < len; i++) {
		unsigned char c = value[i];

		printf(c < 32 || c > 126 ? "\\x%02x" : "%c", c);
	}
	putchar('\n');
}

static void say_text(const char *key, const char *value)
{
	say(key, value, strlen(value));
}

__attribute__((format(printf, 2, 3)))
static void say_values(const char *key, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say_text(key, text);
}

static void say_strings(const char *what, char **strings)
{
	char key[32];
	int n;

	for (n = 0; strings[n]; n++) {
		/* The first and the last few of thousands. */
		if (n >= 10 && strings[n + 1])
			continue;
		snprintf(key, sizeof(key), "%s %d", what, n);
		say_text(key, strings[n]);
	}
	say_values(what, "%d", n);
}

static char *slurp(const char *path, size_t *len)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY);
	ssize_t n;

	must(fd >= 0, path);
	for (*len = 0; (n = read(fd, text + *len, sizeof(text) - 1 - *len)) > 0; *len += n)
		;
	must(!n, path);
	close(fd);
	text[*len] = '\0';
	return text;
}

static void say_file(const char *key, const char *path)
{
	size_t len;
	char *text = slurp(path, &len);

	say(key, text, len);
}

static void say_status(void)
{
	static const char *const wanted[] = {
		"Name", "Umask", "Uid", "Gid", "Groups", "NSsid", "Threads", "SigPnd", "ShdPnd", "SigBlk",
		"SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
		"Seccomp", "Cpus_allowed", "VmLck", "VmPin", "THP_enabled", "TracerPid",
	};
	size_t len;
	char *line = slurp("/proc/self/status", &len), *end;

	for (; (end = strchr(line, '\n')); line = end + 1) {
		char *colon = strchr(line, ':');

		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
			if (!strncmp(wanted[i], line, colon - line) && !wanted[i][colon - line]) {
				*colon = '\0';
				say(line, colon + 2, end - colon - 2);
				*colon = ':';
			}
	}
}

static void say_descriptors(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		int flags = fcntl(fd, F_GETFL);
		char path[32], target[256], key[16];
		struct stat stat;
		ssize_t n;

		if (flags < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		must(n >= 0 && !fstat(fd, &stat), path);
		/* The numbers of pipes and sockets differ from start to start. */
		if (!S_ISREG(stat.st_mode) && !S_ISCHR(stat.st_mode))
			n = strcspn(target, ":");
		target[n] = '\0';
		snprintf(key, sizeof(key), "fd %d", fd);
		say_values(key, "%s, flags %o, closed by exec %d, at %ld, owner %d", target, flags,
			   fcntl(fd, F_GETFD), (long)lseek(fd, 0, SEEK_CUR),
			   fcntl(fd, F_GETOWN) == getpid());
	}
}

static void say_limits(void)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;
		char key[16];

		must(!getrlimit(i, &limit), "getrlimit");
		snprintf(key, sizeof(key), "limit %d", i);
		say_values(key, "%ld %ld", (long)limit.rlim_cur, (long)limit.rlim_max);
	}
}

static void say_signals(void)
{
	struct sigaction action;
	stack_t stack;

	for (int i = 1; i < 65; i++) {
		if (i == 32 || i == 33 || sigaction(i, NULL, &action))
			continue;
		if (action.sa_handler != SIG_DFL || action.sa_flags & ~0x4000000) {
			char key[16];

			snprintf(key, sizeof(key), "signal %d", i);
			say_values(key, "ignored %d, flags %x", action.sa_handler == SIG_IGN,
				   action.sa_flags);
		}
	}
	must(!sigaltstack(NULL, &stack), "sigaltstack");
	say_values("sigaltstack", "%d", stack.ss_flags);
}

static void say_scheduling(void)
{
	struct sched_param param;
	struct itimerval timer;

	must(!sched_getparam(0, &param), "sched_getparam");
	say_values("scheduling", "%d, priority %d, nice %d", sched_getscheduler(0),
		   param.sched_priority, getpriority(PRIO_PROCESS, 0));
	say_values("timer slack", "%d", prctl(PR_GET_TIMERSLACK));
	/* An alarm outlives exec; how much of it is left is a matter of time. */
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
		must(!getitimer(which, &timer), "getitimer");
		say_values("itimer", "%d: runs %d, every %ld s", which,
			   timer.it_value.tv_sec || timer.it_value.tv_usec, timer.it_interval.tv_sec);
	}
	say_values("posix timer", "%d", timer_getoverrun(0) >= 0);
}

static void say_process(void)
{
	char text[4096];
	int signal = -1;

	must(!prctl(PR_GET_PDEATHSIG, &signal), "PR_GET_PDEATHSIG");
	say_values("flags", "dumpable %d, keepcaps %d, securebits %d, death signal %d",
		   prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_SECUREBITS), signal);
	say_values("ids", "leads session %d, leads group %d, is its first thread %d",
		   getsid(0) == getpid(), getpgrp() == getpid(), gettid() == getpid());
	must(!!getcwd(text, sizeof(text)), "getcwd");
	say_text("cwd", text);
	say_file("oom_score_adj", "/proc/self/oom_score_adj");
	say_file("cmdline", "/proc/self/cmdline");
	say_file("environ", "/proc/self/environ");
	say_file("comm", "/proc/self/comm");
	say_text("progname", program_invocation_name);
	must((signal = readlink("/proc/self/exe", text, sizeof(text))) > 0, "exe");
	say("path exe", text, signal);
	say_text("path AT_EXECFN", (char *)getauxval(AT_EXECFN));
}

static void say_auxv(void)
{
	static const struct {
		const char *name;
		int type;
	} values[] = {
		{ "AT_UID", AT_UID }, { "AT_EUID", AT_EUID }, { "AT_GID", AT_GID },
		{ "AT_EGID", AT_EGID }, { "AT_SECURE", AT_SECURE }, { "AT_PAGESZ", AT_PAGESZ },
		{ "AT_CLKTCK", AT_CLKTCK }, { "AT_PHENT", AT_PHENT }, { "AT_BASE", AT_BASE },
		{ "AT_FLAGS", AT_FLAGS }, { "AT_HWCAP", AT_HWCAP }, { "AT_HWCAP2", AT_HWCAP2 },
		{ "AT_MINSIGSTKSZ", AT_MINSIGSTKSZ },
	};
	const unsigned char *random = (void *)getauxval(AT_RANDOM);
	int zeros = 0;

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		say_values(values[i].name, "%#lx", getauxval(values[i].type));
	say_text("AT_PLATFORM", (char *)getauxval(AT_PLATFORM));
	for (int i = 0; i < 16; i++)
		zeros += !random[i];
	say_values("AT_RANDOM", "random %d", zeros < 8);
	say_values("AT_PHDR", "%d", getauxval(AT_PHDR) && getauxval(AT_PHNUM));
	say_values("AT_ENTRY", "%d", !!getauxval(AT_ENTRY));
}

/* Of the x86-64 psABI, "Process Initialization": the registers are the C library's by now. */
static void say_machine(char **argv)
{
	unsigned int mxcsr;
	unsigned short control;
	uintptr_t count = (uintptr_t)(argv - 1);
	struct rlimit limit;

	asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
	say_values("fpu", "%x %x", mxcsr, control);
	say_values("argc", "aligned %d, is %d", count % 16 == 0, *(long *)count > 0);
	/* The stack can be used to its limit, and the heap grows. */
	must(!getrlimit(RLIMIT_STACK, &limit), "getrlimit");
	say_values("heap", "%d", sbrk(4096) != (void *)-1);
}

static int state(char **argv)
{
	/* Nobody did it before process 1. */
	must(getpid() != 1 || !mount("proc", "/proc", "proc", 0, NULL), "mount");
	say_strings("arg", argv);
	say_strings("env", environ);
	say_status();
	say_descriptors();
	say_limits();
	say_signals();
	say_scheduling();
	say_process();
	say_auxv();
	say_machine(argv);
	printf("start end\n");
	fflush(stdout);
	/* As an ordinary process 1 its end is a panic, before which nobody waits for the console. */
	tcdrain(1);
	return 0;
}

/* --- ways to start --- */

static const char *program;
static const int *volatile nowhere = (int *)16;
static char *plain[] = { (char *)"name", (char *)"state", (char *)"a b", (char *)"", NULL };
static char **args = plain, **env;

static void become(void)
{
	fflush(stdout);
	execve(program, args, env);
}

static void handler(int signal)
{
	(void)signal;
}

static void set_identity(void)
{
	static const gid_t groups[] = { 7, 8, 70000 };

	must(!setgroups(ARRAY_SIZE(groups), groups), "setgroups");
	must(!setresgid(100, 100, 101), "setresgid");
	must(!setresuid(1000, 1000, 1001), "setresuid");
}

static void set_other_ids(void)
{
	/* An effective user that is not the real one: AT_SECURE is about exec, not about this. */
	must(!setresgid(100, 0, 0), "setresgid");
	must(!setresuid(1000, 0, 0), "setresuid");
}

static void set_limits(void)
{
	static const struct {
		int what;
		struct rlimit limit;
	} limits[] = {
		{ RLIMIT_CPU, { 100, 200 } }, { RLIMIT_FSIZE, { 1 << 20, 1 << 21 } },
		{ RLIMIT_DATA, { 1 << 26, 1 << 27 } }, { RLIMIT_STACK, { 1 << 18, 1 << 19 } },
		{ RLIMIT_CORE, { 0, 0 } }, { RLIMIT_NPROC, { 500, 501 } },
		{ RLIMIT_NOFILE, { 20, 30 } }, { RLIMIT_MEMLOCK, { 4096, 8192 } },
		{ RLIMIT_AS, { 1 << 28, 1 << 29 } }, { RLIMIT_SIGPENDING, { 5, 6 } },
		{ RLIMIT_NICE, { 1, 2 } }, { RLIMIT_RTPRIO, { 3, 4 } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		must(!setrlimit(limits[i].what, &limits[i].limit), "setrlimit");
}

static void set_descriptors(void)
{
	int pipes[2], sockets[2];
	int file = open("/tmp/start", O_RDWR | O_CREAT | O_APPEND, 0600);
	int closed = open("/dev/null", O_RDONLY | O_CLOEXEC);

	must(file >= 0 && closed >= 0 && !unlink("/tmp/start"), "open");
	must(write(file, "12345", 5) == 5 && lseek(file, 3, SEEK_SET) == 3, "write");
	must(!pipe2(pipes, O_NONBLOCK), "pipe2");
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), "socketpair");
	must(dup3(sockets[0], 100, 0) == 100, "dup3");
	must(dup3(file, 1000, O_CLOEXEC) == 1000, "dup3");
	must(!fcntl(pipes[0], F_SETOWN, getpid()), "F_SETOWN");
	close(0);
}

static void set_signals(void)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART | SA_NODEFER };
	static char stack[1 << 14];
	stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) };
	sigset_t set;

	signal(SIGUSR1, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	must(!sigaction(SIGTERM, &action, NULL) && !sigaction(SIGSEGV, &action, NULL), "sigaction");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 3);
	must(!sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
	must(!raise(SIGUSR2) && !kill(getpid(), SIGRTMIN + 3), "raise");
	must(!sigaltstack(&other, NULL), "sigaltstack");
}

/* Its parent led the session; it leads its group only. */
static void set_group(void)
{
	if (fork()) {
		int status;

		wait(&status);
		fflush(stdout);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
	}
	must(!setpgid(0, 0), "setpgid");
}

static void set_scheduling(void)
{
	struct sched_param param = { 0 };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	must(!sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
	must(nice(5) == 5, "nice");
	must(!sched_setscheduler(0, SCHED_BATCH, &param), "sched_setscheduler");
	must(!prctl(PR_SET_TIMERSLACK, 70000), "PR_SET_TIMERSLACK");
}

static void set_timers(void)
{
	struct itimerval long_time = { { 900, 0 }, { 1000, 0 } };
	struct itimerspec same = { { 900, 0 }, { 1000, 0 } };
	timer_t timer;

	must(!setitimer(ITIMER_REAL, &long_time, NULL), "ITIMER_REAL");
	must(!setitimer(ITIMER_VIRTUAL, &long_time, NULL), "ITIMER_VIRTUAL");
	must(!timer_create(CLOCK_MONOTONIC, NULL, &timer), "timer_create");
	must(!timer_settime(timer, 0, &same, NULL), "timer_settime");
}

static void set_flags(void)
{
	must(!prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
	must(!prctl(PR_SET_KEEPCAPS, 1), "PR_SET_KEEPCAPS");
	must(!prctl(PR_SET_PDEATHSIG, SIGUSR1), "PR_SET_PDEATHSIG");
	must(!prctl(PR_SET_NAME, "another"), "PR_SET_NAME");
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
	must(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "PR_SET_THP_DISABLE");
	must(!prctl(PR_CAPBSET_DROP, 25, 0, 0, 0), "PR_CAPBSET_DROP");
}

static void set_memory(void)
{
	unsigned int mxcsr = 0x1f80 | 0x6000;
	unsigned short control = 0x037f | 0x0c00;

	must(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall");
	must(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
	     MAP_FAILED, "mmap");
	/* Rounding to zero is the old program's, not the new one's. */
	asm volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
}

static void set_place(void)
{
	must(!mkdir("/tmp/place", 0700) || errno == EEXIST, "mkdir");
	must(!chdir("/tmp/place"), "chdir");
	umask(0137);
}

static void set_arguments(void)
{
	static char *many[5004], number[5000][8], longest[131072 - 1];

	many[0] = plain[0];
	many[1] = plain[1];
	for (int i = 0; i < 5000; i++) {
		snprintf(number[i], sizeof(number[i]), "%d", i);
		many[i + 2] = number[i];
	}
	memset(longest, 'x', sizeof(longest) - 1);
	many[5002] = longest;
	args = many;
}

static void set_no_arguments(void)
{
	static char *none[] = { NULL };

	args = none;
}

static void set_environment(void)
{
	static char *odd[] = {
		(char *)"A=1 2", (char *)"B=", (char *)"no equals sign", (char *)"=", (char *)"A=again",
		(char *)"LINES=a\nb\x01\xff", NULL,
	};

	env = odd;
}

static void set_no_environment(void)
{
	static char *none[] = { NULL };

	env = none;
}

/* More than a quarter of the stack's limit, or one of them over 128 KiB: and nothing is lost. */
static void set_too_much(void)
{
	static char *big[40], text[131072 + 1];
	struct rlimit limit = { 1 << 19, 1 << 23 };

	memset(text, 'y', sizeof(text) - 1);
	args = big;
	big[0] = plain[0];
	big[1] = text;
	become();
	must(errno == E2BIG, "an argument of 128 KiB");
	text[sizeof(text) - 2] = 0;
	for (int i = 1; i < 39; i++)
		big[i] = text;
	must(!setrlimit(RLIMIT_STACK, &limit), "setrlimit");
	become();
	must(errno == E2BIG, "more than a quarter of the stack");
	args = plain;
}

/* A thread that is not the first becomes the process. */
static void *thread(void *arg)
{
	(void)arg;
	become();
	return NULL;
}

static void *waiting_thread(void *arg)
{
	pause();
	return arg;
}

static void in_thread(void)
{
	pthread_t other, another;

	must(!pthread_create(&another, NULL, waiting_thread, NULL), "pthread_create");
	must(!pthread_create(&other, NULL, thread, NULL), "pthread_create");
	pthread_join(other, NULL);
}

static void wait_for(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status), "child");
	_exit(0);
}

static void by_vfork(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execve(program, args, env);
		_exit(97);
	}
	wait_for(pid);
}

static void by_spawn(void)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t set;
	pid_t pid;

	sigfillset(&set);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 7, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, 7, 9);
	posix_spawn_file_actions_addchdir_np(&actions, "/tmp");
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&attributes, &set);
	must(!posix_spawn(&pid, program, &actions, &attributes, args, env), "posix_spawn");
	wait_for(pid);
}

static void by_descriptor(void)
{
	int fd = open(program, O_PATH | O_CLOEXEC);

	must(fd >= 0, "O_PATH");
	fflush(stdout);
	fexecve(fd, args, env);
}

static const struct {
	const char *name;
	void (*prepare)(void);
} ways[] = {
	{ "plainly", NULL },
	{ "another-user", set_identity },
	{ "effective-user", set_other_ids },
	{ "limits", set_limits },
	{ "descriptors", set_descriptors },
	{ "signals", set_signals },
	{ "group", set_group },
	{ "scheduling", set_scheduling },
	{ "timers", set_timers },
	{ "flags", set_flags },
	{ "memory", set_memory },
	{ "place", set_place },
	{ "arguments", set_arguments },
	{ "no-arguments", set_no_arguments },
	{ "environment", set_environment },
	{ "no-environment", set_no_environment },
	{ "too-much", set_too_much },
	{ "thread", in_thread },
	{ "vfork", by_vfork },
	{ "spawn", by_spawn },
	{ "descriptor", by_descriptor },
};

int main(int argc, char **argv)
{
	/* Without arguments, or with an empty name that the kernel adds: it was told to be so. */
	if (argc < 2 || !strcmp(argv[1], "state"))
		return state(argv);
	if (!strcmp(argv[1], "exit") && argc > 2)
		return atoi(argv[2]);
	/* By a fault: a signal that process 1 sends itself is ignored. */
	if (!strcmp(argv[1], "load"))
		return *nowhere;
	if (!strcmp(argv[1], "ud2"))
		asm volatile("ud2");
	if (strcmp(argv[1], "from") || argc != 4)
		return 2;
	program = argv[3];
	env = environ;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		if (strcmp(ways[i].name, argv[2]))
			continue;
		if (ways[i].prepare)
			ways[i].prepare();
		become();
		must(0, "execve");
	}
	printf("start failed: no way %s\n", argv[2]);
	return 2;
}
