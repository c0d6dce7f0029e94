/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest does before its state is saved, and when it goes on from there: maybe another day,
 * on another machine, and not for the first time.
 */
#ifndef UKL_INIT_RESUME_H
#define UKL_INIT_RESUME_H

#include "lib.h"

enum {
	RESUME_SEED = 32, /* bytes of randomness */
};

/* The host wants to save: it is told when no connection to another machine is open any more. */
void resume_settle(void);
/* Does what is due of that; returns when there will be more. */
int64_t resume_step(void);
/* It goes on: @time is the time of day in ns since the epoch, @seed has RESUME_SEED bytes. */
void resume_go_on(int64_t time, const void *seed);

#endif
