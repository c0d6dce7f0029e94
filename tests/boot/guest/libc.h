/* SPDX-License-Identifier: Apache-2.0 */
/* What the themes of libc.c share. */
#ifndef LIBC_H
#define LIBC_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include "check.h"

#define ORDINARY "/tests/libc"		/* the same program, in ring 3 */
#define DEADLINE_S 40			/* what takes as long has hung, however slow the machine */
#define ELEMENTS(a) (sizeof(a) / sizeof(*(a)))

int ring(void);
double seconds(void);

/* A check says where it is and what did not hold. */
#define CHECK(name, cond) do {							\
	int check_good_ = !!(cond);						\
	int check_errno_ = errno;						\
										\
	check(check_good_, name, "%s:%d: %.200s, errno %d", __FILE_NAME__,	\
	      __LINE__, #cond, check_errno_);					\
} while (0)

#define EQUAL(name, got, want) do {						\
	long long check_got_ = (long long)(got), check_want_ = (long long)(want);	\
	int check_errno_ = errno;						\
										\
	check(check_got_ == check_want_, name, "%s:%d: %.150s is %lld, not %lld, errno %d",	\
	      __FILE_NAME__, __LINE__, #got, check_got_, check_want_, check_errno_);	\
} while (0)

#define TEXT(name, got, want) do {						\
	const char *check_got_ = (got), *check_want_ = (want);			\
										\
	check(check_got_ && !strcmp(check_got_, check_want_), name,		\
	      "%s:%d: \"%.100s\", not \"%.100s\"", __FILE_NAME__, __LINE__,	\
	      check_got_, check_want_);						\
} while (0)

/* Wait until something holds; false if it never does. */
#define SOON(cond) ({								\
	double soon_end_ = seconds() + DEADLINE_S;				\
	int soon_good_;								\
										\
	while (!(soon_good_ = !!(cond)) && seconds() < soon_end_)		\
		nap(1);								\
	soon_good_;								\
})

/* What must work for the test itself; its failure is no verdict. */
#define NEED(cond) do {								\
	if (!(cond)) {								\
		check(0, "need", "%s:%d: %.200s, errno %d", __FILE_NAME__, __LINE__, #cond, errno);	\
		_exit(97);							\
	}									\
} while (0)

void nap(int ms);
/* Status of a child that ends in time; -1 and its end otherwise. */
int reap(pid_t pid);
/* Status of a child that runs a function and exits with what it returns. */
int in_child(int (*body)(void *arg), void *arg);
/* What a child writes to its stdout; its status goes to *status. */
const char *output_of(int (*body)(void *arg), void *arg, int *status);
/* Until the end, or size bytes. */
ssize_t read_all(int fd, void *to, size_t size);
const char *file_text(const char *path);
void put_file(const char *path, const char *text);

int stdio_suite(void);
int runtime_suite(void);
int string_suite(void);
int memory_suite(void);
int threads_suite(void);
int cancel_suite(void);
int signals_suite(void);
int contexts_suite(void);
int timers_suite(void);
int io_suite(void);
int net_suite(void);
int process_suite(void);
int names_suite(void);
int pins_suite(void);

int string_child(void);
int runtime_child(const char *what);
int process_child(int argc, char **argv);

__attribute__((unused)) static int exited(int status, int code)
{
	return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

__attribute__((unused)) static int killed(int status, int sig)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

#endif
