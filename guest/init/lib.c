// SPDX-License-Identifier: Apache-2.0
#include "lib.h"

#include <linux/fcntl.h>
#include <linux/time.h>

/* gcc calls these four even when there is no library. */
void *memcpy(void *to, const void *from, size_t n)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return start;
}

void *memset(void *to, int byte, size_t n)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

bool equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

const char *after(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return NULL;
	return s;
}

void *take(size_t size)
{
	/* Two files of 512 KiB, and eight bytes of argv for each two of a job; untouched it is free. */
	static char arena[6 << 20] __attribute__((aligned(16)));
	static size_t used;
	char *start = arena + used;

	if (size > sizeof(arena) - used)
		return NULL;
	used += (size + 15) & ~(size_t)15;
	if (used > sizeof(arena))
		used = sizeof(arena);
	return start;
}

bool number(const char *s, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		unsigned int digit = (unsigned int)(*s - '0');

		if (digit > 9 || value > (max - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*out = value;
	return value <= max;
}

bool address(const char *s, uint32_t *addr, uint32_t *prefix)
{
	unsigned char bytes[4];
	uint64_t bits;

	for (int i = 0; i < 4; i++) {
		unsigned int value = 0, digits = 0;

		for (; *s >= '0' && *s <= '9' && digits < 3; s++, digits++)
			value = value * 10 + (unsigned int)(*s - '0');
		if (!digits || value > 255)
			return false;
		bytes[i] = (unsigned char)value;
		if (i < 3 && *s++ != '.')
			return false;
	}
	memcpy(addr, bytes, 4);
	if (!prefix)
		return !*s;
	if (*s != '/' || !number(s + 1, 32, &bits))
		return false;
	*prefix = (uint32_t)bits;
	return true;
}

struct out {
	char *at, *end;
};

static void put(struct out *out, char c)
{
	if (out->at < out->end)
		*out->at++ = c;
}

static void put_string(struct out *out, const char *s)
{
	while (*s)
		put(out, *s++);
}

static void put_number(struct out *out, uint64_t value)
{
	char digits[20];
	size_t n = 0;

	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n)
		put(out, digits[--n]);
}

static void put_signed(struct out *out, int64_t value)
{
	if (value < 0)
		put(out, '-');
	put_number(out, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

static void put_json(struct out *out, const char *s)
{
	static const char hex[] = "0123456789abcdef";
	/* Its end must not be lost with what does not fit, or a line of JSON is none. */
	const char *start = out->at;

	put(out, '"');
	for (; *s && out->at - start < JSON_MOST; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\') {
			put(out, '\\');
			put(out, *s);
		} else if (c < 0x20 || c >= 0x7f) {
			/* Bytes, not characters: a path need not be UTF-8, JSON must be. */
			put_string(out, "\\u00");
			put(out, hex[c >> 4]);
			put(out, hex[c & 15]);
		} else {
			put(out, *s);
		}
	}
	put(out, '"');
}

static void put_address(struct out *out, uint32_t addr)
{
	unsigned char bytes[4];

	memcpy(bytes, &addr, 4);
	for (int i = 0; i < 4; i++) {
		if (i)
			put(out, '.');
		put_number(out, bytes[i]);
	}
}

size_t format_list(char *buffer, size_t size, const char *f, va_list args)
{
	struct out out = { buffer, buffer + size - 1 };

	for (; *f; f++) {
		if (*f != '%') {
			put(&out, *f);
			continue;
		}
		switch (*++f) {
		case 's':
			put_string(&out, va_arg(args, const char *));
			break;
		case 'd':
			put_signed(&out, va_arg(args, int));
			break;
		case 'u':
			put_number(&out, va_arg(args, uint32_t));
			break;
		case 'l':
			put_signed(&out, va_arg(args, int64_t));
			break;
		case 'a':
			put_address(&out, va_arg(args, uint32_t));
			break;
		case 'j':
			put_json(&out, va_arg(args, const char *));
			break;
		default:
			put(&out, *f);
		}
	}
	*out.at = '\0';
	return (size_t)(out.at - buffer);
}

size_t format(char *buffer, size_t size, const char *f, ...)
{
	va_list args;
	size_t length;

	va_start(args, f);
	length = format_list(buffer, size, f, args);
	va_end(args);
	return length;
}

void say(const char *f, ...)
{
	char line[512] = "init: ";
	size_t length = 6;
	va_list args;

	va_start(args, f);
	length += format_list(line + length, sizeof(line) - length - 1, f, args);
	va_end(args);
	line[length++] = '\n';
	SYS3(write, 2, line, length);
}

int64_t now(void)
{
	struct __kernel_timespec time;

	SYS2(clock_gettime, CLOCK_BOOTTIME, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

void pause_ms(int64_t ms)
{
	struct __kernel_timespec time = { ms / 1000, ms % 1000 * 1000000 };

	SYS2(nanosleep, &time, NULL);
}

long read_file(const char *path, char *out, size_t size)
{
	long fd = SYS3(open, path, O_RDONLY | O_CLOEXEC, 0);
	size_t length = 0;
	long got = 0;

	if (fd < 0)
		return fd;
	while (length < size) {
		got = SYS3(read, fd, out + length, size - length);
		if (got == -EINTR)
			continue;
		if (got <= 0)
			break;
		length += (size_t)got;
	}
	SYS1(close, fd);
	return got < 0 ? got : (long)length;
}

long write_file(const char *path, const char *text)
{
	long fd = SYS3(open, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t length = strlen(text);
	long got = 0;

	if (fd < 0)
		return fd;
	got = SYS3(write, fd, text, length);
	SYS1(close, fd);
	return got >= 0 && (size_t)got != length ? -EIO : got;
}

/* getdents64(2); in no header. */
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

bool each_entry(const char *path, bool (*each)(const char *name, void *context), void *context)
{
	long fd = SYS3(open, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	char buffer[1024] __attribute__((aligned(8)));
	bool found = false;
	long got = 0;

	if (fd < 0)
		return false;
	while (!found && (got = SYS3(getdents64, fd, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < got && !found;) {
			struct entry *entry = (struct entry *)(buffer + at);

			at += entry->length;
			if (entry->name[0] != '.')
				found = each(entry->name, context);
		}
	}
	SYS1(close, fd);
	return found;
}
