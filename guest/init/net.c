// SPDX-License-Identifier: Apache-2.0
#include "net.h"

#include <asm/socket.h>
#include <linux/genetlink.h>
#include <linux/poll.h>
#include <linux/rtnetlink.h>

/* From <linux/if.h> and <linux/if_arp.h>, which cannot be had without a libc. */
enum { FLAG_UP = 0x1, FLAG_LOWER_UP = 0x10000, ARPHRD_ETHER = 1 };

struct request {
	struct nlmsghdr header;
	char body[256];
} __attribute__((aligned(4)));

static void begin(struct request *request, uint16_t type, uint16_t flags, const void *body, size_t size)
{
	memset(request, 0, sizeof(*request));
	request->header.nlmsg_len = (uint32_t)NLMSG_LENGTH(size);
	request->header.nlmsg_type = type;
	request->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	memcpy(request->body, body, size);
}

static void add(struct request *request, uint16_t type, const void *data, size_t size)
{
	struct nlattr attribute = { (uint16_t)(NLA_HDRLEN + size), type };
	char *at = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len);

	memcpy(at, &attribute, sizeof(attribute));
	memcpy(at + NLA_HDRLEN, data, size);
	request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)NLA_ALIGN(attribute.nla_len);
}

static int open_netlink(int protocol)
{
	return (int)SYS3(socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
}

/*
 * Sends a request and calls @each for every message of the answer.  The kernel answers before
 * sendto() returns, so nothing here needs a time limit.
 */
static int talk(int protocol, struct request *request,
		void (*each)(const struct nlmsghdr *, void *), void *context)
{
	static char buffer[32768] __attribute__((aligned(4)));
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int fd = open_netlink(protocol);
	long got;

	if (fd < 0)
		return fd;
	got = SYS6(sendto, fd, request, request->header.nlmsg_len, 0, &kernel, sizeof(kernel));
	while (got >= 0) {
		struct nlmsghdr *message = (struct nlmsghdr *)buffer;

		got = SYS3(read, fd, buffer, sizeof(buffer));
		for (long left = got; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
			if (message->nlmsg_type == NLMSG_ERROR) {
				got = ((struct nlmsgerr *)NLMSG_DATA(message))->error;
				goto done;
			}
			if (message->nlmsg_type == NLMSG_DONE) {
				got = 0;
				goto done;
			}
			if (each)
				each(message, context);
		}
	}
done:
	SYS1(close, fd);
	return (int)got;
}

struct search {
	const char *name;
	struct interface *out;
	bool found;
};

static void look_at(const struct nlmsghdr *message, void *context)
{
	const struct ifinfomsg *info = NLMSG_DATA(message);
	struct rtattr *attribute = IFLA_RTA(info);
	struct interface this = { .index = info->ifi_index };
	struct search *search = context;
	int left = (int)IFLA_PAYLOAD(message);

	if (message->nlmsg_type != RTM_NEWLINK || search->found)
		return;
	this.ethernet = info->ifi_type == ARPHRD_ETHER;
	/*
	 * Not IFF_RUNNING: that follows the operational state, which net/core/link_watch.c brings up to
	 * date once a second at most, and the whole second was waited for (measured: 980 ms).
	 */
	this.carrier = info->ifi_flags & FLAG_LOWER_UP;
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type == IFLA_IFNAME && RTA_PAYLOAD(attribute) <= sizeof(this.name))
			memcpy(this.name, RTA_DATA(attribute), RTA_PAYLOAD(attribute));
		if (attribute->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(attribute) == sizeof(this.mac))
			memcpy(this.mac, RTA_DATA(attribute), sizeof(this.mac));
	}
	if (search->name ? !equal(search->name, this.name) : !this.ethernet)
		return;
	*search->out = this;
	search->found = true;
}

static bool find_once(const char *name, struct interface *out)
{
	struct search search = { name, out, false };
	struct ifinfomsg info = { 0 };
	struct request request;

	begin(&request, RTM_GETLINK, NLM_F_DUMP, &info, sizeof(info));
	talk(NETLINK_ROUTE, &request, look_at, &search);
	return search.found;
}

bool net_find(const char *name, int64_t wait, struct interface *out)
{
	int64_t end = now() + wait;

	while (!find_once(name, out)) {
		if (now() >= end)
			return false;
		pause_ms(5);
	}
	return true;
}

int net_up(int index)
{
	struct ifinfomsg info = { .ifi_index = index, .ifi_flags = FLAG_UP, .ifi_change = FLAG_UP };
	struct request request;

	begin(&request, RTM_NEWLINK, NLM_F_ACK, &info, sizeof(info));
	return talk(NETLINK_ROUTE, &request, NULL, NULL);
}

bool net_wait_carrier(const struct interface *interface, int64_t wait)
{
	int64_t end = now() + wait;
	struct interface state;

	while (!find_once(interface->name, &state) || !state.carrier) {
		if (now() >= end)
			return false;
		pause_ms(2);
	}
	return true;
}

static int change_address(uint16_t type, uint16_t flags, int index, uint32_t addr, uint32_t prefix)
{
	struct ifaddrmsg info = {
		.ifa_family = AF_INET,
		.ifa_prefixlen = (uint8_t)prefix,
		.ifa_index = (uint32_t)index,
	};
	struct request request;

	begin(&request, type, (uint16_t)(flags | NLM_F_ACK), &info, sizeof(info));
	add(&request, IFA_LOCAL, &addr, sizeof(addr));
	add(&request, IFA_ADDRESS, &addr, sizeof(addr));
	if (prefix < 31) {
		uint32_t broadcast = addr | __builtin_bswap32(UINT32_MAX >> prefix);

		add(&request, IFA_BROADCAST, &broadcast, sizeof(broadcast));
	}
	return talk(NETLINK_ROUTE, &request, NULL, NULL);
}

int net_add_address(int index, uint32_t addr, uint32_t prefix)
{
	return change_address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, addr, prefix);
}

int net_remove_address(int index, uint32_t addr, uint32_t prefix)
{
	return change_address(RTM_DELADDR, 0, index, addr, prefix);
}

int net_default_route(int index, uint32_t router)
{
	struct rtmsg info = {
		.rtm_family = AF_INET,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_BOOT,
		.rtm_scope = RT_SCOPE_UNIVERSE,
		.rtm_type = RTN_UNICAST,
		/* A router outside the prefix (a /32 lease, as clouds hand out) is still on this link. */
		.rtm_flags = RTNH_F_ONLINK,
	};
	struct request request;

	begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, &info, sizeof(info));
	add(&request, RTA_GATEWAY, &router, sizeof(router));
	add(&request, RTA_OIF, &index, sizeof(index));
	return talk(NETLINK_ROUTE, &request, NULL, NULL);
}

/*
 * The names of drivers/acpi/event.c (Linux 6.1), which no header for user space has: family
 * "acpi_event", group "acpi_mc_group", command 1, attribute 1 with this in it.
 */
struct acpi_event {
	char device_class[20];
	char bus_id[15];
	uint32_t type, data;
};

struct family {
	int group;
};

/* The attributes of netlink, nested or not, have all one layout. */
#define each_attribute(a, start, length) \
	for (int left_##a = (int)(length), once_##a = 1; once_##a; once_##a = 0) \
		for (struct rtattr *a = (struct rtattr *)(start); RTA_OK(a, left_##a); \
		     a = RTA_NEXT(a, left_##a))

enum { TYPE_MASK = 0x3fff }; /* NLA_TYPE_MASK, an expression in the header */

static void look_at_family(const struct nlmsghdr *message, void *context)
{
	struct family *family = context;
	char *start = (char *)NLMSG_DATA(message) + GENL_HDRLEN;

	if (message->nlmsg_type != GENL_ID_CTRL)
		return;
	each_attribute(top, start, NLMSG_PAYLOAD(message, GENL_HDRLEN)) {
		if ((top->rta_type & TYPE_MASK) != CTRL_ATTR_MCAST_GROUPS)
			continue;
		each_attribute(group, RTA_DATA(top), RTA_PAYLOAD(top)) {
			const char *name = "";
			int id = 0;

			each_attribute(part, RTA_DATA(group), RTA_PAYLOAD(group)) {
				if (part->rta_type == CTRL_ATTR_MCAST_GRP_NAME)
					name = RTA_DATA(part);
				if (part->rta_type == CTRL_ATTR_MCAST_GRP_ID)
					memcpy(&id, RTA_DATA(part), sizeof(id));
			}
			if (equal(name, "acpi_mc_group"))
				family->group = id;
		}
	}
}

int acpi_open(void)
{
	struct genlmsghdr info = { .cmd = CTRL_CMD_GETFAMILY, .version = 2 };
	struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	struct family family = { 0 };
	struct request request;
	long got;
	int fd;

	begin(&request, GENL_ID_CTRL, NLM_F_ACK, &info, sizeof(info));
	add(&request, CTRL_ATTR_FAMILY_NAME, "acpi_event", sizeof("acpi_event"));
	got = talk(NETLINK_GENERIC, &request, look_at_family, &family);
	if (got < 0)
		return (int)got;
	if (!family.group)
		return -ENOENT;
	fd = open_netlink(NETLINK_GENERIC);
	if (fd < 0)
		return fd;
	got = SYS3(bind, fd, &self, sizeof(self));
	if (got >= 0)
		got = SYS5(setsockopt, fd, 270 /* SOL_NETLINK */, NETLINK_ADD_MEMBERSHIP,
			   &family.group, sizeof(family.group));
	if (got < 0) {
		SYS1(close, fd);
		return (int)got;
	}
	return fd;
}

bool acpi_power_button(int fd)
{
	static char buffer[4096] __attribute__((aligned(4)));
	struct nlmsghdr *message = (struct nlmsghdr *)buffer;
	bool pressed = false;
	long left = SYS3(read, fd, buffer, sizeof(buffer));

	for (; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
		char *start = (char *)NLMSG_DATA(message) + GENL_HDRLEN;

		if (message->nlmsg_type < NLMSG_MIN_TYPE)
			continue;
		each_attribute(part, start, NLMSG_PAYLOAD(message, GENL_HDRLEN)) {
			struct acpi_event event;

			if (part->rta_type != 1 || RTA_PAYLOAD(part) < sizeof(event))
				continue;
			memcpy(&event, RTA_DATA(part), sizeof(event));
			event.device_class[sizeof(event.device_class) - 1] = '\0';
			pressed |= equal(event.device_class, "button/power");
		}
	}
	return pressed;
}
