/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that ends in one chosen way, started by QEMU as a multiboot kernel in place of Linux: a
 * machine's whole life takes a third of a second.  -DEND=… chooses, -DTEXT=… is said first.
 */
#include "../../measure/mark.h"

#ifndef TEXT
#define TEXT ""
#endif

	.section .text
	.globl	_start
	.balign	4
	.long	0x1badb002, 0, -0x1badb002	/* multiboot header */

_start:
	mov	$0x80000, %esp
	mov	$text, %esi
	call	say
	jmp	END

say:	mov	$0x3fd, %dx
1:	in	%dx, %al
	test	$0x20, %al			/* transmitter empty */
	jz	1b
	lodsb
	test	%al, %al
	jz	2f
	mov	$0x3f8, %dx
	out	%al, %dx
	jmp	say
2:	ret

power_off:				/* PM1a_CNT of q35: SLP_EN, S5 */
	mov	$0x604, %dx
	mov	$0x2000, %ax
	out	%ax, %dx
	jmp	halt

reset:	mov	$0xcf9, %dx
	mov	$6, %al
	out	%al, %dx
halt:	cli
1:	hlt
	jmp	1b

spin:	jmp	spin

starve:					/* QEMU's ib700: the shortest time, and nobody feeds it */
	mov	$0x443, %dx
	mov	$0xf, %al
	out	%al, %dx
	jmp	spin

triple_fault:
	lidt	no_idt
	int3

panic:					/* look for pvpanic-pci (1b36:0011) on bus 0 */
	mov	$0x80000000, %ebx
1:	mov	%ebx, %eax
	mov	$0xcf8, %dx
	out	%eax, %dx
	mov	$0xcfc, %dx
	in	%dx, %eax
	cmp	$0x00111b36, %eax
	je	2f
	add	$0x800, %ebx		/* the next device */
	cmp	$0x80010000, %ebx
	jne	1b
	jmp	halt
2:	lea	0x10(%ebx), %eax	/* BAR 0 */
	mov	$0xcf8, %dx
	out	%eax, %dx
	mov	$0xcfc, %dx
	in	%dx, %eax
	and	$-16, %eax
	movb	$1, (%eax)		/* PVPANIC_PANICKED */
	jmp	halt

/* What measure/count.c is to count between marks: ROUNDS of two instructions, then of one. */
#ifndef ROUNDS
#define ROUNDS 1
#endif
count:	mov	$ROUNDS, %ecx
	nopl	MARK_PLACE + 1(%eax)
1:	dec	%ecx
	jnz	1b
	nopl	MARK_PLACE + 2(%eax)
	mov	$ROUNDS, %ecx
	mov	$0x200000, %edi
	nopl	MARK_PLACE + 1(%eax)
	rep stosb
	nopl	MARK_PLACE + 2(%eax)
	mov	%cr3, %eax
	nopl	MARK_PLACE + 1(%eax)
	mov	%eax, %cr3
	mov	%eax, %cr3
	mov	%cr3, %eax
	nopl	MARK_PLACE + 2(%eax)
	jmp	power_off

/* What measure/profile.c is to tell apart: calls, one by a pointer, and a jump to another function. */
nested:	mov	$ROUNDS, %ecx
	nopl	MARK_PLACE + 1(%eax)
	jmp	1f
1:	call	middle
	dec	%ecx
	jnz	1b
	jmp	2f
2:	nopl	MARK_PLACE + 2(%eax)
	jmp	3f
3:	nopl	MARK_PLACE + 3(%eax)
	jmp	power_off
middle:	mov	$inner, %eax
	call	*%eax
	nop
	jmp	tail
inner:	nop
	nop
	ret
tail:	nop
	ret

no_idt:	.word	0
	.long	0
text:	.asciz	TEXT
