// SPDX-License-Identifier: Apache-2.0
/* The heap, mappings, shared memory. */
#include "posix.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define MIB (1UL << 20)
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static void *no_pages(size_t size)
{
	return mmap(NULL, size, RW, ANON, -1, 0);
}

/* Calls that the compiler would otherwise see through. */
static void *(*volatile allocate)(size_t size) = malloc;
static void (*volatile release)(void *p) = free;

/* --- the heap --- */

struct worker {
	unsigned int seed;
	unsigned long bad;
	pthread_t thread;
};

static unsigned int next_random(unsigned int *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

static int holds(const unsigned char *p, size_t n, unsigned char c)
{
	for (size_t i = 0; i < n; i += i + 64 < n ? 61 : 1)
		if (p[i] != c)
			return 0;
	return 1;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct { unsigned char *p; size_t size; unsigned char c; } held[64] = { 0 };

	for (int i = 0; i < 4000; i++) {
		unsigned int k = next_random(&worker->seed) % ELEMENTS(held);
		unsigned char *p;

		if (held[k].p && !holds(held[k].p, held[k].size, held[k].c))
			worker->bad++;
		held[k].size = next_random(&worker->seed) % (i % 50 ? 1000 : 200000) + 1;
		if (i % 3) {
			free(held[k].p);
			p = malloc(held[k].size);
		} else {
			p = realloc(held[k].p, held[k].size);
		}
		if (!p) {
			worker->bad++;
			held[k].p = NULL;
			continue;
		}
		held[k].p = p;
		held[k].c = next_random(&worker->seed);
		memset(p, held[k].c, held[k].size);
	}
	for (unsigned int k = 0; k < ELEMENTS(held); k++)
		free(held[k].p);
	return NULL;
}

static int free_twice(void *arg)
{
	void *p = allocate(40);

	(void)arg;
	close(2);
	release(p);
	release(p);
	return 0;
}

static int free_static(void *arg)
{
	static long array[16];

	(void)arg;
	close(2);
	release((char *)array + 8);
	return 0;
}

static int allocate_in_child(void *arg)
{
	struct worker worker = { .seed = 77 };

	work(&worker);
	return worker.bad || !holds(arg, 100000, 'p');
}

static void test_heap(void)
{
	struct worker workers[4] = { { .seed = 1 }, { .seed = 2 }, { .seed = 3 }, { .seed = 4 } };
	static void *many[20000];
	unsigned long bad = 0;
	volatile size_t half = SIZE_MAX / 2;
	struct mallinfo2 info;
	unsigned char *p, *q;
	char *old;
	void *aligned = NULL;
	int n;

	for (size_t size = 0; size < 3000; size += 7) {
		p = malloc(size);
		bad += !p || (uintptr_t)p % 16 || malloc_usable_size(p) < size;
		memset(p, 0x5a, size);
		free(p);
	}
	EQUAL("memory.malloc.sizes", bad, 0);
	old = sbrk(0);
	for (n = 0; n < 20000; n++) {
		many[n] = malloc(100);
		memset(many[n], n, 100);
	}
	info = mallinfo2();
	CHECK("memory.malloc.by_brk", (char *)sbrk(0) - old >= 1000000 && info.uordblks > 2000000);
	for (bad = n = 0; n < 20000; n++) {
		bad += !holds(many[n], 100, n);
		free(many[n]);
	}
	EQUAL("memory.malloc.many", bad, 0);
	old = sbrk(0);
	CHECK("memory.malloc.trim", malloc_trim(0) >= 0 && (char *)sbrk(0) <= old);
	p = malloc(64 * MIB);
	info = mallinfo2();
	CHECK("memory.malloc.by_mmap", p && info.hblks >= 1 && info.hblkhd >= 64 * MIB);
	p[0] = p[64 * MIB - 1] = p[32 * MIB] = 9;
	p = realloc(p, 100 * MIB);
	CHECK("memory.realloc.large", p && p[0] == 9 && p[32 * MIB] == 9 && p[64 * MIB - 1] == 9 && p[99 * MIB] == 0);
	free(p);
	CHECK("memory.malloc.unmapped", mallinfo2().hblkhd < 64 * MIB);
	p = malloc(10);
	memset(p, 'r', 10);
	for (size_t size = 10; size < 300000; size = size * 3 / 2)
		p = realloc(p, size);
	CHECK("memory.realloc.grow", p && holds(p, 10, 'r'));
	p = realloc(p, 5);
	CHECK("memory.realloc.shrink", p && holds(p, 5, 'r'));
	free(p);
	for (bad = n = 0; n < 100; n++) {
		p = malloc(5000);
		memset(p, 0xff, 5000);
		free(p);
		q = calloc(50, 100);
		bad += !holds(q, 5000, 0);
		free(q);
	}
	EQUAL("memory.calloc.zero", bad, 0);
	for (bad = 0, n = 16; n <= 65536; n *= 2) {
		bad += posix_memalign(&aligned, n, 100) || (uintptr_t)aligned % n;
		free(aligned);
		aligned = aligned_alloc(n, n);
		bad += !aligned || (uintptr_t)aligned % n;
		free(aligned);
	}
	EQUAL("memory.memalign", bad, 0);
	errno = 0;
	CHECK("memory.malloc.too_much", !allocate(PTRDIFF_MAX) && errno == ENOMEM);
	errno = 0;
	CHECK("memory.reallocarray.overflow", !reallocarray(NULL, half, 4) && errno == ENOMEM);
	CHECK("memory.free.twice", killed(in_child(free_twice, NULL), SIGABRT));
	CHECK("memory.free.static", killed(in_child(free_static, NULL), SIGABRT));
	old = sbrk(0);
	CHECK("memory.sbrk.grow", sbrk(100000) == old && (char *)sbrk(0) == old + 100000 &&
	      holds((void *)old, 100000, 0) && memset(old, 1, 100000));
	CHECK("memory.sbrk.shrink", sbrk(-100000) == old + 100000 && sbrk(0) == old);

	p = malloc(100000);
	memset(p, 'p', 100000);
	for (n = 0; n < 4; n++)
		NEED(pthread_create(&workers[n].thread, NULL, work, &workers[n]) == 0);
	/* While others are in the heap, whose locks the child must find open. */
	for (bad = n = 0; n < 5; n++)
		bad += in_child(allocate_in_child, p) != 0;
	EQUAL("memory.malloc.fork_of_threads", bad, 0);
	for (bad = n = 0; n < 4; n++) {
		pthread_join(workers[n].thread, NULL);
		bad += workers[n].bad;
	}
	EQUAL("memory.malloc.threads", bad, 0);
	free(p);
}

/* --- mappings --- */

static sigjmp_buf back;
static void *volatile fault_address;
static volatile int fault_code;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	fault_address = info->si_addr;
	fault_code = info->si_code;
	siglongjmp(back, 1);
}

/* The code of the fault that an access makes, 0 for none. */
static int faults(volatile char *p, int write_it)
{
	fault_code = 0;
	fault_address = NULL;
	if (!sigsetjmp(back, 1)) {
		if (write_it)
			*p = 1;
		else
			(void)*p;
	}
	return fault_code && fault_address == p ? fault_code : -fault_code;
}

#define READ_FAULTS(p) faults((char *)(p), 0)
#define WRITE_FAULTS(p) faults((char *)(p), 1)

static int seen_zero(void *arg)
{
	return !holds(arg, 4096, 0);
}

static int not_there(void *arg)
{
	return READ_FAULTS(arg) == SEGV_MAPERR ? 0 : 1;
}

static int child_writes(void *arg)
{
	strcpy(arg, "by the child");
	return 0;
}

static int lines_of_maps(const char *what)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[300];
	int found = 0;

	while (maps && fgets(line, sizeof(line), maps))
		found += strstr(line, what) != NULL;
	if (maps)
		fclose(maps);
	return found;
}

static void test_mappings(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old_segv, old_bus;
	unsigned char resident[4] = { 0 };
	char *p, *q, *r, place[40];
	struct rlimit limit = { 0 };
	int fd, found;

	sigaction(SIGSEGV, &action, &old_segv);
	sigaction(SIGBUS, &action, &old_bus);
	p = no_pages(4 * 4096);
	NEED(p != MAP_FAILED);
	CHECK("memory.mmap.zero", holds((void *)p, 4 * 4096, 0));
	memset(p, 'm', 4 * 4096);
	CHECK("memory.mprotect.read_only", mprotect(p, 4096, PROT_READ) == 0 && WRITE_FAULTS(p + 10) == SEGV_ACCERR &&
	      p[10] == 'm');
	CHECK("memory.mprotect.none", mprotect(p + 4096, 4096, PROT_NONE) == 0 && READ_FAULTS(p + 4096) == SEGV_ACCERR);
	CHECK("memory.mprotect.again", mprotect(p, 8192, RW) == 0 && !WRITE_FAULTS(p) && p[5000] == 'm');
	CHECK("memory.mprotect.hole", munmap(p + 8192, 4096) == 0 && READ_FAULTS(p + 8192) == SEGV_MAPERR &&
	      mprotect(p, 4 * 4096, RW) < 0 && errno == ENOMEM && p[12288] == 'm');
	CHECK("memory.mmap.fixed", mmap(p + 8192, 4096, RW, ANON | MAP_FIXED, -1, 0) == p + 8192 && !p[8192]);
	errno = 0;
	CHECK("memory.mmap.noreplace", mmap(p, 4096, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
	CHECK("memory.madvise.dontneed", madvise(p, 4096, MADV_DONTNEED) == 0 && holds((void *)p, 4096, 0));
	memset(p, 'w', 4096);
	CHECK("memory.madvise.wipeonfork", madvise(p, 4096, MADV_WIPEONFORK) == 0 && in_child(seen_zero, p) == 0 && *p == 'w');
	CHECK("memory.madvise.dontfork", madvise(p + 4096, 4096, MADV_DONTFORK) == 0 && in_child(not_there, p + 4096) == 0);
	CHECK("memory.madvise.populate", munmap(p, 4 * 4096) == 0 && (p = no_pages(4 * 4096)) != MAP_FAILED &&
	      madvise(p, 8192, MADV_POPULATE_WRITE) == 0 && mincore(p, 4 * 4096, resident) == 0 &&
	      resident[0] & 1 && resident[1] & 1 && !(resident[2] & 1));
	errno = 0;
	CHECK("memory.madvise.unknown", madvise(p, 4096, 12345) < 0 && errno == EINVAL);
	CHECK("memory.mlock", mlock(p, 8192) == 0 && munlock(p, 8192) == 0 && mlock((char *)0x1000, 4096) < 0 && errno == ENOMEM);
	strcpy(p + 4090, "over the edge");
	q = mremap(p, 4 * 4096, 64 * 4096, MREMAP_MAYMOVE);
	CHECK("memory.mremap.grow", q != MAP_FAILED && !strcmp(q + 4090, "over the edge") && q[63 * 4096] == 0);
	r = no_pages(8 * 4096);
	CHECK("memory.mremap.fixed", mremap(q, 2 * 4096, 2 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, r) == r &&
	      !strcmp(r + 4090, "over the edge") && READ_FAULTS(q) == SEGV_MAPERR);
	CHECK("memory.mremap.shrink", mremap(r, 8 * 4096, 4096, 0) == r && READ_FAULTS(r + 4096) == SEGV_MAPERR && !READ_FAULTS(r));
	munmap(q, 64 * 4096);
	munmap(r, 4096);

	p = mmap(NULL, 2048 * MIB, RW, ANON | MAP_NORESERVE, -1, 0);
	CHECK("memory.mmap.sparse", p != MAP_FAILED && ({
		for (unsigned long at = 0; at < 2048 * MIB; at += 64 * MIB)
			p[at] = at >> 26;
		p[31 * 64 * MIB] == 31 && p[5 * 64 * MIB] == 5 && p[4096] == 0;
	}));
	munmap(p, 2048 * MIB);
	errno = 0;
	CHECK("memory.mmap.too_much", mmap(NULL, 1UL << 47, RW, ANON, -1, 0) == MAP_FAILED && errno == ENOMEM);
	errno = 0;
	CHECK("memory.munmap.unaligned", munmap((void *)1, 4096) < 0 && errno == EINVAL);
	getrlimit(RLIMIT_AS, &limit);
	CHECK("memory.rlimit_as", ({
		struct rlimit small = { 1024 * MIB, limit.rlim_max };
		int good;

		setrlimit(RLIMIT_AS, &small);
		good = mmap(NULL, 1025 * MIB, RW, ANON, -1, 0) == MAP_FAILED && errno == ENOMEM;
		setrlimit(RLIMIT_AS, &limit);
		good;
	}));

	put_file("/tmp/posix_memory", "contents of the file");
	fd = open("/tmp/posix_memory", O_RDWR);
	NEED(fd >= 0);
	p = mmap(NULL, 8192, RW, MAP_PRIVATE, fd, 0);
	q = mmap(NULL, 8192, RW, MAP_SHARED, fd, 0);
	NEED(p != MAP_FAILED && q != MAP_FAILED);
	CHECK("memory.file.contents", !strcmp(p, "contents of the file") && p[4000] == 0);
	memcpy(p, "C", 1);
	CHECK("memory.file.private", *q == 'c' && *file_text("/tmp/posix_memory") == 'c');
	memcpy(q + 12, "THE", 3);
	CHECK("memory.file.shared", msync(q, 4096, MS_SYNC) == 0 && !strcmp(file_text("/tmp/posix_memory"), "contents of THE file"));
	CHECK("memory.file.behind_end", READ_FAULTS(q + 4096) == BUS_ADRERR);
	CHECK("memory.file.longer", ftruncate(fd, 5000) == 0 && !READ_FAULTS(q + 4096) && q[4096] == 0);
	errno = 0;
	close(fd);
	fd = open("/tmp/posix_memory", O_RDONLY);
	CHECK("memory.file.read_only", mmap(NULL, 4096, RW, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
	close(fd);
	munmap(p, 8192);
	munmap(q, 8192);
	unlink("/tmp/posix_memory");
	free(malloc(10));
	CHECK("memory.maps.heap_and_stack", lines_of_maps("[heap]") == 1 && lines_of_maps("[stack]") == 1);
	p = no_pages(4096);
	mprotect(p, 4096, PROT_READ);
	snprintf(place, sizeof(place), "%lx-%lx r--p", (long)p, (long)p + 4096);
	found = lines_of_maps(place);
	EQUAL("memory.maps.new_one", found, 1);
	munmap(p, 4096);
	sigaction(SIGSEGV, &old_segv, NULL);
	sigaction(SIGBUS, &old_bus, NULL);
}

static int lines_between(const char *from, const char *to)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end;
	char line[300];
	int found = 0;

	while (maps && fgets(line, sizeof(line), maps))
		found += sscanf(line, "%lx-%lx", &start, &end) == 2 && start >= (unsigned long)from && end <= (unsigned long)to;
	if (maps)
		fclose(maps);
	return found;
}

static atomic_int phase;

static __thread sigjmp_buf own_back;

static void on_thread_fault(int sig)
{
	siglongjmp(own_back, sig);
}

/* Writes until another thread has taken the permission away, then says so. */
static void *write_until_refused(void *arg)
{
	volatile char *p = arg;

	phase = 1;
	if (!sigsetjmp(own_back, 1))
		for (;;)
			++*p;
	phase = 2;
	return NULL;
}

static void test_protections(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old;
	char *p = no_pages(8 * 4096), *heap;
	pthread_t thread;
	int fds[2];

	NEED(p != MAP_FAILED && pipe(fds) == 0);
	sigaction(SIGSEGV, &action, &old);
	errno = 0;
	CHECK("memory.mprotect.unaligned", mprotect(p + 1, 4096, PROT_READ) < 0 && errno == EINVAL && !WRITE_FAULTS(p));
	CHECK("memory.mprotect.nothing", mprotect(p, 0, PROT_NONE) == 0 && !WRITE_FAULTS(p));
	errno = 0;
	CHECK("memory.mprotect.bad_bits", mprotect(p, 4096, 0x4000) < 0 && errno == EINVAL);
	CHECK("memory.mprotect.write_only_reads", mprotect(p, 4096, PROT_WRITE) == 0 && !WRITE_FAULTS(p) && !READ_FAULTS(p));
	mprotect(p, 4096, RW);
	CHECK("memory.mprotect.splits", mprotect(p + 2 * 4096, 4096, PROT_READ) == 0 && lines_between(p, p + 8 * 4096) >= 2 &&
	      WRITE_FAULTS(p + 2 * 4096) == SEGV_ACCERR && !WRITE_FAULTS(p + 4096) && !WRITE_FAULTS(p + 3 * 4096));
	strcpy(p + 4096, "to read only");
	CHECK("memory.mprotect.system_calls", mprotect(p + 4096, 4096, PROT_READ) == 0 && write(fds[1], p + 4096, 13) == 13 &&
	      read(fds[0], p + 4096, 13) < 0 && errno == EFAULT && read(fds[0], p, 13) == 13 && !strcmp(p, "to read only"));
	heap = aligned_alloc(4096, 4096);
	NEED(heap);
	CHECK("memory.mprotect.heap", mprotect(heap, 4096, PROT_READ) == 0 && WRITE_FAULTS(heap + 8) == SEGV_ACCERR &&
	      mprotect(heap, 4096, RW) == 0 && !WRITE_FAULTS(heap + 8));
	free(heap);
	signal(SIGSEGV, on_thread_fault);
	phase = 0;
	NEED(pthread_create(&thread, NULL, write_until_refused, p) == 0);
	CHECK("memory.mprotect.other_threads", SOON(phase == 1) && mprotect(p, 4096, PROT_READ) == 0 && SOON(phase == 2) &&
	      pthread_join(thread, NULL) == 0);
	sigaction(SIGSEGV, &old, NULL);
	munmap(p, 8 * 4096);
	close(fds[0]);
	close(fds[1]);
}

static int seen_kept(void *arg)
{
	return !holds(arg, 4096, 'k');
}

static void test_advice(void)
{
	char *p = no_pages(8 * 4096), *shared = mmap(NULL, 8192, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { p, 4096 };
	unsigned char resident[8];
	int pidfd;

	NEED(p != MAP_FAILED && shared != MAP_FAILED);
	errno = 0;
	CHECK("memory.madvise.unaligned", madvise(p + 1, 4096, MADV_DONTNEED) < 0 && errno == EINVAL);
	memset(p, 'k', 4096);
	CHECK("memory.madvise.keeponfork", madvise(p, 4096, MADV_WIPEONFORK) == 0 && madvise(p, 4096, MADV_KEEPONFORK) == 0 &&
	      in_child(seen_kept, p) == 0);
	CHECK("memory.madvise.free", madvise(p, 4096, MADV_FREE) == 0 && (*p = 'w', 1) && *p == 'w' && (p[4095] == 'k' || !p[4095]));
	memset(shared, 's', 8192);
	CHECK("memory.madvise.remove", madvise(shared, 4096, MADV_REMOVE) == 0 && holds((void *)shared, 4096, 0) &&
	      holds((void *)(shared + 4096), 4096, 's'));
	CHECK("memory.madvise.dontneed_shared", madvise(shared + 4096, 4096, MADV_DONTNEED) == 0 && holds((void *)(shared + 4096), 4096, 's'));
	munmap(p + 4 * 4096, 4096);
	memset(p + 5 * 4096, 'u', 4096);
	errno = 0;
	CHECK("memory.madvise.over_a_hole", madvise(p + 3 * 4096, 3 * 4096, MADV_DONTNEED) < 0 && errno == ENOMEM && !p[5 * 4096]);
	CHECK("memory.madvise.posix", posix_madvise(p, 4096, POSIX_MADV_SEQUENTIAL) == 0 && posix_madvise(p, 4096, 77) == EINVAL);
	pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	*p = 'c';
	CHECK("memory.madvise.of_process", pidfd >= 0 && process_madvise(pidfd, &iov, 1, MADV_COLD, 0) == 4096 && *p == 'c' &&
	      mincore(p, 4096, resident) == 0 && resident[0] & 1);
	close(pidfd);
	munmap(p, 8 * 4096);
	munmap(shared, 8192);
}

/* --- shared memory --- */

static void test_shared(void)
{
	char *p, *q;
	int fd, id;

	p = mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(p != MAP_FAILED);
	CHECK("memory.shared.anonymous", in_child(child_writes, p) == 0 && !strcmp(p, "by the child"));
	munmap(p, 4096);
	p = no_pages(4096);
	CHECK("memory.shared.not_private", in_child(child_writes, p) == 0 && *p == 0);
	munmap(p, 4096);

	fd = shm_open("/posix_suite", O_RDWR | O_CREAT | O_EXCL, 0600);
	CHECK("memory.shm_open.create", fd >= 0 && ftruncate(fd, 8192) == 0);
	errno = 0;
	CHECK("memory.shm_open.exclusive", shm_open("/posix_suite", O_RDWR | O_CREAT | O_EXCL, 0600) < 0 && errno == EEXIST);
	p = mmap(NULL, 8192, RW, MAP_SHARED, fd, 0);
	q = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096);
	NEED(p != MAP_FAILED && q != MAP_FAILED);
	close(fd);
	CHECK("memory.shm_open.fork", in_child(child_writes, p + 4096) == 0 && !strcmp(q, "by the child"));
	CHECK("memory.shm_open.unlink", shm_unlink("/posix_suite") == 0 && shm_open("/posix_suite", O_RDWR, 0) < 0 &&
	      errno == ENOENT && !strcmp(p + 4096, "by the child"));
	munmap(p, 8192);
	munmap(q, 4096);

	fd = memfd_create("suite", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK("memory.memfd.write", fd >= 0 && write(fd, "sealed", 7) == 7);
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK("memory.memfd.map", p != MAP_FAILED && !strcmp(p, "sealed"));
	errno = 0;
	munmap(p, 4096);
	CHECK("memory.memfd.seal", fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0 && write(fd, "x", 1) < 0 &&
	      errno == EPERM && ftruncate(fd, 0) < 0);
	close(fd);

	id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
	p = shmat(id, NULL, 0);
	CHECK("memory.sysv.attach", id >= 0 && p != (char *)-1);
	CHECK("memory.sysv.fork", in_child(child_writes, p) == 0 && !strcmp(p, "by the child"));
	CHECK("memory.sysv.remove", shmctl(id, IPC_RMID, NULL) == 0 && shmdt(p) == 0);
}

int memory_suite(void)
{
	test_heap();
	test_mappings();
	test_protections();
	test_advice();
	test_shared();
	return check_failed;
}
