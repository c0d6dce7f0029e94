// SPDX-License-Identifier: Apache-2.0
/*
 * Globals of more than a page that the kernel takes hold of at once: for pipes without copies,
 * for sockets, for io_uring, for other processes.
 */
#include "posix.h"
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define SIZE 65536

static char in_data[SIZE] __attribute__((aligned(4096))) = "data";
static char in_bss[SIZE] __attribute__((aligned(4096)));
static char copy[SIZE];

static void fill(char *to, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		to[i] = i * 13 + (i >> 8) + seed;
}

static int spliced(char *from, size_t size)
{
	struct iovec iov = { from, size };
	int fds[2], good;

	NEED(pipe(fds) == 0);
	fill(from, size, size);
	good = vmsplice(fds[1], &iov, 1, 0) == (ssize_t)size && read_all(fds[0], copy, size) == (ssize_t)size &&
	       !memcmp(from, copy, size);
	close(fds[0]);
	close(fds[1]);
	return good;
}

static int zero_copied(char *from, size_t size)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0), peer, one = 1, good;
	socklen_t length = sizeof(address);
	struct sock_extended_err error = { 0 };
	char control[200];
	struct msghdr message = { .msg_control = control, .msg_controllen = sizeof(control) };

	NEED(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 1) == 0 &&
	     getsockname(listener, (struct sockaddr *)&address, &length) == 0 && connect(fd, (struct sockaddr *)&address, length) == 0);
	peer = accept(listener, NULL, NULL);
	NEED(peer >= 0 && setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) == 0);
	fill(from, size, size);
	good = send(fd, from, size, MSG_ZEROCOPY) == (ssize_t)size && read_all(peer, copy, size) == (ssize_t)size && !memcmp(from, copy, size) &&
	       SOON(recvmsg(fd, &message, MSG_ERRQUEUE) >= 0) && CMSG_FIRSTHDR(&message);
	if (good) {
		memcpy(&error, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(error));
		good = error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error.ee_errno;
	}
	close(listener);
	close(fd);
	close(peer);
	return good;
}

int pins_suite(void)
{
	struct io_uring_params params = { 0 };
	struct iovec local = { copy, 30000 }, remote = { in_data + 100, 30000 }, buffers[2] = { { in_data, SIZE }, { in_bss + 10, SIZE - 10 } };
	int fd;

	fill(in_data, SIZE, 1);
	CHECK("pins.process_vm_readv", process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 30000 && !memcmp(copy, in_data + 100, 30000));
	fill(copy, SIZE, 2);
	CHECK("pins.process_vm_writev", process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 30000 && !memcmp(copy, in_data + 100, 30000));
	CHECK("pins.vmsplice.data", spliced(in_data, 8192));
	CHECK("pins.vmsplice.bss", spliced(in_bss + 4096, 16384));
	CHECK("pins.vmsplice.over_the_edge", spliced(in_data + 4096 - 50, 100));
	CHECK("pins.zerocopy.data", zero_copied(in_data + 100, 20000));
	CHECK("pins.zerocopy.bss", zero_copied(in_bss, 8192));
	fd = syscall(SYS_io_uring_setup, 4, &params);
	EQUAL("pins.io_uring", syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, buffers, 2), 0);
	close(fd);
	return check_failed;
}
