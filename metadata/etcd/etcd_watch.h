/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches inside: the hub (etcd_hub.c) sees one epoll descriptor and a timer on
 * the control loop and runs turns on a helper, one at a time; a turn
 * (etcd_watch.c) drives all watch streams without waiting for any of them, and
 * tells the host what they brought (etcd_event.c).
 */
#ifndef ETCD_WATCH_H
#define ETCD_WATCH_H

#include "etcd.h"

/* A living key below a prefix, so that what vanished while we were away can be told. */
struct etcd_known;

/* What a stream brought and has not been reported yet. */
struct etcd_event {
	struct etcd_event *next;
	uint64_t revision, len;
	bool deleted;
	char *key; /* behind the value */
	uint8_t value[];
};

enum etcd_stream { STREAM_IDLE, STREAM_OPENING, STREAM_LIVE };

struct etcd_wstate {
	struct etcd_wstate *next; /* set before it is listed; then the turn's */
	struct etcd_hub *hub;
	void *user;               /* the host's area; not touched once dead */
	char *prefix;
	size_t prefix_len;
	bool dead, emitting; /* [mx] */

	/* The turn's, after `watch` has filled them. */
	struct etcd_known *known;
	uint64_t from;    /* revision from which the stream is to go on */
	uint64_t cluster; /* whose revision it is; 0: not told */
	uint64_t sync_nr; /* of the last listing */
	bool lost;        /* history is gone: list, and tell the difference */
	enum etcd_stream state;
	uint64_t due_ns;  /* idle: open it; opening: give up; live: look whether it lives */
	uint64_t backoff_ns, heard_ns;
	size_t endpoint;
	struct etcd_easy stream, ping;
	bool streaming, pinging; /* in the multi handle */
	bool ended;              /* the stream is over; why says it */
	bool warned;
	struct etcd_text body, ping_body;
	struct etcd_decoder *decoder;
	struct etcd_event *events, **events_tail;
	char why[300];
};

struct etcd_hub {
	const struct mc_host *host;
	struct etcd_inst *inst; /* NULL after close */
	pthread_mutex_t mx;     /* guards what says so; held across no call of others */
	pthread_cond_t cond;    /* a turn ended, an event was delivered, the loop let go */
	unsigned refs;          /* [mx] close, and work on its way */
	struct etcd_wstate *watches; /* [mx] the head; links are the turn's */
	bool queued, again, running, stopped; /* [mx] */
	int closing;            /* [mx]; atomic for readers elsewhere */
	pthread_t emitter;      /* [mx] thread of the event that is being delivered */
	uint64_t due_ns;        /* [mx] the next turn; 0: when something happens */

	int epfd;               /* sockets of the streams */
	struct mc_watch fd_watch; /* [control] */
	struct mc_timer timer;    /* [control] */
	struct mc_work turn, stop;

	CURLM *multi;         /* the turn's; NULL before the first watch */
	uint64_t curl_due_ns; /* the turn's */
};

/* Drive all streams; returns when the next turn is due.  [helper] */
uint64_t etcd_watch_turn(struct etcd_hub *h);
void etcd_watch_free(struct etcd_wstate *ws);
/* The stream has ended, and a turn will open it again; the first reason is kept.  [helper] */
void etcd_stream_over(struct etcd_wstate *ws, const char *why);
/* Have a turn run soon.  [any] */
void etcd_hub_request(struct etcd_hub *h);

/* ---- what the host is told (etcd_event.c) ------------------------------------------------- */

/* Remember a key.  0 or -ENOMEM.  [helper] */
int etcd_known_set(struct etcd_wstate *ws, const char *key, uint64_t revision);
/* What a stream brought.  Called outside of libcurl, for the host may call us back.  [helper] */
void etcd_events_deliver(struct etcd_wstate *ws);
/* Whether an answer may be of a store that is not the one that the revisions are of.  A member that
 * lags behind the others looks the same.  [helper] */
bool etcd_other_store(const struct etcd_wstate *ws, uint64_t revision, uint64_t cluster);
/* List, and tell what differs from what was known.  May wait.  [helper] */
int etcd_resync(struct etcd_wstate *ws, uint64_t now, struct mc_error *err);
/* Forget events that were not told, and the known keys. */
void etcd_events_free(struct etcd_wstate *ws);

#endif
