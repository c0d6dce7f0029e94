// SPDX-License-Identifier: Apache-2.0
/* The system calls of the init, given by a test in Python through ctypes. */
#include "lib.h"

long (*hook)(long number, long a, long b, long c, long d, long e, long f);

long sys(long number, long a, long b, long c, long d, long e, long f)
{
	return hook(number, a, b, c, d, e, f);
}
