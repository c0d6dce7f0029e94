/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gates for ring 3, weak as the C library has them; once in a program.  Debian's own library,
 * which these programs are linked with, has the instruction only.
 */
#ifndef WAYS_H
#define WAYS_H

#include "ring.h"

asm(".weak ukl_syscall\n"
    ".type ukl_syscall, @function\n"
    "ukl_syscall: syscall\n"
    "	ret\n"
    ".size ukl_syscall, . - ukl_syscall\n"
    ".altmacro\n"
    ".macro GATE number\n"
    "	.weak ukl_sys_&number\n"
    "	.type ukl_sys_&number, @function\n"
    "ukl_sys_&number: mov $&number, %eax\n"
    "	syscall\n"
    "	ret\n"
    "	.size ukl_sys_&number, . - ukl_sys_&number\n"
    "	.pushsection .data.rel.ro, \"aw\"\n"
    "	.quad ukl_sys_&number\n"
    "	.popsection\n"
    ".endm\n"
    ".pushsection .data.rel.ro, \"aw\"\n"
    "	.balign 8\n"
    "	.globl gates\n"
    "gates:\n"
    ".popsection\n"
    ".set .Lnumber, 0\n"
    ".rept 451\n"
    "	GATE %.Lnumber\n"
    "	.set .Lnumber, .Lnumber + 1\n"
    ".endr\n"
    ".noaltmacro\n");

#endif
