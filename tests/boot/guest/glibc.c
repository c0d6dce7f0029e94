// SPDX-License-Identifier: Apache-2.0
/*
 * Many of glibc's own tests in one program: the folder and the name it is called by say which.
 *
 *     /tests/ring0/string/tst-strtok
 *
 * glibc.py writes glibc_cases.h: a line for each, with the name that its main function got.  Two more
 * are ours and end otherwise in ring 0, for the test of the comparison itself.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "ring.h"

#define CASE(name, function) int function(int argc, char **argv, char **env);
#include "glibc_cases.h"
#undef CASE

static int seeded_status(int argc, char **argv, char **env)
{
	(void)argc;
	(void)argv;
	(void)env;
	return ring() ? 0 : 1;
}

static int seeded_hang(int argc, char **argv, char **env)
{
	(void)argc;
	(void)argv;
	(void)env;
	while (!ring())
		pause();
	return 0;
}

static const struct {
	const char *name;
	int (*function)(int argc, char **argv, char **env);
} cases[] = {
	{ "seeded/status", seeded_status },
	{ "seeded/hang", seeded_hang },
#define CASE(name, function) { name, function },
#include "glibc_cases.h"
};

int main(int argc, char **argv, char **env)
{
	static const char above[] = "/tests/ringN/";
	const char *path = argc ? argv[0] : "";
	size_t i;

	if (strlen(path) < sizeof(above) || path[sizeof(above) - 3] - '0' != ring()) {
		fprintf(stderr, "called as %s in ring %d\n", path, ring());
		return 125;
	}
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (!strcmp(path + sizeof(above) - 1, cases[i].name))
			return cases[i].function(argc, argv, env);
	fprintf(stderr, "no test %s\n", path);
	return 125;
}
