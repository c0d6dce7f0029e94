/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_UKL_BYPASS_H
#define _ASM_X86_UKL_BYPASS_H

/* Bytes from one ukl_sys_NUMBER to the next. */
#define UKL_STUB_SIZE	64
/* Where in it interrupts are off, and where the full entry begins. */
#define UKL_STUB_CLI	20
#define UKL_STUB_FULL	28

/* What the application's flags are after a call. */
#define UKL_CALL_FLAGS	(X86_EFLAGS_FIXED | X86_EFLAGS_IF | X86_EFLAGS_AC)

#ifdef __ASSEMBLY__
/*
 * System calls whose functions are not called straight:
 *
 *  15 rt_sigreturn	replaces all registers
 *  56 clone		the child gets a copy of all registers
 *  57 fork		as clone
 *  58 vfork		as clone
 *  59 execve		replaces all registers, and the ring
 *  60 exit		a tracer sees all registers at PTRACE_EVENT_EXIT
 * 219 restart_syscall	only ever called by a restart
 * 231 exit_group	as exit
 * 322 execveat		as execve
 * 435 clone3		as clone
 */
.macro UKL_FULL_ENTRIES
	.irp	nr, 15, 56, 57, 58, 59, 60, 219, 231, 322, 435
	.set	.Lneeds_full_entry_\nr, 1
	.endr
.endm
#else /* __ASSEMBLY__ */
/* All that exit_to_user_mode_prepare() has something to do for. */
#define UKL_EXIT_WORK	(EXIT_TO_USER_MODE_WORK | _TIF_USER_RETURN_NOTIFY | \
			 _TIF_IO_BITMAP | _TIF_NEED_FPU_LOAD)
#endif /* __ASSEMBLY__ */
#endif /* _ASM_X86_UKL_BYPASS_H */
