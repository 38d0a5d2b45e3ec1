/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routes: which rails exist between two matrices, in which order, and which of
 * them a run is given to.
 */
#include "path-fixture.h"

static const struct mc_route *route_of(void)
{
	const struct mc_route *route = mc_route_get(&w.session, &w.lbuf[0], &w.rbuf[0]);

	assert_non_null(route);
	return route;
}

/* "0-0 1-1|0-1 1-0": rails of each tier as (local, remote). */
static void assert_route(const char *want)
{
	const struct mc_route *route = route_of();
	char text[256] = "";
	size_t at = 0;

	for (size_t t = 0; t < route->nr_tiers; t++)
		for (size_t i = 0; i < route->tiers[t].nr; i++) {
			const struct mc_path *p = route->tiers[t].paths[i];

			at += (size_t)snprintf(text + at, sizeof text - at, "%s%u-%u",
					       i ? " " : t ? "|" : "", p->lane->device->idx, p->remote_device);
		}
	assert_string_equal(text, want);
}

static int stop(void **state)
{
	world_stop();
	return 0;
}

static void same_index(void **state)
{
	world_init(2);
	world_start("0,1", "0,1");
	assert_route("0-0 1-1|0-1 1-0");
	assert_ptr_equal(route_of(), route_of());
}

static void same_subnet(void **state)
{
	world_init(2);
	strcpy(w.devices[0].info.subnet, "10.1.0.0/16");
	strcpy(w.devices[1].info.subnet, "10.2.0.0/16");
	strcpy(w.remotes[0].subnet, "10.2.0.0/16");
	strcpy(w.remotes[1].subnet, "10.1.0.0/16");
	world_start("0,1", "0,1");
	assert_route("0-1 1-0|0-0 1-1");
}

/* The peer has one device, on the cable of our second: our first is for failover. */
static void other_subnet(void **state)
{
	world_init(2);
	strcpy(w.devices[0].info.subnet, "10.1.0.0/16");
	strcpy(w.devices[1].info.subnet, "10.2.0.0/16");
	strcpy(w.remotes[0].subnet, "10.2.0.0/16");
	world_start("0,1", "0");
	assert_route("1-0|0-0");
}

static void tiers(void **state)
{
	world_init(2);
	world_start("0|1", "0|1");
	assert_route("0-0|0-1 1-1|1-0");
}

static void wires(void **state)
{
	struct mc_error err;

	world_init(2);
	w.devices[0].wire_max = 3;
	w.remotes[0].wire_max = 2;
	strcpy(w.remotes[1].wire, "other");
	world_start("0,1", "0,1");
	assert_int_equal(mc_route_check(&w.session, &err), 0);
	assert_route("0-0 1-0");
	assert_int_equal(route_of()->tiers[0].paths[0]->wire_version, 2);
	w.remotes[0].wire_min = 4;
	w.remotes[0].wire_max = 5;
	assert_int_equal(mc_route_check(&w.session, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "other"));
}

static char said[600];

static void on_line(void *ctx, enum mc_log_level level, const char *line)
{
	if (level == MC_LOG_WARN)
		snprintf(said, sizeof said, "%s", line);
}

/* A request that has no rail at all fails at once, and the log says why. */
static void no_rail_because(const char *why)
{
	struct mc_batch *b = batch_new(1);

	said[0] = '\0';
	mc_log_set_handler(on_line, NULL);
	mc_log_set_level(MC_LOG_WARN);
	submit_one(b, MC_OP_WRITE, 0, 64);
	mc_log_set_handler(NULL, NULL);
	mc_log_set_level(MC_LOG_ERROR);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -ENETUNREACH);
	if (!strstr(said, why))
		fail_msg("'%s' is not in '%s'", why, said);
}

static void no_rail(void **state)
{
	world_init(1);
	strcpy(w.remotes[0].wire, "other");
	world_start("0", "0");
	no_rail_because("speak one wire");
}

static void no_row(void **state)
{
	world_init(1);
	world_start("0", "0");
	w.lbuf[0].row = NULL;
	no_rail_because("no row of our nic_priority_matrix");
	w.lbuf[0].row = w.matrix.rows;
	w.peer_matrix.nr_rows = 0;
	no_rail_because("no row of its nic_priority_matrix");
	w.peer_matrix.nr_rows = 1;
}

static void lanes(void **state)
{
	world_init(1);
	w.devices[0].nr_lanes = 2;
	world_start("0", "0");
	assert_route("0-0 0-0");
	assert_int_equal(route_of()->tiers[0].paths[1]->lane_id, 1);
	assert_int_equal(route_of()->tiers[0].paths[1]->remote_lane, 0);
}

/* Of several devices one lane each, another one for another peer. */
static void lanes_of_several(void **state)
{
	world_init(2);
	w.devices[0].nr_lanes = w.devices[1].nr_lanes = 2;
	w.session.id = 7;
	world_start("0,1", "0,1");
	assert_route("0-0 1-1|0-1 1-0");
	assert_int_equal(route_of()->tiers[0].paths[0]->lane_id, 1);
	assert_int_equal(route_of()->tiers[0].paths[1]->lane_id, 1);
}

/* The tier's device that is done first gets a small run; a large one goes to all of them. */
static void spreads(void **state)
{
	struct mc_batch *b;

	world_init(2);
	world_start("0,1", "0,1");
	b = batch_new(2);
	atomic_store(&w.lane_list[0][0]->inflight, 1 << 20);
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(1);
	assert_true(mc_path_is(path_of(0, 0), MC_PATH_IDLE));
	assert_true(mc_path_is(path_of(1, 1), MC_PATH_OPENING));
	submit_one(b, MC_OP_WRITE, 0, 64 << 20);
	turns(1);
	assert_true(mc_path_is(path_of(0, 0), MC_PATH_OPENING));
	assert_true(mc_path_is(path_of(0, 1), MC_PATH_IDLE));
	atomic_store(&w.lane_list[0][0]->inflight, 0);
	session_gone(-EHOSTDOWN);
	assert_true(is_done(b));
}

/* What is left of a large run is the fast rail's, while the slow one has its hands full. */
static void end_of_run(void **state)
{
	struct mc_batch *b;
	struct mc_path *slow, *fast;
	struct fake *slow_fake, *fast_fake;
	uint32_t held;

	world_init(2);
	world_start("0,1", "0,1");
	b = batch_new(1);
	submit_one(b, MC_OP_WRITE, 0, 64 << 20);
	turns(1);
	slow = path_of(0, 0);
	fast = path_of(1, 1);
	slow_fake = *(struct fake **)slow->lane->inst;
	fast_fake = *(struct fake **)fast->lane->inst;
	atomic_store(&slow->rate, 8000000);
	atomic_store(&fast->rate, 32000000);
	path_ready(slow);
	path_ready(fast);
	turns(1);
	held = slow->nr_inflight;
	assert_true(held > 1 && fast->nr_inflight > 1);
	/* Much is left: it takes another piece for one that has ended. */
	slice_end(slow_fake, 0, 0, 0);
	turns(1);
	assert_int_equal(slow->nr_inflight, held);
	while (mc_run_uncut(b->runs) > 4 << 20) {
		slice_end(fast_fake, 0, 0, 0);
		turns(1);
	}
	slice_end(slow_fake, 0, 0, 0);
	turns(1);
	assert_int_equal(slow->nr_inflight, held - 1);
	/* The other rail is no help any more: the rest is taken here. */
	atomic_store(&fast->rate, 1);
	slice_end(slow_fake, 0, 0, 0);
	turns(1);
	assert_int_equal(slow->nr_inflight, held);
	while (!is_done(b)) {
		slices_end(slow_fake, 0, 0);
		slices_end(fast_fake, 0, 0);
		turns(1);
	}
	assert_int_equal(mc_batch_failed(b), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, stop)
	const struct CMUnitTest tests[] = {
		T(same_index), T(same_subnet), T(other_subnet), T(tiers), T(wires), T(no_rail), T(no_row), T(lanes), T(lanes_of_several), T(spreads),
		T(end_of_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
