/* SPDX-License-Identifier: Apache-2.0 */
/* What subject.c tells inspect.c of itself on descriptor 3. */
#ifndef SUBJECT_H
#define SUBJECT_H

struct subject {
	int ring;
	long *global;		/* counts the bytes it was given */
	const long *constant;	/* SUBJECT_CONSTANT */
	void (*hit)(void);	/* called for each byte */
	void (*inner)(void);	/* where it spins */
	void (*outer)(void);	/* who calls that */
};

#define SUBJECT_CONSTANT	0x7265616420304e4cL
#define SUBJECT_GLOBAL		1000

#endif
