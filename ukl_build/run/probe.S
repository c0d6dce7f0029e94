/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest that shows that KVM works: a boot sector that goes where set-ups that only seem to work
 * get stuck, and then ends QEMU through isa-debug-exit.  accel.py holds it assembled:
 *
 *	gcc -c probe.S && ld -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
 */
	.globl _start
	.code16
_start:
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7c00, %sp
	cld
	sti
	hlt				/* the BIOS left the timer running: twice its interrupt */
	hlt
	cli
	mov	$0x1000, %edi		/* three pages of tables, 2 MiB mapped one to one */
	mov	%edi, %cr3
	xor	%eax, %eax
	mov	$0xc00, %ecx
	rep	stosl
	movl	$0x2003, 0x1000
	movl	$0x3003, 0x2000
	movl	$0x83, 0x3000
	lgdt	gdt_pointer
	mov	$0x20, %eax		/* CR4.PAE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax	/* PG, PE */
	mov	%eax, %cr0
	ljmp	$8, $long_mode
	.code64
long_mode:
	xor	%eax, %eax
	cpuid				/* always an exit to the hypervisor */
	mov	$0x15, %al
	out	%al, $0xf4
1:	hlt
	jmp	1b
	.balign	8
gdt:
	.quad	0
	.quad	0x00af9a000000ffff	/* 64-bit code */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
