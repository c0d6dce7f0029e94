/* SPDX-License-Identifier: Apache-2.0 */
	.globl _start
_start:
	xor %ebp, %ebp
	call main
	mov %eax, %edi
	mov $60, %eax
	call ukl_syscall
	.section .note.GNU-stack,"",@progbits
