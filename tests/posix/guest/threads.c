// SPDX-License-Identifier: Apache-2.0
/* Threads, what they wait for, and the stacks they run on. */
#include "posix.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <threads.h>

#define THREADS 4
#define ROUNDS 2000

static struct timespec from_now(clockid_t clock, long ms)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_nsec += ms % 1000 * 1000000;
	t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

/* The same function in some threads; the number of those that did not return NULL. */
static int together(int count, void *(*body)(void *arg), void *arg)
{
	pthread_t threads[16];
	void *ret;
	int bad = 0;

	for (int i = 0; i < count; i++)
		NEED(pthread_create(&threads[i], NULL, body, arg) == 0);
	for (int i = 0; i < count; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	return bad;
}

/* --- mutexes --- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile long counter;

static void *count_up(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		long seen;

		if (pthread_mutex_lock(arg))
			return arg;
		seen = counter;
		if (i % 64 == 0)
			sched_yield();
		counter = seen + 1;
		if (pthread_mutex_unlock(arg))
			return arg;
	}
	return NULL;
}

static void *lock_and_end(void *arg)
{
	return pthread_mutex_lock(arg) ? arg : NULL;
}

static void *try_busy(void *arg)
{
	struct timespec until = from_now(CLOCK_REALTIME, 20);

	return pthread_mutex_trylock(arg) == EBUSY && pthread_mutex_timedlock(arg, &until) == ETIMEDOUT ? NULL : arg;
}

static void *unlock_foreign(void *arg)
{
	return pthread_mutex_unlock(arg) == EPERM ? NULL : arg;
}

static void make_mutex(pthread_mutex_t *made, int type, int protocol, int robust, int shared)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	NEED(pthread_mutexattr_settype(&attr, type) == 0 && pthread_mutexattr_setprotocol(&attr, protocol) == 0 &&
	     pthread_mutexattr_setrobust(&attr, robust) == 0 && pthread_mutexattr_setpshared(&attr, shared) == 0 &&
	     pthread_mutex_init(made, &attr) == 0);
}

static int lock_and_die(void *arg)
{
	if (pthread_mutex_lock(arg))
		return 1;
	raise(SIGKILL);
	return 2;
}

static int count_in_child(void *arg)
{
	struct { pthread_mutex_t mutex; volatile long count; } *shared = arg;

	for (int i = 0; i < 500; i++) {
		if (pthread_mutex_lock(&shared->mutex))
			return 1;
		shared->count++;
		if (i % 50 == 0)
			sched_yield();
		if (pthread_mutex_unlock(&shared->mutex))
			return 2;
	}
	return 0;
}

static void test_one_mutex(const char *what, int type, int protocol)
{
	static pthread_mutex_t made;	/* a global: its futex is in the application's own data */
	char name[60];
	int bad;

	make_mutex(&made, type, protocol, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	counter = 0;
	bad = together(THREADS, count_up, &made);
	snprintf(name, sizeof(name), "threads.%s.count", what);
	check(!bad && counter == THREADS * ROUNDS, name, "%d bad, %ld", bad, counter);
	pthread_mutex_lock(&made);
	snprintf(name, sizeof(name), "threads.%s.busy", what);
	CHECK(name, together(2, try_busy, &made) == 0);
	pthread_mutex_unlock(&made);
	snprintf(name, sizeof(name), "threads.%s.free_again", what);
	CHECK(name, pthread_mutex_trylock(&made) == 0 && pthread_mutex_unlock(&made) == 0 && pthread_mutex_destroy(&made) == 0);
}

static void test_robust(const char *what, int protocol)
{
	static pthread_mutex_t made;
	struct { pthread_mutex_t mutex; volatile long count; } *shared;
	char name[60];
	int status;
	pid_t pid;

	make_mutex(&made, PTHREAD_MUTEX_NORMAL, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_PRIVATE);
	NEED(together(1, lock_and_end, &made) == 0);
	snprintf(name, sizeof(name), "threads.robust.%s.owner_dead", what);
	EQUAL(name, pthread_mutex_lock(&made), EOWNERDEAD);
	snprintf(name, sizeof(name), "threads.robust.%s.consistent", what);
	CHECK(name, pthread_mutex_consistent(&made) == 0 && pthread_mutex_unlock(&made) == 0 &&
	      pthread_mutex_lock(&made) == 0 && pthread_mutex_unlock(&made) == 0);
	NEED(together(1, lock_and_end, &made) == 0);
	snprintf(name, sizeof(name), "threads.robust.%s.not_recoverable", what);
	CHECK(name, pthread_mutex_lock(&made) == EOWNERDEAD && pthread_mutex_unlock(&made) == 0 &&
	      pthread_mutex_lock(&made) == ENOTRECOVERABLE);
	pthread_mutex_destroy(&made);

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED);
	make_mutex(&shared->mutex, PTHREAD_MUTEX_NORMAL, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_SHARED);
	pid = fork();
	if (!pid)
		_exit(count_in_child(shared));
	status = count_in_child(shared);
	snprintf(name, sizeof(name), "threads.robust.%s.process_shared", what);
	CHECK(name, reap(pid) == 0 && status == 0 && shared->count == 1000);
	snprintf(name, sizeof(name), "threads.robust.%s.process_killed", what);
	CHECK(name, killed(in_child(lock_and_die, &shared->mutex), SIGKILL) &&
	      pthread_mutex_lock(&shared->mutex) == EOWNERDEAD && pthread_mutex_consistent(&shared->mutex) == 0 &&
	      pthread_mutex_unlock(&shared->mutex) == 0);
	munmap(shared, 4096);
}

/* A thread that waits when the owner ends is woken. */
struct waiter {
	pthread_mutex_t mutex;
	sem_t locked;
	atomic_int tid;
	int got;
};

static void *own_until_waited_for(void *arg)
{
	struct waiter *waiter = arg;
	char path[60], state;

	pthread_mutex_lock(&waiter->mutex);
	sem_post(&waiter->locked);
	if (!SOON(waiter->tid != 0))
		return arg;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", waiter->tid);
	/* It sleeps: on the mutex, the only thing it has to wait for. */
	return SOON(sscanf(strrchr(file_text(path), ')'), ") %c", &state) == 1 && state == 'S') ? NULL : arg;
}

static void *wait_for_owner(void *arg)
{
	struct waiter *waiter = arg;

	while (sem_wait(&waiter->locked))
		;
	waiter->tid = gettid();
	waiter->got = pthread_mutex_lock(&waiter->mutex);
	return NULL;
}

static void test_robust_waiter(const char *name, int protocol)
{
	static struct waiter waiter;
	pthread_t threads[2];
	void *ret[2];

	memset(&waiter, 0, sizeof(waiter));
	sem_init(&waiter.locked, 0, 0);
	make_mutex(&waiter.mutex, PTHREAD_MUTEX_NORMAL, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_PRIVATE);
	NEED(pthread_create(&threads[0], NULL, own_until_waited_for, &waiter) == 0);
	NEED(pthread_create(&threads[1], NULL, wait_for_owner, &waiter) == 0);
	pthread_join(threads[0], &ret[0]);
	pthread_join(threads[1], &ret[1]);
	check(!ret[0] && waiter.got == EOWNERDEAD, name, "%d", waiter.got);
}

/* A waiter of a higher priority lends it to the owner. */
struct lender {
	pthread_mutex_t mutex;
	atomic_int owner, waiter, done;
};

/* The priority of a thread of the process as the scheduler has it: real-time ones are negative. */
static int priority_of(int tid)
{
	int priority = 0;
	char path[60];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	sscanf(strrchr(file_text(path), ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %d", &priority);
	return priority;
}

static void *own_for_a_while(void *arg)
{
	struct lender *lender = arg;

	pthread_mutex_lock(&lender->mutex);
	lender->owner = gettid();
	while (!lender->done)
		nap(1);
	pthread_mutex_unlock(&lender->mutex);
	lender->done = 2;
	while (lender->done != 3)
		nap(1);
	return NULL;
}

static void *wait_with_priority(void *arg)
{
	struct sched_param param = { .sched_priority = 7 };
	struct lender *lender = arg;

	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &param))
		return arg;
	lender->waiter = gettid();
	pthread_mutex_lock(&lender->mutex);
	pthread_mutex_unlock(&lender->mutex);
	return NULL;
}

static void test_inheritance(void)
{
	static struct lender lender;	/* its futex is a global */
	struct timespec until = from_now(CLOCK_REALTIME, DEADLINE_S * 1000L);
	struct { pthread_mutex_t mutex; volatile long count; } *shared;
	pthread_t threads[2];
	pthread_attr_t attr;
	int status;
	pid_t pid;

	make_mutex(&lender.mutex, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	pthread_attr_init(&attr);
	NEED(pthread_create(&threads[0], &attr, own_for_a_while, &lender) == 0 && SOON(lender.owner));
	EQUAL("threads.inherit.priority_before", priority_of(lender.owner), 20);
	NEED(pthread_create(&threads[1], &attr, wait_with_priority, &lender) == 0);
	CHECK("threads.inherit.priority_lent", SOON(lender.waiter && priority_of(lender.owner) == -1 - 7));
	/* The word of the mutex names its owner, and says that somebody waits. */
	EQUAL("threads.inherit.owner_in_word", (unsigned int)lender.mutex.__data.__lock, FUTEX_WAITERS | (unsigned int)lender.owner);
	lender.done = 1;
	CHECK("threads.inherit.priority_returned", SOON(lender.done == 2) && SOON(priority_of(lender.owner) == 20));
	lender.done = 3;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EQUAL("threads.inherit.timed", pthread_mutex_timedlock(&lender.mutex, &until), 0);

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED);
	make_mutex(&shared->mutex, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_SHARED);
	pid = fork();
	if (!pid)
		_exit(count_in_child(shared));
	status = count_in_child(shared);
	CHECK("threads.inherit.process_shared", reap(pid) == 0 && status == 0 && shared->count == 1000);
	munmap(shared, 4096);
}

static void test_mutexes(void)
{
	pthread_mutex_t made;

	counter = 0;
	CHECK("threads.mutex.static", together(THREADS, count_up, &mutex) == 0 && counter == THREADS * ROUNDS);
	test_one_mutex("mutex.normal", PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE);
	test_one_mutex("mutex.recursive", PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE);
	test_one_mutex("mutex.errorcheck", PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE);
	test_one_mutex("mutex.adaptive", PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_PRIO_NONE);
	test_one_mutex("inherit.normal", PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT);
	test_one_mutex("inherit.recursive", PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_INHERIT);

	make_mutex(&made, PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	CHECK("threads.mutex.recursion", pthread_mutex_lock(&made) == 0 && pthread_mutex_lock(&made) == 0 &&
	      pthread_mutex_unlock(&made) == 0 && together(1, try_busy, &made) == 0 &&
	      pthread_mutex_unlock(&made) == 0 && pthread_mutex_unlock(&made) == EPERM);
	make_mutex(&made, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	CHECK("threads.mutex.deadlock_found", pthread_mutex_lock(&made) == 0 && pthread_mutex_lock(&made) == EDEADLK);
	CHECK("threads.mutex.not_the_owner", together(1, unlock_foreign, &made) == 0 && pthread_mutex_unlock(&made) == 0);
	make_mutex(&made, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	CHECK("threads.inherit.deadlock_found", pthread_mutex_lock(&made) == 0 && pthread_mutex_lock(&made) == EDEADLK &&
	      pthread_mutex_unlock(&made) == 0);
	CHECK("threads.inherit.not_the_owner", pthread_mutex_lock(&made) == 0 && together(1, unlock_foreign, &made) == 0 &&
	      pthread_mutex_unlock(&made) == 0);
	test_inheritance();
	test_robust("plain", PTHREAD_PRIO_NONE);
	test_robust("inherit", PTHREAD_PRIO_INHERIT);
	test_robust_waiter("threads.robust.plain.waiter", PTHREAD_PRIO_NONE);
	test_robust_waiter("threads.robust.inherit.waiter", PTHREAD_PRIO_INHERIT);
}

/* --- the other things to wait for --- */

static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int tokens, waiting, turn;

static void *wait_token(void *arg)
{
	pthread_mutex_lock(&mutex);
	waiting++;
	while (!tokens)
		pthread_cond_wait(&cond, &mutex);
	tokens--;
	waiting--;
	pthread_mutex_unlock(&mutex);
	return arg;
}

static void *play(void *arg)
{
	long me = (long)arg;
	int rounds = 0;

	pthread_mutex_lock(&mutex);
	while (rounds++ < 500) {
		while (turn % 2 != me)
			pthread_cond_wait(&cond, &mutex);
		turn++;
		pthread_cond_signal(&cond);
	}
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static int waiters(void)
{
	int n;

	pthread_mutex_lock(&mutex);
	n = waiting;
	pthread_mutex_unlock(&mutex);
	return n;
}

static int signal_shared(void *arg)
{
	struct { pthread_mutex_t mutex; pthread_cond_t cond; int go; } *shared = arg;

	pthread_mutex_lock(&shared->mutex);
	shared->go = 1;
	pthread_cond_signal(&shared->cond);
	pthread_mutex_unlock(&shared->mutex);
	return 0;
}

static void test_conditions(void)
{
	struct { pthread_mutex_t mutex; pthread_cond_t cond; int go; } *shared;
	pthread_t threads[THREADS];
	pthread_condattr_t attr;
	pthread_cond_t monotonic;
	struct timespec until;
	double before;
	int ret;
	pid_t pid;

	for (int i = 0; i < THREADS; i++)
		NEED(pthread_create(&threads[i], NULL, wait_token, NULL) == 0);
	CHECK("threads.cond.all_wait", SOON(waiters() == THREADS));
	pthread_mutex_lock(&mutex);
	tokens = 1;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&mutex);
	CHECK("threads.cond.signal", SOON(waiters() == THREADS - 1));
	pthread_mutex_lock(&mutex);
	tokens = THREADS - 1;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mutex);
	CHECK("threads.cond.broadcast", SOON(waiters() == 0));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (long i = 0; i < 2; i++)
		NEED(pthread_create(&threads[i], NULL, play, (void *)i) == 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EQUAL("threads.cond.ping_pong", turn, 1000);

	pthread_mutex_lock(&mutex);
	until = from_now(CLOCK_REALTIME, 30);
	EQUAL("threads.cond.timed_wait", pthread_cond_timedwait(&cond, &mutex, &until), ETIMEDOUT);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&monotonic, &attr);
	before = seconds();
	until = from_now(CLOCK_MONOTONIC, 50);
	ret = pthread_cond_timedwait(&monotonic, &mutex, &until);
	CHECK("threads.cond.monotonic", ret == ETIMEDOUT && seconds() - before >= 0.05);
	until = from_now(CLOCK_MONOTONIC, 30);
	EQUAL("threads.cond.clockwait", pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &until), ETIMEDOUT);
	CHECK("threads.cond.mutex_is_held", together(1, try_busy, &mutex) == 0 && pthread_mutex_unlock(&mutex) == 0);

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED);
	make_mutex(&shared->mutex, PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_SHARED);
	pthread_condattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_cond_init(&shared->cond, &attr);
	pthread_mutex_lock(&shared->mutex);
	pid = fork();
	if (!pid)
		_exit(signal_shared(shared));
	until = from_now(CLOCK_MONOTONIC, DEADLINE_S * 1000);
	for (ret = 0; !shared->go && !ret;)
		ret = pthread_cond_timedwait(&shared->cond, &shared->mutex, &until);
	pthread_mutex_unlock(&shared->mutex);
	CHECK("threads.cond.process_shared", reap(pid) == 0 && shared->go && !ret);
	munmap(shared, 4096);
}

static pthread_barrier_t barrier;
static atomic_int serial, arrived, wrong;

static void *meet(void *arg)
{
	for (int i = 1; i <= 100; i++) {
		int ret;

		arrived++;
		ret = pthread_barrier_wait(&barrier);
		wrong += ret != 0 && ret != PTHREAD_BARRIER_SERIAL_THREAD;
		serial += ret == PTHREAD_BARRIER_SERIAL_THREAD;
		wrong += arrived < i * THREADS;
		pthread_barrier_wait(&barrier);
	}
	return arg;
}

static int written[16];

/* What each has written before is seen by all behind the barrier. */
static void *exchange(void *arg)
{
	int me = arrived++, sum = 0;

	written[me] = me + 1;
	pthread_barrier_wait(arg);
	for (int i = 0; i < 16; i++)
		sum += written[i];
	wrong += sum != 136;
	return NULL;
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int sig)
{
	(void)sig;
	signals_seen++;
}

static atomic_int waiter_tid;

static void *meet_once(void *arg)
{
	int ret;

	waiter_tid = gettid();
	ret = pthread_barrier_wait(arg);
	return ret == 0 || ret == PTHREAD_BARRIER_SERIAL_THREAD ? NULL : arg;
}

static int meet_in_child(void *arg)
{
	for (int i = 0; i < 50; i++)
		pthread_barrier_wait(arg);
	return 0;
}

static void test_barriers(void)
{
	pthread_barrierattr_t attr;
	pthread_barrier_t *shared;
	pthread_t thread;
	void *ret;
	int kind;
	pid_t pid;

	pthread_barrier_init(&barrier, NULL, THREADS);
	together(THREADS, meet, NULL);
	EQUAL("threads.barrier.serial", serial, 100);
	EQUAL("threads.barrier.all_arrived", wrong, 0);
	EQUAL("threads.barrier.destroy", pthread_barrier_destroy(&barrier), 0);
	EQUAL("threads.barrier.zero", pthread_barrier_init(&barrier, NULL, 0), EINVAL);
	CHECK("threads.barrier.one", pthread_barrier_init(&barrier, NULL, 1) == 0 &&
	      pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD &&
	      pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD && pthread_barrier_destroy(&barrier) == 0);
	arrived = 0;
	pthread_barrier_init(&barrier, NULL, 16);
	CHECK("threads.barrier.sixteen", together(16, exchange, &barrier) == 0 && wrong == 0);
	pthread_barrier_destroy(&barrier);

	/* A signal interrupts the wait and does not end it. */
	signal(SIGUSR1, count_signal);
	signals_seen = 0;
	pthread_barrier_init(&barrier, NULL, 2);
	NEED(pthread_create(&thread, NULL, meet_once, &barrier) == 0 && SOON(waiter_tid));
	pthread_kill(thread, SIGUSR1);
	CHECK("threads.barrier.signal", SOON(signals_seen == 1) && pthread_tryjoin_np(thread, &ret) == EBUSY);
	kind = pthread_barrier_wait(&barrier);
	CHECK("threads.barrier.after_signal", (kind == 0 || kind == PTHREAD_BARRIER_SERIAL_THREAD) &&
	      pthread_join(thread, &ret) == 0 && !ret);
	signal(SIGUSR1, SIG_DFL);
	pthread_barrier_destroy(&barrier);

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED);
	pthread_barrierattr_init(&attr);
	pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(shared, &attr, 2);
	pid = fork();
	if (!pid)
		_exit(meet_in_child(shared));
	meet_in_child(shared);
	EQUAL("threads.barrier.process_shared", reap(pid), 0);
	munmap(shared, 4096);
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static atomic_int readers, writers, most;
static long guarded[2];

static void *read_and_write(void *arg)
{
	unsigned int seed = (uintptr_t)&seed >> 12;

	for (int i = 0; i < 500; i++) {
		seed = seed * 1103515245 + 12345;
		if ((seed >> 16) % 4) {
			pthread_rwlock_rdlock(&rwlock);
			wrong += guarded[0] != guarded[1] || writers;
		} else {
			pthread_rwlock_wrlock(&rwlock);
			wrong += ++writers != 1;
			guarded[0]++;
			sched_yield();
			guarded[1]++;
			writers--;
		}
		pthread_rwlock_unlock(&rwlock);
	}
	return arg;
}

static void *read_together(void *arg)
{
	int n;

	pthread_rwlock_rdlock(&rwlock);
	n = ++readers;
	if (n > most)
		most = n;
	/* All of them are inside at once, or this waits in vain. */
	if (!SOON(most == THREADS))
		wrong++;
	pthread_rwlock_unlock(&rwlock);
	return arg;
}

static void *try_rwlock(void *arg)
{
	struct timespec until = from_now(CLOCK_REALTIME, 20);
	int reads = *(int *)arg;

	if (reads)	/* it is held for reading */
		return pthread_rwlock_tryrdlock(&rwlock) == 0 && pthread_rwlock_unlock(&rwlock) == 0 &&
		       pthread_rwlock_trywrlock(&rwlock) == EBUSY &&
		       pthread_rwlock_timedwrlock(&rwlock, &until) == ETIMEDOUT ? NULL : arg;
	return pthread_rwlock_tryrdlock(&rwlock) == EBUSY && pthread_rwlock_trywrlock(&rwlock) == EBUSY &&
	       pthread_rwlock_timedrdlock(&rwlock, &until) == ETIMEDOUT ? NULL : arg;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static once_flag flag = ONCE_FLAG_INIT;
static atomic_int onces, seen_before;

static void run_once(void)
{
	nap(20);
	onces++;
}

static void *many_once(void *arg)
{
	pthread_once(&once, run_once);
	seen_before += onces != 1;
	return arg;
}

static void *many_call_once(void *arg)
{
	call_once(&flag, run_once);
	return arg;
}

static sem_t semaphore;
static pthread_spinlock_t spin;

static void *take_and_post(void *arg)
{
	for (int i = 0; i < 500; i++) {
		int n;

		while (sem_wait(&semaphore))
			;
		n = ++readers;
		wrong += n > 2;
		if (n > most)
			most = n;
		sched_yield();
		readers--;
		sem_post(&semaphore);
	}
	return arg;
}

static void *spin_count(void *arg)
{
	for (int i = 0; i < 500; i++) {
		pthread_spin_lock(&spin);
		counter++;
		pthread_spin_unlock(&spin);
	}
	return arg;
}

static int post_in_child(void *arg)
{
	return sem_post(arg);
}

static int post_named(void *arg)
{
	sem_t *named = sem_open(arg, 0);

	return named == SEM_FAILED || sem_post(named);
}

static void test_others(void)
{
	struct timespec until;
	int reads, value = -1;
	sem_t *shared;

	together(THREADS, read_and_write, NULL);
	CHECK("threads.rwlock.exclusion", wrong == 0 && guarded[0] == guarded[1] && guarded[0] > 100);
	together(THREADS, read_together, NULL);
	EQUAL("threads.rwlock.readers_together", wrong, 0);
	pthread_rwlock_rdlock(&rwlock);
	CHECK("threads.rwlock.held_for_reading", together(1, try_rwlock, (reads = 1, &reads)) == 0);
	pthread_rwlock_unlock(&rwlock);
	pthread_rwlock_wrlock(&rwlock);
	CHECK("threads.rwlock.held_for_writing", together(1, try_rwlock, (reads = 0, &reads)) == 0);
	EQUAL("threads.rwlock.deadlock", pthread_rwlock_rdlock(&rwlock), EDEADLK);
	pthread_rwlock_unlock(&rwlock);

	together(8, many_once, NULL);
	CHECK("threads.once", onces == 1 && seen_before == 0);
	onces = 0;
	together(8, many_call_once, NULL);
	EQUAL("threads.call_once", onces, 1);

	wrong = most = readers = 0;
	sem_init(&semaphore, 0, 2);
	together(THREADS, take_and_post, NULL);
	CHECK("threads.semaphore.two_at_most", wrong == 0 && most <= 2);
	CHECK("threads.semaphore.value", sem_getvalue(&semaphore, &value) == 0 && value == 2);
	CHECK("threads.semaphore.try", sem_trywait(&semaphore) == 0 && sem_trywait(&semaphore) == 0 &&
	      sem_trywait(&semaphore) < 0 && errno == EAGAIN);
	until = from_now(CLOCK_REALTIME, 30);
	CHECK("threads.semaphore.timed", sem_timedwait(&semaphore, &until) < 0 && errno == ETIMEDOUT);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(shared != MAP_FAILED && sem_init(shared, 1, 0) == 0);
	until = from_now(CLOCK_REALTIME, DEADLINE_S * 1000);
	CHECK("threads.semaphore.process_shared", in_child(post_in_child, shared) == 0 && sem_timedwait(shared, &until) == 0);
	munmap(shared, 4096);
	sem_unlink("/posix_suite");
	shared = sem_open("/posix_suite", O_CREAT | O_EXCL, 0600, 0);
	CHECK("threads.semaphore.named", shared != SEM_FAILED && in_child(post_named, "/posix_suite") == 0 &&
	      sem_timedwait(shared, &until) == 0 && sem_close(shared) == 0 && sem_unlink("/posix_suite") == 0);
	counter = 0;
	pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE);
	together(2, spin_count, NULL);
	EQUAL("threads.spin", counter, 1000);
	pthread_spin_lock(&spin);
	EQUAL("threads.spin.try", pthread_spin_trylock(&spin), EBUSY);
	pthread_spin_unlock(&spin);
}

/* --- their lives --- */

static pthread_key_t keys[3];
static atomic_int destroyed, again;

static void destroy(void *value)
{
	destroyed += (long)value;
}

static void destroy_again(void *value)
{
	/* A value that is set by a destructor calls for another round. */
	if (++again < 3)
		pthread_setspecific(keys[1], value);
}

static void *set_keys(void *arg)
{
	long n = (long)arg;

	if (pthread_getspecific(keys[0]))
		return (void *)1;
	pthread_setspecific(keys[0], (void *)n);
	pthread_setspecific(keys[1], (void *)n);
	if (n == 100)
		pthread_exit((void *)7);
	return pthread_getspecific(keys[0]) == (void *)n ? NULL : (void *)2;
}

static int leave_by_exit(void *arg)
{
	pthread_setspecific(keys[0], arg);
	exit(destroyed == 0 ? 6 : 7);
}

static void end_process(void *value)
{
	_exit((long)value);
}

static int leave_by_pthread_exit(void *arg)
{
	pthread_key_t key;

	pthread_key_create(&key, end_process);
	pthread_setspecific(key, arg);
	pthread_exit(NULL);
}

static void *set_null(void *arg)
{
	pthread_setspecific(keys[0], arg);
	pthread_setspecific(keys[0], NULL);
	return NULL;
}

static void *no_value(void *arg)
{
	return pthread_getspecific(*(pthread_key_t *)arg) ? arg : NULL;
}

static int exhaust_keys(void *arg)
{
	pthread_key_t made[PTHREAD_KEYS_MAX];
	int n = 0, ret, fresh;

	while (n < PTHREAD_KEYS_MAX && !(ret = pthread_key_create(&made[n], NULL)))
		pthread_setspecific(made[n], &made[n]), n++;
	if (n < 900 || pthread_key_create(&made[0], NULL) != EAGAIN)
		return 1;
	for (int i = 0; i < n; i++)
		if (i && pthread_getspecific(made[i]) != &made[i])
			return 2;
	/* A key that takes the place of a deleted one has no value of that. */
	pthread_key_delete(made[n - 1]);
	fresh = pthread_key_create(&made[n - 1], NULL) == 0 && !pthread_getspecific(made[n - 1]);
	return !fresh || arg;
}

static atomic_int forks[3];

static void fork_prepare(void) { forks[0] = forks[0] * 10 + 1; }
static void fork_prepare_last(void) { forks[0] = forks[0] * 10 + 2; }
static void fork_parent(void) { forks[1]++; }
static void fork_child(void) { forks[2]++; }

static int forked(void *arg)
{
	return arg ? 1 : !(forks[0] == 21 && forks[1] == 0 && forks[2] == 1);
}

static void *last_thread(void *arg)
{
	nap(50);
	exit(*(int *)arg);
}

static int leave_main(void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, last_thread, arg))
		return 1;
	pthread_exit(NULL);
}

static void *exec_from_thread(void *arg)
{
	execl("/proc/self/exe", "posix", "child", "exit", arg, (char *)NULL);
	return NULL;
}

static int exec_by_thread(void *arg)
{
	together(1, exec_from_thread, arg);
	return 1;
}

static void *wait_on(void *arg)
{
	while (sem_wait(arg))
		;
	return arg;
}

static int thrd_body(void *arg)
{
	return *(int *)arg + 1;
}

static void *add_up(void *arg)
{
	__atomic_add_fetch((long *)arg, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *own_name(void *arg)
{
	char name[16];

	return pthread_setname_np(pthread_self(), "renamed") == 0 && pthread_getname_np(pthread_self(), name, 16) == 0 &&
	       !strcmp(name, "renamed") ? NULL : arg;
}

static void *ids(void *arg)
{
	return gettid() != getpid() && syscall(SYS_gettid) == gettid() ? NULL : arg;
}

static void test_lives(void)
{
	struct timespec until;
	int code = 17, result = 0, bad = 0;
	pthread_attr_t attr;
	pthread_t thread;
	cpu_set_t cpus;
	long sum = 0;
	void *ret;
	thrd_t thrd;

	pthread_key_create(&keys[0], destroy);
	pthread_key_create(&keys[1], destroy_again);
	pthread_key_create(&keys[2], destroy);
	NEED(pthread_create(&thread, NULL, set_keys, (void *)100) == 0);
	pthread_join(thread, &ret);
	CHECK("threads.key.pthread_exit", ret == (void *)7 && destroyed == 100);
	EQUAL("threads.key.rounds", again, 3);
	EQUAL("threads.key.threads", together(8, set_keys, (void *)3), 0);
	EQUAL("threads.key.destructors", destroyed, 124);
	EQUAL("threads.key.null", together(2, set_null, (void *)1000), 0);
	EQUAL("threads.key.null_is_not_destroyed", destroyed, 124);
	pthread_setspecific(keys[0], &keys);
	EQUAL("threads.key.of_thread", together(2, no_value, &keys[0]), 0);
	pthread_setspecific(keys[0], NULL);
	destroyed = 0;
	EQUAL("threads.key.not_by_exit", in_child(leave_by_exit, (void *)1), 6 << 8);
	destroyed = 124;
	EQUAL("threads.key.main_by_pthread_exit", in_child(leave_by_pthread_exit, (void *)31), 31 << 8);
	EQUAL("threads.key.exhausted", in_child(exhaust_keys, NULL), 0);
	pthread_setspecific(keys[2], (void *)5);
	CHECK("threads.key.delete", pthread_key_delete(keys[2]) == 0 && pthread_setspecific(keys[2], NULL) == EINVAL && destroyed == 124);

	pthread_atfork(fork_prepare, fork_parent, fork_child);
	pthread_atfork(fork_prepare_last, NULL, NULL);
	EQUAL("threads.atfork.child", in_child(forked, NULL), 0);
	CHECK("threads.atfork.parent", forks[0] == 21 && forks[1] == 1 && forks[2] == 0);
	EQUAL("threads.main_leaves_first", in_child(leave_main, &code), 17 << 8);
	EQUAL("threads.exec_by_thread", in_child(exec_by_thread, "23"), 23 << 8);

	for (int i = 0; i < 300; i++) {
		if (pthread_create(&thread, NULL, add_up, &sum) || pthread_join(thread, &ret))
			bad++;
	}
	CHECK("threads.many", !bad && sum == 300);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < 50; i++)
		bad += pthread_create(&thread, &attr, add_up, &sum) != 0;
	CHECK("threads.detached", !bad && SOON(__atomic_load_n(&sum, __ATOMIC_SEQ_CST) == 350));
	EQUAL("threads.join_self", pthread_join(pthread_self(), NULL), EDEADLK);
	sem_init(&semaphore, 0, 0);
	NEED(pthread_create(&thread, NULL, wait_on, &semaphore) == 0);
	EQUAL("threads.tryjoin", pthread_tryjoin_np(thread, &ret), EBUSY);
	until = from_now(CLOCK_REALTIME, 30);
	EQUAL("threads.timedjoin", pthread_timedjoin_np(thread, &ret, &until), ETIMEDOUT);
	sem_post(&semaphore);
	CHECK("threads.join_value", pthread_join(thread, &ret) == 0 && ret == &semaphore);
	EQUAL("threads.name", together(1, own_name, &code), 0);
	EQUAL("threads.ids", together(2, ids, &code), 0);
	CHECK("threads.c11", thrd_create(&thrd, thrd_body, &code) == thrd_success && thrd_join(thrd, &result) == thrd_success &&
	      result == 18);
	CPU_ZERO(&cpus);
	CHECK("threads.affinity", pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) >= 1 &&
	      CPU_ISSET(sched_getcpu(), &cpus));
}

/* --- stacks --- */

static char static_stack[256 * 1024] __attribute__((aligned(4096)));
static char small_stack[16384] __attribute__((aligned(64)));

struct stack {
	char *start;
	size_t size, depth;
	int good;
};

static __attribute__((noinline)) long descend(size_t depth, int c)
{
	volatile char frame[1024];

	for (unsigned int i = 0; i < sizeof(frame); i += 128)
		frame[i] = c;
	if (depth > sizeof(frame))
		return descend(depth - sizeof(frame), c + 1) + (frame[128] == (char)c);
	return frame[0] == (char)c;
}

static void *on_stack(void *arg)
{
	struct stack *stack = arg;
	pthread_attr_t attr;
	void *start = NULL;
	size_t size = 0;
	char here, text[100];

	if (stack->start)
		stack->good = &here >= stack->start && &here < stack->start + stack->size;
	else
		stack->good = 1;
	/* A system call, a library function with a frame of its own, and all of the stack. */
	stack->good &= getppid() > 0 && snprintf(text, sizeof(text), "%.3f", 1.5) == 5;
	stack->good &= descend(stack->depth, 1) == (long)((stack->depth + 1023) / 1024);
	stack->good &= pthread_getattr_np(pthread_self(), &attr) == 0 && pthread_attr_getstack(&attr, &start, &size) == 0 &&
		       &here >= (char *)start && &here < (char *)start + size &&
		       (!stack->start || (start == stack->start && size == stack->size));
	pthread_attr_destroy(&attr);
	return NULL;
}

static int stack_works(char *start, size_t size, size_t depth)
{
	struct stack stack = { .start = start, .size = size, .depth = depth };
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	pthread_attr_init(&attr);
	ret = start ? pthread_attr_setstack(&attr, start, size) : pthread_attr_setstacksize(&attr, size);
	if (ret || (errno = pthread_create(&thread, &attr, on_stack, &stack)))
		return 0;
	pthread_join(thread, NULL);
	return stack.good;
}

static sigjmp_buf back;
static char handler_stack[64 * 1024];

static void on_overflow(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	siglongjmp(back, 1);
}

static void *overflow(void *arg)
{
	stack_t alternate = { .ss_sp = handler_stack, .ss_size = sizeof(handler_stack) };

	(void)arg;
	sigaltstack(&alternate, NULL);
	if (!sigsetjmp(back, 1))
		return (void *)descend(1UL << 30, 1);
	return handler_stack;
}

static void *signal_me(void *arg)
{
	for (int i = 0; i < 200; i++) {
		pthread_kill(pthread_self(), SIGUSR1);
		descend(2000, i);
	}
	return arg;
}

static void test_stacks(void)
{
	struct sigaction action = { .sa_sigaction = on_overflow, .sa_flags = SA_SIGINFO | SA_ONSTACK }, old;
	struct stack main_stack = { .depth = 500000 };
	char *mapped = mmap(NULL, 128 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attr;
	pthread_t thread;
	void *ret = NULL;

	CHECK("threads.stack.static", stack_works(static_stack, sizeof(static_stack), 200 * 1024));
	CHECK("threads.stack.static_again", stack_works(static_stack, sizeof(static_stack), 200 * 1024));
	CHECK("threads.stack.static_middle", stack_works(static_stack + 4096, 128 * 1024, 100 * 1024));
	CHECK("threads.stack.mapped", mapped != MAP_FAILED && stack_works(mapped, 128 * 1024, 100 * 1024));
	munmap(mapped, 128 * 1024);
	CHECK("threads.stack.16k", stack_works(NULL, 16384, 1));
	CHECK("threads.stack.16k_static", stack_works(small_stack, sizeof(small_stack), 1));
	CHECK("threads.stack.64m", stack_works(NULL, 64UL << 20, 40UL << 20));
	CHECK("threads.stack.malloc", ({
		char *p = malloc(100000);
		int good = stack_works(p, 100000, 50000);

		free(p);
		good;
	}));
	CHECK("threads.stack.default", stack_works(NULL, 8UL << 20, 1UL << 20));
	on_stack(&main_stack);
	CHECK("threads.stack.main", main_stack.good);
	errno = 0;
	pthread_attr_init(&attr);
	EQUAL("threads.stack.too_small", pthread_attr_setstacksize(&attr, 1000), EINVAL);

	sigaction(SIGSEGV, &action, &old);
	pthread_attr_setstacksize(&attr, 256 * 1024);
	NEED(pthread_create(&thread, &attr, overflow, NULL) == 0);
	pthread_join(thread, &ret);
	CHECK("threads.stack.guard", ret == handler_stack);
	sigaction(SIGSEGV, &old, NULL);

	signal(SIGUSR1, count_signal);
	signals_seen = 0;
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, static_stack, sizeof(static_stack));
	NEED(pthread_create(&thread, &attr, signal_me, static_stack) == 0);
	pthread_join(thread, &ret);
	CHECK("threads.stack.signals_on_static", ret == static_stack && signals_seen == 200);
	signal(SIGUSR1, SIG_DFL);
}

/* --- restartable sequences --- */

static struct rseq *own_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static int knows_cpu(void)
{
	/* Between the two looks the thread may move, but not every time. */
	for (int i = 0; i < 1000; i++) {
		unsigned int cpu = 0;

		if (syscall(SYS_getcpu, &cpu, NULL, NULL) == 0 && *(volatile unsigned int *)&own_rseq()->cpu_id == cpu)
			return 1;
	}
	return 0;
}

static void *rseq_thread(void *arg)
{
	return knows_cpu() && own_rseq()->cpu_id == own_rseq()->cpu_id_start ? NULL : arg;
}

static atomic_int rseq_wrong;
static long per_cpu[64 * 8];

/* A critical section from 1 to 2, with 4 for its abort handler: fill struct rseq_cs, then name it. */
#define RSEQ_ENTER							\
	"	lea 1f(%%rip), %%rax\n"				\
	"	mov %%rax, 8(%[cs])\n"					\
	"	lea 2f(%%rip), %%rdx\n"				\
	"	sub %%rax, %%rdx\n"					\
	"	mov %%rdx, 16(%[cs])\n"				\
	"	lea 4f(%%rip), %%rax\n"				\
	"	mov %%rax, 24(%[cs])\n"				\
	"	mov %[cs], (%[place])\n"

/* Adds to the processor's own counter, the classic use: without a lock and without an atomic. */
static int add_per_cpu(void)
{
	struct rseq_cs cs __attribute__((aligned(32))) = { 0 };
	volatile unsigned long *place = (unsigned long *)((char *)own_rseq() + offsetof(struct rseq, rseq_cs));
	unsigned int cpu = *(volatile unsigned int *)&own_rseq()->cpu_id_start;
	int aborted;

	asm volatile(RSEQ_ENTER
		     "1:	cmp %[cpu], %[now]\n"
		     "	jne 3f\n"
		     "	mov (%[counter]), %%rax\n"
		     "	inc %%rax\n"
		     "	mov %%rax, (%[counter])\n"	/* the last instruction commits */
		     "2:	xor %[aborted], %[aborted]\n"
		     "	jmp 5f\n"
		     "	.byte 0x0f, 0xb9, 0x3d\n"
		     "	.long 0x53053053\n"
		     "4:\n"
		     "3:	mov $1, %[aborted]\n"
		     "5:"
		     : [aborted] "=&r"(aborted)
		     : [cs] "r"(&cs), [place] "r"(place), [cpu] "r"(cpu), [now] "m"(own_rseq()->cpu_id),
		       [counter] "r"(&per_cpu[cpu % 64 * 8])
		     : "rax", "rdx", "memory", "cc");
	*place = 0;
	return !aborted;
}

static void *add_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++) {
		int tries = 0;

		while (!add_per_cpu() && tries < 1000000)
			tries++;
		rseq_wrong += tries == 1000000;
		if (i % 1000 == 0)
			sched_yield();
	}
	return NULL;
}

static long counted(void)
{
	long sum = 0;

	for (unsigned int i = 0; i < ELEMENTS(per_cpu); i++)
		sum += per_cpu[i];
	return sum;
}

static int rseq_in_child(void *arg)
{
	return arg || !knows_cpu() || !add_per_cpu();
}

/* The kernel takes the signature for a sign that the place is meant; without it, it kills. */
static int unsigned_sequence(void *arg)
{
	struct rseq_cs cs __attribute__((aligned(32))) = { 0 };
	volatile unsigned long *place = (unsigned long *)((char *)own_rseq() + offsetof(struct rseq, rseq_cs));

	asm volatile("	lea 1f(%%rip), %%rax\n"
		     "	mov %%rax, 8(%[cs])\n"
		     "	movq $0x1000, 16(%[cs])\n"
		     "	lea 4f(%%rip), %%rax\n"
		     "	mov %%rax, 24(%[cs])\n"
		     "	jmp 5f\n"
		     "	.quad 0\n"
		     "4:	ud2\n"
		     "5:	mov %[cs], (%[place])\n"
		     "1:"
		     :
		     : [cs] "r"(&cs), [place] "r"(place)
		     : "rax", "memory");
	for (double end = seconds() + DEADLINE_S; seconds() < end;)
		sched_yield();
	return arg != NULL;
}

/* A sequence that goes on until a signal or another task aborts it. */
static int sequence(void *arg)
{
	struct rseq_cs cs __attribute__((aligned(32))) = { 0 };
	volatile unsigned long *place = (unsigned long *)((char *)own_rseq() + offsetof(struct rseq, rseq_cs));
	struct itimerspec timer = { .it_interval.tv_nsec = 10000000, .it_value.tv_nsec = 10000000 };
	unsigned long rounds = 0;
	int aborted;
	timer_t id;

	(void)arg;
	signal(SIGALRM, count_signal);
	NEED(timer_create(CLOCK_MONOTONIC, NULL, &id) == 0);
	timer_settime(id, 0, &timer, NULL);
	asm volatile(RSEQ_ENTER
		     "1:	inc %[rounds]\n"
		     "	mov %[limit], %%rax\n"
		     "	cmp %%rax, %[rounds]\n"
		     "	jb 1b\n"
		     "2:	xor %[aborted], %[aborted]\n"
		     "	jmp 5f\n"
		     "	.byte 0x0f, 0xb9, 0x3d\n"	/* ud1, as librseq has it */
		     "	.long 0x53053053\n"
		     "4:	mov $1, %[aborted]\n"
		     "5:"
		     : [rounds] "+&r"(rounds), [aborted] "=&r"(aborted)
		     : [cs] "r"(&cs), [place] "r"(place), [limit] "i"(2000000000)
		     : "rax", "rdx", "memory", "cc");
	*place = 0;
	return aborted ? 3 : 4;
}

static void test_rseq(void)
{
	int id;

	CHECK("threads.rseq.registered", __rseq_size >= 20 && __rseq_flags == 0);
	CHECK("threads.rseq.cpu", knows_cpu());
	EQUAL("threads.rseq.threads", together(4, rseq_thread, &id), 0);
	errno = 0;
	CHECK("threads.rseq.only_once", syscall(SYS_rseq, own_rseq(), 32, 0, 0x53053053) < 0 && errno == EBUSY);
	errno = 0;
	CHECK("threads.rseq.not_another", syscall(SYS_rseq, per_cpu, 32, 0, 0x53053053) < 0 && errno == EINVAL);
	CHECK("threads.rseq.commits", add_per_cpu() && counted() == 1);
	EQUAL("threads.rseq.counters", together(8, add_often, &id), 0);
	CHECK("threads.rseq.counted", counted() == 160001 && rseq_wrong == 0);
	EQUAL("threads.rseq.of_fork", in_child(rseq_in_child, NULL), 0);
	CHECK("threads.rseq.no_signature", killed(in_child(unsigned_sequence, NULL), SIGSEGV));
	/* In a child: the kernel kills what has a sequence that it does not like. */
	EQUAL("threads.rseq.aborted", in_child(sequence, NULL), 3 << 8);
}

int threads_suite(void)
{
	test_mutexes();
	test_conditions();
	test_barriers();
	test_others();
	test_lives();
	test_stacks();
	test_rseq();
	return check_failed;
}
