/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paths: connecting, breaking, fences of both ends, back-off, parking, flushes,
 * imports, deadlines.  The test is the peer, the device and the clock.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "path-fixture.h"

#define TICK (20 * MC_MSEC)

static int start(void **state)
{
	world_init(2);
	return 0;
}

static int stop(void **state)
{
	world_stop();
	return 0;
}

/* One device; a first write of it has brought the path up and is in flight. */
static struct mc_path *up_with(struct mc_batch *b, uint64_t len)
{
	struct mc_path *path;

	submit_one(b, MC_OP_WRITE, 0, len);
	turns(2);
	path = path_of(0, 0);
	assert_non_null(path);
	assert_true(mc_path_is(path, MC_PATH_OPENING));
	path_ready(path);
	assert_true(mc_path_is(path, MC_PATH_UP));
	return path;
}

static struct fake *fake0(void)
{
	return w.fakes[0][0];
}

static void carries(void **state)
{
	struct mc_batch *b = batch_new(4);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 100);
	assert_int_equal(fake0()->opens, 1);
	assert_int_equal(fake0()->args.epoch, 1);
	assert_int_equal(fake0()->args.generation, 99);
	assert_int_equal(fake0()->nr, 1);
	assert_int_equal(fake0()->imports, 1);
	assert_ptr_equal(fake0()->taken[0]->remote, fake0()->remote);
	assert_int_equal(fake0()->taken[0]->remote_offset, REMOTE);
	assert_true(fake0()->flushes > 0);
	assert_int_equal(atomic_load(&path->inflight), 100);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_DONE, 0);
	/* The import is used again. */
	submit_one(b, MC_OP_READ, 5, 100);
	turns(1);
	assert_int_equal(fake0()->imports, 1);
	fake0()->submit_answer = MC_DONE;
	slices_end(fake0(), 0, 0);
	submit_one(b, MC_OP_READ, 5, 3 << 20);
	turns(1);
	assert_true(is_done(b)); /* finished inside submit */
	assert_int_equal(mc_batch_failed(b), 0);
	assert_int_equal(atomic_load(&path->bytes_read), 100 + (3 << 20));
}

/* At most about a window is in flight, and the rest waits in the run. */
static void window(void **state)
{
	struct mc_batch *b = batch_new(1);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 256 << 20);
	assert_in_range(fake0()->nr, 4, 8);
	assert_true(atomic_load(&path->inflight) < path->window + (1 << 20));
	while (fake0()->nr) {
		slice_end(fake0(), 0, 0, 0);
		turns(1);
		assert_in_range(fake0()->nr, 0, 8);
	}
	assert_true(is_done(b));
	assert_int_equal(status_of(b, 0).done_len, 256 << 20);
}

static char warned[512];

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	if (level == MC_LOG_WARN)
		snprintf(warned, sizeof warned, "%s", line);
}

/* A reason that says what the system's words mean is enough; another one gets them. */
static void reasons(void **state)
{
	static const struct {
		int event;
		const char *why, *want;
	} cases[] = {
		{MC_DEVICE_DOWN, "the device at the other end is down", "broke: the device at the other end is down; its"},
		{MC_DEVICE_DOWN, "port 1 of device ra0 is DOWN: check its cable", "DOWN: check its cable; its"},
		{MC_DEVICE_DOWN, NULL, "broke: the device is down; its"},
		{MC_DEVICE_GONE, "its adapter was removed", "broke: its adapter was removed: Network is down; its"},
	};
	struct mc_path *path;

	world_start("0", "0");
	for (size_t i = 0; i < MC_ARRAY_SIZE(cases); i++) {
		struct mc_batch *b = batch_new(1);

		path = i ? path_of(0, 0) : NULL;
		if (i) {
			submit_one(b, MC_OP_WRITE, 0, 64);
			advance(TICK * 2);
			path_ready(path);
		} else {
			path = up_with(b, 64);
		}
		slices_end(fake0(), 0, 0);
		turns(2);
		assert_request(b, 0, MC_REQUEST_DONE, 0);
		mc_log_set_level(MC_LOG_WARN);
		mc_log_set_handler(on_log, NULL);
		mc_lane_device_event(fake0()->lane, cases[i].event, cases[i].why);
		turns(1);
		mc_log_set_handler(NULL, NULL);
		mc_log_set_level(MC_LOG_ERROR);
		if (!strstr(warned, cases[i].want))
			fail_msg("'%s' does not hold '%s'", warned, cases[i].want);
		path_fenced(path);
		mc_lane_device_event(fake0()->lane, MC_DEVICE_UP, NULL);
		turns(2);
	}
}

static void refused_open(void **state)
{
	struct mc_batch *b = batch_new(1);
	struct mc_path *path;

	world_start("0", "0");
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(2);
	path = path_of(0, 0);
	reply(path, MC_MSG_PATH_OPEN, MC_MSG_PATH_OPENED, -ENODEV);
	assert_int_equal(fake0()->opens, 0);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	path_fenced(path);
	assert_true(mc_path_is(path, MC_PATH_DOWN));
	/* It probes, later and later. */
	assert_int_equal(sent_count(MC_MSG_PATH_OPEN), 1);
	advance(19 * MC_MSEC);
	assert_int_equal(sent_count(MC_MSG_PATH_OPEN), 1);
	advance(2 * MC_MSEC);
	assert_int_equal(sent_count(MC_MSG_PATH_OPEN), 2);
	assert_int_equal(path->epoch, 2);
	reply(path, MC_MSG_PATH_OPEN, MC_MSG_PATH_OPENED, -ENODEV);
	path_fenced(path);
	advance(21 * MC_MSEC);
	assert_int_equal(sent_count(MC_MSG_PATH_OPEN), 2);
	advance(20 * MC_MSEC);
	assert_int_equal(sent_count(MC_MSG_PATH_OPEN), 3);
	path_ready(path);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

static void open_times_out(void **state)
{
	struct mc_batch *b = batch_new(1);
	struct mc_path *path;

	world_start("0", "0");
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(2);
	path = path_of(0, 0);
	reply(path, MC_MSG_PATH_OPEN, MC_MSG_PATH_OPENED, 0);
	assert_int_equal(fake0()->opens, 1);
	advance(4 * MC_SEC + 1);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	assert_int_equal(fake0()->fences, 1);
	/* Too late; and an old answer is not taken for the fence's. */
	reply(path, MC_MSG_PATH_OPEN, MC_MSG_PATH_OPENED, 0);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	path_fenced(path);
	assert_true(mc_path_is(path, MC_PATH_DOWN));
	assert_int_equal(fake0()->closes, 1);
	assert_false(is_done(b));
	advance(31 * MC_SEC);
	advance(TICK);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -ETIMEDOUT);
}

/* Nothing is tried again before BOTH ends are fenced; then each piece once. */
static void both_fences(void **state)
{
	world_start("0", "0");
	for (int local_first = 0; local_first < 2; local_first++) {
		struct mc_batch *b = batch_new(4);
		struct mc_path *path;
		struct fake *f = fake0();
		unsigned before;

		if (!local_first) {
			path = up_with(b, 3 << 20);
		} else {
			submit_one(b, MC_OP_WRITE, 0, 3 << 20);
			turns(2);
			path = path_of(0, 0);
		}
		assert_int_equal(f->nr, 3);
		f->hold_fence = true;
		slice_end(f, 1, -ECONNRESET, MC_SCOPE_PEER);
		turns(1);
		assert_true(mc_path_is(path, MC_PATH_FENCING));
		assert_int_equal(f->fence_epoch, path->epoch);
		before = f->submits;
		if (local_first) {
			slices_end(f, -ECONNRESET, MC_SCOPE_PEER);
			mc_host_fenced(&f->lane->host, path->peer->area, path->epoch);
			turns(2);
		} else {
			path_fenced(path);
		}
		advance(TICK);
		assert_true(mc_path_is(path, MC_PATH_FENCING));
		assert_int_equal(f->submits, before);
		if (local_first) {
			path_fenced(path);
		} else {
			slice_end(f, 0, -ECONNRESET, MC_SCOPE_PEER);
			slice_end(f, 0, 0, 0); /* this one got through before the fence */
			mc_host_fenced(&f->lane->host, path->peer->area, path->epoch);
			turns(2);
		}
		assert_true(mc_path_is(path, MC_PATH_DOWN));
		f->hold_fence = false;
		advance(3 * MC_SEC);
		path_ready(path);
		/* The ramp begins with one slice. */
		assert_int_equal(f->nr, 1);
		f->bytes = 0;
		for (int i = 0; i < 2 + local_first; i++) {
			assert_false(is_done(b));
			slice_end(f, 0, 0, 0);
			turns(1);
		}
		assert_int_equal(f->submits, before + 2 + (unsigned)local_first);
		assert_true(is_done(b));
		assert_int_equal(mc_batch_failed(b), 0);
		assert_int_equal(status_of(b, 0).done_len, 3 << 20);
		mc_batch_free(b);
		advance(2 * MC_SEC); /* idle: the ramp is over */
	}
}

static void tries_are_counted(void **state)
{
	struct mc_batch *b = batch_new(1);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 64);
	for (int i = 0; i <= 3; i++) {
		assert_false(is_done(b));
		assert_int_equal(fake0()->nr, 1);
		slice_end(fake0(), 0, -EPIPE, MC_SCOPE_PEER);
		turns(1);
		path_fenced(path);
		if (i < 3) {
			advance(3 * MC_SEC);
			path_ready(path);
		}
	}
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -EPIPE);
	assert_int_equal(status_of(b, 0).scope, MC_SCOPE_PEER);
}

static void request_scope_fails_alone(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 64);
	submit_one(b, MC_OP_WRITE, 4096, 64);
	turns(1);
	slice_end(fake0(), 0, -EACCES, MC_SCOPE_REQUEST);
	slice_end(fake0(), 0, 0, 0);
	turns(1);
	assert_true(mc_path_is(path, MC_PATH_UP));
	assert_request(b, 0, MC_REQUEST_FAILED, -EACCES);
	assert_request(b, 1, MC_REQUEST_DONE, 0);
}

/* The session ends in each state; whatever is pending ends with its status. */
static void gone_in_each_state(void **state)
{
	struct mc_batch *b = batch_new(4);

	world_start("0", "0");
	for (intptr_t at = (intptr_t)*state; at >= 0; at = -1) {
		struct mc_path *path;

		submit_one(b, MC_OP_WRITE, 0, 8 << 20);
		submit_one(b, MC_OP_WRITE, 16 << 20, 64);
		turns(2);
		path = path_of(0, 0);
		if (at >= MC_PATH_UP)
			path_ready(path);
		if (at >= MC_PATH_FENCING) {
			slice_end(fake0(), 0, -EPIPE, MC_SCOPE_PEER);
			turns(1);
		}
		if (at == MC_PATH_DOWN)
			path_fenced(path);
		if (at)
			assert_int_equal(atomic_load(&path->state), at);
		session_gone(-EHOSTDOWN);
		assert_true(mc_path_is(path, MC_PATH_CLOSED));
		assert_true(is_done(b));
		assert_request(b, 0, MC_REQUEST_FAILED, -EHOSTDOWN);
		assert_request(b, 1, MC_REQUEST_FAILED, -EHOSTDOWN);
		assert_int_equal(fake0()->closes, fake0()->opens);
	}
}

static int start_at(void **state)
{
	void *at = *state;

	start(state);
	*state = at;
	return 0;
}

static void parks(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 64);
	fake0()->submit_answer = -EAGAIN;
	submit_one(b, MC_OP_WRITE, 4096, 64);
	turns(1);
	assert_true(path->parked);
	assert_int_equal(fake0()->submits, 2);
	slice_end(fake0(), 0, 0, 0);
	advance(TICK);
	assert_int_equal(fake0()->submits, 2); /* parked is parked */
	fake0()->submit_answer = 0;
	mc_host_peer_writable(&fake0()->lane->host, path->peer->area);
	turns(1);
	assert_int_equal(fake0()->submits, 3);
	assert_int_equal(fake0()->taken[0]->remote_offset, REMOTE + 4096);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	/* What was parked goes elsewhere when the path breaks. */
	fake0()->submit_answer = -EAGAIN;
	mc_batch_reset(b);
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(1);
	mc_path_break_soon(path, -EPIPE, "test");
	turns(1);
	fake0()->submit_answer = 0;
	path_fenced(path);
	advance(3 * MC_SEC);
	path_ready(path);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

static struct mc_slice *the_flush(void)
{
	for (size_t i = 0; i < fake0()->nr; i++)
		if (fake0()->taken[i]->flags & MC_SLICE_FLUSH)
			return fake0()->taken[i];
	return NULL;
}

static size_t flush_idx(void)
{
	for (size_t i = 0; i < fake0()->nr; i++)
		if (fake0()->taken[i]->flags & MC_SLICE_FLUSH)
			return i;
	return SIZE_MAX;
}

static void flushes(void **state)
{
	struct mc_batch *a = batch_new(2), *b = batch_new(2);
	struct mc_path *path;

	w.devices[0].caps.visibility = MC_VISIBLE_AFTER_FLUSH;
	world_start("0", "0");
	path = up_with(a, 64);
	submit_one(b, MC_OP_WRITE, 4096, 64);
	submit_one(b, MC_OP_READ, 4096, 64);
	turns(1);
	assert_int_equal(fake0()->nr, 3);
	slice_end(fake0(), 0, 0, 0);
	assert_false(is_done(a));
	/* Others are under way: it is flushed all the same. */
	turns(1);
	assert_non_null(the_flush());
	assert_int_equal(the_flush()->len, 0);
	assert_int_equal(the_flush()->opcode, MC_OP_READ);
	slice_end(fake0(), 0, 0, 0); /* b's write: waits for the next flush */
	slice_end(fake0(), 0, 0, 0); /* b's read needs none */
	assert_request(b, 1, MC_REQUEST_DONE, 0);
	turns(1);
	assert_false(is_done(a));
	slice_end(fake0(), flush_idx(), 0, 0);
	assert_true(is_done(a));
	assert_false(is_done(b));
	turns(1);
	assert_non_null(the_flush());
	/* A flush that fails breaks the path; the write is tried again. */
	slice_end(fake0(), flush_idx(), -EPIPE, MC_SCOPE_PEER);
	turns(1);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	path_fenced(path);
	advance(3 * MC_SEC);
	path_ready(path);
	assert_int_equal(fake0()->nr, 1);
	slice_end(fake0(), 0, 0, 0);
	turns(1);
	/* A flush that cannot be taken now comes when there is room. */
	slice_end(fake0(), flush_idx(), 0, 0);
	assert_true(is_done(b));
	mc_batch_reset(b);
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(1);
	fake0()->submit_answer = -EAGAIN;
	slice_end(fake0(), 0, 0, 0);
	turns(1);
	fake0()->submit_answer = MC_DONE;
	mc_host_peer_writable(&fake0()->lane->host, path->peer->area);
	turns(2);
	assert_true(is_done(b));
}

/* A write that waits for its flush has a deadline too. */
static void flush_expires(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path;

	w.devices[0].caps.visibility = MC_VISIBLE_AFTER_FLUSH;
	world_start("0", "0");
	path = up_with(b, 64);
	slice_end(fake0(), 0, 0, 0);
	turns(1);
	assert_non_null(the_flush());
	advance(30 * MC_SEC);
	advance(TICK);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	path_fenced(path);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -ETIMEDOUT);
}

static void imports(void **state)
{
	struct mc_batch *b = batch_new(3);
	struct mc_request r = request(MC_OP_WRITE, BUF_GAP, 64);

	world_start("0", "0");
	submit_one(b, MC_OP_WRITE, 0, 64);
	turns(2);
	fake0()->import_answer = -EINPROGRESS;
	path_ready(path_of(0, 0));
	assert_int_equal(fake0()->imports, 1);
	assert_int_equal(fake0()->submits, 0);
	mc_host_imported(&fake0()->lane->host, fake0()->remote, 0);
	turns(1);
	assert_int_equal(fake0()->submits, 1);
	slices_end(fake0(), 0, 0);
	assert_request(b, 0, MC_REQUEST_DONE, 0);
	/* Another buffer, that cannot be imported. */
	fake0()->import_answer = -EKEYREJECTED;
	assert_int_equal(mc_batch_submit(b, &r, 1, NULL), 0);
	turns(1);
	assert_true(is_done(b));
	assert_request(b, 1, MC_REQUEST_FAILED, -EKEYREJECTED);
	session_gone(-ECANCELED);
	assert_int_equal(fake0()->releases, 1);
}

/* Its time is over: queued pieces end at once, what is in flight is given up or fenced; another
 * batch's slices on the same path are only tried again. */
static void deadlines(void **state)
{
	struct mc_batch *a = batch_new(2), *b = batch_new(2);
	struct mc_path *path;
	unsigned submits;

	world_start("0", "0");
	assert_int_equal(mc_batch_set_deadline(a, MC_SEC), 0);
	path = up_with(a, 64 << 20);
	submit_one(b, MC_OP_READ, 0, 64);
	submit_one(a, MC_OP_READ, 64, 64); /* queued, behind */
	fake0()->cancel_answer = -EALREADY;
	submits = fake0()->submits;
	advance(MC_SEC);
	advance(TICK);
	assert_int_equal(fake0()->submits, submits);
	assert_request(a, 1, MC_REQUEST_FAILED, -ETIMEDOUT);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	assert_int_equal(fake0()->nr, 0);
	assert_false(is_done(a));
	path_fenced(path);
	assert_true(is_done(a));
	assert_request(a, 0, MC_REQUEST_FAILED, -ETIMEDOUT);
	assert_false(is_done(b));
	/* The rail is well: it connects again at once. */
	assert_true(mc_path_is(path, MC_PATH_OPENING));
	path_ready(path);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

static void cancels(void **state)
{
	struct mc_batch *a = batch_new(2), *b = batch_new(2);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(a, 64);
	submit_one(b, MC_OP_WRITE, 4096, 64);
	turns(1);
	mc_batch_cancel(a);
	turns(2);
	assert_int_equal(fake0()->cancels, 1);
	assert_true(mc_path_is(path, MC_PATH_UP)); /* the plugin gives it up: no fence */
	turns(5);
	assert_int_equal(fake0()->cancels, 1);
	slice_end(fake0(), 0, -EINTR, MC_SCOPE_REQUEST);
	assert_true(is_done(a));
	assert_request(a, 0, MC_REQUEST_FAILED, -ECANCELED);
	slice_end(fake0(), 0, 0, 0);
	assert_request(b, 0, MC_REQUEST_DONE, 0);
}

/* A buffer whose users' time is over: their requests end, behind the fence. */
static void fenced_buffer(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 64 << 20);
	w.lbuf[0].closing = true;
	mc_paths_fence_buffer(&w.engine, &w.lbuf[0]);
	turns(3);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	assert_int_not_equal(w.lbuf[0].users, 0);
	path_fenced(path);
	advance(TICK); /* what was not yet cut ends at the tick */
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -ECANCELED);
	assert_int_equal(w.lbuf[0].users, 0);
}

static void device_events(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path;

	world_start("0", "0");
	path = up_with(b, 64);
	mc_lane_device_event(fake0()->lane, MC_DEVICE_DOWN, "cable");
	turns(1);
	assert_true(mc_path_is(path, MC_PATH_FENCING));
	path_fenced(path);
	for (int i = 0; i < 6; i++) {
		advance(3 * MC_SEC / 2);
		if (mc_path_is(path, MC_PATH_OPENING))
			mc_path_break(path, -ENETDOWN, "still");
		path_fenced(path);
	}
	assert_true(mc_path_is(path, MC_PATH_DOWN));
	mc_lane_device_event(fake0()->lane, MC_DEVICE_UP, NULL);
	turns(2);
	assert_true(mc_path_is(path, MC_PATH_OPENING)); /* at once */
	path_ready(path);
	slices_end(fake0(), 0, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

/* A failed rail's work goes to another one, after the fence. */
static void other_rail(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_path *path, *other;

	world_start("0|1", "0|1");
	path = up_with(b, 64);
	slice_end(fake0(), 0, -EPIPE, MC_SCOPE_NIC);
	turns(1);
	for (size_t i = 0; i < paths_of()->nr; i++)
		assert_true(paths_of()->list[i] == path || mc_path_is(paths_of()->list[i], MC_PATH_IDLE));
	path_fenced(path);
	turns(2);
	other = NULL;
	for (size_t i = 0; i < paths_of()->nr; i++)
		if (mc_path_is(paths_of()->list[i], MC_PATH_OPENING))
			other = paths_of()->list[i];
	assert_non_null(other);
	path_ready(other);
	slices_end(*(struct fake **)other->lane->inst, 0, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

/* ---- the passive end ------------------------------------------------------------------------------------- */

static uint32_t peer_rail = 5;

static void peer_message(uint16_t type, uint32_t epoch, const void *body, size_t len)
{
	uint8_t msg[MC_PATH_HEAD_SIZE + 256] = {0};

	mc_put32(msg + MC_PATH_HEAD_RAIL, peer_rail);
	mc_put32(msg + MC_PATH_HEAD_EPOCH, epoch);
	if (len)
		memcpy(msg + MC_PATH_HEAD_SIZE, body, len);
	mc_path_session_events.message(&w.session, type, msg, MC_PATH_HEAD_SIZE + len);
	turns(1);
}

static void peer_opens(uint32_t epoch, const char *device)
{
	uint8_t body[256] = {0};
	size_t len = MC_PATH_OPEN_FIXED;
	const char *names[] = {"fake", device, "far", "away"};

	mc_put16(body + MC_PATH_OPEN_WIRE_VERSION, 1);
	for (size_t i = 0; i < 4; i++) {
		body[len] = (uint8_t)strlen(names[i]);
		memcpy(body + len + 1, names[i], body[len]);
		len += body[len] + 1u;
	}
	peer_message(MC_MSG_PATH_OPEN, epoch, body, len);
}

static const struct sent *newest(uint16_t type, uint32_t epoch, int status)
{
	const struct sent *m = &w.sent[w.nr_sent - 1];

	assert_true(w.nr_sent > 0);
	assert_int_equal(m->type, type);
	assert_int_equal(m->epoch, epoch);
	assert_int_equal(m->status, status);
	return m;
}

static void passive(void **state)
{
	struct fake *f;

	w.session.active = false;
	world_start("0", "0");
	f = fake0();
	peer_opens(1, "d9");
	newest(MC_MSG_PATH_OPENED, 1, -ENODEV);
	peer_message(MC_MSG_PATH_FENCE, 1, NULL, 0);
	newest(MC_MSG_PATH_FENCED, 1, 0); /* nothing is here */
	peer_opens(2, "d0");
	newest(MC_MSG_PATH_OPENED, 2, 0);
	assert_int_equal(f->accepts, 1);
	assert_int_equal(f->args.passive, 1);
	/* A second open is refused while the first lives, and its fence is answered. */
	peer_opens(3, "d0");
	newest(MC_MSG_PATH_OPENED, 3, -EBUSY);
	peer_message(MC_MSG_PATH_FENCE, 3, NULL, 0);
	newest(MC_MSG_PATH_FENCED, 3, 0);
	assert_int_equal(f->fences, 0);
	/* FENCED only behind our own fence. */
	f->hold_fence = true;
	peer_message(MC_MSG_PATH_FENCE, 2, NULL, 0);
	newest(MC_MSG_PATH_FENCED, 3, 0);
	assert_int_equal(f->fences, 1);
	/* The device goes at the same moment, which changes nothing. */
	mc_lane_device_event(f->lane, MC_DEVICE_DOWN, "cable");
	mc_host_fenced(&f->lane->host, f->peer, 2);
	turns(3);
	newest(MC_MSG_PATH_FENCED, 2, 0);
	assert_int_equal(f->closes, 1);
	assert_int_equal(atomic_load(&w.engine.open_paths), 0);
	/* An open that the plugin refuses. */
	f->hold_fence = false;
	f->open_answer = -ENOMEM;
	peer_opens(4, "d0");
	assert_int_equal(sent_count(MC_MSG_PATH_OPENED), 4);
	assert_int_equal(w.sent[w.nr_sent - 1].status, -ENOMEM);
	turns(2);
	peer_message(MC_MSG_PATH_FENCE, 4, NULL, 0);
	newest(MC_MSG_PATH_FENCED, 4, 0);
	/* It breaks here first: the other end is told, and asks for the fence. */
	f->open_answer = 0;
	peer_opens(5, "d0");
	mc_lane_device_event(f->lane, MC_DEVICE_DOWN, "cable");
	turns(1);
	assert_int_equal(sent_count(MC_MSG_PATH_BROKEN), 1);
	turns(3);
	peer_message(MC_MSG_PATH_FENCE, 5, NULL, 0);
	newest(MC_MSG_PATH_FENCED, 5, 0);
	assert_int_equal(f->closes, 2);
	/* The session ends under an open one. */
	peer_opens(6, "d0");
	session_gone(-EHOSTDOWN);
	turns(3);
	assert_int_equal(f->closes, 3);
	w.session.active = true;
}

/* A hostile peer: no more paths than pairs of devices and lanes, no more streams than a bound. */
static void passive_bounds(void **state)
{
	struct mc_stream_hello hello = {.kind = MC_STREAM_DATA, .rail_id = 5, .epoch = 1};
	struct fake *f;
	unsigned nr;
	int fd, other;

	w.session.active = false;
	world_start("0", "0");
	f = fake0();
	for (nr = 0; nr < 4; nr++, peer_rail++) {
		peer_opens(1, "d0");
		newest(MC_MSG_PATH_OPENED, 1, 0);
	}
	peer_opens(1, "d0");
	newest(MC_MSG_PATH_OPENED, 1, -EBUSY);
	peer_rail = 5;
	/* Not of the sort that the transport deals in; it asks for the other one. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(mc_path_stream(&w.engine, &w.session, fd, &hello), -EINVAL);
	f->lane->caps.flags |= MC_CAP_LOCAL_STREAMS;
	other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(mc_path_stream(&w.engine, &w.session, other, &hello), -EINVAL);
	close(other);
	close(fd);
	f->lane->caps.flags &= ~MC_CAP_LOCAL_STREAMS;
	for (nr = 0; nr < MC_STREAMS_PER_PATH; nr++) {
		hello.token = nr;
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(mc_path_stream(&w.engine, &w.session, fd, &hello), 0);
		/* One stream per token. */
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(mc_path_stream(&w.engine, &w.session, fd, &hello), -EBUSY);
		close(fd);
	}
	hello.token = nr;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(mc_path_stream(&w.engine, &w.session, fd, &hello), -EBUSY);
	turns(1);
	assert_int_equal(f->nr_streams, nr);
	/* One that has ended makes room. */
	close(f->streams[3]);
	f->streams[3] = f->streams[--f->nr_streams];
	assert_int_equal(mc_path_stream(&w.engine, &w.session, fd, &hello), 0);
	turns(1);
	while (f->nr_streams)
		close(f->streams[--f->nr_streams]);
	session_gone(-EHOSTDOWN);
	turns(3);
	w.session.active = true;
}

static void passive_ranges(void **state)
{
	struct mc_range range = {.addr = NULL};
	struct fake *f;

	w.session.active = false;
	world_start("0", "0");
	f = fake0();
	peer_opens(1, "d0");
#define GET(gen, off, len, acc) mc_host_range_get(&f->lane->host, f->peer, gen, off, len, acc, &range)
	assert_int_equal(GET(8, LOCAL, 64, MC_ACCESS_REMOTE_WRITE), -ESTALE);
	assert_int_equal(GET(7, LOCAL - 1, 64, MC_ACCESS_REMOTE_WRITE), -EACCES);
	assert_int_equal(GET(7, LOCAL + BUF_LEN - 63, 64, MC_ACCESS_REMOTE_WRITE), -EACCES);
	assert_int_equal(GET(7, LOCAL, UINT64_MAX, MC_ACCESS_REMOTE_WRITE), -EACCES);
	w.lbuf[0].access = MC_ACCESS_REMOTE_READ;
	assert_int_equal(GET(7, LOCAL, 64, MC_ACCESS_REMOTE_WRITE), -EACCES);
	assert_int_equal(GET(7, LOCAL + 5, 64, MC_ACCESS_REMOTE_READ), 0);
	assert_ptr_equal(range.addr, (void *)(uintptr_t)(LOCAL + 5));
	assert_int_equal(w.lbuf[0].users, 1);
	mc_host_range_put(&f->lane->host, &range);
	assert_int_equal(w.lbuf[0].users, 0);
	session_gone(-EHOSTDOWN);
	turns(3);
	w.session.active = true;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)
#define GONE_AT(at) {"gone_in_each_state " #at, gone_in_each_state, start_at, stop, (void *)(intptr_t)(at)}
	const struct CMUnitTest tests[] = {
		T(carries), T(window), T(reasons), T(refused_open), T(open_times_out), T(both_fences), T(tries_are_counted),
		T(request_scope_fails_alone), GONE_AT(MC_PATH_OPENING), GONE_AT(MC_PATH_UP),
		GONE_AT(MC_PATH_FENCING), GONE_AT(MC_PATH_DOWN), T(parks), T(flushes), T(flush_expires),
		T(imports), T(deadlines), T(cancels), T(fenced_buffer), T(device_events), T(other_rail),
		T(passive), T(passive_bounds), T(passive_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
