/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that the host starts beside the application (ukl exec), over the virtio-serial port
 * "org.ukl-build.exec".  Frames each way, for up to SESSIONS programs at once:
 *
 *	type (1 byte), session (1), length of what follows (2, little-endian), at most PAYLOAD bytes
 *
 * From the host
 *	R  start a program: its arguments, each with a NUL
 *	T  the same on a terminal: lines and columns (2 bytes each) before the arguments
 *	F  write a file: permissions (2 bytes), path
 *	D  what it reads from standard input, or what is in the file; of length 0 for the end
 *	A  a frame O or E was taken
 *	K  send a signal (1 byte) to its process group; to the application if the session is 255
 *	W  its terminal has another size: as for T
 * From the host, of the machine itself (session 255)
 *	S  say when its state can be saved
 *	C  it goes on from a state that was saved: the time of day (8: ns since the epoch), a seed
 *	   for random numbers (RESUME_SEED)
 * To the host
 *	O, E  what it writes to standard output and error; a terminal has only the former
 *	A  a frame D was taken
 *	X  the session is over: how (1 byte: 0 exited, 1 killed by a signal, 2 could not be done),
 *	   number (4: status, signal, errno), and for 2 the step that failed
 *
 * Neither side sends more than CREDIT frames of data that the other has not taken; the host sends
 * one.  So what is slow holds up nothing but itself, and nobody has to keep more than that.
 */
#ifndef UKL_INIT_EXEC_H
#define UKL_INIT_EXEC_H

#include <linux/poll.h>

#include "lib.h"

#define EXEC_PORT "org.ukl-build.exec"

enum {
	SESSIONS = 8,
	PAYLOAD = 4096,
	CREDIT = 8,
	EXEC_FDS = 1 + 3 * SESSIONS, /* that are waited for */
};

/* False if the host has no such port. */
bool exec_open(void);
/* What is to be waited for, EXEC_FDS of them; those of no interest have fd -1. */
void exec_wait(struct pollfd *fds);
/* Does what is due after poll(); @application is its process, 0 if it does not run. */
void exec_step(const struct pollfd *fds, int application);
/* A child has ended, maybe one of ours; @how is wait4()'s. */
void exec_ended(int pid, int how);

#endif
