// SPDX-License-Identifier: Apache-2.0
/* Sends messages to an echo server by many connections at the same time: client CLIENTS EACH. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "check.h"

#define PORT	5555
#define SIZE	64
#define MOST	1000

static struct pollfd fds[MOST];
static struct {
	int sent;
	unsigned int got;
	char wanted[SIZE], answer[SIZE];
} clients[MOST];

static int connect_to(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(PORT),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	/* The server starts meanwhile. */
	for (int i = 0; i < 600; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
			return fd;
		close(fd);
		usleep(50000);
	}
	return -1;
}

static int send_next(int i)
{
	memset(clients[i].wanted, '.', SIZE);
	snprintf(clients[i].wanted, SIZE, "client %d message %d", i, clients[i].sent);
	clients[i].got = 0;
	clients[i].sent++;
	return write(fds[i].fd, clients[i].wanted, SIZE) == SIZE;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[1]) : 0, each = argc > 2 ? atoi(argv[2]) : 0;
	int total = 0, wrong = 0, failed = 0, open = count;
	struct rlimit limit = { 4096, 4096 };

	if (count < 1 || count > MOST || each < 1)
		return 2;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < count; i++) {
		fds[i] = (struct pollfd){ .fd = connect_to(), .events = POLLIN };
		failed += fds[i].fd < 0;
	}
	check(!failed, "client.connected", "%d of %d not, errno %d", failed, count, errno);
	for (int i = 0; i < count; i++)
		failed += !send_next(i);
	while (open && !failed) {
		if (poll(fds, count, 30000) <= 0) {
			failed++;
			break;
		}
		for (int i = 0; i < count; i++) {
			long n;

			if (!fds[i].revents)
				continue;
			n = read(fds[i].fd, clients[i].answer + clients[i].got, SIZE - clients[i].got);
			if (n <= 0) {
				failed++;
				break;
			}
			clients[i].got += n;
			if (clients[i].got < SIZE)
				continue;
			wrong += !!memcmp(clients[i].answer, clients[i].wanted, SIZE);
			total++;
			if (clients[i].sent < each) {
				failed += !send_next(i);
			} else {
				close(fds[i].fd);
				fds[i].fd = -1;
				fds[i].revents = 0;
				open--;
			}
		}
	}
	check(!failed && total == count * each, "client.all_answered", "%d of %d, errno %d",
	      total, count * each, errno);
	check(!wrong, "client.all_right", "%d wrong", wrong);
	printf("# answered %d\n", total);
	return check_failed;
}
