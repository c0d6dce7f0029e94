// SPDX-License-Identifier: Apache-2.0
/*
 * Starts a program again and again, and looks what that does to the rest of the machine.
 *
 *     stress leak PROGRAM CYCLES KEPT    memory after cycles; loses KEPT pages itself every 4th
 *     stress two PROGRAM                 instances at the same time
 *     stress crash PROGRAM TIMES         crashes, beside an instance that goes on
 *
 * It is an ordinary program; PROGRAM is the suite, in either ring.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "check.h"

#define WARM_UP	50
#define BOUND	100	/* pages */

static const char *program;

static pid_t start(const char *what, const char *arg)
{
	pid_t pid = fork();

	if (!pid) {
		execl(program, program, "victim", what, arg, (char *)NULL);
		_exit(126);
	}
	return pid;
}

static int end(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

/* --- memory --- */

static void slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = 0, got;

	while ((got = read(fd, text + n, size - 1 - n)) > 0)
		n += got;
	if (fd < 0 || n <= 0 || (size_t)n == size - 1)
		_exit(97);
	text[n] = 0;
	close(fd);
}

/* Free pages that processors keep at hand, which are not in MemFree. */
static long at_hand(void)
{
	static char text[65536];
	long pages = 0;
	int found = 0;

	slurp("/proc/zoneinfo", text, sizeof(text));
	for (char *at = text; (at = strstr(at, " count:")); found++) {
		at += strlen(" count:");
		pages += atol(at);
	}
	if (!found)
		_exit(96);
	return pages;
}

/* Pages that are free, or would be as soon as somebody wants them. */
static long available(void)
{
	static const char *const fields[] = { "MemFree:", "Buffers:", "Cached:", "SReclaimable:" };
	char text[4096], *at;
	long kib = 0;
	int fd;

	fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0 || write(fd, "3", 1) != 1)
		_exit(98);
	close(fd);
	usleep(100000);		/* what RCU frees */
	slurp("/proc/meminfo", text, sizeof(text));
	for (unsigned int i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		at = strstr(text, fields[i]);
		if (!at)
			_exit(96);
		kib += atol(at + strlen(fields[i]));
	}
	return kib / 4 + at_hand();
}

static long most_available(void)
{
	long most = 0, now;

	for (int i = 0; i < 5; i++) {
		now = available();
		if (now > most)
			most = now;
	}
	return most;
}

static void leak(int cycles, int kept)
{
	int bad = 0;
	long before = 0, after;

	for (int i = -WARM_UP; i < cycles; i++) {
		if (!i)
			before = most_available();
		bad += end(start("exit", NULL)) != 0;
		if (kept && i >= 0 && i % 4 == 0)
			memset(mmap(NULL, 4096UL * kept, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 4096UL * kept);
	}
	after = most_available();
	check(!bad, "stress.cycles", "%d of %d failed", bad, cycles);
	check(before - after < BOUND, "stress.leak", "%ld pages less after %d cycles",
	      before - after, cycles);
	printf("# lost %ld\n", before - after);
}

/* --- instances --- */

struct instance {
	pid_t pid;
	int go;		/* a byte here and it looks at its data */
};

static struct instance hold(const char *byte)
{
	struct instance instance = { .pid = -1 };
	int ready[2], go[2];
	char c;

	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(go, O_CLOEXEC) < 0)
		_exit(95);
	instance.pid = fork();
	if (!instance.pid) {
		/* Above 4 first: the ends may be 3 and 4 themselves. */
		int out = fcntl(ready[1], F_DUPFD, 10), in = fcntl(go[0], F_DUPFD, 10);

		dup2(out, 3);
		dup2(in, 4);
		close(out);
		close(in);
		execl(program, program, "victim", "hold", byte, (char *)NULL);
		_exit(126);
	}
	close(ready[1]);
	close(go[0]);
	instance.go = go[1];
	if (read(ready[0], &c, 1) != 1)
		instance.go = -1;	/* it died; its status tells */
	close(ready[0]);
	return instance;
}

static int release(struct instance instance)
{
	if (instance.go >= 0) {
		if (write(instance.go, "x", 1) != 1)
			kill(instance.pid, SIGKILL);
		close(instance.go);
	}
	return end(instance.pid);
}

static void two(void)
{
	int one, other, bad = 0;

	for (int i = 0; i < 20; i++) {
		struct instance a = hold("17"), b = hold("18");

		one = release(i & 1 ? a : b);
		other = release(i & 1 ? b : a);
		if (one || other) {
			bad++;
			printf("# statuses %x %x\n", one, other);
		}
	}
	check(!bad, "stress.two", "%d of 20 times another's data", bad);
}

/* --- crashes --- */

static const struct {
	const char *name;
	int signal;
} kinds[] = {
	{ "null_call", SIGSEGV }, { "wild_read", SIGSEGV }, { "wild_write", SIGSEGV },
	{ "wild_call", SIGSEGV }, { "wild_stack", SIGSEGV }, { "user_stack", SIGSEGV },
	{ "divide", SIGFPE }, { "undefined", SIGILL }, { "breakpoint", SIGTRAP },
	{ "abort", SIGABRT }, { "overflow", SIGSEGV }, { "call_stack", SIGSEGV },
	{ "call_mapping", SIGSEGV }, { "write_text", SIGSEGV },
};

#define KINDS	(sizeof(kinds) / sizeof(*kinds))

static void crash(int times)
{
	struct instance bystander = hold("99");
	int status, bad[KINDS] = { 0 }, last[KINDS] = { 0 }, again = 0;
	char name[60];

	for (int i = 0; i < times; i++) {
		unsigned int kind = i % KINDS;

		status = end(start("crash", kinds[kind].name));
		if (!WIFSIGNALED(status) || WTERMSIG(status) != kinds[kind].signal) {
			bad[kind]++;
			last[kind] = status;
		}
		again += end(start("exit", NULL)) != 0;
	}
	for (unsigned int i = 0; i < KINDS; i++) {
		snprintf(name, sizeof(name), "stress.crash.%s", kinds[i].name);
		check(!bad[i], name, "%d times status %x", bad[i], last[i]);
	}
	check(!again, "stress.crash.starts_again", "%d of %d times not", again, times);
	status = release(bystander);
	check(!status, "stress.crash.bystander", "status %x", status);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (argc < 3)
		return 2;
	program = argv[2];
	printf("# begin %s 3 0\n", what);
	fflush(stdout);
	if (!strcmp(what, "leak") && argc == 5)
		leak(atoi(argv[3]), atoi(argv[4]));
	else if (!strcmp(what, "two"))
		two();
	else if (!strcmp(what, "crash") && argc == 4)
		crash(atoi(argv[3]));
	else
		return 2;
	printf("# end %s\n", what);
	return check_failed;
}
