/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between engines: sent once, queued at the target until its application takes them. */
#ifndef MC_CORE_NOTIFY_H
#define MC_CORE_NOTIFY_H

#include <mooncake/mooncake.h>

struct mc_engine;
struct mc_session;

/* Makes engine->notifies: after mc_control_new, before sessions.  [any] but control */
int mc_notifies_open(struct mc_engine *engine);
/* After mc_sessions_close: nothing is waiting any more.  [any] but control */
void mc_notifies_free(struct mc_engine *engine);

/* Send to the engine at the other end of an active session; data is copied, len <= 4096.  done runs
 * once, on [control], never inside this call: 0 = queued there; -ENOBUFS: its queue stayed full
 * until deadline_ns; -ETIMEDOUT: no answer, it may or may not be queued; the session's status.
 * [any], never blocks */
int mc_notify_post(struct mc_session *s, const void *data, size_t len, uint64_t deadline_ns,
		   void (*done)(void *arg, int status), void *arg);

/* For the metrics.  [control] */
struct mc_notify_counts {
	uint64_t sent, failed;       /* to peers: queued there, or given up */
	uint64_t received, refused;  /* from peers: queued here, or no room */
	uint64_t waiting;            /* to be taken, now */
};
void mc_notify_count(struct mc_engine *engine, struct mc_notify_counts *ret_counts);

/* Behind mc_notify_recv and mc_notify_fd. */
int mc_notify_take(struct mc_engine *engine, struct mc_notify *notify, uint64_t timeout_ns);
int mc_notify_event(struct mc_engine *engine);

/* For session.c: a message of the notify range; the session has ended.  [control] */
void mc_notify_message(struct mc_session *s, uint16_t type, const uint8_t *payload, size_t len);
void mc_notify_gone(struct mc_session *s, int status);

#endif
