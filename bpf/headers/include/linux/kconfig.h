/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The smallest header tree with which bcc compiles programs.
 *
 * bcc expects the headers of the running kernel, includes this file before anything else and
 * names the seven empty files beside it.  Our programs touch nothing but the kernel's stable
 * interface, which bcc brings along itself (its copy of uapi/linux/bpf.h), so this file only has
 * to define the words in which that copy is written.  With it a node needs no kernel headers.
 */
#pragma once

#define __always_inline inline __attribute__((always_inline))

/* Gates macros of bcc's helpers.h, not what the kernel accepts. */
#define CONFIG_BPF_SYSCALL	1
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE	KERNEL_VERSION(6, 1, 0)
#define PAGE_SIZE		4096

#define NULL ((void *)0)
#define bool _Bool
#define true 1
#define false 0

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __s8 s8;
typedef __u16 u16;
typedef __s16 s16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
