/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host for plugins under test, without the core.  It gives a plugin every
 * service of struct mc_host, connects two instances with each other as the core
 * would, checks the plugin's side of the contract and calls breaches by name.
 *
 *   world     clock, key-value table, memory plugins, the list of breaches
 *   instance  one opened transport lane with its worker's loop
 *   link      the control channel between two instances (same or another process)
 *   peer      one end of a rail;  remote: a buffer of the other end;  buf: our own
 *   slice     one operation
 *
 * Without FAKE_THREADS all of it runs on the thread of the test, inside fake_run.
 * With it each instance has a thread; fake_* calls that reach the plugin are
 * carried there and waited for, and fake_call runs any function there.
 *
 * Waiting functions take a bound in real nanoseconds, return 0 or -ETIMEDOUT.
 */
#ifndef MC_CHECK_FAKE_HOST_H
#define MC_CHECK_FAKE_HOST_H

#include <mooncake/memory.h>
#include <mooncake/metadata.h>
#include <mooncake/transport.h>

#include <pthread.h>
#include <sys/types.h>

/* ---- plugins and options ----------------------------------------------------------------- */

/* A plugin with its operations laid over stubs that answer -ENOTSUP. */
struct fake_plugin {
	const struct mc_plugin_desc *desc;
	void *dl;
	char path[512];
	union {
		struct mc_transport_ops transport;
		struct mc_memory_ops memory;
		struct mc_metadata_ops metadata;
		struct mc_filter_ops filter;
	} ops;
	const struct mc_transport_ops *raw; /* transports: the plugin's own table, NULLs included */
	char filters[128]; /* transports: what was stacked over it, at both ends; see unit/filter-stack.h */
};

/* dlopen, check the descriptor, lay the table over the stubs. */
int fake_plugin_load(const char *path, enum mc_kind kind, struct fake_plugin *ret, struct mc_error *err);
/* The same for a table that was linked in. */
int fake_plugin_init(const struct mc_plugin_desc *desc, enum mc_kind kind, struct fake_plugin *ret,
		     struct mc_error *err);
/* Whether the transport itself has an operation: fake_has(p, peer_accept). */
#define fake_has(plugin, op)                                                                       \
	((plugin)->raw->size >= offsetof(struct mc_transport_ops, op) + sizeof((plugin)->raw->op) && \
	 (plugin)->raw->op != NULL)

/* One entry of a plugin's table of options; NULL at its end. */
const struct mc_option *fake_option_at(const struct mc_plugin_desc *desc, size_t i);
/* Parse "name=value" words by a plugin's own table; defaults for the rest.  Free the values with
 * fake_options_free. */
int fake_options_parse(const struct mc_plugin_desc *desc, const char *const *words, size_t nr_words,
		       struct mc_value **ret_values, struct mc_error *err);
void fake_options_free(const struct mc_plugin_desc *desc, struct mc_value *values);

/* ---- world --------------------------------------------------------------------------------- */

#define FAKE_CLOCK (1u << 0)     /* now_ns stands until fake_advance */
#define FAKE_THREADS (1u << 1)   /* a thread per instance */
#define FAKE_UNIX (1u << 2)      /* streams are Unix sockets, not TCP over 127.0.0.1 */
#define FAKE_QUIET (1u << 3)     /* breaches are counted, not printed */

struct fake_world;
struct fake_world *fake_world_new(unsigned flags);
/* Checks that all was given back; returns the number of breaches in the world's life. */
unsigned fake_world_free(struct fake_world *w);
/* Breaches so far, and the sentence of the last one ("" if none). */
unsigned fake_breaches(const struct fake_world *w);
const char *fake_last_breach(const struct fake_world *w);
void fake_breach(struct fake_world *w, const char *fmt, ...) MC_PRINTF(2, 3);
/* The same of any world, the freed ones included. */
const char *fake_last_of_all(void);
void fake_forgive(struct fake_world *w); /* the test meant it: forget the breaches */

uint64_t fake_real_ns(void);
void fake_advance(struct fake_world *w, uint64_t ns);

/* What lease_left_ns answers from now on; at first UINT64_MAX. */
void fake_lease(struct fake_world *w, uint64_t left_ns);

/* Worlds of this process and of those that it forks have one key-value table from now on. */
int fake_kv_share(void);

/* The n-th call from now on of alloc or watch fails, 1 = the next; 0 = never. */
void fake_fail_alloc(struct fake_world *w, unsigned nth);
void fake_fail_watch(struct fake_world *w, unsigned nth);

/* Open a memory plugin; buffers of its kind become possible.  Closed by fake_world_free. */
int fake_memory_open(struct fake_world *w, const struct fake_plugin *plugin,
		     const char *const *words, size_t nr_words, struct mc_error *err);
/* The area of the one that was opened last, which its operations take. */
void *fake_memory_area(struct fake_world *w);

/* Run all instances until cond(ctx) is true (NULL: until nothing happens).  Sleeps only in
 * epoll, after arm has agreed: a lost wake-up is a timeout.  With FAKE_THREADS it only waits. */
typedef bool (*fake_cond)(void *ctx);
int fake_run(struct fake_world *w, fake_cond cond, void *ctx, uint64_t bound_ns);
struct fake_inst;
/* The same with cond asked on the instance's thread; what fake_run's cond reads must otherwise be
 * safe to read from the test's thread. */
int fake_run_on(struct fake_inst *inst, fake_cond cond, void *ctx, uint64_t bound_ns);

/* ---- instances ----------------------------------------------------------------------------- */

struct fake_open {
	const char *device;       /* NULL: "dev0" */
	const char *engine;       /* NULL: "engine-N" */
	uint64_t generation;      /* 0: drawn */
	const char *const *words; /* options, "name=value" */
	size_t nr_words;
	struct fake_inst *lane0;  /* the device's first lane, when this is another */
	uint32_t lane, nr_lanes;  /* 0: 1 */
	uint64_t peer_timeout_ns; /* 0: 5 s */
};

struct fake_counter {
	char name[64];
	uint64_t value;
};

#define FAKE_COUNTERS 64
struct fake_inst {
	struct mc_host host; /* first: the services find the instance by it */
	struct fake_world *world;
	const struct fake_plugin *plugin;
	const struct mc_transport_ops *ops;
	void *priv; /* instance area */
	struct mc_transport_caps caps;
	char device[MC_DEVICE_NAME_MAX + 1], engine[MC_SEGMENT_NAME_MAX + 1], name[128];
	uint64_t generation;
	struct fake_inst *lane0; /* itself in lane 0 */
	uint32_t lane;
	bool paused;          /* the test's: fake_run passes this one over (not with FAKE_THREADS) */
	unsigned nr_inflight; /* slices submitted and not completed */
	int last_event;       /* enum mc_device_event, 0: none */
	unsigned nr_events;
	char event_why[256];
	unsigned nr_counters;
	struct fake_counter counters[FAKE_COUNTERS];
	struct fake_inst_state *st; /* the host's */
};

int fake_open(struct fake_world *w, const struct fake_plugin *plugin, const struct fake_open *how,
	      struct fake_inst **ret_inst, struct mc_error *err);
/* ops->enumerate, without an instance that is open. */
int fake_enumerate(struct fake_world *w, const struct fake_plugin *plugin,
		   int (*found)(void *ctx, const char *device), void *ctx);
/* stop, progress until nothing is in flight, close.  NULL is fine.  0, or -ETIMEDOUT when slices
 * did not end; then the instance is closed all the same. */
int fake_close(struct fake_inst *inst, uint64_t bound_ns);
/* stop alone: leftovers end through fake_run. */
void fake_stop(struct fake_inst *inst);
int fake_reconfigure(struct fake_inst *inst, const char *const *words, size_t nr_words,
		     struct mc_error *err);
/* A counter's value by name; 0 if it does not exist. */
uint64_t fake_counter(const struct fake_inst *inst, const char *name);

/* Run fn on the instance's thread and wait for it (FAKE_THREADS; else call it here). */
void fake_call(struct fake_inst *inst, void (*fn)(void *ctx), void *ctx);
/* One turn of the instance's loop, on its own thread: links, posts, timers, progress; if nothing
 * happened and wait_ns > 0, arm and sleep.  Returns how much happened.  For fn of fake_call. */
int fake_turn(struct fake_inst *inst, uint64_t wait_ns);

/* ---- own buffers ---------------------------------------------------------------------------- */

#define FAKE_GUARD 4096
struct fake_buf {
	struct fake_inst *inst; /* lane 0 */
	struct mc_mem_desc desc;
	unsigned char *base; /* address that requests name; the kind may forbid the CPU to touch it */
	uint64_t len;
	void *region; /* area */
	unsigned holds; /* range_get without range_put */
	bool dying, by_mem_alloc;
	unsigned char blob[MC_EXPORT_BLOB_MAX];
	int blob_len; /* 0: none */
	void *map; /* with its guards */
	uint64_t map_len;
	struct fake_buf *next;
};

/* Allocate len bytes of a kind (NULL: "cpu") between guards and register them.  skew moves the
 * start away from its page boundary. */
int fake_buf_new(struct fake_inst *inst, uint64_t len, uint64_t skew, const char *kind,
		 uint32_t access, struct fake_buf **ret_buf, struct mc_error *err);
/* The device's own memory, by mem_alloc; no guards. */
int fake_buf_new_owned(struct fake_inst *inst, uint64_t len, uint32_t access,
		       struct fake_buf **ret_buf, struct mc_error *err);
/* Refuse new ranges, wait for held ones, unregister, check the guards, free. */
int fake_buf_free(struct fake_buf *buf, uint64_t bound_ns);
/* Bytes at off .. off + len from a seeded pattern that depends on their position; check returns
 * the first wrong offset, or -1. */
void fake_buf_fill(struct fake_buf *buf, uint64_t off, uint64_t len, uint64_t seed);
int64_t fake_buf_check(struct fake_buf *buf, uint64_t off, uint64_t len, uint64_t seed);
/* The same where the pattern starts at `from`: byte off + i holds the pattern's byte from + i. */
void fake_buf_fill_at(struct fake_buf *buf, uint64_t off, uint64_t len, uint64_t seed, uint64_t from);
int64_t fake_buf_check_at(struct fake_buf *buf, uint64_t off, uint64_t len, uint64_t seed,
			  uint64_t from);
bool fake_buf_guards_ok(struct fake_buf *buf);

/* ---- links, peers, remotes ------------------------------------------------------------------- */

struct fake_peer;
struct fake_remote {
	struct fake_peer *peer;
	void *area;
	int status; /* of the import: 0, -EINPROGRESS, -errno */
	uint64_t base, len;
	char kind[32];
	int32_t ordinal;
	uint32_t access;
	unsigned char blob[MC_EXPORT_BLOB_MAX];
	uint32_t blob_len;
	struct fake_remote *next;
};

struct fake_peer {
	struct fake_inst *inst;
	struct fake_link *link;
	uint32_t id;   /* the same at both ends */
	uint32_t epoch;
	bool passive, open, gone; /* gone: the link broke */
	void *area;
	bool ready;        /* peer_ready(0) came and nothing worse since */
	int status;        /* of the last peer_ready; 1 = none yet */
	unsigned nr_ready; /* calls of peer_ready */
	char why[256];
	struct mc_transport_caps caps; /* narrowed */
	unsigned nr_writable;
	uint32_t fenced_epoch, remote_fenced_epoch; /* answers of both ends */
	uint32_t fence_asked;
	bool remote_open; /* the passive object exists */
	bool remote_ready, snapshot; /* the other end is ready; all its buffers were told */
	unsigned nr_inflight;
	uint64_t next_token;
	struct fake_remote *remotes;
	struct fake_peer *next;
};

struct fake_link;
/* Join two instances of this process. */
int fake_link(struct fake_inst *a, struct fake_inst *b, struct fake_link **ret_a,
	      struct fake_link **ret_b);
/* One end of a SOCK_SEQPACKET pair whose other end is in another process; takes the fd. */
int fake_link_fd(struct fake_inst *inst, int fd, struct fake_link **ret_link);

/* Open a peer over a link: the passive object at the other end, the streams of caps.streams, then
 * the other end's buffers.  fake_peer_wait waits for ready at both ends and for all imports. */
int fake_peer_open(struct fake_inst *inst, struct fake_link *link, struct fake_peer **ret_peer);
int fake_peer_wait(struct fake_peer *peer, uint64_t bound_ns);
/* Fence as the core does: this end and, if caps say so, the other; wait for both answers. */
int fake_peer_fence(struct fake_peer *peer, uint64_t bound_ns);
/* How long peer_open may take from now on; 0: 5 s. */
void fake_peer_deadline(struct fake_world *w, uint64_t ns);
/* The two halves alone: begin; and whether it is over. */
int fake_peer_fence_begin(struct fake_peer *peer);
bool fake_peer_fenced(const struct fake_peer *peer);
/* What the core does before all else when it finds that the process was frozen: fence every peer, active
 * and passive, at this end. */
int fake_peers_fence(struct fake_inst *inst, uint64_t bound_ns);
/* After a fence: new streams of the next epoch on the same objects. */
int fake_peer_reattach(struct fake_peer *peer);
/* Release remotes and close at both ends (fenced first by the caller if slices are in flight).
 * The structure is the host's until fake_world_free. */
void fake_peer_close(struct fake_peer *peer);
/* The passive object of a peer, when both are in this process and accepted; else NULL. */
struct fake_peer *fake_peer_other(struct fake_peer *peer);
/* The remote of the other end's buffer with that base, or NULL. */
struct fake_remote *fake_remote_find(struct fake_peer *peer, const void *base);
/* The link breaks, as when the other process dies. */
void fake_link_break(struct fake_link *link);

/* ---- slices ----------------------------------------------------------------------------------- */

enum fake_slice_state { FAKE_IDLE = 0, FAKE_INFLIGHT, FAKE_DONE };
struct fake_slice {
	struct mc_slice s;
	struct fake_world *world;
	struct fake_inst *inst;
	struct fake_peer *peer;
	int state, status, scope;
	uint64_t done_len;
	void (*done)(struct fake_slice *s); /* on the worker, may submit again; or NULL */
	void *user;
	struct fake_slice *next;
};

struct fake_slice *fake_slice_new(struct fake_inst *inst);
void fake_slice_free(struct fake_slice *s);
/* Fill one in.  remote NULL: an address that no buffer of the peer holds, with the first remote
 * buffer's area. */
void fake_slice_set(struct fake_slice *s, struct fake_peer *peer, enum mc_opcode op,
		    struct fake_buf *local, uint64_t local_off, struct fake_remote *remote,
		    uint64_t remote_off, uint64_t len, unsigned flags);
/* ops->submit with its four answers; MC_DONE sets state FAKE_DONE.  No flush. */
int fake_submit(struct fake_slice *s);
void fake_flush(struct fake_inst *inst);
int fake_cancel(struct fake_slice *s);
/* submit (again while -EAGAIN), flush, run until done: the slice's status. */
int fake_transfer(struct fake_slice *s, uint64_t bound_ns);

#endif
