/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a plugin does before it can look at anything, and how it finds marks.
 */
#ifndef SETUP_H
#define SETUP_H

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mark.h"
#include "plugin.h"

/* NOPL disp32(%rax) with the displacement of mark.h; the mark, or -1. */
static inline int mark_of(const uint8_t *code, size_t size)
{
	uint32_t place;

	if (size != 7 || memcmp(code, "\x0f\x1f\x80", 3))
		return -1;
	memcpy(&place, code + 3, sizeof(place));
	return (place & ~0xffu) == MARK_PLACE ? (int)(place & 0xff) : -1;
}

static inline int refuse(const char *why, const char *what)
{
	fprintf(stderr, "plugin: %s%s\n", why, what);
	return -1;
}

/* The file for the result in memory, all zeros; NULL if it cannot be written. */
static inline void *map(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	void *mapped = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, (off_t)size))
		mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (mapped != MAP_FAILED)
		return mapped;
	refuse("cannot write ", path);
	return NULL;
}

/* Whether the machine is one that these plugins can count. */
static inline bool is_ours(const qemu_info_t *info)
{
	if (!info->system_emulation || strcmp(info->target_name, "x86_64"))
		return !refuse("this is for a machine of x86_64, not for ", info->target_name);
	if (info->system.max_vcpus != 1)
		return !refuse("the machine must have one processor", "");
	return true;
}

#endif
