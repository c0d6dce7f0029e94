// SPDX-License-Identifier: Apache-2.0
/* What happens around main, thread-local data, jumps, and what the program knows of itself. */
#include "libc.h"
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
#include <sys/sysinfo.h>
#include <sys/wait.h>

#define OBJECT "/tests/libc_object.so"

/* --- before main and after it --- */

static char before[16];
static unsigned int before_count;
static int before_env;
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

__attribute__((constructor)) static void construct_last(void) { before[before_count++] = 'n'; }
__attribute__((constructor(200))) static void construct_second(void) { before[before_count++] = '2'; }
__attribute__((constructor(101))) static void construct_first(void) { before[before_count++] = '1'; }
__attribute__((destructor)) static void destruct_first(void) { trace('N'); }
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
	}
	return 0;
}

int runtime_child(const char *what)
{
	if (!strcmp(what, "order"))
		return end("r");
	return 2;
}

static int exec_order(void *arg)
{
	execl("/proc/self/exe", "libc", "child", arg, (char *)NULL);
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

static void test_start(void)
{
	int status;

	TEXT("runtime.start.constructors", before, "p12n");
	CHECK("runtime.start.preinit_arguments", before_env);
	TEXT("runtime.end.return", output_of(end, "r", &status), "blcaN21");
	EQUAL("runtime.end.return_code", WEXITSTATUS(status), 9);
	TEXT("runtime.end.quick_exit", output_of(end, "q", &status), "q");
	EQUAL("runtime.end.quick_exit_code", WEXITSTATUS(status), 9);
	TEXT("runtime.end._exit", output_of(end, "_", &status), "");
	TEXT("runtime.end.abort", output_of(end, "a", &status), "");
	CHECK("runtime.end.abort_status", killed(status, SIGABRT));
	TEXT("runtime.end.after_exec", output_of(exec_order, "runtime.order", &status), "blcaN21");
	EQUAL("runtime.end.after_exec_code", WEXITSTATUS(status), 9);
	EQUAL("runtime.end.thousand_atexit", strspn(output_of(many_atexit, NULL, NULL), "a"), 1000);
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
	errno = 0;
	CHECK("runtime.errno.system_call", close(-1) == -1 && errno == EBADF);
	errno = EIO;
	CHECK("runtime.errno.kept_by_success", getppid() > 0 && errno == EIO);
	errno = 0;
	CHECK("runtime.errno.library", strtol("", NULL, 99) == 0 && errno == EINVAL);
}

/* --- jumps --- */

static jmp_buf jump;
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

static void test_jumps(void)
{
	volatile int rounds = 0, value;
	volatile double real = 1.5;
	sigset_t set;

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
	CHECK("runtime.sigsetjmp.mask_restored", value == SIGUSR1 && !sigismember(&set, SIGUSR1));
	value = sigsetjmp(signal_jump, 0);
	if (!value)
		raise(SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("runtime.sigsetjmp.mask_left", value == SIGUSR1 && sigismember(&set, SIGUSR1));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	for (rounds = 0; rounds < 500; rounds++)
		if (!sigsetjmp(signal_jump, 1))
			kill(getpid(), SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	CHECK("runtime.sigsetjmp.many", rounds == 500 && !sigismember(&set, SIGUSR1));
	signal(SIGUSR1, SIG_DFL);
	value = _setjmp(jump);
	if (!value)
		longjmp(jump, INT_MIN);
	CHECK("runtime.setjmp.int_min", value == INT_MIN);
}

/* --- what a program knows of itself --- */

struct phdrs {
	int calls, loads, tls, holds_data, holds_code;
};

static int count_phdrs(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct phdrs *found = arg;

	found->calls++;
	if (size < offsetof(struct dl_phdr_info, dlpi_tls_data))
		return -1;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *phdr = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + phdr->p_vaddr;

		found->tls += phdr->p_type == PT_TLS && phdr->p_memsz >= sizeof(tls_large) && phdr->p_align >= 64;
		if (phdr->p_type != PT_LOAD)
			continue;
		found->loads++;
		found->holds_data += (uintptr_t)before - start < phdr->p_memsz;
		found->holds_code += (uintptr_t)count_phdrs - start < phdr->p_memsz && phdr->p_flags & PF_X;
	}
	return 55;
}

static void test_self(void)
{
	struct phdrs found = { 0 };
	char path[100] = "";
	void *handle;
	int status, (*function)(int);
	const char *error;

	EQUAL("runtime.dl_iterate_phdr.result", dl_iterate_phdr(count_phdrs, &found), 55);
	EQUAL("runtime.dl_iterate_phdr.objects", found.calls, 1);
	CHECK("runtime.dl_iterate_phdr.loads", found.loads >= 1);
	EQUAL("runtime.dl_iterate_phdr.tls", found.tls, 1);
	EQUAL("runtime.dl_iterate_phdr.data", found.holds_data, 1);
	EQUAL("runtime.dl_iterate_phdr.code", found.holds_code, 1);

	dlerror();
	handle = dlopen("/no/such/object.so", RTLD_NOW);
	error = dlerror();
	CHECK("runtime.dlopen.missing", !handle && error && strstr(error, "/no/such/object.so"));
	CHECK("runtime.dlopen.dlerror_once", dlerror() == NULL);
	put_file("/tmp/libc_not_elf.so", "this is not an object, although it is a file");
	handle = dlopen("/tmp/libc_not_elf.so", RTLD_LAZY);
	error = dlerror();
	CHECK("runtime.dlopen.not_elf", !handle && error && strstr(error, "libc_not_elf.so"));
	unlink("/tmp/libc_not_elf.so");
	CHECK("runtime.dlopen.no_library", !dlopen("libnothing-at-all.so.6", RTLD_NOW) && dlerror());
	CHECK("runtime.dlopen.is_there", access(OBJECT, R_OK) == 0);
	/* The expected difference: code cannot be mapped in ring 0, and the program goes on. */
	handle = dlopen(OBJECT, RTLD_NOW);
	error = dlerror();
	if (ring()) {
		function = handle ? (int (*)(int))dlsym(handle, "libc_object_double") : NULL;
		check(function && function(21) == 42, "runtime.dlopen.object", "%s", error ? error : "wrong");
	} else {
		check(!handle && error && strstr(error, OBJECT), "runtime.dlopen.object", "%p %s", handle,
		      error ? error : "no error");
	}
	CHECK("runtime.dlsym.missing", dlsym(RTLD_DEFAULT, "no_such_symbol_anywhere") == NULL && dlerror());

	CHECK("runtime.auxv.page", getauxval(AT_PAGESZ) == 4096 && sysconf(_SC_PAGESIZE) == 4096 && getpagesize() == 4096);
	CHECK("runtime.auxv.random", getauxval(AT_RANDOM) != 0 && *(uint64_t *)getauxval(AT_RANDOM) != 0);
	TEXT("runtime.auxv.execfn", (char *)getauxval(AT_EXECFN), program_invocation_name);
	CHECK("runtime.auxv.ids", getauxval(AT_UID) == getuid() && getauxval(AT_SECURE) == 0);
	CHECK("runtime.auxv.minimal_signal_stack", getauxval(AT_MINSIGSTKSZ) >= 2048 && sysconf(_SC_MINSIGSTKSZ) >= 2048);
	CHECK("runtime.self.exe", readlink("/proc/self/exe", path, sizeof(path) - 1) > 0 &&
	      !strcmp(path, program_invocation_name));
	CHECK("runtime.self.processors", sysconf(_SC_NPROCESSORS_ONLN) >= 1 && get_nprocs_conf() >= 1);
	setenv("LIBC_SUITE", "set", 1);
	TEXT("runtime.self.environment", getenv("LIBC_SUITE"), "set");
	unsetenv("LIBC_SUITE");
	CHECK("runtime.self.environment_unset", !getenv("LIBC_SUITE"));
	status = in_child(exec_order, "nothing");
	CHECK("runtime.self.exec_arguments", exited(status, 2));
}

int runtime_suite(void)
{
	test_start();
	test_tls();
	test_jumps();
	test_self();
	return check_failed;
}
