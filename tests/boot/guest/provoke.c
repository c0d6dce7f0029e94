// SPDX-License-Identifier: Apache-2.0
/*
 * Provokes crashes of the kernel by LKDTM, one process each.
 *
 * usage: provoke TYPE...; without a type it lists those that there are
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include "check.h"

#define DEBUGFS	"/sys/kernel/debug"
#define DIRECT	DEBUGFS "/provoke-crash/DIRECT"
#define WAIT_MS	20000

static void provoke(const char *type)
{
	int status = 0, ms;
	pid_t pid;

	printf("\nprovoke: begin %s\n", type);
	pid = fork();
	if (!pid) {
		int fd = open(DIRECT, O_WRONLY);

		_exit(fd < 0 ? 100 : write(fd, type, strlen(type)) < 0 ? 1 : 0);
	}
	for (ms = 0; !waitpid(pid, &status, WNOHANG) && ms < WAIT_MS; ms += 10)
		usleep(10000);
	/* What is still on its way to the console belongs to this one. */
	usleep(20000);
	printf("\nprovoke: end %s %s %d\n", type, ms >= WAIT_MS ? "hangs" :
	       WIFSIGNALED(status) ? "signal" : "exit",
	       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	char types[16384];
	int fd;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (access(DIRECT, F_OK) && mount("debugfs", DEBUGFS, "debugfs", 0, NULL)) {
		perror("provoke: " DEBUGFS);
		return 1;
	}
	for (int i = 1; i < argc; i++)
		provoke(argv[i]);
	fd = open(DIRECT, O_RDONLY);
	if (fd < 0) {
		perror("provoke: " DIRECT);
		return 1;
	}
	for (ssize_t n; argc == 1 && (n = read(fd, types, sizeof(types))) > 0;)
		if (write(1, types, n) != n)
			return 1;
	return 0;
}
