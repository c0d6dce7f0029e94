// SPDX-License-Identifier: Apache-2.0
#include "resume.h"

#include <linux/fcntl.h>
#include <linux/random.h>

#include "status.h"

enum {
	SETTLE_WAIT = 5000, /* ms for connections to be closed */
	SETTLE_POLL = 5,
	FIELDS = 4, /* of a line: number, local, remote address, state */
};

/* include/net/tcp_states.h, as /proc/net/tcp has them */
#define TIME_WAIT "06"
#define LISTEN "0A"

static int64_t settle_until = FOREVER, settle_at = FOREVER;

/* Words of the host's byte order each: 127.x.y.z, also behind ::ffff:, or ::1. */
static bool is_loopback(const char *address)
{
	const char *mapped = after(address, "0000000000000000FFFF0000");

	if (mapped)
		address = mapped;
	return after(address + 6, "7F:") || after(address, "00000000000000000000000001000000:");
}

/*
 * Whether a line of /proc/net/tcp or tcp6 is a connection to another machine, and not only
 * remembered: "   1: 0F02000A:18EB 0202000A:D2F4 01 ..."
 */
static bool leads_outside(const char *line)
{
	const char *field[FIELDS];

	for (size_t i = 0; i < FIELDS; i++) {
		while (*line == ' ')
			line++;
		field[i] = line;
		while (*line && *line != ' ')
			line++;
		if (!*line)
			return false; /* the list was longer than our buffer */
	}
	return !after(field[3], LISTEN) && !after(field[3], TIME_WAIT) && !is_loopback(field[2]);
}

static uint32_t open_connections(void)
{
	static const char *const lists[] = { "/proc/net/tcp", "/proc/net/tcp6" };
	static char text[1 << 16];
	uint32_t found = 0;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		long length = read_file(lists[i], text, sizeof(text) - 1);

		if (length < 0) /* a kernel without IPv6 */
			continue;
		text[length] = '\0';
		/* The first line is a heading. */
		for (char *line = text, *end; *line; line = end) {
			for (end = line; *end && *end != '\n'; end++)
				;
			if (*end)
				*end++ = '\0';
			found += line != text && leads_outside(line);
		}
	}
	return found;
}

void resume_settle(void)
{
	settle_at = now();
	settle_until = settle_at + SETTLE_WAIT;
}

int64_t resume_step(void)
{
	if (now() >= settle_at) {
		uint32_t left = open_connections();

		settle_at = now() + SETTLE_POLL;
		if (!left || now() >= settle_until) {
			settle_at = FOREVER;
			status("\"event\":\"settled\",\"connections\":%u,\"uptime_ms\":%l", left, now());
		}
	}
	return settle_at;
}

/* Random numbers that others got who went on from the same state are not to come again. */
static long reseed(const void *seed)
{
	struct {
		struct rand_pool_info info;
		uint32_t bytes[RESUME_SEED / 4];
	} pool = { .info = { .buf_size = RESUME_SEED, .entropy_count = RESUME_SEED * 8 } };
	long fd = SYS3(open, "/dev/urandom", O_WRONLY | O_CLOEXEC, 0), error;

	if (fd < 0)
		return fd;
	memcpy(pool.bytes, seed, RESUME_SEED);
	error = SYS3(ioctl, fd, RNDADDENTROPY, &pool);
	if (!error)
		error = SYS3(ioctl, fd, RNDRESEEDCRNG, 0);
	SYS1(close, fd);
	return error;
}

void resume_go_on(int64_t time, const void *seed)
{
	int64_t parts[2] = { time / 1000000000, time % 1000000000 };
	long error = reseed(seed);

	if (!error)
		error = SYS2(clock_settime, 0 /* CLOCK_REALTIME */, parts);
	status("\"event\":\"resumed\",\"errno\":%d,\"uptime_ms\":%l", (int)-error, now());
}
