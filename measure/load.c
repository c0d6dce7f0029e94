// SPDX-License-Identifier: Apache-2.0
/*
 * Makes the requests that are counted: an ordinary program in the guest, beside the application.
 *
 *     load PORT { NAME CONNECTIONS REQUESTS BATCHES SETUP SETTLED ASK ANSWER UNTIL } ...
 *
 * Each of CONNECTIONS has one request under way at most: ASK is sent, and is answered when what came
 * begins with ANSWER and ends with UNTIL; with an empty UNTIL, when it is as long as ANSWER.  SETUP, if
 * it is not empty, is sent once before, and answered by SETTLED.  A batch of REQUESTS that is not
 * counted comes first.  At the end the machine is asked to stop.
 *
 * With 0 REQUESTS ASK is sent once, for when it is answered first, and more may follow ANSWER.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "mark.h"

enum { MOST_CONNECTIONS = 1024, MOST_BYTES = 64 * 1024, WORDS = 9, MOST_BATCHES = 16 };

struct connection {
	int fd;
	size_t length;
	char *bytes;
};

struct exchange {
	const char *ask, *answer, *until;
	bool is_begin; /* of what is answered; the rest is not waited for */
};

static struct connection connections[MOST_CONNECTIONS];
static int port, n_connections, events;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("load: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

/* The application may need a moment until it listens; the host has a deadline for all. */
static int connect_to(int to)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(to),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct timespec pause = { .tv_nsec = 1000 * 1000 };
	int fd, one = 1;

	for (;;) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			fail("socket: %m");
		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
			break;
		if (errno != ECONNREFUSED)
			fail("connect: %m");
		close(fd);
		nanosleep(&pause, NULL);
	}
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		fail("TCP_NODELAY: %m");
	return fd;
}

static void connect_all(int n)
{
	if (n < 1 || n > MOST_CONNECTIONS)
		fail("%d connections", n);
	for (; n_connections < n; n_connections++) {
		struct connection *c = &connections[n_connections];
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };

		c->fd = connect_to(port);
		c->bytes = malloc(MOST_BYTES);
		if (!c->bytes || epoll_ctl(events, EPOLL_CTL_ADD, c->fd, &event))
			fail("a connection: %m");
	}
}

static void close_all(void)
{
	while (n_connections) {
		close(connections[--n_connections].fd);
		free(connections[n_connections].bytes);
	}
}

static void send_to(struct connection *c, const struct exchange *what)
{
	size_t length = strlen(what->ask);

	c->length = 0;
	/* What is asked fits into an empty buffer of a socket. */
	if (send(c->fd, what->ask, length, MSG_NOSIGNAL) != (ssize_t)length)
		fail("send: %m");
}

static int receive(struct connection *c, const struct exchange *what)
{
	size_t begin = strlen(what->answer), end = strlen(what->until), least = begin + end;
	ssize_t got = recv(c->fd, c->bytes + c->length, MOST_BYTES - c->length, 0);

	if (got <= 0)
		fail("recv: %s", got ? strerror(errno) : "the application has closed the connection");
	c->length += got;
	if (memcmp(c->bytes, what->answer, c->length < begin ? c->length : begin))
		fail("another answer was expected than %.*s", (int)c->length, c->bytes);
	if (c->length == MOST_BYTES || (!end && !what->is_begin && c->length > begin))
		fail("an answer is longer than expected: %zu", c->length);
	return c->length >= least && !memcmp(c->bytes + c->length - end, what->until, end);
}

/* As many requests at once as there are connections, @requests in all. */
static void batch(const struct exchange *what, int requests)
{
	struct epoll_event ready[MOST_CONNECTIONS];
	int sent = 0, answered = 0;

	for (; sent < n_connections && sent < requests; sent++)
		send_to(&connections[sent], what);
	while (answered < requests) {
		int n = epoll_wait(events, ready, MOST_CONNECTIONS, -1);

		if (n < 0)
			fail("epoll_wait: %m");
		for (int i = 0; i < n; i++) {
			struct connection *c = ready[i].data.ptr;

			if (!receive(c, what))
				continue;
			answered++;
			if (sent < requests) {
				send_to(c, what);
				sent++;
			}
		}
	}
}

static void workload(char **words)
{
	int requests = atoi(words[2]), batches = atoi(words[3]);
	long long took[MOST_BATCHES];
	struct exchange setup = { words[4], words[5], "", false };
	struct exchange what = { words[6], words[7], words[8], !requests };
	static int is_ready;

	if (batches > MOST_BATCHES)
		fail("%d batches are too many", batches);
	connect_all(1);
	if (*setup.ask)
		batch(&setup, 1);
	batch(&what, 1);
	if (!is_ready++)
		ready();
	if (!requests) {
		close_all();
		return;
	}
	connect_all(atoi(words[1]));
	printf("bench: %d %d %s\n", requests, batches, words[0]);
	fflush(stdout);
	batch(&what, requests);
	for (int i = 0; i < batches; i++) {
		long long begun = begin();

		batch(&what, requests);
		took[i] = end(begun);
	}
	say_times(took, batches);
	close_all();
}

int main(int argc, char **argv)
{
	mark(MARK_LOAD);
	if (argc < 2 || (argc - 2) % WORDS)
		fail("%d words are not understood", argc);
	port = atoi(argv[1]);
	events = epoll_create1(0);
	if (events < 0)
		fail("epoll: %m");
	for (int i = 2; i < argc; i += WORDS)
		workload(argv + i);
	puts("bench: done");
	fflush(stdout);
	/* Only the guest's init, which has started it: tests run it elsewhere, maybe as root. */
	if (getppid() == 1 && kill(1, SIGTERM))
		fail("the machine cannot be stopped: %m");
	return 0;
}
