/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path alone: batches, routes and paths over a fake transport, between
 * an engine and a peer that exist only as the tables which the test writes.  The
 * test is the peer (it answers the messages that paths send), the device (it
 * completes the slices that were submitted) and the clock; it holds every baton,
 * so that nothing runs but what it drives.
 */
#ifndef MC_TESTS_PATH_FIXTURE_H
#define MC_TESTS_PATH_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "core/util/bytes.h"
#include "log.h"
#include "notify.h"
#include "path.h"
#include "path_wire.h"
#include "kind.h"
#include "stage.h"

#define LOCAL UINT64_C(0x10000000)  /* base of local buffer 0; buffer i lies BUF_GAP further */
#define REMOTE UINT64_C(0x400000000)
#define BUF_LEN (UINT64_C(1) << 30)
#define BUF_GAP (BUF_LEN + 4096)
#define NR_BUFS 4
#define MAX_DEVICES 4
#define MAX_LANES 2
#define MAX_TAKEN 8192
#define MAX_SENT 512

/* One instance of the fake transport; the test reads and writes it between turns. */
struct fake {
	struct mc_lane *lane;
	struct mc_slice *taken[MAX_TAKEN]; /* in flight, oldest first */
	size_t nr;
	int submit_answer;  /* 0, MC_DONE, -EAGAIN, -errno */
	int open_answer, import_answer, cancel_answer, fence_answer;
	bool hold_fence;    /* fence leaves everything to the test: slices and `fenced` */
	void *peer;         /* of the newest peer_open or peer_accept */
	void *remote;       /* of the newest mem_import */
	struct mc_peer_args args;
	unsigned submits, flushes, fences, opens, accepts, closes, cancels, imports, releases, msgs;
	uint32_t fence_epoch;
	int streams[64]; /* attached */
	size_t nr_streams;
	uint64_t bytes;
};

struct sent {
	uint16_t type;
	uint8_t head[MC_PATH_HEAD_SIZE];
	uint32_t epoch;
	int status;
};

static struct world {
	struct mc_engine engine;
	struct mc_settings set;
	struct mc_matrix matrix, peer_matrix;
	struct mc_peer_info info;
	struct mc_remote_device remotes[MAX_DEVICES];
	struct mc_session session;
	struct mc_snapshot snapshot;
	struct mc_remote_buf *rbufs[NR_BUFS];
	struct mc_remote_buf rbuf[NR_BUFS];
	struct mc_local_buf lbuf[NR_BUFS];
	struct mc_segment segment;
	struct mc_device devices[MAX_DEVICES];
	struct mc_device *device_list[MAX_DEVICES];
	struct mc_lane *lane_list[MAX_DEVICES][MAX_LANES];
	struct fake *fakes[MAX_DEVICES][MAX_LANES];
	struct sent sent[MAX_SENT];
	size_t nr_sent;
	int send_answer;
	unsigned heard, dials, local_dials, refreshes, notifies;
	int refresh_answer, notify_answer;
	void (*refresh_done)(void *arg, int status);
	void *refresh_arg;
	void (*notify_done)(void *arg, int status);
	void *notify_arg;
	struct mc_control_post *posts; /* newest first */
	struct mc_timer *timer; /* of the control loop; tests have one at a time */
} w;

static _Atomic uint64_t fake_now;

static uint64_t clock_fake(void)
{
	return atomic_load(&fake_now);
}

/* ---- what the data path needs of the rest of the core ------------------------------------------- */

pid_t mc_self_pid;

struct mc_session *mc_session_ref(struct mc_session *s)
{
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	return s;
}

void mc_session_unref(struct mc_session *s)
{
	if (s)
		assert_int_not_equal(__atomic_fetch_sub(&s->refs, 1, __ATOMIC_RELAXED), 0);
}

struct mc_snapshot *mc_session_snapshot(struct mc_session *s)
{
	__atomic_add_fetch(&w.snapshot.refs, 1, __ATOMIC_RELAXED);
	return &w.snapshot;
}

void mc_snapshot_unref(struct mc_snapshot *s)
{
	if (s)
		__atomic_sub_fetch(&s->refs, 1, __ATOMIC_RELAXED);
}

struct mc_remote_buf *mc_snapshot_find(const struct mc_snapshot *s, uint64_t offset, uint64_t len)
{
	for (size_t i = 0; i < s->nr; i++)
		if (mc_range_inside(s->bufs[i]->base, s->bufs[i]->len, offset, len))
			return s->bufs[i];
	return NULL;
}

void mc_session_heard(struct mc_session *s)
{
	w.heard++;
}

int mc_session_send(struct mc_session *s, uint16_t type, const void *head, size_t head_len,
		    const void *body, size_t body_len)
{
	struct sent *m;

	assert_int_equal(head_len, MC_PATH_HEAD_SIZE);
	if (s->state == MC_SESSION_GONE)
		return -ENOTCONN;
	if (w.send_answer < 0)
		return w.send_answer;
	assert_true(w.nr_sent < MAX_SENT);
	m = &w.sent[w.nr_sent++];
	m->type = type;
	memcpy(m->head, head, sizeof m->head);
	m->epoch = mc_get32(m->head + MC_PATH_HEAD_EPOCH);
	m->status = (int)mc_get32(m->head + MC_PATH_HEAD_STATUS);
	return 0;
}

int mc_session_refresh(struct mc_session *s, void (*done)(void *arg, int status), void *arg)
{
	w.refreshes++;
	w.refresh_done = done;
	w.refresh_arg = arg;
	return w.refresh_answer;
}

void mc_session_fail(struct mc_session *s, int status, const char *why)
{
}

int mc_session_end(struct mc_engine *engine, uint64_t generation, int status, const char *why)
{
	return -ENOENT;
}

void mc_session_each(struct mc_engine *engine, void (*f)(struct mc_session *s, void *arg), void *arg)
{
}

int mc_notify_post(struct mc_session *s, const void *data, size_t len, uint64_t deadline_ns,
		   void (*done)(void *arg, int status), void *arg)
{
	w.notifies++;
	w.notify_done = done;
	w.notify_arg = arg;
	return w.notify_answer;
}

int mc_stream_dial(struct mc_engine *engine, const char *const *addresses, const char *local_address,
		   const struct mc_stream_hello *hello, uint64_t deadline_ns,
		   void (*done)(void *arg, int fd, const char *why), void *arg)
{
	w.dials++;
	return -ENETUNREACH;
}

int mc_stream_dial_local(struct mc_engine *engine, const char *path, const struct mc_stream_hello *hello,
			 uint64_t deadline_ns, void (*done)(void *arg, int fd, const char *why), void *arg)
{
	w.local_dials++;
	return -ENETUNREACH;
}

void mc_stream_admit(struct mc_engine *engine)
{
}

void mc_control_post(struct mc_control *control, struct mc_control_post *post)
{
	post->next = w.posts;
	w.posts = post;
}

void mc_control_timer(struct mc_control *control, struct mc_timer *t, uint64_t deadline_ns)
{
	assert_true(!w.timer || w.timer == t || !deadline_ns);
	t->deadline_ns = deadline_ns;
	if (deadline_ns || w.timer == t)
		w.timer = deadline_ns ? t : NULL;
}

void mc_control_call(struct mc_control *control, void (*f)(void *arg), void *arg)
{
	f(arg);
}

struct mc_local_buf *mc_local_find_range(struct mc_engine *engine, uint64_t offset, uint64_t len,
					 uint32_t access)
{
	for (size_t i = 0; i < NR_BUFS; i++) {
		struct mc_local_buf *b = &w.lbuf[i];

		if (!mc_range_inside(b->base, b->len, offset, len) || (b->access & access) != access ||
		    b->closing)
			continue;
		__atomic_add_fetch(&b->users, 1, __ATOMIC_RELAXED);
		return b;
	}
	return NULL;
}

struct mc_local_buf *mc_local_find(struct mc_engine *engine, const void *addr, uint64_t len)
{
	return mc_local_find_range(engine, (uintptr_t)addr, len, 0);
}

void mc_local_put(struct mc_local_buf *buf)
{
	assert_int_not_equal(__atomic_fetch_sub(&buf->users, 1, __ATOMIC_RELAXED), 0);
}

struct mc_device *mc_device_find(const struct mc_engine *engine, const char *transport, const char *name)
{
	for (size_t i = 0; i < engine->nr_devices; i++)
		if (!strcmp(engine->devices[i]->name, name) &&
		    !strcmp(engine->devices[i]->transport, transport))
			return engine->devices[i];
	return NULL;
}

const char *mc_device_left_out(const struct mc_engine *engine, const char *transport, const char *name)
{
	return NULL;
}

bool mc_device_reaches(const struct mc_device *device, const char *kind)
{
	for (const char *const *k = device->caps.local_kinds; *k; k++)
		if (!strcmp(*k, kind))
			return true;
	return false;
}

const struct mc_matrix_row *mc_matrix_row_find(const struct mc_matrix *matrix, const char *location)
{
	for (size_t i = 0; i < matrix->nr_rows; i++)
		if (!strcmp(matrix->rows[i].location, location) || !strcmp(matrix->rows[i].location, "*"))
			return &matrix->rows[i];
	return NULL;
}

/* Staging has tests of its own: nothing here needs it. */
bool mc_kind_copies(const struct mc_engine *engine, const char *kind)
{
	return false;
}

uint64_t mc_stage_piece_max(const struct mc_engine *engine)
{
	return UINT64_MAX;
}

bool mc_stage_submit(struct mc_path *path, const struct mc_piece *piece, struct mc_import *imp)
{
	fail();
	return false;
}

bool mc_stage_took(struct mc_hslice *hs, int status, int scope)
{
	fail();
	return false;
}

void mc_stage_flushed(struct mc_hslice *hs)
{
	fail();
}

void mc_stage_pump(struct mc_path *path)
{
	fail();
}

void mc_stage_cancel(struct mc_hslice *hs)
{
	fail();
}

void mc_stage_drop(struct mc_hslice *hs)
{
	fail();
}

void mc_stage_message(struct mc_path *path, uint16_t type, int status, const void *body, size_t len)
{
	fail();
}

void mc_stage_broken(struct mc_path *path, int status)
{
}

void mc_stage_serve_broken(struct mc_path *path)
{
}

void mc_stage_serve_end(struct mc_path *path)
{
}

bool mc_stage_from_active(uint16_t type)
{
	return false;
}

/* ---- the fake transport ---------------------------------------------------------------------------- */

static int fake_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct fake *f = *(struct fake **)inst;

	f->opens++;
	f->args = *args;
	if (!f->open_answer)
		f->peer = peer;
	return f->open_answer;
}

static int fake_peer_accept(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct fake *f = *(struct fake **)inst;

	f->accepts++;
	f->args = *args;
	if (!f->open_answer)
		f->peer = peer;
	return f->open_answer;
}

static void fake_peer_close(void *inst, void *peer)
{
	struct fake *f = *(struct fake **)inst;

	f->closes++;
	for (size_t i = 0; i < f->nr; i++)
		assert_ptr_not_equal(f->taken[i]->peer, peer);
	if (f->peer == peer)
		f->peer = NULL;
}

static void fake_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	(*(struct fake **)inst)->msgs++;
}

static void fake_peer_attach(void *inst, void *peer, const struct mc_stream *stream)
{
	struct fake *f = *(struct fake **)inst;

	assert_true(f->nr_streams < 64);
	f->streams[f->nr_streams++] = stream->fd;
}

static int fake_submit(void *inst, struct mc_slice *slice)
{
	struct fake *f = *(struct fake **)inst;

	f->submits++;
	assert_ptr_equal(slice->peer, f->peer);
	if (f->submit_answer)
		return f->submit_answer;
	assert_true(f->nr < MAX_TAKEN);
	f->taken[f->nr++] = slice;
	f->bytes += slice->len;
	return 0;
}

static void fake_flush(void *inst)
{
	(*(struct fake **)inst)->flushes++;
}

static int fake_progress(void *inst)
{
	return 0;
}

static int fake_arm(void *inst)
{
	return 0;
}

static int fake_cancel(void *inst, struct mc_slice *slice)
{
	struct fake *f = *(struct fake **)inst;

	f->cancels++;
	return f->cancel_answer;
}

/* End a slice that was taken. */
static void slice_end(struct fake *f, size_t idx, int status, int scope)
{
	struct mc_slice *s = f->taken[idx];

	assert_true(idx < f->nr);
	memmove(&f->taken[idx], &f->taken[idx + 1], (--f->nr - idx) * sizeof f->taken[0]);
	mc_host_complete(&f->lane->host, s, status, scope, status < 0 ? 0 : s->len);
}

static void slices_end(struct fake *f, int status, int scope)
{
	while (f->nr)
		slice_end(f, 0, status, scope);
}

static int fake_fence(void *inst, void *peer, uint32_t epoch)
{
	struct fake *f = *(struct fake **)inst;

	f->fences++;
	f->fence_epoch = epoch;
	if (f->fence_answer < 0 || f->hold_fence)
		return f->fence_answer;
	slices_end(f, -ECONNRESET, MC_SCOPE_PEER);
	mc_host_fenced(&f->lane->host, peer, epoch);
	return 0;
}

static int fake_import(void *inst, void *remote, void *peer, const struct mc_remote_buffer *buf)
{
	struct fake *f = *(struct fake **)inst;

	f->imports++;
	f->remote = remote;
	return f->import_answer;
}

static void fake_release(void *inst, void *remote)
{
	(*(struct fake **)inst)->releases++;
}

static const struct mc_transport_ops fake_ops = {
	.size = sizeof fake_ops,
	.instance_size = sizeof(struct fake *),
	.peer_size = 64,
	.remote_size = 16,
	.slice_size = 40,
	.peer_open = fake_peer_open,
	.peer_accept = fake_peer_accept,
	.peer_close = fake_peer_close,
	.peer_msg = fake_peer_msg,
	.peer_attach = fake_peer_attach,
	.submit = fake_submit,
	.flush = fake_flush,
	.progress = fake_progress,
	.arm = fake_arm,
	.cancel = fake_cancel,
	.fence = fake_fence,
	.mem_import = fake_import,
	.mem_release = fake_release,
};

/* ---- the world ------------------------------------------------------------------------------------------ */

static const char *const cpu_kind[] = {"cpu", NULL};

/* Settings that a test may change before world_start. */
static void world_init(size_t nr_devices)
{
	static char all[] = "*";
	static struct mc_matrix_row row, peer_row;

	memset(&w, 0, sizeof w);
	atomic_store(&fake_now, 1000 * MC_SEC);
	mc_clock_hook = clock_fake;
	mc_log_set_level(MC_LOG_ERROR);
	w.engine.set = &w.set;
	w.set = (struct mc_settings){.deadline = 30 * MC_SEC, .peer_timeout = 5 * MC_SEC, .retry_count = 3,
				     .rail_window = 2 * MC_MSEC, .slice_size = MC_VALUE_AUTO};
	w.engine.matrix = &w.matrix;
	w.engine.nr_devices = w.info.nr_devices = nr_devices;
	w.engine.devices = w.device_list;
	w.engine.generation = 7;
	w.info.devices = w.remotes;
	w.info.matrix = &w.peer_matrix;
	w.info.generation = 99;
	strcpy(w.info.name, "peer");
	row = peer_row = (struct mc_matrix_row){.location = all};
	w.matrix = (struct mc_matrix){.nr_rows = 1, .rows = &row};
	w.peer_matrix = (struct mc_matrix){.nr_rows = 1, .rows = &peer_row};
	w.session = (struct mc_session){.engine = &w.engine, .refs = 1, .active = true, .peer = &w.info,
					.state = MC_SESSION_UP};
	w.segment = (struct mc_segment){.engine = &w.engine, .session = &w.session};
	w.snapshot = (struct mc_snapshot){.refs = 1, .nr = NR_BUFS, .bufs = w.rbufs};
	for (uint32_t i = 0; i < NR_BUFS; i++) {
		w.lbuf[i] = (struct mc_local_buf){.id = i + 1, .row = &row, .base = LOCAL + i * BUF_GAP,
						  .len = BUF_LEN, .access = MC_ACCESS_ALL, .location = "cpu:0", .kind = "cpu"};
		w.rbuf[i] = (struct mc_remote_buf){.id = i + 1, .base = REMOTE + i * BUF_GAP, .len = BUF_LEN,
						   .access = MC_ACCESS_ALL, .location = "cpu:0", .kind = "cpu"};
		w.rbufs[i] = &w.rbuf[i];
	}
	for (uint16_t i = 0; i < nr_devices; i++) {
		static char names[MAX_DEVICES][3] = {"d0", "d1", "d2", "d3"};
		struct mc_device *d = &w.devices[i];

		*d = (struct mc_device){.engine = &w.engine, .idx = i, .transport = "fake", .name = names[i],
					.wire = "fakewire", .wire_min = 1, .wire_max = 1, .ops = &fake_ops,
					.weight = 1, .nr_lanes = 1, .lanes = w.lane_list[i],
					.state = MC_STATE_ACTIVE};
		d->caps = (struct mc_transport_caps){
			.size = sizeof d->caps, .flags = MC_CAP_READ | MC_CAP_WRITE, .fence = MC_FENCE_BOTH,
			.visibility = MC_VISIBLE_AT_COMPLETION, .local_kinds = cpu_kind,
			.remote_kinds = cpu_kind, .max_slice = 4 << 20, .pref_slice = 1 << 20,
			.bandwidth = UINT64_C(1) << 30};
		snprintf(d->label, sizeof d->label, "fake:%s", names[i]);
		w.device_list[i] = d;
		w.remotes[i] = (struct mc_remote_device){.wire_min = 1, .wire_max = 1, .nr_lanes = 1};
		strcpy(w.remotes[i].transport, "fake");
		strcpy(w.remotes[i].wire, "fakewire");
		strcpy(w.remotes[i].remote_kinds, "cpu");
		strcpy(w.remotes[i].name, names[i]);
	}
}

/* A matrix row from tiers written as "0,1|2": device numbers. */
static void row_set(struct mc_matrix_row *row, const char *text)
{
	struct mc_matrix_tier *t;

	row->tiers = calloc(8, sizeof *row->tiers);
	row->nr_tiers = 1;
	t = &row->tiers[0];
	t->entries = calloc(MAX_DEVICES, sizeof *t->entries);
	for (; *text; text++) {
		static char fake[] = "fake";

		if (*text == '|') {
			t = &row->tiers[row->nr_tiers++];
			t->entries = calloc(MAX_DEVICES, sizeof *t->entries);
		} else if (*text != ',') {
			t->entries[t->nr++] = (struct mc_matrix_entry){
				.transport = fake, .device = w.remotes[*text - '0'].name, .weight = 1};
		}
	}
}

static void row_free(struct mc_matrix_row *row)
{
	for (size_t i = 0; i < row->nr_tiers; i++)
		free(row->tiers[i].entries);
	free(row->tiers);
}

static void lane_start(struct mc_device *d, uint16_t idx)
{
	struct mc_lane *lane = calloc(1, sizeof *lane);
	struct mc_worker_args args = {.name = d->name, .peer_timeout_ns = 7200 * MC_SEC, .numa_node = -1};
	struct fake *f = calloc(1, sizeof *f);

	lane->device = d;
	lane->idx = idx;
	lane->ops = d->ops;
	lane->caps = d->caps;
	lane->ready_tail = &lane->ready;
	lane->inst = calloc(1, sizeof(struct fake *));
	*(struct fake **)lane->inst = f;
	f->lane = lane;
	snprintf(lane->label, sizeof lane->label, "%s", d->label);
	assert_int_equal(mc_worker_new(&args, &lane->worker), 0);
	while (!mc_worker_enter(lane->worker))
		sched_yield();
	lane->client.ops = &mc_lane_client_ops;
	mc_worker_add(lane->worker, &lane->client);
	w.lane_list[d->idx][idx] = lane;
	w.fakes[d->idx][idx] = f;
}

static void world_start(const char *ours, const char *theirs)
{
	row_set(w.matrix.rows, ours);
	row_set(w.peer_matrix.rows, theirs);
	for (size_t i = 0; i < w.engine.nr_devices; i++)
		for (uint16_t l = 0; l < w.devices[i].nr_lanes; l++)
			lane_start(&w.devices[i], l);
	mc_path_session_events.up(&w.session);
}

static void control_run(void)
{
	struct mc_control_post *list = w.posts, *oldest = NULL;

	w.posts = NULL;
	while (list) {
		struct mc_control_post *next = list->next;

		list->next = oldest;
		oldest = list;
		list = next;
	}
	while (oldest) {
		struct mc_control_post *next = oldest->next;

		oldest->run(oldest);
		oldest = next;
	}
}

static void turns(int n)
{
	while (n-- > 0) {
		for (size_t i = 0; i < w.engine.nr_devices; i++)
			for (uint16_t l = 0; l < w.devices[i].nr_lanes; l++)
				mc_worker_turn(w.lane_list[i][l]->worker);
		control_run();
	}
}

static __attribute__((unused)) void advance(uint64_t span_ns)
{
	struct mc_timer *t = w.timer;

	atomic_fetch_add(&fake_now, span_ns);
	if (t && t->deadline_ns <= atomic_load(&fake_now)) {
		w.timer = NULL;
		t->fire(t, atomic_load(&fake_now));
	}
	turns(3);
}

static void session_gone(int status)
{
	w.session.gone_status = status;
	__atomic_store_n(&w.session.state, MC_SESSION_GONE, __ATOMIC_RELEASE);
	mc_path_session_events.gone(&w.session, status, "the test says so");
	turns(3);
}

/* Everything that was lent has come back, and nothing is open. */
static void world_stop(void)
{
	if (w.session.state != MC_SESSION_GONE)
		session_gone(-ECANCELED);
	turns(3);
	for (struct mc_batch *b = w.engine.batches; b; b = b->next)
		assert_true(atomic_load(&b->complete));
	mc_batches_free(&w.engine);
	assert_int_equal(atomic_load(&w.engine.open_paths), 0);
	mc_path_session_events.freed(&w.session);
	for (size_t i = 0; i < w.engine.nr_devices; i++) {
		for (uint16_t l = 0; l < w.devices[i].nr_lanes; l++) {
			struct mc_lane *lane = w.lane_list[i][l];

			assert_int_equal(lane->nr_slices, 0);
			assert_int_equal(atomic_load(&lane->inflight), 0);
			assert_null(lane->paths);
			mc_worker_remove(lane->worker, &lane->client);
			mc_worker_leave(lane->worker);
			mc_worker_free(lane->worker);
			mc_lane_slices_free(lane);
			free(lane->inst);
			free(lane);
			free(w.fakes[i][l]);
		}
	}
	for (size_t i = 0; i < NR_BUFS; i++)
		assert_int_equal(w.lbuf[i].users, 0);
	assert_int_equal(w.snapshot.refs, 1);
	assert_int_equal(w.session.refs, 1);
	row_free(w.matrix.rows);
	row_free(w.peer_matrix.rows);
	mc_clock_hook = NULL;
}

/* ---- the peer's part ----------------------------------------------------------------------------------------- */

static struct mc_paths *paths_of(void)
{
	return w.session.paths;
}

/* The active path between two devices; it exists once a route has named it. */
static __attribute__((unused)) struct mc_path *path_of(uint16_t local, uint16_t remote)
{
	for (size_t i = 0; i < paths_of()->nr; i++)
		if (paths_of()->list[i]->rail_id == ((uint32_t)local << 16 | remote))
			return paths_of()->list[i];
	fail_msg("no route has named a path from device %u to %u", local, remote);
	abort();
}

static __attribute__((unused)) unsigned sent_count(uint16_t type)
{
	unsigned n = 0;

	for (size_t i = 0; i < w.nr_sent; i++)
		n += w.sent[i].type == type;
	return n;
}

static const struct sent *sent_last(uint16_t type, const struct mc_path *path)
{
	for (size_t i = w.nr_sent; i-- > 0;)
		if (w.sent[i].type == type && mc_get32(w.sent[i].head) == path->rail_id)
			return &w.sent[i];
	fail_msg("no message of type 0x%x was sent", type);
	return NULL;
}

/* A message from the peer that answers, or names, what the path last sent as `to`. */
static void reply(struct mc_path *path, uint16_t to, uint16_t type, int status)
{
	uint8_t head[MC_PATH_HEAD_SIZE];

	memcpy(head, sent_last(to, path)->head, sizeof head);
	mc_put32(head + MC_PATH_HEAD_STATUS, (uint32_t)status);
	mc_path_session_events.message(&w.session, type, head, sizeof head);
	turns(2);
}

/* The peer accepts the open of a path, and its plugin says that it is ready. */
static __attribute__((unused)) void path_ready(struct mc_path *path)
{
	struct fake *f = *(struct fake **)path->lane->inst;

	reply(path, MC_MSG_PATH_OPEN, MC_MSG_PATH_OPENED, 0);
	assert_non_null(path->peer);
	mc_host_peer_ready(&path->lane->host, path->peer->area, 0, NULL, NULL);
	assert_ptr_equal(f->peer, path->peer->area);
	turns(2);
}

static __attribute__((unused)) void path_fenced(struct mc_path *path)
{
	reply(path, MC_MSG_PATH_FENCE, MC_MSG_PATH_FENCED, 0);
}

/* ---- the application's part -------------------------------------------------------------------------------------- */

static struct mc_request request(int opcode, uint64_t at, uint64_t len)
{
	return (struct mc_request){.opcode = (uint32_t)opcode, .local = (void *)(uintptr_t)(LOCAL + at),
				   .segment = &w.segment, .offset = REMOTE + at, .len = len};
}

static struct mc_batch *batch_new(size_t capacity)
{
	struct mc_batch *b;

	assert_int_equal(mc_batch_new(&w.engine, capacity, &b), 0);
	return b;
}

static void submit_one(struct mc_batch *b, int opcode, uint64_t at, uint64_t len)
{
	struct mc_request r = request(opcode, at, len);

	assert_int_equal(mc_batch_submit(b, &r, 1, NULL), 0);
}

static struct mc_request_status status_of(const struct mc_batch *b, size_t idx)
{
	struct mc_request_status s = {.size = sizeof s};

	assert_int_equal(mc_batch_status(b, idx, &s), 0);
	return s;
}

static bool is_done(const struct mc_batch *b)
{
	return atomic_load(&b->complete);
}

#define assert_request(batch, idx, the_state, the_status)                                              \
	do {                                                                                           \
		struct mc_request_status s_ = status_of(batch, idx);                                   \
		assert_int_equal(s_.state, the_state);                                                 \
		assert_int_equal(s_.status, the_status);                                               \
	} while (0)

#endif
