/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a get.
 *
 * Threads: the scout (record, sources, blocks: all that may wait for metadata or a connection), the driver (time,
 * bitmaps) and the lanes (READ, hash).  GRANTs are asked for by whoever sees that something can be asked for; the
 * rpc worker brings the answers, which become tasks for the lanes.  get->lock guards all but what is said to be one
 * thread's; it is never held across a call of the engine that may run a worker or wait. */
#ifndef MC_P2P_GET_H
#define MC_P2P_GET_H

#include "p2p_impl.h"
#include "p2p_pick.h"

#define GET_SOURCES 32               /* that are asked at once */
#define GET_SLOTS (GET_SOURCES + 8)  /* the same and those that are not closed yet */
#define GET_TASKS 256
#define GET_KNOWN 256                /* sources whose failures are remembered */
#define GET_LANES_MAX 64
#define GET_WAIT_NS (5 * MC_SEC)     /* for a connection, a block, a READ of the scout's */
#define GET_LEAVE_NS (MC_SEC / 2)    /* for answers that are still to come when a get is over */
#define GET_SILENT "its engine does not answer"

struct get_source {
	struct get_source *next;
	struct mc_p2p_get *get;
	struct mc_p2p_offer offer;
	uint64_t revision, begun_ns;
	enum mc_p2p_near near;
	struct mc_segment *segment;
	struct mc_rpc_client *client;
	struct mc_p2p_block layout;
	struct mc_p2p_map map;  /* its ranges */
	uint32_t idx;           /* in pick, until dropped */
	uint32_t slot;          /* of the arena, for its bitmap */
	uint32_t refs;          /* who uses segment or client just now; lock */
	bool waiting;           /* somebody waits for an answer to LEAVE; lock */
	int heard;              /* the status of that answer; lock */
	bool dropped;           /* lock */
	int lost;               /* why it was dropped, which is still to be told; lock */
	char lost_why[48];      /* lock */
	uint32_t nr_bad;        /* shards from it that did not verify at first; lock */
	uint32_t held;          /* slots that we have there; atomic */
	uint64_t told_ns;       /* when it last heard of us; atomic */
	bool reading, read;     /* its bitmap is under way, has come; lock */
	struct mc_batch *batch; /* for the bitmap */
};

/* A shard that may be read. */
struct get_task {
	struct get_source *source; /* holds a ref */
	uint64_t slot, rate;
	uint32_t shard;
};

/* A source that failed, so that it is not asked again too early. */
struct get_known {
	char engine[MC_SEGMENT_NAME_MAX + 1];
	uint64_t generation, revision, retry_ns;
	uint32_t fails;
	bool corrupt;
};

struct mc_p2p_get {
	struct mc_p2p *store;
	struct p2p_object *object;
	struct mc_p2p_record record; /* the scout's */
	char location[MC_LOCATION_MAX + 1];
	uint32_t flags;
	uint64_t deadline_ns, start_ns;
	int fd;

	pthread_t scout, driver, lanes[GET_LANES_MAX];
	uint32_t nr_lanes;

	pthread_mutex_t lock;
	pthread_cond_t cond; /* anything below has changed */
	enum mc_p2p_state state;
	bool cancel;
	bool over;    /* nothing new is begun; status says why */
	bool waked;   /* a wake-up for the scout */
	int status;
	struct mc_error err;       /* of status */
	struct mc_error last_drop; /* why the last source was dropped */
	uint64_t shard_ns; /* what a shard usually takes; 0: none has come */
	uint64_t end_ns, lack_ns;  /* lack_ns: since when nobody has what is missing; 0: somebody has */
	uint64_t len; /* of the object; 0: not known yet */
	uint32_t nr_shards;
	uint64_t done_len, resumed_len, moved_len;
	uint32_t done_shards, nr_dropped, nr_quarantined, nr_corrupt, nr_live;
	uint32_t check_next, check_left; /* shards to look at before anything is asked for */
	struct mc_p2p_pick *pick;
	struct get_source *sources[GET_SOURCES]; /* by the index in pick */
	struct get_source *all;                  /* dropped ones too, until the scout frees them */
	struct get_task tasks[GET_TASKS];        /* a ring */
	uint32_t first_task, nr_tasks;
	uint32_t lane_idx, reading[GET_LANES_MAX]; /* by lane: the shard that it reads, + 1 */
	struct get_known known[GET_KNOWN];
	uint32_t nr_known;

	/* The scout's. */
	uint8_t *arena; /* bitmaps of sources */
	size_t map_len;
	struct p2p_reader reader;
	uint8_t *hashes, *attachment; /* verified by the root */
	struct mc_p2p_hash attachment_hash;
	bool slots[GET_SLOTS];
	uint32_t rounds; /* how often sources were listed */
};

/* p2p_source.c.  [scout] */
/* Ask one whether it is there, without waiting. */
int mc_p2p_source_begin(struct mc_p2p_get *g, const struct p2p_offer_at *at, struct get_source **ret, struct mc_error *err);
/* Wait until one of these (NULL: none) has answered, or its call has ended otherwise: its index, of several that of one
 * that has answered well; -ETIMEDOUT, -ECANCELED. */
int mc_p2p_source_answered(struct mc_p2p_get *g, struct get_source *const *sources, size_t nr, uint64_t until_ns);
/* Go on with such a one; frees it if that fails. */
int mc_p2p_source_open(struct mc_p2p_get *g, struct get_source *s, struct mc_error *err);
void mc_p2p_source_free(struct mc_p2p_get *g, struct get_source *s); /* that is not open */
/* When the get is over: no source keeps anything for it.  Then reap them. */
void mc_p2p_sources_leave(struct mc_p2p_get *g);
void mc_p2p_sources_reap(struct mc_p2p_get *g, bool all);
/* Tell of those that were lost: one whose key is not there any more has left, which is no failure.
 *   known  offers are those that are there now; else nobody could say */
void mc_p2p_sources_tell(struct mc_p2p_get *g, bool known, const struct p2p_offer_at *offers, size_t nr);
/* With the lock: not to be used any more.  why: a sentence. */
void mc_p2p_source_drop(struct mc_p2p_get *g, struct get_source *s, bool corrupt, int status, const char *why);
struct get_known *mc_p2p_known(struct mc_p2p_get *g, const char *engine, bool make);
/* Driver: read bitmaps.  With the lock, which is given up in between. */
void mc_p2p_sample(struct mc_p2p_get *g);

/* p2p_ask.c.  Ask for what can be asked for.  Without the lock. */
void mc_p2p_advance(struct mc_p2p_get *g);
/* Tell sources that have not heard of us for a while that we keep our slots.  Driver, without the lock. */
void mc_p2p_keep(struct mc_p2p_get *g);
void mc_p2p_slot_end(struct get_source *s, uint64_t slot, enum mc_p2p_end end);
/* Say that we want nothing: the source ends what we may have there.  Begun now; _left is its end.  Its answer also
 * says that the source is there, and has had all that was sent before. */
void mc_p2p_leave(struct get_source *s);
/* With the lock, which is given up in between: wait for the answer. */
void mc_p2p_left_by(struct get_source *s, uint64_t until_ns);

/* p2p_lane.c */
void *mc_p2p_lane(void *arg);
/* With the lock: it ends with this status; only the first counts. */
void mc_p2p_get_end(struct mc_p2p_get *g, int status, const char *fmt, ...) MC_PRINTF(3, 4);

/* p2p_scout.c.  Is a get (arg) over, or about to be?  Without the lock. */
bool mc_p2p_get_is_over(void *arg);
void *mc_p2p_scout(void *arg);

#endif
