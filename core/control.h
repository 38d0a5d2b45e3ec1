/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control loop: one libuv loop on one thread per engine.  It accepts, shakes
 * hands, keeps sessions alive and runs timers; it never blocks.
 */
#ifndef MC_CORE_CONTROL_H
#define MC_CORE_CONTROL_H

#include <mooncake/plugin.h>
#include <uv.h>

struct mc_control;

/* A message to the loop; embedded by the sender, its again when run is entered. */
struct mc_control_post {
	struct mc_control_post *next;
	void (*run)(struct mc_control_post *post); /* [control] */
};

int mc_control_new(struct mc_control **ret_control, struct mc_error *err);
uv_loop_t *mc_control_loop(struct mc_control *control);
/* In order; runs what is queued also while stopping.  [any], never blocks */
void mc_control_post(struct mc_control *control, struct mc_control_post *post);
/* Run f(arg) on the loop and wait for it.  [any] but the loop and workers */
void mc_control_call(struct mc_control *control, void (*f)(void *arg), void *arg);
bool mc_on_control(const struct mc_control *control);
/* Every handle that others put on the loop is closed; ends the thread. */
void mc_control_free(struct mc_control *control);

/* Watches, timers and work of metadata plugins, on this loop. */
int mc_control_watch(struct mc_control *control, struct mc_watch *w);
int mc_control_rewatch(struct mc_control *control, struct mc_watch *w, uint32_t events);
void mc_control_unwatch(struct mc_control *control, struct mc_watch *w);
void mc_control_timer(struct mc_control *control, struct mc_timer *t, uint64_t deadline_ns);

#endif
