// SPDX-License-Identifier: Apache-2.0
/* Ends with the ring it runs in as its status. */
int main(void)
{
	unsigned short cs;

	asm("mov %%cs, %0" : "=r"(cs));
	return cs & 3;
}
