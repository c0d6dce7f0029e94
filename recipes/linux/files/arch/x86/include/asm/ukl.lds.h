/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_UKL_LDS_H
#define _ASM_X86_UKL_LDS_H
/*
 * Where the application's sections go in vmlinux. The archive has nothing but
 * .ukl.* sections and no GOT or PLT of the linker's making, see
 * CONFIG_UKL_ARCHIVE_PATH.  Its symbols begin with "ukl.", which no C name does;
 * those it may leave undefined are here.
 */
#ifdef CONFIG_UNIKERNEL_LINUX

/* In front of _etext, so that it is write protected with the kernel's text. */
#define UKL_TEXT							\
	. = ALIGN(PAGE_SIZE);						\
	.ukl_text : AT(ADDR(.ukl_text) - LOAD_OFFSET) {			\
		__ukl_text_start = .;					\
		ukl.__executable_start = .;				\
		*(.ukl.text .ukl.text.*)				\
		ukl._etext = .;						\
		ukl.etext = .;						\
		ukl.__etext = .;					\
		. = ALIGN(PAGE_SIZE);					\
		__ukl_text_end = .;					\
	} :text = 0xcccc

/* In front of __end_rodata. */
#define ARCH_RO_DATA							\
	. = ALIGN(PAGE_SIZE);						\
	.ukl_rodata : AT(ADDR(.ukl_rodata) - LOAD_OFFSET) {		\
		__ukl_rodata_start = .;					\
		__ukl_eh_frame_hdr_start = .;				\
		*(.ukl.rodata.eh_frame_hdr)				\
		__ukl_eh_frame_hdr_end = .;				\
		*(.ukl.rodata .ukl.rodata.*)				\
		. = ALIGN(8);						\
		*(.ukl.preinit_array .ukl.init_array .ukl.fini_array)	\
		*(.ukl.irelative)					\
		*(.ukl.gcc_except_table .ukl.gcc_except_table.*)	\
		. = ALIGN(8);						\
		UKL_TLS_ALIGN						\
	}								\
	/* Debuggers find it by its name. */				\
	.eh_frame : AT(ADDR(.eh_frame) - LOAD_OFFSET) {			\
		*(.ukl.eh_frame .ukl.eh_frame.*)			\
		. = ALIGN(PAGE_SIZE);					\
		__ukl_rodata_end = .;					\
	}

#ifdef CONFIG_UKL_TLS
#define UKL_PHDRS	tls PT_TLS FLAGS(4);
#define UKL_TLS_DATA							\
	.ukl_tdata : AT(ADDR(.ukl_tdata) - LOAD_OFFSET) {		\
		__ukl_tdata_start = .;					\
		*(.ukl.tdata .ukl.tdata.*)				\
		__ukl_tdata_end = .;					\
	} :init :tls							\
	.ukl_tbss : AT(ADDR(.ukl_tbss) - LOAD_OFFSET) {			\
		*(.ukl.tbss .ukl.tbss.*)				\
		__ukl_tbss_end = .;					\
	} :init :tls
#define UKL_TLS_ALIGN							\
	__ukl_tls_align = .;						\
	QUAD(MAX(ALIGNOF(.ukl_tdata), ALIGNOF(.ukl_tbss)))
#else
#define UKL_PHDRS
#define UKL_TLS_ALIGN
#define UKL_TLS_DATA
#endif

/*
 * What each process has a copy of. It is alone in its PMDs: they are taken
 * out of the kernel's page tables at boot, see arch/x86/mm/ukl.c. The pages
 * of the image stay behind as the initial contents. Directly in front of the
 * kernel's .bss, so that .ukl_bss needs no room in the file.
 *
 * .data.rel.ro is among it: a C library writes there until its start is over.
 */
#define UKL_DATA							\
	. = ALIGN(HPAGE_SIZE);						\
	.ukl_data : AT(ADDR(.ukl_data) - LOAD_OFFSET) {			\
		__ukl_data_start = .;					\
		*(.ukl.data .ukl.data.*)				\
		. = ALIGN(16);						\
		ukl._edata = .;						\
		ukl.edata = .;						\
		__ukl_data_file_end = .;				\
	}								\
	UKL_TLS_DATA							\
	.ukl_bss (NOLOAD) : AT(ADDR(.ukl_bss) - LOAD_OFFSET) {		\
		ukl.__bss_start = .;					\
		*(.ukl.bss .ukl.bss.*)					\
		ukl._end = .;						\
		ukl.end = .;						\
		. = ALIGN(PAGE_SIZE);					\
		__ukl_data_end = .;					\
	} :init								\
	. = ALIGN(HPAGE_SIZE);

#else

#define UKL_TEXT
#define UKL_PHDRS
#define UKL_DATA

#endif
#endif /* _ASM_X86_UKL_LDS_H */
