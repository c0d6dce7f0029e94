/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host is told, as JSON lines over the virtio-serial port "org.ukl-build.status".  Without
 * such a port (another hypervisor) everything is only said on the console.
 */
#ifndef UKL_INIT_STATUS_H
#define UKL_INIT_STATUS_H

#include "lib.h"

#define STATUS_PORT "org.ukl-build.status"

void status_open(void);
/* One line, given without the outer braces: "event":"started",… */
void status(const char *format, ...);

#endif
