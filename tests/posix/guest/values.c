// SPDX-License-Identifier: Apache-2.0
/*
 * Values that nobody wrote down: each ring says what it gets, and it must be the same.  Where there
 * are many, what is printed is a number made of them all.
 */
#include "posix.h"
#include <fnmatch.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <regex.h>
#include <search.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <wchar.h>

#define ROUNDS 4000

/* FNV-1a. */
static uint64_t add(uint64_t hash, const void *data, size_t size)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3;
	return hash;
}

#define EMPTY 0xcbf29ce484222325

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Of all sizes, now and then an odd one. */
static double next_double(uint64_t *state)
{
	static const double odd[] = { 0.0, -0.0, INFINITY, -INFINITY, 0x1p-1074, 0x1.fffffffffffffp1023, 0.5, 1e15 };
	union { uint64_t bits; double value; } made = { .bits = next(state) };

	if (made.bits % 16 == 0)
		return odd[made.bits / 16 % ELEMENTS(odd)];
	/* A NaN's sign is the processor's business. */
	return isnan(made.value) ? 1.0 / (double)(made.bits | 1) : made.value;
}

/* --- the library --- */

static void test_numbers(void)
{
	static const char *const formats[] = { "%.3f", "%.17g", "%a", "%e", "%+012.4G", "%#.0f", "% -20.10e|", "%.40f" };
	uint64_t state = 88172645463325252, hash = EMPTY;
	char text[600], *end;
	double value;

	for (int i = 0; i < ROUNDS; i++) {
		value = next_double(&state);
		hash = add(hash, text, snprintf(text, sizeof(text), formats[i % ELEMENTS(formats)], value));
	}
	SAME("values.printf", "%" PRIx64, hash);
	for (int i = hash = 0; i < ROUNDS; i++) {
		snprintf(text, sizeof(text), "%" PRIu64 ".%" PRIu64 "e%d", next(&state) % 1000000, next(&state), (int)(next(&state) % 700) - 350);
		errno = 0;
		value = strtod(text, &end);
		hash = add(add(hash, &value, sizeof(value)), &errno, sizeof(errno));
	}
	SAME("values.strtod", "%" PRIx64, hash);
	for (int i = hash = 0; i < ROUNDS; i++) {
		long double extended;

		snprintf(text, sizeof(text), "0x%" PRIx64 ".%" PRIx64 "p%d", next(&state), next(&state), (int)(next(&state) % 3000) - 1500);
		extended = strtold(text, NULL);
		hash = add(hash, &extended, 10);
	}
	SAME("values.strtold", "%" PRIx64, hash);
}

static void test_mathematics(void)
{
	static const struct {
		const char *name;
		double (*call)(double);
	} functions[] = {
		{ "sin", sin }, { "tan", tan }, { "exp", exp }, { "log", log }, { "cbrt", cbrt }, { "tgamma", tgamma }, { "erf", erf },
		{ "atan", atan }, { "rint", rint }, { "floor", floor }, { "sqrt", sqrt }, { "j0", j0 },
	};
	char name[60];

	for (unsigned int f = 0; f < ELEMENTS(functions); f++) {
		uint64_t state = 1234567, hash = EMPTY;

		for (int i = 0; i < ROUNDS / 4; i++) {
			double value = i & 1 ? next_double(&state) : (double)(int64_t)next(&state) / 0x1p58, result;

			errno = 0;
			result = functions[f].call(value);
			if (isnan(result))
				result = 77;
			hash = add(add(hash, &result, sizeof(result)), &errno, sizeof(errno));
		}
		snprintf(name, sizeof(name), "values.mathematics.%s", functions[f].name);
		SAME(name, "%" PRIx64, hash);
	}
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a % 100 - *(const int *)b % 100;	/* many are equal */
}

static void test_library(void)
{
	char *words[] = { "values", "-ax", "one", "--long=3", "-b", "two", "--", "-c", NULL }, text[300] = "";
	static const struct option options[] = { { "long", required_argument, NULL, 'l' }, { 0 } };
	uint64_t state = 424242, hash = EMPTY;
	struct random_data data = { 0 };
	char space[64];
	static int numbers[5000];
	regmatch_t match[3];
	regex_t regex;
	int32_t number;
	int got, n = 0;
	time_t t;

	for (unsigned int i = 0; i < ELEMENTS(numbers); i++)
		numbers[i] = next(&state) % 1000000;
	qsort(numbers, ELEMENTS(numbers), sizeof(*numbers), compare);
	SAME("values.qsort", "%" PRIx64, add(EMPTY, numbers, sizeof(numbers)));
	srandom(7);
	for (int i = 0; i < 1000; i++) {
		long value = random();

		hash = add(hash, &value, sizeof(value));
	}
	SAME("values.random", "%" PRIx64, hash);
	initstate_r(99, space, sizeof(space), &data);
	for (int i = hash = 0; i < 1000; i++) {
		random_r(&data, &number);
		hash = add(hash, &number, sizeof(number));
	}
	SAME("values.random_r", "%" PRIx64, hash);
	srand48(5);
	SAME("values.drand48", "%.17g %.17g %ld %ld", drand48(), erand48((unsigned short []){ 1, 2, 3 }), lrand48(), mrand48());
	optind = 1;
	while ((got = getopt_long(8, words, "ab:c", options, NULL)) != -1)
		n += snprintf(text + n, sizeof(text) - n, "%c=%s ", got, optarg ? optarg : "");
	SAME("values.getopt", "%s, %d, %s %s %s", text, optind, words[5], words[6], words[7]);
	NEED(regcomp(&regex, "([a-z]+)@([a-z.]+)", REG_EXTENDED) == 0);
	got = regexec(&regex, "to: someone@example.org, too", 3, match, 0);
	SAME("values.regex", "%d %d-%d %d-%d", got, match[1].rm_so, match[1].rm_eo, match[2].rm_so, match[2].rm_eo);
	regfree(&regex);
	SAME("values.fnmatch", "%d %d %d", fnmatch("*.[ch]", "posix.c", 0), fnmatch("*", ".hidden", FNM_PERIOD), fnmatch("a/*", "a/b/c", FNM_PATHNAME));
	for (hash = n = 0; n < 2000; n++) {
		struct tm tm;

		t = next(&state) % 8000000000;
		hash = add(hash, text, strftime(text, sizeof(text), "%c %U %j %G-%V %p %x", gmtime_r(&t, &tm)));
	}
	SAME("values.strftime", "%" PRIx64, hash);
	for (hash = n = 0; n < 200; n++)
		hash = add(hash, strerror(n), strlen(strerror(n)));
	SAME("values.strerror", "%" PRIx64, hash);
	for (hash = n = 0; n < 70; n++)
		hash = add(hash, strsignal(n), strlen(strsignal(n)));
	SAME("values.strsignal", "%" PRIx64, hash);
	for (hash = n = 0; n < 0x3000; n++)
		hash = add(hash, &(int){ wcwidth(n) }, sizeof(int));
	SAME("values.wcwidth", "%" PRIx64, hash);
}

/* --- what a process finds --- */

static void test_environment(void)
{
	char text[900], *line;
	unsigned int mxcsr;
	unsigned short control;
	struct sigaction action;
	struct utsname uts;
	sigset_t set;
	int n = 0;

	for (int i = 0; i < 250; i++) {
		if (i == _SC_AVPHYS_PAGES)
			continue;
		errno = 0;
		n += snprintf(text + n, sizeof(text) - n, "%d:%ld,%d ", i, sysconf(i), errno);
		if (n > 800 || i == 249) {
			char name[60];

			snprintf(name, sizeof(name), "values.sysconf.to_%d", i);
			SAME(name, "%s", text);
			n = 0;
		}
	}
	for (int i = n = 0; i < 21; i++)
		n += snprintf(text + n, sizeof(text) - n, "%ld ", pathconf("/tmp", i));
	SAME("values.pathconf", "%s", text);
	for (int i = n = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit = { 0 };

		getrlimit(i, &limit);
		n += snprintf(text + n, sizeof(text) - n, "%" PRIx64 "/%" PRIx64 " ", (uint64_t)limit.rlim_cur, (uint64_t)limit.rlim_max);
	}
	SAME("values.limits", "%s", text);
	uname(&uts);
	SAME("values.uname", "%s %s %s %s", uts.sysname, uts.nodename, uts.release, uts.machine);
	asm("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
	SAME("values.float_control", "%x %x", mxcsr & ~0x3fU, control);
	sigprocmask(SIG_BLOCK, NULL, &set);
	for (int i = 1, blocked = n = 0; i < 65; i++) {
		blocked = sigismember(&set, i);
		n += snprintf(text + n, sizeof(text) - n, "%d%d ", blocked, sigaction(i, NULL, &action) ? 9 : action.sa_handler != SIG_DFL);
	}
	SAME("values.signals", "%s", text);
	/* The lines of /proc/self/status that are no counter and no number of this very process. */
	for (n = 0, line = strtok((char *)file_text("/proc/self/status"), "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, "Sig", 3) || !strncmp(line, "Cap", 3) || !strncmp(line, "Uid", 3) || !strncmp(line, "Umask", 5) ||
		    !strncmp(line, "NoNew", 5) || !strncmp(line, "Threads", 7) || !strncmp(line, "Seccomp:", 8) || !strncmp(line, "Shd", 3))
			n += snprintf(text + n, sizeof(text) - n, "%s;", line);
	SAME("values.status", "%s", text);
}

/* --- system calls --- */

/* What ends the process, or would wait, or makes something with this number that then is there. */
static int left_out(int number)
{
	static const int numbers[] = {
		SYS_rt_sigreturn, SYS_pause, SYS_clone, SYS_clone3, SYS_fork, SYS_vfork, SYS_exit, SYS_exit_group, SYS_kill, SYS_vhangup,
		SYS_rt_sigsuspend, SYS_sync, SYS_reboot, SYS_restart_syscall, SYS_rseq,
		SYS_msgget, SYS_semget, SYS_shmget,
	};

	for (unsigned int i = 0; i < ELEMENTS(numbers); i++)
		if (numbers[i] == number)
			return 1;
	return number >= 335 && number < 424;	/* there are none */
}

/* The same number six times; what comes is an error, or only that there was none. */
static int sweep(void *arg)
{
	long value = *(long *)arg;
	int said = dup(1), n = 0;
	char text[900];

	for (int number = 0; number < 451; number++) {
		if (!left_out(number)) {
			errno = 0;
			syscall(number, value, value, value, value, value, value);
			n += snprintf(text + n, sizeof(text) - n, "%d:%d ", number, errno);
		}
		if (n > 800 || number == 450) {
			char line[1000];
			int size = snprintf(line, sizeof(line), "# same values.system_calls.%lx.to_%d %s %s\n", value, number, PLACE, text);

			if (write(said, line, size) != size)
				return 1;
			n = 0;
		}
	}
	return 0;
}

static void test_system_calls(void)
{
	/* No number of anything, and an address of the kernel. */
	long values[] = { -1, (long)0xffff888000001000 };

	EQUAL("values.system_calls.minus_one", in_child(sweep, &values[0]), 0);
	EQUAL("values.system_calls.address_of_kernel", in_child(sweep, &values[1]), 0);
}

int values_suite(void)
{
	test_environment();
	test_numbers();
	test_mathematics();
	test_library();
	test_system_calls();
	return check_failed;
}
