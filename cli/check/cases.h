/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of check-plugin share: the cases, each of which runs in a process
 * of its own, and what they run on.
 */
#ifndef MC_CHECK_CASES_H
#define MC_CHECK_CASES_H

#include "fake-host.h"

#define BOUND (10 * MC_SEC) /* of every wait: long enough for sanitizers, short enough for a person */

#define WHY_MAX 512
#define BENCH_POINTS 6

/* What a case tells its parent, in memory that both share. */
struct told {
	char why[WHY_MAX]; /* the sentence of a failure or a skip */
	int section;       /* of docs/plugin-abi.md that is broken; 0: the case's own */
	uint32_t kind;     /* what the plugin says of itself, once it was loaded; 0: it was not */
	char name[64], version[64];
	char device[MC_DEVICE_NAME_MAX + 1];
	char path[512]; /* of the plugin that was looked for */
	bool over;      /* the case returned: the process was not ended inside it */
	bool nothing;      /* the transport completes slices and moves no byte */
	struct {
		double mbps, us; /* 10^6 bytes per second; microseconds per operation */
	} bench[BENCH_POINTS];
};

struct filter {
	const char *path, *words[16];
	size_t nr_words;
};

struct suite; /* of cases_meta.h */
struct ctx {
	enum mc_kind kind; /* 0 until it is known */
	const char *path, *manifest; /* manifest: NULL, there is none to compare */
	const char *wanted;          /* name of a transport to look for, instead of path */
	const char *over;            /* filters: the transport's file; the filter is then filters[0] */
	struct fake_plugin plugin, memories[4];
	const char *memory_paths[4];
	struct filter filters[4]; /* the first is the innermost */
	unsigned nr_memories, nr_filters;
	const char *device;
	const char *words[64];
	size_t nr_words;
	bool no_data; /* the plugin moves nothing by design */
	uint64_t ttl_ns; /* metadata plugins: of leases that shall end */
	struct suite *meta; /* metadata plugins: set while a case runs */
	struct told *told;
};

/* Load the plugin, the memory plugins and the filters, as every level but the first needs them. */
int ctx_load(struct ctx *c, struct mc_error *err);
/* cases_meta.c: the same for a metadata plugin; one instance is open while a case runs, and nr_children
 * processes wait beside it.  meta_end closes it: FAIL if anything was breached. */
int meta_begin(struct ctx *c, unsigned nr_children, struct mc_error *err);
int meta_end(struct ctx *c);
void meta_tell_breach(struct ctx *c);

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
/* A fake_cond: run for the whole time. */
bool never(void *ctx);
bool has_kind(const char *const *kinds, const char *kind);

/* A queue of slices, each to a place of its own. */
#define DEEP 64
#define PIECE 65536
struct deep {
	struct fake_slice *s[DEEP];
	unsigned nr; /* taken */
};
/* Submit until all are, or the queue is full; FAIL if anything else was answered. */
int deep_submit(struct ctx *c, struct pair *p, struct bufs *b, enum mc_opcode op, struct deep *d);
/* Has every one of a struct deep ended?  A fake_cond. */
bool deep_over(void *deep);
void deep_free(struct deep *d);

enum level { LOADS, LIVES, MOVES, BEHAVES, PERFORMS, NR_LEVELS };

struct test_case {
	enum level level; /* cases of LOADS open the file themselves */
	const char *name;
	int (*run)(struct ctx *c);
	int section; /* of docs/plugin-abi.md that a failure breaks, unless a breach says better */
	unsigned children; /* processes that a case of a metadata plugin needs */
};
/* Each ends with run == NULL. */
extern const struct test_case load_cases[], life_cases[], data_cases[], peer_cases[], process_cases[],
	meta_cases[], meta_key_cases[], meta_watch_cases[], meta_many_cases[], mem_cases[], mem_copy_cases[], filter_cases[];

/* Each option of a table at the ends of its range, by try, which opens with it and closes. */
int options_try(struct ctx *c, const struct mc_plugin_desc *d,
		int (*try)(struct ctx *c, const char *name, const char *value));

/* Does the descriptor say what the manifest says?  FAIL or SKIP with the sentence. */
int case_manifest(struct ctx *c);
/* Does the loader take the file?  Tells name, version and kind. */
int case_head(struct ctx *c);
/* Find the file of the transport c->wanted, as the core would: told->path. */
int find_wanted(struct ctx *c);
/* Does the transport move anything at all?  told->nothing. */
int find_nothing(struct ctx *c);
/* The bench of one plugin: fills told->bench. */
int bench_run(struct ctx *c);
extern const struct bench_point {
	const char *name;
	enum mc_opcode op;
	uint64_t len;
	unsigned depth;
} bench_points[BENCH_POINTS];

#endif
