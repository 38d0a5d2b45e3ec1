/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds an engine and tears it down.  Order of building: what others stand on
 * first, the port before anything slow, the record last, when everything that it
 * promises is there.  Tearing down goes the other way and accepts an engine that
 * was built in part.
 */
#include "engine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "addr.h"
#include "batch.h"
#include "clock.h"
#include "device.h"
#include "discover.h"
#include "host.h"
#include "http.h"
#include "kind.h"
#include "log.h"
#include "meta.h"
#include "notify.h"
#include "path.h"
#include "record.h"
#include "reload.h"
#include "rpc.h"
#include "segment.h"
#include "session.h"
#include "stream.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"

pid_t mc_self_pid;

static void child_of_fork(void)
{
	mc_self_pid = getpid();
}

static void know_self(void)
{
	mc_self_pid = getpid();
	pthread_atfork(NULL, NULL, child_of_fork);
}

static const struct mc_stream_owners owners = {
	.data = mc_path_stream,
	.http = mc_http_accept,
	.rpc = mc_rpc_accept,
};

/* ---- who we are ----------------------------------------------------------------------------- */

static int engine_name(struct mc_engine *engine, struct mc_error *err)
{
	const char *wanted = engine->set->local_server_name;
	char host[MC_SEGMENT_NAME_MAX + 1] = "localhost";
	size_t len;
	int r;

	if (!*wanted) {
		gethostname(host, sizeof host - 1);
		wanted = host;
	}
	len = strlen(wanted);
	if (len > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "local_server_name: longer than %d bytes", MC_SEGMENT_NAME_MAX);
	memcpy(engine->name, wanted, len);
	engine->name[len] = '\0';
	r = mc_name_check(engine->name, err);
	return r < 0 ? r : 0;
}

static struct mc_engine *engine_new(const struct mc_config *config, struct mc_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct mc_engine *engine = calloc(1, sizeof *engine);

	pthread_once(&once, know_self);
	if (!engine || mc_config_clone(config, &engine->config) < 0) {
		free(engine);
		mc_fail(err, -ENOMEM, "engine: out of memory");
		return NULL;
	}
	engine->set = mc_config_settings(engine->config);
	engine->registry = mc_registry_ref(mc_config_registry(engine->config));
	engine->pid = mc_self_pid;
	engine->opened_ns = mc_now_ns();
	pthread_mutex_init(&engine->segments_lock, NULL);
	pthread_mutex_init(&engine->reload_lock, NULL);
	while (!engine->generation)
		mc_random(&engine->generation, sizeof engine->generation);
	return engine;
}

void mc_engine_log_level(const struct mc_config *config)
{
	static const char *const words[] = {"error", "warn", "info", "debug", "trace"};

	for (size_t i = 0; i < MC_ARRAY_SIZE(words); i++)
		if (!strcasecmp(words[i], mc_config_settings(config)->log_level))
			mc_log_set_level((enum mc_log_level)i);
}

/* The process's own stays if the user wrote none. */
static void first_log_level(const struct mc_config *config)
{
	if (mc_config_origin(config, "log_level") != MC_ORIGIN_DEFAULT)
		mc_engine_log_level(config);
}

/* ---- building ------------------------------------------------------------------------------- */

static int open_base(struct mc_engine *engine, struct mc_error *err)
{
	int r = engine_name(engine, err);

	if (r < 0)
		return r;
	r = mc_helpers_new(&engine->helpers);
	if (r < 0)
		return mc_fail(err, r, "engine: helper threads: %s", strerror(-r));
	r = mc_control_new(&engine->control, err);
	if (r < 0)
		return r;
	r = mc_kinds_new(engine);
	if (r == 0)
		r = mc_local_new(engine);
	if (r == 0)
		r = mc_notifies_open(engine);
	if (r == 0)
		r = mc_sessions_open(engine, mc_local_each);
	if (r == 0)
		r = mc_http_new(engine);
	if (r == 0)
		r = mc_stream_set_owners(engine, &owners);
	if (r < 0)
		return mc_fail(err, r, "engine: %s", strerror(-r));
	mc_session_set_events(engine, &mc_path_session_events);
	return 0;
}

int mc_engine_read_matrix(const struct mc_engine *engine, const char *text, struct mc_matrix **ret_matrix,
			  struct mc_error *err)
{
	mc_cleanup(mc_freep) char *found = NULL;
	struct mc_matrix *matrix = NULL;
	int r;

	if (!*text) {
		r = mc_discover_matrix(engine->registry, &found, err);
		if (r < 0)
			return r;
		mc_info("nic_priority_matrix: none was given, this host's devices make it %s", found);
		text = found;
	}
	r = mc_matrix_parse(text, &matrix, err);
	if (r < 0 && r != -ENOMEM)
		r = -EINVAL; /* a file that is not there is a wrong value, too */
	if (r == 0) {
		r = mc_matrix_resolve(matrix, engine->registry, err);
		r = r == -ENOENT ? -ENODEV : r;
	}
	if (r == 0)
		*ret_matrix = mc_steal(matrix);
	else if (err)
		err->code = r;
	mc_matrix_free(matrix);
	return r;
}

static int find_matrix(struct mc_engine *engine, struct mc_error *err)
{
	struct mc_matrix *matrix = NULL;
	int r = mc_engine_read_matrix(engine, engine->set->nic_priority_matrix, &matrix, err);

	engine->matrix = matrix;
	return r;
}

/* A kind without a plugin of its own may still belong to a transport; one whose plugin cannot be opened
 * is missed only by who uses it. */
void mc_engine_open_kinds(struct mc_engine *engine, const struct mc_matrix *matrix)
{
	for (size_t i = 0; i < matrix->nr_rows; i++) {
		char kind[MC_PLUGIN_NAME_MAX + 1];
		struct mc_error why;
		int32_t ordinal;

		if (mc_location_parse(matrix->rows[i].location, kind, &ordinal, NULL) < 0 ||
		    !strcmp(kind, "*") || !strcmp(kind, "cpu") ||
		    !mc_registry_find(engine->registry, MC_KIND_MEMORY, kind, NULL))
			continue;
		if (mc_kind_open(engine, kind, &why) < 0)
			mc_warn("%s; memory of location '%s' cannot be used", why.text,
				matrix->rows[i].location);
	}
}

static int open_parts(struct mc_engine *engine, uint64_t deadline_ns, struct mc_error *err)
{
	bool named = *engine->set->nic_priority_matrix;
	int r = open_base(engine, err);

	if (r == 0 && named) /* what the user wrote is looked at before any service is asked */
		r = find_matrix(engine, err);
	if (r == 0)
		r = mc_stream_listen(engine, err);
	if (r == 0)
		r = mc_meta_open(engine, deadline_ns, err);
	if (r == 0 && !named)
		r = find_matrix(engine, err);
	if (r < 0)
		return r;
	mc_engine_open_kinds(engine, engine->matrix);
	r = mc_devices_open(engine, named, deadline_ns, err);
	if (r == 0)
		r = mc_hello_fits(engine, engine->matrix, NULL, 0, err);
	if (r < 0)
		return r;
	/* Before the record: who holds our name may be an older self at this very port, and is asked. */
	mc_stream_start(engine);
	return mc_record_publish(engine, deadline_ns, err);
}

/* ---- tearing down --------------------------------------------------------------------------- */

static void segments_free(struct mc_engine *engine)
{
	while (engine->segments)
		mc_segment_close(engine->segments);
}

/* What stands on helpers and the control loop; nothing else is left. */
static void free_base(struct mc_engine *engine)
{
	mc_stream_free(engine);
	mc_http_free(engine);
	mc_sessions_free(engine);
	mc_notifies_free(engine);
	mc_local_free(engine);
	mc_kinds_free(engine);
	mc_control_free(engine->control);
	mc_helpers_free(engine->helpers);
	mc_reload_free(engine); /* with the matrix in force, and those that were */
	mc_registry_free(engine->registry);
	mc_config_free(engine->config);
	pthread_mutex_destroy(&engine->reload_lock);
	pthread_mutex_destroy(&engine->segments_lock);
	free(engine);
}

/* What needs helper threads, and then the rest.  -EINPROGRESS: when they are idle, call again. */
static int engine_end_on_helpers(struct mc_engine *engine, uint64_t deadline_ns)
{
	int r;

	mc_local_close(engine);
	r = mc_devices_close(engine, deadline_ns);
	if (r == -EINPROGRESS)
		return r;
	if (engine->meta)
		mc_meta_close(engine);
	free_base(engine);
	return r < 0 ? -ETIMEDOUT : 0;
}

static void *end_later(void *arg)
{
	struct mc_engine *engine = arg;

	do
		mc_helpers_wait(engine->helpers, 0, UINT64_MAX);
	while (engine_end_on_helpers(engine, mc_now_ns() + MC_SEC) == -EINPROGRESS);
	return NULL;
}

/* A helper is still in a call of a metadata or name service that does not come back: what it uses
 * is freed when it does, behind the caller's back, for his deadline is over. */
static void leave_to_thread(struct mc_engine *engine, bool said)
{
	sigset_t all, old;
	pthread_t thread;

	if (!said)
		mc_warn("engine '%s': close: a call of metadata server '%s', or of the resolver of host names, does "
			"not return; the rest is freed when it does", engine->name,
			engine->meta ? engine->meta->url : "none");
	/* Signals are the application's threads' affair. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&thread, NULL, end_later, engine) == 0)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int engine_end(struct mc_engine *engine, uint64_t deadline_ns)
{
	uint64_t now = mc_now_ns();
	int r = 0, r2;

	atomic_store(&engine->closing, true);
	/* Half of what is left: the transports need time, too. */
	if (engine->meta)
		r = mc_record_withdraw(engine, deadline_ns > now ? now + (deadline_ns - now) / 2 : now);
	if (r == -ETIMEDOUT)
		mc_warn("engine '%s': close: metadata server '%s' does not answer; the record '%s' there ends "
			"with its lease", engine->name, engine->meta->url, engine->name);
	mc_stream_unlisten(engine);
	mc_http_close(engine);
	mc_batches_stop(engine, -ECANCELED);
	if (engine->sessions)
		mc_sessions_close(engine);
	if (engine->control)
		mc_rpc_close(engine);
	/* Paths end on their workers; what used them is complete then. */
	now = mc_now_ns();
	r2 = mc_paths_wait(engine, MC_MIN(deadline_ns, now + (engine->set ? (uint64_t)engine->set->peer_timeout / 10 : 0)));
	if (r2 < 0) {
		/* A peer that is stopped in the middle of a copy is waited for only while memory may be used again. */
		mc_lanes_stop_local(engine);
		r2 = mc_paths_wait(engine, deadline_ns);
	}
	if (r2 < 0) {
		/* Freeing what a plugin still uses would be worse than keeping it. */
		mc_error_log("engine '%s': close: a transport did not end its peers in time; its memory and "
			     "threads are left until the process ends", engine->name);
		return r2;
	}
	mc_batches_free(engine);
	segments_free(engine);
	if (engine->helpers && mc_helpers_wait(engine->helpers, 0, deadline_ns) < 0) {
		leave_to_thread(engine, r == -ETIMEDOUT);
		return -ETIMEDOUT;
	}
	r2 = engine_end_on_helpers(engine, deadline_ns);
	if (r2 == -EINPROGRESS)
		leave_to_thread(engine, false);
	return r < 0 || r2 < 0 ? -ETIMEDOUT : 0;
}

int mc_engine_open(const struct mc_config *config, uint64_t timeout_ns, struct mc_engine **ret_engine,
		   struct mc_error *err)
{
	struct mc_engine *engine;
	struct mc_error why = {0};
	int r;

	if (!config || !ret_engine)
		return mc_fail(err, -EINVAL, "engine: config and ret_engine may not be NULL");
	if (mc_worker_any_mine())
		return mc_fail(err, -EDEADLK, "engine: may not be opened from a callback");
	engine = engine_new(config, err);
	if (!engine)
		return -ENOMEM;
	first_log_level(engine->config);
	r = open_parts(engine, mc_deadline(timeout_ns), &why);
	if (r < 0) {
		engine_end(engine, mc_now_ns() + MC_SEC);
		return mc_fail_with(err, r, &why);
	}
	mc_info("engine '%s': open, port %u, generation %016llx", engine->name, engine->port,
		(unsigned long long)engine->generation);
	*ret_engine = engine;
	return 0;
}

int mc_engine_open_aside(const struct mc_config *config, uint64_t deadline_ns, struct mc_engine **ret_engine,
			 struct mc_error *err)
{
	struct mc_engine *engine = engine_new(config, err);
	int r;

	if (!engine)
		return -ENOMEM;
	first_log_level(engine->config);
	r = open_base(engine, err);
	if (r == 0)
		r = mc_meta_open(engine, deadline_ns, err);
	if (r < 0) {
		engine_end(engine, mc_now_ns() + MC_SEC);
		return r;
	}
	*ret_engine = engine;
	return 0;
}

int mc_engine_close(struct mc_engine *engine, uint64_t timeout_ns)
{
	int r;

	if (!engine)
		return 0;
	r = mc_engine_check(engine);
	if (r < 0)
		return r;
	if (mc_worker_any_mine())
		return -EDEADLK;
	mc_info("engine '%s': closing", engine->name);
	return engine_end(engine, mc_deadline(timeout_ns));
}

const char *mc_engine_name(const struct mc_engine *engine)
{
	return engine ? engine->name : NULL;
}

uint16_t mc_engine_port(const struct mc_engine *engine)
{
	return engine ? engine->port : 0;
}

uint64_t mc_engine_generation(const struct mc_engine *engine)
{
	return engine ? engine->generation : 0;
}

const char *mc_engine_matrix(const struct mc_engine *engine)
{
	return engine ? engine->matrix->text : NULL;
}
