// SPDX-License-Identifier: Apache-2.0
/* Names of hosts, services, users and groups, from files. */
#include "posix.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <pwd.h>
#include <resolv.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>

static const struct {
	const char *path, *text;
} files[] = {
	{ "/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n" },
	{ "/etc/resolv.conf", "nameserver 127.0.0.1\nsearch inner.test\noptions timeout:1 attempts:4 ndots:1\n" },
	{ "/etc/host.conf", "multi on\n" },
	{ "/etc/hosts", "127.0.0.1 localhost\n10.1.2.3 first.example first alias\n10.1.2.4 twice.example\n"
	  "10.1.2.5 twice.example\n# 10.9.9.9 comment.example\n::1 six.example\n" },
	{ "/etc/passwd", "root:x:0:0:the root:/root:/bin/sh\nmira:x:1001:1002:Mira,,,:/home/mira:/bin/false\n"
	  "nobody:x:65534:65534::/:/bin/false\n" },
	{ "/etc/group", "root:x:0:\nmiras:x:1002:\nplay:x:2000:mira,nobody\nwork:x:2001:root,mira\n" },
	{ "/etc/services", "http 80/tcp www\ndomain 53/udp\ndomain 53/tcp\n" },
	{ "/etc/protocols", "ip 0 IP\ntcp 6 TCP\nudp 17 UDP\n" },
};

/* In a guest of the tests over what its init wrote; elsewhere only where nothing is. */
static void write_files(void)
{
	int flags = O_WRONLY | O_CREAT | (access("/etc/ukl/run.conf", F_OK) ? O_EXCL : O_TRUNC);

	mkdir("/etc", 0755);
	for (unsigned int i = 0; i < ELEMENTS(files); i++) {
		int fd = open(files[i].path, flags, 0644);

		if (fd < 0)
			continue;
		NEED(write(fd, files[i].text, strlen(files[i].text)) == (ssize_t)strlen(files[i].text));
		close(fd);
	}
}

/* The addresses of a name, one after the other; the error if there is none. */
static const char *addresses(const char *name, const char *service, int family, int type, int flags)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = type, .ai_flags = flags }, *found = NULL;
	static __thread char text[1500];
	int ret = getaddrinfo(name, service, &hints, &found);
	size_t at = 0;

	if (ret) {
		snprintf(text, sizeof(text), "error %d", ret);
		return text;
	}
	text[0] = 0;
	for (struct addrinfo *one = found; one && at < sizeof(text); one = one->ai_next) {
		char host[100] = "", port[20] = "";

		getnameinfo(one->ai_addr, one->ai_addrlen, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
		at += snprintf(text + at, sizeof(text) - at, "%s%s:%s/%d", at ? " " : "", host, port, one->ai_protocol);
	}
	freeaddrinfo(found);
	return text;
}

static void *resolve_often(void *arg)
{
	for (int i = 0; i < 30; i++)
		if (strcmp(addresses("first.example", "80", AF_INET, SOCK_STREAM, 0), "10.1.2.3:80/6"))
			return arg;
	return NULL;
}

static void test_hosts(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(0x0a010203) };
	char host[100] = "", service[100] = "", text[50], error[20];
	struct addrinfo hints = { .ai_flags = AI_CANONNAME, .ai_family = AF_INET }, *found = NULL;
	unsigned char bytes[16];
	struct hostent *entry;
	struct servent *served;
	struct protoent *protocol;
	pthread_t threads[4];
	void *ret;
	int bad = 0, port;

	TEXT("names.getaddrinfo.numeric", addresses("192.0.2.7", "8080", AF_UNSPEC, SOCK_STREAM, AI_NUMERICHOST), "192.0.2.7:8080/6");
	TEXT("names.getaddrinfo.numeric_6", addresses("2001:db8::7", "53", AF_INET6, SOCK_DGRAM, AI_NUMERICHOST), "2001:db8::7:53/17");
	TEXT("names.getaddrinfo.passive", addresses(NULL, "99", AF_INET, SOCK_STREAM, AI_PASSIVE), "0.0.0.0:99/6");
	TEXT("names.getaddrinfo.loopback", addresses(NULL, "99", AF_INET, SOCK_STREAM, 0), "127.0.0.1:99/6");
	TEXT("names.getaddrinfo.localhost", addresses("localhost", "1", AF_INET, SOCK_STREAM, 0), "127.0.0.1:1/6");
	TEXT("names.getaddrinfo.name", addresses("first.example", "80", AF_INET, SOCK_STREAM, 0), "10.1.2.3:80/6");
	TEXT("names.getaddrinfo.alias", addresses("alias", "80", AF_INET, SOCK_DGRAM, 0), "10.1.2.3:80/17");
	TEXT("names.getaddrinfo.case", addresses("FIRST", NULL, AF_INET, SOCK_STREAM, 0), "10.1.2.3:0/6");
	TEXT("names.getaddrinfo.six", addresses("six.example", "5", AF_INET6, SOCK_STREAM, 0), "::1:5/6");
	TEXT("names.getaddrinfo.service", addresses("first", "www", AF_INET, SOCK_STREAM, 0), "10.1.2.3:80/6");
	TEXT("names.getaddrinfo.all_types", addresses("127.0.0.1", "7", AF_INET, 0, 0), "127.0.0.1:7/6 127.0.0.1:7/17 127.0.0.1:7/0");
	snprintf(error, sizeof(error), "error %d", EAI_NONAME);
	TEXT("names.getaddrinfo.not_numeric", addresses("first.example", "1", AF_INET, SOCK_STREAM, AI_NUMERICHOST), error);
	snprintf(error, sizeof(error), "error %d", EAI_SERVICE);
	TEXT("names.getaddrinfo.no_service", addresses("first", "no-such-service", AF_INET, SOCK_STREAM, 0), error);
	snprintf(text, sizeof(text), "%s", addresses("twice.example", "1", AF_INET, SOCK_STREAM, 0));
	CHECK("names.getaddrinfo.two", strstr(text, "10.1.2.4:1/6") && strstr(text, "10.1.2.5:1/6"));
	CHECK("names.getaddrinfo.canonical", getaddrinfo("alias", NULL, &hints, &found) == 0 && found->ai_canonname &&
	      !strcmp(found->ai_canonname, "first.example"));
	if (found)
		freeaddrinfo(found);
	TEXT("names.gai_strerror", gai_strerror(EAI_NONAME), "Name or service not known");
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, resolve_often, &threads) == 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("names.getaddrinfo.threads", bad, 0);

	CHECK("names.getnameinfo", getnameinfo((struct sockaddr *)&in, sizeof(in), host, 100, service, 100, 0) == 0 &&
	      !strcmp(host, "first.example") && !strcmp(service, "http"));
	entry = gethostbyname("first");
	CHECK("names.gethostbyname", entry && !strcmp(entry->h_name, "first.example") && entry->h_length == 4 &&
	      !memcmp(entry->h_addr_list[0], "\12\1\2\3", 4) && !strcmp(entry->h_aliases[1], "alias"));
	entry = gethostbyaddr("\12\1\2\5", 4, AF_INET);
	CHECK("names.gethostbyaddr", entry && !strcmp(entry->h_name, "twice.example"));
	served = getservbyname("domain", "udp");
	port = served ? ntohs(served->s_port) : 0;
	EQUAL("names.getservbyname", port, 53);
	served = getservbyport(htons(80), "tcp");
	CHECK("names.getservbyport", served && !strcmp(served->s_name, "http"));
	protocol = getprotobyname("udp");
	CHECK("names.getprotobyname", protocol && protocol->p_proto == 17);
	CHECK("names.inet_pton", inet_pton(AF_INET6, "2001:db8::1", bytes) == 1 && bytes[0] == 0x20 && bytes[15] == 1 &&
	      inet_ntop(AF_INET6, bytes, text, sizeof(text)) && !strcmp(text, "2001:db8::1") && inet_pton(AF_INET, "1.2.3", bytes) == 0);
	TEXT("names.inet_ntoa", inet_ntoa(in.sin_addr), "10.1.2.3");
	CHECK("names.gethostname", gethostname(host, sizeof(host)) == 0 && strlen(host) > 0);
}

/* --- a server of names, on this machine --- */

#define TYPE_A 1
#define TYPE_PTR 12
#define TYPE_AAAA 28

static atomic_int queries, silent_queries;

/* Writes a record whose name is that of the question. */
static int answer(unsigned char *to, int type, const void *data, int size)
{
	unsigned char head[12] = { 0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, size >> 8, size };

	memcpy(to, head, sizeof(head));
	memcpy(to + sizeof(head), data, size);
	return sizeof(head) + size;
}

/* Answers one question as RFC 1035 has it; 0 if there is to be no answer. */
static int respond(unsigned char *packet, int size, int stream)
{
	static const unsigned char six[16] = { 0x20, 1, 0xd, 0xb8, [15] = 9 };
	int at = 12, end, type, error = 0, count = 0;
	char name[256] = "";

	while (at < size && packet[at]) {
		snprintf(name + strlen(name), sizeof(name) - strlen(name), "%s%.*s", *name ? "." : "", packet[at], (char *)packet + at + 1);
		at += packet[at] + 1;
	}
	type = packet[at + 2];
	end = at + 5;
	queries++;
	packet[2] = 0x84 | (packet[2] & 1);	/* an answer, and an authority's */
	packet[3] = 0x80;
	if (!strcmp(name, "one.test") && type == TYPE_A) {
		end += answer(packet + end, TYPE_A, "\12\2\0\1", 4);
		count = 1;
	} else if (!strcmp(name, "one.test") && type == TYPE_AAAA) {
		end += answer(packet + end, TYPE_AAAA, six, 16);
		count = 1;
	} else if (!strcmp(name, "three.test") && type == TYPE_A) {
		for (count = 0; count < 3; count++)
			end += answer(packet + end, TYPE_A, (unsigned char []){ 10, 2, 3, count }, 4);
	} else if (!strcmp(name, "large.test") && type == TYPE_A) {
		if (!stream)
			packet[2] |= 2;		/* truncated: ask again by TCP */
		for (count = 0; stream && count < 60; count++)
			end += answer(packet + end, TYPE_A, (unsigned char []){ 10, 9, 9, count }, 4);
	} else if (!strcmp(name, "1.0.2.10.in-addr.arpa") && type == TYPE_PTR) {
		end += answer(packet + end, TYPE_PTR, "\3one\4test", 10);
		count = 1;
	} else if (!strcmp(name, "silent.test") && silent_queries++ < 2) {
		return 0;
	} else if (!strcmp(name, "silent.test") && type == TYPE_A) {
		end += answer(packet + end, TYPE_A, "\12\7\7\7", 4);
		count = 1;
	} else if (!strcmp(name, "broken.test")) {
		error = 2;
	} else if (!strcmp(name, "searched.inner.test") && type == TYPE_A) {
		end += answer(packet + end, TYPE_A, "\12\5\5\5", 4);
		count = 1;
	} else if (strcmp(name, "one.test") && strcmp(name, "three.test") && strcmp(name, "large.test") && strcmp(name, "searched.inner.test")) {
		error = 3;
	}
	packet[3] |= error;
	packet[6] = 0;
	packet[7] = count;
	memset(packet + 8, 0, 4);	/* nothing of what the question had behind itself */
	return end;
}

static void *serve_datagrams(void *arg)
{
	unsigned char packet[2000];
	struct sockaddr_in from;

	for (;;) {
		socklen_t length = sizeof(from);
		int size = recvfrom(*(int *)arg, packet, 512, 0, (struct sockaddr *)&from, &length);

		if (size < 17)
			return NULL;	/* an empty one ends it */
		size = respond(packet, size, 0);
		if (size)
			sendto(*(int *)arg, packet, size, 0, (struct sockaddr *)&from, length);
	}
}

static void *serve_streams(void *arg)
{
	unsigned char packet[4000];
	int fd;

	while ((fd = accept(*(int *)arg, NULL, NULL)) >= 0) {
		while (read_all(fd, packet, 2) == 2) {
			int size = packet[0] << 8 | packet[1];

			if (size > 512 || read_all(fd, packet + 2, size) != size)
				break;
			size = respond(packet + 2, size, 1);
			packet[0] = size >> 8;
			packet[1] = size;
			if (write(fd, packet, size + 2) != size + 2)
				break;
		}
		close(fd);
	}
	return NULL;
}

static void *ask_often(void *arg)
{
	for (int i = 0; i < 10; i++)
		if (strcmp(addresses("one.test", "80", AF_INET, SOCK_STREAM, 0), "10.2.0.1:80/6"))
			return arg;
	return NULL;
}

static int ask_in_child(void *arg)
{
	return strcmp(addresses(arg, "80", AF_INET, SOCK_STREAM, 0), "10.2.0.1:80/6");
}

static void test_dns(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a020001) };
	int datagrams = socket(AF_INET, SOCK_DGRAM, 0), streams = socket(AF_INET, SOCK_STREAM, 0), one = 1, bad = 0, before;
	pthread_t server, other, threads[4];
	char error[20], host[100] = "", *last = NULL;
	unsigned char reply[512];
	const char *text;
	void *ret;

	setsockopt(streams, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	NEED(bind(datagrams, (struct sockaddr *)&address, sizeof(address)) == 0 && bind(streams, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	     listen(streams, 5) == 0);
	NEED(pthread_create(&server, NULL, serve_datagrams, &datagrams) == 0 && pthread_create(&other, NULL, serve_streams, &streams) == 0);

	TEXT("names.dns.name", addresses("one.test", "80", AF_INET, SOCK_STREAM, 0), "10.2.0.1:80/6");
	TEXT("names.dns.name_6", addresses("one.test", "80", AF_INET6, SOCK_STREAM, 0), "2001:db8::9:80/6");
	text = addresses("one.test", "80", AF_UNSPEC, SOCK_STREAM, 0);
	CHECK("names.dns.both_families", strstr(text, "10.2.0.1:80/6") && strstr(text, "2001:db8::9:80/6"));
	text = addresses("three.test", "1", AF_INET, SOCK_STREAM, 0);
	CHECK("names.dns.three", strstr(text, "10.2.3.0:1/6") && strstr(text, "10.2.3.1:1/6") && strstr(text, "10.2.3.2:1/6"));
	snprintf(error, sizeof(error), "error %d", EAI_NONAME);
	TEXT("names.dns.unknown", addresses("unknown.test", "1", AF_INET, SOCK_STREAM, 0), error);
	snprintf(error, sizeof(error), "error %d", EAI_AGAIN);
	TEXT("names.dns.broken", addresses("broken.test.", "1", AF_INET, SOCK_STREAM, 0), error);
	TEXT("names.dns.asked_again", addresses("silent.test", "1", AF_INET, SOCK_STREAM, 0), "10.7.7.7:1/6");
	text = addresses("large.test", "1", AF_INET, SOCK_STREAM, 0);
	CHECK("names.dns.by_tcp", strstr(text, "10.9.9.") && strlen(text) > 400);
	TEXT("names.dns.searched", addresses("searched", "1", AF_INET, SOCK_STREAM, 0), "10.5.5.5:1/6");
	before = queries;
	TEXT("names.dns.files_first", addresses("first.example", "80", AF_INET, SOCK_STREAM, 0), "10.1.2.3:80/6");
	EQUAL("names.dns.not_asked", queries - before, 0);
	CHECK("names.dns.name_of_address", getnameinfo((struct sockaddr *)&in, sizeof(in), host, sizeof(host), NULL, 0, NI_NAMEREQD) == 0 &&
	      !strcmp(host, "one.test"));
	CHECK("names.dns.res_query", res_query("one.test", 1, TYPE_A, reply, sizeof(reply)) == 12 + 14 + 16 && reply[7] == 1);
	CHECK("names.dns.gethostbyname", (last = gethostbyname("one.test") ? "found" : NULL) && gethostbyname("unknown.test") == NULL &&
	      h_errno == HOST_NOT_FOUND);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, ask_often, threads) == 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		bad += ret != NULL;
	}
	EQUAL("names.dns.threads", bad, 0);
	EQUAL("names.dns.child", in_child(ask_in_child, "one.test"), 0);

	sendto(datagrams, "", 0, 0, (struct sockaddr *)&address, sizeof(address));
	shutdown(streams, SHUT_RD);
	pthread_join(server, NULL);
	pthread_join(other, NULL);
	close(datagrams);
	close(streams);
}

static void test_users(void)
{
	struct passwd *user, space, *result = NULL;
	struct group *group, group_space, *group_result = NULL;
	char buffer[1000];
	gid_t groups[10];
	int count = 10, entries = 0;

	user = getpwnam("mira");
	CHECK("names.getpwnam", user && user->pw_uid == 1001 && user->pw_gid == 1002 && !strcmp(user->pw_dir, "/home/mira") &&
	      !strcmp(user->pw_gecos, "Mira,,,") && !strcmp(user->pw_shell, "/bin/false"));
	user = getpwuid(65534);
	CHECK("names.getpwuid", user && !strcmp(user->pw_name, "nobody"));
	errno = 0;
	CHECK("names.getpwnam.unknown", getpwnam("nobody-there") == NULL && (errno == 0 || errno == ENOENT));
	CHECK("names.getpwnam_r", getpwnam_r("root", &space, buffer, sizeof(buffer), &result) == 0 && result == &space &&
	      !strcmp(space.pw_gecos, "the root"));
	CHECK("names.getpwnam_r.small", getpwnam_r("root", &space, buffer, 5, &result) == ERANGE && !result);
	CHECK("names.getpwuid_r", getpwuid_r(1001, &space, buffer, sizeof(buffer), &result) == 0 && result == &space &&
	      !strcmp(space.pw_name, "mira") && space.pw_gid == 1002);
	CHECK("names.getpwuid_r.unknown", getpwuid_r(4711, &space, buffer, sizeof(buffer), &result) == 0 && !result);
	setpwent();
	while (getpwent())
		entries++;
	endpwent();
	EQUAL("names.getpwent", entries, 3);
	group = getgrnam("play");
	CHECK("names.getgrnam", group && group->gr_gid == 2000 && !strcmp(group->gr_mem[0], "mira") &&
	      !strcmp(group->gr_mem[1], "nobody") && !group->gr_mem[2]);
	group = getgrgid(2001);
	CHECK("names.getgrgid", group && !strcmp(group->gr_name, "work"));
	CHECK("names.getgrnam.unknown", getgrnam("none-of-these") == NULL);
	CHECK("names.getgrnam_r", getgrnam_r("miras", &group_space, buffer, sizeof(buffer), &group_result) == 0 &&
	      group_result == &group_space && group_space.gr_gid == 1002);
	CHECK("names.getgrgid_r", getgrgid_r(2000, &group_space, buffer, sizeof(buffer), &group_result) == 0 && group_result == &group_space &&
	      !strcmp(group_space.gr_name, "play") && getgrgid_r(4711, &group_space, buffer, sizeof(buffer), &group_result) == 0 && !group_result);
	CHECK("names.getgrnam_r.small", getgrnam_r("play", &group_space, buffer, 5, &group_result) == ERANGE && !group_result);
	entries = 0;
	setgrent();
	while ((group = getgrent()))
		entries += group->gr_gid == 0 || group->gr_gid >= 1002;
	endgrent();
	EQUAL("names.getgrent", entries, 4);
	CHECK("names.getgrouplist", getgrouplist("mira", 1002, groups, &count) == 3 && count == 3 && groups[0] == 1002 &&
	      groups[1] + groups[2] == 4001);
	CHECK("names.initgroups", initgroups("mira", 1002) == 0 && getgroups(10, groups) == 3 && setgroups(0, NULL) == 0 &&
	      getgroups(10, groups) == 0);
}

int names_suite(void)
{
	write_files();
	test_hosts();
	test_dns();
	test_users();
	return check_failed;
}
