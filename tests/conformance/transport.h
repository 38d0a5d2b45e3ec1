/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the transport conformance program share. */
#ifndef CONFORMANCE_TRANSPORT_H
#define CONFORMANCE_TRANSPORT_H

#include "fake-host.h"

#define BOUND (10 * MC_SEC) /* of every wait: long enough for sanitizers, short enough for a person */

struct ctx {
	struct fake_plugin plugin, memories[4];
	unsigned nr_memories;
	const char *device;
	const char *words[64];
	size_t nr_words;
	bool no_data; /* the plugin moves nothing by design */
	char *why;    /* 512 bytes, shared with the parent: the sentence of a failure or a skip */
};

/* A case returns one of these. */
enum { PASS = 0, FAIL = 1, SKIP = 77 };
int fail(struct ctx *c, const char *fmt, ...) MC_PRINTF(2, 3);
int skip(struct ctx *c, const char *fmt, ...) MC_PRINTF(2, 3);

#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return fail(c, __VA_ARGS__);                                               \
	} while (0)

/* Two connected engines in one process. */
struct pair {
	struct fake_world *w;
	struct fake_inst *a, *b; /* initiator, target */
	struct fake_link *la, *lb;
	struct fake_peer *peer;
};
/* World, memory plugins, both instances, link; the peer too unless unconnected. */
int pair_open(struct ctx *c, struct pair *p, unsigned flags, bool connect);
int pair_connect(struct ctx *c, struct pair *p);
/* Closes all; FAIL if anything was breached. */
int pair_close(struct ctx *c, struct pair *p);
int open_one(struct ctx *c, struct fake_world *w, struct fake_inst **ret, struct mc_error *err);
struct fake_world *world_open(struct ctx *c, unsigned flags);

/* A local buffer at the initiator, one at the target, and the remote of it. */
struct bufs {
	struct fake_buf *local, *target;
	struct fake_remote *remote;
};
int bufs_open(struct ctx *c, struct pair *p, uint64_t len, const char *local_kind,
	      const char *target_kind, uint32_t access, struct bufs *ret);
/* Wait until the initiator has imported a buffer of the target. */
int remote_wait(struct ctx *c, struct pair *p, struct fake_buf *target, struct fake_remote **ret);
int bufs_close(struct ctx *c, struct pair *p, struct bufs *b);

/* One slice from start to end; its status. */
int transfer(struct pair *p, enum mc_opcode op, struct fake_buf *local, uint64_t local_off,
	     struct fake_remote *remote, uint64_t remote_off, uint64_t len, int *ret_scope);
/* Make earlier writes visible, where the transport needs that. */
int make_visible(struct pair *p, struct bufs *b);
/* A write and a read of 4 KiB with fresh patterns, verified. */
int works(struct ctx *c, struct pair *p, struct bufs *b, uint64_t seed);
uint64_t align_up(const struct pair *p, uint64_t n);
uint64_t largest(const struct pair *p);
bool has_kind(const char *const *kinds, const char *kind);

struct test_case {
	const char *name;
	int (*run)(struct ctx *c);
};
extern const struct test_case life_cases[], data_cases[], peer_cases[];

#endif
