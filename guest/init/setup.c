// SPDX-License-Identifier: Apache-2.0
#include "setup.h"

#include <asm/ioctls.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/random.h>
#include <linux/reboot.h>

#include "conf.h"
#include "status.h"

enum { DETACH = 2 /* MNT_DETACH; in no header without a libc */ };

static int mount_at(const char *source, const char *target, const char *type, unsigned long flags,
		    const char *data)
{
	SYS2(mkdir, target, 0755);
	return (int)SYS5(mount, source, target, type, flags, data);
}

void setup_mounts(void)
{
	static const struct {
		const char *type, *target, *data;
		unsigned long flags;
	} mounts[] = {
		{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "devtmpfs", "/dev", "mode=0755", MS_NOSUID | MS_NOEXEC },
		{ "devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC },
		{ "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV },
		{ "tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV },
		{ "tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};
	long fd = SYS3(open, "/dev/console", O_RDWR, 0);

	/* The kernel opens the console for PID 1, but only if the initramfs has the node. */
	for (; fd >= 0 && fd < 2;)
		fd = SYS1(dup, fd);
	if (fd > 2)
		SYS1(close, fd);
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		int error = mount_at(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags,
				     mounts[i].data);

		/* EBUSY: CONFIG_DEVTMPFS_MOUNT, or the kernel's command line, was faster. */
		if (error < 0 && error != -EBUSY)
			say("cannot mount %s on %s (errno %d)", mounts[i].type, mounts[i].target, -error);
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		SYS2(symlink, links[i][0], links[i][1]);
}

bool setup_modules(char *wrong, size_t size)
{
	for (size_t i = 0; i < conf.n_module; i++) {
		long fd = SYS3(open, conf.module[i], O_RDONLY | O_CLOEXEC, 0);
		long error = fd < 0 ? fd : SYS3(finit_module, fd, "", 0);

		if (fd >= 0)
			SYS1(close, fd);
		/* EEXIST: it is there already. */
		if (error < 0 && error != -EEXIST) {
			format(wrong, size, "cannot load the module %s (errno %d)", conf.module[i],
			       (int)-error);
			return false;
		}
	}
	return true;
}

void setup_sysctls(void)
{
	for (size_t i = 0; i < conf.n_sysctl; i++) {
		char path[256] = "/proc/sys/";
		char *value = conf.sysctl[i];
		size_t n = 10;
		long got;

		/* KEY=VALUE; sysctl(8) writes net.ipv4.ip_forward where the file has slashes. */
		for (; *value && *value != '=' && n < sizeof(path) - 1; value++)
			path[n++] = *value == '.' ? '/' : *value == '/' ? '.' : *value;
		path[n] = '\0';
		got = *value == '=' ? write_file(path, value + 1) : -EINVAL;
		if (got < 0) {
			say("cannot set the sysctl %s (errno %d)", conf.sysctl[i], (int)-got);
			status("\"event\":\"warning\",\"what\":\"sysctl\",\"value\":%j,\"errno\":%d",
			       conf.sysctl[i], (int)-got);
		}
	}
}

static char *next_word(char **at)
{
	char *word = *at;

	while (**at && **at != ' ')
		++*at;
	if (**at)
		*(*at)++ = '\0';
	return word;
}

void make_parents(char *path)
{
	for (char *at = path; *at; at++) {
		if (*at != '/' || at == path)
			continue;
		*at = '\0';
		SYS2(mkdir, path, 0755);
		*at = '/';
	}
}

static size_t n_mounted; /* of conf.mount, which then holds the target alone */

/* SOURCE TARGET TYPE [DATA]; "ro" as the first of DATA mounts read-only. */
bool setup_disks(char *wrong, size_t size)
{
	for (size_t i = 0; i < conf.n_mount; i++) {
		char *at = conf.mount[i];
		char *source = next_word(&at), *target = next_word(&at), *type = next_word(&at);
		unsigned long flags = MS_NOSUID | MS_NODEV;
		const char *data = at, *rest = after(at, "ro");
		int64_t end = now() + 5000;
		int error;

		if (rest && (!*rest || *rest == ',')) {
			flags |= MS_RDONLY;
			data = *rest ? rest + 1 : rest;
		}
		make_parents(target);
		/* A disk may be probed while this runs. */
		while ((error = mount_at(source, target, type, flags, data)) &&
		       (error == -ENOENT || error == -ENXIO) && now() < end)
			pause_ms(10);
		if (error) {
			format(wrong, size, "cannot mount %s on %s as %s (errno %d)", source, target, type,
			       -error);
			return false;
		}
		conf.mount[i] = target;
		n_mounted = i + 1;
	}
	return true;
}

static bool random_ready(void)
{
	char byte;

	return SYS3(getrandom, &byte, 1, 1 /* GRND_NONBLOCK */) == 1;
}

/*
 * With virtio-rng the kernel's own thread feeds the pool; that can take a second, and a kernel
 * whose driver states no quality does not credit it at all.
 */
static void feed(void)
{
	struct {
		struct rand_pool_info info;
		uint32_t bytes[16];
	} seed;
	long from = SYS3(open, "/dev/hwrng", O_RDONLY | O_CLOEXEC, 0);
	long to = SYS3(open, "/dev/urandom", O_WRONLY | O_CLOEXEC, 0);
	long got = SYS3(read, from, seed.bytes, sizeof(seed.bytes));

	if (got > 0) {
		seed.info.buf_size = (int)got;
		seed.info.entropy_count = (int)got * 8;
		SYS3(ioctl, to, RNDADDENTROPY, &seed);
	}
}

void setup_entropy(void)
{
	int64_t start = now();
	long pid;

	if (random_ready())
		return;
	/*
	 * In a process of its own: while the host has no entropy to give, a read waits for ever.
	 * The device has no poll(), and O_NONBLOCK waits too, for the lock that the kernel's thread
	 * holds meanwhile.  The loop of the init reaps it.
	 */
	pid = SYS0(fork);
	if (pid == 0) {
		feed();
		SYS1(exit_group, 0);
	}
	while (!random_ready()) {
		if (now() - start >= conf.entropy_wait) {
			say("no entropy after %l ms: give the machine a virtio-rng; random numbers block",
			    now() - start);
			status("\"event\":\"warning\",\"what\":\"entropy\"");
			break;
		}
		pause_ms(10);
	}
	if (pid > 0)
		SYS2(kill, pid, 9 /* SIGKILL */);
}

void write_resolv_conf(const uint32_t *dns, size_t n)
{
	char text[128];
	size_t length = 0;

	for (size_t i = 0; i < n; i++)
		length += format(text + length, sizeof(text) - length, "nameserver %a\n", dns[i]);
	if (n)
		write_file("/etc/resolv.conf", text);
}

void power_off(void)
{
	SYS0(sync);
	for (size_t i = n_mounted; i--;) {
		/* A file that is still open (by the kernel: a loop, swap) must not keep it writable. */
		if (SYS2(umount2, conf.mount[i], 0) < 0) {
			SYS5(mount, NULL, conf.mount[i], NULL, MS_REMOUNT | MS_RDONLY, NULL);
			SYS2(umount2, conf.mount[i], DETACH);
		}
	}
	SYS0(sync);
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
	     conf.end_by_reset ? LINUX_REBOOT_CMD_RESTART : LINUX_REBOOT_CMD_POWER_OFF, NULL);
	for (;;)
		SYS0(pause);
}
