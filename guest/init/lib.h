/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the init needs instead of a C library: system calls, numbers and strings, messages.
 *
 * It has no libc because it needs so little of one: the static binary is 25 KiB instead of glibc's
 * 800, which is felt in every image and in the number of pages that are touched at boot, and
 * nothing depends on which libc the host has.  Only kernel headers (linux-libc-dev) are used.
 */
#ifndef UKL_INIT_LIB_H
#define UKL_INIT_LIB_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define FOREVER INT64_MAX

#ifdef UKL_SIMULATED
/* Given by a test, which so makes the network and the clock. */
long sys(long number, long a, long b, long c, long d, long e, long f);
#else
/* Returns a negative errno on failure, as the kernel does. */
static inline long sys(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#endif

#define SYS6(n, a, b, c, d, e, f) \
	sys(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define SYS5(n, a, b, c, d, e) SYS6(n, a, b, c, d, e, 0)
#define SYS4(n, a, b, c, d) SYS5(n, a, b, c, d, 0)
#define SYS3(n, a, b, c) SYS4(n, a, b, c, 0)
#define SYS2(n, a, b) SYS3(n, a, b, 0)
#define SYS1(n, a) SYS2(n, a, 0)
#define SYS0(n) SYS1(n, 0)

/* The kernel's headers for user space do not have these. */
#define AF_INET 2
#define AF_NETLINK 16
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_CLOEXEC 02000000
#define SOCK_NONBLOCK 00004000

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool equal(const char *a, const char *b);
/* The rest of @s behind @prefix, or NULL if @s does not begin with it. */
const char *after(const char *s, const char *prefix);

/*
 * Memory that is never given back: the configuration lives as long as the init.  NULL when the
 * arena is used up.
 */
void *take(size_t size);

/* A decimal number of at most @max that is all of @s. */
bool number(const char *s, uint64_t max, uint64_t *out);
/* "10.0.2.15", or "10.0.2.15/24" with @prefix; the address in network byte order. */
bool address(const char *s, uint32_t *addr, uint32_t *prefix);

/*
 * %s string, %d int, %u uint32_t, %l int64_t, %a IPv4 address (uint32_t, network order), %j a string
 * as JSON, quotes included, cut to about JSON_MOST bytes.  Returns the length; what does not fit is
 * cut.
 */
#define JSON_MOST 1200
size_t format_list(char *out, size_t size, const char *format, va_list args);
size_t format(char *out, size_t size, const char *format, ...);

/* One line on the console. */
void say(const char *format, ...);

/* Milliseconds since boot, time spent suspended included. */
int64_t now(void);
void pause_ms(int64_t ms);

/* Whole files: the number of bytes, or a negative errno. */
long read_file(const char *path, char *out, size_t size);
long write_file(const char *path, const char *text);
/* Calls @each with the name of every entry of a folder until it returns true. */
bool each_entry(const char *path, bool (*each)(const char *name, void *context), void *context);

#endif
