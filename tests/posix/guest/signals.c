// SPDX-License-Identifier: Apache-2.0
/* Signals of every kind: how they come, what they interrupt, and faults that are handled. */
#include "posix.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#define PAGE 4096
#define ALTERNATE (64 * 1024)
#define RW (PROT_READ | PROT_WRITE)

static volatile sig_atomic_t count, last;
static siginfo_t info_seen;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	count++;
	last = sig;
	info_seen = *info;
}

static void handle(int sig, void (*handler)(int sig, siginfo_t *info, void *context), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	NEED(sigaction(sig, &action, NULL) == 0);
}

static void block(int how, int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(how, &set, NULL);
}

static int is_in(int (*get)(sigset_t *set), int sig)
{
	sigset_t set;

	sigemptyset(&set);
	get(&set);
	return sigismember(&set, sig);
}

static int get_mask(sigset_t *set)
{
	return pthread_sigmask(SIG_BLOCK, NULL, set);
}

/* --- handlers --- */

static int die_of(void *arg)
{
	struct rlimit none = { 0 };

	setrlimit(RLIMIT_CORE, &none);
	raise(*(int *)arg);
	return 77;
}

static volatile int depth, deepest, in_mask, in_own_mask;

static void nested(int sig, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	if (++depth > deepest)
		deepest = depth;
	in_mask = is_in(get_mask, SIGUSR2);
	in_own_mask = is_in(get_mask, sig);
	if (deepest < 5)
		raise(sig);
	depth--;
}

static void *send_to_thread(void *arg)
{
	atomic_int *ready = arg;

	*ready = gettid();
	while (!last)
		sched_yield();
	return info_seen.si_code == SI_TKILL ? arg : NULL;
}

static volatile double handler_sum;

static void use_floats(int sig, siginfo_t *info, void *context)
{
	double x = sig;

	(void)info;
	(void)context;
	for (int i = 0; i < 10; i++)
		x = x * 1.5 + 0.25;
	handler_sum = x;
	count++;
}

static int signal_group(void *arg)
{
	handle(SIGUSR2, on_signal, 0);
	return arg || setpgid(0, 0) || kill(0, SIGUSR2) || !SOON(last == SIGUSR2);
}

static void test_handlers(void)
{
	static const int fatal[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1,
				     SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM,
				     SIGPROF, SIGIO, SIGPWR, SIGSYS };
	static const int harmless[] = { SIGCHLD, SIGURG, SIGWINCH, SIGCONT };
	struct sigaction action = { .sa_sigaction = nested, .sa_flags = SA_SIGINFO }, old;
	atomic_int ready = 0;
	int bad = 0, caught = 0, number, status;
	pthread_t thread;
	void *ret = NULL;
	double x = 0.1;
	pid_t pid;

	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP || (sig > 31 && sig < SIGRTMIN))
			continue;
		handle(sig, on_signal, 0);
		last = 0;
		bad += raise(sig) != 0 || last != sig || info_seen.si_pid != getpid();
		caught++;
		signal(sig, SIG_DFL);
	}
	check(!bad && caught == 60, "signals.raise.each", "%d of %d wrong", bad, caught);
	for (unsigned int i = bad = 0; i < ELEMENTS(fatal); i++) {
		number = fatal[i];
		bad += !killed(in_child(die_of, &number), number);
	}
	EQUAL("signals.default.deadly", bad, 0);
	for (unsigned int i = bad = 0; i < ELEMENTS(harmless); i++) {
		number = harmless[i];
		bad += !exited(in_child(die_of, &number), 77);
	}
	EQUAL("signals.default.harmless", bad, 0);
	pid = fork();
	if (!pid) {
		raise(SIGSTOP);
		_exit(5);
	}
	NEED(SOON(waitpid(pid, &status, WUNTRACED | WNOHANG) == pid));
	CHECK("signals.stop", WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	kill(pid, SIGCONT);
	CHECK("signals.continue", SOON(waitpid(pid, &status, WNOHANG) == pid) && exited(status, 5));
	errno = 0;
	CHECK("signals.cannot_catch_kill", sigaction(SIGKILL, &action, NULL) < 0 && errno == EINVAL &&
	      sigaction(SIGSTOP, &action, NULL) < 0 && sigaction(99, &action, NULL) < 0);

	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGUSR2);
	deepest = 5;		/* once only */
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	CHECK("signals.handler.mask", in_mask && in_own_mask && !is_in(get_mask, SIGUSR1) && !is_in(get_mask, SIGUSR2));
	deepest = depth = 0;
	action.sa_flags |= SA_NODEFER;
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	CHECK("signals.handler.nodefer", deepest == 5 && depth == 0 && !in_own_mask);
	handle(SIGUSR1, on_signal, SA_RESETHAND);
	raise(SIGUSR1);
	CHECK("signals.handler.resethand", sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
	signal(SIGUSR1, SIG_IGN);
	CHECK("signals.ignored", raise(SIGUSR1) == 0 && signal(SIGUSR1, SIG_DFL) == SIG_IGN);

	handle(SIGUSR1, on_signal, 0);
	block(SIG_BLOCK, SIGUSR1);
	count = 0;
	raise(SIGUSR1);
	raise(SIGUSR1);
	CHECK("signals.pending", count == 0 && is_in(sigpending, SIGUSR1) && !is_in(sigpending, SIGUSR2));
	block(SIG_UNBLOCK, SIGUSR1);
	CHECK("signals.pending_once", count == 1 && !is_in(sigpending, SIGUSR1));

	count = last = 0;
	CHECK("signals.info.kill", kill(getpid(), SIGUSR1) == 0 && SOON(count == 1) && info_seen.si_code == SI_USER &&
	      info_seen.si_pid == getpid() && info_seen.si_uid == getuid());
	last = 0;
	NEED(pthread_create(&thread, NULL, send_to_thread, &ready) == 0);
	NEED(SOON(ready != 0));
	CHECK("signals.info.tgkill", pthread_kill(thread, SIGUSR1) == 0 && pthread_join(thread, &ret) == 0 && ret == &ready);
	count = 0;
	handle(SIGCHLD, on_signal, 0);
	pid = fork();
	if (!pid)
		_exit(9);
	CHECK("signals.info.child", SOON(count == 1) && info_seen.si_signo == SIGCHLD && info_seen.si_code == CLD_EXITED &&
	      info_seen.si_pid == pid && info_seen.si_status == 9);
	CHECK("signals.child_left", waitpid(pid, &status, 0) == pid && exited(status, 9));
	handle(SIGCHLD, on_signal, SA_NOCLDWAIT);
	pid = fork();
	if (!pid)
		_exit(9);
	CHECK("signals.nocldwait", SOON(waitpid(pid, &status, WNOHANG) < 0 && errno == ECHILD));
	signal(SIGCHLD, SIG_DFL);

	handle(SIGUSR1, use_floats, 0);
	count = 0;
	for (int i = 0; i < 1000; i++) {
		x = x * 1.0000001 + 1e-9;
		if (i % 10 == 0)
			raise(SIGUSR1);
	}
	CHECK("signals.handler.floats", count == 100 && x > 0.10001 && x < 0.10002 && handler_sum > 500);
	signal(SIGUSR1, SIG_DFL);
	CHECK("signals.kill.nobody", kill(0x3fffffff, 0) < 0 && errno == ESRCH);
	EQUAL("signals.kill.group", in_child(signal_group, NULL), 0);
}

/* --- what is interrupted --- */

static int silent[2];
static atomic_int helper_done;
static pid_t main_tid;
static sem_t semaphore;
static unsigned int word;
static int listener, queue;

static long block_read(void)
{
	char c;

	return read(silent[0], &c, 1);
}

static long block_recv(void)
{
	static int pair[2];
	char c;

	if (!pair[0])
		NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	return recv(pair[0], &c, 1, 0);
}

static long block_accept(void) { return accept(listener, NULL, NULL); }
static long block_pause(void) { return pause(); }
static long block_sem(void) { return sem_wait(&semaphore); }
static long block_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0); }

static long block_poll(void)
{
	struct pollfd fd = { .fd = silent[0], .events = POLLIN };

	return poll(&fd, 1, -1);
}

static long block_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(silent[0], &set);
	return select(silent[0] + 1, &set, NULL, NULL, NULL);
}

static long block_epoll(void)
{
	static int fd;
	struct epoll_event event;

	if (!fd)
		fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_wait(fd, &event, 1, -1);
}

static struct timespec left_over;

static long block_nanosleep(void)
{
	struct timespec t = { .tv_sec = 1000 };

	return nanosleep(&t, &left_over);
}

static long block_msgrcv(void)
{
	struct { long type; char text[10]; } message;

	return msgrcv(queue, &message, 10, 0, 0);
}

static long block_sigsuspend(void)
{
	sigset_t set;

	sigemptyset(&set);
	return sigsuspend(&set);
}

static long block_flock(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	static int fd = -1;

	if (fd < 0)
		fd = open("/tmp/posix_signals", O_RDWR);
	return fcntl(fd, F_OFD_SETLKW, &lock);
}

static long block_wait(void)
{
	return waitpid(-1, NULL, 0);
}

static const struct blocking {
	const char *name;
	long (*call)(void);
	int restarts;		/* with SA_RESTART */
} blockings[] = {
	{ "read", block_read, 1 },
	{ "recv", block_recv, 1 },
	{ "accept", block_accept, 1 },
	{ "waitpid", block_wait, 1 },
	{ "futex", block_futex, 1 },
	{ "sem_wait", block_sem, 1 },
	{ "lock", block_flock, 1 },
	{ "pause", block_pause, 0 },
	{ "sigsuspend", block_sigsuspend, 0 },
	{ "poll", block_poll, 0 },
	{ "select", block_select, 0 },
	{ "epoll_wait", block_epoll, 0 },
	{ "nanosleep", block_nanosleep, 0 },
	{ "msgrcv", block_msgrcv, 0 },
};

static int main_sleeps(void)
{
	static __thread char text[500];
	char path[60], *end, state = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", main_tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	text[read_all(fd, text, sizeof(text) - 1)] = 0;
	close(fd);
	end = strrchr(text, ')');
	return end && sscanf(end, ") %c", &state) == 1 && state == 'S';
}

static void *interrupt_until_done(void *arg)
{
	double end = seconds() + DEADLINE_S;

	while (!helper_done && seconds() < end) {
		if (main_sleeps())
			syscall(SYS_tgkill, getpid(), main_tid, *(int *)arg);
		nap(2);
	}
	return NULL;
}

/* Restarted calls are interrupted some times with SA_RESTART, then once without. */
static void *restart_then_end(void *arg)
{
	double end = seconds() + DEADLINE_S;
	int n = *(int *)arg;

	while (!helper_done && count < n && seconds() < end) {
		if (main_sleeps())
			syscall(SYS_tgkill, getpid(), main_tid, SIGUSR1);
		nap(2);
	}
	while (!helper_done && seconds() < end) {
		if (main_sleeps())
			syscall(SYS_tgkill, getpid(), main_tid, SIGUSR2);
		nap(2);
	}
	return NULL;
}

static void test_interruptions(void)
{
	int sig = SIGUSR1, five = 5, lock_fd;
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	pthread_t thread;
	char name[60];
	pid_t pid;

	main_tid = gettid();
	NEED(pipe(silent) == 0);
	sem_init(&semaphore, 0, 0);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	NEED(listener >= 0 && bind(listener, &(struct sockaddr){ .sa_family = AF_UNIX }, 2) == 0 && listen(listener, 5) == 0);
	queue = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
	NEED(queue >= 0);
	put_file("/tmp/posix_signals", "lock");
	lock_fd = open("/tmp/posix_signals", O_RDWR);
	NEED(fcntl(lock_fd, F_OFD_SETLK, &lock) == 0);
	pid = fork();
	if (!pid) {
		for (;;)
			pause();
	}
	for (unsigned int i = 0; i < ELEMENTS(blockings); i++) {
		long ret;

		handle(SIGUSR1, on_signal, 0);
		count = helper_done = 0;
		NEED(pthread_create(&thread, NULL, interrupt_until_done, &sig) == 0);
		errno = 0;
		ret = blockings[i].call();
		helper_done = errno;
		pthread_join(thread, NULL);
		snprintf(name, sizeof(name), "signals.eintr.%s", blockings[i].name);
		check(ret == -1 && helper_done == EINTR && count > 0, name, "%ld, errno %d, %d signals", ret, helper_done, count);

		handle(SIGUSR1, on_signal, SA_RESTART);
		handle(SIGUSR2, on_signal, 0);
		count = helper_done = 0;
		NEED(pthread_create(&thread, NULL, restart_then_end, &five) == 0);
		errno = 0;
		ret = blockings[i].call();
		helper_done = errno;
		pthread_join(thread, NULL);
		snprintf(name, sizeof(name), "signals.sa_restart.%s", blockings[i].name);
		if (blockings[i].restarts)	/* until the signal that does not */
			check(ret == -1 && helper_done == EINTR && count > 5 && last == SIGUSR2, name,
			      "%ld, errno %d, %d signals", ret, helper_done, count);
		else
			check(ret == -1 && helper_done == EINTR && last == SIGUSR1, name, "%ld, errno %d, %d signals",
			      ret, helper_done, count);
	}
	check(left_over.tv_sec >= 900 && left_over.tv_sec <= 1000, "signals.eintr.nanosleep_left", "%ld", left_over.tv_sec);
	kill(pid, SIGKILL);
	reap(pid);
	close(silent[0]);
	close(silent[1]);
	close(listener);
	close(lock_fd);
	msgctl(queue, IPC_RMID, NULL);
	unlink("/tmp/posix_signals");
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
}

/* --- queues --- */

static int order[64];
static volatile int ordered;

static void note_value(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (ordered < 64)
		order[ordered++] = (sig - SIGRTMIN) * 100 + info->si_value.sival_int;
}

static void *wait_for_signal(void *arg)
{
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	return sigwaitinfo(&set, &info) == SIGRTMIN + 5 && info.si_value.sival_ptr == arg ? arg : NULL;
}

static int read_own_signals(void *arg)
{
	struct signalfd_siginfo info;

	/* What is pending for the parent is not for the child. */
	if (read(*(int *)arg, &info, sizeof(info)) >= 0 || errno != EAGAIN)
		return 1;
	raise(SIGRTMIN + 6);
	return read(*(int *)arg, &info, sizeof(info)) != sizeof(info) || (int)info.ssi_signo != SIGRTMIN + 6 ||
	       (int)info.ssi_pid != getpid();
}

static void *queue_late(void *arg)
{
	union sigval value = { .sival_int = 88 };

	nap(30);
	sigqueue(getpid(), SIGRTMIN + 2, value);
	return arg;
}

static void test_queues(void)
{
	struct timespec zero = { 0 }, little = { .tv_nsec = 20000000 }, deadline = { .tv_sec = DEADLINE_S };
	struct signalfd_siginfo read_info[4];
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd pollfd;
	union sigval value;
	int good = 1, sig, fd, epoll;
	pthread_t thread;
	siginfo_t info;
	sigset_t set, set_3;
	void *ret;

	sigemptyset(&set_3);
	sigaddset(&set_3, SIGRTMIN + 3);

	sigemptyset(&set);
	for (int i = 0; i < 8; i++)
		sigaddset(&set, SIGRTMIN + i);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (int i = 2; i >= 0; i--) {
		handle(SIGRTMIN + i, note_value, 0);
		for (int n = 0; n < 5; n++) {
			value.sival_int = n;
			good &= sigqueue(getpid(), SIGRTMIN + i, value) == 0;
		}
	}
	/* The lowest first, each as often as sent, in order: by sigwaitinfo, which takes them so. */
	for (int n = 0; n < 15; n++)
		good &= sigtimedwait(&set, &info, &zero) == SIGRTMIN + n / 5 && info.si_value.sival_int == n % 5 &&
			info.si_code == SI_QUEUE && info.si_pid == getpid();
	CHECK("signals.realtime.order", good);
	CHECK("signals.sigtimedwait.nothing", sigtimedwait(&set, &info, &zero) < 0 && errno == EAGAIN);
	CHECK("signals.sigtimedwait.timeout", sigtimedwait(&set, &info, &little) < 0 && errno == EAGAIN);
	for (int n = 0; n < 6; n++) {
		value.sival_int = n;
		good &= sigqueue(getpid(), SIGRTMIN + n % 2, value) == 0;
	}
	/* By handlers: a later one interrupts an earlier, so the highest runs first. */
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	good &= ordered == 6;
	for (int n = 0, low = 0, high = 1; n < 6; n++) {
		int is_high = order[n] >= 100;

		good &= order[n] == (is_high ? 100 + high : low);
		if (is_high)
			high += 2;
		else
			low += 2;
	}
	check(good, "signals.realtime.handlers", "%d: %d %d %d", ordered, order[0], order[1], order[2]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	NEED(pthread_create(&thread, NULL, wait_for_signal, &value) == 0);
	value.sival_ptr = &value;
	CHECK("signals.sigwaitinfo.thread", pthread_sigqueue(thread, SIGRTMIN + 5, value) == 0 &&
	      pthread_join(thread, &ret) == 0 && ret == &value);
	raise(SIGRTMIN + 6);
	CHECK("signals.sigwait", sigwait(&set, &sig) == 0 && sig == SIGRTMIN + 6);
	kill(getpid(), SIGRTMIN + 6);
	CHECK("signals.sigtimedwait.process", sigtimedwait(&set, &info, &deadline) == SIGRTMIN + 6 && info.si_code == SI_USER);

	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	CHECK("signals.signalfd.empty", fd >= 0 && read(fd, read_info, sizeof(read_info)) < 0 && errno == EAGAIN);
	value.sival_int = 4321;
	sigqueue(getpid(), SIGRTMIN + 3, value);
	raise(SIGRTMIN + 7);
	pollfd = (struct pollfd){ .fd = fd, .events = POLLIN };
	CHECK("signals.signalfd.poll", poll(&pollfd, 1, DEADLINE_S * 1000) == 1 && pollfd.revents == POLLIN);
	CHECK("signals.signalfd.read", read(fd, read_info, sizeof(read_info)) == 2 * sizeof(*read_info));
	/* The thread's own come before the process's. */
	CHECK("signals.signalfd.contents", (int)read_info[0].ssi_signo == SIGRTMIN + 7 &&
	      (int)read_info[1].ssi_signo == SIGRTMIN + 3 && read_info[1].ssi_int == 4321 &&
	      (int)read_info[1].ssi_pid == getpid());
	sigdelset(&set, SIGRTMIN + 3);
	CHECK("signals.signalfd.change", signalfd(fd, &set, 0) == fd && sigqueue(getpid(), SIGRTMIN + 3, value) == 0 &&
	      read(fd, read_info, sizeof(read_info)) < 0 && errno == EAGAIN);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	CHECK("signals.signalfd.epoll", sigtimedwait(&set_3, &info, &zero) == SIGRTMIN + 3 &&
	      epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 && epoll_wait(epoll, &event, 1, 0) == 0 &&
	      raise(SIGRTMIN + 4) == 0 && epoll_wait(epoll, &event, 1, DEADLINE_S * 1000) == 1 && event.events == EPOLLIN);
	close(epoll);
	/* Who reads gets his own, whoever made it. */
	CHECK("signals.signalfd.fork", exited(in_child(read_own_signals, &fd), 0) && read(fd, read_info, sizeof(read_info)) == sizeof(*read_info) &&
	      (int)read_info[0].ssi_signo == SIGRTMIN + 4);
	raise(SIGRTMIN + 4);
	errno = 0;
	CHECK("signals.signalfd.short_read", read(fd, read_info, sizeof(*read_info) - 1) < 0 && errno == EINVAL &&
	      read(fd, read_info, sizeof(read_info)) == sizeof(*read_info));
	errno = 0;
	CHECK("signals.signalfd.not_one", signalfd(1, &set, 0) < 0 && errno == EINVAL && signalfd(-1, &set, 0x7777) < 0 && errno == EINVAL);
	CHECK("signals.signalfd.cloexec", fcntl(fd, F_GETFD) == FD_CLOEXEC);
	close(fd);
	CHECK("signals.signalfd.blocking", (fd = signalfd(-1, &set, 0)) >= 0 && pthread_create(&thread, NULL, queue_late, NULL) == 0 &&
	      read(fd, read_info, sizeof(*read_info)) == sizeof(*read_info) && (int)read_info[0].ssi_signo == SIGRTMIN + 2 &&
	      read_info[0].ssi_int == 88 && pthread_join(thread, &ret) == 0);
	close(fd);
	value.sival_int = 4321;
	sigqueue(getpid(), SIGRTMIN + 3, value);
	sigaddset(&set, SIGRTMIN + 3);
	CHECK("signals.realtime.left_over", sigtimedwait(&set, &info, &zero) == SIGRTMIN + 3);
	CHECK("signals.sigqueue.limit", ({
		struct rlimit limit, three;

		getrlimit(RLIMIT_SIGPENDING, &limit);
		three = (struct rlimit){ 3, limit.rlim_max };
		setrlimit(RLIMIT_SIGPENDING, &three);
		good = 0;
		while (good < 1000 && sigqueue(getpid(), SIGRTMIN + 4, value) == 0)
			good++;
		good = good <= 3 && errno == EAGAIN;
		setrlimit(RLIMIT_SIGPENDING, &limit);
		while (sigtimedwait(&set, &info, &zero) > 0)
			;
		good;
	}));
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* --- faults --- */

static sigjmp_buf back;
static void *volatile address;
static volatile int fault_signal, fault_code, faults;
static char *fix_page;
static char static_page[2 * PAGE] __attribute__((aligned(PAGE)));

static void jump_out(int sig, siginfo_t *info, void *context)
{
	(void)context;
	fault_signal = sig;
	fault_code = info->si_code;
	address = info->si_addr;
	siglongjmp(back, 1);
}

/* Maps, or makes writable, what was missing: the access is repeated on return. */
static void fix(int sig, siginfo_t *info, void *context)
{
	char *page = (char *)((uintptr_t)info->si_addr & -PAGE);

	(void)sig;
	(void)context;
	address = info->si_addr;
	fault_code = info->si_code;
	if (++faults > 100)
		_exit(95);
	if (info->si_code == SEGV_MAPERR)
		mmap(page, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	else
		mprotect(page, PAGE, RW);
	if (info->si_code == SEGV_MAPERR)
		page[1] = 'f';
}

/* Goes on behind a load of three bytes, mov (%rax), %rbx. */
static void skip(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	address = info->si_addr;
	faults++;
	uc->uc_mcontext.gregs[REG_RIP] += 3;
	uc->uc_mcontext.gregs[REG_RBX] = 0x5e7;
}

static int faulted(volatile char *p, int write_it)
{
	address = NULL;
	fault_signal = fault_code = 0;
	if (!sigsetjmp(back, 1)) {
		if (write_it)
			*p = 1;
		else
			(void)*p;
	}
	return fault_signal && address == p;
}

static __thread sigjmp_buf thread_back;
static __thread void *volatile thread_address;

static void jump_in_thread(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	thread_address = info->si_addr;
	siglongjmp(thread_back, 1);
}

static void *fault_often(void *arg)
{
	volatile char *page = arg;
	volatile int bad = 0;

	for (volatile int i = 0; i < 300; i++) {
		thread_address = NULL;
		if (!sigsetjmp(thread_back, 1)) {
			page[i] = i;
			bad++;
		}
		bad += thread_address != page + i;
	}
	return bad ? arg : NULL;
}

static char *volatile second;
static sigjmp_buf inner_back;
static volatile int inner;

/* Faults itself, within the handler of a fault. */
static void fault_again(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_addr == second) {
		inner++;
		siglongjmp(inner_back, 1);
	}
	address = info->si_addr;
	if (!sigsetjmp(inner_back, 1))
		*second = 1;
	siglongjmp(back, 2);
}

static int compare_there(const void *a, const void *b)
{
	return **(char *const *)a - **(char *const *)b;
}

static __attribute__((noinline)) void fault_at_depth(volatile char *page, int n)
{
	volatile char frame[200];

	frame[0] = n;
	if (n)
		fault_at_depth(page, n - 1);
	*page = frame[0];
}

static void test_jumps_out(void)
{
	char *page = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *pointers[4] = { "b", "a", page, "c" };
	struct iovec iov = { page, 10 };
	volatile double kept = 1.25;
	pthread_t threads[4];
	volatile int value;
	int bad = 0, fds[2];
	void *ret;
	FILE *file;

	NEED(page != MAP_FAILED);
	second = page + PAGE;
	handle(SIGSEGV, jump_out, 0);
	for (int i = 0; i < 1000; i++)
		bad += !faulted(page + i, i & 1);
	EQUAL("signals.jump.thousand", bad, 0);
	/* The signal is blocked while its handler runs, and no more behind the jump. */
	CHECK("signals.jump.mask", faulted(page, 0) && !is_in(get_mask, SIGSEGV));
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		fault_at_depth(page + 7, 50);
	CHECK("signals.jump.fifty_frames", fault_signal == SIGSEGV && address == page + 7);
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		qsort(pointers, 4, sizeof(*pointers), compare_there);
	CHECK("signals.jump.out_of_qsort", fault_signal == SIGSEGV && address == page);
	fault_signal = 0;
	file = fopen("/dev/null", "w");
	NEED(file);
	if (!sigsetjmp(back, 1))
		fprintf(file, "%s", page + 100);
	CHECK("signals.jump.out_of_printf", fault_signal == SIGSEGV && (char *)address >= page && (char *)address <= page + 100);
	kept = kept * 2;
	CHECK("signals.jump.floats", faulted(page, 0) && kept == 2.5);
	handle(SIGSEGV, fault_again, SA_NODEFER);
	value = sigsetjmp(back, 1);
	if (!value)
		*(volatile char *)page = 1;
	CHECK("signals.jump.nested", value == 2 && inner == 1 && address == page);
	handle(SIGSEGV, jump_in_thread, 0);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, fault_often, page) == 0);
	for (int i = bad = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("signals.jump.threads", bad, 0);
	/* What the kernel touches on behalf of the program is no fault of its. */
	handle(SIGSEGV, jump_out, 0);
	fault_signal = 0;
	errno = 0;
	CHECK("signals.jump.not_by_kernel", pipe(fds) == 0 && writev(fds[1], &iov, 1) < 0 && errno == EFAULT && !fault_signal);
	signal(SIGSEGV, SIG_DFL);
	close(fds[0]);
	close(fds[1]);
	munmap(page, 2 * PAGE);
}

static char alternate_static[ALTERNATE] __attribute__((aligned(16)));
static volatile int on_alternate, flags_inside;

static void where(int sig, siginfo_t *info, void *context)
{
	stack_t stack;
	char here;

	(void)sig;
	(void)info;
	(void)context;
	sigaltstack(NULL, &stack);
	on_alternate = &here >= (char *)stack.ss_sp && &here < (char *)stack.ss_sp + stack.ss_size;
	flags_inside = stack.ss_flags;
	count++;
}

static __attribute__((noinline)) int eat_stack(int n)
{
	volatile char frame[4000];

	frame[0] = n;
	return n ? eat_stack(n - 1) + frame[0] : 0;
}

static int overflow(void *arg)
{
	stack_t stack = { .ss_sp = arg, .ss_size = ALTERNATE };
	struct rlimit limit = { 1 << 20, 1 << 20 };

	/* On the main thread's stack, which would grow for a while. */
	setrlimit(RLIMIT_STACK, &limit);
	if (sigaltstack(&stack, NULL))
		return 1;
	handle(SIGSEGV, jump_out, SA_ONSTACK);
	for (int i = 0; i < 3; i++) {
		fault_signal = 0;
		if (!sigsetjmp(back, 1))
			eat_stack(1 << 20);
		if (fault_signal != SIGSEGV)
			return 2;
	}
	return 0;
}

static int overflow_without(void *arg)
{
	struct rlimit limit = { 1 << 20, 1 << 20 }, none = { 0 };

	setrlimit(RLIMIT_STACK, &limit);
	setrlimit(RLIMIT_CORE, &none);
	handle(SIGSEGV, jump_out, 0);
	eat_stack(1 << 20);
	return arg != NULL;
}

static void *fault_in_thread(void *arg)
{
	char *page = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)arg;
	for (int i = 0; i < 100; i++) {
		page[i] = i;
		mprotect(page, PAGE, PROT_NONE);
	}
	return page;
}

static atomic_int thread_faults;

static void fix_counted(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	thread_faults++;
	mprotect((void *)((uintptr_t)info->si_addr & -PAGE), PAGE, RW);
}

static void test_faults(void)
{
	char *mapped = mmap(NULL, ALTERNATE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *page = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t stack = { .ss_sp = alternate_static, .ss_size = ALTERNATE }, old;
	char *hole = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t threads[4];
	volatile unsigned long got;
	volatile char *touched;
	volatile int bad = 0;
	volatile unsigned short control;
	int fd;

	NEED(mapped != MAP_FAILED && page != MAP_FAILED && hole != MAP_FAILED);
	munmap(hole, 4 * PAGE);
	handle(SIGSEGV, jump_out, 0);
	handle(SIGBUS, jump_out, 0);
	handle(SIGFPE, jump_out, 0);
	handle(SIGILL, jump_out, 0);
	CHECK("signals.segv.read_unmapped", faulted(hole + 77, 0) && fault_signal == SIGSEGV && fault_code == SEGV_MAPERR);
	CHECK("signals.segv.write_unmapped", faulted(hole + 4095, 1) && fault_code == SEGV_MAPERR);
	CHECK("signals.segv.protected", faulted(page + 5, 1) && fault_signal == SIGSEGV && fault_code == SEGV_ACCERR);
	CHECK("signals.segv.null", faulted((char *)16, 0) && fault_code == SEGV_MAPERR);
	CHECK("signals.segv.constant", faulted((char *)"constant", 1) && fault_code == SEGV_ACCERR);
	CHECK("signals.segv.code", faulted((char *)faulted, 1) && fault_code == SEGV_ACCERR);
	/* Behind the last page, and in it by all but the last byte. */
	touched = page + 4 * PAGE - 2;
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		got = *(volatile unsigned int *)touched;
	CHECK("signals.segv.over_the_edge", fault_signal == SIGSEGV && (address == touched || address == page + 4 * PAGE));
	/* By the kernel's hand it is an error, no signal. */
	fault_signal = 0;
	errno = 0;
	CHECK("signals.efault", write(1, page, 1) < 0 && errno == EFAULT && !fault_signal);
	/* Library functions fault like any other code. */
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		memset(page, 1, 3 * PAGE);
	CHECK("signals.segv.memset", fault_signal == SIGSEGV && (char *)address >= page && (char *)address < page + PAGE);
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		got = strlen(hole + PAGE);
	CHECK("signals.segv.strlen", fault_signal == SIGSEGV && (char *)address >= hole + PAGE - 64 && (char *)address < hole + 2 * PAGE);

	put_file("/tmp/posix_signals", "short");
	fd = open("/tmp/posix_signals", O_RDWR);
	fix_page = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
	NEED(fix_page != MAP_FAILED);
	CHECK("signals.bus.behind_end", faulted(fix_page + PAGE + 3, 0) && fault_signal == SIGBUS && fault_code == BUS_ADRERR);
	close(fd);
	unlink("/tmp/posix_signals");
	munmap(fix_page, 2 * PAGE);
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		asm volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx; div %%ecx" : : : "rax", "rcx", "rdx", "cc");
	CHECK("signals.fpe.divide", fault_signal == SIGFPE && fault_code == FPE_INTDIV);
	fault_signal = 0;
	/* Of the x87: QEMU's emulation raises none for SSE. */
	control = 0x37b;
	if (!sigsetjmp(back, 1))
		asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(control) : "st", "st(1)");
	CHECK("signals.fpe.float", fault_signal == SIGFPE && fault_code == FPE_FLTDIV);
	asm volatile("fninit");
	fault_signal = 0;
	if (!sigsetjmp(back, 1))
		asm volatile("ud2");
	CHECK("signals.ill", fault_signal == SIGILL && fault_code == ILL_ILLOPN);

	handle(SIGSEGV, fix, 0);
	faults = 0;
	touched = page;
	touched[100] = 'w';
	CHECK("signals.fix.protect", touched[100] == 'w' && faults == 1 && address == page + 100 && fault_code == SEGV_ACCERR);
	touched = hole;
	touched[200] = 'w';
	CHECK("signals.fix.map", touched[200] == 'w' && touched[1] == 'f' && faults == 2 && address == hole + 200 &&
	      fault_code == SEGV_MAPERR);
	memset(page, 'm', 4 * PAGE);
	CHECK("signals.fix.memset", page[4 * PAGE - 1] == 'm' && page[PAGE] == 'm' && faults == 5);
	strcpy(static_page, "copied from a global");
	memcpy(hole + PAGE - 10, static_page, 20);
	CHECK("signals.fix.over_the_edge", !memcmp(hole + PAGE - 10, "copied from a global", 20) && faults == 6);
	/* A word that is added to once, though the instruction is begun twice. */
	mprotect(page, PAGE, PROT_READ);
	faults = 0;
	got = *(volatile unsigned long *)page;
	__atomic_add_fetch((unsigned long *)page, 3, __ATOMIC_SEQ_CST);
	CHECK("signals.fix.atomic", *(unsigned long *)page == got + 3 && faults == 1 && address == page);
	mprotect(page, 2 * PAGE, PROT_NONE);
	faults = 0;
	asm volatile("movdqu %%xmm0, (%0)" : : "r"(page + PAGE - 8) : "memory");
	CHECK("signals.fix.vector", faults == 2);
	/* What the kernel was asked to write is not repeated: it is an error. */
	mprotect(page, PAGE, PROT_READ);
	faults = 0;
	errno = 0;
	fd = open("/dev/zero", O_RDONLY);
	CHECK("signals.fix.not_by_kernel", read(fd, page, 10) < 0 && errno == EFAULT && faults == 0);
	close(fd);
	page[0] = 'w';
	handle(SIGSEGV, skip, 0);
	faults = 0;
	munmap(hole, 4 * PAGE);
	asm volatile("mov (%%rax), %%rbx; mov %%rbx, %0" : "=r"(got) : "a"(hole + 24) : "rbx", "memory");
	CHECK("signals.fix.registers", got == 0x5e7 && faults == 1 && address == hole + 24);
	handle(SIGSEGV, fix_counted, 0);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, fault_in_thread, NULL) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	EQUAL("signals.fix.threads", thread_faults, 400);
	signal(SIGSEGV, SIG_DFL);

	/* Stacks for handlers. */
	handle(SIGUSR1, where, SA_ONSTACK);
	CHECK("signals.altstack.none", sigaltstack(NULL, &old) == 0 && old.ss_flags == SS_DISABLE);
	NEED(sigaltstack(&stack, NULL) == 0);
	count = 0;
	raise(SIGUSR1);
	CHECK("signals.altstack.static", count == 1 && on_alternate && flags_inside == SS_ONSTACK);
	for (int i = 0; i < 500; i++) {
		raise(SIGUSR1);
		bad += !on_alternate;
	}
	EQUAL("signals.altstack.many", bad, 0);
	stack.ss_sp = mapped;
	CHECK("signals.altstack.mapped", sigaltstack(&stack, &old) == 0 && old.ss_sp == alternate_static && raise(SIGUSR1) == 0 &&
	      on_alternate);
	handle(SIGUSR1, where, 0);
	raise(SIGUSR1);
	CHECK("signals.altstack.not_asked_for", !on_alternate);
	stack.ss_flags = SS_DISABLE;
	CHECK("signals.altstack.off", sigaltstack(&stack, NULL) == 0 && sigaltstack(NULL, &old) == 0 && old.ss_flags == SS_DISABLE);
	stack.ss_flags = 0;
	stack.ss_size = 500;
	CHECK("signals.altstack.too_small", sigaltstack(&stack, NULL) < 0 && errno == ENOMEM);
	EQUAL("signals.altstack.overflow_to_static", in_child(overflow, alternate_static), 0);
	EQUAL("signals.altstack.overflow_to_mapped", in_child(overflow, mapped), 0);
	CHECK("signals.altstack.overflow_without", killed(in_child(overflow_without, NULL), SIGSEGV));
	signal(SIGUSR1, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(SIGFPE, SIG_DFL);
	signal(SIGILL, SIG_DFL);
	munmap(mapped, ALTERNATE);
	munmap(page, 4 * PAGE);
}

int signals_suite(void)
{
	test_handlers();
	test_interruptions();
	test_queues();
	test_faults();
	test_jumps_out();
	return check_failed;
}
