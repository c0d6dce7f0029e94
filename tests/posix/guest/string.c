// SPDX-License-Identifier: Apache-2.0
/*
 * String functions against simple loops: at all alignments, before a page that is not there.
 *
 * Once with what the processor has and once without its vector extensions: the C library takes
 * its choice of functions at start, so that is another execution of the program.  A processor that
 * has none leaves no choice.
 */
#include "posix.h"
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <wchar.h>

#define PLAIN "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-BMI2,-LZCNT,-ERMS,-FSRM,"	\
	      "-SSE4_2,-SSE4_1,-SSSE3,-AVX_Fast_Unaligned_Load,-AVX2_Usable,-Prefer_No_VZEROUPPER"

/* The compiler must neither know the functions nor recognise the loops. */
#define CALL(type, name) type (*volatile name##_)
#define STEP() asm volatile("")

static CALL(void *, memcpy)(void *, const void *, size_t) = memcpy;
static CALL(void *, mempcpy)(void *, const void *, size_t) = mempcpy;
static CALL(void *, memmove)(void *, const void *, size_t) = memmove;
static CALL(void *, memset)(void *, int, size_t) = memset;
static CALL(int, memcmp)(const void *, const void *, size_t) = memcmp;
static CALL(void *, memchr)(const void *, int, size_t) = (void *(*)(const void *, int, size_t))memchr;
static CALL(void *, memrchr)(const void *, int, size_t) = (void *(*)(const void *, int, size_t))memrchr;
static CALL(void *, rawmemchr)(const void *, int) = (void *(*)(const void *, int))rawmemchr;
static CALL(void *, memmem)(const void *, size_t, const void *, size_t) = memmem;
static CALL(size_t, strlen)(const char *) = strlen;
static CALL(size_t, strnlen)(const char *, size_t) = strnlen;
static CALL(char *, strcpy)(char *, const char *) = strcpy;
static CALL(char *, stpcpy)(char *, const char *) = stpcpy;
static CALL(char *, strncpy)(char *, const char *, size_t) = strncpy;
static CALL(char *, strcat)(char *, const char *) = strcat;
static CALL(char *, strchr)(const char *, int) = (char *(*)(const char *, int))strchr;
static CALL(char *, strrchr)(const char *, int) = (char *(*)(const char *, int))strrchr;
static CALL(char *, strchrnul)(const char *, int) = (char *(*)(const char *, int))strchrnul;
static CALL(int, strcmp)(const char *, const char *) = strcmp;
static CALL(int, strncmp)(const char *, const char *, size_t) = strncmp;
static CALL(int, strcasecmp)(const char *, const char *) = strcasecmp;
static CALL(char *, strstr)(const char *, const char *) = (char *(*)(const char *, const char *))strstr;
static CALL(size_t, strspn)(const char *, const char *) = strspn;
static CALL(size_t, strcspn)(const char *, const char *) = strcspn;
static CALL(char *, strpbrk)(const char *, const char *) = (char *(*)(const char *, const char *))strpbrk;
static CALL(size_t, wcslen)(const wchar_t *) = wcslen;
static CALL(wchar_t *, wmemset)(wchar_t *, wchar_t, size_t) = wmemset;
static CALL(wchar_t *, wcschr)(const wchar_t *, wchar_t) = (wchar_t *(*)(const wchar_t *, wchar_t))wcschr;

#define PAGES 4
#define SIZE (PAGES * 4096)

static char *a_end, *b_end, *a_start, *b_start;	/* nothing is mapped before and behind */
static const char *prefix;
static char want[SIZE];

static char *guarded_pages(void)
{
	char *p = mmap(NULL, SIZE + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED && mprotect(p + 4096, SIZE, PROT_READ | PROT_WRITE) == 0);
	return p + 4096;
}

static void result(const char *name, unsigned long bad, unsigned long tried)
{
	char full[60];

	snprintf(full, sizeof(full), "%s.%s", prefix, name);
	check(!bad && tried > 100, full, "%lu of %lu wrong", bad, tried);
}

static char pattern(unsigned int i)
{
	return 'a' + i * 7 % 23;
}

static void fill(char *to, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		to[i] = pattern(i);
		STEP();
	}
}

static int differs(const char *a, const char *b, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (a[i] != b[i])
			return 1;
		STEP();
	}
	return 0;
}

static int sign(int n)
{
	return (n > 0) - (n < 0);
}

/* Lengths that reach all the code: each small one, and some around the larger steps. */
static unsigned int next_length(unsigned int n)
{
	static const unsigned int large[] = { 127, 128, 129, 191, 255, 256, 257, 511, 513, 1024, 2047, 4097, 8300 };

	if (n < 70)
		return n + 1;
	for (unsigned int i = 0; i < ELEMENTS(large); i++)
		if (large[i] > n)
			return large[i];
	return 0;
}

#define FOR_LENGTHS(n, first) for (unsigned int n = (first), n##_on = 1; n##_on; n##_on = n = next_length(n))

/* Steps that still meet each alignment for some length. */
#define FOR_ALIGNMENTS(at, n) for (unsigned int at = (n) % 3; at < 66; at += (n) < 20 ? 1 : 3)

static void test_copies(void)
{
	unsigned long bad[8] = { 0 }, tried = 0;

	FOR_LENGTHS(n, 0) {
		FOR_ALIGNMENTS(at, n) {
			char *from = a_end - n - at % 2 * at, *to = b_end - n - at;

			fill(from, n);
			tried++;
			to[-1] = '!';
			if (at)		/* otherwise nothing is mapped there */
				to[n] = '!';
			bad[0] += memcpy_(to, from, n) != to || differs(to, from, n) || to[-1] != '!' || (at && to[n] != '!');
			bad[1] += memset_(to, 'x' + 256, n) != to || to[-1] != '!' || (at && to[n] != '!');
			for (unsigned int i = 0; i < n; i++)
				bad[1] += to[i] != 'x';
			bad[2] += mempcpy_(to, from, n) != to + n || differs(to, from, n) || to[-1] != '!';
			/* To a place that overlaps, both ways. */
			fill(to, n);
			bad[3] += memmove_(to - at, to, n) != to - at;
			for (unsigned int i = 0; i < n; i++)
				bad[3] += to[(int)i - (int)at] != pattern(i);
			bad[4] += memmove_(to, to - at, n) != to;
			for (unsigned int i = 0; i < n; i++)
				bad[4] += to[i] != pattern(i);
			bad[5] += memcpy_(a_start + at, from, n) != a_start + at || differs(a_start + at, from, 0);
		}
	}
	result("memcpy", bad[0], tried);
	result("memset", bad[1], tried);
	result("mempcpy", bad[2], tried);
	result("memmove.down", bad[3], tried);
	result("memmove.up", bad[4], tried);
	result("memcpy.to_start", bad[5], tried);
}

static void test_searches(void)
{
	unsigned long bad[16] = { 0 }, tried = 0;

	FOR_LENGTHS(n, 1) {
		FOR_ALIGNMENTS(at, n) {
			char *text = a_end - n - at;	/* n characters, the last of them a zero */
			unsigned int place = (n - 1) * (at + 1) / 67;

			fill(text, n);
			for (unsigned int i = n; i < n + at; i++)
				text[i] = '#';		/* what must not be found */
			text[n - 1] = 0;
			tried++;
			bad[0] += strlen_(text) != n - 1;
			bad[1] += strnlen_(text, n + at) != n - 1 || strnlen_(text, place) != place;
			bad[2] += strchr_(text, '#') != NULL || strchr_(text, 0) != text + n - 1;
			bad[3] += strchrnul_(text, '#') != text + n - 1;
			bad[4] += strrchr_(text, '#') != NULL || strrchr_(text, 0) != text + n - 1;
			bad[5] += memchr_(text, '#', n) != NULL || memchr_(text, 0, n) != text + n - 1;
			bad[6] += memrchr_(text, '#', n) != NULL;
			bad[7] += rawmemchr_(text, 0) != text + n - 1;
			bad[8] += strcspn_(text, "#+") != n - 1 || strspn_(text, "abcdefghijklmnopqrstuvw") != n - 1;
			bad[9] += strpbrk_(text, "#+") != NULL;
			if (place < n - 1) {
				text[place] = '+';
				bad[2] += strchr_(text, '+') != text + place;
				bad[3] += strchrnul_(text, '+') != text + place;
				bad[4] += strrchr_(text, '+') != text + place;
				bad[5] += memchr_(text, '+', n) != text + place ||
					  memchr_(text, '+', place) != NULL || memchr_(text, '+', SIZE_MAX) != text + place;
				bad[6] += memrchr_(text, '+', n) != text + place;
				bad[7] += rawmemchr_(text, '+') != text + place;
				bad[8] += strcspn_(text, "#+") != place;
				bad[9] += strpbrk_(text, "#+") != text + place;
				bad[10] += strstr_(text, "+") != text + place || strstr_(text, "+#") != NULL ||
					   strstr_(text, text + place) != text + place;
				bad[11] += memmem_(text, n, "+", 1) != text + place || memmem_(text, n, "+#", 2) != NULL;
			}
		}
	}
	result("strlen", bad[0], tried);
	result("strnlen", bad[1], tried);
	result("strchr", bad[2], tried);
	result("strchrnul", bad[3], tried);
	result("strrchr", bad[4], tried);
	result("memchr", bad[5], tried);
	result("memrchr", bad[6], tried);
	result("rawmemchr", bad[7], tried);
	result("strspn", bad[8], tried);
	result("strpbrk", bad[9], tried);
	result("strstr", bad[10], tried);
	result("memmem", bad[11], tried);
}

static void test_comparisons(void)
{
	unsigned long bad[4] = { 0 }, tried = 0;

	FOR_LENGTHS(n, 1) {
		FOR_ALIGNMENTS(at, n) {
			char *a = a_end - n - at, *b = b_end - n - at / 3;
			unsigned int place = (n - 1) * (at + 1) / 67;

			fill(a, n);
			fill(b, n);
			a[n - 1] = b[n - 1] = 0;
			tried++;
			bad[0] += memcmp_(a, b, n) != 0;
			bad[1] += strcmp_(a, b) != 0;
			bad[2] += strncmp_(a, b, n + 50) != 0;
			if (place >= n - 1)
				continue;
			b[place] = (char)0xf0;	/* characters are compared without a sign */
			bad[0] += sign(memcmp_(a, b, n)) != -1 || sign(memcmp_(b, a, n)) != 1 || memcmp_(a, b, place);
			bad[1] += sign(strcmp_(a, b)) != -1 || sign(strcmp_(b, a)) != 1;
			bad[2] += sign(strncmp_(a, b, n)) != -1 || strncmp_(a, b, place) != 0 ||
				  sign(strncmp_(b, a, place + 1)) != 1;
			b[place] = a[place] - 'a' + 'A';
			bad[3] += strcasecmp_(a, b) != 0;
			b[place] = '+';
			bad[3] += sign(strcasecmp_(a, b)) != 1;
		}
	}
	result("memcmp", bad[0], tried);
	result("strcmp", bad[1], tried);
	result("strncmp", bad[2], tried);
	result("strcasecmp", bad[3], tried);
}

static void test_string_copies(void)
{
	unsigned long bad[4] = { 0 }, tried = 0;

	FOR_LENGTHS(n, 1) {
		FOR_ALIGNMENTS(at, n) {
			char *from = a_end - n - at / 3, *to = b_end - n - at;

			fill(from, n);
			from[n - 1] = 0;
			tried++;
			to[-1] = '!';
			memset(to, '?', n + at);
			bad[0] += strcpy_(to, from) != to || differs(to, from, n) || to[-1] != '!' || (at && to[n] != '?');
			memset(to, '?', n + at);
			bad[1] += stpcpy_(to, from) != to + n - 1 || differs(to, from, n) || (at && to[n] != '?');
			memset(to, '?', n + at);
			bad[2] += strncpy_(to, from, n + at) != to || differs(to, from, n);
			for (unsigned int i = n; i < n + at; i++)
				bad[2] += to[i] != 0;
			fill(to - 30, 20);
			to[-10] = 0;
			bad[3] += strcat_(to - 30, from) != to - 30 || differs(to - 10, from, n) || to[-11] != pattern(19);
		}
	}
	result("strcpy", bad[0], tried);
	result("stpcpy", bad[1], tried);
	result("strncpy", bad[2], tried);
	result("strcat", bad[3], tried);
}

static void test_wide(void)
{
	unsigned long bad[3] = { 0 }, tried = 0;

	for (unsigned int n = 1; n < 150; n++) {
		for (unsigned int at = 0; at < 34; at += n < 20 ? 1 : 3) {
			wchar_t *text = (wchar_t *)a_end - n - at;

			tried++;
			for (unsigned int i = 0; i < n + at; i++)
				text[i] = '?';
			bad[0] += wmemset_(text, 0x20ac, n - 1) != text || (at && text[n] != '?');
			text[n - 1] = 0;
			for (unsigned int i = 0; i + 1 < n; i++)
				bad[0] += text[i] != 0x20ac;
			bad[1] += wcslen_(text) != n - 1;
			bad[2] += wcschr_(text, '?') != NULL;
			text[n / 2] = n / 2 < n - 1 ? 'x' : 0;
			bad[2] += n / 2 < n - 1 && wcschr_(text, 'x') != text + n / 2;
		}
	}
	result("wmemset", bad[0], tried);
	result("wcslen", bad[1], tried);
	result("wcschr", bad[2], tried);
}

/*
 * Whether the functions that were chosen use AVX: those clear the upper halves of all vector
 * registers when they are done, others leave them alone.
 */
static __attribute__((noinline)) int clears_upper(void (*call)(void))
{
	unsigned long upper[2] = { 0 };

	asm volatile("vcmpps $15, %%ymm13, %%ymm13, %%ymm13\n"
		     "	call *%[call]\n"
		     "	vextractf128 $1, %%ymm13, %[upper]\n"
		     "	vzeroupper"
		     : [upper] "=m"(upper)
		     : [call] "r"(call)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2",
		       "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
		       "xmm15");
	return upper[0] == 0 && upper[1] == 0;
}

static void call_memcpy(void) { memcpy_(a_start, b_start, 300); }
static void call_memset(void) { memset_(a_start, 'x', 300); }
static void call_strlen(void) { strlen_(want); }
static void call_memchr(void) { memchr_(a_start, '?', 300); }
static void call_strcmp(void) { strcmp_(want, want + 23); }
static void call_nothing(void) { }

static void test_choice(int with_avx)
{
	static void (*const calls[])(void) = { call_memcpy, call_memset, call_strlen, call_memchr, call_strcmp };
	unsigned int clear = 0;
	char name[60];

	NEED(__builtin_cpu_supports("avx2") && !clears_upper(call_nothing));
	fill(want, 300);
	memset(a_start, 'x', 300);
	for (unsigned int i = 0; i < ELEMENTS(calls); i++)
		clear += clears_upper(calls[i]);
	snprintf(name, sizeof(name), "%s.choice", prefix);
	EQUAL(name, clear, with_avx ? ELEMENTS(calls) : 0);
}

/* Vector registers hold what is half copied while handlers use them too. */
static volatile unsigned long alarms;
static char handler_from[300], handler_to[300];

static void copy_in_handler(int sig)
{
	(void)sig;
	memset_(handler_to, 0xff, sizeof(handler_to));
	memcpy_(handler_to, handler_from, sizeof(handler_to));
	alarms++;
}

static void test_interrupted(void)
{
	struct itimerspec timer = { .it_interval.tv_nsec = 2000000, .it_value.tv_nsec = 2000000 };
	unsigned long bad = 0, tried = 0;
	double end = seconds() + DEADLINE_S;
	timer_t id;

	signal(SIGALRM, copy_in_handler);
	for (unsigned int i = 0; i < SIZE - 100; i++)
		want[i] = pattern(i);
	NEED(timer_create(CLOCK_MONOTONIC, NULL, &id) == 0);
	timer_settime(id, 0, &timer, NULL);
	while ((alarms < 100 || tried < 200) && seconds() < end) {
		unsigned int at = tried++ % 64;

		memset_(a_start, 0, SIZE);
		memcpy_(a_start + at, want, SIZE - 100);
		bad += memcmp_(a_start + at, want, SIZE - 100) != 0;
		bad += differs(a_start + at + 4000, want + 4000, 200);
	}
	timer_delete(id);
	signal(SIGALRM, SIG_DFL);
	result("interrupted", bad + (alarms < 100), tried);
}

static void all(int with_avx)
{
	a_start = guarded_pages();
	b_start = guarded_pages();
	a_end = a_start + SIZE;
	b_end = b_start + SIZE;
	test_copies();
	test_searches();
	test_comparisons();
	test_string_copies();
	test_wide();
	test_interrupted();
	if (__builtin_cpu_supports("avx"))
		test_choice(with_avx);
}

int string_child(void)
{
	prefix = "string.plain";
	all(0);
	return check_failed;
}

int string_suite(void)
{
	pid_t pid;

	if (!__builtin_cpu_supports("avx")) {
		/* An instruction of AVX is an invalid one here. */
		prefix = "string.no_avx";
		all(0);
		return check_failed;
	}
	prefix = "string.avx";
	all(1);
	pid = fork();
	NEED(pid >= 0);
	if (!pid) {
		setenv("GLIBC_TUNABLES", PLAIN, 1);
		execl("/proc/self/exe", "posix", "child", "string", (char *)NULL);
		_exit(99);
	}
	EQUAL("string.plain.status", reap(pid), 0);
	return check_failed;
}
