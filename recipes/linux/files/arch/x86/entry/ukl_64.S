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
	popq	%r11
	pushq	$X86_EFLAGS_FIXED
	popfq
	jmp	ukl_entry_call
SYM_CODE_END(ukl_syscall)
