/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that print one line each: "ok NAME" or "not ok NAME: why", with a place if there is one. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_failed;
static const char *check_place = "";	/* FILE:LINE of the next check */

__attribute__((format(printf, 3, 4), unused))
static int check(int good, const char *name, const char *why, ...)
{
	char line[512];
	va_list args;
	int n;

	if (good) {
		n = snprintf(line, sizeof(line), "ok %s%s%s\n", name, *check_place ? " " : "", check_place);
	} else {
		check_failed = 1;
		n = snprintf(line, sizeof(line), "not ok %s: %s%s", name, check_place, *check_place ? ": " : "");
		va_start(args, why);
		n += vsnprintf(line + n, sizeof(line) - n - 2, why, args);
		va_end(args);
		line[n++] = '\n';
	}
	/* One write, so that lines of several processes do not mix. */
	if (write(1, line, n) != n)
		_exit(99);
	return good;
}

#endif
