// SPDX-License-Identifier: Apache-2.0
/* An ordinary ring-3 program that does in a guest what its first argument says. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void file(const char *path)
{
	char text[4096];
	FILE *in = fopen(path, "r");

	while (in && fgets(text, sizeof(text), in))
		printf("%s: %s", path, text);
	if (in)
		fclose(in);
	else
		printf("%s: errno %d\n", path, errno);
}

static int failed(const char *path)
{
	printf("%s: errno %d\n", path, errno);
	return 1;
}

static int time_of_day(void)
{
	struct timespec time;

	if (clock_gettime(CLOCK_REALTIME, &time))
		return failed("time");
	return printf("%lld.%09ld\n", (long long)time.tv_sec, time.tv_nsec) < 0;
}

/* A random number every two milliseconds. */
static int draw(void)
{
	unsigned long long random;

	for (;; usleep(2000)) {
		if (getrandom(&random, sizeof(random), 0) != sizeof(random))
			return failed("draw");
		printf("drew %016llx\n", random);
	}
}

/* Adds a line and has it on the disk. */
static int append(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0640);
	int bad = fd < 0 || dprintf(fd, "%s\n", line) < 0 || fsync(fd);

	if (bad)
		return failed(path);
	close(fd);
	return 0;
}

/* Lines without end, each said when it is on the disk. */
static int keep_log(const char *path)
{
	char line[16];

	for (int i = 0;; i++) {
		snprintf(line, sizeof(line), "%d", i);
		if (append(path, line))
			return 1;
		printf("said %d\n", i);
	}
}

static int fill(const char *path, int mib)
{
	static char block[1 << 20];
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	memset(block, 'x', sizeof(block));
	for (int i = 0; i < mib; i++)
		if (write(fd, block, sizeof(block)) != sizeof(block))
			return failed(path);
	if (fsync(fd))
		return failed(path);
	close(fd);
	return 0;
}

/* Writes through a shared mapping. */
static int copy(const char *from, const char *to)
{
	int in = open(from, O_RDONLY), out = open(to, O_RDWR | O_CREAT, 0640);
	struct stat stat;
	void *memory;

	if (in < 0 || fstat(in, &stat))
		return failed(from);
	if (out < 0 || ftruncate(out, stat.st_size))
		return failed(to);
	memory = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
	if (memory == MAP_FAILED || read(in, memory, stat.st_size) != stat.st_size ||
	    munmap(memory, stat.st_size))
		return failed(to);
	return 0;
}

static void state(char **argv, char **envp)
{
	struct rlimit limit;
	gid_t groups[16];
	char text[256];
	int n = getgroups(16, groups);
	sigset_t mask;

	for (int i = 0; argv[i]; i++)
		printf("arg %d: <%s>\n", i, argv[i]);
	for (int i = 0; envp[i]; i++)
		printf("env: <%s>\n", envp[i]);
	printf("ids: %d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
	for (int i = 0; i < n; i++)
		printf("group: %d\n", groups[i]);
	printf("cwd: %s\n", getcwd(text, sizeof(text)));
	gethostname(text, sizeof(text));
	printf("hostname: %s\n", text);
	getrlimit(RLIMIT_NOFILE, &limit);
	printf("nofile: %ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
	getrlimit(RLIMIT_CORE, &limit);
	printf("core: %ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int i = 1; i < 32; i++)
		if (sigismember(&mask, i))
			printf("blocked: %d\n", i);
	printf("session: %d\n", getsid(0) == getpid());
	for (int fd = 0; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("fd: %d\n", fd);
	file("/proc/mounts");
	file("/proc/sys/net/core/somaxconn");
	file("/etc/resolv.conf");
	file("/proc/net/route");
	file("/etc/passwd");
}

static void interfaces(void)
{
	struct if_nameindex *list = if_nameindex();
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	for (struct if_nameindex *at = list; at && at->if_index; at++) {
		struct ifreq request = { 0 };
		struct sockaddr_in *addr = (struct sockaddr_in *)&request.ifr_addr;

		strcpy(request.ifr_name, at->if_name);
		ioctl(fd, SIOCGIFFLAGS, &request);
		printf("%s: up %d\n", at->if_name, !!(request.ifr_flags & IFF_UP));
		if (!ioctl(fd, SIOCGIFADDR, &request))
			printf("%s: address %s\n", at->if_name, inet_ntoa(addr->sin_addr));
		if (!ioctl(fd, SIOCGIFNETMASK, &request))
			printf("%s: mask %s\n", at->if_name, inet_ntoa(addr->sin_addr));
	}
}

static int count_zombies(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int found = 0;

	while ((entry = readdir(proc))) {
		char path[300], text[512], *state;
		FILE *in;

		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (atoi(entry->d_name) <= 0 || !(in = fopen(path, "r")))
			continue;
		state = fgets(text, sizeof(text), in) ? strrchr(text, ')') : NULL;
		found += state && state[2] == 'Z';
		fclose(in);
	}
	closedir(proc);
	return found;
}

/* The init reaps when it comes to it, which is soon, or never. */
static void zombies(void)
{
	int found;

	for (int i = 0; (found = count_zombies()) && i < 200; i++)
		usleep(50000);
	printf("zombies: %d\n", found);
}

/* Children of children, whose parents are gone: PID 1 inherits them. */
static void orphans(int n)
{
	for (int i = 0; i < n; i++) {
		if (fork() == 0) {
			if (fork() == 0)
				usleep(1000);
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
}

/* Waits for a process of a file and says which code segment it runs in: bits 0 and 1 are the ring. */
static int segment(const char *path)
{
	struct user_regs_struct regs;
	char name[300], exe[256];

	for (int i = 0; i < 400; i++, usleep(50000)) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;

		while ((entry = readdir(proc))) {
			pid_t pid = atoi(entry->d_name);
			ssize_t length;

			snprintf(name, sizeof(name), "/proc/%d/exe", pid);
			length = pid > 0 ? readlink(name, exe, sizeof(exe) - 1) : 0;
			exe[length > 0 ? length : 0] = 0;
			if (strcmp(exe, path))
				continue;
			/* Not PTRACE_ATTACH: in an exec its SIGSTOP would come behind another stop, and stay. */
			if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0) ||
			    waitpid(pid, NULL, 0) != pid || ptrace(PTRACE_GETREGS, pid, 0, &regs) ||
			    ptrace(PTRACE_DETACH, pid, 0, 0))
				return failed(path);
			closedir(proc);
			return printf("%s: cs %llx\n", path, regs.cs) < 0;
		}
		closedir(proc);
	}
	return failed(path);
}

static volatile sig_atomic_t asked;

static void ask(int signal)
{
	(void)signal;
	asked = 1;
}

static int serve(int port)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sigaction action = { .sa_handler = ask }; /* no SA_RESTART: accept() returns */

	sigaction(SIGTERM, &action, NULL);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&self, sizeof(self)) || listen(fd, 8))
		return 1;
	while (!asked) {
		char text[4096];
		int client = accept(fd, NULL, NULL);
		ssize_t got;

		while (client >= 0 && (got = read(client, text, sizeof(text))) > 0)
			if (write(client, text, got) != got)
				break;
		if (client >= 0)
			close(client);
	}
	printf("asked to end\n");
	return 0;
}

/* Sends each datagram back, until one is empty. */
static int serve_udp(int port)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = htons(port) }, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t size;
	char text[2048];
	ssize_t got;

	if (bind(fd, (struct sockaddr *)&self, sizeof(self)))
		return 1;
	do {
		size = sizeof(from);
		got = recvfrom(fd, text, sizeof(text), 0, (struct sockaddr *)&from, &size);
		sendto(fd, text, got, 0, (struct sockaddr *)&from, size);
	} while (got > 0);
	return 0;
}

/* Speaks first, and has no more to say. */
static int greet(int port)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(fd, (struct sockaddr *)&self, sizeof(self)) || listen(fd, 1))
		return 1;
	for (;;) {
		int client = accept(fd, NULL, NULL);

		dprintf(client, "hello\n");
		close(client);
	}
}

/* Becomes another program when somebody listens on a port of the guest. */
static int when(int port, char **argv)
{
	struct sockaddr_in server = {
		.sin_family = AF_INET, .sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int bad = connect(fd, (struct sockaddr *)&server, sizeof(server));

		close(fd);
		if (!bad)
			break;
		usleep(10000);
	}
	execv(*argv, argv);
	return failed(*argv);
}

int main(int argc, char **argv, char **envp)
{
	const char *what = argc > 1 ? argv[1] : "";
	int number = argc > 2 ? atoi(argv[2]) : 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "exit"))
		return number;
	if (!strcmp(what, "say"))
		return printf("said %s\n", argv[2]) < 0;
	if (!strcmp(what, "signal"))
		return kill(getpid(), number);
	if (!strcmp(what, "state"))
		state(argv, envp);
	if (!strcmp(what, "interfaces"))
		interfaces();
	if (!strcmp(what, "orphans"))
		orphans(number);
	if (!strcmp(what, "zombies"))
		zombies();
	if (!strcmp(what, "file"))
		file(argv[2]);
	if (!strcmp(what, "segment"))
		return segment(argv[2]);
	if (!strcmp(what, "time"))
		return time_of_day();
	if (!strcmp(what, "draw"))
		return draw();
	if (!strcmp(what, "append"))
		return append(argv[2], argv[3]);
	if (!strcmp(what, "log"))
		return keep_log(argv[2]);
	if (!strcmp(what, "fill"))
		return fill(argv[2], atoi(argv[3]));
	if (!strcmp(what, "unlink"))
		return unlink(argv[2]);
	if (!strcmp(what, "copy"))
		return copy(argv[2], argv[3]);
	if (!strcmp(what, "kill"))
		return kill(number, atoi(argv[3]));
	if (!strcmp(what, "sleep"))
		sleep(number);
	if (!strcmp(what, "stubborn")) {
		signal(SIGTERM, SIG_IGN);
		printf("said stubborn\n");
		for (;;)
			pause();
	}
	if (!strcmp(what, "serve"))
		return serve(number);
	if (!strcmp(what, "serve-udp"))
		return serve_udp(number);
	if (!strcmp(what, "greet"))
		return greet(number);
	if (!strcmp(what, "when"))
		return when(number, argv + 3);
	return 0;
}
