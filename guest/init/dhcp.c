// SPDX-License-Identifier: Apache-2.0
/*
 * States and times are those of RFC 2131, section 4.4, without INIT-REBOOT (there is no memory
 * between boots) and without the ARP probe (a guest that nobody else's address is handed to).
 *
 * An ordinary UDP socket is enough: it is bound to the device and asks, with the BROADCAST flag,
 * for answers that an interface without an address can receive.  A packet socket would take
 * CONFIG_PACKET and an IP header of our own.
 */
#include "dhcp.h"

#include <asm/socket.h>
#include <linux/in.h>

struct message {
	uint8_t op, htype, hlen, hops;
	uint32_t xid;
	uint16_t secs, flags;
	uint32_t ciaddr, yiaddr, siaddr, giaddr;
	uint8_t chaddr[16], sname[64], file[128];
	uint32_t cookie;
	uint8_t options[312];
} __attribute__((packed));

enum {
	HEADER = offsetof(struct message, options),
	SMALLEST = 300, /* what a BOOTP relay may insist on (RFC 1542, 2.1) */
	COOKIE = 0x63825363,

	PAD = 0,
	MASK = 1,
	ROUTER = 3,
	DNS = 6,
	ADDRESS = 50,
	LEASE_TIME = 51,
	OVERLOAD = 52,
	TYPE = 53,
	SERVER = 54,
	WANTED = 55,
	MAX_SIZE = 57,
	T1 = 58,
	T2 = 59,
	END = 255,

	AFTER_REFUSAL = 5000, /* ms */
};

static uint32_t swap32(uint32_t value)
{
	return __builtin_bswap32(value);
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, 4);
	return value;
}

struct parsed {
	struct lease lease;
	int type;
	uint8_t overload;
};

static bool parse_options(const uint8_t *at, size_t size, struct parsed *out)
{
	const uint8_t *end = at + size;

	while (at < end && *at != END) {
		uint8_t code = *at++, length;

		if (code == PAD)
			continue;
		if (at == end || *at > end - at - 1)
			return false;
		length = *at++;
		switch (code) {
		case TYPE:
			out->type = length == 1 ? *at : 0;
			break;
		case OVERLOAD:
			out->overload = length == 1 ? *at : 0;
			break;
		case DNS:
			for (uint8_t i = 0; i + 4 <= length; i += 4)
				if (out->lease.n_dns < ARRAY_SIZE(out->lease.dns))
					out->lease.dns[out->lease.n_dns++] = get32(at + i);
			break;
		case ROUTER: /* a list in order of preference */
			if (length >= 4)
				out->lease.router = get32(at);
			break;
		case MASK:
			if (length == 4)
				out->lease.mask = get32(at);
			break;
		case SERVER:
			if (length == 4)
				out->lease.server = get32(at);
			break;
		case LEASE_TIME:
			if (length == 4)
				out->lease.seconds = swap32(get32(at));
			break;
		case T1:
			if (length == 4)
				out->lease.t1 = swap32(get32(at));
			break;
		case T2:
			if (length == 4)
				out->lease.t2 = swap32(get32(at));
			break;
		}
		at += length;
	}
	return true;
}

/* The mask that classes gave an address before 1993, for a server that sends none. */
static uint32_t class_mask(uint32_t addr)
{
	uint8_t first = (uint8_t)addr; /* network order: the first byte is the lowest */

	return swap32(first < 128 ? 0xff000000 : first < 192 ? 0xffff0000 : 0xffffff00);
}

int dhcp_parse(const uint8_t *packet, size_t size, uint32_t xid, const uint8_t mac[6],
	       struct lease *lease)
{
	const struct message *message = (const struct message *)packet;
	struct parsed parsed = { 0 };
	uint32_t mask;

	if (size < HEADER || message->op != 2 || message->xid != xid || message->hlen != 6 ||
	    memcmp(message->chaddr, mac, 6) || message->cookie != swap32(COOKIE))
		return 0;
	if (!parse_options(message->options, size - HEADER, &parsed))
		return 0;
	/* RFC 2131, 4.1: options may go on in the file and then the server name field. */
	if ((parsed.overload & 1) && !parse_options(message->file, sizeof(message->file), &parsed))
		return 0;
	if ((parsed.overload & 2) && !parse_options(message->sname, sizeof(message->sname), &parsed))
		return 0;
	if (parsed.type == DHCP_NAK)
		return DHCP_NAK;
	if (parsed.type != DHCP_OFFER && parsed.type != DHCP_ACK)
		return 0;
	parsed.lease.addr = message->yiaddr;
	if (!parsed.lease.addr || !parsed.lease.server || !parsed.lease.seconds)
		return 0;
	if (!parsed.lease.mask)
		parsed.lease.mask = class_mask(parsed.lease.addr);
	mask = swap32(parsed.lease.mask);
	if (~mask & (~mask + 1)) /* a hole in it */
		return 0;
	/* RFC 2131, 4.4.5: half of the lease, and seven eighths. */
	if (parsed.lease.seconds == UINT32_MAX) {
		parsed.lease.t1 = parsed.lease.t2 = UINT32_MAX;
	} else {
		uint32_t t = parsed.lease.seconds;

		if (!parsed.lease.t2 || parsed.lease.t2 > t)
			parsed.lease.t2 = t - t / 8;
		if (!parsed.lease.t1 || parsed.lease.t1 > parsed.lease.t2)
			/* Rounded up: a lease of a second must not be renewed without a pause. */
			parsed.lease.t1 = parsed.lease.t2 < t / 2 ? parsed.lease.t2 : t / 2 + t % 2;
	}
	*lease = parsed.lease;
	return parsed.type;
}

static uint8_t *option(uint8_t *at, uint8_t code, const void *value, uint8_t length)
{
	*at++ = code;
	*at++ = length;
	memcpy(at, value, length);
	return at + length;
}

/* Sends what the state asks for; that nothing could be sent shows as silence. */
static void send_message(struct dhcp *dhcp)
{
	static const uint8_t wanted[] = { MASK, ROUTER, DNS, LEASE_TIME, SERVER, T1, T2 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = __builtin_bswap16(67) };
	uint16_t max_size = __builtin_bswap16(sizeof(struct message) + 28);
	uint8_t type = dhcp->state == SELECTING ? DHCP_DISCOVER : DHCP_REQUEST;
	struct message message = {
		.op = 1,
		.htype = 1, /* Ethernet */
		.hlen = 6,
		.xid = dhcp->xid,
		.secs = __builtin_bswap16((uint16_t)((now() - dhcp->asked_at) / 1000)),
		.cookie = swap32(COOKIE),
	};
	uint8_t *at = message.options;

	memcpy(message.chaddr, dhcp->interface.mac, 6);
	at = option(at, TYPE, &type, 1);
	to.sin_addr.s_addr = INADDR_BROADCAST;
	if (dhcp->state == SELECTING || dhcp->state == REQUESTING) {
		message.flags = __builtin_bswap16(0x8000); /* BROADCAST */
		if (dhcp->state == REQUESTING) {
			at = option(at, ADDRESS, &dhcp->offer.addr, 4);
			at = option(at, SERVER, &dhcp->offer.server, 4);
		}
	} else {
		message.ciaddr = dhcp->lease.addr;
		if (dhcp->state == RENEWING)
			to.sin_addr.s_addr = dhcp->lease.server;
	}
	at = option(at, WANTED, wanted, sizeof(wanted));
	at = option(at, MAX_SIZE, &max_size, 2);
	*at++ = END;
	if (at < (uint8_t *)&message + SMALLEST)
		at = (uint8_t *)&message + SMALLEST;
	SYS6(sendto, dhcp->fd, &message, at - (uint8_t *)&message, 0, &to, sizeof(to));
}

static uint32_t random_number(void)
{
	uint32_t value;

	/* GRND_INSECURE: a transaction id is no secret, and boot must not wait for one. */
	if (SYS3(getrandom, &value, sizeof(value), 4) != sizeof(value))
		value = (uint32_t)now() * 2654435761u;
	return value;
}

static void enter(struct dhcp *dhcp, int state)
{
	dhcp->state = state;
	dhcp->tries = 0;
	if (state != REQUESTING) { /* the others begin an exchange of their own */
		dhcp->xid = random_number();
		dhcp->asked_at = now();
	}
	dhcp->wake = now();
}

static int64_t moment(const struct dhcp *dhcp, uint32_t seconds)
{
	return seconds == UINT32_MAX ? FOREVER : dhcp->bound_at + (int64_t)seconds * 1000;
}

/* Sends, and decides when to send again. */
static void ask(struct dhcp *dhcp)
{
	send_message(dhcp);
	if (dhcp->state == SELECTING || dhcp->state == REQUESTING) {
		/*
		 * Doubling up to 64 s with a random part, as 4.1 asks, but from 0.25 s, not 4: the first
		 * message is lost if the queue of the device is attached a moment after its carrier.
		 */
		int64_t wait = 250ll << (dhcp->tries < 8 ? dhcp->tries : 8);

		dhcp->wake = now() + wait + random_number() % (uint32_t)(wait / 4);
	} else {
		/* 4.4.5: half of the time that is left, but at least a minute. */
		bool renewing = dhcp->state == RENEWING;
		int64_t end = moment(dhcp, renewing ? dhcp->lease.t2 : dhcp->lease.seconds);
		int64_t wait = (end - now()) / 2;

		dhcp->wake = now() + (wait < 60000 ? 60000 : wait);
		if (dhcp->wake > end)
			dhcp->wake = end;
	}
	dhcp->tries++;
}

static enum dhcp_news wake(struct dhcp *dhcp)
{
	enum dhcp_news news = DHCP_NOTHING;

	switch (dhcp->state) {
	case SELECTING:
		break;
	case REQUESTING:
		if (dhcp->tries >= 4)
			enter(dhcp, SELECTING);
		break;
	case BOUND:
		enter(dhcp, RENEWING);
		break;
	case RENEWING:
		if (now() >= moment(dhcp, dhcp->lease.t2))
			enter(dhcp, REBINDING);
		break;
	case REBINDING:
		if (now() >= moment(dhcp, dhcp->lease.seconds)) {
			enter(dhcp, SELECTING);
			news = DHCP_LOST;
		}
		break;
	}
	ask(dhcp);
	return news;
}

static enum dhcp_news hear(struct dhcp *dhcp, const uint8_t *packet, size_t size)
{
	struct lease lease;
	int type = dhcp_parse(packet, size, dhcp->xid, dhcp->interface.mac, &lease);

	switch (dhcp->state) {
	case BOUND:
		return DHCP_NOTHING;
	case SELECTING:
		if (type == DHCP_OFFER) {
			dhcp->offer = lease;
			enter(dhcp, REQUESTING);
			ask(dhcp);
		}
		return DHCP_NOTHING;
	case REQUESTING:
	case RENEWING:
	case REBINDING:
		if (type == DHCP_NAK) {
			bool had = dhcp->state != REQUESTING;

			enter(dhcp, SELECTING);
			/* A server that refuses what it has just offered must not be asked in a loop. */
			if (had)
				ask(dhcp);
			else
				dhcp->wake = now() + AFTER_REFUSAL;
			return had ? DHCP_LOST : DHCP_NOTHING;
		}
		if (type != DHCP_ACK)
			return DHCP_NOTHING;
		dhcp->lease = lease;
		dhcp->state = BOUND;
		dhcp->bound_at = dhcp->asked_at; /* the lease runs from the request (4.4.1) */
		dhcp->wake = moment(dhcp, lease.t1);
		return DHCP_BOUND;
	}
	return DHCP_NOTHING;
}

int dhcp_start(struct dhcp *dhcp, const struct interface *interface)
{
	struct sockaddr_in self = { .sin_family = AF_INET, .sin_port = __builtin_bswap16(68) };
	int one = 1;
	long got;

	memset(dhcp, 0, sizeof(*dhcp));
	dhcp->interface = *interface;
	dhcp->fd = (int)SYS3(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (dhcp->fd < 0)
		return dhcp->fd;
	got = SYS5(setsockopt, dhcp->fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one));
	if (got >= 0)
		got = SYS5(setsockopt, dhcp->fd, SOL_SOCKET, SO_BINDTODEVICE, interface->name,
			   strlen(interface->name));
	if (got >= 0)
		got = SYS3(bind, dhcp->fd, &self, sizeof(self));
	if (got < 0) {
		SYS1(close, dhcp->fd);
		return (int)got;
	}
	enter(dhcp, SELECTING);
	ask(dhcp);
	return 0;
}

enum dhcp_news dhcp_step(struct dhcp *dhcp)
{
	static uint8_t packet[1500];
	long got;

	while ((got = SYS3(read, dhcp->fd, packet, sizeof(packet))) > 0) {
		enum dhcp_news news = hear(dhcp, packet, (size_t)got);

		if (news != DHCP_NOTHING)
			return news;
	}
	return now() >= dhcp->wake ? wake(dhcp) : DHCP_NOTHING;
}
