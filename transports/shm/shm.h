/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the shm transport: its objects, and who may touch them.
 *
 * The initiator's CPU moves every byte, in submit (memory that is mapped here) or in flush (memory of
 * another process, many slices per system call); the target only says what may be touched.  It does
 * so in its *table*, a page of words that all its peers map read-only: each registered buffer and
 * each connection has a slot, and may be used as long as the slot holds the key that was told.
 * The initiator raises its *flag* (odd: I am touching memory), looks at both slots, copies at most
 * SHM_CHUNK, and lowers it.  The target empties a slot and then waits for the flags that are raised:
 * on return nobody touches what the slot stood for.
 *
 * Everything of an instance belongs to its worker, except what struct shm_device guards by its lock.
 */
#ifndef MC_SHM_H
#define MC_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include <mooncake/transport.h>

#include "core/util/check.h"
#include "shm_wire.h"

#define SHM_CHUNK (UINT64_C(1) << 20) /* bytes between two looks at the slots and the clock */
#define SHM_IOV 1024u                 /* pieces per system call: IOV_MAX */
#define SHM_LOOK_EVERY (UINT64_C(16) << 10) /* what a slice counts beside its bytes until the next look at the clock */
#define SHM_RECENT 4u
#define SHM_FLAG_SIZE 4096u
#define SHM_TABLE_SIZE (SHM_SLOTS * sizeof(uint64_t))

enum shm_mode { SHM_AUTO, SHM_MAP, SHM_ATTACH };

struct shm;
struct shm_peer;
struct shm_remote;
struct shm_region;

typedef _Atomic uint64_t shm_word;

/* Somebody's flag, as a target sees it. */
struct shm_watcher {
	struct shm_watcher *next; /* device->watchers; under the lock */
	const shm_word *flag;     /* mapped read-only */
	atomic_uint refs;
	atomic_bool dead; /* the process at the other end of the stream has gone: it touches nothing */
};

/* What the lanes of a device share.  It lives in lane 0, whose registrations serve all of them. */
struct shm_device {
	pthread_mutex_t lock; /* slots and watchers: helpers register while workers serve peers.  A leaf */
	shm_word *table;      /* SHM_SLOTS words; written under the lock */
	int table_fd;
	struct shm_region **regions; /* by slot; NULL: a connection's, or free */
	uint32_t *free_slots;        /* stack */
	uint32_t nr_free, nr_slots, cap_slots; /* free ones; ever used; places in both arrays */
	struct shm_watcher *watchers;
};

struct shm_region {
	uint32_t slot;
	uint64_t key;
	uint64_t base, len;
	int share_fd; /* -1: cross-memory attach only; read-only unless peers may write */
	uint64_t share_offset;
};

/* Who a process is. */
struct shm_self {
	uint32_t pid;
	uint8_t boot[16];
	uint64_t pid_ns, start; /* pid_ns: with the time name space in its upper half, by which start is shifted */
	bool proc;              /* /proc is that of our PID name space, so numbers of ours mean something there */
};

/* A slice that waits for flush.  In the slice's private area. */
struct shm_op {
	struct shm_op *next; /* shm->queue */
	struct mc_slice *slice;
	uint64_t done; /* bytes */
	bool cancelled;
};

/* A buffer of the peer's. */
struct shm_remote {
	struct shm_remote *next; /* peer->wants: its memfd was not given yet */
	struct shm_peer *peer;
	uint64_t base, len;
	uint64_t key;
	uint32_t slot, access;
	char *map; /* where base is here; NULL: attach */
	void *map_base;
	uint64_t map_len;
	uint64_t cookie;
	bool asked, waiting; /* waiting: host->imported is owed */
};

enum shm_peer_state { SHM_IDLE = 0, SHM_CONNECTING, SHM_READY, SHM_BROKEN };

struct shm_peer {
	struct shm_peer *prev, *next; /* shm->peers */
	struct shm *shm;
	enum shm_peer_state state;
	bool passive;
	bool attach;  /* initiator: cross-memory attach works */
	bool news, fencing;
	int report;   /* with news: for peer_ready */
	uint32_t epoch, fenced;
	uint64_t flag_seen; /* target, fencing: the flag when the slot was emptied */
	uint64_t fence_until; /* when stopped; until then it is looked at often */
	struct mc_watch watch; /* fd -1: no stream */
	struct mc_timer timer; /* connecting: deadline; target, fencing: look at the flag again */
	/* Receiving. */
	uint8_t in[SHM_MSG_SIZE];
	uint32_t in_len;
	int in_fd; /* came with the message, or -1 */
	bool in_lost; /* one came, and there was no place for it */
	/* Initiator: the target's table, and our connection in it. */
	const shm_word *table;
	uint32_t slot; /* target: ours for it */
	uint64_t key;  /* 0: none */
	pid_t pid;     /* as seen from here; 0: not visible */
	uint32_t uid;
	struct mc_watch life; /* of its process, by a pidfd; fd -1: none */
	struct shm_remote *wants;
	uint64_t next_cookie;
	/* Target. */
	struct shm_watcher *watcher;
	bool owes; /* an answer that the socket did not take */
	struct shm_want owed;
	char name[64]; /* of its segment, for messages; cut if longer */
	char why[256];
};

/* One lane. */
struct shm {
	const struct mc_host *host;
	struct shm_device *dev; /* lane 0's */
	struct shm_device own;  /* lane 0 */
	enum shm_mode mode;
	uint64_t max_slice, peer_timeout_ns;
	bool stopped, news;
	shm_word *flag; /* ours; odd while memory is touched */
	int flag_fd;
	uint64_t look_ns;  /* boot clock: when the clock was last looked at; 0: not since the last flush */
	uint64_t unlooked; /* bytes since */
	const char *recent[SHM_RECENT]; /* where the last large copies went to */
	uint32_t nr_recent;             /* of them, free-running */
	struct shm_op *queue, **queue_tail;
	struct shm_peer *peers;
	struct shm_self self;
	uint8_t probe[SHM_PROBE]; /* what we say in hello, and where peers read it */
	uint64_t *c_mapped, *c_attached, *c_calls, *c_refused, *g_maps;
	struct iovec near[SHM_IOV], far[SHM_IOV];
};

/* shm_device.c: the one device, who we are, and memory that is shared. */
int shm_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device), void *ctx);
int shm_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
	      struct mc_error *err);
int shm_self_read(struct shm_self *ret_self);
/* The start time of a process of our PID namespace: 0, -ENOENT, or -EINVAL. */
int shm_start_of(pid_t pid, uint64_t *ret_start);
/* Why process_vm_readv failed with this errno, and what to do. */
void shm_attach_remedy(int error, pid_t pid, uint32_t uid, char *ret_text, size_t cap);

/* shm_gate.c: tables, flags, registrations. */
int shm_device_open(struct shm_device *dev);
void shm_device_close(struct shm_device *dev);
int shm_flag_open(struct shm *x);
void shm_flag_close(struct shm *x);
/* Map what a peer sent: NULL if it is no sealed memfd of that size or more. */
const void *shm_map_words(int fd, size_t size);
int shm_slot_take(struct shm *x, struct shm_region *region, uint32_t *ret_slot, uint64_t *ret_key);
void shm_slot_empty(struct shm_device *dev, uint32_t slot);
void shm_slot_put(struct shm_device *dev, uint32_t slot);
struct shm_watcher *shm_watcher_new(struct shm_device *dev, int fd);
void shm_watcher_drop(struct shm_device *dev, struct shm_watcher *w);
void shm_watcher_unref(struct shm_watcher *w);
int shm_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc, struct mc_error *err);
void shm_mem_unreg(void *inst, void *region);
int shm_mem_export(void *inst, void *region, void *blob, size_t cap);

/* shm_peer.c: life of a peer, its stream, fences. */
int shm_peer_open(void *inst, void *peer, const struct mc_peer_args *args);
int shm_peer_accept(void *inst, void *peer, const struct mc_peer_args *args);
void shm_peer_attach(void *inst, void *peer, const struct mc_stream *stream);
void shm_peer_close(void *inst, void *peer);
int shm_fence(void *inst, void *peer, uint32_t epoch);
void shm_peer_break(struct shm_peer *p, int status, const char *why);
/* Be told when its process ends, whoever else holds its end of the stream: 0 or -errno. */
int shm_life_watch(struct shm_peer *p);
/* Tell the host what it has not been told; how many things. */
int shm_settle(struct shm *x);
/* 0, -EAGAIN, or -errno: the stream is broken. */
int shm_send(struct shm_peer *p, const struct shm_msg *m, int fd);
/* After a change of wants or owes. */
void shm_rewatch(struct shm_peer *p);

/* shm_hello.c: who is at the other end. */
int shm_hello_send(struct shm_peer *p);
/* Takes fd.  0, or -errno with p->why. */
int shm_hello_check(struct shm_peer *p, const struct shm_hello *h, int fd);

/* shm_import.c: memory of peers. */
int shm_mem_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf);
void shm_mem_release(void *inst, void *remote);
/* Ask for what was not asked for yet: 0, -EAGAIN or -errno. */
int shm_wants_send(struct shm_peer *p);
/* A memfd, which is taken, or why there is none. */
void shm_given(struct shm_peer *p, const struct shm_give *g, int fd);
/* Target: answer, 0, -EAGAIN or -errno. */
int shm_answer(struct shm_peer *p, const struct shm_want *w);

/* shm_copy.c: slices. */
int shm_submit(void *inst, struct mc_slice *slice);
void shm_flush(void *inst);
int shm_cancel(void *inst, struct mc_slice *slice);
/* End what the peer (NULL: anybody) has in the queue. */
void shm_end_queued(struct shm *x, const struct shm_peer *p, int status, int scope);
/* The clock is looked at: was the process frozen since the last look? */
bool shm_was_frozen(struct shm *x);

#endif
