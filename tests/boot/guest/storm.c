// SPDX-License-Identifier: Apache-2.0
/*
 * System calls in all ways from several threads whose vector registers are full, under timers,
 * signals to single threads and switches between them.
 *
 * usage: storm SECONDS
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include "check.h"
#include "ring.h"

#define THREADS	4

static struct worker {
	pthread_t thread;
	unsigned long rounds, interrupted, wrong;
	int number, in, out;
} workers[THREADS];
static volatile int over;
static volatile unsigned long alarms, pokes;
static volatile double sum;
static int word;
static pid_t process;

static void on_alarm(int sig)
{
	double mine = sum;

	if (sig == SIGALRM)
		alarms++;
	else
		__atomic_add_fetch(&pokes, 1, __ATOMIC_RELAXED);
	/* All of them: what was there comes back from the frame. */
	for (int i = 0; i < 8; i++)
		mine = mine * 1.0000001 + i;
	asm volatile("pcmpeqd %%xmm0, %%xmm0; movdqa %%xmm0, %%xmm1; movdqa %%xmm0, %%xmm6\n"
		     "movdqa %%xmm0, %%xmm7; movdqa %%xmm0, %%xmm14; movdqa %%xmm0, %%xmm15\n"
		     : : : "xmm0", "xmm1", "xmm6", "xmm7", "xmm14", "xmm15");
	sum = mine;
}

/* Make a call with a pattern in vector registers; count what of it is not there afterwards. */
static long full(struct worker *me, long (*fn)(long, long, long, long), long nr, long a, long b, long c)
{
	uint64_t pattern = 0x0101010101010101UL * (uint64_t)(me->number + 1) + me->rounds, got[4];
	long ret;

	asm volatile("movq %0, %%xmm8; movq %0, %%xmm9; movq %0, %%xmm12; movq %0, %%xmm15"
		     : : "r"(pattern) : "xmm8", "xmm9", "xmm12", "xmm15");
	ret = fn(nr, a, b, c);
	asm volatile("movq %%xmm8, %0; movq %%xmm9, %1; movq %%xmm12, %2; movq %%xmm15, %3"
		     : "=r"(got[0]), "=r"(got[1]), "=r"(got[2]), "=r"(got[3]));
	for (int i = 0; i < 4; i++)
		me->wrong += got[i] != pattern;
	return ret;
}

/* A call that a signal may interrupt, until it is done. */
static long again(struct worker *me, long (*fn)(long, long, long, long), long nr, long a, long b, long c)
{
	long ret;

	while ((ret = full(me, fn, nr, a, b, c)) == -EINTR)
		me->interrupted++;
	return ret;
}

static void *work(void *arg)
{
	static long (*const ways[])(long, long, long, long) = { by_function, by_call, by_function, by_instruction };
	struct worker *me = arg;
	struct timespec nap = { .tv_nsec = 50000 };
	double value = me->number + 1;

	/*
	 * Whoever has registered it has work to do on the way out after each switch, and vector
	 * registers are loaded by the way.  Half of them are to depend on their own flag.
	 */
	if (me->number % 2)
		me->wrong += syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32,
				     RSEQ_FLAG_UNREGISTER, RSEQ_SIG) != 0;
	while (!over) {
		long (*fn)(long, long, long, long) = ways[me->rounds % 4];
		char byte = (char)me->rounds, got = 0;

		for (int i = 0; i < 50; i++)
			value = value * 1.5 - value / 2;	/* stays what it is */
		me->wrong += value != me->number + 1;
		me->wrong += full(me, fn, SYS_getpid, 0, 0, 0) != process;
		/* To the next thread, and from the one before: the same rounds in all. */
		me->wrong += again(me, fn, SYS_write, me->out, (long)&byte, 1) != 1;
		me->wrong += again(me, fn, SYS_read, me->in, (long)&got, 1) != 1;
		me->wrong += got != byte && !over;	/* the last byte is of nobody's round */
		if (me->rounds % 8 == 0)
			full(me, fn, SYS_sched_yield, 0, 0, 0);
		if (me->rounds % 16 == 0)
			full(me, fn, SYS_nanosleep, (long)&nap, 0, 0);
		if (me->rounds % 5 == 0)
			me->wrong += full(me, fn, SYS_futex, (long)&word, FUTEX_WAKE_PRIVATE, 1) < 0;
		me->rounds++;
	}
	/* The next one may wait for a byte. */
	(void)!write(me->out, "", 1);
	return NULL;
}

int main(int argc, char **argv)
{
	struct itimerval every = { { 0, 1000 }, { 0, 1000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	time_t end = time(NULL) + (argc > 1 ? atol(argv[1]) : 5);
	unsigned long wrong = 0, rounds = ~0UL, interrupted = 0;
	int fds[THREADS][2];

	process = getpid();
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	for (int i = 0; i < THREADS; i++)
		if (pipe(fds[i]))
			return 2;
	for (int i = 0; i < THREADS; i++) {
		workers[i].number = i;
		workers[i].out = fds[i][1];
		workers[i].in = fds[(i + THREADS - 1) % THREADS][0];
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; time(NULL) < end; i++) {
		pthread_kill(workers[i % THREADS].thread, SIGUSR1);
		by_function(SYS_nanosleep, (long)&(struct timespec){ .tv_nsec = 300000 }, 0, 0);
	}
	over = 1;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		wrong += workers[i].wrong;
		interrupted += workers[i].interrupted;
		if (workers[i].rounds < rounds)
			rounds = workers[i].rounds;
	}
	/* What a check writes to a console must not be interrupted. */
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	check(!wrong, "storm.right", "%lu wrong", wrong);
	check(rounds > 100, "storm.rounds", "%lu", rounds);
	check(alarms > 100 && pokes > 100, "storm.signals", "%lu alarms, %lu others", alarms, pokes);
	check(interrupted > 0, "storm.interrupted", "never");
	return check_failed;
}
