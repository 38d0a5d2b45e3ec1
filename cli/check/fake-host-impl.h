/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the fake host share; tests include fake-host.h only. */
#ifndef MC_CHECK_FAKE_HOST_IMPL_H
#define MC_CHECK_FAKE_HOST_IMPL_H

#include "fake-host.h"

enum area_kind { AREA_INSTANCE = 1, AREA_REGION, AREA_PEER, AREA_REMOTE, AREA_SLICE };

/* fake-area.c */
/* A zeroed private area between guard bytes.  Released ones stay until the world ends, poisoned,
 * so that a late touch is seen. */
void *area_new(struct fake_world *w, enum area_kind kind, size_t size, void *owner);
void area_release(struct fake_world *w, void *area);
/* Its owner; NULL if it is no living area of the kind. */
void *area_owner(const void *area, enum area_kind kind);
/* Free the released ones, and say which were touched. */
void quarantine_free(struct fake_world *w);

struct msg;

struct fake_job {
	struct fake_job *next;
	void (*run)(struct fake_job *job);
	void *a, *b;
	int64_t n;
};

enum source_kind { SOURCE_INBOX = 1, SOURCE_WATCH, SOURCE_LINK };
struct fake_source {
	int kind;
	bool dead;
	void *obj;
	struct fake_source *next; /* on the list of dead ones */
};

struct fake_inst_state {
	struct fake_inst *next;
	int epfd, evfd;
	struct fake_source inbox;
	struct fake_source *dead_sources;
	struct mc_timer *timers; /* linked by host[0] */
	pthread_mutex_t lock;    /* jobs, outstanding; others than the worker add */
	struct fake_job *jobs, **jobs_tail;
	unsigned outstanding;    /* run_blocking, copies and kv calls that will still answer */
	pthread_t worker, thread;
	bool threaded, in_submit, in_cancel, in_open, closed, quit;
	unsigned busy_turns;
	unsigned nr_any; /* completions of complete_any that are not delivered yet; atomic */
	unsigned nr_watches, nr_allocs, dispatching;
	struct fake_link *links;
	struct fake_peer *peers;
	struct fake_buf *bufs; /* lane 0's */
};

struct fake_kv_entry {
	struct fake_kv_entry *next;
	char *key;
	void *value;
	uint64_t len, revision;
};

struct fake_kv_watch {
	struct fake_kv_watch *next;
	struct fake_inst *inst;
	struct mc_kv_call *call;
};

struct fake_memory {
	struct fake_inst inst; /* for its services; never in the world's list */
	const struct fake_plugin *plugin;
	void *priv;
	struct mc_value *values;
	struct fake_memory *next;
};

struct fake_world {
	unsigned flags;
	uint64_t clock_ns; /* FAKE_CLOCK; atomic */
	int epfd;          /* holds every instance's, without FAKE_THREADS */
	pthread_mutex_t lock; /* everything below; services of several threads come here */
	pthread_cond_t moved; /* FAKE_THREADS: some instance did something */
	unsigned breaches;
	char last[512];
	unsigned fail_alloc, fail_watch, nr_engines;
	uint64_t peer_deadline_ns; /* how long peer_open may take; 0: 5 s */
	struct fake_inst *insts;
	struct fake_memory *memories;
	struct fake_kv_entry *kv;
	struct fake_kv_watch *kv_watches;
	uint64_t kv_revision;
	uint64_t lease_used; /* atomic; UINT64_MAX minus what is left */
	struct area_head *quarantine;
	struct fake_peer *old_peers;
};

/* The operation of [helper] that runs on this thread, or NULL: without FAKE_THREADS the test's thread
 * is the worker, too, and is none while it is here. */
extern _Thread_local const char *helper_op;
#define AS_HELPER(name, call)      \
	do {                       \
		helper_op = #name; \
		call;              \
		helper_op = NULL;  \
	} while (0)
/* Where a service of [worker] was called from: "another thread", or the operation of [helper]. */
const char *called_from(void);

/* fake-host.c */
uint64_t world_now(const struct fake_world *w);
/* fake-loop.c */
int inst_state_new(struct fake_inst *inst);
void inst_state_free(struct fake_inst *inst);
void inst_thread_start(struct fake_inst *inst);
void inst_thread_end(struct fake_inst *inst);
int jobs_run(struct fake_inst *inst);
bool on_worker(const struct fake_inst *inst);
void inst_push(struct fake_inst *inst, struct fake_job *job);
void inst_post(struct fake_inst *inst, void (*run)(struct fake_job *job), void *a, void *b, int64_t n);
void inst_outstanding(struct fake_inst *inst, int delta);
int inst_add_source(struct fake_inst *inst, int fd, uint32_t events, struct fake_source *s);
void inst_drop_source(struct fake_inst *inst, int fd, struct fake_source *s);
/* fake-services.c */
void services_fill(struct mc_host *host, const char *instance);
void timers_fire(struct fake_inst *inst, int *happened);
uint64_t timers_next(const struct fake_inst *inst);
struct fake_inst *inst_of(const struct mc_host *h);
/* [worker], and [helper] inside open and close (where the opener's thread is the worker). */
void expect_worker(struct fake_inst *inst, const char *service);
/* fake-kv.c */
int kv_service_call(const struct mc_host *h, struct mc_kv_call *c);
void kv_service_event(const struct mc_host *h, void *watch, const struct mc_kv *kv);
void kv_free(struct fake_world *w);
/* fake-peer.c */
void link_ready(struct fake_link *link);
int links_flush(struct fake_inst *inst);
void links_close(struct fake_inst *inst);
struct fake_peer *peer_find(struct fake_link *l, uint32_t id);
struct fake_peer *peer_new(struct fake_link *l, uint32_t id, uint32_t epoch, bool passive);
/* The object goes, the structure stays for the test. */
void peer_drop(struct fake_peer *p);
void peer_args_fill(struct fake_peer *p, const struct msg *m, struct mc_peer_args *args);
void peer_make_streams(struct fake_peer *p);
void peers_tell_buffer(struct fake_inst *inst, struct fake_buf *buf, bool gone);
int peer_service_send(const struct mc_host *h, void *area, const void *msg, size_t len);
void peer_service_ready(const struct mc_host *h, void *area, int status,
			const struct mc_transport_caps *caps, const char *why);
void peer_service_writable(const struct mc_host *h, void *area);
void peer_service_fenced(const struct mc_host *h, void *area, uint32_t epoch);
int peer_service_dial(const struct mc_host *h, void *area, uint64_t token);
void peer_service_imported(const struct mc_host *h, void *area, int status);
/* fake-peer-calls.c */
void peers_close(struct fake_inst *inst, uint64_t bound_ns);
/* fake-buf.c */
int buf_service_get(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
		    uint64_t len, uint32_t access, struct mc_range *range);
void buf_service_put(const struct mc_host *h, struct mc_range *range);
int buf_service_copy(const struct mc_host *h, struct mc_copy *c);
int buf_service_identify(const struct mc_host *h, const void *addr, uint64_t len,
			 struct mc_mem_desc *desc);
void buf_service_copied(const struct mc_host *h, struct mc_copy *c, int status);
void memories_close(struct fake_world *w);
void inst_bufs_close(struct fake_inst *inst);

#endif
