// SPDX-License-Identifier: Apache-2.0
/* Streams, formatted numbers, locales. */
#include "posix.h"
#include <fcntl.h>
#include <float.h>
#include <iconv.h>
#include <limits.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio_ext.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <wchar.h>
#include <wctype.h>

#define SCRATCH "/tmp/posix_stdio"

/* --- what is left in buffers at the end --- */

static int print_and_return(void *arg)
{
	(void)arg;
	printf("half a line, %d", 42);
	return 5;
}

static int print_and_leave(void *arg)
{
	(void)arg;
	printf("never seen");
	_exit(6);
}

static int stream_and_return(void *arg)
{
	FILE *file = fopen(arg, "w");

	if (!file)
		return 1;
	fprintf(file, "left open");
	return 0;
}

static int close_after_end(void *arg)
{
	FILE *file = fopen(arg, "w");

	for (int i = 0; i < 10000; i++)
		fprintf(file, "%07d\n", i);
	return fclose(file);
}

struct ending {
	int (*body)(void *arg);
	void *arg;
};

static int exit_of(void *arg)
{
	struct ending *ending = arg;

	exit(ending->body(ending->arg));
}

static void *exit_in_thread(void *arg)
{
	printf("by a thread");
	exit(arg != NULL);
}

static int end_in_thread(void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, exit_in_thread, arg))
		return 1;
	pthread_join(thread, NULL);
	return 2;
}

static int end_with_last_thread(void *arg)
{
	printf("by the last %s", (char *)arg);
	pthread_exit(NULL);
}

static void print_late(void)
{
	printf(" and late");
}

static int print_at_exit(void *arg)
{
	printf("early");
	return atexit(print_late) || arg;
}

static int print_much(void *arg)
{
	static char buffer[300000];

	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	for (int i = 0; i < 3500; i++)
		putchar('m');
	return arg != NULL;
}

static int several_streams(void *arg)
{
	FILE *files[20];

	for (int i = 0; i < 20; i++) {
		files[i] = fopen(arg, "a");
		if (!files[i] || fprintf(files[i], "%d.", i) < 2)
			return 1;
	}
	return 0;
}

static int end_by(void *arg)
{
	struct rlimit none = { 0 };

	printf("never seen");
	switch (*(char *)arg) {
	case 'a':
		setrlimit(RLIMIT_CORE, &none);
		abort();
	case 'q':
		quick_exit(4);
	case 'k':
		raise(SIGKILL);
		break;
	case 'e':
		execl("/proc/self/exe", "posix", "child", "exit", "4", (char *)NULL);
	}
	return 1;
}

static void test_exit(void)
{
	FILE *file;
	int status, fds[2];
	char c = 0, text[10] = "";
	pid_t pid;

	TEXT("stdio.exit.pipe", output_of(print_and_return, NULL, &status), "half a line, 42");
	EQUAL("stdio.exit.code", WEXITSTATUS(status), 5);
	TEXT("stdio.exit.not_by__exit", output_of(print_and_leave, NULL, &status), "");
	EQUAL("stdio.exit.code_of__exit", WEXITSTATUS(status), 6);
	output_of(stream_and_return, SCRATCH, NULL);
	TEXT("stdio.exit.file", file_text(SCRATCH), "left open");
	TEXT("stdio.exit.by_thread", output_of(end_in_thread, NULL, &status), "by a thread");
	TEXT("stdio.exit.by_last_thread", output_of(end_with_last_thread, "thread", &status), "by the last thread");
	TEXT("stdio.exit.atexit", output_of(print_at_exit, NULL, &status), "early and late");
	EQUAL("stdio.exit.much", strspn(output_of(print_much, NULL, &status), "m"), 3500);
	unlink(SCRATCH);
	EQUAL("stdio.exit.several", in_child(exit_of, &(struct ending){ several_streams, SCRATCH }), 0);
	EQUAL("stdio.exit.several_written", strlen(file_text(SCRATCH)), 50);
	TEXT("stdio.exit.not_by_abort", output_of(end_by, "a", &status), "");
	TEXT("stdio.exit.not_by_quick_exit", output_of(end_by, "q", &status), "");
	EQUAL("stdio.exit.code_of_quick_exit", status, 4 << 8);
	TEXT("stdio.exit.not_by_signal", output_of(end_by, "k", &status), "");
	TEXT("stdio.exit.not_by_exec", output_of(end_by, "e", &status), "");
	CHECK("stdio.fclose.status", in_child(close_after_end, SCRATCH) == 0);
	file = fopen(SCRATCH, "r");
	NEED(file);
	fseek(file, -8, SEEK_END);
	CHECK("stdio.fclose.all_written", ftell(file) == 79992 && fgets(text, 10, file) &&
	      !strcmp(text, "0009999\n"));
	fclose(file);

	/* A buffer that both have when they part is written twice. */
	file = fopen(SCRATCH, "w");
	NEED(file);
	fprintf(file, "twice.");
	pid = fork();
	if (!pid)
		exit(0);
	status = reap(pid);
	fclose(file);
	CHECK("stdio.fork.status", status == 0);
	TEXT("stdio.fork.twice", file_text(SCRATCH), "twice.twice.");

	file = fopen(SCRATCH, "w");
	NEED(file);
	fprintf(file, "once.");
	fflush(file);
	pid = fork();
	if (!pid) {
		fprintf(file, "child.");
		exit(0);
	}
	reap(pid);
	fprintf(file, "parent.");
	fclose(file);
	TEXT("stdio.fork.flushed", file_text(SCRATCH), "once.child.parent.");

	/* What is written when: nothing of a full buffer's stream, a line of a line's. */
	NEED(pipe2(fds, O_NONBLOCK) == 0);
	file = fdopen(fds[1], "w");
	fprintf(file, "line\n");
	CHECK("stdio.buffer.full", read(fds[0], &c, 1) < 0 && errno == EAGAIN && __fpending(file) == 5);
	fflush(file);
	CHECK("stdio.buffer.flushed", read(fds[0], text, 10) == 5);
	setvbuf(file, NULL, _IOLBF, 0);
	fprintf(file, "line\nrest");
	CHECK("stdio.buffer.line", read(fds[0], text, 10) == 5 && __fpending(file) == 4);
	fflush(file);
	CHECK("stdio.buffer.rest", read(fds[0], text, 10) == 4);
	setvbuf(file, NULL, _IONBF, 0);
	fputc('u', file);
	CHECK("stdio.buffer.none", read(fds[0], &c, 1) == 1 && c == 'u');
	close(fds[0]);
	fclose(file);
}

static ssize_t cookie_write(void *cookie, const char *text, size_t size)
{
	*(size_t *)cookie += size;
	return text ? (ssize_t)size : -1;
}

static void test_streams(void)
{
	cookie_io_functions_t functions = { .write = cookie_write };
	char text[100] = "", *line = NULL, *memory = NULL;
	static char big[200000], copy[200000];
	size_t size = 0, written = 0;
	int number = 0, more = 0;
	double real = 0;
	FILE *file;
	char word[20] = "";

	put_file(SCRATCH, "first line\nsecond 17 2.5e3\n\nlast");
	file = fopen(SCRATCH, "r+");
	NEED(file);
	CHECK("stdio.getline", getline(&line, &size, file) == 11 && !strcmp(line, "first line\n"));
	CHECK("stdio.fscanf", fscanf(file, "%19s %d %lf", word, &number, &real) == 3 &&
	      !strcmp(word, "second") && number == 17 && real == 2500);
	CHECK("stdio.ungetc", fgetc(file) == '\n' && ungetc('x', file) == 'x' && fgetc(file) == 'x');
	CHECK("stdio.ftell", ftell(file) == 27);
	CHECK("stdio.end", getline(&line, &size, file) == 1 && getline(&line, &size, file) == 4 &&
	      !feof(file) + !!feof(file) == 1 && fgetc(file) == EOF && feof(file) && !ferror(file));
	rewind(file);
	CHECK("stdio.write_after_read", fgetc(file) == 'f' && fseek(file, 0, SEEK_CUR) == 0 &&
	      fputc('I', file) == 'I' && fflush(file) == 0 && !strncmp(file_text(SCRATCH), "fIrst", 5));
	fclose(file);
	free(line);

	for (unsigned int i = 0; i < sizeof(big); i++)
		big[i] = i * 7 + (i >> 8);
	file = tmpfile();
	CHECK("stdio.tmpfile", file && fwrite(big, 1, sizeof(big), file) == sizeof(big) &&
	      fseek(file, 0, SEEK_SET) == 0 && fread(copy, 1, sizeof(copy), file) == sizeof(copy) &&
	      !memcmp(big, copy, sizeof(big)));
	if (file)
		fclose(file);

	file = fmemopen(text, sizeof(text), "w");
	CHECK("stdio.fmemopen", file && fprintf(file, "%s-%d", "in memory", 3) == 11 && fclose(file) == 0 &&
	      !strcmp(text, "in memory-3"));
	file = open_memstream(&memory, &size);
	NEED(file);
	for (int i = 0; i < 1000; i++)
		fprintf(file, "%03d", i);
	CHECK("stdio.open_memstream", fclose(file) == 0 && size == 3000 && !strcmp(memory + 2991, "997998999"));
	free(memory);
	file = fopencookie(&written, "w", functions);
	CHECK("stdio.fopencookie", file && fprintf(file, "%0100d", 1) == 100 && fclose(file) == 0 && written == 100);

	file = fopen("/dev/full", "w");
	CHECK("stdio.enospc", file && fputs("x", file) >= 0 && fflush(file) == EOF && errno == ENOSPC && ferror(file));
	if (file)
		fclose(file);
	errno = 0;
	CHECK("stdio.enoent", !fopen("/no/such/file", "r") && errno == ENOENT);
	file = fopen(SCRATCH, "a");
	NEED(file);
	fputs("+end", file);
	fclose(file);
	memory = strstr(file_text(SCRATCH), "last");
	TEXT("stdio.append", memory, "last+end");
	CHECK("stdio.sscanf", sscanf("0x1f:077,-5 [abc] %", "%i:%i,%d [%[a-c]] %%%n", &number, (int *)&size, &more,
				     word, (int *)&written) == 4 && number == 31 && more == -5 && !strcmp(word, "abc"));
	file = freopen(SCRATCH, "r", fopen("/dev/null", "r"));
	CHECK("stdio.freopen", file && fgetc(file) == 'f' && fclose(file) == 0);
	CHECK("stdio.dprintf", ({
		int fd = open(SCRATCH, O_RDWR | O_TRUNC);
		int n = dprintf(fd, "%s", "directly");

		close(fd);
		n == 8 && !strcmp(file_text(SCRATCH), "directly");
	}));
	CHECK("stdio.remove", remove(SCRATCH) == 0 && access(SCRATCH, F_OK) < 0 && errno == ENOENT);
}

/* --- formatted numbers --- */

static const struct {
	const char *name, *format;
	double value;
	const char *want;
} floats[] = {
	{ "f", "%f", 3.14159265358979, "3.141593" },
	{ "f_20", "%.20f", 0.1, "0.10000000000000000555" },
	{ "f_half_even", "%.0f", 2.5, "2" },
	{ "f_half_odd", "%.0f", 3.5, "4" },
	{ "f_large", "%.0f", 1e22, "10000000000000000000000" },
	{ "f_negative", "%+08.2f", -2.345, "-0002.35" },
	{ "e", "%e", 12345.678, "1.234568e+04" },
	{ "e_max", "%.16e", DBL_MAX, "1.7976931348623157e+308" },
	{ "e_min", "%.16e", DBL_TRUE_MIN, "4.9406564584124654e-324" },
	{ "g", "%g", 0.0001, "0.0001" },
	{ "g_small", "%g", 0.00001, "1e-05" },
	{ "g_17", "%.17g", 0.3, "0.29999999999999999" },
	{ "g_alternative", "%#g", 1.0, "1.00000" },
	{ "a", "%a", 1.0, "0x1p+0" },
	{ "a_third", "%a", 1.0 / 3, "0x1.5555555555555p-2" },
	{ "a_denormal", "%a", DBL_TRUE_MIN, "0x0.0000000000001p-1022" },
	{ "a_negative_zero", "%a", -0.0, "-0x0p+0" },
	{ "infinite", "%f", INFINITY, "inf" },
	{ "infinite_upper", "%F", -INFINITY, "-INF" },
	{ "nan", "%g", NAN, "nan" },
	{ "width", "[%10.3f]", 1.5, "[     1.500]" },
	{ "left", "[%-10.3f]", 1.5, "[1.500     ]" },
};

static void test_printf(void)
{
	unsigned long state = 88172645463325252UL, bad = 0;
	volatile size_t size = 4;	/* the compiler would warn */
	unsigned short control, up;
	char text[400], name[60], wide[60];
	char *end;

	for (unsigned int i = 0; i < ELEMENTS(floats); i++) {
		snprintf(text, sizeof(text), floats[i].format, floats[i].value);
		snprintf(name, sizeof(name), "stdio.floats.%s", floats[i].name);
		TEXT(name, text, floats[i].want);
	}
	/* Out and in again. */
	for (int i = 0; i < 3000; i++) {
		union { unsigned long bits; double value; } in, out;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		in.bits = state;
		if (!isfinite(in.value))
			continue;
		snprintf(text, sizeof(text), i & 1 ? "%.17g" : "%a", in.value);
		out.value = strtod(text, &end);
		bad += *end || in.bits != out.bits;
	}
	EQUAL("stdio.floats.round_trip", bad, 0);
	snprintf(text, sizeof(text), "%.25Lf %La", 0.1L, 1.0L);
	TEXT("stdio.floats.long_double", text, "0.1000000000000000000013553 0x8p-3");
	CHECK("stdio.floats.dbl_max", snprintf(text, sizeof(text), "%f", DBL_MAX) == 316 &&
	      !strncmp(text, "179769313486231570814527423731704356798070", 42));
	asm volatile("fnstcw %0" : "=m"(control));
	up = (control & ~0xc00) | 0x800;	/* the rounding mode counts */
	asm volatile("fldcw %0" : : "m"(up));
	snprintf(text, sizeof(text), "%.0f", 0.25);
	asm volatile("fldcw %0" : : "m"(control));
	TEXT("stdio.floats.rounding_mode", text, "1");
	snprintf(text, sizeof(text), "%2$s %1$*3$d|%%|%4$-5c|", 7, "second", 4, 'x');
	TEXT("stdio.printf.positions", text, "second    7|%|x    |");
	snprintf(text, sizeof(text), "%lld %llx %#o %hhd %zu %jd", -9223372036854775807LL - 1, ~0ULL, 8,
		 300, (size_t)5, (intmax_t)-6);
	TEXT("stdio.printf.integers", text, "-9223372036854775808 ffffffffffffffff 010 44 5 -6");
	CHECK("stdio.printf.truncated", snprintf(text, size, "%s", "abcdef") == 6 && !strcmp(text, "abc"));
	errno = EACCES;
	snprintf(text, sizeof(text), "%m");
	TEXT("stdio.printf.errno", text, "Permission denied");
	setlocale(LC_ALL, "C.UTF-8");
	snprintf(wide, sizeof(wide), "%ls %lc", L"\u00e4\u20ac", (wint_t)0x1f600);
	setlocale(LC_ALL, "C");
	TEXT("stdio.printf.wide", wide, "\xc3\xa4\xe2\x82\xac \xf0\x9f\x98\x80");
	errno = 0;
	CHECK("stdio.strtod.overflow", strtod("1e999", NULL) == HUGE_VAL && errno == ERANGE);
	errno = 0;
	CHECK("stdio.strtod.underflow", strtod("1e-999", NULL) == 0 && errno == ERANGE);
	CHECK("stdio.strtod.hex", strtod("-0x1.8p1z", &end) == -3 && *end == 'z');
	CHECK("stdio.strtof", strtof("0.1", NULL) == 0.1f);
	CHECK("stdio.strtold", strtold("0.1", NULL) == 0.1L);
	errno = 0;
	CHECK("stdio.strtol", strtol("99999999999999999999", NULL, 10) == LONG_MAX && errno == ERANGE);
}

/* --- locales --- */

static int print_wide(void *arg)
{
	FILE *file = fdopen(1, "w");	/* stdout has had bytes already */

	(void)arg;
	setlocale(LC_ALL, "C.UTF-8");
	return fwprintf(file, L"\u00e4 %ls %.2f", L"\u20ac", 1.25) != 8;
}

static void test_locale(void)
{
	static const char utf8[] = "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x";
	wchar_t wide[20];
	char text[100], *in = (char *)utf8, *out = text;
	size_t in_left = sizeof(utf8) - 1, out_left = sizeof(text);
	locale_t locale, old;
	struct tm tm = { .tm_year = 124, .tm_mon = 1, .tm_mday = 29, .tm_hour = 13, .tm_isdst = -1 };
	iconv_t cd;
	time_t t;
	int status;

	TEXT("stdio.locale.at_start", setlocale(LC_ALL, NULL), "C");
	TEXT("stdio.locale.codeset_c", nl_langinfo(CODESET), "ANSI_X3.4-1968");
	CHECK("stdio.locale.bytes_in_c", mbstowcs(wide, utf8, 20) == (size_t)-1 && errno == EILSEQ);
	CHECK("stdio.locale.unknown", setlocale(LC_ALL, "xx_XX.UTF-8") == NULL);
	TEXT("stdio.locale.utf8", setlocale(LC_ALL, "C.UTF-8"), "C.UTF-8");
	TEXT("stdio.locale.codeset", nl_langinfo(CODESET), "UTF-8");
	EQUAL("stdio.locale.mb_cur_max", MB_CUR_MAX, 6);
	CHECK("stdio.locale.mbstowcs", mbstowcs(wide, utf8, 20) == 4 && wide[0] == 0xe4 && wide[1] == 0x20ac &&
	      wide[2] == 0x1f600 && wide[3] == 'x');
	CHECK("stdio.locale.wcstombs", wcstombs(text, wide, sizeof(text)) == sizeof(utf8) - 1 && !strcmp(text, utf8));
	CHECK("stdio.locale.towupper", towupper(0xe4) == 0xc4 && iswalpha(0xe4) && !iswalpha(0x20ac) && iswspace(0x2003));
	CHECK("stdio.locale.wcscoll", wcscoll(L"a", L"b") < 0 && strcoll("a", "B") > 0);
	setlocale(LC_ALL, "C");
	TEXT("stdio.locale.decimal_point", localeconv()->decimal_point, ".");
	locale = newlocale(LC_ALL_MASK, "C.UTF-8", NULL);
	NEED(locale);
	old = uselocale(locale);
	CHECK("stdio.locale.uselocale", old == LC_GLOBAL_LOCALE && MB_CUR_MAX == 6);
	uselocale(old);
	CHECK("stdio.locale.uselocale_back", MB_CUR_MAX == 1);
	freelocale(locale);
	TEXT("stdio.locale.wprintf", output_of(print_wide, NULL, &status), "\xc3\xa4 \xe2\x82\xac 1.25");
	EQUAL("stdio.locale.wprintf_count", status, 0);
	cd = iconv_open("UCS-4BE", "UTF-8");
	CHECK("stdio.locale.iconv", cd != (iconv_t)-1 && iconv(cd, &in, &in_left, &out, &out_left) == 0 &&
	      out - text == 16 && !memcmp(text, "\0\0\0\xe4\0\0\x20\xac\0\1\xf6\0\0\0\0x", 16));
	if (cd != (iconv_t)-1)
		iconv_close(cd);
	errno = 0;
	CHECK("stdio.locale.iconv_unknown", iconv_open("NO-SUCH-SET", "UTF-8") == (iconv_t)-1 && errno == EINVAL);
	strftime(text, sizeof(text), "%A %d %B %Y %T", &tm);
	TEXT("stdio.time.strftime", text, "Sunday 29 February 2024 13:00:00");
	EQUAL("stdio.time.timegm", timegm(&tm), 1709211600);
	setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
	tzset();
	t = 1720000000;
	strftime(text, sizeof(text), "%F %T %Z", localtime(&t));
	TEXT("stdio.time.zone", text, "2024-07-03 11:46:40 CEST");
	unsetenv("TZ");
	tzset();
	TEXT("stdio.strerror", strerror(ENOENT), "No such file or directory");
	TEXT("stdio.strerror_unknown", strerror(4242), "Unknown error 4242");
	TEXT("stdio.strsignal", strsignal(11), "Segmentation fault");
}

int stdio_suite(void)
{
	test_exit();
	test_streams();
	test_printf();
	test_locale();
	return check_failed;
}
