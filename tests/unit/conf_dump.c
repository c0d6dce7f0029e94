// SPDX-License-Identifier: Apache-2.0
/*
 * Prints what the init's own parser read, as JSON, so that a test can compare it with what was
 * written.  Linked with conf.c and lib.c as they are; the files' names are given by -D.
 */
#include "conf.h"

static void out(const char *f, ...)
{
	static char line[70000];
	va_list args;
	size_t length;

	va_start(args, f);
	length = format_list(line, sizeof(line), f, args);
	va_end(args);
	SYS3(write, 1, line, length);
}

static void strings(const char *name, char *const *list, size_t n)
{
	out("%j:[", name);
	for (size_t i = 0; i < n; i++)
		out("%s%j", i ? "," : "", list[i]);
	out("],");
}

__attribute__((noreturn, used)) static void main(void)
{
	char wrong[256];

	if (!conf_read(wrong, sizeof(wrong))) {
		out("{\"wrong\":%j}\n", wrong);
		SYS1(exit_group, 1);
	}
	out("{\"app\":%j,\"cwd\":%j,\"hostname\":%j,\"interface\":%j,", conf.app, conf.cwd,
	    conf.hostname ? conf.hostname : "", conf.interface ? conf.interface : "");
	strings("arg", conf.arg.v, conf.arg.n);
	strings("env", conf.env.v, conf.env.n);
	strings("module", conf.module, conf.n_module);
	strings("sysctl", conf.sysctl, conf.n_sysctl);
	strings("mount", conf.mount, conf.n_mount);
	out("\"uid\":%u,\"gid\":%u,\"groups\":[", conf.uid, conf.gid);
	for (size_t i = 0; i < conf.n_groups; i++)
		out("%s%u", i ? "," : "", conf.groups[i]);
	out("],\"limits\":{");
	for (int i = 0, n = 0; i < LIMITS; i++)
		if (conf.limits[i].set)
			out("%s\"%d\":[%l,%l]", n++ ? "," : "", i, (int64_t)conf.limits[i].soft,
			    (int64_t)conf.limits[i].hard);
	out("},\"ip\":[%d,\"%a\",%u,\"%a\"],", conf.ip.how, conf.ip.addr, conf.ip.prefix, conf.ip.router);
	out("\"lease\":[\"%a\",%u],\"dns\":[", conf.lease.addr, conf.lease.prefix);
	for (size_t i = 0; i < conf.n_dns; i++)
		out("%s\"%a\"", i ? "," : "", conf.dns[i]);
	out("],\"watchdog\":%l,\"status\":%j,", conf.watchdog, conf.status ? conf.status : "");
	out("\"reset\":%d,", conf.end_by_reset);
	out("\"waits\":[%l,%l,%l],\"jobs\":[", conf.dhcp_wait, conf.stop_wait, conf.entropy_wait);
	for (size_t i = 0; i < conf.n_jobs; i++) {
		const struct job *job = &conf.jobs[i];
		size_t n = 0;

		while (job->argv[n])
			n++;
		out("%s{\"name\":%j,\"mode\":%d,\"any\":%s,\"uid\":%u,\"gid\":%u,\"timeout\":%l,", i ? "," : "",
		    job->name, job->mode, job->any ? "true" : "false", job->uid, job->gid, job->timeout);
		strings("argv", job->argv, n);
		out("\"\":0}");
	}
	out("]}\n");
	SYS1(exit_group, 0);
	__builtin_unreachable();
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall main\n\thlt\n");
