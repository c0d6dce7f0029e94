// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A TCP echo server: one thread, epoll, no C library.
 *
 *     tcp_server [PORT]          default 5555; 0 lets the kernel choose; the port is printed
 *
 * Every client has one buffer.  What was read into it is sent back before anything more is read,
 * so a client that does not read its answers stops being read from, and nothing grows.  It follows
 * that at end of file nothing is owed to the client, and half-closed connections need no state.
 *
 * SIGTERM: no new connections, what clients have sent is still answered, exit 0.
 */
#include "sys.h"

#define BUFFER		8192	/* bytes a client may be owed */
#define MAX_FDS		16384	/* descriptors, hence clients: 128 MiB of buffers if all are used */
#define EVENTS		256	/* taken from epoll at once */
#define ACCEPTS		64	/* new clients in one go, so that the old ones are not kept waiting */
#define RETRY_MS	1000	/* after running out of descriptors */
#define DRAIN_MS	5000	/* from SIGTERM to the end, whatever the clients do */
#define QUIET_MS	100	/* without an event: nothing is under way any more */

enum state { CLOSED, READING, OWING, ENDING };

struct client {
	enum state state;
	unsigned short start, end;	/* OWING: buffer[start, end) is still to be sent */
};

static const char name[] = "tcp_server: ";		/* .rodata */
static unsigned short port = 5555;			/* .data */
static volatile int terminated;				/* .bss, as all below */
static enum { SERVING, DRAINING, FINISHING } phase;
static int epoll, listener;
static int accepting;					/* is the listener in the epoll set? */
static int clients_open;
static struct client clients[MAX_FDS];			/* by descriptor */
static char (*buffers)[BUFFER];				/* by descriptor; mapped, touched on use */
static struct epoll_event events[EVENTS];

void restore_rt(void);
int program(int argc, char **argv);

static size length(const char *text)
{
	size n = 0;

	while (text[n])
		n++;
	return n;
}

/* Print "tcp_server: @what @number\n" in one write, so that lines of several processes don't mix. */
static void say(int fd, const char *what, long number)
{
	char line[128], digits[20];
	size n = 0, d = 0;

	for (size i = 0; name[i]; i++)
		line[n++] = name[i];
	for (size i = 0; what[i] && n < sizeof(line) - sizeof(digits) - 2; i++)
		line[n++] = what[i];
	line[n++] = ' ';
	do
		digits[d++] = (char)('0' + number % 10);
	while (number /= 10);
	while (d)
		line[n++] = digits[--d];
	line[n++] = '\n';
	/* A console that is gone is no reason to stop serving, so the result has no reader. */
	(void)sys_write(fd, line, n);
}

/* Report a failed call; the result is the exit status. */
static int failed(const char *what, long ret)
{
	say(2, what, -ret);
	return 1;
}

static void on_terminate(int sig)
{
	(void)sig;
	terminated = 1;
}

static int parse_port(const char *text)
{
	unsigned int value = 0;
	size n = length(text);

	if (n == 0 || n > 5)
		return -1;
	for (size i = 0; i < n; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (unsigned int)(text[i] - '0');
	}
	if (value > 65535)
		return -1;
	port = (unsigned short)value;
	return 0;
}

static void start_accepting(void)
{
	if (!accepting && sys_epoll_ctl(epoll, EPOLL_CTL_ADD, listener, EPOLLIN) == 0)
		accepting = 1;
}

static void stop_accepting(void)
{
	if (accepting)
		sys_epoll_ctl(epoll, EPOLL_CTL_DEL, listener, 0);
	accepting = 0;
}

static void close_client(int fd)
{
	clients[fd].state = CLOSED;
	clients_open--;
	sys_close(fd);	/* leaves the epoll set by itself: there is no second descriptor of it */
}

static void accept_clients(void)
{
	for (int i = 0; i < ACCEPTS; i++) {
		long fd = sys_accept(listener, SOCK_NONBLOCK | SOCK_CLOEXEC);

		switch (fd) {
		case -EAGAIN:
			return;
		case -EMFILE:
		case -ENFILE:
		case -ENOBUFS:
		case -ENOMEM:
			/*
			 * The connection stays in the backlog and the listener readable: without
			 * this the loop would spin.  loop() tries again when a client has left, or
			 * after RETRY_MS: the shortage may be the whole system's.
			 */
			stop_accepting();
			return;
		}
		if (fd < 0)
			continue;	/* EINTR, or this connection is already broken: accept(2) */
		if (sys_epoll_ctl(epoll, EPOLL_CTL_ADD, (int)fd, EPOLLIN) < 0) {
			sys_close((int)fd);
			continue;
		}
		/* fd < MAX_FDS: RLIMIT_NOFILE, see set_up(). */
		clients[fd] = (struct client){ .state = READING };
		clients_open++;
	}
}

/* Send what is owed.  Returns 0 when all is sent, 1 when the socket is full, else -errno. */
static int send_owed(int fd)
{
	struct client *client = &clients[fd];

	while (client->start < client->end) {
		/* MSG_NOSIGNAL: a peer that has gone is EPIPE here, not SIGPIPE. */
		long n = sys_send(fd, buffers[fd] + client->start, client->end - client->start,
				  MSG_NOSIGNAL);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			return 1;
		if (n < 0)
			return (int)n;
		client->start += (unsigned short)n;
	}
	return 0;
}

/* Let epoll tell of what the new state waits for.  ENDING waits for nothing but errors. */
static void enter(int fd, enum state state)
{
	static const unsigned int waits_for[] = { [READING] = EPOLLIN, [OWING] = EPOLLOUT };

	if (state == ENDING)
		sys_shutdown(fd, SHUT_WR);
	if (state != clients[fd].state &&
	    sys_epoll_ctl(epoll, EPOLL_CTL_MOD, fd, state == ENDING ? 0 : waits_for[state]) < 0)
		close_client(fd);
	else
		clients[fd].state = state;
}

static void serve(int fd)
{
	struct client *client = &clients[fd];
	int owing;

	if (client->state == READING) {
		long n;

		do
			n = sys_read(fd, buffers[fd], BUFFER);
		while (n == -EINTR);
		if (n == -EAGAIN)
			return;
		if (n <= 0) {		/* end of file, ECONNRESET, ETIMEDOUT ... */
			close_client(fd);
			return;
		}
		client->start = 0;
		client->end = (unsigned short)n;
	}
	owing = client->state == ENDING ? -EPIPE : send_owed(fd);
	if (owing < 0)
		close_client(fd);
	else if (owing)
		enter(fd, OWING);
	else
		enter(fd, phase == FINISHING ? ENDING : READING);
}

static long monotonic_ms(void)
{
	struct { long s, ns; } now = { 0, 0 };

	sys(clock_gettime, 1 /* CLOCK_MONOTONIC */, &now, 0, 0);
	return now.s * 1000 + now.ns / 1000000;
}

/*
 * After SIGTERM.  To close a connection while something arrives on it is to reset it, and a reset
 * takes the answers under way with it.  So clients are served until all are quiet, or half of the
 * time is over, then told the end (FIN), and closed when they have acknowledged everything.
 */
static void drain(int quiet, long left)
{
	if (left < DRAIN_MS / 2)
		phase = FINISHING;
	for (int fd = 0; fd < MAX_FDS; fd++)
		if (clients[fd].state == READING && (quiet || phase == FINISHING))
			enter(fd, ENDING);
	for (int fd = 0; fd < MAX_FDS; fd++) {
		int unacknowledged = 0;

		if (clients[fd].state == ENDING &&
		    (sys(ioctl, fd, SIOCOUTQ, &unacknowledged, 0) < 0 || !unacknowledged))
			close_client(fd);
	}
}

static int loop(void)
{
	long deadline = 0, left = 0;

	while (phase == SERVING || clients_open) {
		int ms = phase != SERVING ? QUIET_MS : accepting ? -1 : RETRY_MS;
		int before = clients_open, new_clients = 0;
		/* The mask is empty only in here, so SIGTERM cannot slip in before the wait. */
		long n = sys_epoll_pwait(epoll, events, EVENTS, ms, 0);

		if (n < 0 && n != -EINTR)
			return failed("epoll_pwait: error", n);
		for (long i = 0; i < n; i++) {
			int fd = (int)events[i].data;

			if (fd == listener)
				new_clients = 1;
			else if (clients[fd].state != CLOSED)
				serve(fd);
		}
		/* Last, so that a descriptor closed and given out again is not served too early. */
		if (new_clients)
			accept_clients();
		if (phase != SERVING) {
			left = deadline - monotonic_ms();
			if (left <= 0) {
				say(2, "clients cut off:", clients_open);
				break;
			}
			drain(n == 0, left);
		} else if (terminated) {
			stop_accepting();
			sys_close(listener);
			listener = -1;
			phase = DRAINING;
			deadline = monotonic_ms() + DRAIN_MS;
		} else if (!accepting && (clients_open < before || n == 0)) {
			start_accepting();
		}
	}
	return 0;
}

static int set_up(void)
{
	struct sigaction action = { .sa_handler = on_terminate, .sa_flags = SA_RESTORER,
				    .sa_restorer = restore_rt };
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct rlimit64 limit;
	long ret;

	/* Blocked except inside epoll_pwait. */
	ret = sys_sigprocmask(SIG_BLOCK, 1UL << (SIGTERM - 1));
	if (ret == 0)
		ret = sys_sigaction(SIGTERM, &action);
	if (ret < 0)
		return failed("SIGTERM: error", ret);

	/* As many descriptors as allowed, but no more than the table holds. */
	ret = sys_prlimit(RLIMIT_NOFILE, 0, &limit);
	if (ret == 0) {
		limit.rlim_cur = limit.rlim_max < MAX_FDS ? limit.rlim_max : MAX_FDS;
		ret = sys_prlimit(RLIMIT_NOFILE, &limit, 0);
	}
	if (ret < 0)
		return failed("RLIMIT_NOFILE: error", ret);

	ret = sys_mmap(sizeof(*buffers) * MAX_FDS, PROT_RW,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	if (is_error(ret))
		return failed("mmap: error", ret);
	buffers = (char (*)[BUFFER])ret;

	ret = sys_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (ret < 0)
		return failed("socket: error", ret);
	listener = (int)ret;
	address.sin_port = __builtin_bswap16(port);
	ret = sys_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	if (ret == 0)	/* inherited by what is accepted */
		ret = sys_setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, 1);
	if (ret < 0)
		return failed("setsockopt: error", ret);
	ret = sys_bind(listener, &address);
	if (ret < 0)
		return failed("bind: error", ret);
	ret = sys_listen(listener, 4096);	/* the kernel cuts it to net.core.somaxconn */
	if (ret == 0)
		ret = sys_getsockname(listener, &address);
	if (ret < 0)
		return failed("listen: error", ret);

	ret = sys_epoll_create();
	if (ret < 0)
		return failed("epoll_create: error", ret);
	epoll = (int)ret;
	start_accepting();
	if (!accepting)
		return failed("epoll_ctl: error", -EINVAL);
	say(1, "listening on port", __builtin_bswap16(address.sin_port));
	return 0;
}

int program(int argc, char **argv)
{
	int status;

	if (argc > 2 || (argc == 2 && parse_port(argv[1]) < 0)) {
		static const char usage[] = "usage: tcp_server [PORT 0-65535]\n";

		sys_write(2, usage, sizeof(usage) - 1);
		return 2;
	}
	status = set_up();
	return status ? status : loop();
}
