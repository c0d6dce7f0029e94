/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The application's way into the kernel by a call, instead of SYSCALL.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/processor-flags.h>
#include <asm/unwind_hints.h>

/*
 * Registers are as with the SYSCALL instruction, which the application's own,
 * weak ukl_syscall has: RCX and R11 are clobbered, nothing else but RAX.
 *
 * This is application text: up to the jump everything here can fault, be
 * interrupted and get signals on the application's stack like any other code
 * of the application.  POPF clears at once all that SYSCALL clears by
 * MSR_SYSCALL_MASK, IF among them, and then there is nothing left to fault.
 */
	.section .ukl.text, "ax"
SYM_CODE_START(ukl_syscall)
	UNWIND_HINT_EMPTY
	ANNOTATE_NOENDBR
	movq	(%rsp), %rcx		/* return address */
	pushfq
.Lflags_pushed:
	popq	%r11
.Lflags_popped:
	pushq	$X86_EFLAGS_FIXED
.Lfixed_pushed:
	popfq
SYM_INNER_LABEL(ukl_syscall_leaves, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR
	jmp	ukl_entry_call
SYM_CODE_END(ukl_syscall)

#include "ukl_bypass.S"
.Lend:

/*
 * The application's unwinder comes here from a signal, to cancel a thread for
 * example, and the kernel keeps no .eh_frame. So this is written by hand: DWARF 5,
 * 6.4, and LSB Core, "Exception Frames". The application's table refers to it.
 */
#define DW_CFA_advance_loc(from, to)	.byte 0x40 | (to - from)
#define DW_CFA_def_cfa_offset(bytes)	.byte 0x0e, bytes
#define DW_CFA_def_cfa(reg, bytes)	.byte 0x0c, reg, bytes
#define DW_CFA_offset(reg, factor)	.byte 0x80 | reg, factor
#define DWARF_RSP			7
#define DWARF_RIP			16

	.section .ukl.eh_frame, "a"
	.balign	8
.Lcie:
	.long	.Lcie_end - .Lcie_start
.Lcie_start:
	.long	0			/* this is a CIE */
	.byte	1			/* version */
	.string	"zR"
	.byte	1			/* code alignment factor */
	.byte	0x78			/* data alignment factor: -8 */
	.byte	DWARF_RIP		/* return address */
	.byte	1, 0x1b			/* DW_EH_PE_pcrel | DW_EH_PE_sdata4 */
	DW_CFA_def_cfa(DWARF_RSP, 8)
	DW_CFA_offset(DWARF_RIP, 1)
	.balign	8
.Lcie_end:
SYM_INNER_LABEL(ukl_syscall_fde, SYM_L_GLOBAL)
	.long	.Lfde_end - .Lfde_start
.Lfde_start:
	.long	.Lfde_start - .Lcie
	.long	ukl_syscall - .
	.long	.Lend - ukl_syscall
	.byte	0			/* no augmentation data */
	DW_CFA_advance_loc(ukl_syscall, .Lflags_pushed)
	DW_CFA_def_cfa_offset(16)
	DW_CFA_advance_loc(.Lflags_pushed, .Lflags_popped)
	DW_CFA_def_cfa_offset(8)
	DW_CFA_advance_loc(.Lflags_popped, .Lfixed_pushed)
	DW_CFA_def_cfa_offset(16)
	DW_CFA_advance_loc(.Lfixed_pushed, ukl_syscall_leaves)
	DW_CFA_def_cfa_offset(8)	/* and so to the end of the stubs */
	.balign	8
.Lfde_end:
