/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: an event loop with an inbox, driven by whoever holds its baton: its
 * own thread, or a caller that waits.  Everything it drives (transport instances,
 * the rpc service) is a client.  See ARCHITECTURE.md, "Workers and the baton".
 */
#ifndef MC_CORE_WORKER_H
#define MC_CORE_WORKER_H

#include <mooncake/plugin.h>

struct mc_worker;
struct mc_client;

/* All [worker]: called by the holder of the baton only. */
struct mc_client_ops {
	/* Do what there is to do without waiting; how many events were handled.  now_ns: as the turn began. */
	int (*progress)(struct mc_client *c, uint64_t now_ns);
	/* About to sleep: 0 = a watch, timer or post will announce the next event; -EBUSY. */
	int (*arm)(struct mc_client *c);
	/* Every 10 ms while `busy`, every peer_timeout / 10 while `linked`; NULL: none. */
	void (*tick)(struct mc_client *c, uint64_t now_ns);
	/* The process was frozen for more than half of peer_timeout (P2): drop every stream before a
	 * byte is read; NULL: nothing to drop. */
	void (*frozen)(struct mc_client *c);
};

struct mc_client {
	const struct mc_client_ops *ops;
	struct mc_worker *worker;
	struct mc_client *next; /* the worker's */
	bool busy;   /* something is in flight: tick every 10 ms.  [worker] */
	bool linked; /* has peers: tick slowly, watch for freezing.  [worker] */
	bool serves; /* peers use us: they cannot wait for a caller to come back.  [worker] */
	bool polled; /* progress finds traffic that no descriptor announces at once: spin on it */
};

/* A message to a worker; embedded by the sender, its again when run is entered. */
struct mc_post {
	struct mc_post *next;
	void (*run)(struct mc_post *post); /* [worker] */
};

struct mc_worker_args {
	const char *name;         /* "tcp:eth0/0", for the thread's name */
	uint64_t spin_ns;         /* bound of spinning after activity; 0: never */
	uint64_t peer_timeout_ns; /* P6 */
	bool own_thread;          /* never lend the baton */
	bool cpu_copy;            /* its clients move bytes with the CPU */
	int numa_node;            /* -1: any */
};

int mc_worker_new(const struct mc_worker_args *args, struct mc_worker **ret_worker);
/* What is known only once the plugin is open.  [worker], before anyone else may enter */
void mc_worker_set_flags(struct mc_worker *worker, bool own_thread, bool cpu_copy);
/* Another bound of spinning.  [worker] */
void mc_worker_set_spin(struct mc_worker *worker, uint64_t spin_ns);
/* Ends the thread.  No client is left, nobody drives any more; every message is in its inbox, or has run, though who
 * posted it may still be about to return. */
void mc_worker_free(struct mc_worker *worker);
/* Join and leave; on the worker (post), or before it has other clients.  [worker] */
void mc_worker_add(struct mc_worker *worker, struct mc_client *client);
void mc_worker_remove(struct mc_worker *worker, struct mc_client *client);

/* Queue a message; wakes the worker if nobody holds it.  [any], never blocks */
void mc_worker_post(struct mc_worker *worker, struct mc_post *post);
/* A client has something to do: run a turn soon.  [any], never blocks */
void mc_worker_nudge(struct mc_worker *worker);
/* Let the clients tick soon, also when nothing is busy.  [any], never blocks */
void mc_worker_tick_now(struct mc_worker *worker);
/* Run f(arg) on the worker and wait for it; drives the worker if it is free.  [any] but a worker */
void mc_worker_call(struct mc_worker *worker, void (*f)(void *arg), void *arg);
bool mc_worker_cpu_copy(const struct mc_worker *worker);

/* Try to take the baton; never waits.  A thread may hold several. */
bool mc_worker_enter(struct mc_worker *worker);
/* One turn: timers, inbox, progress of all clients.  Returns the events handled.  [worker] */
int mc_worker_turn(struct mc_worker *worker);
/* Give the baton back; what is pending goes on with the worker's own thread. */
void mc_worker_leave(struct mc_worker *worker);
/* The two as callers of batches use them, who submit and wait in turn and are back for the baton
 * within microseconds.  When that has proved true, pause puts the baton down warm: nothing is armed
 * and nobody woken, and the worker's thread takes it up only if no caller has come for a
 * millisecond.  drives: this caller is going to turn until something is done. */
bool mc_worker_resume(struct mc_worker *worker, bool drives, uint64_t now_ns);
void mc_worker_pause(struct mc_worker *worker);
/* True if this thread holds this worker's baton / any baton. */
bool mc_worker_mine(const struct mc_worker *worker);
bool mc_worker_any_mine(void);
/* A user's callback begins or ends on this thread, which need not hold a baton: what may wait is
 * refused as if it did. */
void mc_worker_callback(bool begin);

/*
 * Drive the free ones of nr workers from this thread until done(arg) is true or
 * deadline_ns has passed; at most one of them CPU-copying.  Spins for a bounded
 * while after activity, then sleeps in the kernel.  With no baton to be had it
 * sleeps on `bell`.  Whoever makes done(arg) true rings the bell afterwards.
 *   returns   0, -ETIMEDOUT; -EDEADLK: this thread holds a baton already
 */
struct mc_bell {
	uint32_t seq;     /* futex: bumped by ring */
	uint32_t waiters; /* sleeping on seq */
	struct mc_worker *sleeper; /* a worker whose driver sleeps for this bell, or NULL */
};
void mc_bell_ring(struct mc_bell *bell);
/* The two halves of it, for who keeps the waiter from going on: strike while the bell is sure to be
 * there, then let him go, then wake him; else he is often awake at once, in our place, and waits
 * again, for us.  The bell need not be there any more: who sleeps at its address by then is woken for
 * nothing, which every futex allows.  NULL: nobody sleeps.  Within a turn the wake comes at its end. */
uint32_t *mc_bell_strike(struct mc_bell *bell);
void mc_bell_wake(uint32_t *futex);
int mc_worker_drive(struct mc_worker *const *workers, size_t nr, struct mc_bell *bell,
		    bool (*done)(void *arg), void *arg, uint64_t deadline_ns);

/* Watches and timers as struct mc_host offers them.  [worker]; watch also before the first client
 * is added. */
int mc_worker_watch(struct mc_worker *worker, struct mc_watch *w);
int mc_worker_rewatch(struct mc_worker *worker, struct mc_watch *w, uint32_t events);
void mc_worker_unwatch(struct mc_worker *worker, struct mc_watch *w);
void mc_worker_timer(struct mc_worker *worker, struct mc_timer *t, uint64_t deadline_ns);

/* Monotonic clock, ns; tests replace it. */
uint64_t mc_now_ns(void);
extern uint64_t (*mc_clock_hook)(void);

#endif
