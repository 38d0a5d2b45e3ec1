/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /metrics: what the engine has counted, as Prometheus reads it.  Everything is
 * read where it lies, from the control loop, without waiting for a worker: what
 * workers count is atomic.  Rails are gathered first, because lanes of one rail
 * add up to one series and a family's samples stand together.
 */
#include "metrics.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "device.h"
#include "http.h"
#include "lane.h"
#include "meta.h"
#include "notify.h"
#include "path.h"
#include "prom.h"
#include "rpc.h"
#include "segment_impl.h"
#include "session_impl.h"
#include "stream_port.h"
#include "core/util/check.h"

#define LABELS_MAX 2048

/* Room for the longest names, every byte of them escaped. */
static_assert(LABELS_MAX >
		      2 * (MC_SEGMENT_NAME_MAX + 3 * MC_PLUGIN_NAME_MAX + 2 * MC_DEVICE_NAME_MAX) +
			      256,
	      "labels of a rail");

enum rail_state {
	RAIL_IDLE = 0, RAIL_OPENING, RAIL_UP, RAIL_DRAINING, RAIL_DOWN, RAIL_PROBING, RAIL_RAMPING
};

struct rail {
	char *labels;
	enum rail_state state;
	uint64_t bytes_read, bytes_written, requests, slices, retries, breaks, inflight, rate;
	uint64_t errors[MC_SCOPE_COUNT];
};

struct gathering {
	struct rail *rails;
	size_t nr, cap;
	bool failed;
	uint64_t active, passive, remote_buffers;
};

/* ---- gathering ---------------------------------------------------------------------------- */

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)counter, memory_order_relaxed);
}

static enum rail_state state_of(const struct mc_path *p)
{
	static const enum rail_state states[] = {
		[MC_PATH_IDLE] = RAIL_IDLE, [MC_PATH_OPENING] = RAIL_OPENING,
		[MC_PATH_UP] = RAIL_UP,     [MC_PATH_FENCING] = RAIL_DRAINING,
		[MC_PATH_DOWN] = RAIL_DOWN, [MC_PATH_CLOSED] = RAIL_DOWN};
	struct mc_path *path = (struct mc_path *)(uintptr_t)p;
	enum rail_state state = states[atomic_load_explicit(&path->state, memory_order_relaxed)];

	/* On its way back from a failure. */
	if (atomic_load_explicit(&path->failures, memory_order_relaxed))
		state = state == RAIL_OPENING ? RAIL_PROBING : state == RAIL_UP ? RAIL_RAMPING : state;
	return state;
}

static struct rail *rail_new(struct gathering *g)
{
	if (g->nr == g->cap) {
		size_t cap = g->cap ? 2 * g->cap : 64;
		struct rail *more = realloc(g->rails, cap * sizeof *more);

		if (!more)
			return NULL;
		g->rails = more;
		g->cap = cap;
	}
	return memset(&g->rails[g->nr], 0, sizeof *g->rails);
}

static void rail_add(struct gathering *g, const struct mc_session *s, const struct mc_path *p)
{
	const struct mc_remote_device *remote = &s->peer->devices[p->remote_device];
	char labels[LABELS_MAX] = "";
	struct rail *r = rail_new(g);

	mc_prom_label(labels, sizeof labels, "peer", s->peer->name);
	mc_prom_label(labels, sizeof labels, "device", p->lane->device->label);
	mc_prom_label(labels, sizeof labels, "remote_device", p->remote_label);
	mc_prom_label(labels, sizeof labels, "wire", remote->wire);
	if (!r || !(r->labels = strdup(labels))) {
		g->failed = true;
		return;
	}
	g->nr++;
	r->state = state_of(p);
	r->bytes_read = get(&p->bytes_read);
	r->bytes_written = get(&p->bytes_written);
	r->requests = get(&p->requests);
	r->slices = get(&p->slices);
	r->retries = get(&p->retries);
	r->breaks = get(&p->breaks);
	r->inflight = get(&p->inflight);
	r->rate = get(&p->rate);
	for (size_t i = 0; i < MC_SCOPE_COUNT; i++)
		r->errors[i] = get(&p->errors[i]);
}

static void gather_session(struct mc_session *s, void *arg)
{
	struct gathering *g = arg;
	struct mc_paths *paths = s->paths;

	if (s->state != MC_SESSION_UP)
		return;
	if (!s->active) {
		g->passive++;
		return;
	}
	g->active++;
	g->remote_buffers += s->impl->in.nr;
	if (!paths)
		return;
	pthread_mutex_lock(&paths->lock);
	for (size_t i = 0; i < paths->nr; i++)
		rail_add(g, s, paths->list[i]);
	pthread_mutex_unlock(&paths->lock);
}

static int by_labels(const void *a, const void *b)
{
	return strcmp(((const struct rail *)a)->labels, ((const struct rail *)b)->labels);
}

/* Lanes of one rail: one works, so the rail does; else the one that is furthest from it says what is
 * wrong. */
static void merge(struct rail *into, const struct rail *r)
{
	static const uint8_t badness[] = {
		[RAIL_UP] = 0, [RAIL_RAMPING] = 1, [RAIL_IDLE] = 2, [RAIL_OPENING] = 3, [RAIL_DRAINING] = 4,
		[RAIL_PROBING] = 5, [RAIL_DOWN] = 6};
	uint8_t old = badness[into->state], new = badness[r->state];

	if (old <= badness[RAIL_RAMPING] ? new < old : new <= badness[RAIL_RAMPING] || new > old)
		into->state = r->state;
	into->bytes_read += r->bytes_read;
	into->bytes_written += r->bytes_written;
	into->requests += r->requests;
	into->slices += r->slices;
	into->retries += r->retries;
	into->breaks += r->breaks;
	into->inflight += r->inflight;
	into->rate += r->rate;
	for (size_t i = 0; i < MC_SCOPE_COUNT; i++)
		into->errors[i] += r->errors[i];
	free(r->labels);
}

static void merge_lanes(struct gathering *g)
{
	size_t nr = 0;

	if (g->nr)
		qsort(g->rails, g->nr, sizeof *g->rails, by_labels);
	for (size_t i = 0; i < g->nr; i++) {
		if (nr && !strcmp(g->rails[nr - 1].labels, g->rails[i].labels))
			merge(&g->rails[nr - 1], &g->rails[i]);
		else
			g->rails[nr++] = g->rails[i];
	}
	g->nr = nr;
}

/* ---- writing: rails ----------------------------------------------------------------------- */

static void write_rail_family(struct mc_prom *p, const struct gathering *g, const char *name,
			      enum mc_prom_type type, size_t offset, const char *help)
{
	mc_prom_family(p, name, type, help);
	for (size_t i = 0; i < MC_MIN(g->nr, (size_t)MC_METRICS_RAILS_MAX); i++)
		mc_prom_u64(p, name, g->rails[i].labels,
			    *(const uint64_t *)((const char *)&g->rails[i] + offset));
}

static void write_rail_errors(struct mc_prom *p, const struct gathering *g)
{
	static const char *const scopes[] = {[MC_SCOPE_NONE] = "none",
					     [MC_SCOPE_REQUEST] = "request",
					     [MC_SCOPE_PEER] = "peer",
					     [MC_SCOPE_NIC] = "nic",
					     [MC_SCOPE_TRANSPORT] = "transport"};
	static const char name[] = "mooncake_rail_errors_total";
	char labels[LABELS_MAX + 32];

	static_assert(MC_ARRAY_SIZE(scopes) == MC_SCOPE_COUNT, "a scope has no name");
	mc_prom_family(p, name, MC_PROM_COUNTER,
		       "Slices that failed on the rail, by the largest thing that broke.");
	for (size_t i = 0; i < MC_MIN(g->nr, (size_t)MC_METRICS_RAILS_MAX); i++) {
		for (size_t scope = MC_SCOPE_REQUEST; scope < MC_SCOPE_COUNT; scope++) {
			snprintf(labels, sizeof labels, "%s", g->rails[i].labels);
			mc_prom_label(labels, sizeof labels, "scope", scopes[scope]);
			mc_prom_u64(p, name, labels, g->rails[i].errors[scope]);
		}
	}
}

static void write_rails(struct mc_prom *p, const struct gathering *g)
{
	static const char state[] = "mooncake_rail_state";
	size_t shown = MC_MIN(g->nr, (size_t)MC_METRICS_RAILS_MAX);

	mc_prom_family(p, "mooncake_rails", MC_PROM_GAUGE, "Rails to peers.");
	mc_prom_u64(p, "mooncake_rails", "", g->nr);
	mc_prom_family(p, "mooncake_rails_omitted", MC_PROM_GAUGE,
		       "Rails that are not listed here, for they are too many.");
	mc_prom_u64(p, "mooncake_rails_omitted", "", g->nr - shown);
	mc_prom_family(p, state, MC_PROM_GAUGE,
		       "0 idle (not needed yet), 1 opening, 2 up, 3 draining, 4 down, 5 probing, 6 ramping.");
	for (size_t i = 0; i < shown; i++)
		mc_prom_u64(p, state, g->rails[i].labels, g->rails[i].state);
#define FAMILY(name, type, field, help) \
	write_rail_family(p, g, "mooncake_rail_" name, type, offsetof(struct rail, field), help)
	FAMILY("read_bytes_total", MC_PROM_COUNTER, bytes_read,
	       "Bytes read from the peer over the rail.");
	FAMILY("written_bytes_total", MC_PROM_COUNTER, bytes_written,
	       "Bytes written to the peer over the rail.");
	FAMILY("requests_total", MC_PROM_COUNTER, requests,
	       "Requests whose beginning the rail has carried.");
	FAMILY("slices_total", MC_PROM_COUNTER, slices, "Slices that the rail has carried.");
	FAMILY("retries_total", MC_PROM_COUNTER, retries,
	       "Pieces of the rail that were tried again after it broke.");
	FAMILY("breaks_total", MC_PROM_COUNTER, breaks, "How often the rail broke and was fenced.");
	FAMILY("in_flight_bytes", MC_PROM_GAUGE, inflight, "Bytes on their way.");
	FAMILY("rate_bytes_per_second", MC_PROM_GAUGE, rate,
	       "Bandwidth as learned; the nominal one while it is idle.");
#undef FAMILY
	write_rail_errors(p, g);
}

/* ---- writing: devices and lanes ----------------------------------------------------------- */

static void lane_labels(const struct mc_lane *lane, char *labels, size_t size)
{
	char idx[8];

	snprintf(idx, sizeof idx, "%u", lane->idx);
	labels[0] = '\0';
	mc_prom_label(labels, size, "device", lane->device->label);
	mc_prom_label(labels, size, "lane", idx);
}

static void write_lane_family(struct mc_prom *p, const struct mc_engine *engine, const char *name,
			      enum mc_prom_type type, size_t offset, const char *help)
{
	char labels[LABELS_MAX];

	mc_prom_family(p, name, type, help);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		for (uint16_t l = 0; l < engine->devices[i]->nr_lanes; l++) {
			const struct mc_lane *lane = engine->devices[i]->lanes[l];

			lane_labels(lane, labels, sizeof labels);
			mc_prom_u64(p, name, labels,
				    get((const _Atomic uint64_t *)((const char *)lane + offset)));
		}
	}
}

static void write_devices(struct mc_prom *p, const struct mc_engine *engine)
{
	char labels[LABELS_MAX];

	mc_prom_family(p, "mooncake_device_up", MC_PROM_GAUGE,
		       "1: the device works; 0: it is down or gone.");
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		labels[0] = '\0';
		mc_prom_label(labels, sizeof labels, "device", d->label);
		mc_prom_u64(p, "mooncake_device_up", labels,
			    __atomic_load_n(&d->state, __ATOMIC_RELAXED) == MC_STATE_ACTIVE);
	}
#define FAMILY(name, type, field, help)                                                            \
	write_lane_family(p, engine, "mooncake_lane_" name, type, offsetof(struct mc_lane, field), \
			  help)
	FAMILY("read_bytes_total", MC_PROM_COUNTER, bytes_read,
	       "Bytes that this engine has read through the lane.");
	FAMILY("written_bytes_total", MC_PROM_COUNTER, bytes_written,
	       "Bytes that this engine has written through the lane.");
	FAMILY("slices_total", MC_PROM_COUNTER, slices, "Slices that the lane has carried.");
	FAMILY("breaks_total", MC_PROM_COUNTER, failures,
	       "How often a rail of the lane broke and was fenced.");
	FAMILY("in_flight_bytes", MC_PROM_GAUGE, inflight, "Bytes on their way.");
#undef FAMILY
}

static const struct mc_lane_counter *lane_counter(const struct mc_lane *lane, const char *name)
{
	uint32_t nr = __atomic_load_n(&lane->nr_counters, __ATOMIC_ACQUIRE);

	for (uint32_t i = 0; i < nr; i++)
		if (!strcmp(lane->counters[i].name, name))
			return &lane->counters[i];
	return NULL;
}

/* One counter of a transport's plugin over all lanes of all its devices. */
static void write_counter(struct mc_prom *p, const struct mc_engine *engine, const char *transport,
			  const struct mc_lane_counter *like)
{
	char name[128] = "mooncake_plugin_", labels[LABELS_MAX];
	size_t len = strlen(name);

	mc_prom_name(name + len, sizeof name - len, transport);
	len = strlen(name);
	name[len++] = '_';
	mc_prom_name(name + len, sizeof name - len - sizeof "_total", like->name);
	if (!like->gauge)
		strcat(name, "_total");
	mc_prom_family(p, name, like->gauge ? MC_PROM_GAUGE : MC_PROM_COUNTER,
		       like->doc && *like->doc ? like->doc : like->name);
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		for (uint16_t l = 0; !strcmp(d->transport, transport) && l < d->nr_lanes; l++) {
			const struct mc_lane_counter *c = lane_counter(d->lanes[l], like->name);

			if (!c)
				continue;
			lane_labels(d->lanes[l], labels, sizeof labels);
			mc_prom_u64(p, name, labels, __atomic_load_n(&c->value, __ATOMIC_RELAXED));
		}
	}
}

/* What plugins count themselves; the first lane of a transport says what there is. */
static void write_plugins(struct mc_prom *p, const struct mc_engine *engine)
{
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];
		const struct mc_lane *lane = d->lanes[0];
		uint32_t nr = __atomic_load_n(&lane->nr_counters, __ATOMIC_ACQUIRE);
		bool seen = false;

		for (size_t j = 0; j < i && !seen; j++)
			seen = !strcmp(engine->devices[j]->transport, d->transport);
		for (uint32_t c = 0; c < nr && !seen; c++)
			write_counter(p, engine, d->transport, &lane->counters[c]);
	}
}

/* ---- writing: the engine ------------------------------------------------------------------ */

static void single(struct mc_prom *p, const char *name, enum mc_prom_type type, uint64_t value,
		   const char *help)
{
	mc_prom_family(p, name, type, help);
	mc_prom_u64(p, name, "", value);
}

/* The same family once per word of a label. */
static void split(struct mc_prom *p, const char *name, const char *label, const char *const *words,
		  const uint64_t *values, size_t nr)
{
	char labels[64];

	for (size_t i = 0; i < nr; i++) {
		labels[0] = '\0';
		mc_prom_label(labels, sizeof labels, label, words[i]);
		mc_prom_u64(p, name, labels, values[i]);
	}
}

#define SPLIT(p, name, type, help, label, words, ...)                                \
	do {                                                                         \
		const uint64_t values_[] = {__VA_ARGS__};                            \
		static_assert(MC_ARRAY_SIZE(values_) == MC_ARRAY_SIZE(words), name); \
		mc_prom_family(p, name, type, help);                                 \
		split(p, name, label, words, values_, MC_ARRAY_SIZE(values_));       \
	} while (0)

static void write_identity(struct mc_prom *p, struct mc_engine *engine)
{
	char labels[LABELS_MAX] = "", generation[24];

	mc_prom_label(labels, sizeof labels, "version", mc_version());
	mc_prom_family(p, "mooncake_build_info", MC_PROM_GAUGE,
		       "1; the version of the library is a label.");
	mc_prom_u64(p, "mooncake_build_info", labels, 1);
	snprintf(generation, sizeof generation, "%016llx", (unsigned long long)engine->generation);
	labels[0] = '\0';
	mc_prom_label(labels, sizeof labels, "name", engine->name);
	mc_prom_label(labels, sizeof labels, "generation", generation);
	mc_prom_label(labels, sizeof labels, "cluster", engine->set->cluster);
	mc_prom_family(p, "mooncake_engine_info", MC_PROM_GAUGE,
		       "1; who this is stands in the labels.");
	mc_prom_u64(p, "mooncake_engine_info", labels, 1);
	mc_prom_family(p, "mooncake_uptime_seconds", MC_PROM_GAUGE, "Since the engine was opened.");
	mc_prom_double(p, "mooncake_uptime_seconds", "",
		       (double)(mc_now_ns() - engine->opened_ns) / 1e9);
	single(p, "mooncake_health_state", MC_PROM_GAUGE, mc_health_look(engine, NULL, NULL),
	       "0 ok, 1 degraded, 2 failing; /health says why.");
	single(p, "mooncake_metadata_up", MC_PROM_GAUGE, !engine->meta->trouble,
	       "1: the metadata service takes our record; 0: it cannot be reached.");
	single(p, "mooncake_metadata_failures_total", MC_PROM_COUNTER, get(&engine->meta->failures),
	       "How often the record could not be kept alive.");
}

static void write_port(struct mc_prom *p, const struct mc_engine *engine)
{
	static const char *const kinds[] = {"control", "data", "rpc"};
	static const char *const pages[] = {"/metrics", "/health", "application", "other"};
	const struct mc_port *port = engine->listener;
	const struct mc_port_counts *c = &port->counts;
	struct mc_http_counts http;

	mc_http_count(engine, &http);
	single(p, "mooncake_connections_accepted_total", MC_PROM_COUNTER, c->accepted,
	       "Connections that the port has accepted.");
	single(p, "mooncake_connections_unadmitted", MC_PROM_GAUGE, port->nr_admits,
	       "Connections that have not said yet what they are.");
	single(p, "mooncake_connections_dropped_total", MC_PROM_COUNTER, c->dropped,
	       "Connections dropped before they were admitted: not our protocol, malformed, too "
	       "slow, too many.");
	SPLIT(p, "mooncake_streams_admitted_total", MC_PROM_COUNTER,
	      "Streams of peers that were admitted.", "kind", kinds, c->admitted[MC_STREAM_CONTROL],
	      c->admitted[MC_STREAM_DATA], c->admitted[MC_STREAM_RPC]);
	single(p, "mooncake_streams_refused_total", MC_PROM_COUNTER, c->refused,
	       "Streams of peers that were well-formed, and refused: no access, no room, another "
	       "generation.");
	single(p, "mooncake_admission_refused_total", MC_PROM_COUNTER, c->unproven,
	       "Connections that did not prove the cluster key.");
	SPLIT(p, "mooncake_http_requests_total", MC_PROM_COUNTER, "Requests by HTTP.", "path",
	      pages, http.metrics, http.health, http.application, http.other);
	single(p, "mooncake_http_connections", MC_PROM_GAUGE, http.connections,
	       "Connections that speak HTTP.");
	single(p, "mooncake_http_dropped_total", MC_PROM_COUNTER, http.dropped,
	       "Connections by HTTP that were too slow, or gave way to others.");
	single(p, "mooncake_http_refused_total", MC_PROM_COUNTER, http.refused,
	       "Connections by HTTP from other hosts, which http=loopback refuses.");
}

static void write_memory(struct mc_prom *p, const struct mc_engine *engine,
			 const struct gathering *g)
{
	static const char *const roles[] = {"active", "passive"};

	SPLIT(p, "mooncake_sessions", MC_PROM_GAUGE,
	      "Sessions that are up: active, opened by us; passive, by peers.", "role", roles,
	      g->active, g->passive);
	single(p, "mooncake_buffers", MC_PROM_GAUGE, get(&engine->local->nr_bufs),
	       "Buffers that are registered here.");
	single(p, "mooncake_registered_bytes", MC_PROM_GAUGE, get(&engine->local->nr_bytes),
	       "Bytes of memory that are registered here.");
	single(p, "mooncake_table_changes_total", MC_PROM_COUNTER, get(&engine->local->version),
	       "Changes of the table of buffers.");
	single(p, "mooncake_remote_buffers", MC_PROM_GAUGE, g->remote_buffers,
	       "Buffers of peers that are known here.");
}

static void write_work(struct mc_prom *p, struct mc_engine *engine)
{
	static const char *const results[] = {"ok", "failed"};
	uint64_t batches, in_flight;
	struct mc_notify_counts n;
	struct mc_rpc_counts rpc;

	mc_batches_count(engine, &batches, &in_flight);
	mc_notify_count(engine, &n);
	mc_rpc_count(engine, &rpc);
	single(p, "mooncake_batches", MC_PROM_GAUGE, batches, "Batches that the application has.");
	single(p, "mooncake_batches_in_flight", MC_PROM_GAUGE, in_flight,
	       "Those that are not complete.");
	SPLIT(p, "mooncake_notifies_sent_total", MC_PROM_COUNTER,
	      "Notifies to peers that have ended.", "result", results, n.sent, n.failed);
	single(p, "mooncake_notifies_received_total", MC_PROM_COUNTER, n.received,
	       "Notifies of peers that were queued.");
	single(p, "mooncake_notifies_refused_total", MC_PROM_COUNTER, n.refused,
	       "Notifies of peers that found the queue full; they come again.");
	single(p, "mooncake_notifies_waiting", MC_PROM_GAUGE, n.waiting,
	       "Notifies that wait to be taken.");
	SPLIT(p, "mooncake_rpc_calls_total", MC_PROM_COUNTER, "Calls of ours that have ended.",
	      "result", results, rpc.calls, rpc.failed);
	single(p, "mooncake_rpc_requests_total", MC_PROM_COUNTER, rpc.requests,
	       "Calls of peers that were handed to a service.");
	single(p, "mooncake_rpc_connections", MC_PROM_GAUGE, rpc.connections,
	       "Connections of peers that call.");
	single(p, "mooncake_evictions_total", MC_PROM_COUNTER, get(&engine->evictions),
	       "Peers that were cut off on demand.");
}

char *mc_metrics_text(struct mc_engine *engine, size_t *ret_len)
{
	struct gathering g = {0};
	struct mc_prom p = {0};

	mc_session_each(engine, gather_session, &g);
	merge_lanes(&g);
	write_identity(&p, engine);
	write_port(&p, engine);
	write_memory(&p, engine, &g);
	write_work(&p, engine);
	write_devices(&p, engine);
	write_plugins(&p, engine);
	write_rails(&p, &g);
	p.failed |= g.failed;
	for (size_t i = 0; i < g.nr; i++)
		free(g.rails[i].labels);
	free(g.rails);
	return mc_prom_take(&p, ret_len);
}
