/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/linkage.h>

/*
 * ukl_access_ok() for __get_user_*() and __put_user_*(), which must not change
 * registers.
 *
 * Inputs:	%rax is the address, %edx the size
 * Outputs:	ZF is set if the access is not allowed
 * Clobbers:	%rdx
 */
SYM_FUNC_START(ukl_check_user)
	push %rax
	push %rcx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	mov %rax, %rdi
	mov %edx, %esi
	call ukl_access_ok
	test %al, %al
	pop %r11			/* POP leaves the flags alone */
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rcx
	pop %rax
	RET
SYM_FUNC_END(ukl_check_user)
