// SPDX-License-Identifier: Apache-2.0
/*
 * What a debugger and perf do, to subject.c in either ring: run by root.
 *
 *     inspect attach PATH           reads, changes, stops and steps through `PATH subject wait`
 *     inspect profile PATH          samples `PATH subject spin` with perf's cpu-clock
 *     inspect core PATH PORT        has `PATH subject crash` leave a core, and sends it to the host
 *     inspect server PORT [CAP]     has gdbserver attach to `/UKL subject wait`, which it gives a byte
 *                                   again and again, without the capability CAP (a number)
 *     inspect stacks PATH           shows where in the kernel `PATH subject wait` and `spin` are
 *     inspect sysrq PATH            has the kernel show it on the console
 *     inspect probes SYMBOL         tries to trace a function of the application
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <linux/hw_breakpoint.h>
#include "check.h"
#include "subject.h"

#define KERNEL_HALF	(1UL << 63)
#define USER		1000
#define STOPPED_BY(status, sig) (WIFSTOPPED(status) && WSTOPSIG(status) == (sig))

static const char *theme;

static const char *label(const char *what)
{
	static char text[100];

	snprintf(text, sizeof(text), "%s.%s", theme, what);
	return text;
}

static void fail(const char *what)
{
	printf("not ok %s: errno %d\n", label(what), errno);
	_exit(1);
}

/* A running `PATH subject WHAT ARGUMENT`, what it has said of itself, and where it is to be told. */
struct running {
	pid_t pid;
	int tell;
	struct subject subject;
};

static struct running start(const char *path, const char *what, const char *argument)
{
	struct running running;
	int from[2], to[2];

	if (pipe2(from, O_CLOEXEC) || pipe2(to, O_CLOEXEC))
		fail("pipe");
	fflush(stdout);
	running.pid = fork();
	if (!running.pid) {
		/* Not below 5: one of them would be in the way of the other. */
		int out = fcntl(from[1], F_DUPFD, 5), in = fcntl(to[0], F_DUPFD, 5);

		dup2(out, 3);
		dup2(in, 4);
		close(out);
		close(in);
		execl(path, path, "subject", what, argument, (char *)NULL);
		_exit(126);
	}
	close(from[1]);
	close(to[0]);
	running.tell = to[1];
	if (read(from[0], &running.subject, sizeof(running.subject)) != sizeof(running.subject))
		fail("start");
	close(from[0]);
	return running;
}

static void begin(const struct subject *subject)
{
	printf("# begin %s %d %p\n", theme, subject->ring, (void *)subject->global);
	fflush(stdout);
}

/* --- attach: gdb --- */

static long peek(pid_t pid, const void *address)
{
	errno = 0;
	return ptrace(PTRACE_PEEKDATA, pid, address, 0);
}

static void set_debug(pid_t pid, int number, unsigned long value)
{
	errno = 0;
	ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + number * 8, value);
}

/* Which breakpoint was hit. */
static long hit(pid_t pid)
{
	return ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[6]), 0) & 0xf;
}

/* Types and lengths in DR7: Intel SDM, volume 3, 18.2.4. */
#define DR7(n, type, length)	(1UL << (2 * (n)) | (unsigned long)((length) << 2 | (type)) << (16 + 4 * (n)))
#define EXECUTE	0
#define WRITE	1
#define EIGHT	2

static int wait_stop(pid_t pid, int sig)
{
	int status;

	return waitpid(pid, &status, 0) == pid && STOPPED_BY(status, sig);
}

static int refused(long result)
{
	return result < 0 && (errno == EIO || errno == EFAULT || errno == EINVAL || errno == EPERM);
}

/* What is shared with the kernel and all other processes must not take a debugger's breakpoints. */
static void poke_shared(pid_t pid, const struct subject *subject)
{
	const void *places[] = { subject->hit, subject->constant };
	const char *names[] = { "poke_text", "poke_constant" };
	int mem, poked;
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	mem = open(name, O_RDWR);
	for (int i = 0; i < 2; i++) {
		long before = peek(pid, places[i]), after;
		struct iovec local = { &after, 8 }, remote = { (void *)places[i], 8 };

		poked = refused(ptrace(PTRACE_POKETEXT, pid, places[i], before ^ 0xff));
		after = peek(pid, places[i]);
		if (subject->ring) {
			check(!poked && after == (before ^ 0xff), label(names[i]), "%lx", after);
			ptrace(PTRACE_POKETEXT, pid, places[i], before);
			continue;
		}
		check(poked && after == before, label(names[i]), "%d, %lx is %lx now", poked, before, after);
		after = before ^ 0xff;
		poked = refused(process_vm_writev(pid, &local, 1, &remote, 1, 0));
		check(poked && peek(pid, places[i]) == before, label("writev_shared"), "%d", poked);
		lseek(mem, (long)places[i], SEEK_SET);
		poked = refused(write(mem, &after, 8));
		check(poked && peek(pid, places[i]) == before, label("mem_shared"), "%d", poked);
	}
	close(mem);
}

static void break_there(struct running *running)
{
	struct subject *subject = &running->subject;
	struct user_regs_struct regs;
	pid_t pid = running->pid;
	unsigned long global = (unsigned long)subject->global;
	int good;

	set_debug(pid, 0, (unsigned long)subject->hit);
	check(!errno, label("hbreak"), "errno %d", errno);
	set_debug(pid, 1, global);
	good = check(!errno, label("watch"), "errno %d", errno);
	set_debug(pid, 7, DR7(0, EXECUTE, 0) | DR7(1, WRITE, EIGHT));
	good &= check(!errno, label("debug_control"), "errno %d", errno);
	if (!good)
		return;
	ptrace(PTRACE_CONT, pid, 0, 0);
	if (write(running->tell, "xy", 2) != 2)
		fail("tell");
	for (int i = 0; i < 2; i++) {
		int stopped = wait_stop(pid, SIGTRAP);

		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		check(stopped && regs.rip == (unsigned long)subject->hit && hit(pid) == 1,
		      label("hbreak_hit"), "%d at %llx, %lx", stopped, regs.rip, hit(pid));
		check(peek(pid, (void *)global) == SUBJECT_GLOBAL + 50 + i, label("hbreak_before"),
		      "%ld", peek(pid, (void *)global));
		set_debug(pid, 6, 0);
		ptrace(PTRACE_CONT, pid, 0, 0);
		stopped = wait_stop(pid, SIGTRAP);
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		check(stopped && regs.rip - (unsigned long)subject->hit - 1 < 32 && hit(pid) == 2,
		      label("watch_hit"), "%d at %llx, %lx", stopped, regs.rip, hit(pid));
		check(peek(pid, (void *)global) == SUBJECT_GLOBAL + 51 + i, label("watch_after"),
		      "%ld", peek(pid, (void *)global));
		set_debug(pid, 6, 0);
		if (!i)
			ptrace(PTRACE_CONT, pid, 0, 0);
	}
	set_debug(pid, 7, 0);
	/* The kernel around the application is none of a debugger's business. */
	set_debug(pid, 2, (unsigned long)subject->hit - (4UL << 20) + (subject->ring ? KERNEL_HALF : 0));
	check(errno, label("hbreak_kernel"), "accepted");
	set_debug(pid, 3, ((global + (4UL << 20)) & -8UL) | (subject->ring ? KERNEL_HALF : 0));
	check(errno, label("watch_kernel"), "accepted");
}

/* Who may set breakpoints in himself only must not find out where the application is. */
static void break_unprivileged(const struct subject *subject)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_BREAKPOINT, .size = sizeof(attr), .bp_type = HW_BREAKPOINT_X,
		.bp_addr = (unsigned long)subject->hit, .bp_len = sizeof(long), .exclude_kernel = 1,
	};
	int status, error;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (setgid(USER) || setuid(USER))
			_exit(126);
		error = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) < 0 ? errno : 0;
		_exit(error);
	}
	waitpid(pid, &status, 0);
	/* In ring 3 it may be anybody's address. */
	check(status == (subject->ring ? 0 : EINVAL) << 8, label("hbreak_unprivileged"), "%x", status);
}

/* Step by step through a system call and back, the registers written back each time. */
static void step(struct running *running)
{
	struct user_regs_struct regs, again;
	int steps = 0, changed = 0, returned = 0;
	pid_t pid = running->pid;

	/* It waits in read(); this lets it go round once. */
	if (write(running->tell, "z", 1) != 1)
		fail("tell");
	while (steps < 400 && ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0 && wait_stop(pid, SIGTRAP)) {
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		changed += ptrace(PTRACE_SETREGS, pid, 0, &regs) != 0;
		ptrace(PTRACE_GETREGS, pid, 0, &again);
		changed += memcmp(&regs, &again, sizeof(regs)) != 0;
		steps++;
		if (regs.rip == (unsigned long)running->subject.hit && returned++)
			break;
		if (returned == 1 && regs.rip == (unsigned long)running->subject.hit &&
		    write(running->tell, "z", 1) != 1)
			fail("tell");
	}
	check(!changed, label("step_setregs"), "%d of %d", changed, steps);
	check(returned == 2, label("step"), "%d returns in %d steps, at %llx", returned, steps, regs.rip);
}

static void attach(const char *path)
{
	struct running running = start(path, "wait", NULL);
	struct subject *subject = &running.subject;
	struct user_regs_struct regs;
	struct user_fpregs_struct fpregs, fpagain;
	struct iovec iov = { &regs, sizeof(regs) };
	pid_t pid = running.pid;
	int status = 0;
	long code = 0;

	begin(subject);
	usleep(100000);	/* until it waits */
	check(!ptrace(PTRACE_ATTACH, pid, 0, 0) && wait_stop(pid, SIGSTOP), label("attach"),
	      "errno %d", errno);
	check(!ptrace(PTRACE_GETREGS, pid, 0, &regs) && regs.orig_rax == SYS_read && regs.rdi == 4 &&
	      regs.cs == (subject->ring ? 0x33 : 0x10) &&
	      (regs.rip >= KERNEL_HALF) == !subject->ring && regs.rsp < KERNEL_HALF,
	      label("registers"), "%llx %llx %llx %llx", regs.orig_rax, regs.cs, regs.rip, regs.rsp);
	memset(&regs, 0, sizeof(regs));
	check(!ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &iov) && iov.iov_len == sizeof(regs) &&
	      regs.orig_rax == SYS_read, label("regset"), "errno %d", errno);
	check(!ptrace(PTRACE_GETFPREGS, pid, 0, &fpregs) && !ptrace(PTRACE_SETFPREGS, pid, 0, &fpregs) &&
	      !ptrace(PTRACE_GETFPREGS, pid, 0, &fpagain) && !memcmp(&fpregs, &fpagain, sizeof(fpregs)),
	      label("fpregs"), "errno %d", errno);
	check(peek(pid, subject->global) == SUBJECT_GLOBAL, label("peek_global"), "errno %d", errno);
	check(peek(pid, subject->constant) == SUBJECT_CONSTANT, label("peek_constant"), "errno %d", errno);
	code = peek(pid, subject->hit);
	check(code && !errno, label("peek_text"), "errno %d", errno);
	check(!ptrace(PTRACE_POKEDATA, pid, subject->global, SUBJECT_GLOBAL + 50) &&
	      peek(pid, subject->global) == SUBJECT_GLOBAL + 50, label("poke_global"), "errno %d", errno);
	poke_shared(pid, subject);
	break_there(&running);
	break_unprivileged(subject);
	step(&running);
	check(!ptrace(PTRACE_DETACH, pid, 0, 0), label("detach"), "errno %d", errno);
	close(running.tell);
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == ((SUBJECT_GLOBAL + 54) & 0x7f),
	      label("end"), "status %x", status);
}

/* --- profile: perf --- */

#define PAGES	64
#define SAMPLES	40
#define SAMPLE_BYTES	100	/* most of them */

struct sample {
	struct perf_event_header header;
	unsigned long ip;
	unsigned int pid, tid;
	unsigned long nr;
	unsigned long ips[];
};

struct counts {
	int all, inner, named, chained, longer;
};

struct symbol {
	unsigned long address;
	char name[80];
};

static struct symbol *symbols;
static int symbol_count;

static void read_kallsyms(void)
{
	FILE *in = fopen("/proc/kallsyms", "r");
	char line[300], type;
	struct symbol symbol;

	while (in && fgets(line, sizeof(line), in)) {
		if (sscanf(line, "%lx %c %79s", &symbol.address, &type, symbol.name) != 3)
			continue;
		if (!(symbol_count & (symbol_count - 1)))
			symbols = realloc(symbols, (symbol_count ? 2 * symbol_count : 1) * sizeof(symbol));
		symbols[symbol_count++] = symbol;
	}
	if (in)
		fclose(in);
}

/* As perf does it for an address of the kernel: the last symbol at or below it. */
static const char *name_of(unsigned long address)
{
	const struct symbol *best = NULL;

	for (int i = 0; i < symbol_count; i++)
		if (symbols[i].address <= address && (!best || symbols[i].address >= best->address))
			best = &symbols[i];
	return best ? best->name : "?";
}

static void count(struct counts *counts, const struct sample *sample, const struct subject *subject)
{
	unsigned long inner = (unsigned long)subject->inner, outer = (unsigned long)subject->outer;
	int mode = sample->header.misc & PERF_RECORD_MISC_CPUMODE_MASK, outers = 0, last = 0;
	/* perf looks an address up among the kernel's names or in the process's maps, as it is told. */
	int own_mode = subject->ring ? PERF_RECORD_MISC_USER : PERF_RECORD_MISC_KERNEL;
	unsigned long own_context = subject->ring ? PERF_CONTEXT_USER : PERF_CONTEXT_KERNEL, context = 0;

	counts->all++;
	counts->inner += mode == own_mode && sample->ip - inner < 64;
	if (!subject->ring && mode == own_mode)
		counts->named += !strcmp(name_of(sample->ip), "ukl.subject_inner");
	for (unsigned long i = 0; i < sample->nr; i++) {
		unsigned long ip = sample->ips[i];

		if (ip >= (unsigned long)PERF_CONTEXT_MAX) {
			context = ip;
			last = 0;
			continue;
		}
		outers += context == own_context && ip - outer < 64;
		last++;
	}
	counts->chained += outers == 1;
	/* The program's own part comes last. */
	counts->longer += last > 1;
}

/* Until there are some samples, or for half a second if there should be hardly any. */
static struct counts sample(const struct running *running, int no_kernel, int no_user)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 1000000,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_CALLCHAIN,
		.exclude_kernel = no_kernel, .exclude_user = no_user,
	};
	static char record[1 << 16];
	struct counts counts = { 0 };
	struct perf_event_mmap_page *page;
	unsigned long at, size = PAGES * 4096UL;
	int fd = syscall(SYS_perf_event_open, &attr, running->pid, -1, -1, 0);

	if (fd < 0)
		fail("perf_event_open");
	page = mmap(NULL, 4096 + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < (no_user ? 5 : 200) && page->data_head < SAMPLES * SAMPLE_BYTES; i++)
		usleep(100000);
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	for (at = 0; at < page->data_head; ) {
		char *data = (char *)page + 4096;
		struct perf_event_header *header = (void *)(data + at % size);

		for (int i = 0; i < header->size; i++)
			record[i] = data[(at + i) % size];
		if (header->type == PERF_RECORD_SAMPLE)
			count(&counts, (struct sample *)record, &running->subject);
		at += header->size;
	}
	munmap(page, 4096 + size);
	close(fd);
	printf("# samples %d inner %d named %d chained %d longer %d\n", counts.all, counts.inner,
	       counts.named, counts.chained, counts.longer);
	return counts;
}

static void end(const struct running *running)
{
	int status;

	kill(running->pid, SIGKILL);
	waitpid(running->pid, &status, 0);
	close(running->tell);
}

static void profile(const char *path)
{
	struct running running = start(path, "spin", NULL);
	unsigned long global = (unsigned long)running.subject.global;
	unsigned long hit = (unsigned long)running.subject.hit;
	/* What a frame pointer may be that is none: of the kernel, of nobody, not canonical. */
	unsigned long frames[] = {
		1, KERNEL_HALF, -8UL, 0xffffffffff000000UL, 0x00007fffffffeff0UL,
		hit - (4UL << 20), global + (4UL << 20),
	};
	struct counts all, user, kernel;
	char text[32];

	begin(&running.subject);
	read_kallsyms();
	all = sample(&running, 0, 0);
	user = sample(&running, 1, 0);
	kernel = sample(&running, 0, 1);
	check(all.all >= SAMPLES / 2, label("samples"), "%d", all.all);
	check(all.inner * 10 > all.all * 8, label("inner"), "%d of %d", all.inner, all.all);
	check(all.chained * 10 > all.all * 8, label("callchain"), "%d of %d", all.chained, all.all);
	check(user.all >= SAMPLES / 2 && user.inner == user.all, label("exclude_kernel"), "%d of %d",
	      user.inner, user.all);
	check(kernel.inner == 0, label("exclude_user"), "%d of %d", kernel.inner, kernel.all);
	if (!running.subject.ring)
		check(all.named && all.named == all.inner, label("kallsyms"), "%d of %d", all.named, all.inner);
	end(&running);
	for (unsigned int i = 0; i < sizeof(frames) / sizeof(*frames); i++) {
		snprintf(text, sizeof(text), "%#lx", frames[i]);
		running = start(path, "spin", text);
		all = sample(&running, 0, 0);
		check(all.all >= SAMPLES / 2 && !all.longer, label("wild_frame"), "%s: %d of %d", text,
		      all.longer, all.all);
		end(&running);
	}
}

/* --- core --- */

static void send_file(const char *path, const char *port)
{
	struct sockaddr_in host = {
		.sin_family = AF_INET, .sin_port = htons(atoi(port)),
		/* QEMU's name for the machine that it runs on. */
		.sin_addr.s_addr = htonl(0x0a000202),
	};
	int in = open(path, O_RDONLY), out = socket(AF_INET, SOCK_STREAM, 0);
	static char buffer[65536];
	ssize_t n;

	if (in < 0 || connect(out, (struct sockaddr *)&host, sizeof(host)))
		fail("send");
	while ((n = read(in, buffer, sizeof(buffer))) > 0)
		if (write(out, buffer, n) != n)
			fail("send");
	/* Until the host has it all: the machine may end the next moment. */
	shutdown(out, SHUT_WR);
	while (read(out, buffer, sizeof(buffer)) > 0)
		;
	close(in);
	close(out);
}

static void core(const char *path, const char *port)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY), status;
	pid_t pid;

	if (write(fd, "/tmp/core", 9) != 9)
		fail("core_pattern");
	close(fd);
	unlink("/tmp/core");
	pid = fork();
	if (!pid) {
		setrlimit(RLIMIT_CORE, &limit);
		execl(path, path, "subject", "crash", (char *)NULL);
		_exit(126);
	}
	waitpid(pid, &status, 0);
	check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV && WCOREDUMP(status), label("dumped"),
	      "status %x", status);
	send_file("/tmp/core", port);
}

/* --- server --- */

static void server(const char *port, const char *capability)
{
	struct running running = start("/UKL", "wait", NULL);
	char address[16], pid[16];

	snprintf(address, sizeof(address), ":%s", port);
	snprintf(pid, sizeof(pid), "%d", running.pid);
	if (!fork()) {
		while (write(running.tell, "x", 1) == 1)
			usleep(100000);
		_exit(0);
	}
	/* What counts for root is the bounding set at the next exec. */
	if (capability && prctl(PR_CAPBSET_DROP, atoi(capability), 0, 0, 0))
		fail("drop");
	execl("/usr/bin/gdbserver", "gdbserver", "--once", "--attach", address, pid, (char *)NULL);
	fail("gdbserver");
}

/* --- stacks, sysrq --- */

static void show(pid_t pid, const char *what, const char *file)
{
	char text[256];
	FILE *in;

	snprintf(text, sizeof(text), "/proc/%d/%s", pid, file);
	in = fopen(text, "r");
	printf("# %s %s:", what, file);
	while (in && fgets(text, sizeof(text), in))
		printf(" %.*s", (int)strcspn(text, "\n"), text);
	printf("\n");
	if (in)
		fclose(in);
}

/* Until it has computed for a while: it is where it stays. */
static void until_spins(pid_t pid)
{
	struct timespec begun, now;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &begun))
		fail("cpuclock");
	do {
		usleep(10000);
		clock_gettime(clock, &now);
	} while ((now.tv_sec - begun.tv_sec) * 1000000000L + now.tv_nsec - begun.tv_nsec < 200000000);
}

static void stacks(const char *path)
{
	struct running waits = start(path, "wait", NULL), spins = start(path, "spin", NULL);

	begin(&waits.subject);
	/* By then the other one waits. */
	until_spins(spins.pid);
	show(waits.pid, "waits", "stack");
	show(waits.pid, "waits", "wchan");
	show(waits.pid, "waits", "syscall");
	show(spins.pid, "spins", "stack");
	end(&waits);
	end(&spins);
}

static void sysrq(const char *path)
{
	struct running waits = start(path, "wait", NULL), spins = start(path, "spin", NULL);
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	begin(&waits.subject);
	fflush(stdout);
	until_spins(spins.pid);
	/* All tasks; those that are blocked; what each processor does. */
	for (const char *at = "twl"; *at; at++) {
		check(write(fd, at, 1) == 1, label("trigger"), "%c: errno %d", *at, errno);
		usleep(500000);
	}
	close(fd);
	end(&waits);
	end(&spins);
}

/* --- probes --- */

#define TRACING	"/sys/kernel/tracing"
#define EVENTS	TRACING "/kprobe_events"
#define FILTER	TRACING "/set_ftrace_filter"

/* The errno of writing a line, 0 if it was taken. */
static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND), error;

	if (fd < 0)
		fail(path);
	error = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return error;
}

static unsigned long address_of(const char *name)
{
	for (int i = 0; i < symbol_count; i++)
		if (!strcmp(symbols[i].name, name))
			return symbols[i].address;
	fail(name);
	return 0;
}

static void expect(const char *what, const char *path, const char *text, int error)
{
	int got = put(path, text);

	check(got == error, label(what), "%s: errno %d", text, got);
}

static void probes(const char *symbol)
{
	unsigned long bad;
	char line[200];

	read_kallsyms();
	bad = address_of(symbol);
	printf("# begin %s 3 %p\n", theme, (void *)bad);
	if (access(EVENTS, F_OK) && mount("tracefs", TRACING, "tracefs", 0, NULL))
		fail("tracefs");
	/* That it works in the very same way, or the rest proves nothing. */
	snprintf(line, sizeof(line), "p:good %#lx\n", address_of("vfs_write"));
	expect("kprobe_kernel", EVENTS, line, 0);
	expect("ftrace_kernel", FILTER, "vfs_write\n", 0);
	for (int offset = 0; offset < 3; offset++) {
		snprintf(line, sizeof(line), "p:bad %#lx\n", bad + offset);
		expect("kprobe", EVENTS, line, EINVAL);
	}
	snprintf(line, sizeof(line), "r:bad %s\n", symbol);
	expect("kretprobe", EVENTS, line, EINVAL);
	snprintf(line, sizeof(line), "%s\n", symbol);
	expect("ftrace", FILTER, line, EINVAL);
}

int main(int argc, char **argv)
{
	theme = argc > 1 ? argv[1] : "";
	if (!strcmp(theme, "attach") && argc > 2)
		attach(argv[2]);
	else if (!strcmp(theme, "profile") && argc > 2)
		profile(argv[2]);
	else if (!strcmp(theme, "core") && argc > 3)
		core(argv[2], argv[3]);
	else if (!strcmp(theme, "server") && argc > 2)
		server(argv[2], argc > 3 ? argv[3] : NULL);
	else if (!strcmp(theme, "stacks") && argc > 2)
		stacks(argv[2]);
	else if (!strcmp(theme, "sysrq") && argc > 2)
		sysrq(argv[2]);
	else if (!strcmp(theme, "probes") && argc > 2)
		probes(argv[2]);
	else
		return 2;
	printf("# end %s\n", theme);
	return check_failed;
}
