/* SPDX-License-Identifier: Apache-2.0 */
/* rtnetlink and generic netlink, as much as is needed. */
#ifndef UKL_INIT_NET_H
#define UKL_INIT_NET_H

#include "lib.h"

struct interface {
	char name[16]; /* IFNAMSIZ */
	int index;
	bool ethernet, carrier;
	uint8_t mac[6];
};

/*
 * The interface called @name or, if that is NULL, the first Ethernet one; waits @wait ms for it to
 * appear, since devices are probed while the init already runs.
 */
bool net_find(const char *name, int64_t wait, struct interface *out);
/* All return 0 or a negative errno. */
int net_up(int index);
int net_add_address(int index, uint32_t addr, uint32_t prefix);
int net_remove_address(int index, uint32_t addr, uint32_t prefix);
int net_default_route(int index, uint32_t router);
/* Waits at most @wait ms for the carrier. */
bool net_wait_carrier(const struct interface *interface, int64_t wait);

/*
 * A socket that hears the events of ACPI, or a negative errno.  Netlink rather than
 * /dev/input/event*: it needs no CONFIG_INPUT_EVDEV and no search for the right node.
 */
int acpi_open(void);
/* Whether what has arrived says that the power button was pressed. */
bool acpi_power_button(int fd);

#endif
