/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ways in and out that do less than ukl_syscall, which this is a part of: one
 * entry of the unwinder's table is for all of it.
 */
#include <asm/asm-offsets.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/segment.h>
#include <asm/smap.h>
#include <asm/ukl_bypass.h>

#include "calling.h"

#ifdef CONFIG_UKL_RET
/*
 * Back from a call of ukl_syscall, with the stack pointer at the return
 * address, which is in RCX.  This is application text again, and can fault.
 */
SYM_CODE_START(ukl_syscall_return)
	UNWIND_HINT_EMPTY
	ANNOTATE_NOENDBR
	ANNOTATE_IGNORE_ALTERNATIVE	/* objtool: a return with AC set */
	ASM_STAC
	movq	%rcx, (%rsp)
	sti
	ANNOTATE_UNRET_SAFE
	ret
	int3
SYM_CODE_END(ukl_syscall_return)
#endif

#ifdef CONFIG_UKL_BYPASS
/*
 * Back from a function of the kernel, with the stack pointer at the return
 * address.  What sees the registers of the application while it is in the
 * kernel sees it at this RET.
 */
SYM_CODE_START(ukl_bypass_return)
	UNWIND_HINT_EMPTY
	ANNOTATE_NOENDBR
	ANNOTATE_IGNORE_ALTERNATIVE	/* objtool: a return with AC set */
	ASM_STAC
	sti
SYM_INNER_LABEL(ukl_bypass_ret, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR
	ANNOTATE_UNRET_SAFE
	ret
	int3
SYM_CODE_END(ukl_bypass_return)
#endif

	.pushsection .entry.text, "ax"
SYM_CODE_START_NOALIGN(ukl_bypass)
	UNWIND_HINT_EMPTY
	ANNOTATE_NOENDBR
	.popsection

/*
 * The application calls ukl_sys_NUMBER for each system call whose number its C
 * library knows, as a C function but with the fourth argument in R10.  All are
 * of one size, so that ukl_leaving() can tell what an address in them is.
 */
	.balign	UKL_STUB_SIZE, 0xcc
SYM_INNER_LABEL(ukl_stubs, SYM_L_GLOBAL)

#ifdef CONFIG_UKL_BYPASS
/*
 * Where the task has nothing to do at system calls (seccomp, ptrace, audit,
 * tracepoints...), call the function straight, on the task's kernel stack, with
 * interrupts on and with pt_regs as a call of ukl_syscall() leaves them, but for
 * what a function preserves (RBX, RBP, R12 to R15): .Lbypass_work puts that
 * there, before a tracer or a core can look at it.  Flags are not preserved over
 * a call: a TF that the application has set itself ends here.
 */
.macro UKL_BYPASS nr:req, func:req
	movq	PER_CPU_VAR(current_task), %rax
	cmpq	$0, TASK_TI_syscall_work(%rax)
	jne	.Lfull_\nr
	movq	%rsp, %rax
	cli
	.org	ukl_sys_\nr + UKL_STUB_CLI, 0x90
	ASM_CLAC
	jmp	.Lbypass_\nr
	.org	ukl_sys_\nr + UKL_STUB_FULL, 0x90

	.pushsection .entry.text, "ax"
.Lbypass_\nr:
	UNWIND_HINT_EMPTY
	movq	PER_CPU_VAR(cpu_current_top_of_stack), %rsp
	pushq	$__KERNEL_DS			/* pt_regs->ss */
	pushq	%rax				/* pt_regs->sp */
	pushq	$UKL_CALL_FLAGS			/* pt_regs->flags */
	pushq	$__KERNEL_CS			/* pt_regs->cs */
	pushq	$ukl_bypass_ret			/* pt_regs->ip */
	pushq	$\nr				/* pt_regs->orig_ax */
	pushq	%rdi				/* pt_regs->di */
	pushq	%rsi				/* pt_regs->si */
	pushq	%rdx				/* pt_regs->dx */
	subq	$RDX, %rsp
	movq	%r10, R10(%rsp)
	movq	%r8, R8(%rsp)
	movq	%r9, R9(%rsp)
	UNWIND_HINT_REGS
	sti
	movq	%rsp, %rdi
.Lbegin_\nr:
	call	\func
.Lend_\nr:
	cli
	movq	PER_CPU_VAR(current_task), %rcx
	testl	$UKL_BYPASS_WORK, TASK_TI_flags(%rcx)
	jnz	.Lbypass_work
	movq	RSP(%rsp), %rsp
	UNWIND_HINT_EMPTY
	jmp	ukl_bypass_return
	.popsection

	.pushsection .discard.instr_begin
	.long	.Lbegin_\nr - .
	.popsection
	.pushsection .discard.instr_end
	.long	.Lend_\nr - .
	.popsection
.endm
#else
.macro UKL_BYPASS nr:req, func:req
.endm
#endif

.macro UKL_STUB nr:req, func:req
	.balign	UKL_STUB_SIZE, 0xcc
SYM_CODE_START_NOALIGN(ukl_sys_\nr)
	UNWIND_HINT_EMPTY
	ANNOTATE_NOENDBR
.ifdef .Lhas_shortcut_\nr
	UKL_BYPASS \nr, ukl\func
.else
.ifndef .Lneeds_full_entry_\nr
	UKL_BYPASS \nr, \func
.endif
.endif
.Lfull_\nr:
	movl	$\nr, %eax
	jmp	ukl_syscall
SYM_CODE_END(ukl_sys_\nr)
.endm

/* System calls in whose place the function of this name with ukl before is called. */
#ifdef CONFIG_UKL_SHORTCUT
	.irp	nr, 0, 1
	.set	.Lhas_shortcut_\nr, 1
	.endr
#ifdef CONFIG_INET
	.irp	nr, 44, 45
	.set	.Lhas_shortcut_\nr, 1
	.endr
#endif
#ifdef CONFIG_EPOLL
	.set	.Lhas_shortcut_232, 1
#endif
#endif

#define __SYSCALL(nr, sym)	UKL_STUB nr, __x64_##sym
	UKL_FULL_ENTRIES
#include <asm/syscalls_64.h>

	.balign	UKL_STUB_SIZE, 0xcc
SYM_INNER_LABEL(ukl_stubs_end, SYM_L_GLOBAL)

#ifdef CONFIG_UKL_BYPASS
	.pushsection .entry.text, "ax"
/* As do_ukl_call() leaves it: something is to be done on the way out. */
.Lbypass_work:
	UNWIND_HINT_REGS
	movq	%rax, RAX(%rsp)
	movq	$ukl_bypass_ret, RCX(%rsp)
	movq	$UKL_CALL_FLAGS, R11(%rsp)
	movq	%rbx, RBX(%rsp)
	movq	%rbp, RBP(%rsp)
	movq	%r12, R12(%rsp)
	movq	%r13, R13(%rsp)
	movq	%r14, R14(%rsp)
	movq	%r15, R15(%rsp)
	movq	%rsp, %rdi
	call	do_ukl_bypass_work	/* returns with IRQs disabled */
	testb	%al, %al
	jz	ukl_call_done
	movq	RAX(%rsp), %rax
	movq	RSP(%rsp), %rsp
	UNWIND_HINT_EMPTY
	jmp	ukl_bypass_return
	.popsection
#endif

	.pushsection .entry.text, "ax"
SYM_INNER_LABEL(ukl_bypass_end, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR
	int3
SYM_CODE_END(ukl_bypass)
	.popsection
