/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Where the program begins, and where it leaves for the kernel.
 */

/*
 * ukl_syscall - the gate: one system call.
 *
 * Takes and gives what the instruction `syscall` does: number in rax, arguments in rdi, rsi, rdx,
 * r10, r8, r9, result in rax, rcx and r11 are lost, everything else is kept.
 *
 * The symbol is weak.  In an ordinary program this definition is the one that counts; linked into
 * vmlinux, the kernel's entry of the same name takes its place and a system call is a call.
 */
	.text
	.globl	ukl_syscall
	.weak	ukl_syscall
	.type	ukl_syscall, @function
	.balign	16
ukl_syscall:
	syscall
	ret
	.size	ukl_syscall, . - ukl_syscall

/*
 * _start - entry from execve (System V psABI, AMD64, 3.4.1 "Initial Stack and Register State").
 *
 * rsp points at argc, argv[0] ... argv[argc - 1], NULL.  rbp is unspecified; zero marks the
 * outermost frame.  rsp is a multiple of 16 already, the `and` costs nothing and is true of any
 * loader.
 */
	.globl	_start
	.type	_start, @function
	.balign	16
_start:
	xorl	%ebp, %ebp
	movq	(%rsp), %rdi
	leaq	8(%rsp), %rsi
	andq	$-16, %rsp
	call	program
	movl	%eax, %edi
	movl	$231, %eax		/* exit_group */
	call	ukl_syscall
	ud2
	.size	_start, . - _start

/*
 * restore_rt - what a signal handler returns to (SA_RESTORER).
 *
 * rt_sigreturn finds its frame by rsp, which here must be as the handler's `ret` left it.  That is
 * why this is the one system call that does not go through the gate: a `call` moves rsp by eight
 * bytes, and the gate of vmlinux, which takes the return address off the stack again, and the
 * gate above, which cannot, would show the kernel two different stack pointers.  Debuggers and
 * unwinders also know a signal frame by exactly these two instructions.
 */
	.globl	restore_rt
	.type	restore_rt, @function
	.balign	16
restore_rt:
	movq	$15, %rax		/* rt_sigreturn */
	syscall
	ud2
	.size	restore_rt, . - restore_rt

	.section .note.GNU-stack, "", @progbits
