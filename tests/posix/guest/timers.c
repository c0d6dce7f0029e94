// SPDX-License-Identifier: Apache-2.0
/* Clocks against the system calls, and timers of each kind. */
#include "posix.h"
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/timex.h>

#define MS 1000000L

static long long ns(const struct timespec *t)
{
	return t->tv_sec * 1000000000LL + t->tv_nsec;
}

/* --- clocks --- */

static const struct {
	const char *name;
	clockid_t id;
} clocks[] = {
	{ "realtime", CLOCK_REALTIME },
	{ "monotonic", CLOCK_MONOTONIC },
	{ "process", CLOCK_PROCESS_CPUTIME_ID },
	{ "thread", CLOCK_THREAD_CPUTIME_ID },
	{ "raw", CLOCK_MONOTONIC_RAW },
	{ "realtime_coarse", CLOCK_REALTIME_COARSE },
	{ "monotonic_coarse", CLOCK_MONOTONIC_COARSE },
	{ "boottime", CLOCK_BOOTTIME },
	{ "tai", CLOCK_TAI },
};

/* Between two looks by system call, each time. */
static int is_between(clockid_t id)
{
	struct timespec before, middle, after;
	int bad = 0;

	for (int i = 0; i < 2000; i++) {
		if (syscall(SYS_clock_gettime, id, &before) || clock_gettime(id, &middle) ||
		    syscall(SYS_clock_gettime, id, &after))
			return 0;
		bad += ns(&middle) < ns(&before) || ns(&middle) > ns(&after);
		bad += middle.tv_nsec < 0 || middle.tv_nsec > 999999999;
	}
	return !bad;
}

static int goes_on(clockid_t id)
{
	struct timespec first, last, now;
	int bad = 0;

	if (clock_gettime(id, &first))
		return 0;
	last = first;
	for (int i = 0; i < 20000; i++) {
		clock_gettime(id, &now);
		bad += ns(&now) < ns(&last);
		last = now;
	}
	return !bad && SOON(clock_gettime(id, &now) == 0 && ns(&now) > ns(&first));
}

static void *go_on(void *arg)
{
	return goes_on(CLOCK_MONOTONIC) && is_between(CLOCK_REALTIME) ? NULL : arg;
}

static volatile sig_atomic_t signals;

static void look_at_clock(int sig)
{
	struct timespec now;

	(void)sig;
	clock_gettime(CLOCK_MONOTONIC, &now);
	signals++;
}

static void test_clocks(void)
{
	struct itimerval interval = { .it_interval.tv_usec = 2000, .it_value.tv_usec = 2000 }, off = { 0 };
	struct timespec t, u;
	struct rusage usage;
	struct tms tms;
	struct timex timex = { 0 };
	pthread_t threads[4];
	clockid_t id;
	char name[60];
	void *ret;
	int bad = 0;

	for (unsigned int i = 0; i < ELEMENTS(clocks); i++) {
		snprintf(name, sizeof(name), "timers.clock.%s.as_system_call", clocks[i].name);
		CHECK(name, is_between(clocks[i].id));
		snprintf(name, sizeof(name), "timers.clock.%s.goes_on", clocks[i].name);
		CHECK(name, goes_on(clocks[i].id));
		snprintf(name, sizeof(name), "timers.clock.%s.resolution", clocks[i].name);
		CHECK(name, clock_getres(clocks[i].id, &t) == 0 && syscall(SYS_clock_getres, clocks[i].id, &u) == 0 &&
		      ns(&t) == ns(&u) && ns(&t) > 0);
	}
	errno = 0;
	CHECK("timers.clock.unknown", clock_gettime(99, &t) < 0 && errno == EINVAL);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, go_on, &id) == 0);
	for (int i = bad = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("timers.clock.threads", bad, 0);
	signal(SIGALRM, look_at_clock);
	setitimer(ITIMER_REAL, &interval, NULL);
	CHECK("timers.clock.in_handlers", SOON(goes_on(CLOCK_MONOTONIC) && signals >= 20));
	setitimer(ITIMER_REAL, &off, NULL);
	signal(SIGALRM, SIG_DFL);
	CHECK("timers.clock.of_process", clock_getcpuclockid(getpid(), &id) == 0 && clock_gettime(id, &t) == 0 && ns(&t) > 0);
	CHECK("timers.clock.of_thread", pthread_getcpuclockid(pthread_self(), &id) == 0 && clock_gettime(id, &t) == 0 && ns(&t) > 0);
	CHECK("timers.times", times(&tms) != -1 && clock() > 0 && getrusage(RUSAGE_SELF, &usage) == 0 &&
	      usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 0);
	CHECK("timers.adjtimex", adjtimex(&timex) >= 0 && timex.tick > 0);
}

/* --- time of day --- */

static long long us(const struct timeval *tv)
{
	return tv->tv_sec * 1000000LL + tv->tv_usec;
}

/* Between two looks at the clock by system call, each time, to the microsecond. */
static int day_is_between(void)
{
	struct timespec before, after;
	struct timeval tv;
	int bad = 0;

	for (int i = 0; i < 2000; i++) {
		syscall(SYS_clock_gettime, CLOCK_REALTIME, &before);
		if (gettimeofday(&tv, NULL))
			return 0;
		syscall(SYS_clock_gettime, CLOCK_REALTIME, &after);
		bad += us(&tv) < ns(&before) / 1000 || us(&tv) > ns(&after) / 1000;
	}
	return !bad;
}

static int day_goes_on(void)
{
	struct timeval first, last, now;
	int bad = 0;

	gettimeofday(&first, NULL);
	last = first;
	for (int i = 0; i < 20000; i++) {
		gettimeofday(&now, NULL);
		bad += us(&now) < us(&last) || now.tv_usec < 0 || now.tv_usec > 999999;
		last = now;
	}
	return !bad && SOON(gettimeofday(&now, NULL) == 0 && us(&now) > us(&first));
}

/* The second that has begun at the last tick: never ahead of the clock, and one tick behind at most. */
static int second_is_right(void)
{
	struct timespec before, after;
	int bad = 0;
	time_t now;

	for (int i = 0; i < 2000; i++) {
		syscall(SYS_clock_gettime, CLOCK_REALTIME_COARSE, &before);
		now = time(NULL);
		syscall(SYS_clock_gettime, CLOCK_REALTIME, &after);
		bad += now < before.tv_sec || now > after.tv_sec;
	}
	return !bad;
}

static int second_goes_on(void)
{
	time_t first = time(NULL), last = first, now;
	int bad = 0;

	for (int i = 0; i < 20000; i++) {
		now = time(NULL);
		bad += now < last;
		last = now;
	}
	return !bad && SOON(time(NULL) >= first + 2);
}

static void *day_in_thread(void *arg)
{
	return day_is_between() && day_goes_on() ? NULL : arg;
}

static void *second_in_thread(void *arg)
{
	return second_is_right() && second_goes_on() ? NULL : arg;
}

static volatile time_t handler_second;

static void look_at_day(int sig)
{
	struct timeval tv;

	(void)sig;
	gettimeofday(&tv, NULL);
	handler_second = time(NULL);
	signals++;
}

static int in_threads(void *(*body)(void *arg))
{
	pthread_t threads[4];
	int bad = 0;
	void *ret;

	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, body, threads) == 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	return !bad;
}

static int day_in_child(void *arg)
{
	return arg || !day_is_between() || !second_is_right();
}

/* Sets the clock of the machine forward and back: programs see it at once. */
static void test_set_clock(void)
{
	struct timespec was, now, later, monotonic;
	struct timeval tv, day;
	time_t second;

	clock_gettime(CLOCK_REALTIME, &was);
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	later = was;
	later.tv_sec += 100000;
	NEED(clock_settime(CLOCK_REALTIME, &later) == 0);
	gettimeofday(&tv, NULL);
	second = time(NULL);
	clock_gettime(CLOCK_MONOTONIC, &now);
	CHECK("timers.gettimeofday.set", us(&tv) >= ns(&later) / 1000 && us(&tv) < ns(&later) / 1000 + 50000000);
	CHECK("timers.time.set", second >= later.tv_sec && second < later.tv_sec + 50);
	CHECK("timers.clock.monotonic.not_set", ns(&now) >= ns(&monotonic) && now.tv_sec < monotonic.tv_sec + 50);
	day = (struct timeval){ was.tv_sec, was.tv_nsec / 1000 };
	NEED(settimeofday(&day, NULL) == 0);
	gettimeofday(&tv, NULL);
	second = time(NULL);
	CHECK("timers.gettimeofday.set_back", us(&tv) >= us(&day) && us(&tv) < us(&day) + 50000000);
	CHECK("timers.time.set_back", second >= day.tv_sec && second < day.tv_sec + 50);
}

static void test_day(void)
{
	struct itimerval interval = { .it_interval.tv_usec = 2000, .it_value.tv_usec = 2000 }, off = { 0 };
	struct timezone zone = { 77, 77 };
	struct timeval tv = { -1, -1 };
	struct timespec now;
	struct tm tm;
	time_t second, other = 0;

	CHECK("timers.gettimeofday.as_system_call", day_is_between());
	CHECK("timers.gettimeofday.goes_on", day_goes_on());
	CHECK("timers.gettimeofday.threads", in_threads(day_in_thread));
	CHECK("timers.gettimeofday.zone", gettimeofday(&tv, &zone) == 0 && zone.tz_minuteswest == 0 && zone.tz_dsttime == 0 && tv.tv_sec > 0);
	clock_gettime(CLOCK_REALTIME, &now);
	gettimeofday(&tv, NULL);
	CHECK("timers.gettimeofday.behind_clock_gettime", us(&tv) >= ns(&now) / 1000);
	errno = EIO;
	CHECK("timers.gettimeofday.leaves_errno", gettimeofday(&tv, NULL) == 0 && errno == EIO);

	CHECK("timers.time.as_system_call", second_is_right());
	CHECK("timers.time.goes_on", second_goes_on());
	CHECK("timers.time.threads", in_threads(second_in_thread));
	second = time(&other);
	CHECK("timers.time.both_results", second == other && second > 0);
	CHECK("timers.time.calendar", gmtime_r(&second, &tm) == &tm && timegm(&tm) == second);
	EQUAL("timers.time.of_child", in_child(day_in_child, NULL), 0);

	signal(SIGALRM, look_at_day);
	signals = 0;
	setitimer(ITIMER_REAL, &interval, NULL);
	CHECK("timers.gettimeofday.in_handlers", SOON(day_goes_on() && signals >= 20));
	CHECK("timers.time.in_handlers", SOON(second_is_right() && signals >= 40) && handler_second >= second);
	setitimer(ITIMER_REAL, &off, NULL);
	signal(SIGALRM, SIG_DFL);
	test_set_clock();
}

/* --- sleep --- */

static void test_sleep(void)
{
	struct timespec t = { .tv_nsec = 30 * MS }, until, now;
	double before = seconds();

	CHECK("timers.nanosleep", nanosleep(&t, NULL) == 0 && seconds() - before >= 0.03);
	before = seconds();
	CHECK("timers.usleep", usleep(30000) == 0 && seconds() - before >= 0.03);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 30 * MS;
	if (until.tv_nsec >= 1000 * MS) {
		until.tv_sec++;
		until.tv_nsec -= 1000 * MS;
	}
	CHECK("timers.clock_nanosleep", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL) == 0 &&
	      clock_gettime(CLOCK_REALTIME, &now) == 0 && ns(&now) >= ns(&until));
	t.tv_nsec = 1000 * MS;
	errno = 0;
	CHECK("timers.nanosleep.invalid", nanosleep(&t, NULL) < 0 && errno == EINVAL && clock_nanosleep(CLOCK_REALTIME, 0, &t, NULL) == EINVAL);
}

/* --- timers --- */

static volatile sig_atomic_t fired, value, overrun;
static atomic_int thread_fired, thread_value;
static timer_t current;
static sem_t semaphore;

static void on_timer(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_code == SI_TIMER) {
		value = info->si_value.sival_int;
		overrun += timer_getoverrun(current);
	}
	fired++;
}

static void in_thread(union sigval sigval)
{
	thread_value = sigval.sival_int;
	thread_fired++;
}

static void *handle_in_thread(void *arg)
{
	pid_t *tid = arg;
	sigset_t set;
	siginfo_t info;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	*tid = gettid();
	sem_post(&semaphore);
	return sigwaitinfo(&set, &info) == SIGRTMIN + 1 && info.si_code == SI_TIMER ? NULL : arg;
}

static void burn(void)
{
	for (volatile int i = 0; i < 10000; i++)
		;
}

#define BURN_UNTIL(cond) ({							\
	double burn_end_ = seconds() + DEADLINE_S;				\
										\
	while (!(cond) && seconds() < burn_end_)				\
		burn();								\
	(cond);									\
})

static void test_timers(void)
{
	struct itimerspec once = { .it_value.tv_nsec = 20 * MS }, off = { 0 }, left, old, far = { .it_value.tv_sec = 1000 };
	struct itimerspec often = { .it_interval.tv_nsec = 10 * MS, .it_value.tv_nsec = 10 * MS };
	struct itimerval interval = { .it_interval.tv_usec = 10000, .it_value.tv_usec = 10000 }, none = { 0 }, was;
	struct sigaction action = { .sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 1234 };
	pthread_t thread;
	sigset_t set;
	pid_t tid = 0;
	timer_t id;
	void *ret;

	sigaction(SIGRTMIN, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGVTALRM, &action, NULL);
	sigaction(SIGPROF, &action, NULL);
	CHECK("timers.create.signal", timer_create(CLOCK_MONOTONIC, &event, &current) == 0);
	CHECK("timers.settime", timer_settime(current, 0, &once, NULL) == 0 && SOON(fired == 1) && value == 1234);
	CHECK("timers.gettime.over", timer_gettime(current, &left) == 0 && ns(&left.it_value) == 0);
	fired = 0;
	CHECK("timers.periodic", timer_settime(current, 0, &often, NULL) == 0 && SOON(fired >= 5));
	CHECK("timers.disarm", timer_settime(current, 0, &off, &old) == 0 && ns(&old.it_interval) == 10 * MS &&
	      timer_gettime(current, &left) == 0 && ns(&left.it_value) == 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	overrun = fired = 0;
	often.it_interval.tv_nsec = often.it_value.tv_nsec = 1 * MS;
	timer_settime(current, 0, &often, NULL);
	nap(100);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	CHECK("timers.overrun", SOON(overrun >= 10));
	CHECK("timers.delete", timer_delete(current) == 0 && timer_settime(current, 0, &once, NULL) < 0 && errno == EINVAL);
	NEED(timer_create(CLOCK_REALTIME, &event, &current) == 0);
	clock_gettime(CLOCK_REALTIME, &once.it_value);
	fired = 0;
	CHECK("timers.absolute_past", timer_settime(current, TIMER_ABSTIME, &once, NULL) == 0 && SOON(fired == 1));
	timer_delete(current);
	once = (struct itimerspec){ .it_value.tv_nsec = 20 * MS };

	event = (struct sigevent){ .sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_thread, .sigev_value.sival_int = 77 };
	CHECK("timers.create.thread", timer_create(CLOCK_MONOTONIC, &event, &id) == 0 && timer_settime(id, 0, &once, NULL) == 0 &&
	      SOON(thread_fired == 1) && thread_value == 77);
	often.it_interval.tv_nsec = often.it_value.tv_nsec = 10 * MS;
	CHECK("timers.thread.periodic", timer_settime(id, 0, &often, NULL) == 0 && SOON(thread_fired >= 5));
	timer_delete(id);

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sem_init(&semaphore, 0, 0);
	NEED(pthread_create(&thread, NULL, handle_in_thread, &tid) == 0);
	while (sem_wait(&semaphore))
		;
	event = (struct sigevent){ .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };
	event._sigev_un._tid = tid;
	CHECK("timers.create.thread_id", timer_create(CLOCK_MONOTONIC, &event, &id) == 0 && timer_settime(id, 0, &once, NULL) == 0 &&
	      pthread_join(thread, &ret) == 0 && ret == NULL);
	timer_delete(id);
	event = (struct sigevent){ .sigev_notify = SIGEV_NONE };
	CHECK("timers.create.none", timer_create(CLOCK_BOOTTIME, &event, &id) == 0 && timer_settime(id, 0, &far, NULL) == 0 &&
	      timer_gettime(id, &left) == 0 && left.it_value.tv_sec >= 900 && left.it_value.tv_sec <= 1000);
	timer_delete(id);
	event = (struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	fired = 0;
	CHECK("timers.cpu_time", timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &current) == 0 &&
	      timer_settime(current, 0, &once, NULL) == 0 && BURN_UNTIL(fired == 1));
	timer_delete(current);

	fired = 0;
	CHECK("timers.setitimer.real", setitimer(ITIMER_REAL, &interval, NULL) == 0 && SOON(fired >= 3));
	CHECK("timers.setitimer.off", setitimer(ITIMER_REAL, &none, &was) == 0 && was.it_interval.tv_usec == 10000 &&
	      getitimer(ITIMER_REAL, &was) == 0 && !was.it_value.tv_usec && !was.it_value.tv_sec);
	fired = 0;
	CHECK("timers.setitimer.virtual", setitimer(ITIMER_VIRTUAL, &interval, NULL) == 0 && BURN_UNTIL(fired >= 2));
	setitimer(ITIMER_VIRTUAL, &none, NULL);
	fired = 0;
	CHECK("timers.setitimer.profile", setitimer(ITIMER_PROF, &interval, NULL) == 0 && BURN_UNTIL(fired >= 2));
	setitimer(ITIMER_PROF, &none, NULL);
	fired = 0;
	CHECK("timers.alarm", alarm(1000) == 0 && alarm(1) >= 900 && SOON(fired == 1) && alarm(0) == 0);
	signal(SIGALRM, SIG_DFL);
}

static void test_timerfd(void)
{
	struct itimerspec once = { .it_value.tv_nsec = 20 * MS }, off = { 0 }, left, far = { .it_value.tv_sec = 1000 };
	struct itimerspec often = { .it_interval.tv_nsec = 10 * MS, .it_value.tv_nsec = 10 * MS };
	struct pollfd pollfd = { .events = POLLIN };
	uint64_t expirations = 0, total = 0;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	double before = seconds();

	CHECK("timers.timerfd.idle", fd >= 0 && read(fd, &expirations, 8) < 0 && errno == EAGAIN);
	pollfd.fd = fd;
	CHECK("timers.timerfd.once", timerfd_settime(fd, 0, &once, NULL) == 0 && poll(&pollfd, 1, DEADLINE_S * 1000) == 1 &&
	      read(fd, &expirations, 8) == 8 && expirations == 1 && seconds() - before >= 0.02);
	CHECK("timers.timerfd.only_once", read(fd, &expirations, 8) < 0 && errno == EAGAIN);
	timerfd_settime(fd, 0, &often, NULL);
	while (total < 5 && poll(&pollfd, 1, DEADLINE_S * 1000) == 1 && read(fd, &expirations, 8) == 8)
		total += expirations;
	CHECK("timers.timerfd.periodic", total >= 5);
	nap(100);
	CHECK("timers.timerfd.missed", read(fd, &expirations, 8) == 8 && expirations >= 9);
	CHECK("timers.timerfd.off", timerfd_settime(fd, 0, &off, &left) == 0 && ns(&left.it_interval) == 10 * MS &&
	      timerfd_gettime(fd, &left) == 0 && ns(&left.it_value) == 0);
	CHECK("timers.timerfd.far", timerfd_settime(fd, 0, &far, NULL) == 0 && timerfd_gettime(fd, &left) == 0 && left.it_value.tv_sec >= 900);
	clock_gettime(CLOCK_MONOTONIC, &once.it_value);
	CHECK("timers.timerfd.absolute", timerfd_settime(fd, TFD_TIMER_ABSTIME, &once, NULL) == 0 &&
	      poll(&pollfd, 1, DEADLINE_S * 1000) == 1 && read(fd, &expirations, 8) == 8 && expirations == 1);
	errno = 0;
	CHECK("timers.timerfd.short_read", read(fd, &expirations, 4) < 0 && errno == EINVAL);
	close(fd);
}

int timers_suite(void)
{
	test_clocks();
	test_day();
	test_sleep();
	test_timers();
	test_timerfd();
	return check_failed;
}
