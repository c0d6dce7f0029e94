// SPDX-License-Identifier: Apache-2.0
/*
 * Has the kernel's audit write down system calls of `PATH subject calls`, run by root.
 *
 *     audited PATH
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include "check.h"

#define WAYS	3	/* in which subject.c makes the call that is asked for */

static int sock;

static void ask(int type, const void *data, size_t size)
{
	struct {
		struct nlmsghdr head;
		char data[8192];
	} request = { .head = { .nlmsg_len = NLMSG_LENGTH(size), .nlmsg_type = (unsigned short)type,
				.nlmsg_flags = NLM_F_REQUEST } };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	memcpy(request.data, data, size);
	if (sendto(sock, &request, request.head.nlmsg_len, 0, (struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0)
		check(0, "audited.ask", "type %d, errno %d", type, errno);
}

int main(int argc, char **argv)
{
	static struct audit_rule_data rule = {
		.flags = AUDIT_FILTER_EXIT, .action = AUDIT_ALWAYS, .field_count = 1,
		.mask = { [AUDIT_WORD(SYS_getppid)] = AUDIT_BIT(SYS_getppid) },
		.fields = { AUDIT_ARG1 }, .fieldflags = { AUDIT_EQUAL }, .values = { 2 },
	};
	struct audit_status on = { .mask = AUDIT_STATUS_ENABLED | AUDIT_STATUS_PID, .enabled = 1 };
	struct timeval wait = { .tv_sec = 2 };
	static char buffer[9000];
	int status, found = 0;
	ssize_t n;
	pid_t pid;

	printf("# begin audited 3 %p\n", (void *)&rule);
	fflush(stdout);
	sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	on.pid = (unsigned int)getpid();
	ask(AUDIT_SET, &on, sizeof(on));
	ask(AUDIT_ADD_RULE, &rule, sizeof(rule));
	pid = fork();	/* who is there already is not looked at */
	if (!pid) {
		execl(argv[argc > 1], argv[argc > 1], "subject", "calls", NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	while ((n = recv(sock, buffer, sizeof(buffer) - 1, 0)) > 0) {
		struct nlmsghdr *head = (struct nlmsghdr *)buffer;
		char *text = NLMSG_DATA(head);

		buffer[n] = 0;
		found += head->nlmsg_type == AUDIT_SYSCALL && strstr(text, " syscall=110 ") &&
			 strstr(text, " a0=1 a1=2 a2=3 ");
	}
	check(WIFEXITED(status), "audited.ends", "status %x", status);
	check(found == WAYS, "audited.calls", "%d", found);
	printf("# end audited %d\n", check_failed);
	return check_failed;
}
