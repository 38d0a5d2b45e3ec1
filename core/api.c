/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public functions around memory, segments and peers: check the arguments
 * and the thread, then call in.  Those of config, engine, batches, counters,
 * log and rpc are in the files of these.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "addr.h"
#include "batch.h"
#include "clock.h"
#include "device.h"
#include "mc-config.h"
#include "notify.h"
#include "path.h"
#include "record.h"
#include "rpc.h"
#include "segment.h"
#include "session.h"
#include "core/util/check.h"

const char *mc_version(void)
{
	return MC_VERSION;
}

int mc_engine_may_wait(const struct mc_engine *engine, const char *noun, struct mc_error *err)
{
	int r = mc_engine_check(engine);

	if (r == -EINVAL)
		return mc_fail(err, r, "%s: the engine may not be NULL", noun);
	if (r < 0)
		return mc_fail(err, r, "%s: this process was forked from the one that opened the engine: "
			       "only exec may follow", noun);
	if (mc_worker_any_mine())
		return mc_fail(err, -EDEADLK, "%s: may not be called from a callback", noun);
	return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

static int check_memory(const struct mc_engine *engine, uint64_t addr, uint64_t len,
			const char *location, uint32_t access, struct mc_error *err)
{
	int r = mc_engine_may_wait(engine, "memory", err);

	if (r < 0)
		return r;
	if (!location)
		return mc_fail(err, -EINVAL, "memory: location may not be NULL; '*' finds out");
	if (!len)
		return mc_fail(err, -EINVAL, "memory: a length of 0 bytes");
	if (len > UINT64_MAX / 2 || addr > UINT64_MAX - len)
		return mc_fail(err, -EINVAL, "memory %p: %llu bytes reach over the end of the address space",
			       (void *)(uintptr_t)addr, (unsigned long long)len);
	if (access & ~MC_ACCESS_ALL)
		return mc_fail(err, -EINVAL, "memory: access 0x%x has bits that are not MC_ACCESS_*", access);
	return 0;
}

int mc_memory_alloc(struct mc_engine *engine, const char *location, uint64_t size, uint32_t access,
		    uint64_t timeout_ns, void **ret_addr, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = check_memory(engine, 0, size, location, access, err);

	if (r == 0 && !ret_addr)
		r = mc_fail(err, -EINVAL, "memory: ret_addr may not be NULL");
	if (r < 0)
		return r;
	r = mc_local_alloc(engine, location, size, access, mc_deadline(timeout_ns), ret_addr, &why);
	return mc_fail_with(err, r, &why);
}

int mc_memory_free(struct mc_engine *engine, void *addr, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = mc_engine_may_wait(engine, "memory", err);

	if (r < 0)
		return r;
	r = mc_local_free_memory(engine, addr, mc_deadline(timeout_ns), &why);
	return mc_fail_with(err, r, &why);
}

int mc_memory_register(struct mc_engine *engine, void *addr, uint64_t len, const char *location,
		       uint32_t access, uint64_t timeout_ns, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = check_memory(engine, (uint64_t)(uintptr_t)addr, len, location, access, err);

	if (r == 0 && !addr)
		r = mc_fail(err, -EINVAL, "memory: the address may not be NULL");
	if (r < 0)
		return r;
	r = mc_local_register(engine, addr, len, location, access, mc_deadline(timeout_ns), &why);
	return mc_fail_with(err, r, &why);
}

int mc_memory_unregister(struct mc_engine *engine, void *addr, uint64_t timeout_ns,
			 struct mc_error *err)
{
	struct mc_error why = {0};
	int r = mc_engine_may_wait(engine, "memory", err);

	if (r < 0)
		return r;
	r = mc_local_unregister(engine, addr, mc_deadline(timeout_ns), &why);
	return mc_fail_with(err, r, &why);
}

static int memory_sync(struct mc_engine *engine, void *addr, uint64_t len, enum mc_sync how, struct mc_error *err)
{
	int r = mc_engine_check(engine);

	if (r < 0)
		return mc_fail(err, r, "memory: %s", r == -EINVAL ? "the engine may not be NULL" :
			       "this process was forked from the one that opened the engine: only exec may follow");
	if (!addr)
		return mc_fail(err, -EINVAL, "memory: the address may not be NULL");
	r = len ? mc_local_sync(engine, addr, len, how) : 0;
	if (r == -EFAULT)
		return mc_fail(err, r, "memory %p: its %llu bytes are in no buffer that is registered here", addr,
			       (unsigned long long)len);
	return r < 0 ? mc_fail(err, r, "memory %p: %s", addr, strerror(-r)) : 0;
}

int mc_memory_publish(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err)
{
	return memory_sync(engine, addr, len, MC_SYNC_PUBLISH, err);
}

int mc_memory_refresh(struct mc_engine *engine, void *addr, uint64_t len, struct mc_error *err)
{
	return memory_sync(engine, addr, len, MC_SYNC_REFRESH, err);
}

/* ---- segments ------------------------------------------------------------------------------- */

int mc_segment_open(struct mc_engine *engine, const char *name, uint64_t timeout_ns,
		    struct mc_segment **ret_segment, struct mc_error *err)
{
	struct mc_error why = {0};
	struct mc_segment *segment;
	int r = mc_engine_may_wait(engine, "segment", err);

	if (r == 0 && (!name || !ret_segment))
		r = mc_fail(err, -EINVAL, "segment: name and ret_segment may not be NULL");
	if (r == 0)
		r = mc_name_check(name, err);
	if (r < 0)
		return r;
	segment = calloc(1, sizeof *segment);
	if (!segment)
		return mc_fail(err, -ENOMEM, "segment '%s': out of memory", name);
	segment->engine = engine;
	memcpy(segment->name, name, strlen(name) + 1);
	r = mc_session_open(engine, name, mc_deadline(timeout_ns), &segment->session, &why);
	if (r < 0) {
		free(segment);
		return mc_fail_with(err, r, &why);
	}
	r = mc_route_check(segment->session, &why);
	if (r < 0) {
		mc_session_unref(segment->session);
		free(segment);
		return mc_fail_with(err, r, &why);
	}
	segment->generation = segment->session->peer->generation;
	pthread_mutex_lock(&engine->segments_lock);
	DL_APPEND(engine->segments, segment);
	pthread_mutex_unlock(&engine->segments_lock);
	*ret_segment = segment;
	return 0;
}

void mc_segment_close(struct mc_segment *segment)
{
	if (!segment || mc_engine_check(segment->engine) < 0)
		return;
	pthread_mutex_lock(&segment->engine->segments_lock);
	DL_DELETE(segment->engine->segments, segment);
	pthread_mutex_unlock(&segment->engine->segments_lock);
	mc_session_unref(segment->session);
	free(segment);
}

const char *mc_segment_name(const struct mc_segment *segment)
{
	return segment ? segment->name : NULL;
}

uint64_t mc_segment_generation(const struct mc_segment *segment)
{
	return segment ? segment->generation : 0;
}

size_t mc_segment_nr_buffers(const struct mc_segment *segment)
{
	struct mc_snapshot *snapshot = segment ? mc_session_snapshot(segment->session) : NULL;
	size_t nr = snapshot ? snapshot->nr : 0;

	mc_snapshot_unref(snapshot);
	return nr;
}

int mc_segment_buffer(const struct mc_segment *segment, size_t idx, struct mc_buffer_info *info)
{
	struct mc_buffer_info all = {.size = sizeof all};
	struct mc_snapshot *snapshot;
	size_t size;

	if (!segment || !info || info->size < offsetof(struct mc_buffer_info, location))
		return -EINVAL;
	snapshot = mc_session_snapshot(segment->session);
	if (!snapshot || idx >= snapshot->nr) {
		mc_snapshot_unref(snapshot);
		return -ERANGE;
	}
	all.offset = snapshot->bufs[idx]->base;
	all.len = snapshot->bufs[idx]->len;
	all.access = snapshot->bufs[idx]->access & MC_ACCESS_ALL;
	memcpy(all.location, snapshot->bufs[idx]->location, sizeof all.location);
	mc_snapshot_unref(snapshot);
	/* What the caller's header did not know of is not his. */
	size = MC_MIN(info->size, sizeof all);
	all.size = info->size;
	memcpy(info, &all, size);
	return 0;
}

static int no_local_buffer(struct mc_segment *segment, const struct mc_request *request, struct mc_error *err)
{
	struct mc_local_buf *buf = mc_local_find(segment->engine, request->local, 1);
	uint64_t end = buf ? buf->base + buf->len : 0;

	if (!buf)
		return mc_fail(err, -EFAULT, "segment '%s': our %llu bytes at %p are in no buffer that is "
			       "registered here", segment->name, (unsigned long long)request->len,
			       request->local);
	mc_local_put(buf);
	buf = mc_local_find(segment->engine, (void *)(uintptr_t)end, 1);
	if (buf)
		mc_local_put(buf);
	return mc_fail(err, -EFAULT, "segment '%s': our %llu bytes at %p go on beyond their buffer, which ends at %#llx%s",
		       segment->name, (unsigned long long)request->len, request->local, (unsigned long long)end,
		       buf ? ", where another begins (a NUMA node's, or a GPU's handle): make it two requests" : "");
}

int mc_request_check(const struct mc_request *request, struct mc_error *err)
{
	struct mc_segment *segment = request ? request->segment : NULL;
	struct mc_session *s = segment ? segment->session : NULL;
	struct mc_local_buf *buf;

	if (!segment || request->opcode >= MC_OP_COUNT || (request->flags & ~MC_REQUEST_SOLE))
		return mc_fail(err, -EINVAL, "request: no segment, or an opcode or flags that do not exist");
	if (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE) == MC_SESSION_GONE)
		return mc_fail(err, s->gone_status, "segment '%s': %s; open it again", segment->name,
			       strerror(-s->gone_status));
	if (!request->len)
		return 0;
	buf = mc_local_find(segment->engine, request->local, request->len);
	if (!buf)
		return no_local_buffer(segment, request, err);
	mc_local_put(buf);
	return mc_req_explain(s, request->opcode, request->offset, request->len, err);
}

int mc_segment_list(struct mc_engine *engine, uint64_t timeout_ns,
		    int (*each)(void *ctx, const char *name), void *ctx, struct mc_error *err)
{
	struct mc_error why = {0};
	int r = mc_engine_may_wait(engine, "segments", err);

	if (r == 0 && !each)
		r = mc_fail(err, -EINVAL, "segments: each may not be NULL");
	if (r < 0)
		return r;
	r = mc_record_list(engine, mc_deadline(timeout_ns), each, ctx, &why);
	return mc_fail_with(err, r, &why);
}

/* ---- peers ---------------------------------------------------------------------------------- */

int mc_peer_evict(struct mc_engine *engine, uint64_t generation, uint64_t timeout_ns)
{
	int r = mc_engine_may_wait(engine, "peer", NULL);
	int rpc;

	if (r < 0)
		return r;
	rpc = mc_rpc_evict(engine, generation);
	r = mc_paths_evict(engine, generation, mc_deadline(timeout_ns));
	if (r == -ENOENT)
		r = rpc;
	if (r == 0)
		atomic_fetch_add(&engine->evictions, 1);
	return r;
}

/* ---- notifications -------------------------------------------------------------------------- */

struct sending {
	pthread_mutex_t lock; /* guards finished and status */
	pthread_cond_t done;
	bool finished;
	int status;
};

static void sent(void *arg, int status)
{
	struct sending *s = arg;

	pthread_mutex_lock(&s->lock);
	s->finished = true;
	s->status = status;
	pthread_cond_signal(&s->done);
	pthread_mutex_unlock(&s->lock);
}

static int notify_error(const struct mc_segment *segment, int status, struct mc_error *err)
{
	const char *why = strerror(-status);

	if (status == -ENOBUFS)
		why = "its queue stayed full: its application does not take its messages";
	else if (status == -ETIMEDOUT)
		why = "no answer in time; the message may or may not have arrived";
	else if (status == -ESTALE)
		why = "the engine has restarted: open the segment again";
	else if (status == -EHOSTDOWN)
		why = "the engine is gone; open the segment again when it is back";
	return mc_fail(err, status, "segment '%s': notify: %s", segment->name, why);
}

int mc_notify_send(struct mc_segment *segment, const void *data, size_t len, uint64_t timeout_ns,
		   struct mc_error *err)
{
	struct sending s = {.status = 0};
	int r = mc_engine_may_wait(segment ? segment->engine : NULL, "notify", err);

	if (r < 0)
		return r;
	if (len > sizeof ((struct mc_notify *)0)->data || (len && !data))
		return mc_fail(err, -EINVAL, "segment '%s': notify: a message has at most 4096 bytes",
			       segment->name);
	pthread_mutex_init(&s.lock, NULL);
	pthread_cond_init(&s.done, NULL);
	r = mc_notify_post(segment->session, data, len, mc_deadline(timeout_ns), sent, &s);
	if (r == 0) {
		/* It ends by its own deadline. */
		pthread_mutex_lock(&s.lock);
		while (!s.finished)
			pthread_cond_wait(&s.done, &s.lock);
		pthread_mutex_unlock(&s.lock);
		r = s.status;
	}
	pthread_cond_destroy(&s.done);
	pthread_mutex_destroy(&s.lock);
	return r < 0 ? notify_error(segment, r, err) : 0;
}

int mc_notify_recv(struct mc_engine *engine, struct mc_notify *notify, uint64_t timeout_ns)
{
	int r = mc_engine_check(engine);

	if (r < 0)
		return r;
	if (!notify || notify->size < sizeof *notify)
		return -EINVAL;
	if (timeout_ns && mc_worker_any_mine())
		return -EDEADLK;
	return mc_notify_take(engine, notify, timeout_ns);
}

int mc_notify_fd(struct mc_engine *engine)
{
	int r = mc_engine_check(engine);

	return r < 0 ? r : mc_notify_event(engine);
}
