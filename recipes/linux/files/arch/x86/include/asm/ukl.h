/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_UKL_H
#define _ASM_X86_UKL_H

#ifdef CONFIG_UNIKERNEL_LINUX
#ifndef __ASSEMBLY__

#include <linux/types.h>
#include <asm/ukl_bypass.h>

struct mm_struct;
struct pt_regs;
struct vm_area_struct;

/* The application's parts of the kernel image, see <asm/ukl.lds.h>. */
extern char __ukl_text_start[], __ukl_text_end[];
extern char __ukl_rodata_start[], __ukl_rodata_end[];
extern char __ukl_data_start[], __ukl_data_file_end[], __ukl_data_end[];
extern char __ukl_eh_frame_hdr_start[], __ukl_eh_frame_hdr_end[];
extern char __ukl_tdata_start[], __ukl_tdata_end[], __ukl_tbss_end[];
extern const unsigned long __ukl_tls_align;

static __always_inline bool ukl_text_address(unsigned long addr)
{
	return addr >= (unsigned long)__ukl_text_start &&
	       addr < (unsigned long)__ukl_text_end;
}

static __always_inline bool ukl_data_address(unsigned long addr)
{
	return addr >= (unsigned long)__ukl_data_start &&
	       addr < (unsigned long)__ukl_data_end;
}

/* The application's own _start. */
extern char ukl_start[] asm("ukl._start");

/* The call entry, asm only: see arch/x86/entry/ukl_64.S. */
extern char ukl_syscall[], ukl_syscall_leaves[];
extern char ukl_stubs[], ukl_stubs_end[], ukl_bypass_ret[];

/*
 * Has the application, on its way into the kernel, switched interrupts off and
 * cleared AC, so that only the jump into the kernel's text is left?
 */
static __always_inline bool ukl_leaving(unsigned long addr)
{
	if (addr == (unsigned long)ukl_syscall_leaves)
		return true;

	return addr >= (unsigned long)ukl_stubs &&
	       addr < (unsigned long)ukl_stubs_end &&
	       addr % UKL_STUB_SIZE >= UKL_STUB_CLI &&
	       addr % UKL_STUB_SIZE < UKL_STUB_FULL;
}

bool ukl_access_ok(unsigned long addr, unsigned long size);
unsigned long ukl_range_end(unsigned long addr);
unsigned long ukl_user_addr_limit(unsigned long addr);

int ukl_mm_create(struct mm_struct *mm, const struct mm_struct *from);
void ukl_mm_destroy(struct mm_struct *mm);
void ukl_hide_data(void);

#endif /* __ASSEMBLY__ */
#else /* CONFIG_UNIKERNEL_LINUX */
#ifndef __ASSEMBLY__

#include <linux/types.h>

static inline bool ukl_access_ok(unsigned long addr, unsigned long size)
{
	return false;
}

static inline unsigned long ukl_range_end(unsigned long addr)
{
	return 0;
}

static inline void ukl_hide_data(void) { }

#endif
#endif /* CONFIG_UNIKERNEL_LINUX */
#endif /* _ASM_X86_UKL_H */
