// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU's TCG that counts the guest's instructions, by what they are and for whom they
 * run.
 *
 *     -plugin file=count.so,out=FILE[,text=START-END]
 *
 * @out: the file with the counts, see struct counts; ukl_build/measure/counts.py reads it
 * @text: the application's code in the kernel half, hexadecimal; what is in the user half is an
 *	application's anyway
 *
 * For whom: __switch_to_asm() is the one place where the kernel goes from one task to another, and
 * has the one instruction that loads the stack pointer by way of %rsi.  The address that it reads
 * is within the task_struct of the next task, and so a name for it: the guest is not changed, needs
 * no symbols, and may be any 6.1.  The task that makes the requests says so by a mark, the idle task
 * is known by its HLT, and all others are what is measured.
 *
 * An instruction that faults is counted again when it is tried again.  A string instruction with a
 * REP prefix counts once for each time round, as QEMU's own -icount does.
 *
 * One processor: counters that need no call, which make this affordable, are not the processor's own
 * in version 1 of the interface.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mark.h"
#include "plugin.h"

enum { MAGIC = 0x434c4b55, FORMAT = 1, MARKS = 4096 };

/* Each instruction is one of the first three; the others are counted besides. */
enum count {
	USER, /* application's code in the user half: ring 3 */
	APPLICATION, /* application's code in the kernel half: ring 0 */
	KERNEL,
	REP,
	SYSCALL,
	SYSRET,
	IRET,
	CR3,
	WRMSR,
	HLT,
	ENTRIES, /* times that the kernel was left for an application, in whichever ring */
	RINGS, /* times that it was left for the user half: one change of the ring in, one out */
	COUNTS,
	NONE = COUNTS,
};

enum role { MEASURED, LOAD, IDLE, ROLES };

/* Little endian, without gaps. */
struct counts {
	uint32_t magic, format;
	uint32_t n_counts, n_roles;
	uint32_t capacity; /* of marks */
	uint32_t n_marks; /* may grow beyond the capacity; those are lost */
	uint64_t now[COUNTS]; /* since the start, of all roles */
	struct {
		uint64_t which;
		uint64_t of[ROLES][COUNTS]; /* since the start */
	} marks[MARKS];
};

PLUGIN_EXPORT int qemu_plugin_version = PLUGIN_VERSION;

static struct counts *counts;
static uint64_t text_start, text_end;

static uint64_t sum[ROLES][COUNTS]; /* up to @taken */
static uint64_t taken[COUNTS];
static uint64_t seen; /* of the kernel's instructions, when an application ran last */
static uint64_t current, load, idle; /* names of tasks */
static enum role role;

static void take(void)
{
	for (int i = 0; i < COUNTS; i++) {
		sum[role][i] += counts->now[i] - taken[i];
		taken[i] = counts->now[i];
	}
}

static void on_switch(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *context)
{
	(void)vcpu, (void)info, (void)context;
	take();
	current = vaddr;
	role = current == load ? LOAD : current == idle ? IDLE : MEASURED;
}

static void on_hlt(unsigned int vcpu, void *context)
{
	(void)vcpu, (void)context;
	take();
	idle = current;
	role = IDLE;
}

static void on_mark(unsigned int vcpu, void *context)
{
	uint32_t n = counts->n_marks;

	(void)vcpu;
	take();
	if ((uintptr_t)context == MARK_LOAD) {
		load = current;
		role = LOAD;
	}
	if (n < MARKS) {
		counts->marks[n].which = (uintptr_t)context;
		memcpy(counts->marks[n].of, sum, sizeof(sum));
	}
	/* Last: who reads it while the guest runs finds the mark whole. */
	__atomic_store_n(&counts->n_marks, n + 1, __ATOMIC_RELEASE);
}

/* At the beginning of each block of an application. */
static void on_application(unsigned int vcpu, void *context)
{
	(void)vcpu;
	if (seen == counts->now[KERNEL])
		return;
	seen = counts->now[KERNEL];
	counts->now[ENTRIES]++;
	if ((uintptr_t)context == USER)
		counts->now[RINGS]++;
}

static enum count owner(uint64_t vaddr)
{
	if (!(vaddr >> 63))
		return USER;
	return text_start <= vaddr && vaddr < text_end ? APPLICATION : KERNEL;
}

/* Intel SDM volume 2, chapter 2: what an instruction begins with, before its opcode. */
static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: /* segments */
	case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
		return true;
	}
	return false;
}

static enum count kind(const uint8_t *code, size_t size)
{
	bool rep = false;
	size_t at = 0;

	for (; at < size && is_prefix(code[at]); at++)
		rep |= code[at] == 0xf2 || code[at] == 0xf3;
	if (at < size && (code[at] & 0xf0) == 0x40) /* REX */
		at++;
	if (at == size)
		return NONE;
	switch (code[at++]) {
	case 0x6c ... 0x6f: case 0xa4 ... 0xa7: case 0xaa ... 0xaf: /* INS, OUTS, MOVS ... SCAS */
		/* 0xa8 and 0xa9 between them are TEST. */
		return rep ? REP : NONE;
	case 0xcf:
		return IRET;
	case 0xf4:
		return HLT;
	case 0x0f:
		break;
	default:
		return NONE;
	}
	if (at == size)
		return NONE;
	switch (code[at++]) {
	case 0x05:
		return SYSCALL;
	case 0x07:
		return SYSRET;
	case 0x30:
		return WRMSR;
	case 0x22: /* MOV to a control register: which one is in the middle of ModRM */
		return at < size && (code[at] >> 3 & 7) == 3 ? CR3 : NONE;
	}
	return NONE;
}

/* NOPL disp32(%rax) with the displacement of mark.h; the mark, or -1. */
static int mark_of(const uint8_t *code, size_t size)
{
	uint32_t place;

	if (size != 7 || memcmp(code, "\x0f\x1f\x80", 3))
		return -1;
	memcpy(&place, code + 3, sizeof(place));
	return (place & ~0xffu) == MARK_PLACE ? (int)(place & 0xff) : -1;
}

/* MOV disp(%rsi),%rsp, with a displacement of 8 or of 32 bits. */
static bool is_switch(const uint8_t *code, size_t size)
{
	return (size == 7 && !memcmp(code, "\x48\x8b\xa6", 3)) ||
	       (size == 4 && !memcmp(code, "\x48\x8b\x66", 3));
}

static void count_one(struct qemu_plugin_insn *insn, enum count what)
{
	qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &counts->now[what], 1);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	/* A block does not leave its pages, and sections of an application are whole pages. */
	enum count whose = owner(qemu_plugin_tb_vaddr(tb));

	(void)id;
	if (whose != KERNEL)
		qemu_plugin_register_vcpu_tb_exec_cb(tb, on_application, QEMU_PLUGIN_CB_NO_REGS,
						     (void *)(uintptr_t)whose);
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *code = qemu_plugin_insn_data(insn);
		size_t size = qemu_plugin_insn_size(insn);
		enum count what = kind(code, size);
		int which = mark_of(code, size);

		count_one(insn, whose);
		if (what != NONE)
			count_one(insn, what);
		if (what == HLT)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_hlt, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (which >= 0)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_NO_REGS,
							       (void *)(uintptr_t)which);
		/* It only reads; but asked for reads alone, QEMU 7.2 calls nobody. */
		if (whose == KERNEL && is_switch(code, size))
			qemu_plugin_register_vcpu_mem_cb(insn, on_switch, QEMU_PLUGIN_CB_NO_REGS,
							 QEMU_PLUGIN_MEM_RW, NULL);
	}
}

static int refuse(const char *why, const char *what)
{
	fprintf(stderr, "count: %s%s\n", why, what);
	return -1;
}

static bool parse_text(const char *words)
{
	char *end;

	text_start = strtoull(words, &end, 16);
	if (end == words || *end != '-')
		return false;
	words = end + 1;
	text_end = strtoull(words, &end, 16);
	return end != words && !*end && text_start < text_end;
}

static int map(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(*counts)))
		return refuse("cannot write ", path);
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (counts == MAP_FAILED)
		return refuse("cannot map ", path);
	counts->magic = MAGIC;
	counts->format = FORMAT;
	counts->n_counts = COUNTS;
	counts->n_roles = ROLES;
	counts->capacity = MARKS;
	return 0;
}

PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *out = NULL;

	if (!info->system_emulation || strcmp(info->target_name, "x86_64"))
		return refuse("this is for a machine of x86_64, not for ", info->target_name);
	if (info->system.max_vcpus != 1)
		return refuse("the machine must have one processor", "");
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = argv[i] + 4;
		else if (strncmp(argv[i], "text=", 5) || !parse_text(argv[i] + 5))
			return refuse("not understood: ", argv[i]);
	}
	if (!out)
		return refuse("out=FILE is missing", "");
	if (map(out))
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
