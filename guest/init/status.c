// SPDX-License-Identifier: Apache-2.0
#include "status.h"

#include <linux/fcntl.h>
#include <linux/poll.h>

enum {
	VIRTIO_CONSOLE = 3, /* VIRTIO_ID_CONSOLE */
	PORT_WAIT = 2000, /* ms for the port to appear, when there is a device that has ports */
	HOST_WAIT = 2000, /* ms for the host to take a line */
};

static int port = -1;

static bool has_device(const char *name, void *context)
{
	char path[128], text[16];

	(void)context;
	format(path, sizeof(path), "/sys/bus/virtio/devices/%s/device", name);
	/* "0x0003\n" */
	return read_file(path, text, sizeof(text)) >= 6 && !memcmp(text, "0x0003", 6);
}

/* udev makes /dev/virtio-ports/NAME; without it the name is in sysfs. */
static bool open_port(const char *name, void *context)
{
	char path[128], text[64];
	long length;

	(void)context;
	format(path, sizeof(path), "/sys/class/virtio-ports/%s/name", name);
	length = read_file(path, text, sizeof(text) - 1);
	if (length <= 0)
		return false;
	text[length - (text[length - 1] == '\n')] = '\0';
	if (!equal(text, STATUS_PORT))
		return false;
	format(path, sizeof(path), "/dev/%s", name);
	port = (int)SYS3(open, path, O_WRONLY | O_CLOEXEC, 0);
	return port >= 0;
}

void status_open(void)
{
	int64_t end = now() + PORT_WAIT;

	if (!each_entry("/sys/bus/virtio/devices", has_device, NULL))
		return;
	/* The name comes in a message of the host, a moment after the driver has started. */
	while (!each_entry("/sys/class/virtio-ports", open_port, NULL)) {
		if (now() >= end) {
			say("there is no port " STATUS_PORT "; the host will not hear of the exit status");
			return;
		}
		pause_ms(2);
	}
}

void status(const char *f, ...)
{
	static char line[4096]; /* three strings of JSON_MOST, and what is around them */
	struct pollfd ready = { .fd = port, .events = POLLOUT };
	size_t length = 1;
	va_list args;

	if (port < 0)
		return;
	line[0] = '{';
	va_start(args, f);
	length += format_list(line + length, sizeof(line) - length - 3, f, args);
	va_end(args);
	line[length++] = '}';
	line[length++] = '\n';
	line[length] = '\0';
	/*
	 * A write blocks until the host has taken the line, which is what makes the last one arrive
	 * before the power goes; but it would block for ever if nobody listens.
	 */
	if (SYS3(poll, &ready, 1, HOST_WAIT) != 1 || !(ready.revents & POLLOUT) ||
	    SYS3(write, port, line, length) != (long)length) {
		say("the host does not take its status line: %s", line);
		SYS1(close, port);
		port = -1;
	}
}
