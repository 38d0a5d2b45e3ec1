/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the rpc service "store" between the master and its clients.  One function
 * per message reads it or writes it, so both ends agree by construction.
 *
 *   request   0 u16 version · 2 u16 flags (the method's) · 4 u32 count of entries ·
 *             8 client id[16] · 24 text tenant · body
 *   reply     0 u16 version · 2 u16 flags · 4 u32 count · 8 u64 epoch of the master · body;
 *             with a status below zero of the call as a whole: a text, the sentence
 *
 * Integers are little-endian and lie at any alignment.  A text is u16 bytes with the NUL, and
 * the bytes with the NUL; a key is u16 bytes and the bytes.  Later versions append to heads of
 * bodies and to entries, and nothing else; who reads an older version leaves what is not there
 * as it was.  What is read is borrowed from the message.
 */
#ifndef MC_STORE_WIRE_H
#define MC_STORE_WIRE_H

#include "master_state.h"

#define MC_STORE_SERVICE "store"
#define MC_WIRE_VERSION_MIN 1
#define MC_WIRE_VERSION_MAX 1
#define MC_WIRE_COUNT_MAX 4096   /* entries of a message */
#define MC_WIRE_PREFERRED_MAX 64 /* segments that a put may name */
#define MC_WIRE_EVICT_MAX 32     /* generations in a ping, both ways */
#define MC_WIRE_SENTENCE_MAX 1024

enum mc_wire_method {
	MC_WIRE_HELLO = 1,
	MC_WIRE_PING,
	MC_WIRE_LEAVE,
	MC_WIRE_MOUNT,
	MC_WIRE_UNMOUNT,
	MC_WIRE_DRAIN,
	MC_WIRE_SEGMENTS,
	MC_WIRE_PUT_START,
	MC_WIRE_PUT_END,
	MC_WIRE_PUT_REVOKE,
	MC_WIRE_GET,
	MC_WIRE_EXIST,
	MC_WIRE_REMOVE,
	MC_WIRE_REMOVE_MATCH,
	MC_WIRE_QUERY,
	MC_WIRE_PIN,
	MC_WIRE_QUOTA,
	MC_WIRE_TENANTS,
	MC_WIRE_STATS,
	MC_WIRE_METHOD_END
};

/* A message on its way in or out. */
struct mc_wire {
	const uint8_t *from; /* reading: what is left */
	uint8_t *to;         /* writing: where to go on; NULL: reading */
	size_t left;
	uint16_t version;
	bool broken; /* too short, too long, or nonsense: no field of it counts */
};

static inline struct mc_wire mc_wire_reader(const void *data, size_t len)
{
	return (struct mc_wire){.from = data, .left = len};
}

static inline struct mc_wire mc_wire_writer(void *data, size_t cap)
{
	return (struct mc_wire){.to = data, .left = cap};
}

/* What a written message has become, in a buffer of cap bytes; 0: it did not fit. */
static inline size_t mc_wire_len(const struct mc_wire *wire, size_t cap)
{
	return wire->broken ? 0 : cap - wire->left;
}

/* After the last field of what is read: 0; -EBADMSG: broken.  What a later version appended is passed over. */
int mc_wire_end(const struct mc_wire *wire);
/* The version that both ranges have, the highest; 0: none. */
uint16_t mc_wire_common(uint16_t min, uint16_t max, uint16_t peer_min, uint16_t peer_max);

struct mc_wire_request {
	uint16_t version, flags;
	uint32_t count; /* <= MC_WIRE_COUNT_MAX, or broken */
	struct mc_master_client_id client;
	const char *tenant; /* never NULL */
};

struct mc_wire_reply {
	uint16_t version, flags;
	uint32_t count;
	uint64_t epoch;
};

#define MC_WIRE_MORE (1u << 0)    /* SEGMENTS, TENANTS: ask again from the last one on */
#define MC_WIRE_REMOUNT (1u << 0) /* PING */
#define MC_WIRE_FULL (1u << 0)    /* PUT_START: mc_wire_full comes before the entries */

/* The heads come first.  A version outside of the range is broken unless `any_version` (HELLO). */
void mc_wire_request(struct mc_wire *w, struct mc_wire_request *head, bool any_version);
void mc_wire_reply(struct mc_wire *w, struct mc_wire_reply *head);
/* The sentence of a reply that failed: writes at most MC_WIRE_SENTENCE_MAX bytes of it. */
void mc_wire_sentence(struct mc_wire *w, const char **text);

/* HELLO.  What a client's process is called and its generation come from the rpc itself. */
struct mc_wire_hello {
	uint16_t min, max;
	uint64_t host; /* the same for all engines of one host */
};
struct mc_wire_welcome {
	uint16_t version, min, max; /* version 0: none in common, and nothing below counts */
	uint32_t granule;
	uint64_t lease_ns, put_ttl_ns, client_ttl_ns;
};
void mc_wire_hello(struct mc_wire *w, struct mc_wire_hello *hello);
void mc_wire_welcome(struct mc_wire *w, struct mc_wire_welcome *welcome);

/* PING: count generations, both ways; list has MC_WIRE_EVICT_MAX places.  LEAVE has no body. */
void mc_wire_generations(struct mc_wire *w, uint32_t count, uint64_t *list);

/* MOUNT: what the client fills in; answered by mc_wire_number (the segment's id). */
void mc_wire_mount(struct mc_wire *w, struct mc_master_segment *segment);
/* UNMOUNT. */
void mc_wire_uuid(struct mc_wire *w, uint8_t uuid[16]);
/* DRAIN: segment, and 1 or 0.  SEGMENTS: from which id on. */
void mc_wire_number(struct mc_wire *w, uint32_t *number);
/* SEGMENTS' answer: count of these. */
void mc_wire_segment(struct mc_wire *w, struct mc_master_segment *segment);

/* PUT_START: flags of the head are MC_MASTER_PUT_*; preferred has MC_WIRE_PREFERRED_MAX places, config points to it
 * when it was read.  Sets neither tenant nor flags of config. */
void mc_wire_put_config(struct mc_wire *w, struct mc_master_put_config *config, uint32_t *preferred);
void mc_wire_puts(struct mc_wire *w, uint32_t count, struct mc_master_put *puts);
void mc_wire_full(struct mc_wire *w, struct mc_master_full *full);
/* Its answer, without keys.  Reading: extents are appended (broken when there is no room); writing: entries that do not fit become
 * -ENOBUFS. */
void mc_wire_places(struct mc_wire *w, uint32_t count, struct mc_master_put *puts, struct mc_master_extents *extents);

/* PUT_END, PUT_REVOKE; answered by mc_wire_statuses. */
void mc_wire_ends(struct mc_wire *w, uint32_t count, struct mc_master_end *ends);

/* GET, EXIST: flags of the head are MC_MASTER_GET_*. */
void mc_wire_gets(struct mc_wire *w, uint32_t count, struct mc_master_got *gots);
/* Their answer, without keys; extents NULL (EXIST): none.  As mc_wire_places. */
void mc_wire_gots(struct mc_wire *w, uint32_t count, struct mc_master_got *gots, struct mc_master_extents *extents,
		  uint64_t *lease_ns);

/* REMOVE (flags MC_MASTER_REMOVE_*), PIN (span first): keys; answered by statuses, `stride` bytes from one to the next. */
void mc_wire_keys(struct mc_wire *w, uint32_t count, struct mc_master_named *keys);
void mc_wire_statuses(struct mc_wire *w, uint32_t count, int32_t *statuses, size_t stride);
/* PIN: span; QUOTA: bytes. */
void mc_wire_amount(struct mc_wire *w, uint64_t *amount);

/* REMOVE_MATCH, QUERY. */
struct mc_wire_match {
	enum mc_master_match match;
	const char *pattern;
	uint64_t cursor;
	uint32_t max; /* QUERY */
};
void mc_wire_match(struct mc_wire *w, struct mc_wire_match *match);
struct mc_wire_removed {
	uint64_t cursor, removed, refused;
};
void mc_wire_removed(struct mc_wire *w, struct mc_wire_removed *removed);
/* QUERY's answer: mc_wire_amount (cursor), then count of these. */
void mc_wire_object(struct mc_wire *w, struct mc_master_object *object);

struct mc_wire_tenant {
	const char *name;
	uint64_t quota, used, nr_objects;
};
void mc_wire_tenant(struct mc_wire *w, struct mc_wire_tenant *tenant);
void mc_wire_stats(struct mc_wire *w, struct mc_master_stats *stats);

#endif
