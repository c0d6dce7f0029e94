// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Uses three libraries as Debian's -dev packages have them: PCRE2 finds the words of a text, zlib
 * packs it, and libevent carries the packed text over a pair of sockets, beside a timer.
 *
 * `archives jit` tells what became of PCRE2's compiler as well, which depends on the ring: its code
 * is made at run time, and in ring 0 there is no executable memory for it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8

#include <err.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define TICK_MS 20
#define TICKS 3
#define ROUNDS 8000	/* packed, the text does not fit into the sockets' buffers at once */

static const char text[] = "Größe: 42 µm\nΕλλάδα: 7 км\nwidth: 1300 mm\nno number: here\n";
static const char pattern[] = "^(?<name>\\p{L}+): (?<number>\\d+) (\\w+)$";

/* What the event loop's functions know. */
struct transfer {
	struct event *timer;
	int ticks;
	z_stream unpacking;
};

static int match(const char *subject, int tell_jit)
{
	uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
	PCRE2_SIZE at, end = strlen(subject);
	int error, found = 0;
	pcre2_code *code =
		pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
	if (!code)
		errx(1, "PCRE2 refuses the pattern: error %d at %zu", error, (size_t)at);

	/* As servers do it: what cannot be compiled is interpreted. */
	error = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
	if (error && error != PCRE2_ERROR_NOMEMORY)
		errx(1, "PCRE2's compiler: error %d", error);
	if (tell_jit)
		printf("jit: %d\n", error);

	pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
	PCRE2_SIZE *ends = pcre2_get_ovector_pointer(data);
	for (PCRE2_SIZE from = 0; from < end; from = ends[1]) {
		int count = pcre2_match(code, (PCRE2_SPTR)subject, end, from, 0, data, NULL);
		PCRE2_UCHAR *name;
		PCRE2_SIZE length;

		if (count == PCRE2_ERROR_NOMATCH)
			break;
		if (count < 0 || pcre2_substring_get_byname(data, (PCRE2_SPTR)"name", &name, &length))
			errx(1, "PCRE2 does not match: error %d", count);
		printf("%d groups: %s (%zu bytes) is %.*s, in %.*s\n", count, name, (size_t)length,
		       (int)(ends[5] - ends[4]), subject + ends[4], (int)(ends[7] - ends[6]), subject + ends[6]);
		pcre2_substring_free(name);
		found++;
	}
	pcre2_match_data_free(data);
	pcre2_code_free(code);
	return found;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct transfer *all = arg;

	(void)fd, (void)what;
	if (++all->ticks == TICKS)
		event_del(all->timer);
}

/* Unpacks what has come. */
static void on_data(struct bufferevent *end, void *arg)
{
	struct evbuffer *in = bufferevent_get_input(end);
	struct transfer *all = arg;

	while (evbuffer_get_length(in)) {
		size_t length = evbuffer_get_contiguous_space(in);

		all->unpacking.next_in = evbuffer_pullup(in, length);
		all->unpacking.avail_in = length;
		int state = inflate(&all->unpacking, Z_NO_FLUSH);
		if (state != Z_OK && state != Z_STREAM_END)
			errx(1, "zlib does not unpack: error %d", state);
		evbuffer_drain(in, length - all->unpacking.avail_in);
	}
}

static void on_end(struct bufferevent *end, short what, void *arg)
{
	(void)arg;
	printf("the other end has %s\n", what & BEV_EVENT_EOF ? "closed" : "failed");
	bufferevent_disable(end, EV_READ);
}

/* Closes a sender whose data is on its way. */
static void on_sent(struct bufferevent *end, void *arg)
{
	(void)arg;
	bufferevent_free(end);
}

static void transfer(const unsigned char *packed, size_t length, unsigned char *out, size_t size)
{
	struct event_config *config = event_config_new();
	struct timeval tick = { .tv_usec = TICK_MS * 1000 };
	struct transfer all = { 0 };
	struct timespec start, now;
	int pair[2];

	event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);	/* timerfd, no coarse clock */
	struct event_base *base = event_base_new_with_config(config);
	event_config_free(config);
	if (!base || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) ||
	    inflateInit(&all.unpacking))
		err(1, "cannot begin");
	all.unpacking.next_out = out;
	all.unpacking.avail_out = size;
	printf("libevent waits by %s\n", event_base_get_method(base));

	struct bufferevent *sender = bufferevent_socket_new(base, pair[0], BEV_OPT_CLOSE_ON_FREE);
	struct bufferevent *receiver = bufferevent_socket_new(base, pair[1], BEV_OPT_CLOSE_ON_FREE);
	bufferevent_setcb(sender, NULL, on_sent, on_end, &all);
	bufferevent_setcb(receiver, on_data, NULL, on_end, &all);
	bufferevent_enable(receiver, EV_READ);
	bufferevent_write(sender, packed, length);
	all.timer = event_new(base, -1, EV_PERSIST, on_tick, &all);

	clock_gettime(CLOCK_MONOTONIC, &start);
	event_add(all.timer, &tick);
	event_base_dispatch(base);	/* until there is nothing left to wait for */
	clock_gettime(CLOCK_MONOTONIC, &now);
	long ms = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000;

	printf("%d ticks, %s\n", all.ticks, ms >= TICKS * TICK_MS ? "none too early" : "too early");
	printf("%lu bytes arrived, %lu unpacked\n", all.unpacking.total_in, all.unpacking.total_out);
	inflateEnd(&all.unpacking);
	event_free(all.timer);
	bufferevent_free(receiver);
	event_base_free(base);
	libevent_global_shutdown();
}

int main(int argc, char **argv)
{
	size_t length = strlen(text), size = length * ROUNDS;
	uLongf packed_size = compressBound(size);
	unsigned char *plain = malloc(size), *packed = malloc(packed_size), *out = calloc(1, size);

	if (!plain || !packed || !out)
		err(1, "memory");
	printf("%d lines match\n", match(text, argc > 1 && strcmp(argv[1], "jit") == 0));

	/* Different each time, or nothing would be left of it. */
	for (size_t at = 0; at < size; at++)
		plain[at] = text[at % length] ^ (at * at / 7919 & 15);
	if (compress2(packed, &packed_size, plain, size, Z_BEST_COMPRESSION) != Z_OK)
		errx(1, "zlib does not pack");
	printf("%zu bytes packed to %lu, CRC-32 %08lx, Adler-32 %08lx\n", size, packed_size,
	       crc32(0, plain, size), adler32(1, plain, size));
	transfer(packed, packed_size, out, size);
	printf("the texts are %s\n", memcmp(plain, out, size) ? "different" : "equal");
	free(plain);
	free(packed);
	free(out);
	return 0;
}
