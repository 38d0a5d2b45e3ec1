/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our own record: published under the rules of names, kept alive every third of
 * its lease, written again when the service has lost it.
 *
 * A name that is taken: its recorded holder is probed.  It answers with its
 * generation: the name is its own.  Nobody listens, or another generation
 * answers: it is dead and its record is replaced.  Silence: it may be cut off
 * from us only; its lease decides.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "addr.h"
#include "clock.h"
#include "log.h"
#include "meta.h"
#include "stream.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

#define PROBE_NS (500 * MC_MSEC)
#define LOOK_AGAIN_NS (250 * MC_MSEC)

static void record_freep(struct mc_record **record)
{
	mc_record_free(*record);
}

/* ---- names -------------------------------------------------------------------------------------- */

enum holder { HOLDER_DEAD, HOLDER_ALIVE, HOLDER_SILENT, HOLDER_REFUSES };

struct probe {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int fd;
};

static void probed(void *arg, int fd, const char *why)
{
	struct probe *p = arg;

	pthread_mutex_lock(&p->lock);
	p->done = true;
	p->fd = fd;
	pthread_cond_signal(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

/* Ask the engine of a record whether it lives; takes PROBE_NS at most. */
static enum holder probe(struct mc_engine *engine, const struct mc_record *record)
{
	struct probe p = {.fd = -1};
	struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL,
					.from_generation = engine->generation,
					.to_generation = record->generation};
	int r;

	snprintf(hello.from, sizeof hello.from, "%s", engine->name);
	pthread_mutex_init(&p.lock, NULL);
	pthread_cond_init(&p.cond, NULL);
	r = mc_stream_dial(engine, (const char *const *)record->addresses, NULL, &hello,
			   mc_now_ns() + PROBE_NS, probed, &p);
	pthread_mutex_lock(&p.lock);
	while (r == 0 && !p.done)
		pthread_cond_wait(&p.cond, &p.lock);
	pthread_mutex_unlock(&p.lock);
	pthread_cond_destroy(&p.cond);
	pthread_mutex_destroy(&p.lock);
	if (r == 0)
		r = p.fd;
	if (r >= 0)
		close(r);
	if (r >= 0 || r == -EBUSY)
		return HOLDER_ALIVE;
	if (r == -EACCES)
		return HOLDER_REFUSES;
	return r == -ECONNREFUSED || r == -ESTALE ? HOLDER_DEAD : HOLDER_SILENT;
}

/* Write our record if the key's revision is `expect`. */
static int record_write(struct mc_meta *m, uint64_t expect, uint64_t deadline_ns, struct mc_error *err)
{
	char key[MC_KV_KEY_MAX + 1];
	struct mc_kv kv = {.size = sizeof kv, .key = key};
	mc_cleanup(mc_freep) char *text = NULL;
	size_t len = 0;
	uint64_t revision = 0;
	bool stopping;
	int r;

	r = mc_record_key(m, m->engine->name, key, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&m->lock);
	stopping = m->stopping;
	pthread_mutex_unlock(&m->lock);
	if (stopping)
		return mc_fail(err, -ECANCELED, "record '%s': the engine is being closed", key);
	r = mc_meta_lease(m, deadline_ns, &kv.lease, err);
	if (r < 0)
		return r;
	text = mc_record_json(m->engine, &len);
	if (!text)
		return mc_fail(err, -ENOMEM, "record '%s': out of memory", key);
	kv.value = text;
	kv.len = len;
	r = mc_meta_cas(m, &kv, expect, deadline_ns, &revision, err);
	if (r == -ENOENT)
		mc_meta_lease_ended(m, kv.lease);
	if (r == 0) {
		pthread_mutex_lock(&m->lock);
		m->revision = revision;
		pthread_mutex_unlock(&m->lock);
	}
	return r;
}

static void set_name(struct mc_engine *engine, const char *name)
{
	snprintf(engine->name, sizeof engine->name, "%s", name);
}

/* Our own lease runs while we wait for another's to end; one that has ended is granted anew. */
static void wait_a_little(struct mc_meta *m, uint64_t deadline_ns)
{
	uint64_t now = mc_now_ns(), span = deadline_ns > now ? deadline_ns - now : 0, lease;
	struct timespec ts = {.tv_nsec = (long)MC_MIN(span, LOOK_AGAIN_NS)};

	nanosleep(&ts, NULL);
	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	pthread_mutex_unlock(&m->lock);
	if (lease)
		mc_meta_keepalive(m, lease, deadline_ns, NULL);
}

/* What to do about a name that has a record: 0 = try again; -errno. */
static int name_taken(struct mc_meta *m, bool chosen, struct mc_record *record, uint64_t deadline_ns,
		      bool *said, struct mc_error *err)
{
	struct mc_engine *engine = m->engine;
	enum holder holder = probe(engine, record);
	char name[MC_SEGMENT_NAME_MAX + 1];
	int r;

	if (holder == HOLDER_DEAD) {
		r = record_write(m, record->revision, deadline_ns, err);
		if (r == 0)
			mc_info("name '%s': taken over, the engine at %s that held it is gone",
				engine->name, record->addresses[0]);
		return r == 0 ? 1 : r == -ESTALE || r == -EEXIST ? 0 : r;
	}
	if (!chosen) {
		snprintf(name, sizeof name, "%.230s-%d", engine->name, (int)getpid());
		mc_warn("name '%s' is held by a live engine at %s: using '%s' instead; set "
			"local_server_name to choose",
			engine->name, record->addresses[0], name);
		set_name(engine, name);
		return 0;
	}
	if (holder == HOLDER_ALIVE)
		return mc_fail(err, -EEXIST,
			       "name '%s' is in use by a live engine at %s (generation %016llx); choose "
			       "another local_server_name or stop that engine",
			       engine->name, record->addresses[0],
			       (unsigned long long)record->generation);
	if (holder == HOLDER_REFUSES)
		return mc_fail(err, -EEXIST,
			       "name '%s' is held by an engine at %s that refuses us: its cluster_key_file or "
			       "access differs; give both the same key, or choose another local_server_name",
			       engine->name, record->addresses[0]);
	if (!*said)
		mc_warn("name '%s': its holder at %s does not answer; waiting for its lease to end",
			engine->name, record->addresses[0]);
	*said = true;
	if (mc_now_ns() + LOOK_AGAIN_NS >= deadline_ns)
		return mc_fail(err, -EEXIST,
			       "name '%s' is held by an engine at %s that does not answer, and its lease "
			       "did not end in time; try again, or choose another local_server_name",
			       engine->name, record->addresses[0]);
	wait_a_little(m, deadline_ns);
	return 0;
}

static int publish(struct mc_meta *m, bool chosen, uint64_t deadline_ns, struct mc_error *err)
{
	bool said = false;

	for (int tries = 0; tries < 10000; tries++) {
		mc_cleanup(record_freep) struct mc_record *record = NULL;
		int r = record_write(m, 0, deadline_ns, err);

		if (r == -EEXIST || r == -ESTALE) {
			r = mc_record_get(m, m->engine->name, deadline_ns, &record, err);
			if (r == -ENOENT)
				continue;
			if (r < 0)
				return r;
			if (record->generation == m->engine->generation)
				r = record_write(m, record->revision, deadline_ns, err) == 0;
			else
				r = name_taken(m, chosen, record, deadline_ns, &said, err);
			if (r == 0 && mc_now_ns() >= deadline_ns)
				break;
			if (r == 0)
				continue;
		}
		/* -ENOENT: the lease ended before the record was written under it. */
		if (r != -ENOENT || mc_now_ns() >= deadline_ns)
			return r < 0 ? r : 0;
	}
	return mc_fail(err, -ETIMEDOUT, "name '%s': its record could not be written in time",
		       m->engine->name);
}

/* ---- keeping it alive ------------------------------------------------------------------------------ */

static uint64_t third(const struct mc_meta *m)
{
	return (uint64_t)m->engine->set->lease_ttl / 3;
}

/* Said once; we do not fight for it, and take it again when its record has ended. */
static void name_is_lost(struct mc_meta *m, const struct mc_record *record)
{
	if (!m->name_lost)
		mc_warn("name '%s' is held by the engine at %s (generation %016llx) now: new peers reach that "
			"one, not us; open sessions go on.  Stop one of the two or give it another "
			"local_server_name, and see that others reach this one's advertise_address",
			m->engine->name, record->addresses[0], (unsigned long long)record->generation);
	m->name_lost = true;
}

static void name_is_ours(struct mc_meta *m)
{
	if (m->name_lost)
		mc_info("name '%s' is ours again", m->engine->name);
	m->name_lost = false;
}

/* The lease has ended, and our record with it: a new one, if nobody else has the name now. */
static int republish(struct mc_meta *m, uint64_t deadline_ns, struct mc_error *err)
{
	mc_cleanup(record_freep) struct mc_record *record = NULL;
	int r;

	r = record_write(m, 0, deadline_ns, err);
	if (r != -EEXIST && r != -ESTALE)
		return r;
	r = mc_record_get(m, m->engine->name, deadline_ns, &record, err);
	if (r < 0)
		return r;
	if (record->generation == m->engine->generation ||
	    probe(m->engine, record) == HOLDER_DEAD)
		return record_write(m, record->revision, deadline_ns, err);
	name_is_lost(m, record);
	return 0;
}

/* After a reload the record names other devices.  What waits for the next time is no loss: peers learn them from
 * ourselves. */
static int renew(struct mc_meta *m, const struct mc_record *record, uint64_t deadline_ns, struct mc_error *err)
{
	int r;

	if (!atomic_exchange(&m->outdated, false))
		return 0;
	r = record_write(m, record->revision, deadline_ns, err);
	if (r < 0)
		atomic_store(&m->outdated, true);
	return r == -ESTALE || r == -EEXIST ? 0 : r;
}

/* The record may vanish without its lease, by hand or by a restored backup; another engine may have
 * replaced it, because it could not reach us. */
static int keep(struct mc_meta *m, uint64_t deadline_ns, struct mc_error *err)
{
	mc_cleanup(record_freep) struct mc_record *record = NULL;
	uint64_t lease;
	bool lost;
	int r;

	pthread_mutex_lock(&m->lock);
	lease = m->lease;
	pthread_mutex_unlock(&m->lock);
	r = lease ? mc_meta_keepalive(m, lease, deadline_ns, err) : -ENOENT;
	if (r == -ENOENT) {
		if (lease)
			mc_warn("name '%s': its lease has ended before it was renewed, and its record with it; "
				"publishing it again", m->engine->name);
		r = republish(m, deadline_ns, err);
		return r < 0 ? r : mc_kept_rewrite(m, false, deadline_ns, err);
	}
	if (r < 0)
		return r;
	r = mc_record_get(m, m->engine->name, deadline_ns, &record, err);
	if (r == 0 && record->generation == m->engine->generation) {
		name_is_ours(m);
		r = renew(m, record, deadline_ns, err);
	} else if (r == 0) {
		name_is_lost(m, record);
	}
	lost = r == -ENOENT;
	if (lost || r == -EBADMSG)
		r = lost ? record_write(m, 0, deadline_ns, err) : 0;
	if (r < 0 && r != -EEXIST)
		return r;
	return mc_kept_rewrite(m, lost, deadline_ns, err);
}

static void keep_run(struct mc_job *job)
{
	struct mc_meta *m = MC_CONTAINER_OF(job, struct mc_meta, job);
	uint64_t next = third(m);
	struct mc_error err = {0};
	bool stopping;
	int r = keep(m, mc_now_ns() + third(m), &err);

	if (r < 0) {
		m->backoff_ns = MC_MIN(MC_MAX(2 * m->backoff_ns, 200 * MC_MSEC), next);
		next = m->backoff_ns;
		if (!m->trouble && r != -ECANCELED)
			mc_warn("%s; transfers go on, new peers cannot find '%s' until it is back",
				err.text, m->engine->name);
		m->trouble = true;
		m->failures++;
	} else {
		if (m->trouble)
			mc_warn("metadata service %s is back: the record of '%s' is published again",
				m->url, m->engine->name);
		m->trouble = false;
		m->backoff_ns = 0;
	}
	pthread_mutex_lock(&m->lock);
	stopping = m->stopping;
	pthread_mutex_unlock(&m->lock);
	if (!stopping)
		mc_control_timer(m->engine->control, &m->timer, mc_now_ns() + next);
	pthread_mutex_lock(&m->lock);
	m->job_running = false;
	pthread_cond_broadcast(&m->idle);
	pthread_mutex_unlock(&m->lock);
}

static void keep_due(struct mc_timer *t, uint64_t now_ns)
{
	struct mc_meta *m = MC_CONTAINER_OF(t, struct mc_meta, timer);
	bool run;

	pthread_mutex_lock(&m->lock);
	run = !m->stopping && !m->job_running;
	if (run)
		m->job_running = true;
	pthread_mutex_unlock(&m->lock);
	if (run)
		mc_helpers_run_as(m->engine->helpers, &m->job, MC_JOB_URGENT);
}

int mc_record_publish(struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err)
{
	const char *wanted = engine->set->local_server_name;
	struct mc_meta *m = engine->meta;
	bool chosen = wanted && *wanted;
	int r;

	if (chosen) {
		r = mc_name_check(wanted, err);
		if (r < 0)
			return r;
		set_name(engine, wanted);
	} else if (!engine->name[0] && gethostname(engine->name, sizeof engine->name - 1) < 0) {
		return mc_fail(err, -errno, "hostname: %s; set local_server_name", strerror(errno));
	}
	r = publish(m, chosen, deadline_ns, err);
	if (r < 0)
		return r;
	m->published = true;
	m->timer = (struct mc_timer){.size = sizeof m->timer, .fire = keep_due};
	m->job.run = keep_run;
	mc_control_timer(engine->control, &m->timer, mc_now_ns() + third(m));
	return 0;
}

void mc_record_outdated(struct mc_engine *engine)
{
	struct mc_meta *m = engine->meta;

	atomic_store(&m->outdated, true);
	if (m->published)
		mc_control_timer(engine->control, &m->timer, mc_now_ns());
}

int mc_record_withdraw(struct mc_engine *engine, uint64_t deadline_ns)
{
	struct mc_meta *m = engine->meta;
	char key[MC_KV_KEY_MAX + 1];
	struct timespec until = mc_wait_until(deadline_ns);
	uint64_t lease, revision;
	bool running;
	int r = 0;

	if (!m)
		return 0;
	pthread_mutex_lock(&m->lock);
	m->stopping = true;
	while (m->job_running && mc_now_ns() < deadline_ns)
		pthread_cond_timedwait(&m->idle, &m->lock, &until);
	running = m->job_running;
	lease = running ? 0 : m->lease;
	if (!running)
		m->lease = 0;
	atomic_store(&m->lease_until, 0);
	revision = m->revision;
	pthread_mutex_unlock(&m->lock);
	/* A service that answers neither a keepalive nor others will not take the record back now. */
	if (running || mc_helpers_wait(engine->helpers, 1, deadline_ns) < 0)
		return -ETIMEDOUT;
	if (m->published) {
		mc_control_timer(engine->control, &m->timer, 0);
		if (mc_record_key(m, engine->name, key, NULL) == 0 && revision)
			r = mc_meta_del(m, key, revision, deadline_ns, NULL);
		m->published = false;
	}
	if (lease) {
		int revoked = mc_meta_revoke(m, lease, deadline_ns);

		if (revoked == -ETIMEDOUT)
			r = revoked;
	}
	return r == -ETIMEDOUT ? r : 0;
}
