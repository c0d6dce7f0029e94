/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * System calls without a C library: each returns what the kernel does, -errno included.
 *
 * A call is an inline `call ukl_syscall`.  The compiler does not know that the instruction writes
 * below rsp, so everything here must be compiled with -mno-red-zone, as an ordinary program too.
 *
 * guest/init/lib.h has the like for ring 3.  They are not one file, so that this folder is all that
 * there is to the sample.
 */
#ifndef SYS_H
#define SYS_H

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/socket.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/in.h>
#include <linux/mman.h>
#include <linux/resource.h>
#include <linux/sockios.h>
#include <linux/tcp.h>

/* Not in the kernel's exported headers: there they belong to the C library. */
#define AF_INET		2
#define SOCK_STREAM	1
#define SOCK_CLOEXEC	02000000
#define SOCK_NONBLOCK	04000
#define MSG_NOSIGNAL	0x4000
#define SHUT_WR		1
#define PROT_RW		(PROT_READ | PROT_WRITE)

typedef unsigned long size;

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("call ukl_syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "cc", "memory");
	return ret;
}

#define sys(nr, a, b, c, d) sys6(__NR_##nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static inline long sys_write(int fd, const void *data, size n)
{
	return sys(write, fd, data, n, 0);
}

static inline long sys_read(int fd, void *data, size n)
{
	return sys(read, fd, data, n, 0);
}

static inline long sys_send(int fd, const void *data, size n, int flags)
{
	return sys6(__NR_sendto, fd, (long)data, (long)n, flags, 0, 0);
}

static inline long sys_close(int fd)
{
	return sys(close, fd, 0, 0, 0);
}

static inline long sys_shutdown(int fd, int how)
{
	return sys(shutdown, fd, how, 0, 0);
}

static inline long sys_socket(int family, int type, int protocol)
{
	return sys(socket, family, type, protocol, 0);
}

static inline long sys_setsockopt(int fd, int level, int name, int value)
{
	return sys6(__NR_setsockopt, fd, level, name, (long)&value, sizeof(value), 0);
}

static inline long sys_bind(int fd, const struct sockaddr_in *address)
{
	return sys(bind, fd, address, sizeof(*address), 0);
}

static inline long sys_getsockname(int fd, struct sockaddr_in *address)
{
	int n = sizeof(*address);

	return sys(getsockname, fd, address, &n, 0);
}

static inline long sys_listen(int fd, int backlog)
{
	return sys(listen, fd, backlog, 0, 0);
}

static inline long sys_accept(int fd, int flags)
{
	return sys(accept4, fd, 0, 0, flags);
}

static inline long sys_epoll_create(void)
{
	return sys(epoll_create1, 0, 0, 0, 0);
}

static inline long sys_epoll_ctl(int epoll, int op, int fd, unsigned int events)
{
	struct epoll_event event = { .events = events, .data = (unsigned int)fd };

	return sys(epoll_ctl, epoll, op, fd, &event);
}

/* @mask: the signals that stay blocked while waiting, one bit each. */
static inline long sys_epoll_pwait(int epoll, struct epoll_event *events, int n, int ms,
				   unsigned long mask)
{
	return sys6(__NR_epoll_pwait, epoll, (long)events, n, ms, (long)&mask, sizeof(mask));
}

static inline long sys_sigprocmask(int how, unsigned long mask)
{
	return sys(rt_sigprocmask, how, &mask, 0, sizeof(mask));
}

static inline long sys_sigaction(int sig, const struct sigaction *action)
{
	return sys(rt_sigaction, sig, action, 0, sizeof(action->sa_mask));
}

static inline long sys_prlimit(int resource, const struct rlimit64 *set, struct rlimit64 *old)
{
	return sys(prlimit64, 0, resource, set, old);
}

static inline long sys_mmap(size n, int prot, int flags)
{
	return sys6(__NR_mmap, 0, (long)n, prot, flags, -1, 0);
}

/* Is @ret of a call that returns an address an error? */
static inline int is_error(long ret)
{
	return (unsigned long)ret > -4096UL;
}

#endif
