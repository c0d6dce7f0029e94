// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU's TCG that notes when the guest comes to some places.
 *
 *     -plugin file=points.so,out=FILE
 *
 * @out: a file that names the places, and takes what is found, see struct points;
 *	ukl_build/measure/timeline.py makes and reads it
 *
 * Each note has the instructions since power-on, counted as in count.c, and the host's clock.  An
 * address is one as the guest has it when it comes there: before the kernel has its page tables
 * those of its code are low ones.
 *
 * One processor: as count.c.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "setup.h"

enum { MAGIC = 0x504c4b55, FORMAT = 1 };

enum { MOST_NOTES = 64 }; /* of one place: what is done all the time is of no interest then */

/* Little endian, without gaps. */
struct note {
	uint64_t place; /* its number; that behind the last one is of MARK_READY */
	uint64_t instructions; /* before it */
	uint64_t ns; /* of the host, since the plugin was loaded */
};

struct points {
	uint32_t magic, format;
	uint32_t n_places;
	uint32_t n_notes; /* may grow beyond the capacity; those are lost */
	uint32_t capacity; /* of notes, behind the places */
	uint32_t unused;
	uint64_t instructions; /* all */
	uint64_t places[]; /* addresses in ascending order */
};

PLUGIN_EXPORT int qemu_plugin_version = PLUGIN_VERSION;

static struct points *points;
static struct note *notes;
static uint32_t *seen; /* how often each place was come to */
static struct timespec start;

static void on_place(unsigned int vcpu, void *context)
{
	uint32_t place = (uint32_t)(uintptr_t)context;
	struct timespec now;

	(void)vcpu;
	if (seen[place]++ >= MOST_NOTES || points->n_notes++ >= points->capacity)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	notes[points->n_notes - 1] = (struct note){
		.place = place,
		.instructions = points->instructions,
		.ns = (uint64_t)(now.tv_sec - start.tv_sec) * 1000000000 + (uint64_t)now.tv_nsec -
		      (uint64_t)start.tv_nsec,
	};
}

static int compare(const void *a, const void *b)
{
	uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

	return (one > other) - (one < other);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t vaddr = qemu_plugin_insn_vaddr(insn);
		const uint64_t *found = bsearch(&vaddr, points->places, points->n_places,
						sizeof(vaddr), compare);
		uintptr_t place = found ? (uintptr_t)(found - points->places) : points->n_places;

		if (found || mark_of(qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn)) == MARK_READY)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_place, QEMU_PLUGIN_CB_NO_REGS,
							       (void *)place);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
							   &points->instructions, 1);
	}
}

/* The file that was made for us in memory; NULL if it is none. */
static struct points *given(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct points *mapped = MAP_FAILED;
	struct stat stat;

	if (fd >= 0 && !fstat(fd, &stat) && (size_t)stat.st_size >= sizeof(*points))
		mapped = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (mapped != MAP_FAILED && mapped->magic == MAGIC && mapped->format == FORMAT &&
	    (size_t)stat.st_size == sizeof(*mapped) + mapped->n_places * sizeof(mapped->places[0]) +
					    mapped->capacity * sizeof(*notes))
		return mapped;
	refuse("this names no places: ", path);
	return NULL;
}

PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	if (!is_ours(info))
		return -1;
	if (argc != 1 || strncmp(argv[0], "out=", 4))
		return refuse("only out=FILE is understood", "");
	points = given(argv[0] + 4);
	if (!points)
		return -1;
	notes = (struct note *)&points->places[points->n_places];
	seen = calloc(points->n_places + 1, sizeof(*seen));
	if (!seen)
		return refuse("there is no memory", "");
	clock_gettime(CLOCK_MONOTONIC, &start);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
