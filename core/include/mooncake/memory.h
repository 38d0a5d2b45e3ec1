/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a memory-kind plugin implements: memory that is not plain host memory
 * (GPU, device pools).  One instance per engine, opened when a location of the
 * kind appears.  Operations are [any] unless tagged: several may run at once.
 */
#ifndef MOONCAKE_MEMORY_H
#define MOONCAKE_MEMORY_H

#include "plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mc_memory_ops {
	size_t size;
	size_t instance_size;

	/* -ENODEV with the sentence if the host has no such memory.  [helper] */
	int (*open)(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_error *err);
	void (*close)(void *inst); /* [helper] */

	/* How many ordinals there are. */
	int (*count)(void *inst);
	/* 0 and desc (kind, ordinal) if [addr, addr + len) is of this kind; -ENOENT if it is not;
	 * -EINVAL if only part of it is. */
	int (*identify)(void *inst, const void *addr, uint64_t len, struct mc_mem_desc *desc);
	/* Allocate desc->len bytes on desc->ordinal; fills desc->addr.  [helper] */
	int (*alloc)(void *inst, struct mc_mem_desc *desc, struct mc_error *err);
	void (*free)(void *inst, struct mc_mem_desc *desc); /* [helper] */
	/* MC_DONE (finished), 0 (host->copied follows), -EAGAIN (later, try again) or -errno. */
	int (*copy)(void *inst, struct mc_copy *c);
	/* Fill desc->dmabuf_fd (the caller closes it) and dmabuf_offset.  [helper] */
	int (*export_dmabuf)(void *inst, struct mc_mem_desc *desc, struct mc_error *err);
	/* Make writes that a device did into [addr, addr + len) visible to work launched later.
	 * len 0: all memory of the ordinal; ordinal -1: all of the kind. */
	int (*flush)(void *inst, const struct mc_mem_desc *desc);
	/* Distance of an ordinal to a PCI device ("0000:3b:00.0"): lower is nearer, -1 unknown. */
	int (*distance)(void *inst, int32_t ordinal, const char *pci);

	/* ABI 1.5. */
	/* How many bytes from desc->addr on, at most desc->len, are of one piece that devices register
	 * together; the host registers each piece as a buffer of its own.  NULL: all of them. */
	int (*extent)(void *inst, const struct mc_mem_desc *desc, uint64_t *ret_len);
	/* Host memory that copies will go through until unpin: the host's staging pools.  Failing is no
	 * more than slow.  What was there before the instance was opened is unpinned too.  [helper] */
	int (*pin)(void *inst, void *addr, uint64_t len);
	void (*unpin)(void *inst, void *addr);
};

#ifdef __cplusplus
}
#endif
#endif
