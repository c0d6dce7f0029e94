// SPDX-License-Identifier: Apache-2.0
#include "port.h"

#include <linux/fcntl.h>
#include <linux/poll.h>

enum {
	HOST_WAIT = 2000, /* ms for the host to take what is written */
};

static bool has_device(const char *name, void *context)
{
	char path[128], text[16];

	(void)context;
	format(path, sizeof(path), "/sys/bus/virtio/devices/%s/device", name);
	/* VIRTIO_ID_CONSOLE: "0x0003\n" */
	return read_file(path, text, sizeof(text)) >= 6 && !memcmp(text, "0x0003", 6);
}

struct search {
	const char *name;
	int flags, found;
};

/* udev makes /dev/virtio-ports/NAME; without it the name is in sysfs. */
static bool open_named(const char *name, void *context)
{
	struct search *search = context;
	char path[128], text[64];
	long length;

	format(path, sizeof(path), "/sys/class/virtio-ports/%s/name", name);
	length = read_file(path, text, sizeof(text) - 1);
	if (length <= 0)
		return false;
	text[length - (text[length - 1] == '\n')] = '\0';
	if (!equal(text, search->name))
		return false;
	format(path, sizeof(path), "/dev/%s", name);
	search->found = (int)SYS3(open, path, search->flags | O_CLOEXEC, 0);
	return search->found >= 0;
}

int port_open(const char *name, int flags, int64_t wait_ms)
{
	struct search search = { .name = name, .flags = flags, .found = -1 };
	int64_t end = now() + wait_ms;

	if (!each_entry("/sys/bus/virtio/devices", has_device, NULL))
		return -ENODEV;
	/* The name comes in a message of the host, a moment after the driver has started. */
	while (!each_entry("/sys/class/virtio-ports", open_named, &search)) {
		if (now() >= end)
			return -ENOENT;
		pause_ms(2);
	}
	return search.found;
}

bool port_write(int port, const char *data, size_t length)
{
	struct pollfd ready = { .fd = port, .events = POLLOUT };

	/*
	 * A write waits until the host has taken the data, which is what makes the last one arrive
	 * before the power goes; but it would wait for ever if nobody listens.
	 */
	return SYS3(poll, &ready, 1, HOST_WAIT) == 1 && ready.revents & POLLOUT &&
	       SYS3(write, port, data, length) == (long)length;
}
