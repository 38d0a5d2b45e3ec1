/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the session layer share:
 *   session.c        states, life and death, heartbeats
 *   session_conn.c   one connection: hellos, frames in
 *   session_out.c    one connection: frames out
 *   session_dial.c   (re)dialling the active side
 *   session_open.c   the blocking calls: open, end, close
 *   session_hello.c  who we are and who they are, as JSON
 *   session_self.c   the same again, when one of the two has changed
 *   table*.c         buffer tables: received, told, one entry
 */
#ifndef MC_CORE_SESSION_IMPL_H
#define MC_CORE_SESSION_IMPL_H

#include "engine.h"
#include "session.h"
#include "session_wire.h"
#include <uthash.h>

struct mc_conn;
struct mc_stream_hello;

#define MC_SESSION_QUEUE_MAX (16u << 20) /* bytes of messages not yet acknowledged */
#define MC_BUFFERS_MAX (4u << 20)
#define MC_SILENCE_NS (300 * MC_MSEC)    /* an answer is missing: redial */

/* A message, kept until it is acknowledged. */
struct mc_out_msg {
	struct mc_out_msg *next;
	uint64_t seq;
	uint16_t type;
	uint32_t len;
	uint8_t data[];
};

struct mc_refresh {
	struct mc_refresh *next;
	uint64_t cookie;
	void (*done)(void *arg, int status);
	void *arg;
};

/* The table that we receive: entries by base, being changed; published as a snapshot. */
struct mc_table_in {
	struct mc_remote_buf **bufs, **staged; /* staged: a snapshot that is not complete */
	size_t nr, cap, nr_staged, cap_staged;
	size_t bytes, staged_bytes; /* of the entries */
	struct mc_table_id *by_id;  /* of bufs */
	uint64_t version;
	bool staging, complete, dirty;
};

struct mc_session_impl {
	struct mc_session s;
	struct mc_sessions *ss;
	UT_hash_handle hh;
	struct mc_session_key {
		uint64_t id, active; /* an engine that opened its own segment holds both ends */
	} key;
	struct mc_peer_info info; /* of its hello */
	struct mc_peer_later *later; /* session_self.c: what it has said since */
	uint64_t to_generation; /* active: whom we dial */
	char to_name[MC_SEGMENT_NAME_MAX + 1];
	char **addresses;       /* active: where we dial */

	/* Guards the queue, s.snapshot and the order of numbers; held for a few instructions. */
	pthread_mutex_t lock;
	struct mc_out_msg *head, *tail; /* unacknowledged, oldest first */
	struct mc_out_msg *unsent;      /* the first that this connection has not taken */
	uint64_t next_seq;
	size_t out_bytes;
	bool flush_posted;
	bool ended; /* nothing is queued any more */
	struct mc_control_post flush;

	/* [control] */
	struct mc_conn *conn;    /* in use */
	struct mc_conn *pending; /* dialled, HELLO sent, no answer yet */
	uint32_t conn_no;
	uint64_t received;       /* highest number received in order */
	uint64_t acked;          /* ... and told */
	uint64_t expect_ns;      /* boot clock: since when an answer is missing; 0: none is */
	uint64_t pinged_ns; /* the last ping, boot clock */
	uint64_t connect_deadline_ns; /* monotonic */
	unsigned nr_dials, nr_refused, nr_stale, nr_other; /* of this round */
	uint64_t redial_ns, backoff_ns;
	char why[400];           /* of the last failed dial */
	struct mc_table_in in;
	struct mc_refresh *refreshes;
	bool table_sent;

	/* notify.c, [control].  Passive: the message that found the queue full; those behind it wait
	 * their turn.  Active: messages held back, and the timer's round that has seen the first. */
	uint64_t notify_refused, notify_round;
	unsigned int notify_held;
};

struct mc_sessions {
	struct mc_engine *engine;
	struct mc_session_events events;
	mc_table_each table;
	uint32_t refs; /* the engine's, open handles, sessions; atomic */

	/* Guards opens; `changed` is signalled when a session becomes ready or ends. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct mc_session_opening *opens;

	/* [control] */
	struct mc_session_impl *by_id;
	struct mc_conn *conns;
	size_t nr_conns, nr_silent; /* silent: accepted, and no hello came yet */
	size_t max_buffers; /* of a peer's table; 0: MC_BUFFERS_MAX */
	uv_timer_t timer;
	bool timer_open, arming, closing;
	uint64_t last_turn_ns, due_ns; /* boot clock */
	struct mc_published *published; /* table.c: our own table as told to peers */
};

/* One control connection; session_conn.c makes and ends it.  [control] */
struct mc_conn {
	struct mc_conn *prev, *next; /* ss->conns */
	struct mc_sessions *ss;
	struct mc_session_impl *session; /* a reference; passive: NULL until its hello */
	uv_poll_t poll;
	int fd; /* -1: closed, waits for libuv */
	uint64_t id, generation; /* of the preamble */
	uint64_t deadline_ns;    /* for the hello; 0: it came */
	uint32_t no;
	uint32_t denied;                    /* passive: MC_ACCESS_REMOTE_* that the peer does not have */
	char from[MC_SEGMENT_NAME_MAX + 1]; /* passive: the name that the port judged it by */
	bool writing; /* POLLOUT is watched */
	bool silent;  /* counted in ss->nr_silent */

	uint8_t *in, *out;
	size_t in_have, in_cap, out_at, out_len, out_cap;
};

/* session.c */
void mc_sessions_ref(struct mc_sessions *ss);
void mc_sessions_unref(struct mc_sessions *ss);
struct mc_session_impl *mc_session_new(struct mc_sessions *ss, bool active, uint64_t id);
struct mc_session_impl *mc_session_find(struct mc_sessions *ss, uint64_t id, bool active);
void mc_session_up(struct mc_session_impl *i);
void mc_session_gone(struct mc_session_impl *i, int status, const char *why);
void mc_session_deliver(struct mc_session_impl *i, uint16_t type, const uint8_t *payload, size_t len);
/* Something may be due now: look again.  [control] */
void mc_sessions_arm(struct mc_sessions *ss);
/* Called before anything is read: what was not heard for too long is gone, whatever now waits. */
void mc_sessions_turn(struct mc_sessions *ss);
/* Without the bound of 16 MiB: for tables. */
int mc_session_queue(struct mc_session_impl *i, uint16_t type, const void *head, size_t head_len,
		     const void *body, size_t body_len, bool bounded);
void mc_session_signal(struct mc_sessions *ss);
/* A referenced session that is up, or NULL.  [control] */
struct mc_session *mc_session_lookup(struct mc_engine *engine, uint64_t id, uint64_t generation);

/* session_conn.c.  active: the session that dialled; then fd is taken also on failure. */
int mc_conn_new(struct mc_sessions *ss, int fd, struct mc_session_impl *active, uint64_t id,
		uint64_t generation, struct mc_conn **ret_conn);
void mc_conn_close(struct mc_conn *conn);
uint64_t mc_conn_deadline(const struct mc_conn *conn); /* monotonic; 0: past its hello */
/* It broke: tell its session and close. */
void mc_conn_lost(struct mc_conn *conn, int status, const char *why);
struct mc_conn *mc_conn_next(struct mc_conn *conn);
int mc_session_accept(struct mc_engine *engine, int fd, const struct mc_stream_hello *hello);
/* Wait for room in the socket, too, or not any more.  [control] */
void mc_conn_watch(struct mc_conn *conn, bool writing);

/* session_out.c, [control]; of a connection that is not closed where nothing else is said.  What
 * returns -errno leaves it to the caller to end the connection. */
int mc_conn_send_hello(struct mc_conn *conn);
/* Answer a ping, and acknowledge if that is due: encoded, to be written by mc_conn_write. */
int mc_conn_pong(struct mc_conn *conn);
int mc_conn_ack(struct mc_conn *conn);
/* 0: all is out or the socket is full; -errno: broken. */
int mc_conn_write(struct mc_conn *conn);
/* The same, and who finds it broken ends it; nothing when it is closed. */
void mc_conn_flush(struct mc_conn *conn);
void mc_conn_ping(struct mc_conn *conn);
/* The last word before it is closed; closed already: nothing. */
void mc_conn_bye(struct mc_conn *conn, int status, const char *why);

/* session_dial.c */
void mc_session_dial(struct mc_session_impl *i, bool parallel);
void mc_session_conn_lost(struct mc_session_impl *i, int status, const char *why);

/* session_hello.c */
char *mc_hello_json(struct mc_engine *engine);
int mc_hello_parse(const char *text, size_t len, struct mc_peer_info *info, struct mc_error *err);
void mc_peer_info_fini(struct mc_peer_info *info);

/* session_self.c: take MC_MSG_SELF; -EPROTO: it contradicts what the peer was.  [control] */
int mc_session_self(struct mc_session_impl *i, const uint8_t *payload, size_t len);
void mc_peer_later_free(struct mc_peer_later *later);

/* table.c, table_told.c */
int mc_table_message(struct mc_session_impl *i, uint16_t type, const uint8_t *p, size_t len);
/* Put what has changed in place; called after a read's messages. */
void mc_table_publish(struct mc_session_impl *i);
void mc_table_in_fini(struct mc_table_in *in);
/* Send the whole of our table to a new passive session. */
void mc_table_send(struct mc_session_impl *i);
/* Make what was told equal to what is registered now. */
void mc_table_compare(struct mc_sessions *ss);
void mc_published_free(struct mc_published *published);

#endif
