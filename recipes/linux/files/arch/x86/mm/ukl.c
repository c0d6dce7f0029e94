// SPDX-License-Identifier: GPL-2.0
/*
 * The private data of an application that is linked into the kernel image.
 *
 * .ukl_data .. .ukl_bss have addresses in the kernel half, next to the code
 * that refers to them, and yet every process that runs the application has
 * them to itself.  They are alone in their PMDs.  These are taken out of
 * init_mm, so that in any other address space an access faults; an address
 * space of the application gets page tables of its own down from its PGD
 * entry, in which all other entries are the kernel's.
 *
 * The entries of one address space never change while it lives, and those of
 * the kernel's around them not after mark_readonly(), before which nothing is
 * executed that could need them.  So nothing has to be flushed or synchronised
 * but once, when the range is hidden.  The tables live until the last mmdrop(),
 * because lazy TLB users run on them after exit_mmap().
 */
#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/ukl.h>

#include <asm/pgalloc.h>
#include <asm/pgtable.h>
#include <asm/sections.h>
#include <asm/tlbflush.h>
#include <asm/ukl.h>

/* Page table pages of one address space.  No p4d with 4-level paging. */
struct ukl_mm {
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	unsigned long nr_pages;
};

/* Global would outlive a switch of address spaces. */
#define UKL_PTE_FLAGS	(_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | \
			 _PAGE_DIRTY | _PAGE_NX)

static bool ukl_data_hidden __read_mostly;

static unsigned long ukl_data_size(void)
{
	return __ukl_data_end - __ukl_data_start;
}

/* Bytes of initial contents; what follows is .bss. */
static unsigned long ukl_data_filesz(void)
{
	char *end = IS_ENABLED(CONFIG_UKL_TLS) ? __ukl_tdata_end :
						 __ukl_data_file_end;

	return end - __ukl_data_start;
}

/* The pages of the image with the initial contents, in the direct map. */
static void *ukl_data_template(void)
{
	return __va(__pa_symbol(__ukl_data_start));
}

static pmd_t *ukl_pmd(const struct ukl_mm *ukl, unsigned long addr)
{
	return ukl->pmd + pmd_index(addr);
}

/* @zero: __GFP_ZERO, or 0 for a page that is then written whole. */
static void *ukl_alloc_page(gfp_t zero)
{
	return (void *)__get_free_page(GFP_KERNEL_ACCOUNT | zero);
}

/* A copy of the page table page that @entry of the kernel is in. */
static void *ukl_copy_table(void *entry)
{
	void *table = ukl_alloc_page(0);

	if (table)
		copy_page(table, PTR_ALIGN_DOWN(entry, PAGE_SIZE));
	return table;
}

static int ukl_alloc_tables(struct ukl_mm *ukl, unsigned long start)
{
	pgd_t *pgd = pgd_offset_k(start);
	p4d_t *p4d = p4d_offset(pgd, start);
	pud_t *pud = pud_offset(p4d, start);
	pmd_t *pmd = pmd_offset(pud, start);

	ukl->pmd = ukl_copy_table(pmd);
	ukl->pud = ukl_copy_table(pud);
	if (!ukl->pmd || !ukl->pud)
		return -ENOMEM;
	set_pud(ukl->pud + pud_index(start),
		__pud(__pa(ukl->pmd) | _KERNPG_TABLE_NOENC));

	if (!pgtable_l5_enabled())
		return 0;

	ukl->p4d = ukl_copy_table(p4d);
	if (!ukl->p4d)
		return -ENOMEM;
	set_p4d(ukl->p4d + p4d_index(start),
		__p4d(__pa(ukl->pud) | _KERNPG_TABLE_NOENC));
	return 0;
}

static int ukl_alloc_data(struct ukl_mm *ukl, const struct ukl_mm *from)
{
	unsigned long start = (unsigned long)__ukl_data_start;
	unsigned long filesz = ukl_data_filesz();
	unsigned long offset, addr;
	void *page, *src;
	pmd_t *pmd;
	pte_t *pte;

	for (offset = 0; offset < ukl_data_size(); offset += PAGE_SIZE) {
		addr = start + offset;
		pmd = ukl_pmd(ukl, addr);
		if (pmd_none(*pmd)) {
			pte = ukl_alloc_page(__GFP_ZERO);
			if (!pte)
				return -ENOMEM;
			set_pmd(pmd, __pmd(__pa(pte) | _KERNPG_TABLE_NOENC));
		}

		page = ukl_alloc_page(from ? 0 : __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		if (from) {
			pte = pte_offset_kernel(ukl_pmd(from, addr), addr);
			src = page_address(pte_page(*pte));
			copy_page(page, src);
		} else if (offset < filesz) {
			memcpy(page, ukl_data_template() + offset,
			       min(filesz - offset, PAGE_SIZE));
		}
		pte = pte_offset_kernel(pmd, addr);
		set_pte(pte, pfn_pte(__pa(page) >> PAGE_SHIFT, __pgprot(UKL_PTE_FLAGS)));
		ukl->nr_pages++;
	}
	return 0;
}

static void ukl_free(struct ukl_mm *ukl)
{
	unsigned long start = (unsigned long)__ukl_data_start;
	unsigned long end = start + ukl_data_size();
	unsigned long addr, next;
	pmd_t *pmd;
	pte_t *pte;

	for (addr = start; ukl->pmd && addr < end; addr = next) {
		next = min(addr + PMD_SIZE, end);
		pmd = ukl_pmd(ukl, addr);
		if (pmd_none(*pmd))
			continue;
		pte = pte_offset_kernel(pmd, addr);
		for (; addr < next; addr += PAGE_SIZE, pte++)
			if (pte_present(*pte))
				put_page(pte_page(*pte));
		free_page(pmd_page_vaddr(*pmd));
	}
	free_page((unsigned long)ukl->pmd);
	free_page((unsigned long)ukl->pud);
	free_page((unsigned long)ukl->p4d);
	kfree(ukl);
}

/**
 * ukl_range_end() - where the application's part of the image ends
 * @addr: an address
 *
 * Return: the end of the text, the constants or the private data that @addr is
 * in; 0 if it is in none of them.
 */
unsigned long ukl_range_end(unsigned long addr)
{
	if (ukl_data_address(addr))
		return (unsigned long)__ukl_data_end;
	if (addr >= (unsigned long)__ukl_rodata_start &&
	    addr < (unsigned long)__ukl_rodata_end)
		return (unsigned long)__ukl_rodata_end;
	if (ukl_text_address(addr))
		return (unsigned long)__ukl_text_end;
	return 0;
}

/**
 * ukl_user_addr_limit() - where the user memory around an address ends
 * @addr: an address in the kernel half
 *
 * Return: the end of the application's memory that @addr is in, if the
 * current process is the application; otherwise TASK_SIZE_MAX.
 */
unsigned long ukl_user_addr_limit(unsigned long addr)
{
	unsigned long end = 0;

	if (current->mm && mm_is_ukl(current->mm))
		end = ukl_range_end(addr);
	return end ?: TASK_SIZE_MAX;
}

/**
 * ukl_access_ok() - access_ok() for the kernel half
 * @addr: start of the block
 * @size: its size in bytes
 *
 * The page tables know what is read-only.
 *
 * Return: whether the block is the application's own, in its own process.
 */
bool ukl_access_ok(unsigned long addr, unsigned long size)
{
	unsigned long limit = ukl_user_addr_limit(addr);

	return addr <= limit && size <= limit - addr;
}
EXPORT_SYMBOL(ukl_access_ok);

/*
 * get_user_pages() knows of memory without a VMA: the gate area, which every
 * user of VMAs has to ask for.  The application's part of the image is it.
 */
static const char *ukl_vma_name(struct vm_area_struct *vma)
{
	return "[ukl]";
}

static const struct vm_operations_struct ukl_vma_ops = {
	.name = ukl_vma_name,
};

static struct vm_area_struct ukl_vma = {
	.vm_flags	= VM_READ | VM_WRITE,
	.vm_ops		= &ukl_vma_ops,
};

struct vm_area_struct *get_gate_vma(struct mm_struct *mm)
{
	return mm && mm_is_ukl(mm) ? &ukl_vma : NULL;
}

int in_gate_area(struct mm_struct *mm, unsigned long addr)
{
	return mm && mm_is_ukl(mm) && ukl_range_end(addr);
}

/* No kprobes here: the application would take the breakpoints for its own. */
int in_gate_area_no_mm(unsigned long addr)
{
	return ukl_text_address(addr);
}

/**
 * ukl_is_private() - is an address private data of the application?
 * @mm:		an address space
 * @addr:	an address
 */
bool ukl_is_private(struct mm_struct *mm, unsigned long addr)
{
	return mm && mm_is_ukl(mm) && ukl_data_address(addr);
}

/**
 * ukl_get_gate_page() - get_gate_page() for the application's memory
 * @mm:		an address space of the application
 * @addr:	an address in_gate_area()
 * @gup_flags:	FOLL_*
 * @page:	where to store the page, or NULL
 *
 * Return: 0, -EFAULT for writing to text and constants, -ENOMEM.
 */
int ukl_get_gate_page(struct mm_struct *mm, unsigned long addr,
		      unsigned int gup_flags, struct page **page)
{
	struct page *p;

	if (ukl_data_address(addr)) {
		p = pte_page(*pte_offset_kernel(ukl_pmd(mm->context.ukl, addr), addr));
	} else {
		if (gup_flags & FOLL_WRITE)
			return -EFAULT;
		p = virt_to_page((void *)addr);
	}

	if (!page)
		return 0;
	if (!try_grab_page(p, gup_flags))
		return -ENOMEM;
	*page = p;
	return 0;
}

/**
 * ukl_mm_create() - give an address space the application's private data
 * @mm:		the address space, which nobody runs on yet
 * @from:	whose data to copy, for fork(); NULL for the initial contents
 *
 * Return: 0; -ENOMEM; -EAGAIN before the kernel's own page tables are final.
 */
int ukl_mm_create(struct mm_struct *mm, const struct mm_struct *from)
{
	unsigned long start = (unsigned long)__ukl_data_start;
	struct ukl_mm *ukl;
	pgd_t *pgd;
	int ret;

	if (!ukl_data_hidden)
		return -EAGAIN;

	ukl = kzalloc(sizeof(*ukl), GFP_KERNEL_ACCOUNT);
	if (!ukl)
		return -ENOMEM;

	ret = ukl_alloc_tables(ukl, start);
	if (!ret)
		ret = ukl_alloc_data(ukl, from ? from->context.ukl : NULL);
	if (ret) {
		ukl_free(ukl);
		return ret;
	}

	pgd = pgd_offset(mm, start);
	if (pgtable_l5_enabled())
		set_pgd(pgd, __pgd(__pa(ukl->p4d) | _KERNPG_TABLE_NOENC));
	else
		set_p4d(p4d_offset(pgd, start),
			__p4d(__pa(ukl->pud) | _KERNPG_TABLE_NOENC));
	add_mm_counter(mm, MM_ANONPAGES, ukl->nr_pages);
	mm->context.ukl = ukl;
	return 0;
}

/**
 * ukl_mm_destroy() - free the private data with the last reference to @mm
 * @mm: an address space of the application
 */
void ukl_mm_destroy(struct mm_struct *mm)
{
	add_mm_counter(mm, MM_ANONPAGES, -(long)mm->context.ukl->nr_pages);
	ukl_free(mm->context.ukl);
	mm->context.ukl = NULL;
}

/**
 * ukl_hide_data() - take the private data out of the kernel's page tables
 *
 * Called when these have their final form, before anything is executed.
 */
void ukl_hide_data(void)
{
	unsigned long start = (unsigned long)__ukl_data_start;
	unsigned long end = ALIGN((unsigned long)__ukl_data_end, PMD_SIZE);
	unsigned long bss = PAGE_ALIGN(start + ukl_data_filesz());
	unsigned long addr;

	for (addr = start; addr < end; addr += PMD_SIZE)
		pmd_clear(pmd_off_k(addr));
	flush_tlb_all();
	ukl_vma.vm_start = start;
	ukl_vma.vm_end = (unsigned long)__ukl_data_end;
	ukl_vma.vm_page_prot = PAGE_SHARED;
	ukl_data_hidden = true;

	/* .bss has no initial contents to keep. */
	free_reserved_area(__va(__pa_symbol(bss)), __va(__pa_symbol(end)),
			   -1, "application .bss");
}
