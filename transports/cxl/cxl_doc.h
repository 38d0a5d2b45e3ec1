/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grants of a pool, as the metadata service has them: which engines use it, in
 * which slot, and whose which units are.  One key per pool, changed by compare and
 * swap alone; it is the truth, and what stands in the pool a copy.
 *
 *   mooncake-cxl 1
 *   pool UUID units N slots N
 *   member GENERATION slot N live|reaped by GENERATION name NAME
 *   grant GENERATION first N nr N
 */
#ifndef MC_CXL_DOC_H
#define MC_CXL_DOC_H

#include "cxl_wire.h"

#define CXL_GRANTS_MAX 4096u

enum cxl_member_state {
	CXL_LIVE = 0,
	CXL_REAPED, /* another engine clears its slot away */
};

struct cxl_member {
	uint64_t generation, reaper; /* reaper: of REAPED */
	uint32_t slot;
	enum cxl_member_state state;
	char name[CXL_NAME_MAX + 1];
};

struct cxl_grant {
	uint64_t generation;
	uint32_t first, nr; /* units */
};

struct cxl_doc {
	uint8_t uuid[CXL_UUID_LEN];
	uint32_t nr_units, nr_slots;
	uint32_t nr_members, nr_grants;
	struct cxl_member members[CXL_SLOTS_MAX];
	struct cxl_grant grants[CXL_GRANTS_MAX]; /* by first; they do not overlap */
};

/* An empty one for a pool. */
void cxl_doc_init(struct cxl_doc *doc, const struct cxl_geometry *g);
/* Read and check; on error nothing of *doc may be used.
 *   returns   0; -EPROTO: err says which line; -EXDEV: it is of another pool */
int cxl_doc_parse(struct cxl_doc *doc, const struct cxl_geometry *g, const char *text, size_t len,
		  struct mc_error *err);
/* As text, for free; NULL: no memory. */
char *cxl_doc_text(const struct cxl_doc *doc, size_t *ret_len);

struct cxl_member *cxl_doc_member(struct cxl_doc *doc, uint64_t generation);
/* Add a member in the first free slot.  0; -ENOSPC: no slot is free */
int cxl_doc_join(struct cxl_doc *doc, uint64_t generation, const char *name, uint32_t *ret_slot);
/* Put a member and its extents in that the grants have lost.  0; -EEXIST: somebody else has its slot or some
 * of its units by now; then nothing is changed. */
int cxl_doc_adopt(struct cxl_doc *doc, uint64_t generation, const char *name, uint32_t slot,
		  const struct cxl_extent *extents, uint32_t nr);
/* Take a member and its grants out. */
void cxl_doc_leave(struct cxl_doc *doc, uint64_t generation);
/* Grant nr units in a row, `wanted` if there are as many.  0; -ENOSPC: err-less, the largest run is shorter
 * than least; -EMFILE: the member has too many grants already. */
int cxl_doc_grant(struct cxl_doc *doc, uint64_t generation, uint32_t least, uint32_t wanted,
		  struct cxl_grant *ret);
/* Units that nobody has. */
uint32_t cxl_doc_free(const struct cxl_doc *doc);

#endif
