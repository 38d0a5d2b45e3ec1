/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods of the service: what each reads, has the state do, and writes.  What a
 * client says about itself (engine, generation) is taken from the rpc, not from it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/util/check.h"
#include "serve.h"

static int broken(struct master_call *call)
{
	return mc_fail(&call->err, -EBADMSG, "the request ends too early, or has a value that may not be");
}

/* The number of the request's tenant.  -ENOENT: nobody has put anything there, and not `create`. */
static int tenant(struct master_call *call, bool create, uint32_t *ret)
{
	const char *name = call->head.tenant;
	int r = mc_master_tenant(call->state, name, strlen(name), create, ret);

	if (r < 0 && r != -ENOENT)
		mc_fail(&call->err, r, "tenant '%s': %s", name, r == -EINVAL ? "not a name for one" : strerror(-r));
	return r;
}

/* ---- clients and segments ---------------------------------------------------------------------- */

static int ping(struct master_call *call, struct mc_master_ping *p)
{
	p->size = sizeof *p;
	p->client = call->head.client;
	p->engine = call->from;
	p->generation = call->generation;
	return mc_master_client_ping(call->state, p, call->now);
}

static int do_hello(struct master_call *call)
{
	const struct mc_master_limits *limits = master_server_limits(call->server);
	struct mc_wire_welcome welcome = {.min = MC_WIRE_VERSION_MIN,
					  .max = MC_WIRE_VERSION_MAX,
					  .granule = limits->granule,
					  .lease_ns = limits->lease_ns,
					  .put_ttl_ns = limits->put_ttl_ns,
					  .client_ttl_ns = limits->client_ttl_ns};
	struct mc_master_ping p = {0};
	struct mc_wire_hello hello = {0};
	int r;

	mc_wire_hello(&call->in, &hello);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	welcome.version = mc_wire_common(MC_WIRE_VERSION_MIN, MC_WIRE_VERSION_MAX, hello.min, hello.max);
	r = welcome.version ? ping(call, &p) : 0;
	mc_wire_welcome(&call->out, &welcome);
	return r;
}

static int do_ping(struct master_call *call)
{
	struct mc_master_ping p = {.nr_evicted = call->head.count, .evicted = call->scratch->generations};
	int r;

	mc_wire_generations(&call->in, call->head.count, call->scratch->generations);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = ping(call, &p);
	if (r < 0)
		return r;
	call->reply.flags = p.remount ? MC_WIRE_REMOUNT : 0;
	call->reply.count = (uint32_t)MC_MIN(p.nr_evict, (size_t)MC_WIRE_EVICT_MAX);
	mc_wire_generations(&call->out, call->reply.count, p.evict);
	return 0;
}

static int do_leave(struct master_call *call)
{
	return mc_master_client_leave(call->state, &call->head.client, call->now);
}

static int do_mount(struct master_call *call)
{
	struct mc_master_segment segment = {.size = sizeof segment};
	int r;

	mc_wire_mount(&call->in, &segment);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	segment.engine = call->from;
	segment.generation = call->generation;
	segment.client = call->head.client;
	r = mc_master_mount(call->state, &segment, call->now);
	if (r == -EEXIST)
		mc_fail(&call->err, r, "memory of engine '%s': it overlaps what is lent already", call->from);
	mc_wire_number(&call->out, &segment.id);
	return r;
}

static int do_unmount(struct master_call *call)
{
	uint8_t uuid[16] = {0};

	mc_wire_uuid(&call->in, uuid);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	return mc_master_unmount(call->state, &call->head.client, uuid, call->now);
}

static int do_drain(struct master_call *call)
{
	uint32_t segment = 0, on = 0;

	mc_wire_number(&call->in, &segment);
	mc_wire_number(&call->in, &on);
	if (mc_wire_end(&call->in) < 0 || on > 1)
		return broken(call);
	return mc_master_drain(call->state, segment, on, call->now);
}

#define SEGMENT_LEN_MAX 512u /* on the wire, names and all */

static int put_segment(void *ctx, const struct mc_master_segment *segment)
{
	struct master_call *call = ctx;
	struct mc_master_segment copy = *segment;

	if (call->reply.count == MC_WIRE_COUNT_MAX || call->out.left < SEGMENT_LEN_MAX) {
		call->reply.flags |= MC_WIRE_MORE;
		return 1;
	}
	mc_wire_segment(&call->out, &copy);
	call->reply.count++;
	return 0;
}

static int do_segments(struct master_call *call)
{
	uint32_t from = 0;
	int r;

	mc_wire_number(&call->in, &from);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = mc_master_segments(call->state, from, put_segment, call);
	return r < 0 ? r : 0;
}

/* ---- objects ----------------------------------------------------------------------------------- */

/* Places that the answer has no room for are nobody's: give them back. */
static void revoke_unsaid(struct master_call *call, struct mc_master_put *puts, uint32_t nr)
{
	struct mc_master_end *ends = call->scratch->revoked;
	size_t n = 0;

	for (uint32_t i = 0; i < nr; i++)
		if (puts[i].status == -ENOBUFS && puts[i].token)
			ends[n++] = (struct mc_master_end){.token = puts[i].token};
	if (n)
		mc_master_put_revoke(call->state, &call->head.client, ends, n, call->now);
}

static int do_put_start(struct master_call *call)
{
	struct mc_master_put_config config = {.size = sizeof config, .flags = call->head.flags};
	struct mc_master_extents extents = {.at = call->scratch->extents, .cap = MASTER_EXTENTS};
	struct mc_master_put *puts = call->scratch->puts;
	struct mc_master_full full = {0};
	uint32_t nr = call->head.count;
	bool no_space = false;
	int r;

	mc_wire_put_config(&call->in, &config, call->scratch->preferred);
	mc_wire_puts(&call->in, nr, puts);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = tenant(call, true, &config.tenant);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < nr; i++) {
		puts[i].token = 0;
		puts[i].first = puts[i].nr = puts[i].retry_ms = 0;
	}
	r = mc_master_put_start(call->state, &call->head.client, &config, puts, nr, &extents, &full, call->now);
	if (r < 0)
		return r;
	for (uint32_t i = 0; r > 0 && i < nr; i++)
		no_space |= puts[i].status == -ENOSPC;
	call->reply.count = nr;
	call->reply.flags = no_space ? MC_WIRE_FULL : 0;
	if (no_space) {
		mc_wire_full(&call->out, &full);
		master_server_hurry(call->server);
	}
	mc_wire_places(&call->out, nr, puts, &extents);
	revoke_unsaid(call, puts, nr);
	return 0;
}

static int end_puts(struct master_call *call, int (*end)(struct mc_master *, const struct mc_master_client_id *,
							 struct mc_master_end *, size_t, uint64_t))
{
	struct mc_master_end *ends = call->scratch->ends;
	uint32_t nr = call->head.count;
	int r;

	mc_wire_ends(&call->in, nr, ends);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = end(call->state, &call->head.client, ends, nr, call->now);
	if (r < 0)
		return r;
	call->reply.count = nr;
	mc_wire_statuses(&call->out, nr, &ends->status, sizeof *ends);
	return 0;
}

static int do_put_end(struct master_call *call)
{
	return end_puts(call, mc_master_put_end);
}

static int do_put_revoke(struct master_call *call)
{
	return end_puts(call, mc_master_put_revoke);
}

static int get(struct master_call *call, struct mc_master_extents *extents)
{
	struct mc_master_got *gots = call->scratch->gots;
	uint32_t nr = call->head.count, number = 0;
	uint64_t lease_ns = 0;
	int r;

	mc_wire_gets(&call->in, nr, gots);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = tenant(call, false, &number);
	if (r == -ENOENT) {
		for (uint32_t i = 0; i < nr; i++)
			gots[i].status = -ENOENT;
	} else if (r == 0) {
		r = mc_master_get(call->state, number, call->head.flags, gots, nr, extents, &lease_ns, call->now);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	call->reply.count = nr;
	mc_wire_gots(&call->out, nr, gots, extents, &lease_ns);
	return 0;
}

static int do_get(struct master_call *call)
{
	struct mc_master_extents extents = {.at = call->scratch->extents, .cap = MASTER_EXTENTS};

	return get(call, &extents);
}

static int do_exist(struct master_call *call)
{
	return get(call, NULL);
}

/* Those of `names`, whose statuses are set. */
static int answer_names(struct master_call *call, int r)
{
	struct mc_master_named *names = call->scratch->names;
	uint32_t nr = call->head.count;

	for (uint32_t i = 0; r == -ENOENT && i < nr; i++) /* no such tenant */
		names[i].status = -ENOENT;
	if (r < 0 && r != -ENOENT)
		return r;
	call->reply.count = nr;
	mc_wire_statuses(&call->out, nr, &names->status, sizeof *names);
	return 0;
}

static int do_remove(struct master_call *call)
{
	struct mc_master_named *names = call->scratch->names;
	uint32_t number = 0;
	int r;

	mc_wire_keys(&call->in, call->head.count, names);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = tenant(call, false, &number);
	if (r == 0)
		r = mc_master_remove(call->state, number, call->head.flags, names, call->head.count, call->now);
	return answer_names(call, r);
}

static int do_pin(struct master_call *call)
{
	struct mc_master_named *names = call->scratch->names;
	uint64_t span = 0;
	uint32_t number = 0;
	int r;

	mc_wire_amount(&call->in, &span);
	mc_wire_keys(&call->in, call->head.count, names);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = tenant(call, false, &number);
	if (r == 0)
		r = mc_master_pin(call->state, number, span, names, call->head.count, call->now);
	return answer_names(call, r);
}

static int do_remove_match(struct master_call *call)
{
	struct mc_wire_match match = {.pattern = ""};
	struct mc_wire_removed removed = {0};
	uint32_t number = 0;
	int r;

	mc_wire_match(&call->in, &match);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	removed.cursor = match.cursor;
	r = tenant(call, false, &number);
	if (r == -ENOENT) {
		removed.cursor = 0;
		r = 0;
	} else if (r == 0) {
		r = mc_master_remove_match(call->state, number, call->head.flags, match.match, match.pattern, &removed.cursor,
					   &removed.removed, &removed.refused, call->now, &call->err);
	}
	mc_wire_removed(&call->out, &removed);
	return r < 0 ? r : 0;
}

#define OBJECT_LEN_MAX (32u + MC_STORE_KEY_MAX) /* on the wire */

static int put_object(void *ctx, const struct mc_master_object *object)
{
	struct master_call *call = ctx;
	struct mc_master_object copy = *object;

	mc_wire_object(&call->out, &copy);
	call->reply.count++;
	return 0;
}

static int do_query(struct master_call *call)
{
	struct mc_wire_match match = {.pattern = ""};
	struct mc_wire cursor;
	uint32_t number = 0, max;
	int r;

	mc_wire_match(&call->in, &match);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	cursor = call->out;
	mc_wire_amount(&call->out, &match.cursor); /* its place */
	max = (uint32_t)MC_MIN(call->out.left / OBJECT_LEN_MAX, (size_t)MC_WIRE_COUNT_MAX);
	if (match.max && match.max < max)
		max = match.max;
	r = tenant(call, false, &number);
	if (r == 0)
		r = mc_master_query(call->state, number, match.match, match.pattern, &match.cursor, max, put_object, call, call->now,
				    &call->err);
	else if (r == -ENOENT)
		match.cursor = 0, r = 0;
	mc_wire_amount(&cursor, &match.cursor);
	return r < 0 ? r : 0;
}

/* ---- the whole --------------------------------------------------------------------------------- */

static int do_quota(struct master_call *call)
{
	uint64_t bytes = 0;
	uint32_t number = 0;
	int r;

	mc_wire_amount(&call->in, &bytes);
	if (mc_wire_end(&call->in) < 0)
		return broken(call);
	r = tenant(call, true, &number);
	return r < 0 ? r : mc_master_quota(call->state, number, bytes);
}

static int put_tenant(void *ctx, const char *name, uint64_t quota, uint64_t used, uint64_t nr_objects)
{
	struct master_call *call = ctx;
	struct mc_wire_tenant entry = {name, quota, used, nr_objects};

	if (call->reply.count == MC_WIRE_COUNT_MAX) {
		call->reply.flags |= MC_WIRE_MORE;
		return 1;
	}
	mc_wire_tenant(&call->out, &entry);
	call->reply.count++;
	return 0;
}

static int do_tenants(struct master_call *call)
{
	int r = mc_master_tenants(call->state, put_tenant, call);

	return r < 0 ? r : 0;
}

static int do_stats(struct master_call *call)
{
	struct mc_master_stats stats = {.size = sizeof stats};

	mc_master_stats(call->state, &stats, call->now);
	mc_wire_stats(&call->out, &stats);
	return 0;
}

const struct master_method_desc master_methods[MC_WIRE_METHOD_END] = {
	[MC_WIRE_HELLO] = {do_hello, "hello", false},
	[MC_WIRE_PING] = {do_ping, "ping", false},
	[MC_WIRE_LEAVE] = {do_leave, "leave", true},
	[MC_WIRE_MOUNT] = {do_mount, "mount", true},
	[MC_WIRE_UNMOUNT] = {do_unmount, "unmount", true},
	[MC_WIRE_DRAIN] = {do_drain, "drain", true},
	[MC_WIRE_SEGMENTS] = {do_segments, "segments", true},
	[MC_WIRE_PUT_START] = {do_put_start, "put_start", false},
	[MC_WIRE_PUT_END] = {do_put_end, "put_end", false},
	[MC_WIRE_PUT_REVOKE] = {do_put_revoke, "put_revoke", false},
	[MC_WIRE_GET] = {do_get, "get", false},
	[MC_WIRE_EXIST] = {do_exist, "exist", false},
	[MC_WIRE_REMOVE] = {do_remove, "remove", false},
	[MC_WIRE_REMOVE_MATCH] = {do_remove_match, "remove_match", true},
	[MC_WIRE_QUERY] = {do_query, "query", true},
	[MC_WIRE_PIN] = {do_pin, "pin", false},
	[MC_WIRE_QUOTA] = {do_quota, "quota", true},
	[MC_WIRE_TENANTS] = {do_tenants, "tenants", true},
	[MC_WIRE_STATS] = {do_stats, "stats", true},
};
