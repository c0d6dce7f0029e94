// SPDX-License-Identifier: Apache-2.0
/* Names of hosts, services, users and groups, from files. */
#include "libc.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>

static const struct {
	const char *path, *text;
} files[] = {
	{ "/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n" },
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
	static __thread char text[500];
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
	CHECK("names.getgrouplist", getgrouplist("mira", 1002, groups, &count) == 3 && count == 3 && groups[0] == 1002 &&
	      groups[1] + groups[2] == 4001);
	CHECK("names.initgroups", initgroups("mira", 1002) == 0 && getgroups(10, groups) == 3 && setgroups(0, NULL) == 0 &&
	      getgroups(10, groups) == 0);
}

int names_suite(void)
{
	write_files();
	test_hosts();
	test_users();
	return check_failed;
}
