/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entry and exit of an application that runs at CPL 0.
 */
#ifdef CONFIG_UNIKERNEL_LINUX

/* What instructions leave behind for conditional ones. */
#define UKL_ARITHMETIC_FLAGS						\
	(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF |		\
	 X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_OF)

/*
 * Build pt_regs of a system call of the application at CPL 0, whose stack
 * pointer is in TSS.sp2, and leave the arguments of do_syscall_64() in their
 * registers.
 */
.macro UKL_PUSH_PT_REGS
	pushq	$__KERNEL_DS				/* pt_regs->ss */
	pushq	PER_CPU_VAR(cpu_tss_rw + TSS_sp2)	/* pt_regs->sp */
	pushq	%r11					/* pt_regs->flags */
	pushq	$__KERNEL_CS				/* pt_regs->cs */
	pushq	%rcx					/* pt_regs->ip */
	pushq	%rax					/* pt_regs->orig_ax */
	PUSH_AND_CLEAR_REGS rax=$-ENOSYS
	movq	%rsp, %rdi
	movslq	%eax, %rsi
.endm

/*
 * Go to \label if the interrupted context is the application at CPL 0, by the
 * rule of ukl_mode(); otherwise leave its stack pointer in RAX.  Not for a
 * context in the system call gap.
 *
 * @frame:	offset of the IRET frame from the stack pointer
 */
.macro UKL_JUMP_IF_APPLICATION label:req, frame:req
	/* Most kernel text lies below the application's, and kernel stacks below the image. */
	movq	\frame(%rsp), %rax
	cmpq	$__ukl_text_start, %rax
	jb	.Lcheck_sp_\@
	cmpq	$__ukl_text_end, %rax
	jb	\label
.Lcheck_sp_\@:
	movq	(\frame + RSP - RIP)(%rsp), %rax
	cmpq	$__ukl_data_start, %rax		/* signed: not the user half */
	jl	.Lkernel_\@
	cmpq	$__ukl_data_end, %rax
	jl	\label
	testq	%rax, %rax
	jns	\label
.Lkernel_\@:
.endm

/* What UKL_MOVE_FRAME pushes, and the CPU aligns by. */
#define UKL_FRAME_SIZE	(6 * 8 + 16)

/*
 * Move the IRET frame and the error code, with RAX pushed below them, to the
 * stack whose top is in RAX.
 */
.macro UKL_MOVE_FRAME
	xchgq	%rax, %rsp
	UNWIND_HINT_EMPTY
	pushq	6*8(%rax)		/* ss */
	pushq	5*8(%rax)		/* sp */
	pushq	4*8(%rax)		/* flags */
	pushq	3*8(%rax)		/* cs */
	pushq	2*8(%rax)		/* ip */
	pushq	1*8(%rax)		/* error code or orig_ax */
	movq	(%rax), %rax
	UNWIND_HINT_IRET_REGS offset=8
.endm

/*
 * Leave the IST stack that every gate has, see ukl_setup_ist(), and go where
 * the CPU would have pushed the frame had there been no IST: below the
 * interrupted kernel stack, or, for the application as for user mode, on top of
 * the task's kernel stack.  From CPL 3 sync_regs() does that already.
 *
 * A frame that is already in its place, as before ukl_setup_ist(), is moved
 * onto itself.
 *
 * Where a kernel stack has no room left, a #PF becomes the #DF that it is
 * without IST.  On the task's stack that is seen before, so that #DF gets the
 * frame of what overflowed it; on another the move faults, in entry text, and
 * would do so again for ever.
 */
.macro UKL_LEAVE_IST vector:req
	testb	$3, CS-ORIG_RAX(%rsp)
	jnz	.Lon_stack_\@
	pushq	%rax
	UKL_JUMP_IF_APPLICATION .Lapplication_\@, 2*8
	.if \vector == X86_TRAP_PF
	movq	2*8(%rsp), %rax			/* ip */
	cmpq	$__entry_text_start, %rax
	jb	.Lfrom_kernel_\@
	cmpq	$__entry_text_end, %rax
	jb	.Ldouble_fault_\@
.Lfrom_kernel_\@:
	/* A stack pointer in the guard page of the task's stack, or nearly. */
	movq	PER_CPU_VAR(cpu_current_top_of_stack), %rax
	subq	5*8(%rsp), %rax
	subq	$(THREAD_SIZE - UKL_FRAME_SIZE), %rax
	cmpq	$(PAGE_SIZE + UKL_FRAME_SIZE), %rax
	jb	.Ldouble_fault_\@
	movq	5*8(%rsp), %rax			/* sp */
	.endif
	andq	$~0xf, %rax
	jmp	.Lmove_\@

	.if \vector == X86_TRAP_PF
.Ldouble_fault_\@:
	movq	PER_CPU_VAR(cpu_tss_rw + TSS_ist + IST_INDEX_DF * 8), %rax
	UKL_MOVE_FRAME
	jmp	asm_exc_double_fault
	UNWIND_HINT_IRET_REGS offset=16
	.endif

.Lapplication_\@:
	movq	PER_CPU_VAR(cpu_current_top_of_stack), %rax
.Lmove_\@:
	UKL_MOVE_FRAME
.Lon_stack_\@:
	UNWIND_HINT_IRET_REGS offset=8
.endm

/*
 * Go to \label, on top of the task's kernel stack, if #DB or #MC hit the
 * application.  In entry text it may be anything: what has kernel CS and a
 * user stack there may come from CPL 3, with the user's GS base.
 */
.macro UKL_LEAVE_IST_IF_APPLICATION label:req
	pushq	%rax
	movq	2*8(%rsp), %rax			/* ip */
	cmpq	$__entry_text_start, %rax
	jb	.Loutside_\@
	cmpq	$__entry_text_end, %rax
	jb	.Lkernel_\@
.Loutside_\@:
	UKL_JUMP_IF_APPLICATION .Lapplication_\@, 2*8
.Lkernel_\@:
	popq	%rax
	jmp	.Lstay_\@
	UNWIND_HINT_IRET_REGS offset=16
.Lapplication_\@:
	movq	PER_CPU_VAR(cpu_current_top_of_stack), %rax
	UKL_MOVE_FRAME
	jmp	\label
.Lstay_\@:
	UNWIND_HINT_IRET_REGS offset=8
.endm

#endif /* CONFIG_UNIKERNEL_LINUX */
