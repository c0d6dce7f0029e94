/* SPDX-License-Identifier: Apache-2.0 */
/* What the init was told to do.  The format is described in docs/guest-init.md. */
#ifndef UKL_INIT_CONF_H
#define UKL_INIT_CONF_H

#include "lib.h"

/* A test gives it other files. */
#ifndef CONF_FILE
#define CONF_FILE "/etc/ukl/init.conf"
#define RUN_FILE "/etc/ukl/run.conf"
#define COMMAND_LINE "/proc/cmdline"
#endif

enum {
	MAX_WORDS = 1024, /* arguments, or environment strings, of one program */
	MAX_JOBS = 512,
	MAX_LIST = 64, /* modules, sysctls, mounts, groups */
	MAX_DNS = 3, /* MAXNS of resolv.conf(5) */
	LIMITS = 16, /* RLIM_NLIMITS */
};

/* A NULL-terminated list of strings. */
struct words {
	char *v[MAX_WORDS + 1];
	size_t n;
};

enum mode {
	BEFORE, /* the next entry waits for its end */
	BESIDE, /* started, and left running */
	AFTER, /* once the application has ended by itself */
	APPLICATION,
};

struct job {
	const char *name;
	enum mode mode;
	bool any; /* a failure is none */
	uint32_t uid, gid;
	int64_t timeout; /* ms, 0: none */
	char **argv;

	int pid; /* 0: not running */
	bool started;
	int64_t deadline; /* when it is killed */
};

struct limit {
	bool set;
	uint64_t soft, hard;
};

struct conf {
	const char *hostname, *app, *cwd, *interface;
	const char *status; /* a device in place of the port */
	bool end_by_reset; /* a machine whose power cannot be turned off */
	struct words arg, env;
	uint32_t uid, gid;
	uint32_t groups[MAX_LIST];
	size_t n_groups;
	struct limit limits[LIMITS];
	char *module[MAX_LIST], *sysctl[MAX_LIST], *mount[MAX_LIST];
	size_t n_module, n_sysctl, n_mount;
	struct {
		enum { IP_NONE, IP_DHCP, IP_STATIC } how;
		uint32_t addr, prefix, router;
	} ip;
	struct {
		uint32_t addr, prefix; /* addr 0: not known */
	} lease;
	uint32_t dns[MAX_DNS];
	size_t n_dns;
	int64_t dhcp_wait, stop_wait, entropy_wait; /* ms */
	int64_t watchdog; /* ms, 0: none */
	struct job jobs[MAX_JOBS];
	size_t n_jobs;
};

extern struct conf conf;

/*
 * Reads CONF_FILE, RUN_FILE and the kernel's command line, in this order.  On a mistake says so and
 * leaves its description in @wrong.
 */
bool conf_read(char *wrong, size_t size);

#endif
