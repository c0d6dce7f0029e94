// SPDX-License-Identifier: Apache-2.0
#include "exec.h"

#include <linux/fcntl.h>
#include <linux/stat.h>

#include "conf.h"
#include "port.h"
#include "resume.h"
#include "setup.h"
#include "spawn.h"

enum {
	TIOCSPTLCK_ = 0x40045431,
	TIOCGPTN_ = (int)0x80045430,
	TIOCSWINSZ_ = 0x5414,
	MAX_ARGS = 256,
	MACHINE = 255, /* no session: the application, or the machine itself */
	HEAD = 4, /* bytes of a frame before its payload */
};

enum how { EXITED, SIGNALLED, IMPOSSIBLE };

struct session {
	bool used;
	bool file; /* it writes a file, there is no process */
	int pid; /* 0 when it has ended */
	int how; /* wait4()'s, then */
	int in, out, err; /* our ends, -1 if closed; one descriptor of a terminal is in and out */
	bool terminal;
	bool eof; /* nothing follows on standard input */
	unsigned int credit; /* frames that may be sent */
	size_t held, at; /* what was not written to @in yet, from @at on */
	char hold[PAYLOAD];
};

static struct session sessions[SESSIONS];
static int port = -1;

struct size {
	uint16_t rows, columns, x, y;
};

bool exec_open(void)
{
	port = port_open(EXEC_PORT, O_RDWR | O_NONBLOCK, 0);
	for (int i = 0; i < SESSIONS; i++)
		sessions[i].in = sessions[i].out = sessions[i].err = -1;
	return port >= 0;
}

/* The host always takes it, unless it is gone: see CREDIT. */
static void send(char type, size_t id, const char *payload, size_t length)
{
	static char frame[HEAD + PAYLOAD];

	frame[0] = type;
	frame[1] = (char)id;
	frame[2] = (char)length;
	frame[3] = (char)(length >> 8);
	memcpy(frame + HEAD, payload, length);
	if (port >= 0 && !port_write(port, frame, HEAD + length)) {
		SYS1(close, port);
		port = -1;
	}
}

static void shut(int *fd)
{
	if (*fd >= 0)
		SYS1(close, *fd);
	*fd = -1;
}

static void over(size_t id, enum how how, int number, const char *step)
{
	struct session *it = &sessions[id];
	char payload[5 + sizeof(((struct trouble *)0)->step)];

	payload[0] = (char)how;
	memcpy(payload + 1, &number, 4);
	memcpy(payload + 5, step, strlen(step));
	if (it->terminal)
		it->in = -1; /* the same as out */
	shut(&it->in);
	shut(&it->out);
	shut(&it->err);
	it->used = false;
	send('X', id, payload, 5 + strlen(step));
}

struct command {
	char **argv;
	const char *terminal; /* its path, or NULL */
	int in, out, err;
};

static void become(const void *what, struct trouble *trouble)
{
	static const char *const folders[] = {
		"/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/local/bin"
	};
	const struct command *it = what;
	int ends[] = { it->in, it->out, it->err };
	bool searched = true;
	char path[256];
	long error = -ENOENT;

	if (it->terminal) {
		/* The first one that a session without a terminal opens becomes its own. */
		long fd = SYS3(open, it->terminal, O_RDWR, 0);

		if (failed(trouble, "terminal", fd))
			return;
		ends[0] = ends[1] = ends[2] = (int)fd;
	}
	for (int i = 0; i < 3; i++)
		if (failed(trouble, "dup", SYS2(dup2, ends[i], i)))
			return;
	if (failed(trouble, "chdir", SYS1(chdir, conf.cwd)))
		return;
	for (const char *c = it->argv[0]; *c; c++)
		searched = searched && *c != '/';
	if (!searched)
		error = SYS3(execve, it->argv[0], it->argv, conf.env.v);
	for (size_t i = 0; searched && error == -ENOENT && i < ARRAY_SIZE(folders); i++) {
		format(path, sizeof(path), "%s/%s", folders[i], it->argv[0]);
		error = SYS3(execve, path, it->argv, conf.env.v);
	}
	failed(trouble, "exec", error);
}

/* A pair of which the program gets end @theirs; ours does not block. */
static bool open_pipe(struct trouble *trouble, int theirs, int *ours, int *other)
{
	int ends[2];

	if (failed(trouble, "pipe", SYS2(pipe2, ends, O_CLOEXEC)))
		return false;
	*ours = ends[!theirs];
	*other = ends[theirs];
	return !failed(trouble, "pipe", SYS3(fcntl, *ours, F_SETFL, O_NONBLOCK));
}

static bool open_terminal(struct trouble *trouble, int *ours, char *path, size_t room)
{
	int unlocked = 0, number;

	*ours = (int)SYS3(open, "/dev/ptmx", O_RDWR | O_CLOEXEC | O_NONBLOCK, 0);
	if (failed(trouble, "ptmx", *ours) ||
	    failed(trouble, "ptmx", SYS3(ioctl, *ours, TIOCSPTLCK_, &unlocked)) ||
	    failed(trouble, "ptmx", SYS3(ioctl, *ours, TIOCGPTN_, &number)))
		return false;
	format(path, room, "/dev/pts/%d", number);
	return true;
}

static void resize(const struct session *it, const char *payload)
{
	struct size size = { 0 };

	memcpy(&size, payload, 4);
	SYS3(ioctl, it->out, TIOCSWINSZ_, &size);
}

static void start(size_t id, char *payload, size_t length, bool terminal)
{
	static char *argv[MAX_ARGS + 1];
	struct session *it = &sessions[id];
	struct command command = { .argv = argv, .in = -1, .out = -1, .err = -1 };
	struct trouble trouble = { 0 };
	const char *sizes = payload;
	char path[32];
	size_t n = 0;
	bool ready;

	if (terminal) {
		payload += 4;
		length -= 4;
	}
	for (size_t i = 0; i < length && n < MAX_ARGS; i += strlen(payload + i) + 1)
		argv[n++] = payload + i;
	argv[n] = NULL;
	it->terminal = terminal;
	if (terminal) {
		ready = open_terminal(&trouble, &it->out, path, sizeof(path));
		it->in = it->out;
		command.terminal = path;
		if (ready)
			resize(it, sizes);
	} else {
		ready = open_pipe(&trouble, 0, &it->in, &command.in) &&
			open_pipe(&trouble, 1, &it->out, &command.out) &&
			open_pipe(&trouble, 1, &it->err, &command.err);
	}
	if (ready)
		it->pid = spawn(&trouble, become, &command);
	shut(&command.in);
	shut(&command.out);
	shut(&command.err);
	if (trouble.error)
		over(id, IMPOSSIBLE, trouble.error, trouble.step);
}

static void create(size_t id, char *payload)
{
	struct session *it = &sessions[id];
	struct trouble trouble = { 0 };
	uint16_t mode;

	memcpy(&mode, payload, 2);
	it->file = true;
	make_parents(payload + 2);
	it->in = (int)SYS3(open, payload + 2, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	/* Of one that was there as well. */
	if (failed(&trouble, "open", it->in) || failed(&trouble, "chmod", SYS2(fchmod, it->in, mode)))
		over(id, IMPOSSIBLE, trouble.error, trouble.step);
}

/* Passes on what is held for standard input, as much as is taken. */
static void feed(size_t id)
{
	struct session *it = &sessions[id];
	bool some = it->held;

	while (it->held && it->in >= 0) {
		long got = SYS3(write, it->in, it->hold + it->at, it->held);

		if (got == -EINTR)
			continue;
		if (got == -EAGAIN)
			return;
		if (got < 0 && it->file) {
			over(id, IMPOSSIBLE, (int)-got, "write");
			return;
		}
		if (got < 0) /* nobody reads it any more */
			break;
		it->at += (size_t)got;
		it->held -= (size_t)got;
	}
	it->at = it->held = 0;
	if (some)
		send('A', id, "", 0);
	if (!it->eof)
		return;
	if (it->file)
		over(id, EXITED, 0, "");
	else if (!it->terminal)
		shut(&it->in);
}

static void take_machines(char type, const char *payload, size_t length, int application)
{
	int64_t time;

	if (type == 'K' && length == 1 && application) {
		SYS2(kill, application, payload[0]);
	} else if (type == 'S') {
		resume_settle();
	} else if (type == 'C' && length == sizeof(time) + RESUME_SEED) {
		memcpy(&time, payload, sizeof(time));
		resume_go_on(time, payload + sizeof(time));
	}
}

static void take_frame(char type, size_t id, char *payload, size_t length, int application)
{
	struct session *it = &sessions[id < SESSIONS ? id : 0];

	if (id == MACHINE)
		take_machines(type, payload, length, application);
	if (id >= SESSIONS)
		return;
	payload[length] = '\0';
	if (!it->used && (type == 'T' || type == 'R' || type == 'F')) {
		memset(it, 0, sizeof(*it));
		it->in = it->out = it->err = -1;
		it->used = true;
		it->credit = CREDIT;
		if (length <= (type == 'T' ? 4 : type == 'F' ? 2 : 0))
			over(id, IMPOSSIBLE, EINVAL, "arguments");
		else if (type == 'F')
			create(id, payload);
		else
			start(id, payload, length, type == 'T');
	} else if (it->used && type == 'A' && it->credit < CREDIT) {
		it->credit++;
	} else if (it->used && type == 'D' && !it->held && !it->eof) {
		memcpy(it->hold, payload, length);
		it->held = length;
		it->eof = !length;
		feed(id);
	} else if (it->used && type == 'K' && length == 1 && it->pid) {
		SYS2(kill, -it->pid, payload[0]);
	} else if (it->used && type == 'W' && length == 4 && it->terminal) {
		resize(it, payload);
	}
}

static void take_frames(int application)
{
	static char buffer[HEAD + PAYLOAD + 1]; /* a NUL behind */
	static size_t have;
	long got;

	for (;;) {
		size_t wanted = HEAD;

		if (have >= HEAD)
			wanted += (unsigned char)buffer[2] | (size_t)(unsigned char)buffer[3] << 8;
		if (wanted > HEAD + PAYLOAD) { /* not a host of ours */
			shut(&port);
			return;
		}
		if (have == wanted) {
			have = 0;
			take_frame(buffer[0], (unsigned char)buffer[1], buffer + HEAD, wanted - HEAD, application);
			continue;
		}
		got = SYS3(read, port, buffer + have, wanted - have);
		if (got <= 0) /* nothing more, or the host is not there (0) */
			return;
		have += (size_t)got;
	}
}

/* Sends what a program has written; false when there is nothing more for now. */
static bool pass_on(size_t id, int *fd, char type)
{
	struct session *it = &sessions[id];
	char data[PAYLOAD];
	long got;

	if (*fd < 0 || !it->credit)
		return false;
	got = SYS3(read, *fd, data, sizeof(data));
	if (got > 0) {
		it->credit--;
		send(type, id, data, (size_t)got);
		return true;
	}
	/* Its end, or EIO: nobody has the terminal open any more. */
	if (got != -EAGAIN && got != -EINTR) {
		if (it->terminal)
			it->in = -1;
		shut(fd);
	}
	return false;
}

void exec_wait(struct pollfd *fds)
{
	for (int i = 0; i < EXEC_FDS; i++)
		fds[i] = (struct pollfd){ .fd = -1 };
	fds[0] = (struct pollfd){ .fd = port, .events = POLLIN };
	for (int i = 0; i < SESSIONS; i++) {
		const struct session *it = &sessions[i];

		/* When its process has ended there is nothing to wait for but the host. */
		if (!it->used || (!it->file && !it->pid))
			continue;
		if (it->held)
			fds[1 + 3 * i] = (struct pollfd){ .fd = it->in, .events = POLLOUT };
		if (it->credit) {
			fds[2 + 3 * i] = (struct pollfd){ .fd = it->out, .events = POLLIN };
			fds[3 + 3 * i] = (struct pollfd){ .fd = it->err, .events = POLLIN };
		}
	}
}

void exec_step(const struct pollfd *fds, int application)
{
	if (port >= 0 && fds[0].revents & POLLIN)
		take_frames(application);
	else if (fds[0].revents & POLLHUP) /* nobody is at the host's end, and would not come */
		shut(&port);
	for (size_t id = 0; id < SESSIONS; id++) {
		struct session *it = &sessions[id];

		if (!it->used)
			continue;
		if (it->held)
			feed(id);
		if (!it->used || it->file)
			continue;
		while (pass_on(id, &it->out, 'O') || pass_on(id, &it->err, 'E'))
			;
		/* What it has left behind was sent, or waits for the host to take more. */
		if (!it->pid && it->credit)
			over(id, it->how & 0x7f ? SIGNALLED : EXITED,
			     it->how & 0x7f ? it->how & 0x7f : it->how >> 8 & 0xff, "");
	}
}

void exec_ended(int pid, int how)
{
	for (int i = 0; i < SESSIONS; i++) {
		if (sessions[i].used && sessions[i].pid == pid) {
			sessions[i].pid = 0;
			sessions[i].how = how;
		}
	}
}
