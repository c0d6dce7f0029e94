// SPDX-License-Identifier: Apache-2.0
/*
 * What a program may expect of the C library and the kernel, by theme.
 *
 * Built twice: linked into the kernel, and as an ordinary static program.  Both must pass, and
 * must have made the same checks.
 *
 *     posix THEME...
 *     posix child WHAT [ARGUMENT...]	for the themes' own use
 */
#include "posix.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

unsigned long posix_data = 1;

static const struct theme {
	const char *name;
	int (*run)(void);
} themes[] = {
	{ "stdio", stdio_suite },
	{ "runtime", runtime_suite },
	{ "string", string_suite },
	{ "memory", memory_suite },
	{ "threads", threads_suite },
	{ "cancel", cancel_suite },
	{ "signals", signals_suite },
	{ "contexts", contexts_suite },
	{ "timers", timers_suite },
	{ "io", io_suite },
	{ "net", net_suite },
	{ "process", process_suite },
	{ "names", names_suite },
	{ "pins", pins_suite },
	{ "disk", disk_suite },
	{ "cxx", cxx_suite },
	{ "limits", limits_suite },
	{ "values", values_suite },
};

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

void same(const char *name, const char *place, const char *format, ...)
{
	char line[1000];
	va_list args;
	int n = snprintf(line, sizeof(line), "# same %s %s ", name, place);

	va_start(args, format);
	n += vsnprintf(line + n, sizeof(line) - n - 1, format, args);
	va_end(args);
	NEED(n < (int)sizeof(line) - 1);
	line[n++] = '\n';
	NEED(write(1, line, n) == n);
}

void nap(int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&t, NULL);
}

int reap(pid_t pid)
{
	int status = -1;
	pid_t got;

	if (SOON((got = waitpid(pid, &status, WNOHANG)) != 0))
		return got == pid ? status : -1;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

int in_child(int (*body)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (!pid)
		_exit(body(arg));
	NEED(pid > 0);
	return reap(pid);
}

ssize_t read_all(int fd, void *to, size_t size)
{
	size_t all = 0;
	ssize_t n;

	while (all < size && ((n = read(fd, (char *)to + all, size - all)) > 0 || (n < 0 && errno == EINTR)))
		if (n > 0)
			all += n;
	return all;
}

const char *output_of(int (*body)(void *arg), void *arg, int *status)
{
	static char text[4096];
	int fds[2], child_status;
	pid_t pid;

	NEED(pipe(fds) == 0);
	pid = fork();
	NEED(pid >= 0);
	if (!pid) {
		dup2(fds[1], 1);
		close(fds[0]);
		close(fds[1]);
		exit(body(arg));
	}
	close(fds[1]);
	text[read_all(fds[0], text, sizeof(text) - 1)] = 0;
	close(fds[0]);
	child_status = reap(pid);
	if (status)
		*status = child_status;
	return text;
}

const char *file_text(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return NULL;
	text[read_all(fd, text, sizeof(text) - 1)] = 0;
	close(fd);
	return text;
}

void put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	NEED(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static int child(int argc, char **argv)
{
	if (argc < 1)
		return 2;
	if (!strcmp(argv[0], "string"))
		return string_child();
	if (!strncmp(argv[0], "runtime.", 8))
		return runtime_child(argv[0] + 8);
	if (!strncmp(argv[0], "cxx.", 4))
		return cxx_child(argv[0] + 4);
	return process_child(argc, argv);
}

static int run(const struct theme *theme)
{
	int ret;

	printf("# begin %s %d %p\n", theme->name, ring(), (void *)&posix_data);
	fflush(stdout);
	ret = theme->run();
	printf("# end %s %d\n", theme->name, ret);
	fflush(stdout);
	return ret;
}

int main(int argc, char **argv)
{
	int ret = 0;

	if (argc > 1 && !strcmp(argv[1], "child"))
		return child(argc - 2, argv + 2);
	for (int i = 1; i < argc; i++) {
		unsigned int t = 0;

		while (t < ELEMENTS(themes) && strcmp(argv[i], themes[t].name))
			t++;
		if (t == ELEMENTS(themes))
			return 2;
		ret |= run(&themes[t]);
	}
	return ret;
}
