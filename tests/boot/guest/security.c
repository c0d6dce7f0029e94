// SPDX-License-Identifier: Apache-2.0
/*
 * Tries to fake and to trace the application, as other users and as root: security, run by root.
 *
 * What ends with 100 ran in ring 0, with 103 in ring 3; see suite.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include "check.h"

#define APP	"/UKL"
#define SUITE	"/tests/suite"
#define USER	1000
#define RING0	100
#define TRACED	1
#define KILLED	-1000

static const char magic[] = "\x7f" "ELF\2\1\1\0\0UKL app";

static void drop(void)
{
	if (setgid(USER) || setuid(USER) || prctl(PR_SET_DUMPABLE, 1))
		_exit(90);
}

static int end(pid_t pid)
{
	int status = 0;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : KILLED;
}

/* The errno of an exec, negated, or the exit status of what was started. */
static int exec(const char *path, void (*before)(void), int flags)
{
	int fds[2], error = 0, status;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		_exit(91);
	pid = fork();
	if (!pid) {
		if (before)
			before();
		if (flags & TRACED)
			ptrace(PTRACE_TRACEME, 0, 0, 0);
		execl(path, "suite", "ring", (char *)NULL);
		error = errno;
		_exit(write(fds[1], &error, sizeof(error)) != sizeof(error));
	}
	close(fds[1]);
	if (flags & TRACED) {
		/* Stopped by SIGTRAP after an exec that worked. */
		while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, pid, 0, 0);
		status = WIFEXITED(status) ? WEXITSTATUS(status) : KILLED;
	} else {
		status = end(pid);
	}
	if (read(fds[0], &error, sizeof(error)) == sizeof(error))
		status = -error;
	close(fds[0]);
	return status;
}

static int victim(const char *path, const char *what)
{
	pid_t pid = fork();

	if (!pid) {
		execl(path, path, "victim", what, (char *)NULL);
		_exit(126);
	}
	return end(pid);
}

static void expect(const char *name, int wanted, int got)
{
	char full[80];

	snprintf(full, sizeof(full), "security.%s", name);
	check(got == wanted, full, "%d, expected %d", got, wanted);
}

static void make(const char *path, mode_t mode, uid_t uid)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);

	if (fd < 0 || write(fd, magic, sizeof(magic) - 1) != sizeof(magic) - 1 ||
	    fchown(fd, uid, uid) || fchmod(fd, mode))
		_exit(92);
	close(fd);
}

/* --- faking --- */

static void bind_over(void)
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("/tmp/fake", APP, NULL, MS_BIND, NULL))
		_exit(93);
}

static void bind_over_as_user(void)
{
	bind_over();
	drop();
}

static void bind_over_in_user_namespace(void)
{
	drop();
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		_exit(access("/proc/self/ns/user", F_OK) ? 94 : 95);
	bind_over();
}

static void change_root(void)
{
	if (chroot("/tmp/root") || chdir("/"))
		_exit(93);
}

static void change_root_as_user(void)
{
	change_root();
	drop();
}

static void test_fakes(void)
{
	char path[64];
	int fd, got;

	mkdir("/tmp/root", 0755);
	make("/tmp/fake", 0755, 0);
	make("/tmp/copy", 0755, USER);
	make("/tmp/root" APP, 0755, 0);
	expect("plain", RING0, exec(APP, NULL, 0));
	expect("copy.root", -ENOEXEC, exec("/tmp/fake", NULL, 0));
	expect("copy.user", -ENOEXEC, exec("/tmp/copy", drop, 0));
	expect("bind_mount.root", -ENOEXEC, exec(APP, bind_over, 0));
	expect("bind_mount.user", -ENOEXEC, exec(APP, bind_over_as_user, 0));
	expect("chroot.root", -ENOEXEC, exec(APP, change_root, 0));
	expect("chroot.user", -ENOEXEC, exec(APP, change_root_as_user, 0));
	/* Without such namespaces in the kernel (94) there is nothing to fake by them. */
	got = exec(APP, bind_over_in_user_namespace, 0);
	if (got != 94)
		expect("user_namespace", -ENOEXEC, got);

	if (symlink(APP, "/tmp/symlink") || link(APP, "/hardlink"))
		_exit(92);
	expect("symlink", RING0, exec("/tmp/symlink", NULL, 0));
	expect("hardlink", RING0, exec("/hardlink", NULL, 0));
	unlink("/hardlink");
	fd = open(APP, O_RDONLY);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	expect("proc_fd", RING0, exec(path, NULL, 0));
	close(fd);
	expect("proc_self_exe", RING0, victim(APP, "self"));

	chmod(APP, 0775);
	expect("group_writable", -ENOEXEC, exec(APP, NULL, 0));
	chmod(APP, 0757);
	expect("other_writable", -ENOEXEC, exec(APP, NULL, 0));
	chmod(APP, 0755);
	if (chown(APP, USER, 0))
		_exit(92);
	expect("owned_by_user", -ENOEXEC, exec(APP, drop, 0));
	expect("owned_by_user.root", -ENOEXEC, exec(APP, NULL, 0));
	if (chown(APP, 0, 0))
		_exit(92);
	chmod(APP, 0700);
	expect("private.user", -EACCES, exec(APP, drop, 0));
	expect("private.root", RING0, exec(APP, NULL, 0));
	chmod(APP, 0755);
	expect("allowed.user", RING0, exec(APP, drop, 0));
}

/* --- tracing --- */

static pid_t start_waiting(const char *path, int *go)
{
	int ready[2], wait[2];
	char c = 0;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(wait, O_CLOEXEC) < 0)
		_exit(91);
	pid = fork();
	if (!pid) {
		int out = fcntl(ready[1], F_DUPFD, 10), in = fcntl(wait[0], F_DUPFD, 10);

		dup2(out, 3);
		dup2(in, 4);
		execl(path, path, "victim", "hold", "7", (char *)NULL);
		_exit(126);
	}
	close(ready[1]);
	close(wait[0]);
	if (read(ready[0], &c, 1) != 1)
		_exit(95);
	close(ready[0]);
	*go = wait[1];
	return pid;
}

/* What somebody may do with a process that runs: a line for each way. */
static void attempts(const char *who, pid_t pid, int good)
{
	char here[8] = "", name[80];
	struct iovec local = { here, 8 }, remote = { (void *)0x10000, 8 };
	long ret;
	int fd, status;

#define TRY(way, call, fine) do {						\
	errno = 0;								\
	ret = (call);								\
	snprintf(name, sizeof(name), "security.%s.%s", who, way);		\
	check(good ? (fine) : ret < 0 && (errno == EPERM || errno == EACCES), name,	\
	      "%ld errno %d", ret, errno);					\
} while (0)
	/* Nothing is mapped at that address: EFAULT is what one gets who may. */
	TRY("readv", process_vm_readv(pid, &local, 1, &remote, 1, 0), errno == EFAULT);
	TRY("writev", process_vm_writev(pid, &local, 1, &remote, 1, 0), errno == EFAULT);
	snprintf(name, sizeof(name), "/proc/%d/mem", pid);
	fd = open(name, O_RDWR);
	{
		int saved = errno;

		TRY("mem", (errno = saved, fd), fd >= 0);
	}
	close(fd);
	TRY("seize", ptrace(PTRACE_SEIZE, pid, 0, 0), !ret);
	if (!ret) {
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
		waitpid(pid, &status, 0);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
	TRY("attach", ptrace(PTRACE_ATTACH, pid, 0, 0), !ret);
	if (!ret) {
		waitpid(pid, &status, 0);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
#undef TRY
}

static void trace_as(const char *who, int may)
{
	char name[80];
	pid_t pid;
	int go;

	/* First that this user may trace an ordinary process, or the rest proves nothing. */
	snprintf(name, sizeof(name), "%s.ordinary", who);
	pid = start_waiting(SUITE, &go);
	attempts(name, pid, 1);
	close(go);
	end(pid);
	snprintf(name, sizeof(name), "%s.ordinary.traceme_exec", who);
	expect(name, RING0 + 3, exec(SUITE, NULL, TRACED));
	snprintf(name, sizeof(name), "%s.ordinary.traceme", who);
	expect(name, 0, victim(SUITE, "traceme"));

	snprintf(name, sizeof(name), "%s.app", who);
	pid = start_waiting(APP, &go);
	attempts(name, pid, may);
	close(go);
	end(pid);
	snprintf(name, sizeof(name), "%s.app.traceme_exec", who);
	expect(name, may ? RING0 : -EPERM, exec(APP, NULL, TRACED));
	snprintf(name, sizeof(name), "%s.app.traceme", who);
	expect(name, may ? 0 : EPERM, victim(APP, "traceme"));
}

static int as_user(void (*before)(void), const char *who, int may)
{
	pid_t pid = fork();

	if (!pid) {
		before();
		trace_as(who, may);
		_exit(check_failed);
	}
	return end(pid);
}

/* Root in all but the one capability that gives the kernel away. */
static void without_rawio(void)
{
	if (prctl(PR_CAPBSET_DROP, 17 /* CAP_SYS_RAWIO */, 0, 0, 0))
		_exit(90);
	/* The bounding set counts at the next exec of root's. */
	execl("/tests/security", "security", "without_rawio", (char *)NULL);
	_exit(90);
}

static void nothing(void) { }

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "without_rawio")) {
		trace_as("root_without_rawio", 0);
		return check_failed;
	}
	printf("# begin security 3 0\n");
	fflush(stdout);
	test_fakes();
	check_failed |= as_user(nothing, "root", 1);
	check_failed |= as_user(drop, "user", 0);
	check_failed |= as_user(without_rawio, "root_without_rawio", 0);
	printf("# end security\n");
	return !!check_failed;
}
