/* SPDX-License-Identifier: Apache-2.0 */
/* What the themes of posix.c share. */
#ifndef POSIX_H
#define POSIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include "check.h"
#include "ring.h"

#define ORDINARY "/tests/posix"		/* the same program, in ring 3 */
#define DEADLINE_S 40			/* what takes as long has hung, however slow the machine */
#define ELEMENTS(a) (sizeof(a) / sizeof(*(a)))


/* Every check says where it is. */
#define PLACE_2(line) __FILE_NAME__ ":" #line
#define PLACE_1(line) PLACE_2(line)
#define PLACE PLACE_1(__LINE__)
#define check(...) (check_place = PLACE, check(__VA_ARGS__))

#define CHECK(name, cond) do {							\
	int check_good_ = !!(cond);						\
	int check_errno_ = errno;						\
										\
	check(check_good_, name, "%.200s, errno %d", #cond, check_errno_);	\
} while (0)

#define EQUAL(name, got, want) do {						\
	long long check_got_ = (long long)(got), check_want_ = (long long)(want);	\
	int check_errno_ = errno;						\
										\
	check(check_got_ == check_want_, name, "%.150s is %lld, not %lld, errno %d",	\
	      #got, check_got_, check_want_, check_errno_);			\
} while (0)

#define TEXT(name, got, want) do {						\
	const char *check_got_ = (got), *check_want_ = (want);			\
										\
	check(check_got_ && !strcmp(check_got_, check_want_), name,		\
	      "\"%.100s\", not \"%.100s\"", check_got_, check_want_);		\
} while (0)

/* What must be the same in both rings, and nobody but the other one can tell what it is. */
#define SAME(name, ...) same(name, PLACE, __VA_ARGS__)

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
		check(0, "need", "%.200s, errno %d", #cond, errno);		\
		_exit(97);							\
	}									\
} while (0)

#ifdef __cplusplus
extern "C" {
#endif

double seconds(void);
__attribute__((format(printf, 3, 4))) void same(const char *name, const char *place, const char *format, ...);
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
int disk_suite(void);
int cxx_suite(void);
int limits_suite(void);
int values_suite(void);

int string_child(void);
int runtime_child(const char *what);
int process_child(int argc, char **argv);
int cxx_child(const char *what);

#ifdef __cplusplus
}
#endif

__attribute__((unused)) static int exited(int status, int code)
{
	return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

__attribute__((unused)) static int killed(int status, int sig)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

#endif
