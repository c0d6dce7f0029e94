// SPDX-License-Identifier: Apache-2.0
/* Ends with the ring it runs in as its status. */
#include "ring.h"

int main(void)
{
	return ring();
}
