// SPDX-License-Identifier: GPL-2.0
/*
 * Starts the application that is linked into the kernel, when the file that
 * stands for it is executed.
 */
#include <linux/binfmts.h>
#include <linux/cred.h>
#include <linux/elf.h>
#include <linux/elf-randomize.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/namei.h>
#include <linux/path.h>
#include <linux/personality.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/suspend.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#include <linux/ukl.h>

#include <asm/elf.h>
#include <asm/processor.h>
#include <asm/ukl.h>

#include "internal.h"

#ifndef ELF_HWCAP2
#define ELF_HWCAP2	0
#endif

/* What the application finds of its image with AT_PHDR. */
#define UKL_PHNUM	6

/*
 * The file that PID 1 sees under CONFIG_UKL_NAME.  A name alone proves nothing:
 * with a mount namespace or a symlink anybody has a /UKL.
 */
static bool ukl_is_application(struct linux_binprm *bprm)
{
	struct inode *inode = file_inode(bprm->file);
	struct task_struct *reaper;
	struct path root, path;
	bool same;

	if (memcmp(bprm->buf, UKL_MAGIC, UKL_MAGIC_LEN))
		return false;
	if (!S_ISREG(inode->i_mode) || (inode->i_mode & 0022) ||
	    !uid_eq(inode->i_uid, GLOBAL_ROOT_UID))
		return false;

	rcu_read_lock();
	reaper = get_task_struct(init_pid_ns.child_reaper);
	rcu_read_unlock();
	task_lock(reaper);
	if (reaper->fs)
		get_fs_root(reaper->fs, &root);
	else
		root = (struct path){};
	task_unlock(reaper);
	put_task_struct(reaper);
	if (!root.mnt)
		return false;

	same = !vfs_path_lookup(root.dentry, root.mnt, CONFIG_UKL_NAME,
				LOOKUP_FOLLOW, &path);
	path_put(&root);
	if (!same)
		return false;
	same = d_backing_inode(path.dentry) == inode;
	path_put(&path);
	return same;
}

/* Who traces the application has the kernel. */
static bool ukl_tracer_ok(struct linux_binprm *bprm)
{
	const struct cred *cred;
	bool ok = true;

	if (!(bprm->unsafe & LSM_UNSAFE_PTRACE))
		return true;
	rcu_read_lock();
	cred = rcu_dereference(current->ptracer_cred);
	if (cred)
		ok = !security_capable(cred, &init_user_ns, CAP_SYS_RAWIO,
				       CAP_OPT_NONE);
	rcu_read_unlock();
	return ok;
}

/* Like put_user() to the top of a stack that grows down. */
static int push_bytes(unsigned long *p, const void *data, size_t len, size_t align)
{
	*p = ALIGN_DOWN(*p - len, align);
	return copy_to_user((void __user *)*p, data, len) ? -EFAULT : 0;
}

static void ukl_fill_phdr(struct elf_phdr *phdr, u32 type, u32 flags,
			  const char *start, const char *end)
{
	*phdr = (struct elf_phdr) {
		.p_type = type,
		.p_flags = flags,
		.p_vaddr = (unsigned long)start,
		.p_paddr = (unsigned long)start,
		.p_filesz = end - start,
		.p_memsz = end - start,
		.p_align = 16,
	};
}

/*
 * A C library looks here for thread-local storage, an unwinder for the code
 * that an instruction pointer is in and for the table that goes with it.
 */
static void ukl_fill_phdrs(struct elf_phdr *phdr)
{
	memset(phdr, 0, UKL_PHNUM * sizeof(*phdr));
	ukl_fill_phdr(&phdr[0], PT_GNU_STACK, PF_R | PF_W, NULL, NULL);
	ukl_fill_phdr(&phdr[1], PT_LOAD, PF_R | PF_X, __ukl_text_start, __ukl_text_end);
	ukl_fill_phdr(&phdr[2], PT_LOAD, PF_R, __ukl_rodata_start, __ukl_rodata_end);
	ukl_fill_phdr(&phdr[3], PT_LOAD, PF_R | PF_W, __ukl_data_start, __ukl_data_end);
	if (__ukl_eh_frame_hdr_end - __ukl_eh_frame_hdr_start > 0)
		ukl_fill_phdr(&phdr[4], PT_GNU_EH_FRAME, PF_R,
			      __ukl_eh_frame_hdr_start, __ukl_eh_frame_hdr_end);
#ifdef CONFIG_UKL_TLS
	ukl_fill_phdr(&phdr[5], PT_TLS, PF_R, __ukl_tdata_start, __ukl_tdata_end);
	phdr[5].p_memsz = __ukl_tbss_end - __ukl_tdata_start;
	phdr[5].p_align = __ukl_tls_align;
#endif
}

/* One vector of pointers to the strings at *s, which it moves past them. */
static int put_strings(u64 __user **sp, unsigned long *s, int count)
{
	long len;

	while (count-- > 0) {
		if (put_user((u64)*s, (*sp)++))
			return -EFAULT;
		len = strnlen_user((void __user *)*s, MAX_ARG_STRLEN);
		if (!len || len > MAX_ARG_STRLEN)
			return -EINVAL;
		*s += len;
	}
	return put_user((u64)0, (*sp)++);
}

/*
 * The initial stack of the psABI, "Process Initialization": argc, argv, envp
 * and the auxiliary vector.  Returns the stack pointer or an error.
 */
static unsigned long ukl_create_tables(struct linux_binprm *bprm)
{
	static const char platform[] = "x86_64";
	const struct cred *cred = current_cred();
	struct mm_struct *mm = current->mm;
	struct elf_phdr phdr[UKL_PHNUM];
	unsigned long p, s, u_platform, u_random, u_phdr;
	u8 random[16];
	u64 __user *sp;
	u64 *aux;
	int n = 0, ret;

	ukl_fill_phdrs(phdr);
	get_random_bytes(random, sizeof(random));
	p = arch_align_stack(bprm->p);
	if (push_bytes(&p, platform, sizeof(platform), 1))
		return -EFAULT;
	u_platform = p;
	if (push_bytes(&p, random, sizeof(random), 16))
		return -EFAULT;
	u_random = p;
	if (push_bytes(&p, phdr, sizeof(phdr), 16))
		return -EFAULT;
	u_phdr = p;

	aux = (u64 *)mm->saved_auxv;
	memset(aux, 0, sizeof(mm->saved_auxv));
#define AUX(id, val) do { aux[n++] = (id); aux[n++] = (u64)(val); } while (0)
	AUX(AT_HWCAP, ELF_HWCAP);
	AUX(AT_HWCAP2, ELF_HWCAP2);
	AUX(AT_PAGESZ, ELF_EXEC_PAGESIZE);
	AUX(AT_CLKTCK, CLOCKS_PER_SEC);
	AUX(AT_MINSIGSTKSZ, get_sigframe_size());
	AUX(AT_PHDR, u_phdr);
	AUX(AT_PHENT, sizeof(struct elf_phdr));
	AUX(AT_PHNUM, UKL_PHNUM);
	AUX(AT_BASE, 0);
	AUX(AT_FLAGS, 0);
	AUX(AT_ENTRY, (unsigned long)ukl_start);
	AUX(AT_UID, from_kuid_munged(cred->user_ns, cred->uid));
	AUX(AT_EUID, from_kuid_munged(cred->user_ns, cred->euid));
	AUX(AT_GID, from_kgid_munged(cred->user_ns, cred->gid));
	AUX(AT_EGID, from_kgid_munged(cred->user_ns, cred->egid));
	AUX(AT_SECURE, bprm->secureexec);
	AUX(AT_RANDOM, u_random);
	AUX(AT_EXECFN, bprm->exec);
	AUX(AT_PLATFORM, u_platform);
	AUX(AT_NULL, 0);
#undef AUX

	p -= (1 + bprm->argc + 1 + bprm->envc + 1 + n) * sizeof(u64);
	p = ALIGN_DOWN(p, 16);

	/* Grow the stack now: put_user() must not fail where it is not mapped. */
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	ret = find_extend_vma_locked(mm, p) ? 0 : -EFAULT;
	mmap_write_unlock(mm);
	if (ret)
		return ret;

	sp = (u64 __user *)p;
	if (put_user((u64)bprm->argc, sp++))
		return -EFAULT;
	s = mm->arg_end = mm->arg_start;
	ret = put_strings(&sp, &s, bprm->argc);
	if (ret)
		return ret;
	mm->arg_end = mm->env_start = s;
	ret = put_strings(&sp, &s, bprm->envc);
	if (ret)
		return ret;
	mm->env_end = s;
	if (copy_to_user(sp, aux, n * sizeof(*aux)))
		return -EFAULT;
	return p;
}

static int load_ukl_binary(struct linux_binprm *bprm)
{
	struct pt_regs *regs = current_pt_regs();
	struct mm_struct *mm;
	unsigned long p;
	int ret;

	if (!ukl_is_application(bprm))
		return -ENOEXEC;
	if (!ukl_tracer_ok(bprm))
		return -EPERM;

	/* Nobody runs on bprm->mm yet, and failing is still possible. */
	ret = ukl_mm_create(bprm->mm, NULL);
	if (ret)
		return ret;

	ret = begin_new_exec(bprm);
	if (ret)
		return ret;

	/* A core of the application is one of ELF. */
	set_binfmt(&elf_format);
	set_personality_64bit();
	current->personality &= ~READ_IMPLIES_EXEC;
	if (!(current->personality & ADDR_NO_RANDOMIZE) && randomize_va_space)
		current->flags |= PF_RANDOMIZE;
	setup_new_exec(bprm);
	ret = setup_arg_pages(bprm, randomize_stack_top(STACK_TOP),
			      EXSTACK_DISABLE_X);
	if (ret < 0)
		return ret;

	mm = current->mm;
	mm->start_code = (unsigned long)__ukl_text_start;
	mm->end_code = (unsigned long)__ukl_text_end;
	mm->start_data = (unsigned long)__ukl_data_start;
	mm->end_data = (unsigned long)__ukl_data_end;
	mm->start_stack = bprm->p;
	/* The heap has no data segment to follow: as for a static PIE. */
	mm->start_brk = mm->brk = PAGE_ALIGN(ELF_ET_DYN_BASE);
	if (current->flags & PF_RANDOMIZE)
		mm->start_brk = mm->brk = arch_randomize_brk(mm);

	p = ukl_create_tables(bprm);
	if (IS_ERR_VALUE(p))
		return p;
	mm->start_stack = p;

	finalize_exec(bprm);

	ELF_PLAT_INIT(regs, 0);
	start_thread(regs, (unsigned long)ukl_start, p);
	regs->cs = __KERNEL_CS;
	regs->ss = __KERNEL_DS;
	regs->flags = X86_EFLAGS_FIXED | X86_EFLAGS_IF | X86_EFLAGS_AC;
	return 0;
}

/**
 * ukl_exit_init() - end the machine with the application that is its PID 1
 * @code: the exit code, as in wait()
 *
 * Without a userspace there is nobody else to report to, and nothing is wrong:
 * no reason to panic.
 */
void __noreturn ukl_exit_init(int code)
{
	ksys_sync();
	if (code & 0x7f)
		pr_emerg("ukl: application killed by signal %d\n", code & 0x7f);
	else
		pr_emerg("ukl: application exited with status %d\n",
			 (code >> 8) & 0xff);
	mutex_lock(&system_transition_mutex);
	if (kernel_can_power_off())
		kernel_power_off();
	else
		kernel_halt();
	for (;;)
		cpu_relax();
}

static struct linux_binfmt ukl_format = {
	.load_binary	= load_ukl_binary,
};

static int __init init_ukl_binfmt(void)
{
	/* In front: nothing else may claim the file. */
	insert_binfmt(&ukl_format);
	return 0;
}
core_initcall(init_ukl_binfmt);
