// SPDX-License-Identifier: Apache-2.0 OR MIT
/* An ordinary program: nothing in it knows where it will run. */
#include <stdio.h>
#include <sys/utsname.h>

int main(int argc, char **argv)
{
	struct utsname system;

	if (uname(&system))
		return 1;
	printf("Hello from Linux %s", system.release);
	for (int i = 1; i < argc; i++)
		printf("%s%s", i > 1 ? " " : ", ", argv[i]);
	printf("\n");
	return 0;
}
