/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: what the parts of the core share.  Built and torn down by
 * engine.c; each member is owned by the file that its comment names.
 */
#ifndef MC_CORE_ENGINE_H
#define MC_CORE_ENGINE_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "config.h"
#include "control.h"
#include "helper.h"
#include "loader.h"
#include "matrix.h"
#include "worker.h"

struct mc_device; /* device.h */
struct mc_local;  /* segment.h: our own buffers */
struct mc_reload; /* reload.c */
struct mc_segment;

struct mc_engine {
	struct mc_config *config; /* our clone, as the engine was opened; immutable while open */
	/* In force.  A reload puts others in place; those that were stay until the engine is freed, so
	 * readers need no lock. */
	_Atomic(const struct mc_settings *) set;
	_Atomic(struct mc_matrix *) matrix;
	struct mc_reload *reload; /* reload.c; NULL: there was none */
	pthread_mutex_t reload_lock; /* one reload at a time; guards `reload` */
	struct mc_registry *registry;
	pid_t pid; /* who opened us: a forked child is refused */

	char name[MC_SEGMENT_NAME_MAX + 1];
	uint64_t generation;
	uint16_t port;
	uint64_t opened_ns; /* monotonic */

	struct mc_helpers *helpers;
	struct mc_control *control;
	struct mc_meta *meta;           /* record.c */
	struct mc_port *listener;       /* stream.c */
	struct mc_sessions *sessions;   /* session.c */
	struct mc_local *local;         /* segment.c */
	struct mc_notifies *notifies;   /* notify.c */
	struct mc_rpc *rpc;             /* rpc.c */
	struct mc_kinds *kinds;         /* kind.c: memory kinds */
	struct mc_http *http;           /* http.c */

	struct mc_batch *batches;       /* batch.c: those that the application has */

	atomic_bool closing;            /* paths that break now are no news */
	_Atomic uint32_t open_paths;    /* path.c: paths that a lane drives */
	_Atomic uint64_t evictions;     /* api.c: for the metrics */

	/* device.c.  A reload adds to them, none leaves while the engine is open, and the list stays where
	 * it is: an index means the same device for ever. */
	_Atomic size_t nr_devices;
	struct mc_device **devices;
	size_t cap_devices; /* how many there can ever be; what is kept per device has so many places */
	size_t nr_lanes;    /* at the opening: what shares in staging_pool are of; 0: not yet opened */
	struct mc_left_out *left_out; /* device.c: what the matrix names and is not open */
	struct mc_device *closing_devices; /* nobody's any more, but helpers still work for them */

	pthread_mutex_t segments_lock; /* guards the list of segment handles, nothing else; api.c */
	struct mc_segment *segments;
};

/* The id of this process, kept right over fork without a system call. */
extern pid_t mc_self_pid;
/* 0; -EINVAL: no engine; -EPERM: this is a forked child of whoever opened it.  [any] */
static inline int mc_engine_check(const struct mc_engine *engine)
{
	if (!engine)
		return -EINVAL;
	return engine->pid == __atomic_load_n(&mc_self_pid, __ATOMIC_RELAXED) ? 0 : -EPERM;
}

/* Is this a public call that may wait here?  0; -EINVAL, -EPERM, -EDEADLK (in a callback), of which err, by noun, tells
 * what was asked for.  api.c  [any] */
int mc_engine_may_wait(const struct mc_engine *engine, const char *noun, struct mc_error *err);

/* An engine that only asks its metadata service: no port, no device, no record, nobody hears of it.  For who
 * explains a cluster: mc_meta_list, mc_record_find.  Close it with mc_engine_close.  engine.c  [any] */
int mc_engine_open_aside(const struct mc_config *config, uint64_t deadline_ns, struct mc_engine **ret_engine,
			 struct mc_error *err);

/* engine.c, for a reload too. */

void mc_engine_log_level(const struct mc_config *config);
/* The matrix of a text or file, or of this host's devices where the text is empty; names resolved. */
int mc_engine_read_matrix(const struct mc_engine *engine, const char *text, struct mc_matrix **ret_matrix,
			  struct mc_error *err);
/* Open the memory kinds that the matrix has rows for. */
void mc_engine_open_kinds(struct mc_engine *engine, const struct mc_matrix *matrix);

/* Addresses under which peers reach us, "host:port", best first: advertise_address, or the
 * interfaces that are up.  stream.c; valid after mc_stream_listen.  Lives as long as the engine */
char **mc_engine_addresses(struct mc_engine *engine);
/* File of the Unix socket on which engines of this host reach us, NULL: there is none.  Likewise. */
const char *mc_engine_local_path(const struct mc_engine *engine);

/* The end of a public call: the caller's error is written on failure only, whatever was probed on the
 * way. */
static inline int mc_fail_with(struct mc_error *err, int r, const struct mc_error *why)
{
	if (r < 0 && err)
		*err = *why;
	return r;
}

#endif
