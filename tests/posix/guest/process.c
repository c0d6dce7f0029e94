// SPDX-License-Identifier: Apache-2.0
/* Processes: copies, other programs in the other ring, and the same program again. */
#include "posix.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define SELF "/proc/self/exe"

extern char **environ;

/* --- what is executed --- */

static int copy_input(void)
{
	char text[4096];
	ssize_t n;

	while ((n = read(0, text, sizeof(text))) > 0)
		if (write(1, text, n) != n)
			return 1;
	return n != 0;
}

int process_child(int argc, char **argv)
{
	const char *what = argv[0];

	if (!strcmp(what, "exit") && argc > 1)
		return atoi(argv[1]);
	if (!strcmp(what, "ring"))
		return 100 + ring();
	if (!strcmp(what, "cat"))
		return copy_input();
	if (!strcmp(what, "arguments")) {
		for (int i = 1; i < argc; i++)
			printf("[%s]", argv[i]);
		return 0;
	}
	if (!strcmp(what, "environment") && argc > 1) {
		printf("%s|%d", getenv(argv[1]) ? getenv(argv[1]) : "(none)", environ[0] && environ[1] ? 2 : environ[0] ? 1 : 0);
		return 0;
	}
	if (!strcmp(what, "state")) {
		sigset_t set;
		char cwd[100];
		struct sigaction ignored, handled;

		sigprocmask(SIG_BLOCK, NULL, &set);
		sigaction(SIGUSR1, NULL, &ignored);
		sigaction(SIGUSR2, NULL, &handled);
		printf("%d %d %d %d %s %03o", sigismember(&set, SIGHUP), ignored.sa_handler == SIG_IGN,
		       handled.sa_handler == SIG_DFL, fcntl(50, F_GETFD) >= 0, getcwd(cwd, sizeof(cwd)), umask(0));
		return fcntl(51, F_GETFD) >= 0;
	}
	if (!strcmp(what, "count") && argc > 1) {
		char number[20];

		if (atoi(argv[1]) == 0)
			return 33;
		snprintf(number, sizeof(number), "%d", atoi(argv[1]) - 1);
		execl(SELF, "posix", "child", "count", number, (char *)NULL);
		return 34;
	}
	if (!strcmp(what, "raise") && argc > 1) {
		struct rlimit none = { 0 };

		setrlimit(RLIMIT_CORE, &none);
		raise(atoi(argv[1]));
	}
	return 2;
}

/* --- fork --- */

static int in_data = 10, in_bss;
static char large_data[200000] = "large";

static int change_all(void *arg)
{
	int good = in_data == 11 && in_bss == 21 && !strcmp(arg, "heap") && !strcmp(large_data, "large");

	in_data = in_bss = 99;
	strcpy(arg, "else");
	memset(large_data, 'x', sizeof(large_data));
	return !(good && in_data == 99 && large_data[199999] == 'x');
}

static int fork_deep(void *arg)
{
	long levels = (long)arg;

	if (!levels)
		return 5;
	in_data++;
	return WEXITSTATUS(in_child(fork_deep, (void *)(levels - 1))) + 1;
}

static int only_thread(void *arg)
{
	char *text = (char *)file_text("/proc/self/status");

	return arg || !text || !strstr(text, "Threads:\t1\n");
}

static void *sleep_on(void *arg)
{
	char c;

	return read(*(int *)arg, &c, 1) == 1 ? arg : NULL;
}

static void *fork_in_thread(void *arg)
{
	int bad = 0;

	for (int i = 0; i < 20; i++)
		bad += !exited(in_child(fork_deep, (void *)0), 5);
	return bad ? arg : NULL;
}

static int own_ids(void *arg)
{
	return getpid() == *(pid_t *)arg || getppid() != *(pid_t *)arg || gettid() != getpid();
}

static int orphan(void *arg)
{
	int fd = *(int *)arg;

	if (fork() == 0) {
		char c = 0;

		/* Somebody else is the parent when the own one has ended. */
		while (getppid() != 1 && getppid() == *(pid_t *)((int *)arg + 1))
			nap(1);
		c = 'o';
		_exit(write(fd, &c, 1) != 1);
	}
	return 0;
}

static void *vfork_in_thread(void *volatile arg)
{
	for (volatile int i = 0; i < 10; i++) {
		pid_t pid = vfork();

		if (!pid) {
			execl(ORDINARY, "posix", "child", "exit", "7", (char *)NULL);
			_exit(99);
		}
		if (!exited(reap(pid), 7))
			return arg;
	}
	return NULL;
}

static volatile sig_atomic_t ended;

static void note_end(int sig)
{
	ended = sig;
}

static void test_vfork(void)
{
	volatile int seen = 0;
	double before = seconds();
	pthread_t threads[3];
	int bad = 0, fds[2];
	volatile pid_t me = getpid();
	char c = 0;
	void *ret;
	pid_t pid;

	pid = vfork();
	if (!pid) {
		nap(50);
		seen = getpid() != me && getppid() == me;
		_exit(0);
	}
	CHECK("process.vfork.parent_waits", seen == 1 && seconds() - before >= 0.05 && reap(pid) == 0);
	signal(SIGUSR1, note_end);
	pid = vfork();
	if (!pid) {
		kill(me, SIGUSR1);	/* it waits, and is told when it goes on */
		seen = ended == 0;
		_exit(0);
	}
	CHECK("process.vfork.signal_later", seen == 1 && SOON(ended == SIGUSR1) && reap(pid) == 0);
	signal(SIGUSR1, SIG_DFL);
	pid = vfork();
	if (!pid) {
		raise(SIGKILL);
		_exit(1);
	}
	CHECK("process.vfork.killed", killed(reap(pid), SIGKILL));
	NEED(pipe(fds) == 0);
	pid = vfork();
	if (!pid) {
		close(fds[0]);		/* descriptors are its own */
		seen = write(fds[1], "v", 1);
		_exit(0);
	}
	CHECK("process.vfork.descriptors", reap(pid) == 0 && seen == 1 && read(fds[0], &c, 1) == 1 && c == 'v');
	close(fds[0]);
	close(fds[1]);
	for (int i = 0; i < 3; i++)
		NEED(pthread_create(&threads[i], NULL, vfork_in_thread, threads) == 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("process.vfork.threads", bad, 0);
	for (volatile int i = 0; i < 200; i++) {
		pid = vfork();
		if (!pid)
			_exit(i & 0x7f);
		bad += !exited(reap(pid), i & 0x7f);
	}
	EQUAL("process.vfork.many", bad, 0);
}

static void test_fork(void)
{
	char *heap = strdup("heap"), c = 0;
	pthread_t threads[3];
	pid_t me = getpid(), pid;
	int fds[2], bad = 0, status;
	siginfo_t info = { 0 };
	struct rusage usage;
	void *ret;

	in_data = 11;
	in_bss = 21;
	EQUAL("process.fork.copies", in_child(change_all, heap), 0);
	CHECK("process.fork.private", in_data == 11 && in_bss == 21 && !strcmp(heap, "heap") && !strcmp(large_data, "large"));
	EQUAL("process.fork.ids", in_child(own_ids, &me), 0);
	CHECK("process.fork.levels", exited(in_child(fork_deep, (void *)8), 13) && in_data == 11);
	for (int i = 0; i < 100; i++) {
		pid = fork();
		if (!pid)
			_exit(i & 0x7f);
		bad += !exited(reap(pid), i & 0x7f);
	}
	EQUAL("process.fork.many", bad, 0);
	NEED(pipe(fds) == 0);
	for (int i = 0; i < 2; i++)
		NEED(pthread_create(&threads[i], NULL, sleep_on, &fds[0]) == 0);
	EQUAL("process.fork.only_one_thread", in_child(only_thread, NULL), 0);
	NEED(write(fds[1], "xx", 2) == 2);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 3; i++)
		NEED(pthread_create(&threads[i], NULL, fork_in_thread, fds) == 0);
	for (int i = bad = 0; i < 3; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("process.fork.by_threads", bad, 0);

	pid = vfork();
	if (!pid) {
		in_data = 33;
		_exit(3);
	}
	CHECK("process.vfork.shares", in_data == 33 && exited(reap(pid), 3));
	pid = vfork();
	if (!pid) {
		execl(ORDINARY, "posix", "child", "ring", (char *)NULL);
		_exit(99);
	}
	EQUAL("process.vfork.exec", reap(pid), 103 << 8);
	pid = vfork();
	if (!pid) {
		execl("/no/such/program", "none", (char *)NULL);
		in_bss = errno;
		_exit(98);
	}
	CHECK("process.vfork.exec_fails", exited(reap(pid), 98) && in_bss == ENOENT);

	test_vfork();
	pid = fork();
	if (!pid)
		_exit(44);
	CHECK("process.waitid.leaves", SOON(waitid(P_PID, pid, &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == pid) &&
	      info.si_code == CLD_EXITED && info.si_status == 44);
	CHECK("process.wait4.usage", wait4(pid, &status, 0, &usage) == pid && exited(status, 44) && usage.ru_maxrss > 0);
	errno = 0;
	CHECK("process.wait.nobody", waitpid(pid, &status, 0) < 0 && errno == ECHILD && wait(&status) < 0);
	pid = fork();
	if (!pid) {
		for (;;)
			pause();
	}
	CHECK("process.wait.not_yet", waitpid(pid, &status, WNOHANG) == 0);
	kill(pid, SIGTERM);
	memset(&info, 0, sizeof(info));
	CHECK("process.waitid.killed", SOON(waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid == pid) &&
	      info.si_code == CLD_KILLED && info.si_status == SIGTERM);
	EQUAL("process.wait.any", ({
		pid_t pids[3];
		int sum = 0;

		for (int i = 0; i < 3; i++) {
			pids[i] = fork();
			if (!pids[i])
				_exit(10 + i);
		}
		for (int i = 0; i < 3; i++) {
			pid = wait(&status);
			sum += pid == pids[0] || pid == pids[1] || pid == pids[2] ? WEXITSTATUS(status) : 1000;
		}
		sum;
	}), 33);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		raise(SIGSTOP);
		for (;;)
			pause();
	}
	memset(&info, 0, sizeof(info));
	CHECK("process.wait.stopped", SOON(waitid(P_PID, pid, &info, WSTOPPED | WNOHANG) == 0 && info.si_pid == pid) &&
	      info.si_code == CLD_STOPPED && info.si_status == SIGSTOP);
	kill(pid, SIGCONT);
	memset(&info, 0, sizeof(info));
	CHECK("process.wait.continued", SOON(waitid(P_PID, pid, &info, WCONTINUED | WNOHANG) == 0 && info.si_pid == pid) &&
	      info.si_code == CLD_CONTINUED);
	CHECK("process.wait.group", kill(-pid, SIGTERM) == 0 && waitpid(-pid, &status, 0) == pid && killed(status, SIGTERM));
	pid = fork();
	if (!pid)
		_exit(15);
	CHECK("process.wait.descriptor", ({
		int fd = syscall(SYS_pidfd_open, pid, 0);
		struct pollfd end = { .fd = fd, .events = POLLIN };
		int good = fd >= 0 && poll(&end, 1, DEADLINE_S * 1000) == 1;

		good = good && waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_status == 15;
		close(fd);
		good;
	}));
	errno = 0;
	CHECK("process.wait.bad_options", waitpid(-1, &status, 0x7fff0000) < 0 && errno == EINVAL);
	EQUAL("process.orphan.parent", in_child(orphan, (int []){ fds[1], me }), 0);
	CHECK("process.orphan.lives", read(fds[0], &c, 1) == 1 && c == 'o');
	pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		_exit(in_data == 33 ? 12 : 13);
	EQUAL("process.clone", reap(pid), 12 << 8);
	close(fds[0]);
	close(fds[1]);
	free(heap);
}

/* --- exec --- */

struct execution {
	const char *path;
	char *argv[8];
	char *const *env;
};

static int execute(void *arg)
{
	const struct execution *what = arg;

	execve(what->path, what->argv, what->env ? what->env : environ);
	return 99;
}

static const char *run(const char *path, int *status, const char *what, const char *argument)
{
	struct execution execution = { path, { "posix", "child", (char *)what, (char *)argument }, NULL };

	return output_of(execute, &execution, status);
}

static int with_state(void *arg)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, (void (*)(int))_exit);
	umask(027);
	if (chdir("/tmp") || dup2(1, 50) != 50 || dup3(1, 51, O_CLOEXEC) != 51)
		return 98;
	execl(arg, "posix", "child", "state", (char *)NULL);
	return 99;
}

static int no_access(void *arg)
{
	errno = 0;
	execl(arg, "none", (char *)NULL);
	return errno;
}

static int by_descriptor(void *arg)
{
	char *const argv[] = { "posix", "child", "ring", NULL };

	fexecve(*(int *)arg, argv, environ);
	return 99;
}

static int by_path(void *arg)
{
	execlp("posix", "posix", "child", "ring", (char *)NULL);
	return arg ? 98 : 99;
}

/* Feeds a program and reads what it says, at once. */
static int through(const char *path, size_t size)
{
	static char in[300000], out[300000];
	int to[2], from[2], bad = 0;
	size_t sent = 0, got = 0;
	pid_t pid;

	for (size_t i = 0; i < size; i++)
		in[i] = i * 31 + (i >> 9);
	memset(out, 0, sizeof(out));
	NEED(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
	pid = fork();
	if (!pid) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		execl(path, "posix", "child", "cat", (char *)NULL);
		_exit(99);
	}
	close(to[0]);
	close(from[1]);
	fcntl(to[1], F_SETFL, O_NONBLOCK);
	while (got < size && !bad) {
		struct pollfd fds[2] = { { .fd = from[0], .events = POLLIN }, { .fd = sent < size ? to[1] : -1, .events = POLLOUT } };
		ssize_t n;

		if (poll(fds, 2, DEADLINE_S * 1000) <= 0)
			break;
		if (fds[1].revents) {
			n = write(to[1], in + sent, size - sent);
			bad |= n < 0 && errno != EAGAIN;
			sent += n > 0 ? n : 0;
		}
		if (fds[0].revents) {
			n = read(from[0], out + got, sizeof(out) - got);
			bad |= n <= 0;
			got += n > 0 ? n : 0;
		}
	}
	close(to[1]);
	bad |= got != size || memcmp(in, out, size) || reap(pid) != 0 || read(from[0], out, 1) != 0;
	close(from[0]);
	return !bad;
}

static void test_exec(void)
{
	static const struct {
		const char *name, *path;
	} targets[] = { { "ordinary", ORDINARY }, { "self", SELF } };
	static char long_argument[100001];
	char *const env[] = { "ONLY=this one", NULL }, name[60];
	struct execution execution;
	int status, expected;

	memset(long_argument, 'l', 100000);
	for (int i = 0; i < 2; i++) {
		const char *path = targets[i].path;

#define NAME(what) (snprintf(name, sizeof(name), "process.exec.%s.%s", targets[i].name, what), name)
		expected = i ? 100 + ring() : 103;
		run(path, &status, "ring", NULL);
		EQUAL(NAME("ring"), status, expected << 8);
		TEXT(NAME("arguments"), run(path, &status, "arguments", "with a \"blank\" \xc3\xa4"), "[with a \"blank\" \xc3\xa4]");
		EQUAL(NAME("code"), status, 0);
		TEXT(NAME("empty_argument"), run(path, &status, "arguments", ""), "[]");
		CHECK(NAME("long_argument"), strlen(run(path, &status, "arguments", long_argument)) == 4095);
		execution = (struct execution){ path, { "posix", "child", "environment", "ONLY" }, env };
		TEXT(NAME("environment"), output_of(execute, &execution, &status), "this one|1");
		TEXT(NAME("state"), output_of(with_state, (void *)path, &status), "1 1 1 1 /tmp 027");
		EQUAL(NAME("cloexec"), status, 0);
		run(path, &status, "exit", "200");
		EQUAL(NAME("exit_code"), status, 200 << 8);
		run(path, &status, "raise", "11");
		CHECK(NAME("death"), killed(status, SIGSEGV));
		CHECK(NAME("pipes"), through(path, sizeof(large_data)));
		run(path, &status, "count", "20");
		EQUAL(NAME("again_and_again"), status, 33 << 8);
	}
	EQUAL("process.exec.missing", in_child(no_access, "/no/such"), ENOENT << 8);
	EQUAL("process.exec.folder", in_child(no_access, "/tmp"), EACCES << 8);
	put_file("/tmp/posix_process", "not a program at all");
	EQUAL("process.exec.not_executable", in_child(no_access, "/tmp/posix_process"), EACCES << 8);
	chmod("/tmp/posix_process", 0755);
	EQUAL("process.exec.no_format", in_child(no_access, "/tmp/posix_process"), ENOEXEC << 8);
	unlink("/tmp/posix_process");
	put_file("/tmp/posix_script", "#!" ORDINARY " child\nwhatever");
	chmod("/tmp/posix_script", 0755);
	/* An interpreter gets one argument at most, then the script's path: an unknown word for us. */
	EQUAL("process.exec.script", in_child(no_access, "/tmp/posix_script"), 2 << 8);
	unlink("/tmp/posix_script");
	status = open(ORDINARY, O_RDONLY | O_CLOEXEC);
	CHECK("process.exec.by_descriptor", status >= 0 && exited(in_child(by_descriptor, &status), 103));
	close(status);
}

/* --- spawn, system --- */

static int spawn(const char *path, posix_spawn_file_actions_t *actions, posix_spawnattr_t *attr, const char *what)
{
	char *const argv[] = { "posix", "child", (char *)what, NULL };
	pid_t pid = -1;
	int ret = posix_spawn(&pid, path, actions, attr, argv, environ);

	return ret ? -ret : reap(pid);
}

static void *spawn_many(void *arg)
{
	long bad = 0;

	for (int i = 0; i < 10; i++)
		bad += spawn(arg, NULL, NULL, "ring") < 100 << 8;
	return (void *)bad;
}

static void test_spawn(void)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pthread_t threads[2];
	char *const argv[] = { "posix", "child", "ring", NULL };
	char text[100] = "";
	int fds[2], ret, bad = 0;
	sigset_t set;
	void *lost;
	pid_t pid;

	EQUAL("process.spawn.ordinary", spawn(ORDINARY, NULL, NULL, "ring"), 103 << 8);
	EQUAL("process.spawn.self", spawn(SELF, NULL, NULL, "ring"), (100 + ring()) << 8);
	EQUAL("process.spawn.missing", spawn("/no/such/program", NULL, NULL, "ring"), -ENOENT);
	NEED(pipe2(fds, O_CLOEXEC) == 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/tmp/posix_spawn", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	posix_spawn_file_actions_addchdir_np(&actions, "/tmp");
	put_file("/tmp/posix_spawn", "through a file and a pipe");
	ret = spawn(ORDINARY, &actions, NULL, "cat");
	close(fds[1]);
	read_all(fds[0], text, sizeof(text) - 1);
	CHECK("process.spawn.actions", ret == 0 && !strcmp(text, "through a file and a pipe"));
	close(fds[0]);
	unlink("/tmp/posix_spawn");
	EQUAL("process.spawn.action_fails", spawn(ORDINARY, &actions, NULL, "cat"), -ENOENT);
	posix_spawnattr_init(&attr);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attr, &set);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	EQUAL("process.spawn.attributes", spawn(SELF, NULL, &attr, "ring"), (100 + ring()) << 8);
	setenv("PATH", "/no/such:/tests", 1);
	ret = posix_spawnp(&pid, "posix", NULL, NULL, argv, environ);
	CHECK("process.spawn.path", ret == 0 && reap(pid) == 103 << 8);
	EQUAL("process.exec.path", in_child(by_path, NULL), 103 << 8);
	NEED(pthread_create(&threads[0], NULL, spawn_many, ORDINARY) == 0 && pthread_create(&threads[1], NULL, spawn_many, SELF) == 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &lost);
		bad += lost != NULL;
	}
	EQUAL("process.spawn.by_threads", bad, 0);

	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
}

static int run_command(void *arg)
{
	int status = system(*(const char **)arg);

	return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static const char *file_link(const char *path)
{
	static char text[100];
	ssize_t n = readlink(path, text, sizeof(text) - 1);

	NEED(n > 0);
	text[n] = 0;
	return text;
}

/* What is written to stdout while a command runs. */
static const char *said_by(const char *command, int *status)
{
	static const char *what;

	what = command;
	return output_of(run_command, &what, status);
}

static void *system_in_thread(void *arg)
{
	long bad = 0;

	for (int i = 0; i < 5; i++)
		bad += !exited(system("exit 21"), 21);
	return bad ? arg : NULL;
}

/* Debian's shell, an ordinary program with shared objects, and what it starts. */
static void test_shell(void)
{
	char text[200] = "", large[30000];
	pthread_t threads[3];
	int status, bad = 0;
	sigset_t set;
	FILE *file;
	void *ret;

	CHECK("process.system.shell", system(NULL) == 1);
	EQUAL("process.system.code", system("exit 3"), 3 << 8);
	CHECK("process.system.signal", killed(system("kill -TERM $$"), SIGTERM));
	EQUAL("process.system.unknown", system("/no/such/command 2> /dev/null"), 127 << 8);
	TEXT("process.system.output", said_by("echo \"from $0\" the shell", &status), "from sh the shell\n");
	setenv("POSIX_SHELL", "set here", 1);
	TEXT("process.system.environment", said_by("echo $POSIX_SHELL", &status), "set here\n");
	unsetenv("POSIX_SHELL");
	put_file("/tmp/posix_shell", "through two pipes");
	TEXT("process.system.pipeline", said_by("/bin/cat < /tmp/posix_shell | /bin/cat | /bin/cat", &status), "through two pipes");
	unlink("/tmp/posix_shell");
	EQUAL("process.system.itself", system(ORDINARY " child ring"), 103 << 8);
	snprintf(text, sizeof(text), "%s child ring", file_link(SELF));
	EQUAL("process.system.this_program", system(text), (100 + ring()) << 8);
	/* Who waits for a command is not interrupted. */
	snprintf(text, sizeof(text), "kill -INT %d; exit 9", getpid());
	EQUAL("process.system.interrupt", system(text), 9 << 8);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("process.system.signals", !sigismember(&set, SIGCHLD) && signal(SIGINT, SIG_DFL) == SIG_DFL &&
	      signal(SIGQUIT, SIG_DFL) == SIG_DFL);
	for (int i = 0; i < 3; i++)
		NEED(pthread_create(&threads[i], NULL, system_in_thread, threads) == 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("process.system.threads", bad, 0);
	NEED(rename("/bin/sh", "/bin/not_sh") == 0);
	CHECK("process.system.no_shell", system(NULL) == 0 && system("exit 3") == 127 << 8);
	NEED(rename("/bin/not_sh", "/bin/sh") == 0);

	file = popen("echo one; echo two; exit 5", "r");
	CHECK("process.popen.read", file && fgets(text, sizeof(text), file) && !strcmp(text, "one\n") && fgets(text, sizeof(text), file) &&
	      !strcmp(text, "two\n") && !fgets(text, sizeof(text), file));
	EQUAL("process.popen.status", pclose(file), 5 << 8);
	file = popen("read line; test \"$line\" = \"to a command\"", "w");
	CHECK("process.popen.write", file && fprintf(file, "to a command\n") == 13 && pclose(file) == 0);
	memset(large, 'p', sizeof(large));
	file = popen("/bin/cat > /tmp/posix_popen", "w");
	CHECK("process.popen.much", file && fwrite(large, 1, sizeof(large), file) == sizeof(large) && pclose(file) == 0 && ({
		struct stat st;

		stat("/tmp/posix_popen", &st) == 0 && st.st_size == sizeof(large);
	}));
	file = popen("/bin/cat /tmp/posix_popen", "re");
	CHECK("process.popen.much_back", file && fread(large, 1, sizeof(large), file) == sizeof(large) && fgetc(file) == EOF &&
	      fcntl(fileno(file), F_GETFD) == FD_CLOEXEC && pclose(file) == 0);
	unlink("/tmp/posix_popen");
	errno = 0;
	CHECK("process.popen.bad_mode", popen("exit 0", "x") == NULL && errno == EINVAL);
	signal(SIGPIPE, SIG_IGN);
	file = popen("exit 0", "w");
	errno = 0;
	CHECK("process.popen.nobody_reads", file && SOON(fputs("x", file) < 0 || fflush(file)) && errno == EPIPE);
	pclose(file);
	signal(SIGPIPE, SIG_DFL);
}

/* --- what a process has --- */

static int become(void *arg)
{
	if (setgid(1234) || setuid(1234))
		return 1;
	if (getuid() != 1234 || geteuid() != 1234 || getegid() != 1234)
		return 2;
	errno = 0;
	if (setuid(0) == 0 || errno != EPERM)
		return 3;
	return arg != NULL;
}

static void *see_uid(void *arg)
{
	while (!*(volatile int *)arg)
		sched_yield();
	return (void *)(long)geteuid();
}

static int become_with_thread(void *arg)
{
	volatile int go = 0;
	pthread_t thread;
	void *seen;

	if (pthread_create(&thread, NULL, see_uid, (void *)&go) || setuid(4321))
		return 1;
	go = 1;
	pthread_join(thread, &seen);
	return (long)seen == 4321 ? arg != NULL : 2;
}

static int sessions(void *arg)
{
	return setsid() != getpid() || getsid(0) != getpid() || getpgrp() != getpid() || arg != NULL;
}

static int dies_with_parent(void *arg)
{
	int *fds = arg;
	pid_t pid = fork();

	if (!pid) {
		char c = 1;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (write(fds[1], &c, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	return read(fds[0], &(char){ 0 }, 1) != 1;
}

static void test_properties(void)
{
	struct rlimit limit, other;
	char name[17] = "";
	int fds[2];

	EQUAL("process.ids.setuid", in_child(become, NULL), 0);
	EQUAL("process.ids.setuid_of_threads", in_child(become_with_thread, NULL), 0);
	EQUAL("process.session", in_child(sessions, NULL), 0);
	CHECK("process.limits", getrlimit(RLIMIT_NOFILE, &limit) == 0 && (other = limit, other.rlim_cur = 60, 1) &&
	      setrlimit(RLIMIT_NOFILE, &other) == 0 && dup2(1, 60) < 0 && errno == EBADF && setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK("process.name", prctl(PR_SET_NAME, "a new name") == 0 && prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "a new name") &&
	      !strcmp(file_text("/proc/self/comm"), "a new name\n"));
	CHECK("process.priority", getpriority(PRIO_PROCESS, 0) == 0 && nice(0) == 0 && sched_getscheduler(0) == SCHED_OTHER);
	NEED(pipe(fds) == 0);
	EQUAL("process.death_signal.parent", in_child(dies_with_parent, fds), 0);
	close(fds[1]);
	/* The end of the pipe: nobody has it open any more. */
	CHECK("process.death_signal", read(fds[0], name, 1) == 0);
	close(fds[0]);
}

int process_suite(void)
{
	test_fork();
	test_exec();
	test_spawn();
	test_shell();
	test_properties();
	return check_failed;
}
