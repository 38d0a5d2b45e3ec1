/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Mooncake transfer engine: move bytes between the memories of a cluster.
 *
 *   config  ->  engine  ->  memory registered
 *                       ->  segment opened by name  ->  batch of READs and WRITEs
 *
 * Calls return 0 or a count, or a negative errno; cold ones also fill a sentence
 * (struct mc_error, may be NULL).  Every call that can wait takes a span in
 * nanoseconds and returns -ETIMEDOUT when it is over.  Calls are safe from any
 * thread; the one exception is a batch, which belongs to one thread at a time
 * (mc_batch_fd, mc_batch_poll and mc_batch_cancel excepted).  After fork only
 * exec may follow in the child: every call there returns -EPERM.
 */
#ifndef MOONCAKE_MOONCAKE_H
#define MOONCAKE_MOONCAKE_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this library, "0.1.0".  [any]  since 0.1 */
MC_EXPORT const char *mc_version(void);

/* ---- config --------------------------------------------------------------------------------- */

/*
 * Where a value came from; later wins.
 */
enum mc_origin {
	MC_ORIGIN_DEFAULT = 0,
	MC_ORIGIN_MANIFEST, /* plugins.d */
	MC_ORIGIN_FILE,
	MC_ORIGIN_ENV,
	MC_ORIGIN_FLAG, /* mc_config_set */
	MC_ORIGIN_COUNT
};

struct mc_config;

/* A config that holds the defaults, the manifests of plugins.d and, unless the environment
 * forbids it, nothing else.  Free it with mc_config_free.  [any]
 *   returns   0; -ENOMEM; -EINVAL: a manifest is broken (err names file and place)
 *   since 0.1 */
MC_EXPORT int mc_config_new(struct mc_config **ret_config, struct mc_error *err);
MC_EXPORT void mc_config_free(struct mc_config *config);

/* Read a JSON config file over what is there.  Nothing is changed on error.  [any]
 *   path      borrowed
 *   returns   0; -ENOENT, -EACCES ...; -EINVAL: err says file:line:column or the JSON path
 *   since 0.1 */
MC_EXPORT int mc_config_load(struct mc_config *config, const char *path, struct mc_error *err);

/* Apply the MC_* environment.  Unknown MC_* variables are named once in a warning.  [any]
 *   returns   0; -EINVAL: err names the variable and the range
 *   since 0.1 */
MC_EXPORT int mc_config_env(struct mc_config *config, struct mc_error *err);

/* Set one key ("metadata_server", "transports.tcp.lanes") from text, as a flag does.  Dashes in
 * a key count as underscores.  [any]
 *   returns   0; -ENOENT: no such key (err names the closest); -EINVAL: bad value (err says the range)
 *   since 0.1 */
MC_EXPORT int mc_config_set(struct mc_config *config, const char *key, const char *value,
			    struct mc_error *err);

/* The effective value of a key as text, and where it came from (ret_origin may be NULL).  The
 * text lives until the config changes.  NULL: no such key.  [any]  since 0.1 */
MC_EXPORT const char *mc_config_get(const struct mc_config *config, const char *key,
				    enum mc_origin *ret_origin);

/* One known key, for --help, lint and docs. */
struct mc_config_key {
	size_t size;
	const char *key, *type, *def, *env, *doc;
	const char *value; /* "(secret)" for a password that is set; mc_config_get tells it */
	enum mc_origin origin;
	const char *origin_detail; /* "mooncake.json:12:3", "MC_LOG_LEVEL", ... or NULL */
	bool reloadable;
	const char *range; /* "0..65535", "error, warn, info": what is taken; "": anything of the type */
};
/* Call each for every key, in schema order, until it returns non-zero; that value is returned.
 * [any]  since 0.1 */
MC_EXPORT int mc_config_each(const struct mc_config *config,
			     int (*each)(void *ctx, const struct mc_config_key *key), void *ctx);

/* ---- engine --------------------------------------------------------------------------------- */

struct mc_engine;

/* Open an engine: bind its port, open what its matrix needs, publish its record.  The config is
 * read, not kept.  Close it with mc_engine_close.  [any]
 *   returns   0; -EINVAL (a value of the config), -ENODEV (the matrix names what is not here),
 *             -ENXIO (it requires what is not here), -EADDRINUSE (port), -EEXIST (name),
 *             -ETIMEDOUT, ...: err says it all
 *   since 0.1 */
MC_EXPORT int mc_engine_open(const struct mc_config *config, uint64_t timeout_ns,
			     struct mc_engine **ret_engine, struct mc_error *err);

/* Cancel what is in flight, take the record back, free everything, batches and segments of it
 * included: none may be used by another thread, or again.  Accepts NULL.  [any], not in a callback
 *   returns   0; -ETIMEDOUT: the record's removal did not come in time (it ends with its lease), or
 *             a transport did not end its peers (then memory is left, and an error logged), or a
 *             metadata or name service did not answer (a thread frees the rest when it has, and a
 *             warning is logged); -EDEADLK: called from a callback, nothing was done
 *   since 0.1 */
MC_EXPORT int mc_engine_close(struct mc_engine *engine, uint64_t timeout_ns);

/* Take another config and matrix while transfers go on.  Everything is checked first, devices are opened
 * and memory is registered on them; only then it is put in place.  On error all stays as it was.  A device that
 * the matrix adds joins, here and at connected peers; one that it does not name any more gets no new requests,
 * finishes those it has, and stays open, unused, until the engine is closed.  Requests go by the matrix that was
 * in force when they were submitted.  The config is read, not kept.  [any], not in a callback; blocks
 *   config    as for mc_engine_open, complete: a key that it leaves out has its default.  An empty
 *             nic_priority_matrix: discovered anew; a path: read again
 *   returns   0, also if nothing differs; -EINVAL: a bad value, or one that differs and cannot change while the
 *             engine is open (mc_config_each says which can: `reloadable`); -ENODEV, -ENXIO: as for
 *             mc_engine_open; -E2BIG: more devices than an open engine takes (16 more than it was opened with);
 *             -EBUSY: another thread is reloading it; -ETIMEDOUT; -EDEADLK; what a plugin says: err says it all
 *   since 0.1 */
MC_EXPORT int mc_engine_reload(struct mc_engine *engine, const struct mc_config *config, uint64_t timeout_ns,
			       struct mc_error *err);

/* Its segment's name, the bound port, the generation.  The name lives as long as the engine.
 * [any]  since 0.1 */
MC_EXPORT const char *mc_engine_name(const struct mc_engine *engine);
MC_EXPORT uint16_t mc_engine_port(const struct mc_engine *engine);
MC_EXPORT uint64_t mc_engine_generation(const struct mc_engine *engine);

/* The matrix in use, as JSON text; lives as long as the engine, also when a reload has put another in its
 * place.  [any]  since 0.1 */
MC_EXPORT const char *mc_engine_matrix(const struct mc_engine *engine);

/* ---- devices --------------------------------------------------------------------------------- */

/* A device that a transport finds on this host; strings borrowed during the call, never NULL. */
struct mc_device_desc {
	size_t size;
	const char *name;    /* "eth0" */
	const char *address; /* what a person would call it by; may be empty */
	const char *remedy;  /* not active: the sentence that says what to do */
	uint64_t speed;      /* bytes per second; 0: unknown */
	int32_t numa_node;   /* -1: unknown */
	bool active;
	uint64_t capacity;   /* bytes of memory that the device itself owns, a pool; 0: none */
	const char *detail;  /* what a pool is made of; may be empty */
};
/* Call each for every device that the transport named (as in "tcp:eth0": the part before the
 * colon) finds, until it returns non-zero; that value is returned.  Opens none.  [any]
 *   returns   0, and if it found none err->text says what to do, where the transport knows;
 *             -ENOENT: no such transport (err names those that exist); what loading it gave
 *   since 0.1 */
MC_EXPORT int mc_transport_devices(const struct mc_config *config, const char *transport,
				   int (*each)(void *ctx, const struct mc_device_desc *device),
				   void *ctx, struct mc_error *err);

/* ---- memory --------------------------------------------------------------------------------- */

/* Allocate and register memory at a location ("cpu:0", "cxl:0", "*").  Host memory is made such that other
 * processes of this host can map it, if a device that does so is open (shm): a child of fork then shares it
 * instead of getting a copy, and it costs two descriptors, while less than half of RLIMIT_NOFILE is in use.  [any]
 *   size      bytes, > 0; rounded up to pages
 *   returns   0; -ENOMEM, -EINVAL (location), -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_memory_alloc(struct mc_engine *engine, const char *location, uint64_t size,
			      uint32_t access, uint64_t timeout_ns, void **ret_addr,
			      struct mc_error *err);
/* Unregister and free what mc_memory_alloc gave; as mc_memory_unregister otherwise. */
MC_EXPORT int mc_memory_free(struct mc_engine *engine, void *addr, uint64_t timeout_ns,
			     struct mc_error *err);

/* Register [addr, addr + len) so that requests may use it and peers may reach it.  The memory is
 * borrowed until unregister.  A range equal to, or inside, a registered one with the same rights
 * is counted; unregister it as often.  [any]
 *   location  "cpu:N", "cuda:N", ...; "*": find out; a range on several NUMA nodes is then a buffer on
 *             each, and a request stays inside of one
 *   returns   0; -EEXIST: overlaps a buffer in part; -EINVAL; -ENOMEM; -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_memory_register(struct mc_engine *engine, void *addr, uint64_t len,
				 const char *location, uint32_t access, uint64_t timeout_ns,
				 struct mc_error *err);

/* Stop new access, wait for what is in flight (fence it when the time is over), forget it.  From
 * the return on nobody touches the memory, whatever is returned but -ENOENT and -EDEADLK.  [any]
 *   returns   0; -ENOENT: addr is not the start of a registered range
 *   since 0.1 */
MC_EXPORT int mc_memory_unregister(struct mc_engine *engine, void *addr, uint64_t timeout_ns,
				   struct mc_error *err);

/* Memory that several hosts map need not be coherent between them (a CXL pool: "cxl:N").  publish: what
 * this process wrote into [addr, addr + len) is there for peers that read it.  refresh: what this process
 * reads there next is what peers have written, and not what a cache still holds; before received data is
 * read.  Both act on whole cache lines of 64 bytes, those that the range cuts included: one writer per line
 * at a time.  For memory that is coherent there is nothing to do.  [any], also in a callback; never blocks
 *   addr      the range lies in one registered buffer
 *   returns   0; -EFAULT: it does not; -EINVAL
 *   since 0.1 */
MC_EXPORT int mc_memory_publish(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err);
MC_EXPORT int mc_memory_refresh(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err);

/* ---- segments ------------------------------------------------------------------------------- */

struct mc_segment;

/* Open the segment of another engine (or our own) by name: find its record, connect, get its
 * buffer table.  [any]
 *   returns   0; -ENOENT: no such segment (err names those that exist); -ECONNREFUSED,
 *             -EHOSTUNREACH, -ETIMEDOUT, -EPROTONOSUPPORT (no common wire), -EACCES (cluster_key_file
 *             differs or is missing at one of the two, or its `access` does not let us)
 *   since 0.1 */
MC_EXPORT int mc_segment_open(struct mc_engine *engine, const char *name, uint64_t timeout_ns,
			      struct mc_segment **ret_segment, struct mc_error *err);
/* Drop the handle; accepts NULL.  Its requests must be complete.  [any]  since 0.1 */
MC_EXPORT void mc_segment_close(struct mc_segment *segment);

MC_EXPORT const char *mc_segment_name(const struct mc_segment *segment);
MC_EXPORT uint64_t mc_segment_generation(const struct mc_segment *segment);

/* One buffer of a segment.  size is set by the caller. */
struct mc_buffer_info {
	size_t size;
	uint64_t offset, len; /* offset: what requests name */
	uint32_t access;
	char location[MC_LOCATION_MAX + 1];
};
/* Number of buffers in the snapshot that we have, and one of them by index, in order of offset.
 *   returns   0; -ERANGE: no such index
 *   since 0.1 */
MC_EXPORT size_t mc_segment_nr_buffers(const struct mc_segment *segment);
MC_EXPORT int mc_segment_buffer(const struct mc_segment *segment, size_t idx,
				struct mc_buffer_info *info);

/* Call each with every segment's name in the cluster until it returns non-zero.  [any]
 *   returns   how many, or -errno
 *   since 0.1 */
MC_EXPORT int mc_segment_list(struct mc_engine *engine, uint64_t timeout_ns,
			      int (*each)(void *ctx, const char *name), void *ctx,
			      struct mc_error *err);

/* ---- batches -------------------------------------------------------------------------------- */

struct mc_batch;

/* A WRITE to memory that is not coherent between hosts may begin or end inside a cache line of 64 bytes
 * only if nobody else writes to that line meanwhile, the rest of which is written back too; who sets this
 * flag says so, else such a request fails with -EINVAL.  Other memory ignores it. */
#define MC_REQUEST_SOLE (1u << 0)

/* One READ or WRITE of a contiguous range.  Copied by submit.  Frozen layout, 48 bytes. */
struct mc_request {
	uint32_t opcode; /* enum mc_opcode */
	uint32_t flags;  /* MC_REQUEST_*; other bits are refused */
	void *local;     /* inside one registered buffer */
	struct mc_segment *segment;
	uint64_t offset; /* in the segment: the owner's address, inside one of its buffers */
	uint64_t len;    /* bytes; 0 completes at once */
	void *user;      /* the caller's, untouched */
};

/* Would submit take this request now, by our memory and by what we know of the segment's?  Sends
 * nothing; for the message after a failure.  [any]
 *   returns   0; -EFAULT, -EACCES, -EINVAL, ...: err says which buffer, right or access list
 *   since 0.1 */
MC_EXPORT int mc_request_check(const struct mc_request *request, struct mc_error *err);

enum mc_request_state { MC_REQUEST_PENDING = 0, MC_REQUEST_DONE = 1, MC_REQUEST_FAILED = 2 };

/* What became of a request.  size is set by the caller. */
struct mc_request_status {
	size_t size;
	enum mc_request_state state;
	int status;          /* 0 or -errno: -EACCES range or rights, -EFAULT local address not registered,
	                      * -ESTALE other generation, -EHOSTDOWN peer gone, -ETIMEDOUT deadline,
	                      * -ECANCELED, -ENETDOWN no rail, -EINVAL not aligned for any device */
	enum mc_scope scope; /* the largest thing that broke */
	uint64_t done_len;   /* bytes known to have moved */
	void *user;
};

/* A batch that holds up to capacity requests (1 .. 1,048,576).  Free it with mc_batch_free.
 *   returns   0; -EINVAL; -ENOMEM
 *   since 0.1 */
MC_EXPORT int mc_batch_new(struct mc_engine *engine, size_t capacity, struct mc_batch **ret_batch);
/* Cancels what is pending and waits for it; accepts NULL.  Not inside its own callback.  since 0.1 */
MC_EXPORT void mc_batch_free(struct mc_batch *batch);

/* Time from the first submit to the deadline; the default is the config's `deadline` (30 s).
 * Before the first submit.  MC_FOREVER: none.  since 0.1 */
MC_EXPORT int mc_batch_set_deadline(struct mc_batch *batch, uint64_t span_ns);

/* Deliver a message to the target of the batch's requests, once, after all of its WRITEs are
 * visible there; never if one failed.  The batch must write to one segment only.  Before the
 * last submit.  data is copied, len <= 4096.
 *   returns   0; -EINVAL
 *   since 0.1 */
MC_EXPORT int mc_batch_set_notify(struct mc_batch *batch, struct mc_segment *segment,
				  const void *data, size_t len);

/* Call done once when all submitted requests are complete, on a thread of the engine or of a
 * caller.  Inside: submit and poll are allowed, waiting gives -EDEADLK.  Before submit.  since 0.1 */
MC_EXPORT int mc_batch_set_callback(struct mc_batch *batch,
				    void (*done)(void *arg, struct mc_batch *batch), void *arg);

/* Cut nr requests into slices and queue them.  [any]  Never blocks.
 *   reqs      array of nr, copied before return; 1 <= nr <= free places in the batch
 *   returns   0: accepted, each completes exactly once (a bad range fails that request alone); or
 *             -ENOSPC, -EINVAL with nothing queued and *reterr_idx (may be NULL) the culprit
 *   since 0.1 */
MC_EXPORT int mc_batch_submit(struct mc_batch *batch, const struct mc_request *reqs, size_t nr,
			      size_t *reterr_idx);

/* Number of complete requests so far, 0 .. submitted; drives nothing.  since 0.1 */
MC_EXPORT size_t mc_batch_poll(const struct mc_batch *batch);
/* Wait until all submitted requests are complete; drives the devices from this thread.
 *   returns   0: all complete (see mc_batch_failed); -ETIMEDOUT; -EDEADLK: inside a callback
 *   since 0.1 */
MC_EXPORT int mc_batch_wait(struct mc_batch *batch, uint64_t timeout_ns);
/* How many requests ended with a failure.  since 0.1 */
MC_EXPORT size_t mc_batch_failed(const struct mc_batch *batch);
/* What became of the batch's notify: 0 (none, under way, or queued at the target), -ECANCELED (a
 * request failed), -ENOBUFS (its queue stayed full until the deadline), -EHOSTDOWN, ...  The batch is
 * complete only after it.  since 0.1 */
MC_EXPORT int mc_batch_notify_status(const struct mc_batch *batch);
/* A descriptor that becomes readable when all submitted requests are complete.  The batch's; it
 * is level-triggered and reset by mc_batch_reset.  Ask before submit.
 *   returns   the fd, or -errno
 *   since 0.1 */
MC_EXPORT int mc_batch_fd(struct mc_batch *batch);
/* Status of the idx-th submitted request.  0; -ERANGE.  since 0.1 */
MC_EXPORT int mc_batch_status(const struct mc_batch *batch, size_t idx,
			      struct mc_request_status *status);
/* Ask for an early end: pending requests complete with -ECANCELED, fenced if need be.  since 0.1 */
MC_EXPORT int mc_batch_cancel(struct mc_batch *batch);
/* Make a complete batch empty again, keeping capacity, deadline, callback and fd.  -EBUSY.  since 0.1 */
MC_EXPORT int mc_batch_reset(struct mc_batch *batch);

/* ---- prepared lists ------------------------------------------------------------------------- */

struct mc_list;

/* Resolve and check nr requests once, to submit them many times by index.  Valid as long as both
 * ends keep the buffers (a changed one is resolved again).
 *   returns   0; -EACCES, -EFAULT, -EINVAL with *reterr_idx the culprit
 *   since 0.1 */
MC_EXPORT int mc_list_new(struct mc_engine *engine, const struct mc_request *reqs, size_t nr,
			  struct mc_list **ret_list, size_t *reterr_idx);
MC_EXPORT void mc_list_free(struct mc_list *list);
/* Submit entries of a list; idx NULL means entries 0 .. nr - 1.  As mc_batch_submit.  since 0.1 */
MC_EXPORT int mc_batch_submit_list(struct mc_batch *batch, const struct mc_list *list,
				   const uint32_t *idx, size_t nr, size_t *reterr_idx);

/* ---- notifications and peers ------------------------------------------------------------------ */

/* A message from a peer. */
struct mc_notify {
	size_t size;
	char from[MC_SEGMENT_NAME_MAX + 1];
	uint64_t generation; /* of the sender */
	size_t len;
	uint8_t data[4096];
};

/* Send a message to a segment's engine; returns when it is queued there.  Messages of one engine to
 * another arrive in the order in which they were sent, those of batches in that of their completion.
 *   len       <= 4096
 *   returns   0; -ENOBUFS: its queue stayed full for timeout_ns; -EHOSTDOWN, -ETIMEDOUT
 *   since 0.1 */
MC_EXPORT int mc_notify_send(struct mc_segment *segment, const void *data, size_t len,
			     uint64_t timeout_ns, struct mc_error *err);
/* Take the oldest message; timeout_ns 0 polls.  0; -ETIMEDOUT; -EAGAIN (poll, none).  since 0.1 */
MC_EXPORT int mc_notify_recv(struct mc_engine *engine, struct mc_notify *notify,
			     uint64_t timeout_ns);
/* Readable while messages wait.  The engine's.  since 0.1 */
MC_EXPORT int mc_notify_fd(struct mc_engine *engine);

/* Cut off the peer with this generation: when it returns 0, its streams and queue pairs here are
 * dead and nothing of it touches our memory, until it connects anew.
 *   returns   0; -ENOENT: it is not connected; -ETIMEDOUT: it may still touch our memory (a process of this host that
 *             was stopped in the middle of a copy, for as long as it is): ask again
 *   since 0.1 */
MC_EXPORT int mc_peer_evict(struct mc_engine *engine, uint64_t generation, uint64_t timeout_ns);

/* ---- counters --------------------------------------------------------------------------------- */

/* One counter; strings borrowed during the call. */
struct mc_counter {
	size_t size;
	const char *name;   /* "bytes_written" */
	const char *object; /* "engine", "device tcp:eth0", "rail tcp:eth0 -> node1 tcp:eth0" */
	uint64_t value;
};
/* Call each for every counter until it returns non-zero.  [any]  Exact when idle.  since 0.1 */
MC_EXPORT int mc_engine_counters(struct mc_engine *engine,
				 int (*each)(void *ctx, const struct mc_counter *counter), void *ctx);

/* ---- log ---------------------------------------------------------------------------------------- */

/* Where log lines go (default: stderr).  line has no newline.  NULL: the default.  Process-wide.
 * [any]  since 0.1 */
MC_EXPORT void mc_log_set_handler(void (*handler)(void *arg, enum mc_log_level level,
						  const char *line),
				  void *arg);
MC_EXPORT void mc_log_set_level(enum mc_log_level level);

#ifdef __cplusplus
}
#endif
#endif
