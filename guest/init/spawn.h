/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a program, and learning what kept it from starting. */
#ifndef UKL_INIT_SPAWN_H
#define UKL_INIT_SPAWN_H

#include "lib.h"

/* <asm/signal.h> has them as macros of these names without the underscore, and much else. */
enum { SIG_HUP = 1, SIG_INT = 2, SIG_KILL = 9, SIG_TERM = 15, SIG_CHLD = 17 };
enum { SIG_BLOCK_ = 0, SIG_SETMASK_ = 2 };

/* What a child could not do on the way to its program. */
struct trouble {
	int error; /* errno; 0 if there was none */
	char step[12];
};

/* Notes a failure: @result is a system call's.  Returns whether it is one. */
bool failed(struct trouble *trouble, const char *step, long result);

/*
 * Starts a child in a session of its own, without blocked signals, where @become is to call
 * execve(); if it returns, what it has noted in @trouble is reported.  Returns its process, or 0.
 */
int spawn(struct trouble *trouble, void (*become)(const void *what, struct trouble *trouble),
	  const void *what);

#endif
