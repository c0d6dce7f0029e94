/* SPDX-License-Identifier: Apache-2.0 */
/* A DHCP client (RFC 2131) for one Ethernet interface. */
#ifndef UKL_INIT_DHCP_H
#define UKL_INIT_DHCP_H

#include "net.h"

struct lease {
	uint32_t addr, mask, router, server; /* network byte order, 0: not given */
	uint32_t dns[3];
	size_t n_dns;
	uint32_t seconds, t1, t2; /* UINT32_MAX: for ever */
};

enum { DHCP_DISCOVER = 1, DHCP_OFFER, DHCP_REQUEST, DHCP_DECLINE, DHCP_ACK, DHCP_NAK };

/*
 * Reads one message from a server.  Returns its type, or 0 if it is none for us or is malformed;
 * @lease is only written if it is an offer or an acknowledgement that can be used.
 */
int dhcp_parse(const uint8_t *packet, size_t size, uint32_t xid, const uint8_t mac[6],
	       struct lease *lease);

/* What the client wants its caller to do with the interface. */
enum dhcp_news { DHCP_NOTHING, DHCP_BOUND, DHCP_LOST };

struct dhcp {
	enum { SELECTING, REQUESTING, BOUND, RENEWING, REBINDING } state;
	int fd; /* to poll for input */
	int64_t wake; /* when dhcp_step() wants to be called, ms since boot */
	struct lease lease; /* what is in force; valid with DHCP_BOUND, and with DHCP_LOST still */

	struct interface interface;
	struct lease offer;
	uint32_t xid, tries;
	int64_t bound_at, asked_at;
};

/* Opens the socket and sends the first message; 0 or a negative errno. */
int dhcp_start(struct dhcp *dhcp, const struct interface *interface);
/* To be called when there is input or @wake has come. */
enum dhcp_news dhcp_step(struct dhcp *dhcp);

#endif
