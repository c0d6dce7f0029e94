// SPDX-License-Identifier: Apache-2.0
/*
 * PID 1 of a unikernel's guest: brings the machine up, starts the application and the jobs beside
 * it, tells the host how they ended, and turns the power off.  docs/guest-init.md describes what
 * it does, its configuration, and the kernel options it needs.
 *
 * One thread, one loop: signals come through a signalfd, so there are no handlers and no races
 * with them.
 */
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/reboot.h>
#include <linux/signalfd.h>
#include <linux/wait.h>
#include <linux/watchdog.h>

#include "conf.h"
#include "dhcp.h"
#include "exec.h"
#include "net.h"
#include "resume.h"
#include "setup.h"
#include "spawn.h"
#include "status.h"

static struct job application = { .name = "app", .mode = APPLICATION };

static enum {
	RUN_BEFORE, /* the list up to the application */
	RUN_APPLICATION,
	RUN_AFTER,
	STOPPING, /* what runs was told to end */
} phase;
static size_t next_job; /* index into conf.jobs */
static struct job *current; /* the one whose end is waited for */
static int64_t kill_at = FOREVER; /* in STOPPING */

static struct dhcp dhcp;
static bool dhcp_on;

static int watchdog = -1;
static int64_t feed_at = FOREVER;

static void watchdog_open(void)
{
	int seconds = (int)(conf.watchdog / 1000);
	long error;

	if (!conf.watchdog)
		return;
	error = SYS3(open, "/dev/watchdog", O_WRONLY | O_CLOEXEC, 0);
	if (error >= 0) {
		watchdog = (int)error;
		feed_at = now();
		error = SYS3(ioctl, watchdog, WDIOC_SETTIMEOUT, &seconds);
	}
	if (error < 0) {
		say("cannot use the watchdog (errno %d)", (int)-error);
		status("\"event\":\"warning\",\"what\":\"watchdog\",\"errno\":%d", (int)-error);
	}
}

/* Three times in what it waits: that one is late is no hang yet. */
static void watchdog_feed(void)
{
	if (now() < feed_at)
		return;
	SYS3(write, watchdog, "", 1);
	feed_at = now() + conf.watchdog / 3;
}

/* The way down takes as long as the disks do. */
static void watchdog_close(void)
{
	if (watchdog < 0)
		return;
	SYS3(write, watchdog, "V", 1); /* without it the driver goes on (watchdog-api.rst) */
	SYS1(close, watchdog);
	watchdog = -1;
	feed_at = FOREVER;
}

static void become(const void *what, struct trouble *trouble)
{
	const struct job *job = what;
	bool application = job->mode == APPLICATION;
	long error;

	for (int i = 0; i < LIMITS; i++) {
		uint64_t limit[2] = { conf.limits[i].soft, conf.limits[i].hard };

		if (conf.limits[i].set && failed(trouble, "rlimit", SYS4(prlimit64, 0, i, limit, NULL)))
			return;
	}
	if (failed(trouble, "chdir", SYS1(chdir, conf.cwd)))
		return;
	error = SYS2(setgroups, application ? conf.n_groups : 0, conf.groups);
	/* A kernel without CONFIG_MULTIUSER has no groups, and then nobody gains by them. */
	if (error == -ENOSYS && !job->uid && !job->gid)
		error = 0;
	if (failed(trouble, "setgroups", error))
		return;
	if (job->gid && failed(trouble, "setgid", SYS3(setresgid, job->gid, job->gid, job->gid)))
		return;
	if (job->uid && failed(trouble, "setuid", SYS3(setresuid, job->uid, job->uid, job->uid)))
		return;
	failed(trouble, "exec",
	       SYS3(execve, application ? conf.app : job->argv[0], job->argv, conf.env.v));
}

static void stop(const char *why, bool ok);

/* Starts a program; a failure counts as its end. */
static bool start(struct job *job)
{
	const char *path = job->mode == APPLICATION ? conf.app : job->argv[0];
	struct trouble trouble;
	int pid = spawn(&trouble, become, job);

	job->started = !trouble.error;
	if (!trouble.error) {
		job->pid = pid;
		job->deadline = job->timeout ? now() + job->timeout : FOREVER;
		status("\"event\":\"started\",\"job\":%j,\"path\":%j,\"pid\":%d,\"uptime_ms\":%l", job->name,
		       path, job->pid, now());
		return true;
	}
	say("cannot start %s: %s failed (errno %d)", path, trouble.step, trouble.error);
	status("\"event\":\"failed\",\"job\":%j,\"step\":%j,\"path\":%j,\"errno\":%d", job->name, trouble.step,
	       path, trouble.error);
	return false;
}

static bool beside_runs(void)
{
	for (size_t i = 0; i < conf.n_jobs; i++)
		if (conf.jobs[i].pid)
			return true;
	return false;
}

/* Starts whatever is due; returns when something must be waited for, or the phase is STOPPING. */
static void advance(void)
{
	while (phase == RUN_BEFORE && !current) {
		struct job *job = &conf.jobs[next_job];

		if (next_job == conf.n_jobs) {
			phase = RUN_APPLICATION;
			next_job = 0;
			if (*conf.app && start(&application))
				current = &application;
			else if (*conf.app)
				stop("the application cannot be started", false);
			break;
		}
		next_job++;
		if (job->mode == AFTER)
			continue;
		if (!start(job)) {
			if (!job->any)
				stop("a job cannot be started", false);
		} else if (job->mode == BEFORE) {
			current = job;
		}
	}
	/* Without an application the jobs beside it are what the machine runs for. */
	if (phase == RUN_APPLICATION && !current && (*conf.app || !beside_runs()))
		phase = RUN_AFTER;
	while (phase == RUN_AFTER && !current) {
		struct job *job = &conf.jobs[next_job];

		if (next_job == conf.n_jobs) {
			stop("all is done", true);
			break;
		}
		next_job++;
		if (job->mode != AFTER)
			continue;
		if (start(job))
			current = job;
		else if (!job->any)
			stop("a job cannot be started", false);
	}
}

/* @ok: everything that was to run has run, none of it was given up. */
static void stop(const char *why, bool ok)
{
	if (phase == STOPPING)
		return;
	phase = STOPPING;
	kill_at = now() + conf.stop_wait;
	say("stopping: %s", why);
	status("\"event\":\"stopping\",\"why\":%j,\"ok\":%s", why, ok ? "true" : "false");
	/*
	 * First only what is waited for, so that an application finds its helpers alive while it shuts
	 * down; the rest follows in finish().
	 */
	if (current)
		SYS2(kill, current->pid, SIG_TERM);
}

static void ended(struct job *job, int how)
{
	int signal = how & 0x7f;
	bool bad = how != 0;

	job->pid = 0;
	if (signal) {
		say("%s was killed by signal %d", job->name, signal);
		status("\"event\":\"exited\",\"job\":%j,\"signal\":%d,\"core\":%s,\"uptime_ms\":%l", job->name, signal,
		       how & 0x80 ? "true" : "false", now());
	} else {
		status("\"event\":\"exited\",\"job\":%j,\"code\":%d,\"uptime_ms\":%l", job->name, how >> 8 & 0xff,
		       now());
	}
	if (job == current)
		current = NULL;
	if (job->mode == APPLICATION && phase == RUN_APPLICATION) {
		phase = RUN_AFTER;
	} else if (bad && job->mode != APPLICATION && !job->any && phase != STOPPING) {
		say("the job %s failed", job->name);
		stop("a job failed", false);
	}
}

/* Takes every child that has ended; false when there is none left at all. */
static bool reap(void)
{
	for (;;) {
		int how;
		long pid = SYS4(wait4, -1, &how, WNOHANG, NULL);

		if (pid <= 0)
			return pid == 0;
		if (application.pid == (int)pid)
			ended(&application, how);
		for (size_t i = 0; i < conf.n_jobs; i++)
			if (conf.jobs[i].pid == (int)pid)
				ended(&conf.jobs[i], how);
		exec_ended((int)pid, how);
	}
}

/* Ends every process there is, politely, then firmly, and turns the power off. */
__attribute__((noreturn)) static void finish(void)
{
	int64_t end = now() + (conf.stop_wait < 2000 ? conf.stop_wait : 2000);

	watchdog_close();
	SYS2(kill, -1, SIG_TERM);
	while (reap()) {
		if (now() >= end) {
			SYS2(kill, -1, SIG_KILL);
			end = FOREVER;
		}
		pause_ms(2);
	}
	status("\"event\":\"off\",\"uptime_ms\":%l", now());
	power_off();
}

/* The mask is known to have no holes. */
static uint32_t prefix_of(uint32_t mask)
{
	uint32_t bits = 0;

	for (; mask; mask &= mask - 1)
		bits++;
	return bits;
}

static void use_lease(const struct lease *lease, bool first)
{
	uint32_t bits = prefix_of(lease->mask);
	int index = dhcp.interface.index;
	int error = net_add_address(index, lease->addr, bits);

	if (!error && lease->router)
		error = net_default_route(index, lease->router);
	if (error)
		say("cannot set the address %a on %s (errno %d)", lease->addr, dhcp.interface.name, -error);
	if (!first)
		return;
	write_resolv_conf(conf.n_dns ? conf.dns : lease->dns, conf.n_dns ? conf.n_dns : lease->n_dns);
	say("%s has %a/%u from %a", dhcp.interface.name, lease->addr, bits, lease->server);
	status("\"event\":\"network\",\"address\":\"%a/%u\",\"how\":\"dhcp\",\"lease_s\":%u,\"uptime_ms\":%l",
	       lease->addr, bits, lease->seconds, now());
}

static void step_dhcp(void)
{
	static struct lease had;

	switch (dhcp_step(&dhcp)) {
	case DHCP_NOTHING:
		break;
	case DHCP_BOUND:
		if (had.addr && had.addr != dhcp.lease.addr)
			net_remove_address(dhcp.interface.index, had.addr,
					   prefix_of(had.mask));
		if (conf.lease.addr && (conf.lease.addr != dhcp.lease.addr ||
					conf.lease.prefix != prefix_of(dhcp.lease.mask)))
			net_remove_address(dhcp.interface.index, conf.lease.addr, conf.lease.prefix);
		conf.lease.addr = 0;
		use_lease(&dhcp.lease, had.addr != dhcp.lease.addr);
		had = dhcp.lease;
		break;
	case DHCP_LOST:
		say("the lease of %a is over", had.addr);
		status("\"event\":\"warning\",\"what\":\"lease\"");
		net_remove_address(dhcp.interface.index, had.addr,
				   prefix_of(had.mask));
		had.addr = 0;
		break;
	}
}

static void network(void)
{
	struct interface interface;
	int64_t end = now() + conf.dhcp_wait;
	int error;

	if (net_find("lo", 0, &interface))
		net_up(interface.index);
	if (conf.ip.how == IP_NONE)
		return;
	if (!net_find(conf.interface, 2000, &interface)) {
		say("there is no network interface");
		status("\"event\":\"warning\",\"what\":\"interface\"");
		return;
	}
	error = net_up(interface.index);
	if (!error && !net_wait_carrier(&interface, 1000))
		say("%s has no carrier", interface.name);
	if (!error && conf.ip.how == IP_STATIC) {
		error = net_add_address(interface.index, conf.ip.addr, conf.ip.prefix);
		if (!error && conf.ip.router)
			error = net_default_route(interface.index, conf.ip.router);
		write_resolv_conf(conf.dns, conf.n_dns);
		if (!error)
			status("\"event\":\"network\",\"address\":\"%a/%u\",\"how\":\"static\",\"uptime_ms\":%l",
			       conf.ip.addr, conf.ip.prefix, now());
	} else if (!error) {
		/*
		 * A server that answers to the address it gives, whatever the BROADCAST flag says, would
		 * not be heard without it.
		 */
		if (conf.lease.addr)
			net_add_address(interface.index, conf.lease.addr, conf.lease.prefix);
		error = dhcp_start(&dhcp, &interface);
		dhcp_on = !error;
		while (dhcp_on && dhcp.state != BOUND) {
			int64_t left = (dhcp.wake < end ? dhcp.wake : end) - now();
			struct pollfd input = { .fd = dhcp.fd, .events = POLLIN };

			if (now() >= end) {
				say("no address by DHCP after %l s; going on without", conf.dhcp_wait / 1000);
				status("\"event\":\"warning\",\"what\":\"dhcp\"");
				return;
			}
			SYS3(poll, &input, 1, left > 0 ? left : 0);
			step_dhcp();
		}
	}
	if (error) {
		say("cannot set %s up (errno %d)", interface.name, -error);
		status("\"event\":\"warning\",\"what\":\"network\",\"errno\":%d", -error);
	}
}

static void earlier(int64_t *deadline, int64_t other)
{
	if (other < *deadline)
		*deadline = other;
}

static void check_deadline(struct job *job)
{
	if (!job->pid || now() < job->deadline)
		return;
	say("%s did not end in %l s", job->name, job->timeout / 1000);
	status("\"event\":\"timeout\",\"job\":%j", job->name);
	SYS2(kill, job->pid, SIG_KILL);
	job->deadline = FOREVER;
}

static void take_signals(int signals)
{
	struct signalfd_siginfo info;

	while (SYS3(read, signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIG_TERM)
			stop("SIGTERM", false);
		if (info.ssi_signo == SIG_INT)
			stop("Ctrl-Alt-Del", false);
	}
}

__attribute__((noreturn)) static void loop(int signals, int acpi)
{
	for (;;) {
		struct pollfd fds[3 + EXEC_FDS] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = acpi, .events = POLLIN },
			{ .fd = dhcp_on ? dhcp.fd : -1, .events = POLLIN },
		};
		int64_t deadline, left;

		advance();
		if (phase == STOPPING && !current)
			finish();
		watchdog_feed();
		deadline = kill_at;
		earlier(&deadline, resume_step());
		earlier(&deadline, feed_at);
		if (dhcp_on)
			earlier(&deadline, dhcp.wake);
		for (size_t i = 0; i < conf.n_jobs; i++)
			if (conf.jobs[i].pid)
				earlier(&deadline, conf.jobs[i].deadline);
		exec_wait(fds + 3);
		left = deadline - now();
		/* At least once an hour: poll() takes an int, and -1 of a time that is over is for ever. */
		left = left < 0 ? 0 : left > 3600000 ? 3600000 : left;
		SYS3(poll, fds, ARRAY_SIZE(fds), left);
		take_signals(signals);
		if (fds[1].revents && acpi_power_button(acpi))
			stop("power button", false);
		if (dhcp_on)
			step_dhcp();
		reap();
		exec_step(fds + 3, application.pid);
		for (size_t i = 0; i < conf.n_jobs; i++)
			check_deadline(&conf.jobs[i]);
		if (now() >= kill_at && current) {
			say("%s did not end in %l s after SIGTERM", current->name, conf.stop_wait / 1000);
			SYS2(kill, current->pid, SIG_KILL);
			kill_at = FOREVER;
		}
	}
}

static int open_signals(void)
{
	uint64_t mask = 1ull << (SIG_INT - 1) | 1ull << (SIG_TERM - 1) | 1ull << (SIG_CHLD - 1);

	SYS4(rt_sigprocmask, SIG_BLOCK_, &mask, NULL, sizeof(mask));
	/* Ctrl-Alt-Del becomes SIGINT instead of a reset. */
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, NULL);
	return (int)SYS4(signalfd4, -1, &mask, sizeof(mask), O_CLOEXEC | O_NONBLOCK);
}

__attribute__((noreturn, used)) static void main(void)
{
	char wrong[256] = "";
	int signals, acpi;
	bool understood, loaded;

	if (SYS0(getpid) != 1) {
		say("this is a guest's PID 1, not an ordinary program");
		SYS1(exit_group, 2);
	}
	setup_mounts();
	/* First, since the status port may need a driver. */
	understood = conf_read(wrong, sizeof(wrong));
	loaded = understood && setup_modules(wrong, sizeof(wrong));
	status_open();
	status("\"event\":\"init\",\"version\":2,\"exec\":%s,\"uptime_ms\":%l",
	       exec_open() ? "true" : "false", now());
	signals = open_signals();
	acpi = acpi_open();
	if (acpi < 0)
		say("no power button: the kernel lacks ACPI or netlink (errno %d)", -acpi);
	if (!understood || !loaded) {
		say("%s", wrong);
		status("\"event\":\"failed\",\"job\":\"init\",\"step\":\"%s\",\"what\":%j,\"errno\":%d",
		       understood ? "module" : "config", wrong, understood ? ENODEV : EINVAL);
		power_off();
	}
	if (!conf.arg.n) {
		conf.arg.v[0] = (char *)conf.app;
		conf.arg.v[1] = NULL;
	}
	application.argv = conf.arg.v;
	application.uid = conf.uid;
	application.gid = conf.gid;
	if (conf.hostname)
		SYS2(sethostname, conf.hostname, strlen(conf.hostname));
	setup_sysctls();
	if (!setup_disks(wrong, sizeof(wrong))) {
		say("%s", wrong);
		status("\"event\":\"failed\",\"job\":\"init\",\"step\":\"mount\",\"what\":%j,\"errno\":%d", wrong, EIO);
		power_off();
	}
	network();
	setup_entropy();
	watchdog_open();
	loop(signals, acpi);
}

/* The kernel starts a program with the stack aligned to 16; a C function expects a call before it. */
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tcall main\n\thlt\n");
