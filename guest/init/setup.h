/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing the machine up and down. */
#ifndef UKL_INIT_SETUP_H
#define UKL_INIT_SETUP_H

#include "lib.h"

/* The kernel's own file systems, and a console as descriptors 0 to 2. */
void setup_mounts(void);
/* The drivers that the kernel does not have built in; false, with a description, if one fails. */
bool setup_modules(char *wrong, size_t size);
void setup_sysctls(void);
/* The file systems of the configuration; false, with a description, if one cannot be mounted. */
bool setup_disks(char *wrong, size_t size);
/* The folders above a path, where they are missing. */
void make_parents(char *path);
/* Returns when getrandom(2) does not block, or when the time for that is over. */
void setup_entropy(void);
void write_resolv_conf(const uint32_t *dns, size_t n);
/* Writes back and unmounts everything, then turns the power off. */
__attribute__((noreturn)) void power_off(void);

#endif
