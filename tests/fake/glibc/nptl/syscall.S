/* SPDX-License-Identifier: Apache-2.0 */
	.weak ukl_syscall
ukl_syscall:
	syscall
	ret
	.section .note.GNU-stack,"",@progbits
