/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places in memory that lies elsewhere: an allocator of offsets.  It never touches what it
 * manages, so that may be the memory of another machine, and of any size.
 *
 * A *space* is one range [0, size) cut into extents; a *pool* is many spaces, called segments,
 * with hosts, strategies and replicas.  Both stand alone: libmooncake-allocator links nothing of ours.
 */
#ifndef MOONCAKE_ALLOCATOR_H
#define MOONCAKE_ALLOCATOR_H

#include <mooncake/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- one space --------------------------------------------------------------------------------
 * alloc and release take constant time: free ranges lie in lists by size, 32 to each power of two,
 * and join their free neighbours at once.  32 bytes of metadata for each extent and each gap, and 8 KiB.
 *
 * Threads: a space is locked by its owner; different spaces need nothing of each other. */

/* Most bytes of a space. */
#define MC_SPACE_MAX (UINT64_C(1) << 62)
#define MC_SPACE_GRANULE 256u /* the default */

struct mc_space;

struct mc_space_options {
	size_t size;          /* of this struct */
	uint64_t bytes;       /* of the space; what is left of the last granule is not used */
	uint32_t granule;     /* power of two: sizes are rounded up to it, offsets are multiples.  0: 256 */
	uint32_t max_extents; /* bounds the metadata to 64 bytes each.  0: as many as fit, at most 2^30 */
};

/* A taken range.  id names it until it is released, and is then used again. */
struct mc_space_extent {
	uint64_t offset;
	uint64_t len; /* as asked, rounded up to granules */
	uint64_t tag; /* the owner's word */
	uint32_t id;
	uint32_t reserved;
};

struct mc_space_stats {
	size_t size;
	uint64_t bytes;        /* that can be used: whole granules */
	uint64_t used;         /* sum of the extents */
	uint64_t largest_free; /* of one gap */
	uint64_t metadata;     /* bytes of memory that this space takes */
	uint32_t nr_extents;
	uint32_t nr_free;     /* gaps */
	double fragmentation; /* 1 - largest_free / free; 0 when nothing is free */
};

/* returns   0; -EINVAL, -ENOMEM
 * since 0.1 */
MC_EXPORT int mc_space_new(const struct mc_space_options *options, struct mc_space **ret_space);
/* Accepts NULL.  since 0.1 */
MC_EXPORT void mc_space_free(struct mc_space *space);

/* Take len bytes at a multiple of align.  [owner's lock]
 *   len       >= 1
 *   align     power of two, or 0: the granule
 *   returns   0; -ENOSPC: no gap holds it, or only gaps that are larger than len by less than 1/32 and
 *             align, and more than 64 of those do not; -EINVAL; -ENOMEM; -EMFILE: max_extents are taken
 *   since 0.1 */
MC_EXPORT int mc_space_alloc(struct mc_space *space, uint64_t len, uint64_t align, uint64_t tag,
			     struct mc_space_extent *ret_extent);
/* Take exactly [offset, offset + len), as a journal says: the granules that it lies in.  The first
 * call after mc_space_settle makes an index of the gaps (8 bytes of each 32 more; time as there are extents);
 * then this takes O(log n), and so do alloc and release until mc_space_settle drops it.
 *   returns   0; -EEXIST: part of it is taken; -ERANGE: outside of the space; -EINVAL, -ENOMEM, -EMFILE
 *   since 0.1 */
MC_EXPORT int mc_space_reserve(struct mc_space *space, uint64_t offset, uint64_t len, uint64_t tag,
			       struct mc_space_extent *ret_extent);
/* Drop the index that mc_space_reserve made.  since 0.1 */
MC_EXPORT void mc_space_settle(struct mc_space *space);

/* Give an extent back.
 *   returns   0; -ENOENT: there is no extent of this id
 *   since 0.1 */
MC_EXPORT int mc_space_release(struct mc_space *space, uint32_t id);
/* What lies under an id; sets another tag.
 *   returns   0; -ENOENT
 *   since 0.1 */
MC_EXPORT int mc_space_get(const struct mc_space *space, uint32_t id,
			   struct mc_space_extent *ret_extent);
MC_EXPORT int mc_space_set_tag(struct mc_space *space, uint32_t id, uint64_t tag);

/* Each extent in order of offset.  each must not change the space; what it returns other than 0
 * ends the walk and is returned.  since 0.1 */
MC_EXPORT int mc_space_each(const struct mc_space *space,
			    int (*each)(void *arg, const struct mc_space_extent *extent), void *arg);
/* stats->size says how much of it is filled in.  Looks through one list of gaps.  since 0.1 */
MC_EXPORT void mc_space_stats(const struct mc_space *space, struct mc_space_stats *stats);
/* At least as much as one extent can have now; constant time.  since 0.1 */
MC_EXPORT uint64_t mc_space_hint(const struct mc_space *space);

/* ---- many of them -----------------------------------------------------------------------------
 * Threads: every call may come from any thread.  A pool has a lock for the list of segments, taken for
 * writing by mount, drain and unmount, and one for each segment; a segment that cannot hold what is
 * asked is passed over without its lock. */

#define MC_POOL_REPLICAS 8   /* most of one request */
#define MC_POOL_PIECES 16    /* most of one replica */
#define MC_POOL_SEGMENTS 65535 /* most that are mounted at once */

struct mc_pool;

enum mc_pool_strategy {
	MC_POOL_RANDOM,     /* from a random segment on, the first that has room */
	MC_POOL_FREE_RATIO, /* of six for each replica, drawn at random, those with the largest free share */
	MC_POOL_LOCAL,      /* those of the caller's host, then as RANDOM */
	MC_POOL_STRATEGY_COUNT,
};

#define MC_POOL_ALL (1u << 0) /* all replicas or none; else one is enough */

/* A request.  The segments of `preferred` that have room come before what the strategy says. */
struct mc_pool_request {
	size_t size;
	uint64_t len;   /* of a replica, >= 1 */
	uint64_t align; /* as of mc_space_alloc */
	uint64_t tag;
	uint64_t host; /* the caller's, for MC_POOL_LOCAL */
	enum mc_pool_strategy strategy;
	uint32_t flags;
	uint32_t nr_replicas; /* 1..MC_POOL_REPLICAS */
	uint32_t max_pieces;  /* into how many extents a replica may be cut when no segment holds it whole, 1..MC_POOL_PIECES; 0: 1 */
	uint64_t min_piece;   /* no cut leaves a shorter piece but the last one; 0: 1 MiB */
	const uint32_t *preferred;
	size_t nr_preferred;
};

struct mc_pool_extent {
	uint64_t offset;
	uint64_t len;     /* of the value that lies here; the extent is rounded up to granules */
	uint32_t segment;
	uint32_t id;      /* of the extent in its segment */
	uint32_t replica; /* counted from 0; pieces of one follow each other */
	uint32_t reserved;
};

enum mc_pool_state { MC_POOL_MOUNTED, MC_POOL_DRAINING, MC_POOL_STATE_COUNT };

struct mc_pool_segment_info {
	size_t size;
	uint32_t segment;
	enum mc_pool_state state;
	uint64_t host;
	struct mc_space_stats space; /* its size is filled in by the pool */
};

struct mc_pool_stats {
	size_t size;
	uint64_t bytes, used; /* of all segments, those that drain too */
	uint64_t free;        /* where something new may go: not in those that drain */
	uint64_t metadata;
	uint64_t nr_extents;
	uint32_t nr_segments, nr_draining, nr_hosts;
	uint64_t bytes_open;  /* of the segments where something new may go */
};

/* seed: of random choices; the same seed and the same calls of one thread give the same places.
 *   returns   0; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_pool_new(uint64_t seed, struct mc_pool **ret_pool);
/* Accepts NULL.  since 0.1 */
MC_EXPORT void mc_pool_free(struct mc_pool *pool);

/* Add a segment that lies on a host (any number that is the same for segments of one).  Its name is
 * not used again before 65536 others have had its place.
 *   returns   0; -EINVAL, -ENOMEM; -EMFILE: MC_POOL_SEGMENTS are mounted
 *   since 0.1 */
MC_EXPORT int mc_pool_mount(struct mc_pool *pool, const struct mc_space_options *options, uint64_t host,
			    uint32_t *ret_segment);
/* From now on (or no longer) nothing new goes there.  What lies there stays.
 *   returns   0; -ENOENT
 *   since 0.1 */
MC_EXPORT int mc_pool_drain(struct mc_pool *pool, uint32_t segment, bool drain);
/* Take a segment out with all that lies in it; each (may be NULL) hears of every extent first, in
 * order of offset; it may call the pool.
 *   returns   0; -ENOENT
 *   since 0.1 */
MC_EXPORT int mc_pool_unmount(struct mc_pool *pool, uint32_t segment,
			      int (*each)(void *arg, const struct mc_space_extent *extent), void *arg);

/* Places for a value.  Replicas never share a segment, and are on different hosts as long as there are
 * others with room, which comes before what is preferred and what the strategy says.  [any]
 *   extents   room for nr_replicas * max(max_pieces, 1)
 *   returns   how many replicas have a place (at least 1; all, with MC_POOL_ALL), *ret_nr extents are
 *             filled in; -ENOSPC, -EINVAL, -ENOMEM with nothing taken
 *   since 0.1 */
MC_EXPORT int mc_pool_alloc(struct mc_pool *pool, const struct mc_pool_request *request,
			    struct mc_pool_extent *extents, size_t *ret_nr);
/* As those of a space; -ENOENT too when the segment is not mounted (any more).  since 0.1 */
MC_EXPORT int mc_pool_release(struct mc_pool *pool, uint32_t segment, uint32_t id);
MC_EXPORT int mc_pool_reserve(struct mc_pool *pool, uint32_t segment, uint64_t offset, uint64_t len,
			      uint64_t tag, struct mc_space_extent *ret_extent);
/* mc_space_settle of all segments.  since 0.1 */
MC_EXPORT void mc_pool_settle(struct mc_pool *pool);
MC_EXPORT int mc_pool_get(struct mc_pool *pool, uint32_t segment, uint32_t id,
			  struct mc_space_extent *ret_extent);
MC_EXPORT int mc_pool_each(struct mc_pool *pool, uint32_t segment,
			   int (*each)(void *arg, const struct mc_space_extent *extent), void *arg);
/* One segment; all.  since 0.1 */
MC_EXPORT int mc_pool_segment(struct mc_pool *pool, uint32_t segment, struct mc_pool_segment_info *info);
MC_EXPORT void mc_pool_stats(struct mc_pool *pool, struct mc_pool_stats *stats);

#ifdef __cplusplus
}
#endif

#endif
