// SPDX-License-Identifier: Apache-2.0
/* Sockets: Unix, TCP and UDP over loopback, descriptors over sockets, buffers that are globals. */
#include "posix.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#define SIZE 400000

static char in_data[SIZE] __attribute__((aligned(4096))) = "data";
static char in_bss[SIZE] __attribute__((aligned(4096)));

static int soon_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, DEADLINE_S * 1000) == 1;
}

static void fill(char *to, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		to[i] = i * 13 + (i >> 8) + seed;
}

/* A pair of connected TCP sockets. */
static void tcp_pair(int pair[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	NEED(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 10) == 0 &&
	     getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	NEED(connect(pair[0], (struct sockaddr *)&address, size) == 0);
	pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	NEED(pair[1] >= 0);
	close(listener);
}

struct transfer {
	int fd;
	size_t size;
};

static void *send_all(void *arg)
{
	struct transfer *transfer = arg;
	size_t sent = 0;

	while (sent < transfer->size) {
		ssize_t n = send(transfer->fd, in_data + sent, transfer->size - sent, MSG_NOSIGNAL);

		if (n <= 0)
			return arg;
		sent += n;
	}
	shutdown(transfer->fd, SHUT_WR);
	return NULL;
}

static int carries(int from, int to)
{
	struct transfer transfer = { from, SIZE };
	pthread_t thread;
	ssize_t got;
	void *ret;

	fill(in_data, SIZE, from);
	memset(in_bss, 0, SIZE);
	NEED(pthread_create(&thread, NULL, send_all, &transfer) == 0);
	got = read_all(to, in_bss, SIZE);
	pthread_join(thread, &ret);
	return !ret && got == SIZE && !memcmp(in_data, in_bss, SIZE) && read(to, in_bss, 1) == 0;
}

static int echo(void *arg)
{
	char text[100];
	ssize_t n;

	while ((n = recv(*(int *)arg, text, sizeof(text), 0)) > 0)
		if (send(*(int *)arg, text, n, 0) != n)
			return 1;
	return n != 0;
}

static void test_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, peer;
	int pair[2], one = 1, value = 0, fd;
	struct iovec iov[2] = { { "first ", 6 }, { "second", 6 } };
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = 2 };
	socklen_t size = sizeof(peer);
	struct linger linger = { 1, 0 };
	char text[100] = "";
	pid_t pid;

	tcp_pair(pair);
	CHECK("net.tcp.carries", carries(pair[0], pair[1]));
	CHECK("net.tcp.back", carries(pair[1], pair[0]));
	close(pair[0]);
	close(pair[1]);

	tcp_pair(pair);
	CHECK("net.tcp.peer", getpeername(pair[0], (struct sockaddr *)&peer, &size) == 0 && peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	CHECK("net.tcp.sendmsg", sendmsg(pair[0], &message, 0) == 12 && soon_readable(pair[1]) &&
	      recv(pair[1], text, 12, MSG_WAITALL) == 12 && !memcmp(text, "first second", 12));
	CHECK("net.tcp.peek", send(pair[0], "peek", 4, 0) == 4 && recv(pair[1], text, 4, MSG_PEEK | MSG_WAITALL) == 4 &&
	      recv(pair[1], text + 4, 4, MSG_WAITALL) == 4 && !memcmp(text, "peekpeek", 8));
	CHECK("net.tcp.nothing", recv(pair[1], text, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK("net.tcp.options", setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0 &&
	      (size = sizeof(value), getsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &value, &size) == 0) && value == 1);
	CHECK("net.tcp.available", send(pair[0], "abcde", 5, 0) == 5 && SOON(ioctl(pair[1], FIONREAD, &value) == 0 && value == 5));
	pid = fork();
	if (!pid) {
		close(pair[0]);
		_exit(read_all(pair[1], text, 5) != 5 || echo(&pair[1]));
	}
	close(pair[1]);
	CHECK("net.tcp.echo", send(pair[0], "to a child", 10, 0) == 10 && recv(pair[0], text, 10, MSG_WAITALL) == 10 &&
	      !memcmp(text, "to a child", 10));
	shutdown(pair[0], SHUT_WR);
	CHECK("net.tcp.shutdown", reap(pid) == 0 && recv(pair[0], text, 1, 0) == 0);
	close(pair[0]);

	tcp_pair(pair);
	setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(pair[0]);
	CHECK("net.tcp.reset", SOON(recv(pair[1], text, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET));
	errno = 0;
	CHECK("net.tcp.epipe", SOON(send(pair[1], "x", 1, MSG_NOSIGNAL) < 0) && errno == EPIPE);
	close(pair[1]);
	/* A port that nobody listens at: bound and left. */
	fd = socket(AF_INET, SOCK_STREAM, 0);
	size = sizeof(address);
	NEED(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && getsockname(fd, (struct sockaddr *)&address, &size) == 0);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK("net.tcp.refused", (connect(fd, (struct sockaddr *)&address, size) == 0 || errno == EINPROGRESS || errno == ECONNREFUSED) &&
	      (errno == ECONNREFUSED || ({
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		size = sizeof(value);
		poll(&p, 1, DEADLINE_S * 1000) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &size) == 0 && value == ECONNREFUSED;
	      })));
	close(fd);
}

static void test_udp(void)
{
	struct sockaddr_in address[2] = { { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } }, from;
	socklen_t size = sizeof(from);
	char texts[3][20] = { "one", "two", "three" }, got[3][20];
	struct mmsghdr messages[3] = { 0 }, received[3] = { 0 };
	struct iovec iov[3], in_iov[3];
	struct timeval little = { .tv_usec = 20000 };
	int fds[2];

	address[1] = address[0];
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
		NEED(bind(fds[i], (struct sockaddr *)&address[i], sizeof(address[i])) == 0 &&
		     (size = sizeof(address[i]), getsockname(fds[i], (struct sockaddr *)&address[i], &size) == 0));
	}
	CHECK("net.udp.sendto", sendto(fds[0], "datagram", 8, 0, (struct sockaddr *)&address[1], size) == 8 && soon_readable(fds[1]));
	CHECK("net.udp.recvfrom", recvfrom(fds[1], got[0], 20, 0, (struct sockaddr *)&from, &size) == 8 && from.sin_port == address[0].sin_port);
	CHECK("net.udp.truncated", sendto(fds[0], "datagram", 8, 0, (struct sockaddr *)&address[1], size) == 8 && soon_readable(fds[1]) &&
	      recv(fds[1], got[0], 3, MSG_TRUNC) == 8 && recv(fds[1], got[0], 3, MSG_DONTWAIT) < 0);
	for (int i = 0; i < 3; i++) {
		iov[i] = (struct iovec){ texts[i], strlen(texts[i]) };
		in_iov[i] = (struct iovec){ got[i], 20 };
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &address[1], .msg_namelen = size, .msg_iov = &iov[i], .msg_iovlen = 1 };
		received[i].msg_hdr = (struct msghdr){ .msg_iov = &in_iov[i], .msg_iovlen = 1 };
	}
	CHECK("net.udp.sendmmsg", sendmmsg(fds[0], messages, 3, 0) == 3);
	CHECK("net.udp.recvmmsg", soon_readable(fds[1]) && recvmmsg(fds[1], received, 3, 0, NULL) == 3 && received[2].msg_len == 5 &&
	      !memcmp(got[2], "three", 5));
	setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &little, sizeof(little));
	CHECK("net.udp.timeout", recv(fds[1], got[0], 20, 0) < 0 && errno == EAGAIN);
	fill(in_data, 60000, 5);
	CHECK("net.udp.large", connect(fds[0], (struct sockaddr *)&address[1], size) == 0 && send(fds[0], in_data, 60000, 0) == 60000 &&
	      soon_readable(fds[1]) && recv(fds[1], in_bss, SIZE, 0) == 60000 && !memcmp(in_data, in_bss, 60000));
	errno = 0;
	CHECK("net.udp.too_large", send(fds[0], in_data, 70000, 0) < 0 && errno == EMSGSIZE);
	close(fds[1]);
	CHECK("net.udp.refused", SOON(send(fds[0], "x", 1, 0) < 0 && errno == ECONNREFUSED));
	close(fds[0]);
}

/* --- Unix sockets --- */

static int send_fds(int to, const int *fds, int count, const char *text)
{
	union { struct cmsghdr header; char space[CMSG_SPACE(10 * sizeof(int))]; } control = { 0 };
	struct iovec iov = { (char *)text, strlen(text) + 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	return sendmsg(to, &message, 0) == (ssize_t)iov.iov_len;
}

static int receive_fds(int from, int *fds, int count, struct ucred *credentials)
{
	union { struct cmsghdr header; char space[300]; } control = { 0 };
	char text[100];
	struct iovec iov = { text, sizeof(text) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int got = 0;

	if (!soon_readable(from) || recvmsg(from, &message, MSG_CMSG_CLOEXEC) <= 0)
		return -1;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_type == SCM_RIGHTS) {
			got = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			if (got > count)
				return -1;
			memcpy(fds, CMSG_DATA(header), got * sizeof(int));
		}
		if (header->cmsg_type == SCM_CREDENTIALS && credentials)
			memcpy(credentials, CMSG_DATA(header), sizeof(*credentials));
	}
	return got;
}

static int write_to_received(void *arg)
{
	int fds[3];

	if (receive_fds(*(int *)arg, fds, 3, NULL) != 2)
		return 1;
	return dprintf(fds[0], "from another process") != 20 || dprintf(fds[1], "and more") != 8;
}

static void test_unix(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/tmp/posix_net" }, hidden = { .sun_family = AF_UNIX };
	int pair[2], fds[2], received[3], listener, fd, one = 1, status;
	struct ucred credentials = { 0 };
	socklen_t size = sizeof(credentials);
	struct stat before, after;
	char text[100] = "";
	pid_t pid;

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK("net.unix.stream", carries(pair[0], pair[1]));
	CHECK("net.unix.peer_credentials", getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 &&
	      credentials.pid == getpid() && credentials.uid == getuid());
	close(pair[0]);
	close(pair[1]);
	NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	CHECK("net.unix.packets", send(pair[0], "first", 5, 0) == 5 && send(pair[0], "second", 6, 0) == 6 &&
	      recv(pair[1], text, 100, 0) == 5 && recv(pair[1], text, 100, 0) == 6 && !memcmp(text, "second", 6));
	close(pair[0]);
	CHECK("net.unix.end", recv(pair[1], text, 100, 0) == 0);
	signal(SIGPIPE, SIG_IGN);
	CHECK("net.unix.epipe", write(pair[1], "x", 1) < 0 && errno == EPIPE);
	signal(SIGPIPE, SIG_DFL);
	close(pair[1]);

	unlink(address.sun_path);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK("net.unix.path", bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(listener, 1) == 0 &&
	      connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && stat(address.sun_path, &before) == 0 && S_ISSOCK(before.st_mode));
	errno = 0;
	CHECK("net.unix.in_use", bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == EADDRINUSE);
	close(listener);
	close(fd);
	unlink(address.sun_path);
	memcpy(hidden.sun_path, "\0posix_net", 10);
	size = offsetof(struct sockaddr_un, sun_path) + 10;
	listener = socket(AF_UNIX, SOCK_DGRAM, 0);
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK("net.unix.abstract", bind(listener, (struct sockaddr *)&hidden, size) == 0 &&
	      sendto(fd, "hidden", 6, 0, (struct sockaddr *)&hidden, size) == 6 && recv(listener, text, 100, 0) == 6);
	close(listener);
	close(fd);

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(fds) == 0);
	fstat(fds[1], &before);
	CHECK("net.rights.send", send_fds(pair[0], &fds[1], 1, "one") && receive_fds(pair[1], received, 3, NULL) == 1);
	CHECK("net.rights.same_file", received[0] != fds[1] && fstat(received[0], &after) == 0 && before.st_ino == after.st_ino &&
	      fcntl(received[0], F_GETFD) == FD_CLOEXEC);
	close(received[0]);
	pid = fork();
	if (!pid)
		_exit(write_to_received(&pair[1]));
	received[0] = received[1] = fds[1];
	CHECK("net.rights.to_child", send_fds(pair[0], received, 2, "two") && (status = reap(pid)) == 0);
	CHECK("net.rights.used", read(fds[0], text, 28) == 28 && !memcmp(text, "from another processand more", 28));
	/* What is on its way keeps it open, until nobody can get it. */
	send_fds(pair[0], &fds[1], 1, "in flight");
	close(fds[1]);
	CHECK("net.rights.in_flight", fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0 && read(fds[0], text, 1) < 0 && errno == EAGAIN);
	close(pair[0]);
	close(pair[1]);
	CHECK("net.rights.dropped", SOON(read(fds[0], text, 1) == 0));
	close(fds[0]);
	NEED(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	memset(&credentials, 0, sizeof(credentials));
	CHECK("net.rights.credentials", send(pair[0], "x", 1, 0) == 1 && receive_fds(pair[1], received, 3, &credentials) == 0 &&
	      credentials.pid == getpid());
	errno = 0;
	received[0] = 12345;
	CHECK("net.rights.bad_descriptor", !send_fds(pair[0], received, 1, "bad") && errno == EBADF);
	close(pair[0]);
	close(pair[1]);
}

/* --- without copies --- */

/* Whether the kernel tells that it no longer needs the buffers of all sends so far. */
static int completed(int fd, unsigned int last)
{
	double end = seconds() + DEADLINE_S;

	while (seconds() < end) {
		char control[200];
		struct msghdr message = { .msg_control = control, .msg_controllen = sizeof(control) };

		if (recvmsg(fd, &message, MSG_ERRQUEUE) < 0) {
			nap(1);
			continue;
		}
		for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
			struct sock_extended_err error;

			memcpy(&error, CMSG_DATA(header), sizeof(error));
			if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno)
				return 0;
			if (error.ee_data >= last)
				return 1;
		}
	}
	return 0;
}

static int overwrite(void *arg)
{
	memset(arg, 0xee, 4096);
	return ((volatile unsigned char *)arg)[4095] != 0xee;
}

static void test_zero_copy(void)
{
	struct iovec iov[3] = { { in_data + 10, 10000 }, { (char *)"a constant that is not copied", 26 }, { in_bss + 100, 5000 } };
	int pair[2], one = 1, fd, round, good = 1;
	struct msghdr message;
	size_t sent;
	off_t at = 0;

	tcp_pair(pair);
	CHECK("net.zerocopy.option", setsockopt(pair[0], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) == 0);
	for (round = 0; round < 10 && good; round++) {
		/* Some of it in .data, some in .bss; pins.c has more than a page. */
		char *from = (round % 2 ? in_data : in_bss) + 4096 * round + 100;

		fill(from, 3000, round);
		good = send(pair[0], from, 3000, MSG_ZEROCOPY) == 3000 && completed(pair[0], round) &&
		       read_all(pair[1], in_data + 200000, 3000) == 3000 && !memcmp(in_data + 200000, from, 3000);
	}
	check(good && round == 10, "net.zerocopy.globals", "round %d, errno %d", round, errno);
	/* What is sent is what was there, though another process of the program changes its own. */
	fill(in_bss, 4096, 99);
	good = send(pair[0], in_bss, 4096, MSG_ZEROCOPY) == 4096;
	CHECK("net.zerocopy.other_process", good && in_child(overwrite, in_bss) == 0 && read_all(pair[1], in_data, 4096) == 4096 &&
	      !memcmp(in_data, in_bss, 4096) && completed(pair[0], 10));
	message = (struct msghdr){ .msg_iov = iov, .msg_iovlen = 3 };
	fill(in_data, 20000, 31);
	fill(in_bss, 20000, 32);
	CHECK("net.zerocopy.several_buffers", sendmsg(pair[0], &message, MSG_ZEROCOPY) == 15026 && read_all(pair[1], in_bss + 100000, 15026) == 15026 &&
	      !memcmp(in_bss + 100000, in_data + 10, 10000) && !memcmp(in_bss + 110000, "a constant that is not copied", 26) &&
	      !memcmp(in_bss + 110026, in_bss + 100, 5000) && completed(pair[0], 11));
	fill(in_data, 100000, 33);
	sent = send(pair[0], in_data, 100000, MSG_ZEROCOPY | MSG_DONTWAIT);
	CHECK("net.zerocopy.large", sent >= 4096 && sent <= 100000 && read_all(pair[1], in_bss, sent) == (ssize_t)sent && !memcmp(in_data, in_bss, sent) &&
	      completed(pair[0], 12));
	errno = 0;
	CHECK("net.zerocopy.bad_address", send(pair[0], (char *)16, 4096, MSG_ZEROCOPY) < 0 && errno == EFAULT);
	errno = 0;
	CHECK("net.zerocopy.address_of_kernel", send(pair[0], (char *)0xffff888000001000, 4096, MSG_ZEROCOPY) < 0 && errno == EFAULT);
	close(pair[0]);
	close(pair[1]);

	put_file("/tmp/posix_net", "");
	fd = open("/tmp/posix_net", O_RDWR);
	fill(in_data, 100000, 3);
	NEED(write(fd, in_data, 100000) == 100000);
	tcp_pair(pair);
	for (sent = 0; sent < 100000;) {
		ssize_t n = sendfile(pair[0], fd, &at, 20000);

		if (n <= 0 || read_all(pair[1], in_bss + sent, n) != n)
			break;
		sent += n;
	}
	CHECK("net.sendfile", sent == 100000 && at == 100000 && !memcmp(in_data, in_bss, 100000));
	close(fd);
	close(pair[0]);
	close(pair[1]);
	unlink("/tmp/posix_net");
}

/* --- interfaces --- */

static void test_interfaces(void)
{
	struct if_nameindex *names = if_nameindex();
	int found = 0;

	for (struct if_nameindex *name = names; name && name->if_index; name++)
		found += !strcmp(name->if_name, "lo");
	if (names)
		if_freenameindex(names);
	EQUAL("net.interfaces", found, 1);
	CHECK("net.interface_number", if_nametoindex("lo") >= 1 && if_nametoindex("no-such") == 0);
	errno = 0;
	CHECK("net.no_such_family", socket(AF_APPLETALK, SOCK_DGRAM, 0) < 0 && (errno == EAFNOSUPPORT || errno == ESOCKTNOSUPPORT));
}

int net_suite(void)
{
	test_tcp();
	test_udp();
	test_unix();
	test_zero_copy();
	test_interfaces();
	return check_failed;
}
