// SPDX-License-Identifier: Apache-2.0
/* Descriptors: waiting for them, moving data between them, and doing so without copies. */
#include "posix.h"
#include <aio.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define FOLDER "/tmp/posix_io"
#define SIZE 65536

static char in_data[SIZE] __attribute__((aligned(4096))) = "data";
static char in_bss[SIZE] __attribute__((aligned(4096)));

static void fill(char *to, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		to[i] = i * 13 + (i >> 8) + seed;
}

static void make_pipe(int fds[2], int flags)
{
	NEED(pipe2(fds, flags) == 0);
}

static void close_both(int fds[2])
{
	close(fds[0]);
	close(fds[1]);
}

static void *write_late(void *arg)
{
	nap(30);
	return write(*(int *)arg, "late", 4) == 4 ? NULL : arg;
}

/* --- pipes and files --- */

static void *write_much(void *arg)
{
	return write(*(int *)arg, in_data, SIZE) == SIZE && write(*(int *)arg, in_data, SIZE) == SIZE ? NULL : arg;
}

struct writer {
	int fd;
	char c;
};

/* Up to PIPE_BUF bytes are written at once, or not at all. */
static void *write_blocks(void *arg)
{
	struct writer *writer = arg;
	char block[1000];

	memset(block, writer->c, sizeof(block));
	for (int i = 0; i < 100; i++)
		if (write(writer->fd, block, sizeof(block)) != sizeof(block))
			return arg;
	return NULL;
}

/* How many blocks that three threads write do not come as they were written. */
static int mixed(int fds[2])
{
	struct writer writers[3];
	pthread_t threads[3];
	char block[1000];
	int bad = 0;
	void *ret;

	for (int i = 0; i < 3; i++) {
		writers[i] = (struct writer){ fds[1], 'a' + i };
		NEED(pthread_create(&threads[i], NULL, write_blocks, &writers[i]) == 0);
	}
	for (int i = 0; i < 300; i++) {
		bad += read_all(fds[0], block, sizeof(block)) != sizeof(block);
		for (unsigned int n = 1; n < sizeof(block); n++)
			bad += block[n] != block[0];
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	return bad;
}

static int open_fifo(void *arg)
{
	int fd = open(arg, O_WRONLY);

	return fd < 0 || write(fd, "by name", 7) != 7;
}

static int is_locked(void *arg)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };
	int fd = open(arg, O_RDWR);

	return fd < 0 || fcntl(fd, F_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES) ||
	       fcntl(fd, F_GETLK, &lock) != 0 || lock.l_pid != getppid() || flock(fd, LOCK_EX | LOCK_NB) == 0;
}

static void test_files(void)
{
	struct iovec in[3] = { { in_data, 5 }, { in_data + 5000, 3000 }, { (char *)"constant", 8 } };
	struct iovec out[2] = { { in_bss + 1, 4000 }, { in_bss + 9000, 1000 } };
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };
	int fds[2], fd, other, n = 0, available = 0;
	char text[100] = "";
	struct dirent *entry;
	pthread_t thread;
	struct stat st;
	void *ret;
	pid_t pid;
	DIR *dir;

	fill(in_data, SIZE, 1);
	make_pipe(fds, 0);
	NEED(pthread_create(&thread, NULL, write_much, &fds[1]) == 0);
	CHECK("io.pipe.much", read_all(fds[0], in_bss, SIZE) == SIZE && !memcmp(in_data, in_bss, SIZE) &&
	      read_all(fds[0], in_bss, SIZE) == SIZE && pthread_join(thread, &ret) == 0 && !ret);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	while (write(fds[1], in_data, 4096) == 4096)
		n++;
	CHECK("io.pipe.full", errno == EAGAIN && n == fcntl(fds[1], F_GETPIPE_SZ) / 4096);
	CHECK("io.pipe.available", ioctl(fds[0], FIONREAD, &available) == 0 && available == n * 4096);
	close(fds[0]);
	signal(SIGPIPE, SIG_IGN);
	CHECK("io.pipe.epipe", write(fds[1], "x", 1) < 0 && errno == EPIPE);
	signal(SIGPIPE, SIG_DFL);
	close(fds[1]);
	make_pipe(fds, 0);
	CHECK("io.pipe.size", fcntl(fds[1], F_SETPIPE_SZ, 16384) == 16384 && fcntl(fds[0], F_GETPIPE_SZ) == 16384);
	EQUAL("io.pipe.unmixed", mixed(fds), 0);
	CHECK("io.pipe.end", close(fds[1]) == 0 && read(fds[0], text, 1) == 0);
	close(fds[0]);
	make_pipe(fds, O_DIRECT | O_NONBLOCK);
	CHECK("io.pipe.packets", write(fds[1], "one", 3) == 3 && write(fds[1], "three", 5) == 5 && read(fds[0], text, 100) == 3 &&
	      read(fds[0], text, 100) == 5);
	close_both(fds);
	CHECK("io.fifo", mkfifo(FOLDER "/fifo", 0600) == 0 && ({
		pid = fork();
		if (!pid)
			_exit(open_fifo(FOLDER "/fifo"));
		fd = open(FOLDER "/fifo", O_RDONLY);
		n = read_all(fd, text, 100);
		close(fd);
		n == 7 && !memcmp(text, "by name", 7) && reap(pid) == 0;
	}));

	fd = open(FOLDER "/file", O_RDWR | O_CREAT | O_EXCL, 0640);
	NEED(fd >= 0);
	CHECK("io.file.writev", writev(fd, in, 3) == 3013 && fstat(fd, &st) == 0 && st.st_size == 3013 && (st.st_mode & 0777) == 0640);
	CHECK("io.file.preadv", preadv(fd, out, 2, 5) == 3008 && !memcmp(in_bss + 1, in_data + 5000, 3000) && !memcmp(in_bss + 3001, "constant", 8));
	CHECK("io.file.pwrite", pwrite(fd, "hole", 4, 100000) == 4 && lseek(fd, 0, SEEK_END) == 100004 && pread(fd, text, 10, 50000) == 10 && !text[9]);
	CHECK("io.file.seek_data", lseek(fd, 10000, SEEK_DATA) >= 90000 && lseek(fd, 0, SEEK_HOLE) < 10000);
	CHECK("io.file.truncate", ftruncate(fd, 10) == 0 && fstat(fd, &st) == 0 && st.st_size == 10);
	CHECK("io.file.allocate", posix_fallocate(fd, 0, 20000) == 0 && fstat(fd, &st) == 0 && st.st_size == 20000);
	CHECK("io.file.append", (other = open(FOLDER "/file", O_WRONLY | O_APPEND)) >= 0 && write(other, "end", 3) == 3 &&
	      pread(fd, text, 10, 20000) == 3);
	close(other);
	CHECK("io.file.dup", (other = fcntl(fd, F_DUPFD_CLOEXEC, 100)) >= 100 && lseek(fd, 77, SEEK_SET) == 77 && lseek(other, 0, SEEK_CUR) == 77 &&
	      fcntl(other, F_GETFD) == FD_CLOEXEC && close(other) == 0);
	other = open(FOLDER "/file", O_RDWR);
	CHECK("io.file.locks", fcntl(fd, F_SETLK, &lock) == 0 && flock(fd, LOCK_SH) == 0 && in_child(is_locked, FOLDER "/file") == 0 &&
	      flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	close(other);
	close(fd);
	CHECK("io.file.links", link(FOLDER "/file", FOLDER "/link") == 0 && symlink("file", FOLDER "/soft") == 0 &&
	      readlink(FOLDER "/soft", text, 100) == 4 && stat(FOLDER "/soft", &st) == 0 && st.st_nlink == 2 && lstat(FOLDER "/soft", &st) == 0 &&
	      S_ISLNK(st.st_mode));
	CHECK("io.file.rename", rename(FOLDER "/link", FOLDER "/moved") == 0 && access(FOLDER "/link", F_OK) < 0 && errno == ENOENT);
	dir = opendir(FOLDER);
	for (n = 0; dir && (entry = readdir(dir)); n++)
		;
	CHECK("io.readdir", n == 6 && closedir(dir) == 0);	/* with . and .. */
	CHECK("io.realpath", realpath(FOLDER "/../posix_io/./soft", in_bss) && !strcmp(in_bss, FOLDER "/file"));
	CHECK("io.copy_file_range", ({
		loff_t from = 3;
		int source = open(FOLDER "/file", O_RDONLY), target = open(FOLDER "/copy", O_RDWR | O_CREAT, 0600);
		ssize_t copied = copy_file_range(source, &from, target, NULL, 5000, 0);

		close(source);
		close(target);
		copied == 5000 && from == 5003;
	}));
}

/* --- waiting --- */

static int events_of(int epoll, struct epoll_event *events, int timeout)
{
	return epoll_wait(epoll, events, 10, timeout);
}

static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	signalled = sig;
}

static int notify(void *arg)
{
	return eventfd_write(*(int *)arg, 77);
}

static void *notify_late(void *arg)
{
	nap(30);
	eventfd_write(*(int *)arg, 78);
	return NULL;
}

static void test_select(void)
{
	struct timeval little = { .tv_usec = 30000 }, zero = { 0 };
	int fds[2], high, pair[2];
	fd_set set, out, urgent;
	double before = seconds();

	CHECK("io.select.sleep", select(0, NULL, NULL, NULL, &little) == 0 && seconds() - before >= 0.03);
	CHECK("io.select.time_used", little.tv_sec == 0 && little.tv_usec == 0);
	make_pipe(fds, 0);
	high = fcntl(fds[0], F_DUPFD, 900);
	FD_ZERO(&set);
	FD_SET(high, &set);
	FD_SET(fds[0], &set);
	CHECK("io.select.nothing", high >= 900 && select(high + 1, &set, NULL, NULL, &zero) == 0 && !FD_ISSET(high, &set));
	FD_SET(high, &set);
	FD_SET(fds[0], &set);
	NEED(write(fds[1], "x", 1) == 1);
	CHECK("io.select.high", select(high + 1, &set, NULL, NULL, NULL) == 2 && FD_ISSET(high, &set) && FD_ISSET(fds[0], &set));
	CHECK("io.select.not_asked", select(high, &set, NULL, NULL, NULL) == 1 && FD_ISSET(fds[0], &set));
	errno = 0;
	CHECK("io.select.negative", select(-1, NULL, NULL, NULL, NULL) < 0 && errno == EINVAL);
	FD_ZERO(&set);
	FD_SET(fds[0], &set);
	CHECK("io.select.end", close(fds[1]) == 0 && read(fds[0], in_bss, 1) == 1 && select(fds[0] + 1, &set, NULL, NULL, NULL) == 1 &&
	      read(fds[0], in_bss, 1) == 0);
	close(fds[0]);
	close(high);
	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && send(pair[0], "!", 1, MSG_OOB) == 1);
	FD_ZERO(&set);
	FD_ZERO(&out);
	FD_ZERO(&urgent);
	FD_SET(pair[1], &out);
	FD_SET(pair[1], &urgent);
	CHECK("io.select.urgent", select(pair[1] + 1, &set, &out, &urgent, NULL) == 2 && FD_ISSET(pair[1], &urgent) && FD_ISSET(pair[1], &out));
	close_both(pair);
}

static void test_poll(void)
{
	struct timespec little = { .tv_nsec = 30000000 };
	struct pollfd one = { .events = POLLIN }, many[200];
	int fds[2], pair[2], good = 1;
	double before = seconds();
	struct rlimit limit, ten;
	pthread_t thread;

	CHECK("io.poll.sleep", poll(NULL, 0, 30) == 0 && seconds() - before >= 0.03);
	before = seconds();
	CHECK("io.poll.sleep_exactly", ppoll(NULL, 0, &little, NULL) == 0 && seconds() - before >= 0.03 && little.tv_nsec == 30000000);
	make_pipe(fds, 0);
	one.fd = fds[0];
	CHECK("io.poll.nothing", poll(&one, 1, 0) == 0 && one.revents == 0);
	NEED(pthread_create(&thread, NULL, write_late, &fds[1]) == 0);
	CHECK("io.poll.wakes", poll(&one, 1, DEADLINE_S * 1000) == 1 && one.revents == POLLIN && pthread_join(thread, NULL) == 0);
	one.fd = -5;
	one.revents = 77;
	CHECK("io.poll.negative", poll(&one, 1, 0) == 0 && one.revents == 0);
	for (unsigned int i = 0; i < ELEMENTS(many); i++)
		many[i] = (struct pollfd){ .fd = i % 3 ? fds[0] : fds[1], .events = POLLIN | POLLOUT };
	good = poll(many, ELEMENTS(many), -1) == ELEMENTS(many);
	for (unsigned int i = 0; i < ELEMENTS(many); i++)
		good &= many[i].revents == (i % 3 ? POLLIN : POLLOUT);
	CHECK("io.poll.two_hundred", good);
	getrlimit(RLIMIT_NOFILE, &limit);
	ten = (struct rlimit){ 10, limit.rlim_max };
	setrlimit(RLIMIT_NOFILE, &ten);
	errno = 0;
	CHECK("io.poll.too_many", poll(many, 11, 0) < 0 && errno == EINVAL);
	setrlimit(RLIMIT_NOFILE, &limit);
	errno = 0;
	CHECK("io.poll.efault", syscall(SYS_poll, 16L, 1, 0) < 0 && errno == EFAULT);
	close(fds[0]);
	one = (struct pollfd){ .fd = fds[1], .events = POLLOUT };
	CHECK("io.poll.error", poll(&one, 1, -1) == 1 && one.revents == (POLLOUT | POLLERR));
	close(fds[1]);
	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	one = (struct pollfd){ .fd = pair[0], .events = POLLIN | POLLRDHUP };
	CHECK("io.poll.half_closed", shutdown(pair[1], SHUT_WR) == 0 && poll(&one, 1, -1) == 1 && one.revents == (POLLIN | POLLRDHUP));
	close_both(pair);
}

static void test_waiting(void)
{
	struct epoll_event event = { .events = EPOLLIN }, events[10];
	struct timespec little = { .tv_nsec = 20000000 };
	struct timeval deadline = { .tv_sec = DEADLINE_S };
	struct pollfd pollfds[3];
	sigset_t none, usr1;
	int fds[2], epoll, outer, fd;
	fd_set reading, writing;
	pthread_t thread;
	uint64_t value;
	double before;

	make_pipe(fds, O_NONBLOCK);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	event.data.u64 = 0x123456789abcdef0;
	CHECK("io.epoll.add", epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event) < 0 && errno == EEXIST);
	CHECK("io.epoll.nothing", events_of(epoll, events, 0) == 0);
	before = seconds();
	CHECK("io.epoll.timeout", events_of(epoll, events, 30) == 0 && seconds() - before >= 0.03);
	NEED(pthread_create(&thread, NULL, write_late, &fds[1]) == 0);
	CHECK("io.epoll.wakes", events_of(epoll, events, DEADLINE_S * 1000) == 1 && events[0].events == EPOLLIN &&
	      events[0].data.u64 == 0x123456789abcdef0);
	pthread_join(thread, NULL);
	CHECK("io.epoll.level", events_of(epoll, events, 0) == 1);
	event.events = EPOLLIN | EPOLLET;
	CHECK("io.epoll.edge", epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event) == 0 && events_of(epoll, events, 0) == 1 && events_of(epoll, events, 0) == 0);
	event.events = EPOLLIN | EPOLLONESHOT;
	CHECK("io.epoll.oneshot", epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event) == 0 && events_of(epoll, events, 0) == 1 &&
	      write(fds[1], "x", 1) == 1 && events_of(epoll, events, 0) == 0);
	outer = epoll_create1(0);
	event.events = EPOLLIN;
	epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event);
	CHECK("io.epoll.nested", epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event) == 0 && events_of(outer, events, 0) == 1);
	close(outer);
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	signal(SIGUSR1, on_signal);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	raise(SIGUSR1);
	CHECK("io.epoll.pwait", read(fds[0], in_bss, 100) == 5 && epoll_pwait(epoll, events, 10, -1, &none) < 0 && errno == EINTR && signalled == SIGUSR1);
	raise(SIGUSR1);
	signalled = 0;
	pollfds[0] = (struct pollfd){ .fd = fds[0], .events = POLLIN };
	CHECK("io.ppoll", ppoll(pollfds, 1, NULL, &none) < 0 && errno == EINTR && signalled == SIGUSR1 && ppoll(pollfds, 1, &little, &none) == 0);
	raise(SIGUSR1);
	signalled = 0;
	FD_ZERO(&reading);
	FD_SET(fds[0], &reading);
	CHECK("io.pselect", pselect(fds[0] + 1, &reading, NULL, NULL, NULL, &none) < 0 && errno == EINTR && signalled == SIGUSR1);
	sigprocmask(SIG_UNBLOCK, &usr1, NULL);
	signal(SIGUSR1, SIG_DFL);

	NEED(pthread_create(&thread, NULL, write_late, &fds[1]) == 0);
	FD_ZERO(&reading);
	FD_SET(fds[0], &reading);
	CHECK("io.select.wakes", select(fds[0] + 1, &reading, NULL, NULL, &deadline) == 1 && FD_ISSET(fds[0], &reading) && deadline.tv_sec < DEADLINE_S);
	pthread_join(thread, NULL);
	FD_ZERO(&writing);
	FD_SET(fds[1], &writing);
	CHECK("io.select.both", select(fds[1] + 1, &reading, &writing, NULL, NULL) == 2 && FD_ISSET(fds[1], &writing));
	pollfds[1] = (struct pollfd){ .fd = fds[1], .events = POLLOUT };
	pollfds[2] = (struct pollfd){ .fd = 999, .events = POLLIN };
	CHECK("io.poll.three", poll(pollfds, 3, -1) == 3 && pollfds[0].revents == POLLIN && pollfds[1].revents == POLLOUT && pollfds[2].revents == POLLNVAL);
	close(fds[1]);
	CHECK("io.poll.hangup", read(fds[0], in_bss, 100) == 4 && poll(pollfds, 1, -1) == 1 && pollfds[0].revents == POLLHUP);
	CHECK("io.epoll.hangup", events_of(epoll, events, 0) == 1 && events[0].events == EPOLLHUP);
	CHECK("io.epoll.delete", epoll_ctl(epoll, EPOLL_CTL_DEL, fds[0], NULL) == 0 && events_of(epoll, events, 0) == 0);
	errno = 0;
	CHECK("io.select.bad", close(fds[0]) == 0 && select(fds[0] + 1, &reading, NULL, NULL, NULL) < 0 && errno == EBADF);
	close(epoll);

	test_select();
	test_poll();

	fd = eventfd(3, EFD_NONBLOCK);
	CHECK("io.eventfd.first", eventfd_read(fd, &value) == 0 && value == 3 && eventfd_read(fd, &value) < 0 && errno == EAGAIN);
	CHECK("io.eventfd.sum", eventfd_write(fd, 5) == 0 && eventfd_write(fd, 6) == 0 && eventfd_read(fd, &value) == 0 && value == 11);
	CHECK("io.eventfd.full", eventfd_write(fd, UINT64_MAX - 1) == 0 && eventfd_write(fd, 1) < 0 && errno == EAGAIN);
	close(fd);
	fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	CHECK("io.eventfd.semaphore", eventfd_read(fd, &value) == 0 && value == 1 && eventfd_read(fd, &value) == 0 && eventfd_read(fd, &value) < 0);
	errno = 0;
	CHECK("io.eventfd.short_read", read(fd, &value, 4) < 0 && errno == EINVAL);
	errno = 0;
	value = UINT64_MAX;
	CHECK("io.eventfd.too_much", write(fd, &value, 8) < 0 && errno == EINVAL);
	pollfds[0] = (struct pollfd){ .fd = fd, .events = POLLIN | POLLOUT };
	CHECK("io.eventfd.poll", poll(pollfds, 1, -1) == 1 && pollfds[0].revents == POLLOUT && eventfd_write(fd, 1) == 0 &&
	      poll(pollfds, 1, -1) == 1 && pollfds[0].revents == (POLLIN | POLLOUT));
	close(fd);
	fd = eventfd(0, EFD_CLOEXEC);
	CHECK("io.eventfd.fork", in_child(notify, &fd) == 0 && eventfd_read(fd, &value) == 0 && value == 77);
	NEED(pthread_create(&thread, NULL, notify_late, &fd) == 0);
	CHECK("io.eventfd.wakes", eventfd_read(fd, &value) == 0 && value == 78 && pthread_join(thread, NULL) == 0);
	CHECK("io.eventfd.cloexec", fcntl(fd, F_GETFD) == FD_CLOEXEC);
	close(fd);
}

static void test_inotify(void)
{
	char buffer[2000] __attribute__((aligned(8)));
	struct inotify_event *event = (void *)buffer;
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), watch;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	ssize_t n;

	CHECK("io.inotify.empty", fd >= 0 && read(fd, buffer, sizeof(buffer)) < 0 && errno == EAGAIN);
	watch = inotify_add_watch(fd, FOLDER, IN_CREATE | IN_DELETE | IN_MOVED_TO);
	put_file(FOLDER "/new", "x");
	CHECK("io.inotify.create", watch >= 0 && poll(&pollfd, 1, DEADLINE_S * 1000) == 1 && read(fd, buffer, sizeof(buffer)) > 0 &&
	      event->wd == watch && event->mask == IN_CREATE && !strcmp(event->name, "new"));
	rename(FOLDER "/new", FOLDER "/newer");
	CHECK("io.inotify.move", read(fd, buffer, sizeof(buffer)) > 0 && event->mask == IN_MOVED_TO && !strcmp(event->name, "newer"));
	unlink(FOLDER "/newer");
	CHECK("io.inotify.delete", read(fd, buffer, sizeof(buffer)) > 0 && event->mask == IN_DELETE);
	CHECK("io.inotify.remove", inotify_rm_watch(fd, watch) == 0 && (n = read(fd, buffer, sizeof(buffer))) > 0 && event->mask == IN_IGNORED);
	watch = inotify_add_watch(fd, FOLDER "/watched", IN_CLOSE_WRITE);
	CHECK("io.inotify.missing_yet", watch < 0 && errno == ENOENT);
	put_file(FOLDER "/watched", "x");
	watch = inotify_add_watch(fd, FOLDER "/watched", IN_MODIFY | IN_OPEN | IN_CLOSE_WRITE | IN_DELETE_SELF);
	put_file(FOLDER "/watched", "again");
	n = read(fd, buffer, sizeof(buffer));
	CHECK("io.inotify.several", n == 4 * sizeof(*event) && event[0].mask == IN_MODIFY && event[1].mask == IN_OPEN &&
	      event[2].mask == IN_MODIFY && event[3].mask == IN_CLOSE_WRITE && event[3].wd == watch);
	CHECK("io.inotify.same_watch", inotify_add_watch(fd, FOLDER "/watched", IN_MASK_ADD | IN_ACCESS) == watch);
	unlink(FOLDER "/watched");
	CHECK("io.inotify.itself", read(fd, buffer, sizeof(buffer)) == 2 * sizeof(*event) && event[0].mask == IN_DELETE_SELF &&
	      event[1].mask == IN_IGNORED);
	errno = 0;
	CHECK("io.inotify.not_one", inotify_rm_watch(1, 1) < 0 && errno == EINVAL);
	errno = 0;
	CHECK("io.inotify.missing", inotify_add_watch(fd, "/no/such", IN_CREATE) < 0 && errno == ENOENT);
	close(fd);
}

/* --- moving data --- */

static int moved(int from_pipe, const char *want, size_t size)
{
	memset(in_bss, 0, size);
	return read_all(from_pipe, in_bss, size) == (ssize_t)size && !memcmp(in_bss, want, size);
}

static void test_moving(void)
{
	struct iovec iov = { in_data, 8192 };
	int fds[2], more[2], pair[2], fd, other;
	off_t at = 100;
	loff_t offset = 0;

	fill(in_data, SIZE, 9);
	fd = open(FOLDER "/move", O_RDWR | O_CREAT, 0600);
	NEED(fd >= 0 && write(fd, in_data, SIZE) == SIZE);
	make_pipe(fds, 0);
	make_pipe(more, 0);
	CHECK("io.sendfile", sendfile(fds[1], fd, &at, 5000) == 5000 && at == 5100 && moved(fds[0], in_data + 100, 5000));
	CHECK("io.splice.file_to_pipe", splice(fd, &offset, fds[1], NULL, 8000, 0) == 8000 && offset == 8000 && moved(fds[0], in_data, 8000));
	CHECK("io.splice.pipe_to_file", write(fds[1], "into the file", 13) == 13 && (offset = 1000, 1) &&
	      splice(fds[0], NULL, fd, &offset, 13, 0) == 13 && pread(fd, in_bss, 13, 1000) == 13 && !memcmp(in_bss, "into the file", 13));
	NEED(pwrite(fd, in_data, SIZE, 0) == SIZE);
	CHECK("io.sendfile.position", lseek(fd, 300, SEEK_SET) == 300 && sendfile(fds[1], fd, NULL, 1000) == 1000 &&
	      lseek(fd, 0, SEEK_CUR) == 1300 && moved(fds[0], in_data + 300, 1000));
	at = SIZE - 10;
	CHECK("io.sendfile.end", sendfile(fds[1], fd, &at, 1000) == 10 && sendfile(fds[1], fd, &at, 1000) == 0 && at == SIZE &&
	      moved(fds[0], in_data + SIZE - 10, 10));
	other = open(FOLDER "/sent", O_RDWR | O_CREAT | O_TRUNC, 0600);
	at = 0;
	CHECK("io.sendfile.to_file", sendfile(other, fd, &at, SIZE) == SIZE && pread(other, in_bss, SIZE, 0) == SIZE && !memcmp(in_bss, in_data, SIZE));
	errno = 0;
	CHECK("io.sendfile.from_pipe", sendfile(other, fds[0], NULL, 10) < 0 && (errno == EINVAL || errno == ESPIPE));
	errno = 0;
	CHECK("io.sendfile.read_only", (close(other), other = open(FOLDER "/sent", O_RDONLY)) >= 0 && sendfile(other, fd, NULL, 10) < 0 && errno == EBADF);
	errno = 0;
	CHECK("io.sendfile.bad_address", sendfile(fds[1], fd, (off_t *)16, 10) < 0 && errno == EFAULT);
	close(other);
	unlink(FOLDER "/sent");
	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK("io.splice.pipe_to_socket", write(fds[1], in_data, 3000) == 3000 && splice(fds[0], NULL, pair[0], NULL, 3000, 0) == 3000 &&
	      moved(pair[1], in_data, 3000));
	CHECK("io.splice.socket_to_pipe", write(pair[1], in_data, 3000) == 3000 && splice(pair[0], NULL, fds[1], NULL, 3000, 0) == 3000 &&
	      moved(fds[0], in_data, 3000));
	close_both(pair);
	errno = 0;
	CHECK("io.splice.nothing", splice(fds[0], NULL, more[1], NULL, 10, SPLICE_F_NONBLOCK) < 0 && errno == EAGAIN);
	errno = 0;
	CHECK("io.splice.no_pipe", splice(fd, NULL, fd, NULL, 10, 0) < 0 && errno == EINVAL);
	offset = SIZE;
	CHECK("io.splice.end", splice(fd, &offset, fds[1], NULL, 10, 0) == 0);
	errno = 0;
	CHECK("io.splice.position_of_pipe", splice(fds[0], &offset, more[1], NULL, 10, 0) < 0 && errno == ESPIPE);
	CHECK("io.tee", write(fds[1], in_data, 3000) == 3000 && tee(fds[0], more[1], 3000, 0) == 3000 && moved(more[0], in_data, 3000) &&
	      moved(fds[0], in_data, 3000));
	CHECK("io.splice.pipe_to_pipe", write(fds[1], in_data, 3000) == 3000 && splice(fds[0], NULL, more[1], NULL, 3000, 0) == 3000 &&
	      moved(more[0], in_data, 3000));
	iov.iov_len = 4096;	/* pins.c has more than a page */
	CHECK("io.vmsplice.data", vmsplice(fds[1], &iov, 1, 0) == 4096 && moved(fds[0], in_data, 4096));
	/* The pipe has the very page. */
	iov.iov_base = in_data + 50;
	iov.iov_len = 100;
	CHECK("io.vmsplice.no_copy", vmsplice(fds[1], &iov, 1, 0) == 100 && memset(in_data + 50, 'n', 100) && moved(fds[0], in_data + 50, 100) &&
	      in_bss[99] == 'n');
	iov = (struct iovec){ in_bss + 8192, 4096 };
	fill(in_bss + 8192, 4096, 4);
	CHECK("io.vmsplice.bss", vmsplice(fds[1], &iov, 1, 0) == 4096 && read_all(fds[0], in_data, 4096) == 4096 && !memcmp(in_data, in_bss + 8192, 4096));
	iov = (struct iovec){ (char *)"a constant of the program", 26 };
	CHECK("io.vmsplice.constant", vmsplice(fds[1], &iov, 1, 0) == 26 && read(fds[0], in_bss, 26) == 26 && !strcmp(in_bss, "a constant of the program"));
	iov = (struct iovec){ in_bss, 4096 };
	CHECK("io.vmsplice.out", write(fds[1], in_data, 4096) == 4096 && vmsplice(fds[0], &iov, 1, 0) == 4096 && !memcmp(in_bss, in_data, 4096));
	close_both(fds);
	close_both(more);
	close(fd);
	unlink(FOLDER "/move");
}

static void test_own_memory(void)
{
	int fd = open("/proc/self/mem", O_RDWR);

	fill(in_data, SIZE, 11);
	CHECK("io.proc_mem.read", fd >= 0 && lseek(fd, (off_t)(intptr_t)in_data, SEEK_SET) == (off_t)(intptr_t)in_data &&
	      read(fd, in_bss, 20000) == 20000 && !memcmp(in_data, in_bss, 20000));
	CHECK("io.proc_mem.write", lseek(fd, (off_t)(intptr_t)(in_data + 4090), SEEK_SET) != -1 && write(fd, "by the kernel", 13) == 13 &&
	      !memcmp(in_data + 4090, "by the kernel", 13));
	CHECK("io.proc_mem.pread", pread(fd, in_bss, 100, (off_t)(intptr_t)(in_data + 500)) == 100 && !memcmp(in_data + 500, in_bss, 100));
	close(fd);
}

static void test_aio(void)
{
	struct aiocb blocks[3] = { 0 };
	const struct aiocb *const list[1] = { &blocks[0] };
	int fd = open(FOLDER "/aio", O_RDWR | O_CREAT, 0600), good = 1;

	fill(in_data, SIZE, 2);
	for (int i = 0; i < 3; i++) {
		blocks[i].aio_fildes = fd;
		blocks[i].aio_buf = in_data + i * 10000;
		blocks[i].aio_nbytes = 10000;
		blocks[i].aio_offset = i * 10000;
		good &= aio_write(&blocks[i]) == 0;
	}
	for (int i = 0; i < 3; i++)
		good &= SOON(aio_error(&blocks[i]) != EINPROGRESS) && aio_return(&blocks[i]) == 10000;
	CHECK("io.aio.write", good && pread(fd, in_bss, 30000, 0) == 30000 && !memcmp(in_data, in_bss, 30000));
	memset(in_bss, 0, 10000);
	blocks[0].aio_buf = in_bss;
	CHECK("io.aio.read", aio_read(&blocks[0]) == 0 && aio_suspend(list, 1, NULL) == 0 && aio_return(&blocks[0]) == 10000 &&
	      !memcmp(in_data, in_bss, 10000));
	close(fd);
}

/* --- futexes that processes share --- */

static unsigned int word_in_data = 1, word_in_bss;

static long futex(unsigned int *word, int operation, unsigned int value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static void *wait_shared(void *arg)
{
	unsigned int *word = arg, value = *word;
	struct timespec deadline = { .tv_sec = DEADLINE_S };

	while (*(volatile unsigned int *)word == value)
		if (futex(word, FUTEX_WAIT, value, &deadline) < 0 && errno == ETIMEDOUT)
			return arg;
	return NULL;
}

static int wake_child(void *arg)
{
	unsigned int *word = arg;

	__atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
	futex(word, FUTEX_WAKE, INT_MAX, NULL);
	return 0;
}

static int nobody_waits(void *arg)
{
	/* The parent does, at the same address: but globals are each process's own. */
	return futex(arg, FUTEX_WAKE, INT_MAX, NULL) != 0;
}

static void test_futexes(void)
{
	static const char *const names[3] = { "data", "bss", "mapped" };
	unsigned int *words[3] = { &word_in_data, &word_in_bss, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };
	struct timespec little = { .tv_nsec = 20000000 };
	pthread_t thread;
	char name[60];
	void *ret;

	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "io.futex.%s.again", names[i]);
		errno = 0;
		CHECK(name, futex(words[i], FUTEX_WAIT, *words[i] + 1, NULL) < 0 && errno == EAGAIN);
		snprintf(name, sizeof(name), "io.futex.%s.timeout", names[i]);
		CHECK(name, futex(words[i], FUTEX_WAIT, *words[i], &little) < 0 && errno == ETIMEDOUT);
		NEED(pthread_create(&thread, NULL, wait_shared, words[i]) == 0);
		nap(20);
		if (i < 2) {
			snprintf(name, sizeof(name), "io.futex.%s.private_to_process", names[i]);
			EQUAL(name, in_child(nobody_waits, words[i]), 0);
			__atomic_add_fetch(words[i], 1, __ATOMIC_SEQ_CST);
			futex(words[i], FUTEX_WAKE, INT_MAX, NULL);
		} else {
			in_child(wake_child, words[i]);
		}
		pthread_join(thread, &ret);
		snprintf(name, sizeof(name), "io.futex.%s.wake", names[i]);
		CHECK(name, ret == NULL);
	}
	munmap(words[2], 4096);
}

/* --- io_uring --- */

struct uring {
	int fd;
	unsigned int *sq_head, *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static int uring_setup(struct uring *uring, unsigned int flags)
{
	struct io_uring_params params = { .flags = flags, .sq_thread_idle = 100 };
	char *sq, *cq;

	uring->fd = syscall(SYS_io_uring_setup, 16, &params);
	if (uring->fd < 0)
		return -errno;
	sq = mmap(NULL, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring->fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		  uring->fd, IORING_OFF_CQ_RING);
	uring->sqes = mmap(NULL, params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring->fd, IORING_OFF_SQES);
	NEED(sq != MAP_FAILED && cq != MAP_FAILED && uring->sqes != MAP_FAILED);
	uring->sq_head = (unsigned int *)(sq + params.sq_off.head);
	uring->sq_tail = (unsigned int *)(sq + params.sq_off.tail);
	uring->sq_mask = (unsigned int *)(sq + params.sq_off.ring_mask);
	uring->sq_array = (unsigned int *)(sq + params.sq_off.array);
	uring->cq_head = (unsigned int *)(cq + params.cq_off.head);
	uring->cq_tail = (unsigned int *)(cq + params.cq_off.tail);
	uring->cq_mask = (unsigned int *)(cq + params.cq_off.ring_mask);
	uring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return 0;
}

static void uring_submit(struct uring *uring, const struct io_uring_sqe *sqe, int wake)
{
	unsigned int tail = *uring->sq_tail, at = tail & *uring->sq_mask;

	uring->sqes[at] = *sqe;
	uring->sq_array[at] = at;
	__atomic_store_n(uring->sq_tail, tail + 1, __ATOMIC_SEQ_CST);
	syscall(SYS_io_uring_enter, uring->fd, 1, 0, wake ? IORING_ENTER_SQ_WAKEUP : 0, NULL, 0);
}

/* The result of the next completion; -ETIME if there is none. */
static int uring_result(struct uring *uring, uint64_t user_data)
{
	struct io_uring_cqe *cqe;
	int ret;

	/* Entering runs what the kernel has put off for this task. */
	if (!SOON((syscall(SYS_io_uring_enter, uring->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0),
		   __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE) != *uring->cq_head)))
		return -ETIME;
	cqe = &uring->cqes[*uring->cq_head & *uring->cq_mask];
	ret = cqe->user_data == user_data ? cqe->res : -EBADMSG;
	__atomic_store_n(uring->cq_head, *uring->cq_head + 1, __ATOMIC_RELEASE);
	return ret;
}

static int uring_do(struct uring *uring, struct io_uring_sqe sqe)
{
	static uint64_t number;

	sqe.user_data = ++number;
	uring_submit(uring, &sqe, 0);
	return uring_result(uring, number);
}

static void test_uring(void)
{
	struct iovec iovs[2] = { { in_data, 4096 }, { in_bss, 4096 } }, iov = { in_bss + 300, 3000 };
	struct __kernel_timespec little = { .tv_nsec = 20000000 };
	struct uring uring, polled;
	struct io_uring_sqe sqe;
	int fds[2], fd, ret;

	NEED(uring_setup(&uring, 0) == 0);
	fill(in_data, SIZE, 7);
	memset(in_bss, 0, SIZE);
	fd = open(FOLDER "/uring", O_RDWR | O_CREAT, 0600);
	make_pipe(fds, 0);
	EQUAL("io.io_uring.nop", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_NOP }), 0);
	EQUAL("io.io_uring.write_global", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)in_data, .len = SIZE }), SIZE);
	EQUAL("io.io_uring.read_global", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = fd, .addr = (uintptr_t)in_bss, .len = SIZE }), SIZE);
	CHECK("io.io_uring.contents", !memcmp(in_data, in_bss, SIZE));
	memset(in_bss, 0, SIZE);
	EQUAL("io.io_uring.readv", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READV, .fd = fd, .addr = (uintptr_t)&iov, .len = 1, .off = 500 }), 3000);
	CHECK("io.io_uring.readv_contents", !memcmp(in_data + 500, in_bss + 300, 3000));
	/* By a thread of the kernel that works for this process. */
	memset(in_bss, 0, SIZE);
	EQUAL("io.io_uring.async_write", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .flags = IOSQE_ASYNC, .fd = fds[1],
						 .addr = (uintptr_t)in_data + 10, .len = 5000 }), 5000);
	EQUAL("io.io_uring.async_read", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READ, .flags = IOSQE_ASYNC, .fd = fds[0],
						.addr = (uintptr_t)in_bss + 10, .len = 5000 }), 5000);
	CHECK("io.io_uring.async_contents", !memcmp(in_data + 10, in_bss + 10, 5000));
	EQUAL("io.io_uring.register_globals", syscall(SYS_io_uring_register, uring.fd, IORING_REGISTER_BUFFERS, iovs, 2), 0);
	memset(in_bss, 0, SIZE);
	EQUAL("io.io_uring.read_fixed", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READ_FIXED, .fd = fd, .addr = (uintptr_t)in_bss + 100,
						.len = 3000, .buf_index = 1 }), 3000);
	CHECK("io.io_uring.fixed_contents", !memcmp(in_data, in_bss + 100, 3000));
	EQUAL("io.io_uring.write_fixed", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_WRITE_FIXED, .fd = fds[1], .addr = (uintptr_t)in_data + 77,
						 .len = 4000 }), 4000);
	CHECK("io.io_uring.write_fixed_contents", read(fds[0], in_bss, 4000) == 4000 && !memcmp(in_data + 77, in_bss, 4000));
	EQUAL("io.io_uring.unregister", syscall(SYS_io_uring_register, uring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
	EQUAL("io.io_uring.timeout", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_TIMEOUT, .addr = (uintptr_t)&little, .len = 1 }), -ETIME);
	EQUAL("io.io_uring.bad_address", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = fd, .addr = 16, .len = 100 }), -EFAULT);
	EQUAL("io.io_uring.kernel_address", uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_READ, .flags = IOSQE_ASYNC, .fd = fd,
						    .addr = 0xffff888000001000, .len = 100 }), -EFAULT);
	sqe = (struct io_uring_sqe){ .opcode = IORING_OP_POLL_ADD, .fd = fds[0], .poll32_events = POLLIN, .user_data = 4242 };
	uring_submit(&uring, &sqe, 0);
	CHECK("io.io_uring.poll", write(fds[1], "x", 1) == 1 && uring_result(&uring, 4242) == POLLIN && read(fds[0], in_bss, 1) == 1);
	sqe = (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = fds[0], .addr = (uintptr_t)in_bss, .len = 100, .user_data = 4343 };
	uring_submit(&uring, &sqe, 0);
	CHECK("io.io_uring.read_later", write(fds[1], "later", 5) == 5 && uring_result(&uring, 4343) == 5 && !memcmp(in_bss, "later", 5));
	EQUAL("io.io_uring.openat", ({
		ret = uring_do(&uring, (struct io_uring_sqe){ .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)FOLDER "/uring", .open_flags = O_RDONLY });
		ret >= 0 ? close(ret) : ret;
	}), 0);
	close(uring.fd);

	/* A thread of the kernel that takes what is in memory. */
	ret = uring_setup(&polled, IORING_SETUP_SQPOLL);
	EQUAL("io.io_uring.sqpoll_setup", ret, 0);
	if (!ret) {
		memset(in_bss, 0, SIZE);
		sqe = (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = fd, .addr = (uintptr_t)in_bss, .len = SIZE, .user_data = 4444 };
		uring_submit(&polled, &sqe, 1);
		EQUAL("io.io_uring.sqpoll_read", uring_result(&polled, 4444), SIZE);
		CHECK("io.io_uring.sqpoll_contents", !memcmp(in_data, in_bss, SIZE));
		close(polled.fd);
	}
	close_both(fds);
	close(fd);
}

/* The other ring has perhaps been here, or a run that was ended. */
static void remove_folder(void)
{
	DIR *dir = opendir(FOLDER);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(FOLDER);
}

int io_suite(void)
{
	remove_folder();
	NEED(mkdir(FOLDER, 0755) == 0);
	test_files();
	test_waiting();
	test_inotify();
	test_moving();
	test_own_memory();
	test_aio();
	test_futexes();
	test_uring();
	remove_folder();
	return check_failed;
}
