/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of virtio-serial, by which the host is talked to. */
#ifndef UKL_INIT_PORT_H
#define UKL_INIT_PORT_H

#include "lib.h"

/*
 * Opens a port by its name; waits until the name is there, if there is a device that has ports.
 * Returns its descriptor, -ENODEV without such a device, -ENOENT without such a port.
 */
int port_open(const char *name, int flags, int64_t wait_ms);
/* Writes at most 32 KiB at once; false if the host does not take it in two seconds. */
bool port_write(int port, const char *data, size_t length);

#endif
