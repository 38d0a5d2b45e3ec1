/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test-only transport `keys`: the shape of rdma and cxl without their hardware.
 * The device of an engine is a shared page with a table of keys, as a NIC holds
 * memory regions; a connection is a shared page with the state of its queue at
 * both ends.  The initiator moves bytes by itself: by memcpy inside a process,
 * else by process_vm_readv and process_vm_writev.  The target runs no code for
 * them, so dropping a key or fencing a queue waits only for copies under way.
 */
#ifndef TEST_KEYS_H
#define TEST_KEYS_H

#include <mooncake/transport.h>

#include <stdatomic.h>
#include <sys/types.h>

#ifndef KEYS_NAME
#define KEYS_NAME "keys"
#endif
#ifndef KEYS_FLAGS
#define KEYS_FLAGS 0 /* MC_PLUGIN_* */
#endif

#define NR_KEYS 1024
#define DELAY_MAX 4096 /* larger writes are visible at once, as on a real bus */
#define NR_DELAYED 64
#define BLOB_LEN 48
#define MSG_LEN 16
#define NR_OFFLOAD 8

/* One registration, as the device sees it.  Little over a cache line; shared between processes. */
struct key_entry {
	_Atomic uint64_t key; /* 0: free or being changed */
	_Atomic uint64_t base, len, access, alias; /* alias: where the target's CPU reaches it */
};
struct device_page {
	_Atomic uint32_t users; /* copies under way; unregistering waits for none */
	struct key_entry keys[NR_KEYS];
};

enum queue_state { QUEUE_READY = 0, QUEUE_ERROR = 1 };
struct queue_page {
	_Atomic uint32_t state; /* enum queue_state; either end sets QUEUE_ERROR */
	_Atomic uint32_t busy;  /* copies under way; the target's fence waits for none */
};

struct keys_region {
	uint32_t idx;
	uint64_t key, base, len;
	unsigned char *alias; /* where our CPU reaches it: base itself for "cpu" */
	bool mapped;          /* alias is our mapping of a dma-buf */
	void *owned;          /* mem_alloc: the memory */
};

struct keys_remote {
	struct keys_remote *next; /* imports that wait for their answer */
	struct keys_peer *peer;
	uint64_t key;
	uint32_t idx;
	bool waiting;
};

struct keys_slice {
	struct keys_slice *next;
	struct mc_slice *slice;
	uint64_t due_ns;
	int status; /* set: fails without moving anything */
	int scope;
	bool offloaded;
};

/* A small write that has completed but is not yet visible at the target. */
struct delayed {
	uint64_t remote; /* address at the target */
	uint32_t len;
	unsigned char bytes[DELAY_MAX];
};

/* Opening the other end's page may block, so a helper does it.  Not in the peer's area: the peer
 * may close first. */
struct map_job {
	struct mc_work work;
	struct keys *keys;
	struct keys_peer *peer; /* NULL: closed meanwhile */
	uint32_t pid, fd;
	size_t len;
	void *map;
	int status;
};

struct keys_peer {
	struct keys *keys;
	bool passive, ready, want_room;
	atomic_bool dead; /* helpers that copy look at it */
	pid_t pid;
	int fd; /* initiator: of the queue page */
	struct queue_page *queue;
	struct device_page *device; /* initiator: the target's keys */
	struct map_job *job;
	struct delayed *delayed; /* initiator: NR_DELAYED of them */
	unsigned nr_delayed, nr_inflight, nr_offloaded;
	uint32_t fence_epoch; /* asked and not answered */
	struct mc_timer timer; /* initiator: connecting ends; target: the fence looks again */
};

struct offload {
	struct mc_work work;
	struct keys *keys;
	struct keys_slice *ks;
	int status;
};

struct keys {
	const struct mc_host *host;
	struct keys *lane0;
	/* lane 0 */
	int device_fd;
	struct device_page *device;
	/* options */
	int64_t fail_nth, latency_ns, bandwidth, depth, offload_from;
	int fail_scope;
	bool delay_writes, any_thread;
	size_t max_inline;
	uint64_t max_reg, alignment, max_slice;
	const char *trigger;
	/* worker */
	bool stopping;
	uint64_t nr_submits, busy_until_ns;
	struct keys_slice *head, **tail;
	unsigned nr_queued;
	struct keys_remote *imports;
	struct mc_work import_work, start_work;
	bool import_posted;
	struct mc_watch doorbell_watch;
	int doorbell_fd;
	struct mc_timer due_timer, trigger_timer;
	int last_trigger;
	struct offload offload[NR_OFFLOAD];
	struct mc_kv_call kv_put, kv_watch, kv_step;
	char kv_key[512], kv_own_key[128], address[64];
	bool watching;
	unsigned kv_at; /* step */
	uint64_t kv_revision, kv_old_revision;
	_Atomic uint64_t nr_owned; /* regions of mem_alloc; changed by helpers */
	_Atomic uint64_t nr_synced; /* calls of mem_sync, from any thread */
	uint64_t *nr_reads, *nr_writes, *nr_bytes, *nr_flushes, *nr_fences, *nr_offloads;
	uint64_t *nr_regions; /* gauge */
	uint64_t *nr_kv_events, *nr_kv_found, *nr_kv_wrong;
};

/* keys_queue.c */
int keys_submit(void *inst, struct mc_slice *slice);
void keys_flush(void *inst);
int keys_progress(void *inst);
int keys_arm(void *inst);
int keys_cancel(void *inst, struct mc_slice *slice);
int keys_queue_init(struct keys *k);
void keys_queue_fini(struct keys *k);
/* End every queued slice of the peer up to the epoch. */
void keys_queue_fail(struct keys *k, struct keys_peer *p, uint32_t epoch);
void keys_fence_answer(struct keys *k, struct keys_peer *p);

/* keys_kv.c */
void keys_kv_open(struct keys *k, const struct mc_open_args *args);
void keys_kv_stop(struct keys *k);

/* keys_peer.c */
int keys_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int keys_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void keys_peer_msg(void *inst, void *peer, const void *msg, size_t len);
void keys_peer_close(void *inst, void *peer);
int keys_fence(void *inst, void *peer, uint32_t epoch);
int keys_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf);
void keys_release(void *inst, void *remote);
void keys_peer_init(struct keys *k);

#endif
