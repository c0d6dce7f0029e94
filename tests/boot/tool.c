// SPDX-License-Identifier: Apache-2.0
/* An ordinary program for tests of ukl exec: does what its arguments say. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void got(int number)
{
	printf("signal %d\n", number);
	fflush(stdout);
	_exit(40 + number);
}

int main(int argc, char **argv)
{
	static char block[65536];
	const char *what = argc > 1 ? argv[1] : "";
	ssize_t n;

	if (!strcmp(what, "echo")) {
		for (int i = 2; i < argc; i++)
			printf("[%s]", argv[i]);
		printf("\n");
		fprintf(stderr, "to standard error\n");
		return argc;
	}
	if (!strcmp(what, "cat")) {
		if (isatty(0))
			n = write(1, "ready\n", 6);
		while ((n = read(0, block, sizeof(block))) > 0)
			for (ssize_t at = 0; at < n;)
				at += write(1, block + at, (size_t)(n - at));
		return n ? errno : 0;
	}
	if (!strcmp(what, "close")) { /* does not read its input */
		close(0);
		sleep(1);
		return 5;
	}
	if (!strcmp(what, "much")) { /* as many blocks as it says */
		memset(block, 'x', sizeof(block));
		for (int i = atoi(argv[2]); i; i--)
			for (size_t at = 0; at < sizeof(block);)
				at += (size_t)write(1, block + at, sizeof(block) - at);
		return 0;
	}
	if (!strcmp(what, "wait")) {
		for (int i = 1; i < 32; i++)
			signal(i, got);
		printf("waiting as %d\n", getpid());
		fflush(stdout);
		pause();
	}
	if (!strcmp(what, "abort"))
		abort();
	if (!strcmp(what, "left")) { /* somebody else has its output still open */
		if (!fork())
			sleep(1000);
		printf("left\n");
		return 0;
	}
	if (!strcmp(what, "state")) {
		struct winsize size = { 0 };
		char folder[100];

		ioctl(0, TIOCGWINSZ, &size);
		printf("terminal %d, %d lines, %d columns, uid %d, cwd %s, A=%s\n", isatty(0), size.ws_row,
		       size.ws_col, getuid(), getcwd(folder, sizeof(folder)), getenv("A"));
		return 0;
	}
	if (!strcmp(what, "stat")) {
		struct stat st;

		if (stat(argv[2], &st))
			return errno;
		printf("%o %ld\n", st.st_mode & 07777, (long)st.st_size);
		return 0;
	}
	return 99;
}
