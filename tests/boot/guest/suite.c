// SPDX-License-Identifier: Apache-2.0
/*
 * All programs that run in both rings, in one: linked into the kernel once, and an ordinary static
 * program besides.
 *
 *     suite PROGRAM [ARGUMENT...]
 */
#include "check.h"
#include "ring.h"

int faults_main(void);
int context_main(void);
int protect_main(int argc, char **argv);
int victim_main(int argc, char **argv);
int subject_main(int argc, char **argv);
int observed_main(void);
int descriptors_main(void);
int storm_main(int argc, char **argv);

unsigned long suite_data = 1;

int main(int argc, char **argv)
{
	const char *program = argc > 1 ? argv[1] : "";
	int ret = 2;

	if (!strcmp(program, "ring"))
		return 100 + ring();
	if (!strcmp(program, "victim"))
		return victim_main(argc - 1, argv + 1);
	if (!strcmp(program, "subject"))
		return subject_main(argc - 1, argv + 1);
	printf("# begin %s %d %p\n", program, ring(), (void *)&suite_data);
	fflush(stdout);
	if (!strcmp(program, "faults"))
		ret = faults_main();
	else if (!strcmp(program, "context"))
		ret = context_main();
	else if (!strcmp(program, "observed"))
		ret = observed_main();
	else if (!strcmp(program, "descriptors"))
		ret = descriptors_main();
	else if (!strcmp(program, "storm"))
		ret = storm_main(argc - 1, argv + 1);
	else if (!strcmp(program, "protect"))
		ret = protect_main(argc - 1, argv + 1);
	printf("# end %s %d\n", program, ret);
	return ret;
}
