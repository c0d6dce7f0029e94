// SPDX-License-Identifier: Apache-2.0
/*
 * Runs glibc's tests one after the other, as its makefiles do, and says how each ended.
 *
 *     glibc_run LIST
 *
 * A line of LIST is "RING TEST SECONDS INPUT [VARIABLE=VALUE...] -- [ARGUMENT...]", INPUT being a
 * file or "-", with tabs between the words.  A line of the answer is "# ended TEST RING HOW NUMBER
 * MS": HOW is "exit" with the status, "signal" with its number or "timeout".  The end of what a test
 * has written follows, as "# TEST RING: LINE", unless its status is 0.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT "/run/output"
#define TAIL 1000
#define WORDS 64

struct test {
	const char *ring, *name, *input;
	long seconds;
	char *env[WORDS], *argv[WORDS];
};

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *word(char **rest)
{
	char *found;

	while ((found = strsep(rest, "\t\n")) && !*found)
		;
	return found;
}

static void read_test(char *line, struct test *test)
{
	const char *words[4], *one;
	char **list = test->env;
	int i, n = 0;

	for (i = 0; i < 4; i++)
		if (!(words[i] = word(&line)))
			errx(1, "a line of %d words", i);
	*test = (struct test){
		.ring = words[0], .name = words[1], .seconds = atol(words[2]), .input = words[3],
	};
	test->argv[0] = NULL;
	while ((one = word(&line))) {
		if (n == WORDS - 2)
			errx(1, "%s: too many words", test->name);
		if (list == test->env && !strcmp(one, "--")) {
			list = test->argv;
			n = 1;
		} else {
			list[n++] = (char *)one;
		}
	}
	if (asprintf(&test->argv[0], "/tests/ring%s/%s", test->ring, test->name) < 0)
		err(1, "asprintf");
}

static void child(const struct test *test)
{
	const char *input = strcmp(test->input, "-") ? test->input : "/dev/null";
	char folder[256];
	sigset_t none;
	int in, out;

	snprintf(folder, sizeof(folder), "/tests/source/%.*s",
		 (int)strcspn(test->name, "/"), test->name);
	if (setsid() < 0 || chdir(folder))
		err(126, "%s", folder);
	in = open(input, O_RDONLY);
	out = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
	if (in < 0 || out < 0)
		err(126, "%s or %s", input, OUTPUT);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		err(126, "dup2");
	closefrom(3);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(test->argv[0], test->argv, test->env);
	err(126, "%s", test->argv[0]);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where)
{
	(void)info;
	(void)type;
	if (where->level)
		remove(path);
	return 0;
}

/* What a test leaves behind must not be there for the same test in the other ring. */
static void clean(void)
{
	/* Everybody but process 1 and this one. */
	if (kill(-1, SIGKILL) && errno != ESRCH)
		err(1, "kill");
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	nftw("/tmp", remove_one, 16, FTW_DEPTH | FTW_PHYS);
	nftw("/dev/shm", remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void show_output(const struct test *test)
{
	static char text[TAIL + 1];
	char *rest = text, *line;
	FILE *file = fopen(OUTPUT, "r");
	size_t n;

	if (!file)
		return;
	if (fseek(file, -TAIL, SEEK_END))
		rewind(file);
	n = fread(text, 1, TAIL, file);
	fclose(file);
	while (n && text[n - 1] == '\n')
		n--;
	text[n] = 0;
	while (n && (line = strsep(&rest, "\n")))
		printf("# %s %s: %s\n", test->name, test->ring, line);
}

static void run(const struct test *test, const sigset_t *children)
{
	struct timespec second = { .tv_sec = 1 };
	long begin = now_ms(), ms;
	const char *how = "exit";
	siginfo_t info;
	pid_t pid;
	int number;

	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid)
		child(test);
	for (;;) {
		info.si_pid = 0;
		if (waitid(P_PID, pid, &info, WEXITED | WNOHANG))
			err(1, "waitid");
		ms = now_ms() - begin;
		if (info.si_pid || ms > test->seconds * 1000)
			break;
		sigtimedwait(children, NULL, &second);
	}
	number = info.si_status;
	if (!info.si_pid) {
		how = "timeout";
		number = 0;
	} else if (info.si_code != CLD_EXITED) {
		how = "signal";
	}
	clean();
	printf("# ended %s %s %s %d %ld\n", test->name, test->ring, how, number, ms);
	if (strcmp(how, "exit") || number)
		show_output(test);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	sigset_t children;
	char *line = NULL;
	size_t size = 0;
	struct test test;
	FILE *list;

	if (argc != 2 || !(list = fopen(argv[1], "re")))
		err(1, "%s", argc == 2 ? argv[1] : "LIST");
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	/* Orphans of a test become this program's. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		err(1, "prctl");
	while (getline(&line, &size, list) > 0) {
		read_test(line, &test);
		run(&test, &children);
		free(test.argv[0]);
	}
	puts("# all have ended");
	return 0;
}
