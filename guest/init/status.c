// SPDX-License-Identifier: Apache-2.0
#include "status.h"

#include <linux/fcntl.h>

#include "port.h"

enum {
	PORT_WAIT = 2000, /* ms for the port to appear, when there is a device that has ports */
};

static int port = -1;

void status_open(void)
{
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
}
