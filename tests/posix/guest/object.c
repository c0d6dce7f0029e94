// SPDX-License-Identifier: Apache-2.0
/* A shared object that needs no other. */
int object_double(int n);

int object_double(int n)
{
	return 2 * n;
}
