// SPDX-License-Identifier: Apache-2.0
#include "status.h"

#include <asm/ioctls.h>
#include <linux/fcntl.h>

#include "conf.h"
#include "port.h"

enum {
	PORT_WAIT = 2000, /* ms for the port to appear, when there is a device that has ports */
};

static int port = -1;

void status_open(void)
{
	if (conf.status) {
		port = (int)SYS3(open, conf.status, O_WRONLY | O_NOCTTY | O_CLOEXEC, 0);
		if (port < 0)
			say("%s cannot be opened; the host will not hear of the exit status (errno %d)",
			    conf.status, -port);
		return;
	}
	port = port_open(STATUS_PORT, O_WRONLY, PORT_WAIT);
	if (port == -ENOENT)
		say("there is no port " STATUS_PORT "; the host will not hear of the exit status");
}

void status(const char *f, ...)
{
	static char line[4096]; /* three strings of JSON_MOST, and what is around them */
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
	if (!port_write(port, line, length)) {
		say("the host does not take its status line: %s", line);
		SYS1(close, port);
		port = -1;
	}
	/* A port has been written to when a write returns, a terminal later: tcdrain(). */
	if (conf.status && port >= 0)
		SYS3(ioctl, port, TCSBRK, 1);
}
