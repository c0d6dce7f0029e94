// SPDX-License-Identifier: Apache-2.0
/*
 * What cannot work in ring 0: the list of README.  It fails there as README says, and the program
 * goes on; in ring 3 it works, so that a check which tests nothing is noticed.
 */
#include "posix.h"
#include <asm/prctl.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#define OBJECT "/tests/object.so"
#define PAGE 4096
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

/* What works in ring 3, and fails with an error in ring 0. */
#define WORKS_OR_FAILS(name, works, error) do {					\
	errno = 0;								\
	CHECK(name, ring() ? (works) : !(works) && errno == (error));		\
} while (0)

/* mov $42, %eax; ret */
static const unsigned char forty_two[] = { 0xb8, 42, 0, 0, 0, 0xc3 };

static int runs(void *p)
{
	return ((int (*)(void))p)() == 42;
}

static void test_executable(void)
{
	char *p = mmap(NULL, PAGE, RW, ANON, -1, 0), *q;
	int fd = open("/proc/self/exe", O_RDONLY), memory = memfd_create("code", 0), id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0700);

	NEED(p != MAP_FAILED && fd >= 0 && memory >= 0 && id >= 0);
	memcpy(p, forty_two, sizeof(forty_two));
	NEED(write(memory, forty_two, sizeof(forty_two)) == sizeof(forty_two));
	WORKS_OR_FAILS("limits.executable.mprotect", mprotect(p, PAGE, PROT_READ | PROT_EXEC) == 0 && runs(p), EACCES);
	CHECK("limits.executable.contents", !memcmp(p, forty_two, sizeof(forty_two)));
	WORKS_OR_FAILS("limits.executable.pkey_mprotect", pkey_mprotect(p, PAGE, PROT_READ | PROT_EXEC, -1) == 0 && runs(p), EACCES);
	WORKS_OR_FAILS("limits.executable.anonymous", (q = mmap(NULL, PAGE, RW | PROT_EXEC, ANON, -1, 0)) != MAP_FAILED &&
		       memcpy(q, forty_two, sizeof(forty_two)) && runs(q), EACCES);
	WORKS_OR_FAILS("limits.executable.file", mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) != MAP_FAILED, EACCES);
	WORKS_OR_FAILS("limits.executable.shared", (q = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, memory, 0)) != MAP_FAILED && runs(q),
		       EACCES);
	WORKS_OR_FAILS("limits.executable.sysv", shmat(id, NULL, SHM_EXEC) != (void *)-1, EACCES);
	WORKS_OR_FAILS("limits.executable.at_address", mmap(p, PAGE, RW | PROT_EXEC, ANON | MAP_FIXED, -1, 0) == p, EACCES);
	shmctl(id, IPC_RMID, NULL);
	close(fd);
	close(memory);
}

static void test_objects(void)
{
	int (*function)(int) = NULL;
	const char *error;
	void *handle;

	CHECK("limits.dlopen.is_there", access(OBJECT, R_OK) == 0);
	handle = dlopen(OBJECT, RTLD_NOW);
	error = dlerror();
	if (handle)
		function = (int (*)(int))dlsym(handle, "object_double");
	CHECK("limits.dlopen.object", ring() ? function && function(21) == 42 : !handle && error && strstr(error, OBJECT));
	CHECK("limits.dlopen.error_once", dlerror() == NULL);
	for (int i = 0; i < 50; i++)
		handle = dlopen(OBJECT, RTLD_LAZY);
	CHECK("limits.dlopen.again", ring() ? handle != NULL : !handle && strstr(dlerror(), OBJECT));
}

/* Where %gs leads. */
static unsigned long at_gs(void)
{
	unsigned long value;

	asm volatile("mov %%gs:0, %0" : "=r"(value));
	return value;
}

static void test_gs(void)
{
	unsigned long *own = mmap(NULL, PAGE, RW, ANON, -1, 0), got = 0;

	NEED(own != MAP_FAILED);
	*own = 0x5e1f0123;
	CHECK("limits.gs.set", syscall(SYS_arch_prctl, ARCH_SET_GS, own) == 0);
	CHECK("limits.gs.get", syscall(SYS_arch_prctl, ARCH_GET_GS, &got) == 0 && got == (unsigned long)own);
	nap(5);		/* others run in between */
	CHECK("limits.gs.leads_elsewhere", ring() ? at_gs() == *own : at_gs() != *own);
	CHECK("limits.gs.back", syscall(SYS_arch_prctl, ARCH_SET_GS, 0) == 0);
}

/* The beginning of a program for 32 bits, which is enough to refuse it. */
static int start_32(void *arg)
{
	Elf32_Ehdr head = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_EXEC, .e_machine = EM_386,
		.e_version = EV_CURRENT, .e_entry = 0x8048000, .e_phoff = sizeof(head), .e_ehsize = sizeof(head),
		.e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1,
	};
	Elf32_Phdr load = { .p_type = PT_LOAD, .p_vaddr = 0x8048000, .p_filesz = PAGE, .p_memsz = PAGE, .p_flags = PF_R | PF_X };
	int fd = open(arg, O_WRONLY | O_CREAT | O_TRUNC, 0755);

	if (write(fd, &head, sizeof(head)) != sizeof(head) || write(fd, &load, sizeof(load)) != sizeof(load) || close(fd))
		return 1;
	execl(arg, "none", (char *)NULL);
	return errno;
}

/* In ring 0 no gate refuses it: the kernel finds an interrupt that nobody asked for, and says so. */
static int call_32(void *arg)
{
	long number = 20;

	asm volatile("int $0x80" : "+a"(number) : : "memory");
	return number != 20 || arg;
}

static void test_32(void)
{
	EQUAL("limits.bits32.system_call", in_child(call_32, NULL), ring() ? SIGSEGV : 0);
	CHECK("limits.bits32.mmap_low", mmap(NULL, PAGE, RW, ANON | MAP_32BIT, -1, 0) < (void *)0x80000000);	/* data may be there */
	EQUAL("limits.bits32.program", in_child(start_32, "/tmp/posix_32"), ENOEXEC << 8);
	unlink("/tmp/posix_32");
	errno = 0;
	CHECK("limits.bits32.segments", syscall(SYS_modify_ldt, 0, NULL, 0) < 0 && errno == ENOSYS);
}

static char page_in_data[2 * PAGE] __attribute__((aligned(PAGE))) = "data";
static char page_in_bss[2 * PAGE] __attribute__((aligned(PAGE)));

static void test_globals(void)
{
	char *const pages[] = { page_in_data, page_in_bss };
	char name[60];

	for (int i = 0; i < 2; i++) {
#define NAME(what) (snprintf(name, sizeof(name), "limits.globals.%s.%s", i ? "bss" : "data", what), name)
		WORKS_OR_FAILS(NAME("mprotect"), mprotect(pages[i], PAGE, PROT_READ) == 0, ENOMEM);
		if (ring())
			mprotect(pages[i], PAGE, RW);
		pages[i][100] = 'w';
		CHECK(NAME("still_written"), pages[i][100] == 'w');
		WORKS_OR_FAILS(NAME("mlock"), mlock(pages[i], PAGE) == 0, ENOMEM);
	}
	/* All of them at once, and what the kernel does not know of is there anyway: it is never swapped. */
	CHECK("limits.globals.mlockall", mlockall(MCL_CURRENT | MCL_FUTURE) == 0 && munlockall() == 0);
}

int limits_suite(void)
{
	test_executable();
	test_objects();
	test_gs();
	test_32();
	test_globals();
	return check_failed;
}
