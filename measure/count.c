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
 * For whom: see watch.h.
 *
 * An instruction that faults is counted again when it is tried again.  A string instruction with a
 * REP prefix counts once for each time round, as QEMU's own -icount does.
 *
 * One processor: counters that need no call, which make this affordable, are not the processor's own
 * in version 1 of the interface.
 */
#include "watch.h"

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

static uint64_t sum[ROLES][COUNTS]; /* up to @taken */
static uint64_t taken[COUNTS];
static uint64_t seen; /* of the kernel's instructions, when an application ran last */

static void before_other_role(void)
{
	for (int i = 0; i < COUNTS; i++) {
		sum[role][i] += counts->now[i] - taken[i];
		taken[i] = counts->now[i];
	}
}

static void after_mark(unsigned int which)
{
	uint32_t n = counts->n_marks;

	if (n < MARKS) {
		counts->marks[n].which = which;
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
	return in_kernel(vaddr) ? KERNEL : APPLICATION;
}

static enum count kind(const uint8_t *code, size_t size)
{
	bool rep;
	size_t at = opcode_at(code, size, &rep);

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

		count_one(insn, whose);
		if (what != NONE)
			count_one(insn, what);
		watch(insn);
	}
}

PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *out = arguments(info, argc, argv);

	counts = out ? map(out, sizeof(*counts)) : NULL;
	if (!counts)
		return -1;
	counts->magic = MAGIC;
	counts->format = FORMAT;
	counts->n_counts = COUNTS;
	counts->n_roles = ROLES;
	counts->capacity = MARKS;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
