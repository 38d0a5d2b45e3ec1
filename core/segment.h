/* SPDX-License-Identifier: Apache-2.0 */
/* Our own segment: registered buffers, their regions on each device, and the table that peers see. */
#ifndef MC_CORE_SEGMENT_H
#define MC_CORE_SEGMENT_H

#include "device.h"

/* A registered range, all in one location.  A `*` registration may be several. */
struct mc_local_buf {
	uint32_t id; /* never reused in a generation */
	uint32_t access;
	uint64_t base, len;
	char location[MC_LOCATION_MAX + 1];
	char kind[MC_PLUGIN_NAME_MAX + 1];
	int32_t ordinal;
	uint32_t refs;      /* registrations that count on it; under local->lock */
	uint32_t users;     /* ranges held by slices and peers; atomic */
	bool closing;       /* no new users; atomic */
	void **regions;     /* by device idx: area of its registration, or NULL */
	struct mc_local_blob *blobs; /* by device idx: what peers need; data NULL if none */
};
struct mc_local_blob {
	uint16_t len;
	uint8_t *data;
};

/* Call f for every buffer that peers may see, in order of id, with the table's version.  The
 * version grows with each change.  Holds the table's lock: f must not call back.  [any] */
uint64_t mc_local_each(struct mc_engine *engine, void (*f)(const struct mc_local_buf *buf, void *arg),
		       void *arg);

#endif
