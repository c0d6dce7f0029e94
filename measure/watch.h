/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For whom instructions run: what the plugins have in common.
 *
 * __switch_to_asm() is the one place where the kernel goes from one task to another, and has the one
 * instruction that loads the stack pointer by way of %rsi.  The address that it reads is within the
 * task_struct of the next task, and so a name for it: the guest is not changed, needs no symbols,
 * and may be any 6.1.  The task that makes the requests says so by a mark, the idle task is known by
 * its HLT, and all others are what is measured.
 */
#ifndef WATCH_H
#define WATCH_H

#include <stdlib.h>

#include "setup.h"

enum role { MEASURED, LOAD, IDLE, ROLES };

static uint64_t current, load, idle; /* names of tasks */
static enum role role;

static void before_other_role(void); /* the plugin's own: what was counted up to now is of @role */
static void after_mark(unsigned int which); /* the plugin's own */

static void on_switch(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *context)
{
	(void)vcpu, (void)info, (void)context;
	before_other_role();
	current = vaddr;
	role = current == load ? LOAD : current == idle ? IDLE : MEASURED;
}

static void on_hlt(unsigned int vcpu, void *context)
{
	(void)vcpu, (void)context;
	before_other_role();
	idle = current;
	role = IDLE;
}

static void on_mark(unsigned int vcpu, void *context)
{
	unsigned int which = (unsigned int)(uintptr_t)context;

	(void)vcpu;
	before_other_role();
	if (which == MARK_LOAD) {
		load = current;
		role = LOAD;
	}
	after_mark(which);
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

/* Where the opcode begins, behind a REX prefix as well; @rep tells of those of strings. */
static size_t opcode_at(const uint8_t *code, size_t size, bool *rep)
{
	size_t at = 0;

	*rep = false;
	for (; at < size && is_prefix(code[at]); at++)
		*rep |= code[at] == 0xf2 || code[at] == 0xf3;
	if (at < size && (code[at] & 0xf0) == 0x40)
		at++;
	return at;
}

/* MOV disp(%rsi),%rsp, with a displacement of 8 or of 32 bits. */
static bool is_switch(const uint8_t *code, size_t size)
{
	return (size == 7 && !memcmp(code, "\x48\x8b\xa6", 3)) ||
	       (size == 4 && !memcmp(code, "\x48\x8b\x66", 3));
}

static uint64_t text_start, text_end; /* of the application's code in the kernel half */

static bool in_kernel(uint64_t vaddr)
{
	return vaddr >> 63 && !(text_start <= vaddr && vaddr < text_end);
}

/* Read START-END, hexadecimal. */
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

/* Look at an instruction for what tells whose the following ones are; whether it switches tasks. */
static bool watch(struct qemu_plugin_insn *insn)
{
	const uint8_t *code = qemu_plugin_insn_data(insn);
	size_t size = qemu_plugin_insn_size(insn);
	int which = mark_of(code, size);

	if (size == 1 && *code == 0xf4)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_hlt, QEMU_PLUGIN_CB_NO_REGS, NULL);
	if (which >= 0)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_NO_REGS,
						       (void *)(uintptr_t)which);
	/* It only reads; but asked for reads alone, QEMU 7.2 calls nobody. */
	if (!is_switch(code, size) || !in_kernel(qemu_plugin_insn_vaddr(insn)))
		return false;
	qemu_plugin_register_vcpu_mem_cb(insn, on_switch, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
	return true;
}

/* Look at the machine and at the plugin's arguments; the file for the result, or NULL. */
static const char *arguments(const qemu_info_t *info, int argc, char **argv)
{
	const char *out = NULL;

	if (!is_ours(info))
		return NULL;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4)) {
			out = argv[i] + 4;
		} else if (strncmp(argv[i], "text=", 5) || !parse_text(argv[i] + 5)) {
			refuse("not understood: ", argv[i]);
			return NULL;
		}
	}
	if (!out)
		refuse("out=FILE is missing", "");
	return out;
}

#endif
