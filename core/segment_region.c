/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices know of our buffers: a region on each device that may carry them,
 * and the blob that peers need to reach it.  Pinning may take long, so it runs
 * on helpers, for several devices at once.
 */
#include "segment_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "kind.h"
#include "lane.h"
#include "log.h"

struct region_job {
	struct mc_job job;
	struct jobs *jobs;
	struct mc_device *device;
	struct mc_local_buf *buf;
	bool not_begun; /* given up, for the time was over */
	int status;
	struct mc_error err;
};

/* Jobs under way, and who waits for them. */
struct jobs {
	pthread_mutex_t lock; /* guards left */
	pthread_cond_t done;
	size_t left;
};

static void *region_new(const struct mc_device *d)
{
	size_t full = mc_round_up(d->ops->region_size + 1, MC_CACHE_LINE);
	void *area = aligned_alloc(MC_CACHE_LINE, full);

	return area ? memset(area, 0, full) : NULL;
}

/* Ask for the blob, if the transport has one. */
static int region_export(struct mc_device *d, struct mc_local_buf *buf, struct mc_error *err)
{
	uint8_t blob[MC_EXPORT_BLOB_MAX];
	struct mc_local_blob *b = &buf->blobs[d->idx];
	int len;

	if (!d->plugin->has_mem_export || !buf->access)
		return 0;
	len = d->ops->mem_export(d->lanes[0]->inst, buf->regions[d->idx], blob, sizeof blob);
	if (len == -ENOTSUP || len == 0)
		return 0;
	if (len < 0 || (size_t)len > sizeof blob)
		return mc_fail(err, len < 0 ? len : -EPROTO, "device '%s': mem_export: %s", d->label,
			       len < 0 ? strerror(-len) : "a blob of more than 512 bytes");
	b->data = malloc((size_t)len);
	if (!b->data)
		return mc_fail(err, -ENOMEM, "device '%s': out of memory", d->label);
	memcpy(b->data, blob, (size_t)len);
	b->len = (uint16_t)len;
	return 0;
}

static void region_close(struct mc_device *d, struct mc_local_buf *buf)
{
	if (buf->regions[d->idx]) {
		d->ops->mem_unreg(d->lanes[0]->inst, buf->regions[d->idx]);
		free(buf->regions[d->idx]);
		buf->regions[d->idx] = NULL;
	}
	free(buf->blobs[d->idx].data);
	free(buf->blobs[d->idx].why);
	buf->blobs[d->idx] = (struct mc_local_blob){0};
}

static int region_open(struct mc_device *d, struct mc_local_buf *buf, struct mc_error *err)
{
	struct mc_mem_desc desc = {
		.size = sizeof desc,
		.addr = (void *)(uintptr_t)buf->base,
		.len = buf->len,
		.kind = mc_kind_name(buf->kind),
		.ordinal = buf->ordinal,
		.access = buf->access,
		.dmabuf_fd = -1,
		.share_fd = buf->share_fd,
		.share_offset = buf->share_offset,
	};
	char why[MC_ERROR_TEXT_MAX];
	void *region;
	int r;

	if (d->caps.max_reg && buf->len > d->caps.max_reg)
		return mc_fail(err, -E2BIG,
			       "device '%s': %llu bytes are more than it can register at once (%llu): "
			       "register the range in parts", d->label, (unsigned long long)buf->len,
			       (unsigned long long)d->caps.max_reg);
	region = region_new(d);
	if (!region)
		return mc_fail(err, -ENOMEM, "device '%s': out of memory", d->label);
	/* A transport that can do without, or not, says so itself. */
	err->text[0] = '\0';
	if (mc_kind_export_dmabuf(d->engine, &desc, err) < 0 && err->text[0]) {
		snprintf(why, sizeof why, "%s", err->text);
		desc.dmabuf_why = why;
	}
	err->text[0] = '\0';
	r = d->ops->mem_reg(d->lanes[0]->inst, region, &desc, err);
	if (desc.dmabuf_fd >= 0)
		close(desc.dmabuf_fd);
	if (r < 0) {
		free(region);
		if (r == -ENOTSUP && !d->plugin->has_mem_reg) /* a transport that needs no registration */
			return 0;
		if (!err->text[0])
			mc_fail(err, r, "device '%s': registering %llu bytes: %s", d->label,
				(unsigned long long)buf->len, strerror(-r));
		return r;
	}
	buf->regions[d->idx] = region;
	r = region_export(d, buf, err);
	if (r < 0)
		region_close(d, buf);
	return r;
}

static void region_run(struct mc_job *job)
{
	struct region_job *rj = MC_CONTAINER_OF(job, struct region_job, job);
	struct jobs *jobs = rj->jobs;

	rj->status = region_open(rj->device, rj->buf, &rj->err);
	pthread_mutex_lock(&jobs->lock);
	if (--jobs->left == 0)
		pthread_cond_signal(&jobs->done);
	pthread_mutex_unlock(&jobs->lock);
}

static int region_call(void *arg)
{
	struct region_job *rj = arg;

	region_run(&rj->job);
	return 0;
}

static bool wait_jobs(struct jobs *jobs, uint64_t deadline_ns)
{
	struct timespec until = mc_wait_until(deadline_ns);
	bool done;
	int r = 0;

	pthread_mutex_lock(&jobs->lock);
	while (jobs->left && r == 0)
		r = pthread_cond_timedwait(&jobs->done, &jobs->lock, &until);
	done = jobs->left == 0;
	pthread_mutex_unlock(&jobs->lock);
	return done;
}

/* Take back what no helper has begun; the rest ends by itself, for it uses the list. */
static void give_up_jobs(struct mc_engine *engine, struct jobs *jobs, struct region_job *list,
			 size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		if (!mc_helpers_cancel(engine->helpers, &list[i].job))
			continue;
		list[i].not_begun = true;
		pthread_mutex_lock(&jobs->lock);
		jobs->left--;
		pthread_mutex_unlock(&jobs->lock);
	}
	wait_jobs(jobs, MC_FOREVER);
}

/* All but the last are queued; the last is waited for in a way that works without any thread. */
static int run_jobs(struct mc_engine *engine, struct region_job *list, size_t nr,
		    uint64_t deadline_ns, struct mc_error *err)
{
	struct jobs jobs = {.left = nr};
	struct region_job *last = &list[nr - 1];
	bool alone = mc_on_helper();
	int r = 0;

	pthread_mutex_init(&jobs.lock, NULL);
	mc_cond_init(&jobs.done);
	for (size_t i = 0; i < nr; i++) {
		list[i].jobs = &jobs;
		list[i].job.run = region_run;
		if (alone)
			region_run(&list[i].job);
		else if (&list[i] != last)
			mc_helpers_run(engine->helpers, &list[i].job);
	}
	if (!alone && mc_helpers_call_until(engine->helpers, region_call, last, deadline_ns) < 0) {
		last->not_begun = true;
		pthread_mutex_lock(&jobs.lock);
		jobs.left--;
		pthread_mutex_unlock(&jobs.lock);
	}
	if (!wait_jobs(&jobs, deadline_ns))
		give_up_jobs(engine, &jobs, list, nr);
	pthread_cond_destroy(&jobs.done);
	pthread_mutex_destroy(&jobs.lock);
	for (size_t i = 0; i < nr && r == 0; i++)
		if (list[i].not_begun)
			r = mc_fail(err, -ETIMEDOUT, "device '%s': memory %p was not registered in time, "
				    "for the engine's helper threads have other work: try again, or "
				    "allow more time", list[i].device->label,
				    (void *)(uintptr_t)list[i].buf->base);
	return r;
}

/* ---- which devices -------------------------------------------------------------------------- */

static void warn_no_row(const struct mc_matrix *matrix, const char *location)
{
	static struct mc_ratelimit rl;
	char rows[200] = "none";
	uint32_t dropped;

	if (!mc_ratelimit_ok(&rl, 1, &dropped))
		return;
	for (size_t i = 0, at = 0; i < matrix->nr_rows && at < sizeof rows; i++)
		at += (size_t)snprintf(rows + at, sizeof rows - at, "%s'%s'", at ? ", " : "",
				       matrix->rows[i].location);
	mc_warn("memory at '%s': no row of nic_priority_matrix covers it (its rows: %s): it is registered, but "
		"cannot be transferred; add a row for it, or for \"*\"", location, rows);
}

/* Mark the devices of the location's row that reach the kind. */
static void row_devices(struct mc_engine *engine, const char *location, const char *kind, bool *wanted)
{
	const struct mc_matrix_row *row = mc_matrix_row_find(engine->matrix, location);

	if (!row)
		warn_no_row(engine->matrix, location);
	for (size_t t = 0; row && t < row->nr_tiers; t++)
		for (size_t e = 0; e < row->tiers[t].nr; e++) {
			const struct mc_matrix_entry *entry = &row->tiers[t].entries[e];
			struct mc_device *d = mc_device_find(engine, entry->transport, entry->device);

			if (d && mc_device_reaches(d, kind))
				wanted[d->idx] = true;
		}
}

/* The engine goes on with the devices that could, unless the user insists on this one. */
static bool may_lack(const struct mc_device *d)
{
	return (d->plugin->desc->flags & MC_PLUGIN_OPTIONAL) && !d->require && !(d->caps.flags & MC_CAP_MUST_REG);
}

/* A device of the row that does not reach the memory by itself, but its staged copy. */
static bool row_stages(struct mc_engine *engine, const struct mc_local_buf *buf)
{
	const struct mc_matrix_row *row = buf->row;

	if (!engine->set->staging_pool || !mc_kind_copies(engine, buf->kind))
		return false;
	for (size_t t = 0; row && t < row->nr_tiers; t++)
		for (size_t e = 0; e < row->tiers[t].nr; e++) {
			const struct mc_matrix_entry *entry = &row->tiers[t].entries[e];
			const struct mc_device *d = mc_device_find(engine, entry->transport, entry->device);

			if (d && !mc_device_reaches(d, buf->kind) && mc_device_reaches(d, "cpu"))
				return true;
		}
	return false;
}

/* What the devices said.  One that can reach the buffer is enough, if only through staging. */
static int judge_jobs(struct mc_engine *engine, struct mc_local_buf *buf, const struct region_job *list, size_t nr,
		      bool owned, struct mc_error *err)
{
	const struct region_job *failed = NULL;
	bool reached = owned || row_stages(engine, buf);

	for (size_t i = 0; i < nr; i++) {
		reached |= list[i].status == 0;
		if (list[i].status < 0 && (!failed || !may_lack(list[i].device)))
			failed = &list[i];
	}
	if (!failed)
		return 0;
	if (!reached || !may_lack(failed->device))
		return mc_fail(err, failed->status, "%s", failed->err.text);
	for (size_t i = 0; i < nr; i++) {
		if (list[i].status == 0)
			continue;
		buf->blobs[list[i].device->idx].why = strdup(list[i].err.text);
		buf->lacks = buf->blobs[list[i].device->idx].lacks = true;
		mc_warn("memory %p of %llu bytes: %s; it is transferred without this device", (void *)(uintptr_t)buf->base,
			(unsigned long long)buf->len, list[i].err.text);
	}
	return 0;
}

int mc_regions_open(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *owner,
		    uint64_t deadline_ns, struct mc_error *err)
{
	size_t nr_devices = mc_device_places(engine), nr = 0;
	bool *wanted = calloc(nr_devices, sizeof *wanted);
	struct region_job *list = calloc(nr_devices, sizeof *list);
	int r = 0;

	if (!wanted || !list) {
		free(wanted);
		free(list);
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	}
	row_devices(engine, buf->location, buf->kind, wanted);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		struct mc_device *d = engine->devices[i];

		if (d == owner)
			r = region_export(d, buf, err);
		else if (wanted[i])
			list[nr++] = (struct region_job){.device = d, .buf = buf};
	}
	if (r == 0 && nr)
		r = run_jobs(engine, list, nr, deadline_ns, err);
	if (r == 0)
		r = judge_jobs(engine, buf, list, nr, owner != NULL, err);
	if (r < 0)
		mc_regions_close(engine, buf, owner, owner ? MC_FOREVER : deadline_ns);
	free(wanted);
	free(list);
	return r;
}

struct remove_args {
	struct mc_local_buf *buf;
	struct mc_device *const *devices;
	size_t nr;
};

static int regions_remove_job(void *arg)
{
	struct remove_args *a = arg;

	for (size_t i = 0; i < a->nr; i++)
		region_close(a->devices[i], a->buf);
	return 0;
}

void mc_regions_remove(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *const *devices,
		       size_t nr)
{
	struct remove_args a = {.buf = buf, .devices = devices, .nr = nr};

	mc_helpers_call(engine->helpers, regions_remove_job, &a);
}

int mc_regions_add(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *const *devices,
		   size_t nr, bool reached, uint64_t deadline_ns, struct mc_error *err)
{
	struct region_job *list = calloc(nr, sizeof *list);
	int r;

	if (!list)
		return mc_fail(err, -ENOMEM, "memory: out of memory");
	for (size_t i = 0; i < nr; i++)
		list[i] = (struct region_job){.device = devices[i], .buf = buf};
	r = run_jobs(engine, list, nr, deadline_ns, err);
	if (r == 0)
		r = judge_jobs(engine, buf, list, nr, reached, err);
	if (r < 0)
		mc_regions_remove(engine, buf, devices, nr);
	free(list);
	return r;
}

struct close_args {
	struct mc_engine *engine;
	struct mc_local_buf *buf;
	struct mc_device *owner;
};

static int regions_close_job(void *arg)
{
	struct close_args *c = arg;

	for (size_t i = 0; i < c->engine->nr_devices; i++)
		if (c->engine->devices[i] != c->owner)
			region_close(c->engine->devices[i], c->buf);
	if (c->owner) {
		/* Its region goes with the memory. */
		free(c->buf->blobs[c->owner->idx].data);
		free(c->buf->blobs[c->owner->idx].why);
		c->buf->blobs[c->owner->idx] = (struct mc_local_blob){0};
	}
	return 0;
}

/* Closing that outlives the registration: it has what the devices gave. */
struct late {
	struct mc_job job;
	struct close_args args;
	struct mc_local_buf buf; /* regions and blobs only */
};

static void late_run(struct mc_job *job)
{
	struct late *late = MC_CONTAINER_OF(job, struct late, job);

	regions_close_job(&late->args);
	free(late->buf.regions);
	free(late->buf.blobs);
	free(late);
}

static bool close_later(struct mc_engine *engine, struct mc_local_buf *buf)
{
	struct late *late = calloc(1, sizeof *late);

	if (!late)
		return false;
	late->job.run = late_run;
	late->args = (struct close_args){.engine = engine, .buf = &late->buf};
	late->buf.regions = buf->regions;
	late->buf.blobs = buf->blobs;
	buf->regions = NULL;
	buf->blobs = NULL;
	mc_helpers_run(engine->helpers, &late->job);
	return true;
}

static bool any_region(const struct mc_engine *engine, const struct mc_local_buf *buf)
{
	for (size_t i = 0; i < engine->nr_devices; i++)
		if (buf->regions[i] || buf->blobs[i].data || buf->blobs[i].why)
			return true;
	return false;
}

void mc_regions_close(struct mc_engine *engine, struct mc_local_buf *buf, struct mc_device *owner,
		      uint64_t deadline_ns)
{
	struct close_args c = {.engine = engine, .buf = buf, .owner = owner};

	if (!any_region(engine, buf) ||
	    mc_helpers_call_until(engine->helpers, regions_close_job, &c, deadline_ns) == 0)
		return;
	if (!close_later(engine, buf))
		mc_helpers_call(engine->helpers, regions_close_job, &c);
}

/* ---- memory that a device owns -------------------------------------------------------------- */

struct mc_device *mc_region_owner(struct mc_engine *engine, const char *location, const char *kind)
{
	bool *wanted = calloc(mc_device_places(engine), sizeof *wanted);
	struct mc_device *owner = NULL;

	if (!wanted)
		return NULL;
	row_devices(engine, location, kind, wanted);
	for (size_t i = 0; i < engine->nr_devices && !owner; i++)
		if (wanted[i] && engine->devices[i]->plugin->has_mem_alloc)
			owner = engine->devices[i];
	free(wanted);
	return owner;
}

/* Pages of a file are huge ones less often than others: they are not for everybody. */
bool mc_region_shared(const struct mc_engine *engine)
{
	for (size_t i = 0; i < engine->nr_devices; i++)
		if ((engine->devices[i]->caps.flags & MC_CAP_LOCAL_STREAMS) && mc_device_reaches(engine->devices[i], "cpu"))
			return true;
	return false;
}

struct alloc_args {
	struct mc_device *owner;
	void *region;
	struct mc_mem_desc *desc;
	struct mc_error err;
};

static int alloc_job(void *arg)
{
	struct alloc_args *a = arg;

	return a->owner->ops->mem_alloc(a->owner->lanes[0]->inst, a->region, a->desc, &a->err);
}

static int free_job(void *arg)
{
	struct alloc_args *a = arg;

	a->owner->ops->mem_free(a->owner->lanes[0]->inst, a->region, a->desc);
	return 0;
}

int mc_local_sync(struct mc_engine *engine, void *addr, uint64_t len, enum mc_sync how)
{
	struct mc_local_buf *buf = mc_local_find(engine, addr, len);
	int r = 0;

	if (!buf)
		return -EFAULT;
	/* Host memory is coherent, whatever devices have it registered. */
	for (size_t i = 0; i < engine->nr_devices && r == 0 && strcmp(buf->kind, "cpu") != 0; i++) {
		struct mc_device *d = engine->devices[i];
		void *region = buf->regions[d->idx];

		if (region && d->plugin->has_mem_sync)
			r = d->ops->mem_sync(d->lanes[0]->inst, region, addr, len, how);
	}
	mc_local_put(buf);
	return r;
}

int mc_region_alloc(struct mc_device *owner, void **ret_region, struct mc_mem_desc *desc,
		    struct mc_error *err)
{
	struct alloc_args a = {.owner = owner, .desc = desc, .region = region_new(owner)};
	int r;

	if (!a.region)
		return mc_fail(err, -ENOMEM, "device '%s': out of memory", owner->label);
	pthread_mutex_lock(&owner->engine->local->alloc_lock);
	r = mc_helpers_call(owner->engine->helpers, alloc_job, &a);
	pthread_mutex_unlock(&owner->engine->local->alloc_lock);
	if (r < 0) {
		free(a.region);
		if (a.err.text[0])
			return mc_fail(err, r, "%s", a.err.text);
		return mc_fail(err, r, "device '%s': allocating %llu bytes: %s", owner->label,
			       (unsigned long long)desc->len, strerror(-r));
	}
	*ret_region = a.region;
	return 0;
}

void mc_region_free(struct mc_device *owner, void *region, struct mc_mem_desc *desc)
{
	struct alloc_args a = {.owner = owner, .region = region, .desc = desc};

	mc_helpers_call(owner->engine->helpers, free_job, &a);
	free(region);
}
