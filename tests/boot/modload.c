// SPDX-License-Identifier: Apache-2.0
/*
 * A test's /init for a distribution's kernel, which has its virtio drivers as modules: loads the
 * ones listed in /modules/order and becomes the real init.  Our kernels have everything built in.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv, char **envp)
{
	char name[128], path[160];
	FILE *order = fopen("/modules/order", "r");

	(void)argc;
	while (order && fgets(name, sizeof(name), order)) {
		int fd;

		name[strcspn(name, "\n")] = '\0';
		snprintf(path, sizeof(path), "/modules/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			perror(path);
		close(fd);
	}
	argv[0] = "/init.ukl";
	execve(argv[0], argv, envp);
	perror(argv[0]);
	return 1;
}
