/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routes: which rails exist between two matrices, in which order, and which of
 * them a run is given to; and what is told of it beforehand.
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

/* Of a transport that reaches its own subnet only; nothing is equal to an unknown one. */
static void only_subnet(void **state)
{
	struct mc_error err;

	world_init(2);
	w.devices[0].caps.flags |= MC_CAP_SAME_SUBNET;
	strcpy(w.devices[0].info.subnet, "boot-1");
	strcpy(w.remotes[0].subnet, "boot-2");
	world_start("0|1", "0|1");
	assert_route("1-1|1-0");
	assert_int_equal(mc_route_check(&w.session, &err), 0);
	w.devices[1].caps.flags |= MC_CAP_SAME_SUBNET;
	assert_int_equal(mc_route_check(&w.session, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "fake:d1 reaches only devices of its own host or pool"));
	strcpy(w.remotes[0].subnet, "boot-1");
	assert_int_equal(mc_route_check(&w.session, &err), 0);
}

static void only_subnet_alike(void **state)
{
	world_init(1);
	w.devices[0].caps.flags |= MC_CAP_SAME_SUBNET;
	strcpy(w.devices[0].info.subnet, "boot-1");
	strcpy(w.remotes[0].subnet, "boot-1");
	world_start("0", "0");
	assert_route("0-0");
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

/* A device that is down before anything was sent over it: the next tier carries, at once. */
static void down_from_the_start(void **state)
{
	struct mc_batch *b;

	world_init(2);
	world_start("0|1", "0|1");
	w.devices[0].state = MC_STATE_DOWN;
	b = batch_new(1);
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(1);
	assert_true(mc_path_is(path_of(1, 1), MC_PATH_OPENING));
	path_ready(path_of(1, 1));
	slices_end(w.fakes[1][0], 0, 0);
	turns(1);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_DONE, 0);
}

/* With nothing else it is waited for; what waits goes on when another one, or itself, is back. */
static void down_alone(void **state)
{
	struct mc_batch *b;

	world_init(1);
	world_start("0", "0");
	w.devices[0].state = MC_STATE_DOWN;
	b = batch_new(1);
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(3);
	assert_false(is_done(b));
	assert_true(mc_path_is(path_of(0, 0), MC_PATH_DOWN));
	w.devices[0].state = MC_STATE_ACTIVE;
	mc_lane_device_event(w.lane_list[0][0], MC_DEVICE_UP, NULL);
	advance(MC_MSEC);
	assert_true(mc_path_is(path_of(0, 0), MC_PATH_OPENING));
	path_ready(path_of(0, 0));
	slices_end(w.fakes[0][0], 0, 0);
	turns(1);
	assert_request(b, 0, MC_REQUEST_DONE, 0);
}

/* ---- what explain makes of it ----------------------------------------------------------------- */

static char told[2048], whys[4096];
static double finish[16];
static size_t nr_told;

static void tell(void *ctx, const struct mc_rail *rail)
{
	size_t at = strlen(told), why = strlen(whys);

	snprintf(told + at, sizeof told - at, "%s%u %s>%s %s", at ? ", " : "", rail->tier, rail->local + 5,
		 *rail->remote ? rail->remote + 5 : "", mc_verdict_word(rail->verdict));
	snprintf(whys + why, sizeof whys - why, "%s\n", rail->why);
	assert_true(nr_told < 16);
	finish[nr_told++] = rail->rate ? rail->finish_s : -1;
}

/* "0 d0>d0 carries, ...": tier, devices, verdict; how many of them carry is what mc_explain returns. */
static void assert_told(struct mc_explain q, int carry, const char *want)
{
	q.session = &w.session;
	q.lbuf = &w.lbuf[0];
	q.rbuf = &w.rbuf[0];
	q.ored |= q.len;
	told[0] = whys[0] = '\0';
	nr_told = 0;
	assert_int_equal(mc_explain(&q, tell, NULL), carry);
	assert_string_equal(told, want);
}

static void assert_why(const char *want)
{
	if (!strstr(whys, want))
		fail_msg("'%s' is not in '%s'", want, whys);
}

static const struct mc_explain small = {.opcode = MC_OP_WRITE, .len = 4096};
static const struct mc_explain large = {.opcode = MC_OP_WRITE, .len = 1 << 20};

static void explain_tier(void **state)
{
	world_init(2);
	world_start("0,1", "0,1");
	assert_told(small, 1, "0 d0>d0 carries, 0 d1>d1 later, 0 d0>d1 failover, 0 d1>d0 failover");
	assert_why("fake:d0 -> fake:d0 would be done sooner");
	assert_true(finish[0] > 3.8e-6 && finish[0] < 3.9e-6); /* 4096 bytes at 1 GiB/s */
	assert_told(large, 2, "0 d0>d0 carries, 0 d1>d1 shares, 0 d0>d1 failover, 0 d1>d0 failover");
	/* What the device has in flight, what was learned and the weight count. */
	atomic_store(&w.lane_list[0][0]->inflight, 1 << 20);
	assert_told(small, 1, "0 d0>d0 later, 0 d1>d1 carries, 0 d0>d1 failover, 0 d1>d0 failover");
	atomic_store(&path_of(1, 1)->rate, 1000);
	assert_told(small, 1, "0 d0>d0 carries, 0 d1>d1 later, 0 d0>d1 failover, 0 d1>d0 failover");
	atomic_store(&w.lane_list[0][0]->inflight, 0);
	atomic_store(&path_of(1, 1)->rate, w.devices[1].caps.bandwidth);
	w.devices[1].weight = 2;
	assert_told(small, 1, "0 d0>d0 later, 0 d1>d1 carries, 0 d0>d1 failover, 0 d1>d0 failover");
	/* And nothing of it was sent, opened or cut. */
	assert_int_equal(w.nr_sent, 0);
	assert_int_equal(w.fakes[0][0]->submits + w.fakes[1][0]->submits, 0);
}

static void explain_tiers(void **state)
{
	world_init(2);
	world_start("0|1", "0|1");
	assert_told(large, 1, "0 d0>d0 carries, 1 d0>d1 lower_tier, 1 d1>d1 lower_tier, 1 d1>d0 lower_tier");
	assert_why("lower tier: used when every rail above it is down\n");
	w.set.spill = true;
	assert_told(large, 3, "0 d0>d0 carries, 1 d0>d1 shares, 1 d1>d1 shares, 1 d1>d0 lower_tier");
	assert_why("or full (spill)");
	assert_told(small, 1, "0 d0>d0 carries, 1 d0>d1 lower_tier, 1 d1>d1 lower_tier, 1 d1>d0 lower_tier");
	w.set.spill = false;
	/* One that has failed is passed over; with all of them down the first is waited for. */
	atomic_store(&path_of(0, 0)->state, MC_PATH_DOWN);
	assert_told(small, 1, "0 d0>d0 failed, 1 d0>d1 carries, 1 d1>d1 later, 1 d1>d0 failover");
	__atomic_store_n(&w.devices[0].state, MC_STATE_DOWN, __ATOMIC_RELAXED);
	assert_told(small, 1, "0 d0>d0 device_down, 1 d0>d1 device_down, 1 d1>d1 carries, 1 d1>d0 failover");
	assert_why("device down: fake:d0 here");
	atomic_store(&path_of(1, 1)->state, MC_PATH_DOWN);
	atomic_store(&path_of(1, 0)->state, MC_PATH_DOWN);
	assert_told(small, 0, "0 d0>d0 device_down, 1 d0>d1 device_down, 1 d1>d1 failed, 1 d1>d0 failed");
	assert_why("device down: fake:d0 here; a transfer would wait for it");
	for (uint16_t i = 0; i < 4; i++)
		atomic_store(&path_of(i / 2, i % 2)->state, MC_PATH_IDLE);
	__atomic_store_n(&w.devices[0].state, MC_STATE_ACTIVE, __ATOMIC_RELAXED);
}

static void explain_subnets(void **state)
{
	world_init(2);
	strcpy(w.devices[0].info.subnet, "10.1.0.0/16");
	strcpy(w.devices[1].info.subnet, "10.2.0.0/16");
	strcpy(w.remotes[0].subnet, "10.2.0.0/16");
	world_start("0,1", "0");
	assert_told(large, 1, "0 d1>d0 carries, 0 d0>d0 failover");
	assert_why("other subnet (10.1.0.0/16 here, 10.2.0.0/16 there)");
}

static void explain_only_subnet(void **state)
{
	world_init(2);
	w.devices[0].caps.flags |= MC_CAP_SAME_SUBNET;
	strcpy(w.devices[0].info.subnet, "boot-1");
	strcpy(w.remotes[0].subnet, "boot-2");
	world_start("0|1", "0");
	assert_told(large, 1, "1 d1>d0 carries, 0 d0>d0 subnet");
	assert_why("reaches only devices of its own host or pool: 'boot-1' here, 'boot-2' there");
}

static void explain_unfit(void **state)
{
	world_init(2);
	w.devices[0].caps.alignment = 4096;
	world_start("0|1", "0|1");
	assert_told(small, 1, "0 d0>d0 carries, 1 d0>d1 lower_tier, 1 d1>d1 lower_tier, 1 d1>d0 lower_tier");
	assert_told((struct mc_explain){.opcode = MC_OP_WRITE, .len = 100}, 1,
		    "0 d0>d0 alignment, 1 d0>d1 alignment, 1 d1>d1 carries, 1 d1>d0 failover");
	assert_why("multiples of 4096");
	assert_told((struct mc_explain){.opcode = MC_OP_WRITE, .len = 4096, .ored = 8}, 1,
		    "0 d0>d0 alignment, 1 d0>d1 alignment, 1 d1>d1 carries, 1 d1>d0 failover");
	w.lane_list[0][0]->caps.flags = MC_CAP_READ;
	assert_told(small, 1, "0 d0>d0 direction, 1 d0>d1 direction, 1 d1>d1 carries, 1 d1>d0 failover");
	assert_why("carries no writes");
	assert_told((struct mc_explain){.opcode = MC_OP_READ, .len = 4096}, 1,
		    "0 d0>d0 carries, 1 d0>d1 lower_tier, 1 d1>d1 lower_tier, 1 d1>d0 lower_tier");
	assert_told((struct mc_explain){.opcode = MC_OP_READ, .len = 4096, .denied = "it says no"}, 0,
		    "0 d0>d0 access, 1 d0>d1 access, 1 d1>d1 access, 1 d1>d0 access");
	assert_why("access: it says no");
}

static void explain_none(void **state)
{
	world_init(2);
	strcpy(w.remotes[1].wire, "other");
	world_start("0", "0,1");
	assert_told(small, 1, "0 d0>d0 carries, 0 d0>d1 wire");
	assert_why("other wire: fakewire 1..1 here, other 1..1 there");
	assert_true(finish[1] < 0);
}

static void explain_kinds(void **state)
{
	static const char *const fake_kind[] = {"fake", NULL};

	world_init(2);
	w.devices[1].caps.local_kinds = fake_kind;
	strcpy(w.remotes[1].remote_kinds, "fake");
	world_start("0,1", "0,1");
	assert_told(small, 1, "0 d0>d0 carries, 0 d0>d1 remote_kind, 0 d1>d0 local_kind, 0 d1>d1 local_kind");
	assert_why("kind 'cpu' there, and it cannot be staged");
	assert_why("kind 'cpu' here, and it cannot be staged");
}

static void explain_absent(void **state)
{
	world_init(2);
	w.engine.nr_devices = w.info.nr_devices = 1;
	world_start("0,1", "0,1");
	assert_told(small, 1, "0 d0>d0 carries, 0 d0>d1 remote_absent, 0 d1> local_absent");
	w.lbuf[1].row = NULL;
	w.peer_matrix.nr_rows = 0;
	assert_int_equal(mc_explain(&(struct mc_explain){.session = &w.session, .len = 1, .lbuf = &w.lbuf[1],
							 .rbuf = &w.rbuf[1]}, tell, NULL), 0);
	w.peer_matrix.nr_rows = 1;
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, stop)
	const struct CMUnitTest tests[] = {
		T(same_index), T(same_subnet), T(other_subnet), T(only_subnet),
		T(only_subnet_alike), T(tiers), T(wires), T(no_rail), T(no_row), T(lanes), T(lanes_of_several),
		T(spreads), T(end_of_run), T(down_from_the_start), T(down_alone), T(explain_tier), T(explain_tiers),
		T(explain_subnets), T(explain_only_subnet), T(explain_unfit), T(explain_none), T(explain_kinds), T(explain_absent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
