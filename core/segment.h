/* SPDX-License-Identifier: Apache-2.0 */
/* Our own segment: registered buffers, their regions on each device, and the table that peers see. */
#ifndef MC_CORE_SEGMENT_H
#define MC_CORE_SEGMENT_H

#include <stdatomic.h>

#include "device.h"

/* A registered range, all in one location.  A `*` registration may be several. */
struct mc_local_buf {
	uint32_t id; /* never reused in a generation */
	uint32_t access;
	uint64_t base, len;
	char location[MC_LOCATION_MAX + 1];
	/* Of our matrix, for it; NULL: none.  A reload puts another in place. */
	_Atomic(const struct mc_matrix_row *) row;
	char kind[MC_PLUGIN_NAME_MAX + 1];
	int32_t ordinal;
	int32_t share_fd;      /* a memfd behind it, its registration's, or -1 */
	uint64_t share_offset; /* of base in it */
	uint32_t users;     /* ranges held by slices and peers; atomic */
	bool closing;       /* no new users; atomic */
	bool fenced;        /* the users' time is over: their requests end; atomic */
	struct mc_local *local;
	/* By device idx: area of its registration, or NULL.  A reload fills empty places. */
	_Atomic(void *) *regions;
	struct mc_local_blob *blobs; /* by device idx: what peers need; data NULL if none */
	atomic_bool lacks;  /* some device could not register it; for each, set before it is used */
};
struct mc_local_blob {
	uint16_t len;
	uint8_t *data;
	bool lacks; /* this one could not */
	char *why;  /* a sentence; NULL unless it lacks */
};

/* Call f for every buffer that peers may see, in order of id.  The id that the next buffer gets: one
 * with a lower id that f was not called with is gone.  Holds the table's lock: f must not call back.
 * [any] */
uint32_t mc_local_each(struct mc_engine *engine, void (*f)(const struct mc_local_buf *buf, void *arg),
		       void *arg);

int mc_local_new(struct mc_engine *engine);
/* Every registration that is left is dropped; no device uses them any more. */
void mc_local_close(struct mc_engine *engine);
void mc_local_free(struct mc_engine *engine);

/* The buffer that holds [addr, addr + len), its users counted up until mc_local_put; NULL: none.
 * Takes no lock.  [any] */
struct mc_local_buf *mc_local_find(struct mc_engine *engine, const void *addr, uint64_t len);
/* The same for a range that a peer named: NULL also when the buffer lacks one of the rights. */
struct mc_local_buf *mc_local_find_range(struct mc_engine *engine, uint64_t offset, uint64_t len,
					 uint32_t access);
/* One more user of a buffer that is held already. */
void mc_local_hold(struct mc_local_buf *buf);
void mc_local_put(struct mc_local_buf *buf);

/* Behind mc_memory_*.  [any] but control, workers and callbacks */
int mc_local_register(struct mc_engine *engine, void *addr, uint64_t len, const char *location,
		      uint32_t access, uint64_t deadline_ns, struct mc_error *err);
int mc_local_unregister(struct mc_engine *engine, void *addr, uint64_t deadline_ns,
			struct mc_error *err);
int mc_local_alloc(struct mc_engine *engine, const char *location, uint64_t size, uint32_t access,
		   uint64_t deadline_ns, void **ret_addr, struct mc_error *err);
int mc_local_free_memory(struct mc_engine *engine, void *addr, uint64_t deadline_ns,
			 struct mc_error *err);

/* Bring the caches and memory that is not coherent together; how: enum mc_sync.  0; -EFAULT: the range lies
 * in no buffer.  [any] */
int mc_local_sync(struct mc_engine *engine, void *addr, uint64_t len, enum mc_sync how);

/* ---- reload.c: buffers under another matrix; segment_reload.c ---- */

/* Wait until no registration begins or ends, and let none do so until the thaw: they wait.  -ETIMEDOUT.
 * [any] that may wait */
int mc_local_freeze(struct mc_engine *engine, uint64_t deadline_ns);
void mc_local_thaw(struct mc_engine *engine);
/* Register every buffer where the plan's matrix wants it and it is not; nobody sees it yet.  A matrix
 * that covers less of our memory than the one in force is refused.  While frozen. */
struct mc_local_change;
int mc_local_change_new(const struct mc_device_plan *plan, uint64_t deadline_ns,
			struct mc_local_change **ret_change, struct mc_error *err);
/* The buffers have these registrations, and peers are told.  The devices are adopted.  Does not fail. */
void mc_local_change_adopt(struct mc_engine *engine, struct mc_local_change *change);
/* From now on new requests go by the rows of the plan's matrix.  Does not fail. */
void mc_local_change_rows(struct mc_local_change *change);
/* Takes back what was not adopted. */
void mc_local_change_free(struct mc_engine *engine, struct mc_local_change *change);

/* A handle of another engine's segment: one generation of it.  When that is gone, requests on the
 * handle fail with the session's status and the caller opens the name again. */
struct mc_segment {
	struct mc_engine *engine;
	struct mc_session *session; /* a reference */
	uint64_t generation;
	struct mc_segment *prev, *next; /* engine->segments */
	char name[MC_SEGMENT_NAME_MAX + 1];
};

#endif
