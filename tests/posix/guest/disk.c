// SPDX-License-Identifier: Apache-2.0
/* A disk that takes data from, and puts it into, the pages of the program themselves. */
#include "posix.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/uio.h>

#define SIZE 65536

static char in_data[SIZE] __attribute__((aligned(4096))) = "data";
static char in_bss[SIZE] __attribute__((aligned(4096)));

static void fill(char *to, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++)
		to[i] = i * 13 + (i >> 8) + seed;
}

static const char constant[4096] __attribute__((aligned(512))) = "a constant that goes to a disk";

struct piece {
	int fd, number, bad;
};

/* Writes its own part of the disk and reads it again, by globals. */
static void *direct_piece(void *arg)
{
	struct piece *piece = arg;
	char *mine = in_data + piece->number * 8192, *back = in_bss + piece->number * 8192;

	for (int i = 0; i < 10; i++) {
		fill(mine, 8192, piece->number * 10 + i);
		piece->bad += pwrite(piece->fd, mine, 8192, 131072 + piece->number * 8192) != 8192 ||
			      pread(piece->fd, back, 8192, 131072 + piece->number * 8192) != 8192 || memcmp(mine, back, 8192);
	}
	return NULL;
}

static int direct_in_child(void *arg)
{
	memset(in_bss, 0, 4096);
	return pread(*(int *)arg, in_bss, 4096, 0) != 4096 || memcmp(in_bss, in_data, 4096);
}

int disk_suite(void)
{
	int fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC), plain = open("/dev/vda", O_RDONLY | O_CLOEXEC);
	struct iovec iovs[3] = { { in_data, 4096 }, { in_bss + 8192, 12288 }, { in_data + 20480, 512 } };
	struct piece pieces[4];
	pthread_t threads[4];
	char *heap;
	int bad = 0;

	NEED(fd >= 0 && plain >= 0);
	fill(in_data, SIZE, 8);
	CHECK("disk.o_direct.write_data", pwrite(fd, in_data, SIZE, 0) == SIZE);
	memset(in_bss, 0, SIZE);
	CHECK("disk.o_direct.read_bss", pread(fd, in_bss, SIZE, 0) == SIZE && !memcmp(in_data, in_bss, SIZE));
	memset(in_bss, 0, SIZE);
	CHECK("disk.o_direct.by_cache", pread(plain, in_bss, SIZE, 0) == SIZE && !memcmp(in_data, in_bss, SIZE));
	memset(in_bss, 0, SIZE);
	CHECK("disk.o_direct.sector", pread(fd, in_bss + 512, 512, 1024) == 512 && !memcmp(in_bss + 512, in_data + 1024, 512) && !in_bss[1024] &&
	      !in_bss[511]);
	CHECK("disk.o_direct.over_the_edge", pread(fd, in_bss + 4096 - 512, 1024, 2048) == 1024 && !memcmp(in_bss + 4096 - 512, in_data + 2048, 1024));
	errno = 0;
	CHECK("disk.o_direct.unaligned_memory", pread(fd, in_bss + 1, 512, 0) < 0 && errno == EINVAL);
	errno = 0;
	CHECK("disk.o_direct.unaligned_size", pread(fd, in_bss, 100, 0) < 0 && errno == EINVAL);
	errno = 0;
	CHECK("disk.o_direct.unaligned_place", pread(fd, in_bss, 512, 100) < 0 && errno == EINVAL);
	fill(in_bss, SIZE, 77);
	CHECK("disk.o_direct.writev", pwritev(fd, iovs, 3, 65536) == 16896 && pread(fd, in_bss, 16896, 65536) == 16896 &&
	      !memcmp(in_bss, in_data, 4096) && !memcmp(in_bss + 16384, in_data + 20480, 512));
	CHECK("disk.o_direct.constant", pwrite(fd, constant, 4096, 90112) == 4096 && pread(fd, in_bss, 4096, 90112) == 4096 && !strcmp(in_bss, constant));
	errno = 0;
	CHECK("disk.o_direct.into_constant", pread(fd, (char *)constant, 4096, 0) < 0 && errno == EFAULT && *constant == 'a');
	heap = aligned_alloc(4096, 32768);
	NEED(heap);
	CHECK("disk.o_direct.heap", pread(fd, heap, 32768, 4096) == 32768 && !memcmp(heap, in_data + 4096, 32768));
	free(heap);
	EQUAL("disk.o_direct.child", in_child(direct_in_child, &fd), 0);
	for (int i = 0; i < 4; i++) {
		pieces[i] = (struct piece){ fd, i, 0 };
		NEED(pthread_create(&threads[i], NULL, direct_piece, &pieces[i]) == 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		bad += pieces[i].bad;
	}
	EQUAL("disk.o_direct.threads", bad, 0);
	CHECK("disk.o_direct.end", pread(fd, in_bss, 4096, 1 << 20) == 0);
	close(fd);
	close(plain);
	return check_failed;
}
