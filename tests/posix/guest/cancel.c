// SPDX-License-Identifier: Apache-2.0
/* Cancellation of threads: where they wait, where they compute, and what is cleaned up. */
#include "posix.h"
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>

static int silent[2];			/* nothing ever comes out of it */
static int sockets[2];
static sem_t never, started;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static atomic_int cleanups;
static atomic_int tid;

static void count_cleanup(void *arg)
{
	cleanups += *(int *)arg;
}

static void unlock(void *arg)
{
	cleanups++;
	pthread_mutex_unlock(arg);
}

/* --- points of cancellation --- */

static void in_read(void)
{
	char c;

	if (read(silent[0], &c, 1) == 1)
		abort();
}

static void in_readv(void)
{
	char c;
	struct iovec iov = { .iov_base = &c, .iov_len = 1 };

	if (readv(silent[0], &iov, 1) == 1)
		abort();
}

static void in_nanosleep(void)
{
	struct timespec t = { .tv_sec = 1000 };

	nanosleep(&t, NULL);
}

static void in_clock_nanosleep(void)
{
	struct timespec t = { .tv_sec = 1000 };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

static void in_poll(void)
{
	struct pollfd fd = { .fd = silent[0], .events = POLLIN };

	poll(&fd, 1, -1);
}

static void in_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(silent[0], &set);
	select(silent[0] + 1, &set, NULL, NULL, NULL);
}

static void in_epoll(void)
{
	struct epoll_event event;
	int fd = epoll_create1(EPOLL_CLOEXEC);

	epoll_wait(fd, &event, 1, -1);
}

static void in_recv(void)
{
	char c;

	if (recv(sockets[0], &c, 1, 0) == 1)
		abort();
}

static void in_sigwait(void)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigwait(&set, &sig);
}

static void in_sigsuspend(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigsuspend(&set);
}

static void in_pause(void) { pause(); }
static void in_sem_wait(void) { sem_wait(&never); }
static void in_sleep(void) { sleep(1000); }

static void in_cond_wait(void)
{
	pthread_mutex_lock(&mutex);
	pthread_cleanup_push(unlock, &mutex);
	pthread_cond_wait(&cond, &mutex);
	pthread_cleanup_pop(1);
}

static const struct wait {
	const char *name;
	void (*wait)(void);
	int cleanups;
} waits[] = {
	{ "read", in_read, 11 },
	{ "readv", in_readv, 11 },
	{ "nanosleep", in_nanosleep, 11 },
	{ "clock_nanosleep", in_clock_nanosleep, 11 },
	{ "sleep", in_sleep, 11 },
	{ "pause", in_pause, 11 },
	{ "poll", in_poll, 11 },
	{ "select", in_select, 11 },
	{ "epoll_wait", in_epoll, 11 },
	{ "recv", in_recv, 11 },
	{ "sem_wait", in_sem_wait, 11 },
	{ "sigwait", in_sigwait, 11 },
	{ "sigsuspend", in_sigsuspend, 11 },
	{ "cond_wait", in_cond_wait, 12 },
};

static void *wait_with_cleanup(void *arg)
{
	static int one = 1, ten = 10;
	const struct wait *wait = arg;

	pthread_cleanup_push(count_cleanup, &one);
	pthread_cleanup_push(count_cleanup, &ten);
	tid = gettid();
	wait->wait();
	pthread_cleanup_pop(0);
	pthread_cleanup_pop(0);
	return arg;
}

static int sleeps(void)
{
	char path[60], state = 0;
	const char *text;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	text = file_text(path);
	text = text ? strrchr(text, ')') : NULL;
	return text && sscanf(text, ") %c", &state) == 1 && state == 'S';
}

/* 0 if it is joined in time and was cancelled. */
static int end_of(pthread_t thread)
{
	struct timespec until;
	void *ret = NULL;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	if (pthread_timedjoin_np(thread, &ret, &until))
		return 1;
	return ret == PTHREAD_CANCELED ? 0 : 2;
}

static void test_points(void)
{
	char name[60];

	for (unsigned int i = 0; i < ELEMENTS(waits); i++) {
		pthread_t thread;
		int ret, slept;

		cleanups = tid = 0;
		NEED(pthread_create(&thread, NULL, wait_with_cleanup, (void *)&waits[i]) == 0);
		slept = SOON(tid != 0 && sleeps());
		pthread_cancel(thread);
		ret = end_of(thread);
		snprintf(name, sizeof(name), "cancel.in.%s", waits[i].name);
		check(slept && !ret && cleanups == waits[i].cleanups, name, "slept %d, end %d, cleanups %d", slept, ret, cleanups);
		/* It was asked before it came there. */
		cleanups = tid = 0;
		NEED(pthread_create(&thread, NULL, wait_with_cleanup, (void *)&waits[i]) == 0);
		pthread_cancel(thread);
		ret = end_of(thread);
		snprintf(name, sizeof(name), "cancel.before.%s", waits[i].name);
		check(!ret && (cleanups == waits[i].cleanups || cleanups == 11), name, "end %d, cleanups %d", ret, cleanups);
	}
	CHECK("cancel.cond_wait.mutex_free", pthread_mutex_trylock(&mutex) == 0 && pthread_mutex_unlock(&mutex) == 0);
}

/* --- cancellation at any time --- */

static void *compute(void *arg)
{
	static int one = 1;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	pthread_cleanup_push(count_cleanup, &one);
	sem_post(&started);
	for (;;)
		asm volatile("pause");
	pthread_cleanup_pop(0);
	return arg;
}

static void *system_calls(void *arg)
{
	static int one = 1;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	pthread_cleanup_push(count_cleanup, &one);
	sem_post(&started);
	for (;;)
		getppid();
	pthread_cleanup_pop(0);
	return arg;
}

static void *read_forever(void *arg)
{
	static int one = 1;
	char c;

	pthread_cleanup_push(count_cleanup, &one);
	sem_post(&started);
	while (read(*(int *)arg, &c, 1) == 1)
		;
	pthread_cleanup_pop(0);
	return arg;
}

static void rounds(const char *name, void *(*body)(void *arg), int count)
{
	int bad = 0;

	cleanups = 0;
	sem_init(&started, 0, 0);
	for (int i = 0; i < count && bad < 3; i++) {
		pthread_t thread;

		NEED(pthread_create(&thread, NULL, body, NULL) == 0);
		while (sem_wait(&started))
			;
		if (i % 4 == 0)
			sched_yield();
		pthread_cancel(thread);
		bad += end_of(thread) != 0;
	}
	check(!bad && cleanups == count, name, "%d bad, %d cleanups of %d", bad, cleanups, count);
}

static void *wait_many(void *arg)
{
	static int one = 1;

	pthread_cleanup_push(count_cleanup, &one);
	sem_post(&started);
	if (arg)
		abort();
	in_read();
	pthread_cleanup_pop(0);
	return arg;
}

static void test_rounds(void)
{
	int fds[2], bad = 0;

	rounds("cancel.asynchronous.compute", compute, 200);
	rounds("cancel.asynchronous.system_calls", system_calls, 200);
	rounds("cancel.deferred.read", wait_many, 300);

	/* Both at once: a byte comes and the end. */
	NEED(pipe2(fds, O_CLOEXEC) == 0);
	cleanups = 0;
	sem_init(&started, 0, 0);
	for (int i = 0; i < 200 && bad < 3; i++) {
		pthread_t thread;

		NEED(pthread_create(&thread, NULL, read_forever, &fds[0]) == 0);
		while (sem_wait(&started))
			;
		if (i % 3 == 0)
			sched_yield();
		bad += write(fds[1], "x", 1) != 1;
		pthread_cancel(thread);
		bad += end_of(thread) != 0;
	}
	check(!bad && cleanups == 200, "cancel.deferred.read_returns", "%d bad, %d cleanups", bad, cleanups);
	close(fds[0]);
	close(fds[1]);
}

/* --- states --- */

static void *disabled(void *arg)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	sem_post(&started);
	while (sem_wait(arg))
		;
	cleanups = 5;
	pthread_testcancel();
	cleanups = 6;
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	cleanups = old == PTHREAD_CANCEL_DISABLE ? 7 : 0;
	pthread_testcancel();
	cleanups = 8;
	return NULL;
}

static pthread_key_t key;

static void at_end(void *value)
{
	cleanups += (long)value;
}

static void *with_key(void *arg)
{
	pthread_setspecific(key, (void *)100);
	wait_with_cleanup(arg);
	return NULL;
}

static void push_frames(int depth)
{
	static int one = 1;

	pthread_cleanup_push(count_cleanup, &one);
	if (depth)
		push_frames(depth - 1);
	else
		in_pause();
	pthread_cleanup_pop(0);
}

static void *deep(void *arg)
{
	tid = gettid();
	push_frames(99);
	return arg;
}

static void *cancel_self(void *arg)
{
	static int one = 1;

	pthread_cleanup_push(count_cleanup, &one);
	pthread_cancel(pthread_self());
	cleanups += 10;		/* not yet: it is deferred */
	pthread_testcancel();
	cleanups += 100;
	pthread_cleanup_pop(0);
	return arg;
}

static void *exit_in_frame(void *arg)
{
	static int one = 1;

	pthread_cleanup_push(count_cleanup, &one);
	pthread_exit(arg);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *pop_and_run(void *arg)
{
	static int one = 1, ten = 10;

	pthread_cleanup_push(count_cleanup, &one);
	pthread_cleanup_push(count_cleanup, &ten);
	pthread_cleanup_pop(1);
	pthread_cleanup_pop(0);
	return arg;
}

static void test_states(void)
{
	pthread_t thread;
	void *ret;
	sem_t go;

	sem_init(&go, 0, 0);
	sem_init(&started, 0, 0);
	cleanups = 0;
	NEED(pthread_create(&thread, NULL, disabled, &go) == 0);
	while (sem_wait(&started))
		;
	pthread_cancel(thread);
	sem_post(&go);
	CHECK("cancel.disabled", end_of(thread) == 0 && cleanups == 7);

	cleanups = 0;
	NEED(pthread_create(&thread, NULL, cancel_self, NULL) == 0);
	CHECK("cancel.self", end_of(thread) == 0 && cleanups == 11);

	cleanups = tid = 0;
	pthread_key_create(&key, at_end);
	NEED(pthread_create(&thread, NULL, with_key, (void *)&waits[0]) == 0);
	CHECK("cancel.key_destructor", SOON(tid != 0 && sleeps()) && pthread_cancel(thread) == 0 && end_of(thread) == 0 &&
	      cleanups == 111);
	cleanups = tid = 0;
	NEED(pthread_create(&thread, NULL, deep, NULL) == 0);
	CHECK("cancel.hundred_frames", SOON(tid != 0 && sleeps()) && pthread_cancel(thread) == 0 && end_of(thread) == 0 &&
	      cleanups == 100);
	cleanups = 0;
	NEED(pthread_create(&thread, NULL, exit_in_frame, &go) == 0);
	CHECK("cancel.exit_cleans_up", pthread_join(thread, &ret) == 0 && ret == &go && cleanups == 1);
	cleanups = 0;
	NEED(pthread_create(&thread, NULL, pop_and_run, &go) == 0);
	CHECK("cancel.pop", pthread_join(thread, &ret) == 0 && ret == &go && cleanups == 10);
}

int cancel_suite(void)
{
	sigset_t set;

	/* sigwait is told by its own thread only. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	NEED(pipe(silent) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	sem_init(&never, 0, 0);
	test_points();
	test_rounds();
	test_states();
	return check_failed;
}
