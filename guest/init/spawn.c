// SPDX-License-Identifier: Apache-2.0
#include "spawn.h"

#include <linux/fcntl.h>

bool failed(struct trouble *trouble, const char *step, long result)
{
	if (result >= 0)
		return false;
	trouble->error = (int)-result;
	memcpy(trouble->step, step, strlen(step) + 1);
	return true;
}

int spawn(struct trouble *trouble, void (*become)(const void *what, struct trouble *trouble),
	  const void *what)
{
	int report[2];
	long got, pid;

	trouble->error = 0;
	if (failed(trouble, "pipe", SYS2(pipe2, report, O_CLOEXEC)))
		return 0;
	pid = SYS0(fork);
	if (pid == 0) {
		uint64_t none = 0;

		if (!failed(trouble, "setsid", SYS0(setsid)) &&
		    !failed(trouble, "signals",
			    SYS4(rt_sigprocmask, SIG_SETMASK_, &none, NULL, sizeof(none))))
			become(what, trouble);
		SYS3(write, report[1], trouble, sizeof(*trouble));
		SYS1(exit_group, 127);
	}
	SYS1(close, report[1]);
	if (!failed(trouble, "fork", pid)) {
		/* execve() closes the other end; until then nothing but its failure can come. */
		while ((got = SYS3(read, report[0], trouble, sizeof(*trouble))) == -EINTR)
			;
		if (got != sizeof(*trouble))
			trouble->error = 0;
	}
	SYS1(close, report[0]);
	return trouble->error ? 0 : (int)pid;
}
