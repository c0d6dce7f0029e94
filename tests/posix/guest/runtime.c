// SPDX-License-Identifier: Apache-2.0
/* What happens around main, thread-local data, jumps, and what the program knows of itself. */
#include "posix.h"
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>

/* --- before main and after it --- */

static char before[16];
static unsigned int before_count;
static int before_env, before_arguments, before_library;
static __thread int before_tls = 1;
static pthread_t before_thread;
static int trace_fd = -1;

static void trace(char c)
{
	if (trace_fd >= 0 && write(trace_fd, &c, 1) != 1)
		_exit(96);
}

static void preinit(int argc, char **argv, char **envp)
{
	before[before_count++] = 'p';
	before_env = argc >= 1 && argv[argc] == NULL && envp == argv + argc + 1;
}

__attribute__((section(".preinit_array"), used))
static void (*preinit_entry)(int argc, char **argv, char **envp) = preinit;

static void *come_and_go(void *arg)
{
	return arg;
}

__attribute__((constructor)) static void construct_last(int argc, char **argv, char **envp)
{
	before[before_count++] = 'n';
	before_arguments = argc >= 1 && argv[0] && argv[argc] == NULL && envp == environ;
}

__attribute__((constructor(200))) static void construct_second(void)
{
	char *text = malloc(100);
	void *ret = NULL;

	before[before_count++] = '2';
	before_tls = 22;
	if (text && snprintf(text, 100, "%.2f %d", 0.25, 7) == 6 && !strcmp(text, "0.25 7"))
		before_library = 1;
	free(text);
	if (pthread_create(&before_thread, NULL, come_and_go, before) || pthread_join(before_thread, &ret) || ret != before)
		before_thread = 0;
}

__attribute__((constructor(101))) static void construct_first(void) { before[before_count++] = '1'; }

__attribute__((destructor)) static void destruct_first(void)
{
	trace('N');
	if (trace_fd >= 0)
		printf("s");		/* streams are flushed after all of these */
}

__attribute__((destructor(200))) static void destruct_second(void) { trace('2'); }
__attribute__((destructor(101))) static void destruct_last(void) { trace('1'); }

static void at_exit_a(void) { trace('a'); }
static void at_exit_late(void) { trace('l'); }
static void at_exit_b(void)
{
	trace('b');
	atexit(at_exit_late);	/* runs next */
}
static void on_exit_c(int status, void *arg) { trace(status == 9 ? *(char *)arg : '?'); }
static void at_quick(void) { trace('q'); }

static int end(void *arg)
{
	static char c = 'c';

	trace_fd = 1;
	atexit(at_exit_a);
	on_exit(on_exit_c, &c);
	atexit(at_exit_b);
	at_quick_exit(at_quick);
	switch (*(char *)arg) {
	case 'r':
		return 9;
	case 'q':
		quick_exit(9);
	case '_':
		_exit(9);
	case 'a':
		abort();
	case 'k':
		raise(SIGKILL);
	}
	return 0;
}

int runtime_child(const char *what)
{
	if (!strcmp(what, "order"))
		return end("r");
	if (!strcmp(what, "before")) {
		printf("%s", before);
		return 0;
	}
	return 2;
}

static int exec_order(void *arg)
{
	execl("/proc/self/exe", "posix", "child", arg, (char *)NULL);
	return 99;
}

static int many_atexit(void *arg)
{
	trace_fd = 1;
	for (int i = 0; i < 1000; i++)
		if (atexit(at_exit_a))
			return 1;
	return arg != NULL;
}

/* Only what the program has of itself. */
static int plain_end(void *arg)
{
	trace_fd = 1;
	return arg != NULL;
}

static void *exit_now(void *arg)
{
	exit(*(int *)arg);
}

static int end_by_thread(void *arg)
{
	pthread_t thread;

	trace_fd = 1;
	if (!pthread_create(&thread, NULL, exit_now, arg))
		pthread_join(thread, NULL);
	return 1;
}

static int end_by_last_thread(void *arg)
{
	pthread_t thread;

	trace_fd = 1;
	if (pthread_create(&thread, NULL, come_and_go, arg))
		return 1;
	pthread_exit(NULL);
}

static void exit_again(void)
{
	trace('e');
	exit(12);
}

static int end_twice(void *arg)
{
	trace_fd = 1;
	atexit(at_exit_a);
	atexit(exit_again);
	return arg ? 3 : 4;
}

static int inherit(void *arg)
{
	trace_fd = 1;
	atexit(at_exit_a);
	if (fork() == 0)
		exit(0);
	wait(NULL);
	trace('|');
	return arg != NULL;
}

static int forget(void *arg)
{
	trace_fd = 1;
	atexit(at_exit_a);
	return exec_order(arg);
}

static int same_before(void *arg)
{
	return strcmp(before, arg) || before_tls != 22;
}

static void test_start(void)
{
	int status, code = 14;

	TEXT("runtime.constructors.order", before, "p12n");
	CHECK("runtime.constructors.preinit_arguments", before_env);
	CHECK("runtime.constructors.arguments", before_arguments);
	CHECK("runtime.constructors.library", before_library);
	CHECK("runtime.constructors.thread", before_thread);
	EQUAL("runtime.constructors.thread_local", before_tls, 22);
	EQUAL("runtime.constructors.not_by_fork", in_child(same_before, "p12n"), 0);
	TEXT("runtime.constructors.after_exec", output_of(exec_order, "runtime.before", &status), "p12n");

	TEXT("runtime.destructors.order", output_of(plain_end, NULL, &status), "N21s");
	EQUAL("runtime.destructors.code", status, 0);
	TEXT("runtime.destructors.by_thread", output_of(end_by_thread, &code, &status), "N21s");
	EQUAL("runtime.destructors.by_thread_code", status, 14 << 8);
	TEXT("runtime.destructors.after_last_thread", output_of(end_by_last_thread, NULL, &status), "N21s");
	EQUAL("runtime.destructors.after_last_thread_code", status, 0);
	TEXT("runtime.destructors.not_by_signal", output_of(end, "k", &status), "");
	CHECK("runtime.destructors.signal", killed(status, SIGKILL));

	TEXT("runtime.atexit.order", output_of(end, "r", &status), "blcaN21s");
	EQUAL("runtime.atexit.code", status, 9 << 8);
	TEXT("runtime.atexit.quick_exit", output_of(end, "q", &status), "q");
	EQUAL("runtime.atexit.quick_exit_code", status, 9 << 8);
	TEXT("runtime.atexit.not_by__exit", output_of(end, "_", &status), "");
	TEXT("runtime.atexit.not_by_abort", output_of(end, "a", &status), "");
	CHECK("runtime.atexit.abort_status", killed(status, SIGABRT));
	TEXT("runtime.atexit.after_exec", output_of(exec_order, "runtime.order", &status), "blcaN21s");
	EQUAL("runtime.atexit.after_exec_code", status, 9 << 8);
	EQUAL("runtime.atexit.thousand", strspn(output_of(many_atexit, NULL, NULL), "a"), 1000);
	TEXT("runtime.atexit.exit_inside", output_of(end_twice, NULL, &status), "eaN21s");
	EQUAL("runtime.atexit.exit_inside_code", status, 12 << 8);
	TEXT("runtime.atexit.inherited_by_fork", output_of(inherit, NULL, NULL), "aN21s|aN21s");
	TEXT("runtime.atexit.forgotten_by_exec", output_of(forget, "runtime.before", NULL), "p12n");
}

/* --- thread-local data --- */

static __thread int tls_data = 42;
static __thread int tls_zero;
static __thread char tls_aligned[64] __attribute__((aligned(64))) = "aligned";
static __thread char tls_large[3000];
static __thread int *tls_pointer = &before_env;
__thread int tls_global __attribute__((tls_model("initial-exec"))) = 7;

struct tls_view {
	int good, number;
	void *addresses[3];
};

static int tls_fresh(void)
{
	for (unsigned int i = 0; i < sizeof(tls_large); i++)
		if (tls_large[i])
			return 0;
	return tls_data == 42 && tls_zero == 0 && tls_global == 7 && tls_pointer == &before_env &&
	       !strcmp(tls_aligned, "aligned") && (uintptr_t)tls_aligned % 64 == 0;
}

static void *tls_thread(void *arg)
{
	struct tls_view *view = arg;

	view->good = tls_fresh();
	tls_data = tls_zero = tls_global = view->number;
	memset(tls_large, view->number, sizeof(tls_large));
	strcpy(tls_aligned, "mine");
	errno = view->number;
	view->addresses[0] = &tls_data;
	view->addresses[1] = tls_aligned;
	view->addresses[2] = &errno;
	for (int i = 0; i < 20; i++)
		sched_yield();
	view->good = view->good && tls_data == view->number && tls_zero == view->number &&
		     tls_global == view->number && tls_large[2999] == (char)view->number &&
		     errno == view->number && !strcmp(tls_aligned, "mine");
	return NULL;
}

static int tls_in_child(void *arg)
{
	(void)arg;
	return !(tls_data == 43 && tls_zero == 44 && tls_global == 7);
}

static volatile sig_atomic_t handler_saw;

static void tls_handler(int sig)
{
	(void)sig;
	handler_saw = tls_data;
	errno = EXDEV;
}

static void test_tls(void)
{
	struct tls_view views[8] = { 0 };
	pthread_t threads[8];
	int good = 1, different = 1, aligned = 1;

	CHECK("runtime.tls.main", tls_fresh());
	CHECK("runtime.tls.initialised", tls_data == 42);
	CHECK("runtime.tls.zero", tls_zero == 0);
	CHECK("runtime.tls.alignment", (uintptr_t)tls_aligned % 64 == 0);
	tls_data = 43;
	tls_zero = 44;
	errno = EPERM;
	for (int i = 0; i < 8; i++) {
		views[i].number = i + 1;
		NEED(pthread_create(&threads[i], NULL, tls_thread, &views[i]) == 0);
	}
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	CHECK("runtime.errno.not_by_threads", errno == EPERM);
	for (int i = 0; i < 8; i++) {
		good &= views[i].good;
		aligned &= (uintptr_t)views[i].addresses[1] % 64 == 0;
		different &= views[i].addresses[0] != &tls_data && views[i].addresses[2] != &errno &&
			     views[i].addresses[1] != tls_aligned;
	}
	CHECK("runtime.tls.threads", good);
	CHECK("runtime.tls.threads_alignment", aligned);
	CHECK("runtime.tls.own_places", different);
	CHECK("runtime.tls.main_kept", tls_data == 43 && tls_zero == 44 && !strcmp(tls_aligned, "aligned"));
	EQUAL("runtime.tls.fork", in_child(tls_in_child, NULL), 0);
	signal(SIGUSR1, tls_handler);
	errno = 0;
	raise(SIGUSR1);
	CHECK("runtime.errno.set_by_handler", handler_saw == 43 && errno == EXDEV);
	signal(SIGUSR1, SIG_DFL);
}

/* --- errno --- */

static int errno_of_child(void *arg)
{
	return errno != *(int *)arg || close(-1) == 0 || errno != EBADF;
}

static void *errno_of_thread(void *arg)
{
	return errno == 0 ? arg : NULL;
}

static int complain(void *arg)
{
	dup2(1, 2);
	errno = ENOENT;
	perror(arg);
	return 0;
}

static int too_many_arguments(void)
{
	static char large[200000];
	char *const argv[] = { "posix", large, NULL };

	memset(large, 'x', sizeof(large) - 1);
	return execve("/proc/self/exe", argv, environ);
}

static int no_more_descriptors(void)
{
	struct rlimit limit, small;
	int ret;

	getrlimit(RLIMIT_NOFILE, &limit);
	small = (struct rlimit){ 3, limit.rlim_max };
	setrlimit(RLIMIT_NOFILE, &small);
	ret = dup(1);
	setrlimit(RLIMIT_NOFILE, &limit);
	return ret;
}

static int long_name(void)
{
	static char path[5000];

	memset(path, 'n', sizeof(path) - 1);
	return open(path, O_RDONLY);
}

static int loop(void)
{
	NEED(symlink("posix_loop", "/tmp/posix_loop") == 0);
	return open("/tmp/posix_loop", O_RDONLY);
}

#define FAILS(name, call, number) do {						\
	errno = 0;								\
	CHECK("runtime.errno." name, (call) == -1 && errno == (number));	\
} while (0)

static void test_errno(void)
{
	pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
	int here, null = open("/dev/null", O_RDWR);
	struct termios termios;
	pthread_t thread;
	void *ret;

	FAILS("system_call", close(-1), EBADF);
	FAILS("enosys", syscall(9999), ENOSYS);
	FAILS("enotdir", open("/proc/self/exe/x", O_RDONLY), ENOTDIR);
	FAILS("eisdir", open("/tmp", O_WRONLY), EISDIR);
	FAILS("eexist", mkdir("/tmp", 0755), EEXIST);
	FAILS("enotty", tcgetattr(null, &termios), ENOTTY);
	FAILS("exdev", rename("/proc/self/exe", "/tmp/posix_exe"), EXDEV);
	FAILS("efault", open((char *)16, O_RDONLY), EFAULT);
	FAILS("e2big", too_many_arguments(), E2BIG);
	FAILS("emfile", no_more_descriptors(), EMFILE);
	FAILS("enametoolong", long_name(), ENAMETOOLONG);
	FAILS("eloop", loop(), ELOOP);
	unlink("/tmp/posix_loop");
	/* A pointer that is an error, and no number that only looks like one. */
	errno = 0;
	CHECK("runtime.errno.enodev", mmap(NULL, 4096, PROT_READ, MAP_SHARED, null, 0) == MAP_FAILED && errno == ENODEV);
	setpriority(PRIO_PROCESS, 0, -1);
	errno = 0;
	CHECK("runtime.errno.negative_result", getpriority(PRIO_PROCESS, 0) == -1 && errno == 0);
	setpriority(PRIO_PROCESS, 0, 0);
	errno = EIO;
	CHECK("runtime.errno.kept_by_success", getppid() > 0 && errno == EIO);
	errno = 0;
	CHECK("runtime.errno.library", strtol("", NULL, 99) == 0 && errno == EINVAL);
	here = errno = EMLINK;
	EQUAL("runtime.errno.of_fork", in_child(errno_of_child, &here), 0);
	errno = EXFULL;
	CHECK("runtime.errno.not_by_pthread", pthread_mutex_unlock(&mutex) == EPERM && errno == EXFULL);
	NEED(pthread_create(&thread, NULL, errno_of_thread, &here) == 0);
	CHECK("runtime.errno.zero_in_thread", pthread_join(thread, &ret) == 0 && ret == &here);
	TEXT("runtime.errno.perror", output_of(complain, "a name", NULL), "a name: No such file or directory\n");
	close(null);
}

/* --- jumps --- */

__attribute__((used)) static jmp_buf jump;
static sigjmp_buf signal_jump;

static __attribute__((noinline, noreturn)) void jump_from(int depth, int value)
{
	volatile char frame[500];

	frame[0] = depth;
	if (depth)
		jump_from(depth - 1, value);
	longjmp(jump, value + frame[0]);
}

static void jump_handler(int sig)
{
	siglongjmp(signal_jump, sig);
}

static int jump_from_comparison(const void *a, const void *b)
{
	if (*(const int *)a == 3 || *(const int *)b == 3)
		longjmp(jump, 33);
	return *(const int *)a - *(const int *)b;
}

/* Registers that a function must preserve, changed between setjmp and longjmp. */
void registers_after_jump(unsigned long got[7]);
asm(".text\n"
    ".type registers_after_jump, @function\n"
    "registers_after_jump:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	push %rdi\n"
    "	mov $10, %ebx\n"
    "	mov $11, %ebp\n"
    "	mov $12, %r12d\n"
    "	mov $13, %r13d\n"
    "	mov $14, %r14d\n"
    "	mov $15, %r15d\n"
    "	lea jump(%rip), %rdi\n"
    "	call _setjmp\n"
    "	test %eax, %eax\n"
    "	jnz 1f\n"
    "	xor %ebx, %ebx\n"
    "	xor %ebp, %ebp\n"
    "	xor %r12d, %r12d\n"
    "	xor %r13d, %r13d\n"
    "	xor %r14d, %r14d\n"
    "	xor %r15d, %r15d\n"
    "	lea jump(%rip), %rdi\n"
    "	mov $5, %esi\n"
    "	call longjmp\n"
    "1:	pop %rdi\n"
    "	mov %rbx, (%rdi)\n"
    "	mov %rbp, 8(%rdi)\n"
    "	mov %r12, 16(%rdi)\n"
    "	mov %r13, 24(%rdi)\n"
    "	mov %r14, 32(%rdi)\n"
    "	mov %r15, 40(%rdi)\n"
    "	mov %eax, 48(%rdi)\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n"
    ".size registers_after_jump, . - registers_after_jump");

static void *jump_in_thread(void *volatile arg)
{
	volatile int rounds = 0;
	jmp_buf own;

	while (rounds < 500) {
		int value = setjmp(own);

		if (value && value != rounds)
			return NULL;
		if (!value) {
			rounds++;
			longjmp(own, rounds);
		}
	}
	return arg;
}

static void test_jumps(void)
{
	volatile int rounds = 0, value;
	int numbers[8] = { 7, 1, 6, 2, 5, 3, 4, 0 };
	unsigned long got[7] = { 0 };
	volatile double real = 1.5;
	pthread_t threads[4];
	sigset_t set;
	void *ret;

	value = setjmp(jump);
	if (!value)
		jump_from(20, 17);
	EQUAL("runtime.setjmp.value", value, 17);
	value = setjmp(jump);
	if (!value)
		jump_from(0, 0);
	EQUAL("runtime.setjmp.zero_becomes_one", value, 1);
	if (setjmp(jump) < 1000) {
		real += 1;
		jump_from(3, ++rounds);
	}
	CHECK("runtime.setjmp.thousand", rounds == 1000 && real == 1001.5);

	signal(SIGUSR1, jump_handler);
	value = sigsetjmp(signal_jump, 1);
	if (!value)
		raise(SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("runtime.setjmp.signal.mask_restored", value == SIGUSR1 && !sigismember(&set, SIGUSR1));
	value = sigsetjmp(signal_jump, 0);
	if (!value)
		raise(SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("runtime.setjmp.signal.mask_left", value == SIGUSR1 && sigismember(&set, SIGUSR1));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	for (rounds = 0; rounds < 500; rounds++)
		if (!sigsetjmp(signal_jump, 1))
			kill(getpid(), SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("runtime.setjmp.signal.many", rounds == 500 && !sigismember(&set, SIGUSR1));
	signal(SIGUSR1, SIG_DFL);
	value = _setjmp(jump);
	if (!value)
		longjmp(jump, INT_MIN);
	CHECK("runtime.setjmp.int_min", value == INT_MIN);
	value = setjmp(jump);
	if (!value)
		qsort(numbers, ELEMENTS(numbers), sizeof(*numbers), jump_from_comparison);
	EQUAL("runtime.setjmp.out_of_library", value, 33);
	registers_after_jump(got);
	for (int i = 0; i < 6; i++)
		got[6] += got[i] == 10UL + i ? 0 : 100;
	EQUAL("runtime.setjmp.registers", got[6], 5);
	for (int i = 0; i < 4; i++)
		NEED(pthread_create(&threads[i], NULL, jump_in_thread, &set) == 0);
	for (int i = rounds = 0; i < 4; i++) {
		pthread_join(threads[i], &ret);
		rounds += ret == &set;
	}
	EQUAL("runtime.setjmp.threads", rounds, 4);
}

/* --- what a program knows of itself --- */

struct phdrs {
	int calls, loads, tls, holds_data, holds_code, frames, stack, named, counted, of_auxv;
};

static int count_phdrs(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct phdrs *found = arg;

	found->calls++;
	if (size < offsetof(struct dl_phdr_info, dlpi_tls_data))
		return -1;
	found->named = info->dlpi_name && !*info->dlpi_name;
	found->counted = info->dlpi_adds >= 1 && info->dlpi_subs == 0;
	found->of_auxv = (uintptr_t)info->dlpi_phdr == getauxval(AT_PHDR) && info->dlpi_phnum == getauxval(AT_PHNUM) &&
			 getauxval(AT_PHENT) == sizeof(ElfW(Phdr));
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + phdr->p_vaddr;

		found->tls += phdr->p_type == PT_TLS && phdr->p_memsz >= sizeof(tls_large) && phdr->p_align >= 64;
		if (phdr->p_type == PT_GNU_EH_FRAME)	/* version, and how the three tables are encoded */
			found->frames += !memcmp((void *)start, "\1\x1b\3\x3b", 4);
		found->stack += phdr->p_type == PT_GNU_STACK && !(phdr->p_flags & PF_X);
		if (phdr->p_type != PT_LOAD)
			continue;
		found->loads++;
		found->holds_data += (uintptr_t)before - start < phdr->p_memsz;
		found->holds_code += (uintptr_t)count_phdrs - start < phdr->p_memsz && phdr->p_flags & PF_X;
	}
	return 55;
}

static int all_phdrs(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	/* The vDSO is no part of the program, and in ring 0 there is none. */
	*(int *)arg += !getauxval(AT_SYSINFO_EHDR) || info->dlpi_addr != getauxval(AT_SYSINFO_EHDR);
	return info->dlpi_phnum > 0 ? 0 : 1;
}

static void *phdrs_in_thread(void *arg)
{
	int calls = 0;

	for (int i = 0; i < 200; i++)
		if (dl_iterate_phdr(all_phdrs, &calls))
			return NULL;
	return calls == 200 ? arg : NULL;
}

static void test_phdrs(void)
{
	struct phdrs found = { 0 };
	pthread_t threads[2];
	int calls = 0;
	void *ret[2];

	EQUAL("runtime.dl_iterate_phdr.result", dl_iterate_phdr(count_phdrs, &found), 55);
	EQUAL("runtime.dl_iterate_phdr.objects", found.calls, 1);
	CHECK("runtime.dl_iterate_phdr.loads", found.loads >= 1);
	EQUAL("runtime.dl_iterate_phdr.tls", found.tls, 1);
	EQUAL("runtime.dl_iterate_phdr.data", found.holds_data, 1);
	EQUAL("runtime.dl_iterate_phdr.code", found.holds_code, 1);
	EQUAL("runtime.dl_iterate_phdr.unwind_table", found.frames, 1);
	EQUAL("runtime.dl_iterate_phdr.stack", found.stack, 1);
	CHECK("runtime.dl_iterate_phdr.name", found.named);
	CHECK("runtime.dl_iterate_phdr.counts", found.counted);
	CHECK("runtime.dl_iterate_phdr.auxv", found.of_auxv);
	CHECK("runtime.dl_iterate_phdr.all", dl_iterate_phdr(all_phdrs, &calls) == 0 && calls == 1);
	for (int i = 0; i < 2; i++)
		NEED(pthread_create(&threads[i], NULL, phdrs_in_thread, &found) == 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &ret[i]);
	CHECK("runtime.dl_iterate_phdr.threads", ret[0] == &found && ret[1] == &found);
}

/* --- shared objects, which a static program in ring 0 cannot load: limits.c has what then is --- */

static int open_descriptors(void)
{
	int found = 0;

	for (int fd = 0; fd < 200; fd++)
		found += fcntl(fd, F_GETFD) >= 0;
	return found;
}

static void *fail_in_thread(void *arg)
{
	/* The error is the thread's own. */
	if (dlerror() || dlopen("/no/such/thread.so", RTLD_NOW))
		return NULL;
	return strstr(dlerror(), "thread.so") ? arg : NULL;
}

static void test_dlopen(void)
{
	int before = open_descriptors(), bad = 0;
	const char *error;
	pthread_t thread;
	void *handle, *ret;

	dlerror();
	handle = dlopen("/no/such/object.so", RTLD_NOW);
	error = dlerror();
	CHECK("runtime.dlopen.missing", !handle && error && strstr(error, "/no/such/object.so"));
	CHECK("runtime.dlopen.dlerror_once", dlerror() == NULL);
	put_file("/tmp/posix_not_elf.so", "this is not an object, although it is a file");
	handle = dlopen("/tmp/posix_not_elf.so", RTLD_LAZY);
	error = dlerror();
	CHECK("runtime.dlopen.not_elf", !handle && error && strstr(error, "posix_not_elf.so"));
	unlink("/tmp/posix_not_elf.so");
	CHECK("runtime.dlopen.no_library", !dlopen("libnothing-at-all.so.6", RTLD_NOW) && dlerror());
	for (int i = 0; i < 100; i++) {
		bad += dlopen("/no/such/object.so", RTLD_LAZY) != NULL;
		bad += dlopen("/etc", RTLD_LAZY) != NULL;
	}
	CHECK("runtime.dlopen.leaves_no_descriptor", !bad && open_descriptors() == before);
	dlerror();
	handle = dlopen("/no/such/object.so", RTLD_NOW);
	NEED(pthread_create(&thread, NULL, fail_in_thread, &bad) == 0);
	CHECK("runtime.dlopen.error_of_thread", pthread_join(thread, &ret) == 0 && ret == &bad);
	error = dlerror();
	CHECK("runtime.dlopen.error_of_main", !handle && error && strstr(error, "object.so"));
	errno = 0;
	CHECK("runtime.dlopen.no_flags", dlopen("/no/such/object.so", 0) == NULL && strstr(dlerror(), "invalid mode"));
	CHECK("runtime.dlopen.bad_handle", dlsym(RTLD_NEXT, "main") == NULL && dlerror());
	CHECK("runtime.dlopen.no_symbol", dlsym(RTLD_DEFAULT, "no_such_symbol_anywhere") == NULL && dlerror());
}

static void test_self(void)
{
	char path[100] = "";
	int status;

	CHECK("runtime.auxv.page", getauxval(AT_PAGESZ) == 4096 && sysconf(_SC_PAGESIZE) == 4096 && getpagesize() == 4096);
	CHECK("runtime.auxv.random", getauxval(AT_RANDOM) != 0 && *(uint64_t *)getauxval(AT_RANDOM) != 0);
	TEXT("runtime.auxv.execfn", (char *)getauxval(AT_EXECFN), program_invocation_name);
	CHECK("runtime.auxv.ids", getauxval(AT_UID) == getuid() && getauxval(AT_SECURE) == 0);
	CHECK("runtime.auxv.minimal_signal_stack", getauxval(AT_MINSIGSTKSZ) >= 2048 && sysconf(_SC_MINSIGSTKSZ) >= 2048);
	CHECK("runtime.self.exe", readlink("/proc/self/exe", path, sizeof(path) - 1) > 0 &&
	      !strcmp(path, program_invocation_name));
	CHECK("runtime.self.processors", sysconf(_SC_NPROCESSORS_ONLN) >= 1 && get_nprocs_conf() >= 1);
	setenv("POSIX_SUITE", "set", 1);
	TEXT("runtime.self.environment", getenv("POSIX_SUITE"), "set");
	unsetenv("POSIX_SUITE");
	CHECK("runtime.self.environment_unset", !getenv("POSIX_SUITE"));
	status = in_child(exec_order, "nothing");
	CHECK("runtime.self.exec_arguments", exited(status, 2));
}

int runtime_suite(void)
{
	test_start();
	test_tls();
	test_errno();
	test_jumps();
	test_phdrs();
	test_dlopen();
	test_self();
	return check_failed;
}
