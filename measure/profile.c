// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU's TCG that counts the guest's instructions by where they are and by who called.
 *
 *     -plugin file=profile.so,out=FILE[,text=START-END]
 *
 * @out: the file with the counts, see struct profile; ukl_build/measure/calltree.py reads it
 * @text: as for count.c
 *
 * A plugin sees no registers, so nobody's stack. It sees the blocks that run, and keeps a stack for
 * each task from how they end: a call puts a function on it, a return takes away what is above the
 * call that it leads behind. A block that cannot follow the one before it is an interrupt or an
 * exception, and lasts until IRET. A return to nobody on the stack is a retpoline's jump to the
 * function that was called. What goes wrong in between (longjmp, a fault in the middle of a block) is
 * right again at the next return to somebody who is on the stack.
 *
 * Instructions are counted a block at a time: those behind one that faults are counted though they do
 * not run.  Only what is measured is counted, see watch.h, between marks.
 */
#include "watch.h"

enum { MAGIC = 0x504c4b55, FORMAT = 1, NODES = 1 << 18, LEAVES = 1 << 21, DEPTH = 192, TASKS = 1024 };

enum { TRAP = 7 }; /* bytes: INT3; or PAUSE, LFENCE and a jump back */

/* Little endian, without gaps. */
struct profile {
	uint32_t magic, format;
	uint32_t n_nodes, n_leaves;
	uint32_t n_batches;
	uint32_t lost; /* blocks for which there was no room */
	struct node {
		uint32_t parent, unused;
		uint64_t entry; /* of a function, or where an interrupt leads */
	} nodes[NODES]; /* the first is the root, above all tasks */
	struct leaf {
		uint32_t node, batch;
		uint64_t place; /* of a block */
		uint64_t instructions;
	} leaves[LEAVES];
};

enum end { PLAIN, JUMP, BRANCH, INDIRECT, CALL, RETURN, FROM_KERNEL, INTO_KERNEL };

struct block {
	uint64_t start, next; /* @next is behind it */
	uint64_t target; /* of a direct jump or call, or 0 */
	enum end end;
	uint32_t n;
	uint32_t node, batch; /* of @leaf */
	struct leaf *leaf;
};

struct frame {
	uint32_t node;
	bool trap; /* ended by IRET or SYSRET */
	uint64_t ret; /* where its end leads; 0 if anywhere */
	const struct block *interrupted;
};

struct task {
	uint64_t name;
	int depth;
	struct frame frames[DEPTH];
};

PLUGIN_EXPORT int qemu_plugin_version = PLUGIN_VERSION;

static struct profile *profile;
static struct task tasks[TASKS], *task = tasks;
static const struct block *last;
static uint32_t node_of[2 * NODES], leaf_of[2 * LEAVES]; /* hash tables of numbers, 0 is free */
static bool counting;

static uint64_t hash(uint64_t a, uint64_t b)
{
	a = (a ^ b * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
	return a ^ a >> 31;
}

static uint32_t child(uint32_t parent, uint64_t entry)
{
	uint64_t at = hash(entry, parent);

	for (;; at++) {
		uint32_t *number = &node_of[at % (2 * NODES)];
		struct node *node = &profile->nodes[*number];

		if (!*number) {
			if (profile->n_nodes == NODES)
				return parent;
			*number = profile->n_nodes++;
			profile->nodes[*number] = (struct node){ .parent = parent, .entry = entry };
			return *number;
		}
		if (node->parent == parent && node->entry == entry)
			return *number;
	}
}

static struct leaf *find_leaf(uint32_t node, uint32_t batch, uint64_t place)
{
	uint64_t at = hash(place, (uint64_t)batch << 32 | node);

	for (;; at++) {
		uint32_t *number = &leaf_of[at % (2 * LEAVES)];
		struct leaf *leaf = &profile->leaves[*number];

		if (!*number) {
			if (profile->n_leaves == LEAVES)
				return NULL;
			*number = profile->n_leaves++;
			profile->leaves[*number] = (struct leaf){ node, batch, place, 0 };
			return &profile->leaves[*number];
		}
		if (leaf->node == node && leaf->batch == batch && leaf->place == place)
			return leaf;
	}
}

static uint32_t top(void)
{
	return task->depth ? task->frames[task->depth - 1].node : 0;
}

static void push(uint64_t entry, uint64_t ret, bool trap)
{
	if (task->depth < DEPTH) {
		task->frames[task->depth] = (struct frame){ child(top(), entry), trap, ret, last };
		task->depth++;
	}
}

static bool within(const struct block *block, uint64_t place)
{
	return block->start <= place && place < block->next;
}

/* Whether @place can come behind a block: itself again (REP), or where its end leads. */
static bool follows(const struct block *block, uint64_t place)
{
	if (within(block, place))
		return true;
	switch (block->end) {
	case PLAIN:
		return place == block->next;
	case JUMP:
	case CALL:
		return !block->target || place == block->target;
	case BRANCH:
		return place == block->next || place == block->target;
	default:
		return true;
	}
}

/* By a return: to behind the call of somebody on the stack, or as a jump to @place. */
static void leave(uint64_t place)
{
	struct frame *now = task->depth ? &task->frames[task->depth - 1] : NULL;

	for (int i = task->depth; i-- > 0;) {
		if (!task->frames[i].trap && task->frames[i].ret == place) {
			task->depth = i;
			return;
		}
	}
	if (now && !now->trap)
		now->node = child(task->depth > 1 ? now[-1].node : 0, place);
}

/* By IRET or SYSRET: from an interrupt or a system call; ring 0 leaves a called entry so as well. */
static void leave_kernel(uint64_t place)
{
	for (int i = task->depth; i-- > 0;) {
		const struct frame *frame = &task->frames[i];
		const struct block *before = frame->interrupted;

		if (!frame->trap && frame->ret != place)
			continue;
		task->depth = i;
		/* A call was made before the interrupt came. */
		if (frame->trap && !frame->ret && before && before->end == CALL && !within(before, place))
			push(place, before->next, false);
		return;
	}
}

static void follow(const struct block *block)
{
	if (!last)
		return;
	if (!follows(last, block->start)) {
		push(block->start, 0, true);
		return;
	}
	switch (last->end) {
	case CALL:
		/* Over a trap for speculation: a retpoline, or what fills the return stack buffer. */
		if (last->target - last->next - 1 < TRAP)
			break;
		if (!within(last, block->start) || block->start == last->target)
			push(block->start, last->next, false);
		break;
	case RETURN:
		leave(block->start);
		break;
	case FROM_KERNEL:
		leave_kernel(block->start);
		break;
	case INTO_KERNEL:
		push(block->start, last->next, true);
		break;
	default:
		break;
	}
}

static void on_block(unsigned int vcpu, void *context)
{
	struct block *block = context;

	(void)vcpu;
	follow(block);
	last = block;
	if (!counting || role != MEASURED)
		return;
	if (!block->leaf || block->node != top() || block->batch != profile->n_batches) {
		block->node = top();
		block->batch = profile->n_batches;
		block->leaf = find_leaf(block->node, block->batch, block->start);
	}
	if (block->leaf)
		block->leaf->instructions += block->n;
	else
		profile->lost++;
}

static void before_other_role(void)
{
	/* Who comes next has a stack of his own; found by on_task(), as this comes before. */
}

static void after_mark(unsigned int which)
{
	if (which == MARK_BEGIN)
		counting = true;
	if (which == MARK_END) {
		counting = false;
		profile->n_batches++;
	}
}

static void on_task(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *context)
{
	uint64_t at = hash(vaddr, 0);

	(void)vcpu, (void)info, (void)context;
	for (int i = 0; i < TASKS; i++) {
		task = &tasks[(at + (uint64_t)i) % TASKS];
		if (!task->name || task->name == vaddr)
			break;
	}
	task->name = vaddr;
}

static int64_t displacement(const uint8_t *code, size_t size)
{
	int32_t value = 0;

	if (size == 1)
		return (int8_t)*code;
	if (size == sizeof(value))
		memcpy(&value, code, sizeof(value));
	return value;
}

/* What the last instruction of a block does. */
static void look_at_end(struct block *block, const uint8_t *code, size_t size)
{
	bool rep;
	size_t at = opcode_at(code, size, &rep);
	uint8_t opcode = at < size ? code[at++] : 0;

	block->end = PLAIN;
	if (opcode == 0x0f && at < size) {
		opcode = code[at++];
		if (opcode == 0x05)
			block->end = INTO_KERNEL;
		else if (opcode == 0x07)
			block->end = FROM_KERNEL;
		else if ((opcode & 0xf0) == 0x80)
			block->end = BRANCH;
	} else if (opcode == 0xe8) {
		block->end = CALL;
	} else if (opcode == 0xe9 || opcode == 0xeb) {
		block->end = JUMP;
	} else if ((opcode & 0xf0) == 0x70 || (opcode & 0xfc) == 0xe0) {
		block->end = BRANCH;
	} else if (opcode == 0xc3 || opcode == 0xc2) {
		block->end = RETURN;
	} else if (opcode == 0xcf) {
		block->end = FROM_KERNEL;
	} else if (opcode == 0xff && at < size) {
		/* Which of the group is in the middle of ModRM. */
		if ((code[at] >> 3 & 7) == 2)
			block->end = CALL;
		else if ((code[at] >> 3 & 7) == 4)
			block->end = INDIRECT;
		return;
	}
	if (block->end == CALL || block->end == JUMP || block->end == BRANCH)
		block->target = block->next + (uint64_t)displacement(code + at, size - at);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *block = calloc(1, sizeof(*block));
	size_t n = qemu_plugin_tb_n_insns(tb);
	struct qemu_plugin_insn *insn = NULL;

	(void)id;
	if (!block)
		abort();
	/* Before anything within it. */
	qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
	for (size_t i = 0; i < n; i++) {
		insn = qemu_plugin_tb_get_insn(tb, i);
		if (watch(insn))
			qemu_plugin_register_vcpu_mem_cb(insn, on_task, QEMU_PLUGIN_CB_NO_REGS,
							 QEMU_PLUGIN_MEM_RW, NULL);
	}
	block->n = (uint32_t)n;
	block->start = qemu_plugin_tb_vaddr(tb);
	block->next = qemu_plugin_insn_vaddr(insn) + qemu_plugin_insn_size(insn);
	look_at_end(block, qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn));
}

PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *out = arguments(info, argc, argv);

	profile = out ? map(out, sizeof(*profile)) : NULL;
	if (!profile)
		return -1;
	profile->magic = MAGIC;
	profile->format = FORMAT;
	/* Number 0 is the root, and no leaf. */
	profile->n_nodes = profile->n_leaves = 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
