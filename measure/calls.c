// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * What single services of the kernel cost: an application that does one thing many times, between
 * marks.  Built as every other application, for ring 0 and as an ordinary process.
 *
 *     calls [NAME...]
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mark.h"

enum {
	BATCHES = 3,
	MOST_BATCHES = 15,
	PAGE = 4096,
	IN_FLIGHT = 200, /* datagrams that a socket holds: each takes 768 bytes of its 208 KiB */
};

#define NEED(that)                                                                                 \
	do {                                                                                       \
		if (!(that)) {                                                                     \
			perror("calls: " #that);                                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static int zero, null, event, udp, client, server, epoll, pipe_fds[2], there[2], back[2];
static char *pages;

static void files_prepare(void)
{
	NEED((zero = open("/dev/zero", O_RDONLY)) >= 0);
	NEED((null = open("/dev/null", O_WRONLY)) >= 0);
	NEED(!pipe(pipe_fds));
	NEED((event = eventfd(0, 0)) >= 0);
}

static void do_getppid(int n)
{
	while (n--)
		getppid();
}

static void do_read(int n)
{
	char byte;

	while (n--)
		NEED(read(zero, &byte, 1) == 1);
}

static void do_write(int n)
{
	while (n--)
		NEED(write(null, "x", 1) == 1);
}

static void pipe_bytes(int n, size_t size)
{
	static char bytes[PAGE];

	while (n--) {
		NEED(write(pipe_fds[1], bytes, size) == (ssize_t)size);
		NEED(read(pipe_fds[0], bytes, size) == (ssize_t)size);
	}
}

static void do_pipe(int n)
{
	pipe_bytes(n, 1);
}

static void do_pipe_page(int n)
{
	pipe_bytes(n, PAGE);
}

static void udp_prepare(void)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(self);

	NEED((udp = socket(AF_INET, SOCK_DGRAM, 0)) >= 0);
	NEED(!bind(udp, (struct sockaddr *)&self, size));
	NEED(!getsockname(udp, (struct sockaddr *)&self, &size));
	NEED(!connect(udp, (struct sockaddr *)&self, size));
}

static void do_send(int n)
{
	while (n--)
		NEED(sendto(udp, "x", 1, 0, NULL, 0) == 1);
}

static void do_receive(int n)
{
	char byte;

	while (n--)
		NEED(recvfrom(udp, &byte, 1, 0, NULL, NULL) == 1);
}

static void do_udp(int n)
{
	while (n--) {
		do_send(1);
		do_receive(1);
	}
}

static void do_eventfd(int n)
{
	uint64_t count = 1;

	while (n--) {
		NEED(write(event, &count, sizeof(count)) == sizeof(count));
		NEED(read(event, &count, sizeof(count)) == sizeof(count));
	}
}

static void tcp_prepare(void)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct epoll_event readable = { .events = EPOLLIN };
	socklen_t size = sizeof(self);
	int listener, on = 1;

	NEED((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	NEED(!bind(listener, (struct sockaddr *)&self, size) && !listen(listener, 1));
	NEED(!getsockname(listener, (struct sockaddr *)&self, &size));
	NEED((client = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
	NEED(!connect(client, (struct sockaddr *)&self, size));
	NEED((server = accept(listener, NULL, NULL)) >= 0 && !close(listener));
	NEED(!setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	NEED(!setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	NEED((epoll = epoll_create1(0)) >= 0);
	NEED(!epoll_ctl(epoll, EPOLL_CTL_ADD, server, &readable));
}

static void do_echo(int n)
{
	struct epoll_event found;
	char byte;

	while (n--) {
		NEED(write(client, "x", 1) == 1);
		NEED(epoll_wait(epoll, &found, 1, 1000) == 1);
		NEED(read(server, &byte, 1) == 1);
		NEED(write(server, &byte, 1) == 1);
		NEED(read(client, &byte, 1) == 1);
	}
}

/* Huge pages would be one fault for many. */
static void pages_prepare(int n)
{
	pages = mmap(NULL, (size_t)n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(pages != MAP_FAILED);
	/* A kernel without them refuses the advice. */
	madvise(pages, (size_t)n * PAGE, MADV_NOHUGEPAGE);
}

static void do_fault(int n)
{
	for (int i = 0; i < n; i++)
		((volatile char *)pages)[(size_t)i * PAGE] = 1;
}

static void pages_drop(int n)
{
	NEED(!munmap(pages, (size_t)n * PAGE));
}

/*
 * What is mapped later comes right below: without a neighbour its page tables would be made and
 * freed each time, or not, by what happens to be near.
 */
static void map_prepare(void)
{
	pages_prepare(1);
	do_fault(1);
}

static void do_map(int n)
{
	while (n--) {
		pages_prepare(1);
		*(volatile char *)pages = 1;
		pages_drop(1);
	}
}

/* The other thread of the context switches: gives each byte back, and ends when there is none. */
static void *echo(void *unused)
{
	char byte;

	(void)unused;
	while (read(there[0], &byte, 1) == 1)
		NEED(write(back[1], &byte, 1) == 1);
	return NULL;
}

static void echo_prepare(void)
{
	pthread_t thread;

	NEED(!pipe(there) && !pipe(back));
	NEED(!pthread_create(&thread, NULL, echo, NULL));
	NEED(!pthread_detach(thread));
}

static void do_switch(int n)
{
	char byte;

	while (n--) {
		NEED(write(there[1], "x", 1) == 1);
		NEED(read(back[0], &byte, 1) == 1);
	}
}

static void echo_end(void)
{
	NEED(!close(there[1]));
}

static void do_fork(int n)
{
	while (n--) {
		int status;
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		NEED(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
	}
}

static void *nothing(void *unused)
{
	return unused;
}

static void do_thread(int n)
{
	while (n--) {
		pthread_t thread;

		NEED(!pthread_create(&thread, NULL, nothing, NULL));
		NEED(!pthread_join(thread, NULL));
	}
}

static const struct call {
	const char *name, *text;
	int times, batches; /* 0 of these are BATCHES */
	void (*once)(void), (*prepare)(int times), (*run)(int times), (*drop)(int times), (*end)(void);
} calls[] = {
	{ "getppid", "getppid", 20000, .run = do_getppid },
	{ "read", "read, 1 byte of /dev/zero", 20000, .run = do_read },
	{ "write", "write, 1 byte to /dev/null", 20000, .run = do_write },
	{ "pipe", "write and read, 1 byte through a pipe", 10000, .run = do_pipe },
	{ "pipe-page", "write and read, 4 KiB through a pipe", 5000, .run = do_pipe_page },
	{ "eventfd", "write and read of an eventfd", 10000, .run = do_eventfd },
	{ "send", "sendto, 1 byte by UDP", IN_FLIGHT, MOST_BATCHES, .once = udp_prepare, .run = do_send,
	  .drop = do_receive },
	{ "receive", "recvfrom, 1 byte by UDP", IN_FLIGHT, MOST_BATCHES, .once = udp_prepare,
	  .prepare = do_send, .run = do_receive },
	{ "udp", "sendto and recvfrom, 1 byte by UDP", 5000, .once = udp_prepare, .run = do_udp },
	{ "echo", "echo of 1 byte by TCP, with epoll", 2000, .once = tcp_prepare,
	  .run = do_echo },
	{ "fault", "page fault", 2000, .prepare = pages_prepare, .run = do_fault, .drop = pages_drop },
	{ "map", "mmap, a page fault, munmap", 2000, .once = map_prepare, .run = do_map },
	{ "switch", "2 context switches, by 2 pipes", 5000, .once = echo_prepare, .run = do_switch,
	  .end = echo_end },
	{ "fork", "fork, exit and wait", 200, .run = do_fork },
	{ "thread", "pthread_create and join", 500, .run = do_thread },
};

static long long batch(const struct call *call, int is_counted)
{
	long long time = 0;

	if (call->prepare)
		call->prepare(call->times);
	if (is_counted)
		time = begin();
	call->run(call->times);
	if (is_counted)
		time = end(time);
	if (call->drop)
		call->drop(call->times);
	return time;
}

static void measure(const struct call *call)
{
	long long took[MOST_BATCHES];
	int batches = call->batches ? call->batches : BATCHES;

	if (call->once)
		call->once();
	printf("bench: %d %d %s\n", call->times, batches, call->text);
	fflush(stdout);
	batch(call, 0);
	for (int i = 0; i < batches; i++)
		took[i] = batch(call, 1);
	say_times(took, batches);
	if (call->end)
		call->end();
}

static int is_asked(const char *name, char **asked)
{
	if (!*asked)
		return 1;
	while (*asked && strcmp(name, *asked))
		asked++;
	return !!*asked;
}

int main(int argc, char **argv)
{
	(void)argc;
	ready();
	files_prepare();
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (is_asked(calls[i].name, argv + 1))
			measure(&calls[i]);
	puts("bench: done");
	return 0;
}
