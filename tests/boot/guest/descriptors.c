// SPDX-License-Identifier: Apache-2.0
/*
 * read(), write(), sendto(), recvfrom() and epoll_wait() on descriptors of every kind: in each way of
 * a call the same results, errors, signals, times, notifications and accounts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include "check.h"
#include "ring.h"

#define LARGE		70000	/* more than a pipe holds */
#define WAIT_MS		30
#define DIRECT_MAP	0xffff888000000000L	/* no program's, in either ring */

typedef long (*way_fn)(long nr, long a, long b, long c, long d, long e, long f);

#define WAY(name, target) \
	static long name(long nr, long a, long b, long c, long d, long e, long f) \
	{ \
		register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f; \
		long ret; \
		asm volatile(target : "=a"(ret), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8), "+r"(r9) \
			     : "a"(nr), [gate] "m"(gates[nr]) : "rcx", "r11", "cc", "memory"); \
		return ret; \
	}
WAY(six_by_instruction, "syscall")
WAY(six_by_call, "call ukl_syscall")
WAY(six_by_function, "call *%[gate]")

static const struct way {
	const char *name;
	way_fn fn;
} ways[] = { { "instruction", six_by_instruction }, { "call", six_by_call }, { "function", six_by_function } };
#define WAYS	(sizeof(ways) / sizeof(ways[0]))

static const struct way *way;	/* in which calls are made now */

static long sys_read(int fd, const void *buffer, size_t n)
{
	return way->fn(SYS_read, fd, (long)buffer, (long)n, 0, 0, 0);
}

static long sys_write(int fd, const void *buffer, size_t n)
{
	return way->fn(SYS_write, fd, (long)buffer, (long)n, 0, 0, 0);
}

static long sys_sendto(int fd, const void *buffer, size_t n, int flags, const void *address, long size)
{
	return way->fn(SYS_sendto, fd, (long)buffer, (long)n, flags, (long)address, size);
}

static long sys_recvfrom(int fd, void *buffer, size_t n, int flags, void *address, void *size)
{
	return way->fn(SYS_recvfrom, fd, (long)buffer, (long)n, flags, (long)address, (long)size);
}

static long sys_epoll_wait(int fd, const void *events, int max, int timeout)
{
	return way->fn(SYS_epoll_wait, fd, (long)events, max, timeout, 0, 0);
}

/* --- what happened, as a text; the ways must have the same --- */

static char texts[WAYS][8192], *text;
static size_t used;

__attribute__((format(printf, 1, 2)))
static void note(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(text + used, sizeof(texts[0]) - used, format, args);
	va_end(args);
	used += (size_t)n;
	if (used >= sizeof(texts[0]))
		_exit(91);
}

static char large[LARGE], got[LARGE];	/* in the kernel half in ring 0 */

/* The result of a call that may have filled @got, with a sum of what is there. */
static void note_read(long ret)
{
	unsigned int sum = 0;

	for (long i = 0; i < ret && i < LARGE; i++)
		sum = sum * 31 + (unsigned char)got[i];
	note(" %ld/%x", ret, sum);
	memset(got, 0, sizeof(got));
}

static volatile int signals;

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static void handle(int sig, int flags)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };

	sigaction(sig, &action, NULL);
	signals = 0;
}

static long milliseconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void alarm_in(int ms, int every)
{
	struct itimerval timer = { .it_value.tv_usec = ms * 1000, .it_interval.tv_usec = every * 1000 };

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* --- the kinds --- */

struct ends {
	int from, to;	/* what is written to @to is read from @from */
};

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int bound(int type)
{
	struct sockaddr_in address = loopback(0);
	int fd = socket(AF_INET, type, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		_exit(92);
	return fd;
}

static struct sockaddr_in name_of(int fd)
{
	struct sockaddr_in address;
	socklen_t size = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &size))
		_exit(93);
	return address;
}

static struct ends tcp(void)
{
	struct sockaddr_in address;
	struct ends ends;
	int listening = bound(SOCK_STREAM), one = 1;

	address = name_of(listening);
	ends.to = socket(AF_INET, SOCK_STREAM, 0);
	if (listen(listening, 1) || connect(ends.to, (struct sockaddr *)&address, sizeof(address)))
		_exit(94);
	ends.from = accept(listening, NULL, NULL);
	setsockopt(ends.to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	close(listening);
	return ends;
}

static struct ends udp(void)
{
	struct ends ends = { bound(SOCK_DGRAM), bound(SOCK_DGRAM) };
	struct sockaddr_in from = name_of(ends.from), to = name_of(ends.to);

	if (connect(ends.to, (struct sockaddr *)&from, sizeof(from)) ||
	    connect(ends.from, (struct sockaddr *)&to, sizeof(to)))
		_exit(95);
	return ends;
}

static struct ends a_pair(int type)
{
	int fds[2];

	if (socketpair(AF_UNIX, type, 0, fds))
		_exit(96);
	return (struct ends){ fds[0], fds[1] };
}

static struct ends local_stream(void) { return a_pair(SOCK_STREAM); }
static struct ends local_datagram(void) { return a_pair(SOCK_DGRAM); }
static struct ends local_packet(void) { return a_pair(SOCK_SEQPACKET); }

static struct ends a_pipe(void)
{
	int fds[2];

	if (pipe(fds))
		_exit(97);
	return (struct ends){ fds[0], fds[1] };
}

static struct ends packets(void)
{
	int fds[2];

	if (pipe2(fds, O_DIRECT))
		_exit(97);
	return (struct ends){ fds[0], fds[1] };
}

static struct ends fifo(void)
{
	struct ends ends;

	mkfifo("/tmp/fifo", 0600);
	ends.from = open("/tmp/fifo", O_RDWR);
	ends.to = open("/tmp/fifo", O_WRONLY);
	if (ends.from < 0 || ends.to < 0)
		_exit(98);
	return ends;
}

static struct ends counter(void)
{
	int fd = eventfd(0, 0);

	return (struct ends){ fd, fd };
}

static struct ends semaphore(void)
{
	int fd = eventfd(0, EFD_SEMAPHORE);

	return (struct ends){ fd, fd };
}

static struct ends file(void)
{
	struct ends ends = { open("/tmp/file", O_RDWR | O_CREAT | O_TRUNC, 0600), -1 };

	ends.to = open("/tmp/file", O_WRONLY | O_APPEND);
	return ends;
}

static struct ends zero(void)
{
	return (struct ends){ open("/dev/zero", O_RDONLY), open("/dev/null", O_WRONLY) };
}

static const struct kind {
	const char *name;
	struct ends (*make)(void);
} kinds[] = {
	{ "tcp", tcp }, { "udp", udp }, { "unix-stream", local_stream }, { "unix-dgram", local_datagram },
	{ "unix-seqpacket", local_packet }, { "pipe", a_pipe }, { "pipe-packets", packets }, { "fifo", fifo },
	{ "eventfd", counter }, { "eventfd-semaphore", semaphore }, { "file", file }, { "device", zero },
};
#define KINDS	(sizeof(kinds) / sizeof(kinds[0]))

static void nonblocking(const struct ends *ends)
{
	fcntl(ends->from, F_SETFL, O_NONBLOCK);
	fcntl(ends->to, F_SETFL, fcntl(ends->to, F_GETFL) | O_NONBLOCK);
}

/* What is sent over the loopback may come by another thread of the kernel. */
static void settle(int fd)
{
	struct pollfd wanted = { .fd = fd, .events = POLLIN };

	poll(&wanted, 1, 1000);
}

static int is_socket(int fd)
{
	struct stat status;

	return !fstat(fd, &status) && S_ISSOCK(status.st_mode);
}

static void shut(const struct ends *ends)
{
	close(ends->from);
	if (ends->to != ends->from)
		close(ends->to);
}

/* --- what is asked of each --- */

static void results(const struct kind *kind)
{
	static const size_t sizes[] = { 0, 1, 7, 8, 9, 100, 4096, 5000 };
	struct ends ends = kind->make();
	long n;

	nonblocking(&ends);
	note_read(sys_read(ends.from, got, 8));	/* nothing there yet */
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		large[0] = (char)i;
		note(" w%ld", n = sys_write(ends.to, large, sizes[i]));
		if (n > 0)
			settle(ends.from);
		note_read(sys_read(ends.from, got, 0));
		note_read(sys_read(ends.from, got, sizes[i] > 8 ? sizes[i] - 1 : 8));
		note_read(sys_read(ends.from, got, 8));
	}
	large[0] = 1;
	/* What cannot be told apart by its descriptor, place or length. */
	note(" bad");
	note(" %ld", sys_write(ends.to, NULL, 8));
	note(" %ld", sys_write(ends.to, (void *)DIRECT_MAP, 8));
	note(" %ld", sys_write(ends.to, large, (size_t)-1));
	note(" %ld", sys_write(ends.to, (void *)DIRECT_MAP, 0));
	sys_write(ends.to, large, 8);
	settle(ends.from);
	note(" %ld", sys_read(ends.from, NULL, 8));
	note(" %ld", sys_read(ends.from, (void *)DIRECT_MAP, 8));
	note(" %ld", sys_read(ends.from, got, (size_t)-1));
	note(" %ld", sys_read(ends.from, got, (size_t)1 << 63));
	note_read(sys_read(ends.from, got, 8));
	note(" %ld", n = sys_sendto(ends.to, large, 8, MSG_NOSIGNAL, NULL, 0));
	if (n > 0)
		settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 8, MSG_DONTWAIT, NULL, NULL));
	note_read(sys_read(ends.from, got, 8));
	if (kind->make != tcp) {	/* which takes as much as it has room for just then */
		note(" large %ld", n = sys_write(ends.to, large, LARGE));
		if (n > 0)
			settle(ends.from);
		note_read(sys_read(ends.from, got, LARGE));
	}
	/* A file that is open for something else, or for nothing. */
	shut(&ends);
	note(" shut %ld", sys_read(ends.from, got, 8));
	note(" %ld", sys_write(ends.to, large, 8));
}

static void ends_of(const struct kind *kind)
{
	struct ends ends = kind->make();
	int both = ends.from == ends.to;

	nonblocking(&ends);
	handle(SIGPIPE, 0);
	sys_write(ends.to, large, 8);
	if (both || kind->make == fifo || kind->make == udp) {
		shut(&ends);
		return;
	}
	settle(ends.from);
	note_read(sys_read(ends.from, got, 4));
	close(ends.to);
	settle(ends.from);
	note_read(sys_read(ends.from, got, 100));
	note_read(sys_read(ends.from, got, 100));
	close(ends.from);
	ends = kind->make();
	close(ends.from);
	for (int i = 0; i < 3; i++) {
		note(" %ld", sys_write(ends.to, large, 8));
		usleep(1000);	/* a reset takes its time */
	}
	note(" %ld", sys_sendto(ends.to, large, 8, MSG_NOSIGNAL, NULL, 0));
	note(" signals %d", signals);
	close(ends.to);
}

static void modes(void)
{
	int fds[4] = { open("/tmp", O_RDONLY | O_DIRECTORY), open("/tmp", O_PATH), epoll_create1(0),
		       open("/proc/self/stat", O_RDONLY) };
	struct ends ends = a_pipe();

	for (int i = 0; i < 4; i++) {
		note(" %ld", sys_read(fds[i], got, 0));
		note(" %ld", sys_write(fds[i], large, 1));
		note(" %ld", sys_sendto(fds[i], large, 1, 0, NULL, 0));
		note(" %ld", sys_recvfrom(fds[i], got, 1, 0, NULL, NULL));
		note(" %ld", sys_epoll_wait(fds[i], got, 1, 0));
		close(fds[i]);
	}
	note(" %ld", sys_read(ends.to, got, 1));
	note(" %ld", sys_write(ends.from, large, 1));
	note(" %ld", sys_read(ends.to, NULL, 1));
	note(" %ld", sys_write(ends.from, NULL, 1));
	note(" %ld", sys_read(-1, got, 1));
	note(" %ld", sys_write(1 << 20, large, 1));
	note(" %ld", way->fn(SYS_read, 0x100000000L + ends.from + 1000, (long)got, 1, 0, 0, 0));
	/* Only the low half of a register is a descriptor. */
	sys_write(ends.to, large, 1);
	note(" %ld", way->fn(SYS_read, 0x700000000L + ends.from, (long)got, 1, 0, 0, 0));
	shut(&ends);
}

static void positions(void)
{
	struct ends ends = file();

	sys_write(ends.to, "abcdefgh", 8);
	note_read(sys_read(ends.from, got, 3));
	note(" at %ld", (long)lseek(ends.from, 0, SEEK_CUR));
	note_read(sys_read(ends.from, got, 3));
	sys_write(ends.from, "XY", 2);
	note(" at %ld", (long)lseek(ends.from, 0, SEEK_CUR));
	note_read(sys_read(ends.from, got, 9));
	lseek(ends.from, 0, SEEK_SET);
	note_read(sys_read(ends.from, got, 9));
	shut(&ends);
	ends = counter();
	note(" seek %ld", (long)lseek(ends.from, 1, SEEK_SET));
	shut(&ends);
}

static void waits(const struct kind *kind)
{
	struct timeval limit = { .tv_usec = WAIT_MS * 1000 };
	struct ends ends = kind->make();
	int sock = !setsockopt(ends.from, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	/*
	 * Time-outs of sockets are of jiffies, as this clock is: if the host lets a processor wait that
	 * should count them, several come together, and one is over early by any other clock.
	 */
	long began = milliseconds(CLOCK_MONOTONIC_COARSE);

	if (kind->make == file || kind->make == zero) {
		shut(&ends);
		return;
	}
	if (sock) {
		note(" %ld", sys_read(ends.from, got, 8));
		note(" %ld", sys_recvfrom(ends.from, got, 8, 0, NULL, NULL));
		note(" %d", milliseconds(CLOCK_MONOTONIC_COARSE) - began >= 2 * WAIT_MS - 1);
		limit.tv_usec = 0;
		setsockopt(ends.from, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	}
	/* A signal ends it, without SA_RESTART. */
	handle(SIGALRM, 0);
	alarm_in(WAIT_MS, WAIT_MS);
	note(" %ld", sys_read(ends.from, got, 8));
	if (sock)
		note(" %ld", sys_recvfrom(ends.from, got, 8, 0, NULL, NULL));
	note(" %d", signals > 0);
	alarm_in(0, 0);
	shut(&ends);
}

static int alarm_to;

static void on_alarm_write(int sig)
{
	(void)sig;
	if (++signals == 3 && write(alarm_to, "12345678", 8) != 8)
		_exit(89);
}

static void restarts(const struct kind *kind)
{
	struct sigaction action = { .sa_handler = on_alarm_write, .sa_flags = SA_RESTART };
	struct ends ends = kind->make();

	if (kind->make != file && kind->make != zero) {
		sigaction(SIGALRM, &action, NULL);
		for (int i = 0; i < 2; i++) {
			signals = 0;
			alarm_to = ends.to;
			alarm_in(5, 5);
			note_read(i && is_socket(ends.from) ? sys_recvfrom(ends.from, got, 8, 0, NULL, NULL) :
							      sys_read(ends.from, got, 8));
			alarm_in(0, 0);
			note(" %d", signals >= 3);
			if (!is_socket(ends.from))
				break;
		}
	}
	shut(&ends);
}

/* --- flags and addresses of sockets --- */

static void flags(void)
{
	struct ends ends = tcp();

	nonblocking(&ends);
	sys_sendto(ends.to, "abcdef", 6, 0, NULL, 0);
	settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 3, MSG_PEEK, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 3, 0, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 2, MSG_TRUNC, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 9, MSG_WAITALL, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 9, MSG_ERRQUEUE, NULL, NULL));
	note(" oob %ld", sys_sendto(ends.to, "!", 1, MSG_OOB, NULL, 0));
	usleep(1000);
	note_read(sys_recvfrom(ends.from, got, 1, MSG_OOB, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 1, MSG_OOB, NULL, NULL));
	note(" more %ld", sys_sendto(ends.to, "a", 1, MSG_MORE, NULL, 0));
	note(" %ld", sys_sendto(ends.to, "b", 1, MSG_EOR, NULL, 0));
	settle(ends.from);
	usleep(1000);
	note_read(sys_recvfrom(ends.from, got, 9, 0, NULL, NULL));
	/* Flags that only the kernel may give, and one that nobody knows. */
	note(" %ld", sys_sendto(ends.to, "c", 1, 0x4000000 | 0x8000 | 0x20000, NULL, 0));
	settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 9, 0x00100000, NULL, NULL));
	shut(&ends);
	ends = udp();
	sys_write(ends.to, "abcdef", 6);
	settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 2, MSG_PEEK, NULL, NULL));
	note_read(sys_recvfrom(ends.from, got, 2, MSG_PEEK | MSG_TRUNC, NULL, NULL));
	note_read(sys_read(ends.from, got, 2));
	note_read(sys_recvfrom(ends.from, got, 2, MSG_DONTWAIT, NULL, NULL));
	note(" more %ld", sys_sendto(ends.to, "a", 1, MSG_MORE, NULL, 0));
	note(" %ld", sys_sendto(ends.to, "b", 1, 0, NULL, 0));
	settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 9, MSG_DONTWAIT, NULL, NULL));
	note(" oob %ld", sys_sendto(ends.to, "!", 1, MSG_OOB, NULL, 0));
	note(" size %ld", sys_sendto(ends.to, large, LARGE, 0, NULL, 0));
	note(" empty %ld", sys_write(ends.to, large, 0));
	settle(ends.from);
	note_read(sys_recvfrom(ends.from, got, 9, MSG_DONTWAIT, NULL, NULL));
	/* Nobody there any more: the next call is told. */
	close(ends.from);
	sys_write(ends.to, "a", 1);
	usleep(1000);
	note(" refused %ld", sys_write(ends.to, "a", 1));
	note(" %ld", sys_write(ends.to, "a", 1));
	close(ends.to);
}

static void addresses(void)
{
	struct sockaddr_in to, from, strange = { .sin_family = AF_UNIX };
	int a = bound(SOCK_DGRAM), b = socket(AF_INET, SOCK_DGRAM, 0), stream = socket(AF_INET, SOCK_STREAM, 0);
	int sizes[] = { 0, 1, (int)sizeof(from), 100, -1 };
	char room[128];

	to = name_of(a);
	note(" none %ld", sys_sendto(b, "x", 1, 0, NULL, 0));
	/* Given a port by the first that is sent. */
	note(" %ld", sys_sendto(b, "x", 1, 0, &to, sizeof(to)));
	note(" %d", name_of(b).sin_port != 0);
	note_read(sys_recvfrom(a, got, 1, 0, NULL, NULL));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int size = sizes[i];

		sys_sendto(b, "x", 1, 0, &to, sizeof(to));
		settle(a);
		memset(room, 0, sizeof(room));
		memset(&from, 0, sizeof(from));
		note_read(sys_recvfrom(a, got, 1, MSG_DONTWAIT, room, &size));
		memcpy(&from, room, sizeof(from));
		note(" %d %d %d", size, from.sin_family, from.sin_port == name_of(b).sin_port);
	}
	sys_sendto(b, "x", 1, 0, &to, sizeof(to));
	settle(a);
	note(" null %ld", sys_recvfrom(a, got, 1, MSG_DONTWAIT, room, NULL));
	sys_sendto(b, "x", 1, 0, &to, sizeof(to));
	settle(a);
	sizes[0] = sizeof(from);
	note(" %ld", sys_recvfrom(a, got, 1, MSG_DONTWAIT, (void *)DIRECT_MAP, &sizes[0]));
	note(" %ld", sys_recvfrom(a, got, 1, MSG_DONTWAIT, room, &sizes[0]));
	note(" to %ld", sys_sendto(b, "x", 1, 0, &to, 4));
	note(" %ld", sys_sendto(b, "x", 1, 0, &to, 1000));
	note(" %ld", sys_sendto(b, "x", 1, 0, &to, -1));
	note(" %ld", sys_sendto(b, "x", 1, 0, (void *)DIRECT_MAP, sizeof(to)));
	note(" %ld", sys_sendto(b, "x", 1, 0, &strange, sizeof(strange)));
	note(" %ld", sys_sendto(b, (void *)DIRECT_MAP, 1, 0, &strange, sizeof(strange)));
	note(" %ld", sys_sendto(-1, (void *)DIRECT_MAP, 1, 0, NULL, 0));
	note(" %ld", sys_recvfrom(-1, (void *)DIRECT_MAP, 1, 0, NULL, NULL));
	to.sin_port = 0;
	note(" %ld", sys_sendto(b, "x", 1, 0, &to, sizeof(to)));
	note(" stream %ld", sys_recvfrom(stream, got, 1, 0, NULL, NULL));
	handle(SIGPIPE, 0);
	note(" %ld", sys_write(stream, "x", 1));
	note(" %d", signals);
	listen(a, 1);
	close(a);
	close(b);
	close(stream);
}

/* --- epoll --- */

static void polls(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 42 }, events[4] = { 0 };
	int ep = epoll_create1(0);
	struct ends ends = tcp();
	long began;

	nonblocking(&ends);
	epoll_ctl(ep, EPOLL_CTL_ADD, ends.from, &event);
	note(" %ld", sys_epoll_wait(ep, events, 0, 0));
	note(" %ld", sys_epoll_wait(ep, events, -1, 0));
	note(" %ld", sys_epoll_wait(ep, events, 1 << 30, 0));
	note(" %ld", sys_epoll_wait(ep, (void *)DIRECT_MAP, 4, 0));
	note(" %ld", sys_epoll_wait(ends.from, events, 4, 0));
	note(" %ld", sys_epoll_wait(-1, events, 4, 0));
	note(" %ld", sys_epoll_wait(ep, events, 4, 0));
	began = milliseconds(CLOCK_MONOTONIC);
	note(" %ld", sys_epoll_wait(ep, events, 4, WAIT_MS));
	began = milliseconds(CLOCK_MONOTONIC) - began;
	note(" %d", began >= WAIT_MS - 1 && began < 100 * WAIT_MS);
	sys_write(ends.to, "x", 1);
	settle(ends.from);
	for (int i = 0; i < 3; i++) {
		note(" %ld", sys_epoll_wait(ep, events, 4, (int[]){ 0, WAIT_MS, -1 }[i]));
		note("/%x/%lu", events[0].events, (unsigned long)events[0].data.u64);
		memset(events, 0, sizeof(events));
	}
	note(" fault %ld", sys_epoll_wait(ep, NULL, 4, -1));
	event.events = EPOLLIN | EPOLLET;
	epoll_ctl(ep, EPOLL_CTL_MOD, ends.from, &event);
	note(" edge %ld", sys_epoll_wait(ep, events, 4, -1));
	note(" %ld", sys_epoll_wait(ep, events, 4, 1));
	event.events = EPOLLIN | EPOLLOUT | EPOLLONESHOT;
	epoll_ctl(ep, EPOLL_CTL_MOD, ends.from, &event);
	note(" once %ld", sys_epoll_wait(ep, events, 4, -1));
	note(" %ld", sys_epoll_wait(ep, events, 4, 1));
	/* Something that was there and is not any more is looked for again, and not found. */
	event.events = EPOLLIN;
	epoll_ctl(ep, EPOLL_CTL_MOD, ends.from, &event);
	sys_read(ends.from, got, 8);
	note(" gone %ld", sys_epoll_wait(ep, events, 4, 0));
	note(" %ld", sys_epoll_wait(ep, events, 4, 1));
	for (int timeout = -1; timeout < 10000; timeout += 10000) {
		handle(SIGALRM, SA_RESTART);	/* which epoll_wait() does not obey */
		alarm_in(5, 5);
		note(" signal %ld", sys_epoll_wait(ep, events, 4, timeout));
		note(" %d", signals > 0);
		alarm_in(0, 0);
	}
	shut(&ends);
	close(ep);
}

/* --- what others see --- */

static void notified(void)
{
	char buffer[4096] __attribute__((aligned(8)));
	struct ends ends = fifo();
	int watch = inotify_init1(IN_NONBLOCK);
	long n;

	inotify_add_watch(watch, "/tmp/fifo", IN_ACCESS | IN_MODIFY);
	sys_write(ends.to, "abc", 3);
	sys_read(ends.from, got, 3);
	n = read(watch, buffer, sizeof(buffer));
	for (char *at = buffer; at < buffer + n;) {
		struct inotify_event *event = (struct inotify_event *)at;

		note(" %x", event->mask);
		at += sizeof(*event) + event->len;
	}
	close(watch);
	shut(&ends);
}

/* "rchar" and so on of /proc/self/io, where the kernel has it. */
static void account(long values[4])
{
	FILE *file = fopen("/proc/self/io", "r");

	memset(values, 0, 4 * sizeof(*values));
	if (!file)
		return;
	if (fscanf(file, "rchar: %ld wchar: %ld syscr: %ld syscw: %ld", &values[0], &values[1], &values[2],
		   &values[3]) != 4)
		_exit(88);
	fclose(file);
}

static void accounted(const struct kind *kind)
{
	long before[4], after[4], own[4];
	struct ends ends = kind->make();

	nonblocking(&ends);
	account(before);
	account(own);	/* what asking for it adds */
	sys_write(ends.to, large, 8);
	sys_write(ends.to, NULL, 8);
	sys_read(ends.from, got, 8);
	sys_read(ends.from, got, 8);
	sys_sendto(ends.to, large, 8, MSG_NOSIGNAL, NULL, 0);
	sys_recvfrom(ends.from, got, 8, MSG_DONTWAIT, NULL, NULL);
	account(after);
	for (int i = 1; i < 4; i++)	/* the text that is read is longer with larger numbers */
		note(" %ld", after[i] - own[i] - (own[i] - before[i]));
	shut(&ends);
}

static void times(const struct kind *kind)
{
	struct ends ends = kind->make();
	struct timespec zero[2] = { 0 };
	struct stat status;
	int set = !futimens(ends.from, zero);

	sys_write(ends.to, large, 8);
	sys_read(ends.from, got, 8);
	fstat(ends.from, &status);
	note(" %d %d %d", set, status.st_mtim.tv_sec != 0, status.st_atim.tv_sec != 0);
	shut(&ends);
}

/* --- a descriptor that is closed while somebody waits at it --- */

static int waited_for;
static volatile int waiter;
static long waited;

static void *wait_there(void *arg)
{
	waiter = gettid();
	waited = sys_read(waited_for, got, 8);
	return arg;
}

static void until_it_sleeps(void)
{
	char path[64], line[256] = "";

	while (!waiter)
		usleep(1000);
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", waiter);
	for (const char *state = line; *state != 'S';) {
		FILE *file = fopen(path, "r");

		usleep(1000);
		if (!file || !fgets(line, sizeof(line), file))
			_exit(87);
		fclose(file);
		state = strrchr(line, ')') + 2;
	}
}

static void closed(const struct kind *kind)
{
	struct ends ends = kind->make();
	pthread_t thread;
	int to = dup(ends.to);

	if (kind->make != file && kind->make != zero) {
		waited_for = ends.from;
		waiter = 0;
		pthread_create(&thread, NULL, wait_there, NULL);
		until_it_sleeps();
		shut(&ends);
		/* A file that is read stays; where nobody else had it, nobody hears of a write. */
		note(" %ld", sys_write(to, "12345678", 8));
		pthread_join(thread, NULL);
		note(" %ld", waited);
		if (kind->make == a_pipe)	/* nor for longer than it is read */
			note(" %ld", sys_write(to, "12345678", 8));
	}
	close(to);
}

/* --- all of it --- */

static void compare(const char *what, const char *of)
{
	char name[100];

	for (size_t i = 1; i < WAYS; i++) {
		size_t at = 0;

		while (texts[0][at] && texts[0][at] == texts[i][at])
			at++;
		at -= at < 20 ? at : 20;
		snprintf(name, sizeof(name), "descriptors.%s.%s%s%s", what, of, *of ? "." : "", ways[i].name);
		check(!strcmp(texts[0], texts[i]), name, "'%.100s' here, '%.100s' by the instruction",
		      texts[i] + at, texts[0] + at);
	}
	printf("# same descriptors.%s%s%s%s\n", what, *of ? "." : "", of, texts[0]);
	fflush(stdout);
}

static void begin(size_t i)
{
	way = &ways[i];
	text = texts[i];
	text[0] = 0;
	used = 0;
	memset(large, 1, sizeof(large));
	memset(got, 0, sizeof(got));
}

static void each_kind(const char *what, void (*fn)(const struct kind *kind))
{
	for (size_t k = 0; k < KINDS; k++) {
		for (size_t i = 0; i < WAYS; i++) {
			begin(i);
			fn(&kinds[k]);
		}
		compare(what, kinds[k].name);
	}
}

static void once(const char *what, void (*fn)(void))
{
	for (size_t i = 0; i < WAYS; i++) {
		begin(i);
		fn();
	}
	compare(what, "");
}

int main(void)
{
	mkdir("/tmp", 0777);
	handle(SIGPIPE, 0);
	each_kind("results", results);
	each_kind("ends", ends_of);
	each_kind("waits", waits);
	each_kind("restarts", restarts);
	each_kind("accounted", accounted);
	each_kind("times", times);
	each_kind("closed", closed);
	once("modes", modes);
	once("positions", positions);
	once("flags", flags);
	once("addresses", addresses);
	once("epoll", polls);
	once("notified", notified);
	return check_failed;
}
