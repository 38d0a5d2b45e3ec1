/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches: how runs are cut, how requests are counted, what submit checks, what
 * callbacks may do.  The one path never opens: the test cuts the runs itself.
 */
#include "path-fixture.h"

#include <poll.h>

#define NR_CUTTERS 4

static int start(void **state)
{
	world_init(1);
	world_start("0", "0");
	return 0;
}

static int stop(void **state)
{
	world_stop();
	return 0;
}

/* The path that never opens lets go of runs without work at its next tick. */
static void let_go(void)
{
	turns(1);
	advance(20 * MC_MSEC);
}

/* Cut everything there is; how many pieces. */
static unsigned cut_all(struct mc_run *run, int status)
{
	struct mc_piece p;
	unsigned n = 0;

	while (mc_run_cut(run, &p)) {
		n++;
		mc_piece_end(&p, status, status ? MC_SCOPE_REQUEST : MC_SCOPE_NONE);
	}
	return n;
}

/* ---- cutting --------------------------------------------------------------------------------------- */

static void coalesces(void **state)
{
	struct mc_batch *b = batch_new(16);
	struct mc_request r[8];
	struct mc_piece p;

	for (int i = 0; i < 8; i++)
		r[i] = request(MC_OP_WRITE, (uint64_t)i * 100, 100);
	r[4].offset += 7;      /* breaks the remote side only; 4 and 5 do not touch either */
	r[6].local = (char *)r[6].local + 3;
	assert_int_equal(mc_batch_submit(b, r, 8, NULL), 0);
	assert_non_null(b->runs);
	assert_null(b->runs->next);
	assert_true(mc_run_cut(b->runs, &p));
	assert_int_equal(p.first, 0);
	assert_int_equal(p.nr, 4);
	assert_int_equal(p.len, 400);
	mc_piece_end(&p, 0, MC_SCOPE_NONE);
	for (int i = 0; i < 4; i++)
		assert_request(b, i, MC_REQUEST_DONE, 0);
	assert_int_equal(mc_batch_poll(b), 4);
	assert_int_equal(cut_all(b->runs, 0), 4); /* 4 | 5 | 6 | 7 */
	let_go();
	assert_true(is_done(b));
}

static void coalesces_up_to_a_slice(void **state)
{
	struct mc_batch *b = batch_new(128);
	struct mc_request r[128];
	struct mc_piece p;

	for (int i = 0; i < 128; i++)
		r[i] = request(MC_OP_READ, (uint64_t)i << 16, 1 << 16);
	assert_int_equal(mc_batch_submit(b, r, 128, NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_true(mc_run_cut(b->runs, &p));
		assert_int_equal(p.len, 4 << 20);
		assert_int_equal(p.nr, 64);
		mc_piece_end(&p, 0, MC_SCOPE_NONE);
	}
	let_go();
	assert_true(is_done(b));
}

static void cuts_into_chunks(void **state)
{
	static const struct { uint64_t len; unsigned pieces; uint64_t last; } cases[] = {
		{1 << 20, 1, 1 << 20},
		{(1 << 20) + 1, 1, (1 << 20) + 1},             /* a tail shorter than a quarter goes along */
		{(5 << 18) - 1, 1, (5 << 18) - 1},
		{5 << 18, 2, 1 << 18},
		{3 << 20, 3, 1 << 20},
		{(3 << 20) + 5, 3, (1 << 20) + 5},
	};

	for (size_t i = 0; i < MC_ARRAY_SIZE(cases); i++) {
		struct mc_batch *b = batch_new(1);
		struct mc_piece p;
		uint64_t at = 0;
		unsigned n = 0;

		submit_one(b, MC_OP_WRITE, 4096, cases[i].len);
		while (at < cases[i].len) {
			assert_true(mc_run_cut(b->runs, &p));
			assert_int_equal(p.off, at);
			assert_int_equal(mc_piece_local(&p), LOCAL + 4096 + at);
			assert_int_equal(mc_piece_remote(&p), REMOTE + 4096 + at);
			at += p.len;
			n++;
			mc_piece_end(&p, 0, MC_SCOPE_NONE);
			assert_int_equal(status_of(b, 0).done_len, at);
		}
		assert_int_equal(at, cases[i].len);
		assert_int_equal(n, cases[i].pieces);
		assert_int_equal(p.len, cases[i].last);
		let_go();
		assert_true(is_done(b));
		mc_batch_free(b);
	}
}

static void runs_end_with_the_buffer(void **state)
{
	struct mc_batch *b = batch_new(4);
	struct mc_request r[4] = {
		request(MC_OP_WRITE, 0, 64),
		request(MC_OP_READ, 64, 64),              /* another opcode */
		request(MC_OP_READ, BUF_GAP, 64),         /* another buffer */
		request(MC_OP_READ, BUF_GAP + 64, 64),
	};
	unsigned n = 0;

	assert_int_equal(mc_batch_submit(b, r, 4, NULL), 0);
	for (struct mc_run *run = b->runs; run; run = run->next)
		n++;
	assert_int_equal(n, 3);
	assert_int_equal(w.lbuf[0].users, 2);
	assert_int_equal(w.lbuf[1].users, 1);
	for (struct mc_run *run = b->runs; run; run = run->next)
		cut_all(run, 0);
	let_go();
	assert_true(is_done(b));
	assert_int_equal(w.lbuf[0].users, 0);
}

/* Every piece may come back; it is given out again before new ones. */
static void retries(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_piece p[3], again;

	submit_one(b, MC_OP_WRITE, 0, 3 << 20);
	for (int i = 0; i < 3; i++)
		assert_true(mc_run_cut(b->runs, &p[i]));
	assert_false(mc_run_has_work(b->runs));
	mc_piece_end(&p[1], 0, MC_SCOPE_NONE);
	p[0].tries = 1;
	mc_piece_retry(&p[0], -EIO, MC_SCOPE_PEER);
	mc_piece_retry(&p[2], -EIO, MC_SCOPE_PEER);
	assert_true(mc_run_has_work(b->runs));
	for (int i = 0; i < 2; i++) {
		assert_true(mc_run_cut(b->runs, &again));
		assert_true(again.off == p[0].off || again.off == p[2].off);
		assert_int_equal(again.tries, again.off == p[0].off);
		assert_false(is_done(b));
		mc_piece_end(&again, 0, MC_SCOPE_NONE);
	}
	assert_int_equal(status_of(b, 0).done_len, 3 << 20);
	let_go();
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 0);
}

/* Workers on one run at once: each byte is given out once, except what came back. */
struct cutter {
	pthread_t thread;
	struct mc_run *run;
	uint64_t bytes;
	unsigned seed;
	_Atomic uint64_t *total, want;
};

static void *cut_main(void *arg)
{
	struct cutter *c = arg;
	struct mc_piece p;

	while (atomic_load(c->total) < c->want) {
		if (!mc_run_cut(c->run, &p)) {
			sched_yield();
			continue;
		}
		c->seed = c->seed * 1664525 + 1013904223;
		if (c->seed >> 30 == 0 && p.tries < 3) {
			p.tries++;
			mc_piece_retry(&p, -EIO, MC_SCOPE_PEER);
			continue;
		}
		c->bytes += p.len;
		atomic_fetch_add(c->total, p.len);
		mc_piece_end(&p, 0, MC_SCOPE_NONE);
	}
	return NULL;
}

static void cut_by_several(void **state)
{
	enum { NR = 3000 };
	struct mc_batch *b = batch_new(NR);
	struct mc_request *r = calloc(NR, sizeof *r);
	struct cutter cutters[NR_CUTTERS];
	_Atomic uint64_t total = 0;
	uint64_t want = 0, sum = 0, at = 0;

	for (unsigned i = 0; i < NR; i++) {
		uint64_t len = i % 50 == 0 ? (5 << 20) + 17 : 64 + i;

		r[i] = request(MC_OP_WRITE, at, len);
		at += len + (i % 3 ? 0 : 8);
		want += len;
	}
	assert_int_equal(mc_batch_submit(b, r, NR, NULL), 0);
	assert_null(b->runs->next);
	/* The run stays for threads that look once more after its last piece. */
	atomic_fetch_add(&b->runs->refs, 1);
	for (unsigned i = 0; i < NR_CUTTERS; i++) {
		cutters[i] = (struct cutter){.run = b->runs, .seed = i, .total = &total, .want = want};
		assert_int_equal(pthread_create(&cutters[i].thread, NULL, cut_main, &cutters[i]), 0);
	}
	for (unsigned i = 0; i < NR_CUTTERS; i++) {
		pthread_join(cutters[i].thread, NULL);
		sum += cutters[i].bytes;
	}
	assert_int_equal(sum, want);
	assert_int_equal(mc_batch_poll(b), NR);
	mc_run_unref(b->runs);
	let_go();
	assert_true(is_done(b));
	for (unsigned i = 0; i < NR; i++) {
		assert_request(b, i, MC_REQUEST_DONE, 0);
		assert_int_equal(status_of(b, i).done_len, r[i].len);
	}
	free(r);
}

/* ---- counting ----------------------------------------------------------------------------------------- */

static void failed_request(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_request r[2] = {request(MC_OP_WRITE, 0, 4 << 20), request(MC_OP_WRITE, 8 << 20, 10)};
	struct mc_piece p[2];

	assert_int_equal(mc_batch_submit(b, r, 2, NULL), 0);
	assert_true(mc_run_cut(b->runs, &p[0]));
	assert_true(mc_run_cut(b->runs, &p[1]));
	mc_piece_end(&p[1], -EIO, MC_SCOPE_NIC);
	assert_int_equal(mc_batch_poll(b), 0); /* a piece of it is still under way */
	/* The rest of it is not sent; the other request is. */
	assert_int_equal(cut_all(b->runs, 0), 1);
	assert_request(b, 1, MC_REQUEST_DONE, 0);
	assert_int_equal(mc_batch_poll(b), 1);
	mc_piece_end(&p[0], 0, MC_SCOPE_NONE);
	assert_request(b, 0, MC_REQUEST_FAILED, -EIO);
	assert_int_equal(status_of(b, 0).scope, MC_SCOPE_NIC);
	assert_int_equal(status_of(b, 0).done_len, 1 << 20);
	let_go();
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 1);
}

static void status_arguments(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct mc_request r = request(MC_OP_WRITE, 0, 0);
	struct mc_request_status s = {.size = offsetof(struct mc_request_status, done_len), .done_len = 77};

	r.user = &r;
	assert_int_equal(mc_batch_status(b, 0, &s), -ERANGE);
	assert_int_equal(mc_batch_submit(b, &r, 1, NULL), 0);
	assert_true(is_done(b)); /* nothing to move */
	assert_int_equal(mc_batch_status(b, 0, &s), 0);
	assert_int_equal(s.done_len, 77); /* beyond what the caller knows */
	assert_int_equal(s.state, MC_REQUEST_DONE);
	assert_ptr_equal(status_of(b, 0).user, &r);
	assert_int_equal(mc_batch_status(b, 1, &s), -ERANGE);
	assert_int_equal(mc_batch_poll(NULL), 0);
	assert_int_equal(mc_batch_status(NULL, 0, &s), -EINVAL);
}

/* ---- submit ---------------------------------------------------------------------------------------------- */

static void submit_arguments(void **state)
{
	struct mc_batch *b = batch_new(3);
	struct mc_request r[4];
	struct mc_segment other = {.engine = NULL};
	size_t idx = 99;

	for (int i = 0; i < 4; i++)
		r[i] = request(MC_OP_WRITE, (uint64_t)i * 8, 8);
	assert_int_equal(mc_batch_submit(b, r, 4, &idx), -ENOSPC);
	assert_int_equal(idx, 3);
	assert_int_equal(mc_batch_submit(b, r, 0, &idx), -EINVAL);
	assert_int_equal(mc_batch_submit(NULL, r, 1, NULL), -EINVAL);
	assert_int_equal(mc_batch_submit(b, NULL, 1, NULL), -EINVAL);
	r[2].opcode = MC_OP_COUNT;
	assert_int_equal(mc_batch_submit(b, r, 3, &idx), -EINVAL);
	assert_int_equal(idx, 2);
	r[1].flags = 2;
	assert_int_equal(mc_batch_submit(b, r, 3, &idx), -EINVAL);
	assert_int_equal(idx, 1);
	r[0].segment = &other;
	assert_int_equal(mc_batch_submit(b, r, 3, &idx), -EINVAL);
	assert_int_equal(idx, 0);
	assert_int_equal(b->nr, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_new(&w.engine, 0, &b), -EINVAL);
	assert_int_equal(mc_batch_new(&w.engine, (1 << 20) + 1, &b), -EINVAL);
	w.engine.pid = 4711;
	assert_int_equal(mc_batch_submit(w.engine.batches, &r[3], 1, NULL), -EPERM);
	assert_int_equal(mc_batch_wait(w.engine.batches, 0), -EPERM);
	assert_int_equal(mc_batch_cancel(w.engine.batches), -EPERM);
	w.engine.pid = 0;
}

/* What is wrong with one request fails that one alone. */
static void bad_requests(void **state)
{
	struct mc_batch *b = batch_new(8);
	struct mc_request r[6];

	for (int i = 0; i < 6; i++)
		r[i] = request(MC_OP_WRITE, (uint64_t)i * 4096, 64);
	r[1].local = (void *)(uintptr_t)(LOCAL - 1);
	r[2].offset = REMOTE + BUF_LEN - 63;
	r[3] = request(MC_OP_WRITE, BUF_GAP, 64);
	w.rbuf[1].access = MC_ACCESS_REMOTE_READ;
	r[4].len = UINT64_MAX;
	assert_int_equal(mc_batch_submit(b, r, 6, NULL), 0);
	assert_request(b, 1, MC_REQUEST_FAILED, -EFAULT);
	assert_request(b, 4, MC_REQUEST_FAILED, -EFAULT);
	assert_request(b, 2, MC_REQUEST_PENDING, 0);
	/* One refresh for both, and then no other. */
	assert_int_equal(w.refreshes, 1);
	w.refresh_done(w.refresh_arg, 0);
	assert_int_equal(w.refreshes, 1);
	assert_request(b, 2, MC_REQUEST_FAILED, -EACCES);
	assert_request(b, 3, MC_REQUEST_FAILED, -EACCES);
	assert_int_equal(status_of(b, 3).scope, MC_SCOPE_REQUEST);
	for (struct mc_run *run = b->runs; run; run = run->next)
		cut_all(run, 0);
	let_go();
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_DONE, 0);
	assert_request(b, 5, MC_REQUEST_DONE, 0);
	assert_int_equal(mc_batch_failed(b), 4);
}

/* A buffer that the peer registered meanwhile is found by the refresh. */
static void refresh_finds(void **state)
{
	struct mc_batch *b = batch_new(2);

	w.snapshot.nr = 1;
	submit_one(b, MC_OP_READ, BUF_GAP, 64);
	assert_false(is_done(b));
	assert_null(b->runs);
	w.snapshot.nr = NR_BUFS;
	w.refresh_done(w.refresh_arg, 0);
	assert_non_null(b->runs);
	assert_int_equal(cut_all(b->runs, 0), 1);
	let_go();
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_DONE, 0);
	/* No control connection to ask over: as good as asked. */
	w.snapshot.nr = 1;
	w.refresh_answer = -ENOTCONN;
	submit_one(b, MC_OP_READ, BUF_GAP, 64);
	control_run();
	assert_true(is_done(b));
	assert_request(b, 1, MC_REQUEST_FAILED, -EACCES);
}

/* What waits for a refresh that is not answered, or too late. */
static void refresh_is_late(void **state)
{
	enum how { DEADLINE, CANCEL, CANCEL_AT_ONCE, STOP, ANSWER_AFTER_CANCEL, NR };

	for (enum how how = 0; how < NR; how++) {
		uint32_t refs = w.session.refs;
		struct mc_batch *b = batch_new(2);
		int want = how == DEADLINE ? -ETIMEDOUT : -ECANCELED;

		assert_int_equal(mc_batch_set_deadline(b, MC_SEC), 0);
		w.snapshot.nr = 1;
		submit_one(b, MC_OP_READ, BUF_GAP, 64);
		if (how != CANCEL_AT_ONCE)
			control_run();
		advance(MC_SEC - MC_MSEC);
		assert_false(is_done(b));
		if (how == DEADLINE)
			advance(MC_MSEC);
		else if (how == STOP)
			mc_batches_stop(&w.engine, -ECANCELED);
		else
			assert_int_equal(mc_batch_cancel(b), 0);
		w.snapshot.nr = NR_BUFS;
		if (how == ANSWER_AFTER_CANCEL)
			w.refresh_done(w.refresh_arg, 0);
		control_run();
		assert_true(is_done(b));
		assert_request(b, 0, MC_REQUEST_FAILED, want);
		assert_int_equal(status_of(b, 0).scope, MC_SCOPE_REQUEST);
		assert_null(b->runs);
		assert_null(w.timer);
		assert_int_equal(w.session.refs, refs);
		mc_batch_free(b);
		/* Nobody is there for it any more. */
		if (how != ANSWER_AFTER_CANCEL)
			w.refresh_done(w.refresh_arg, 0);
	}
}

static void explained(uint32_t opcode, uint64_t offset, uint64_t len, const char *word)
{
	struct mc_error err = {0};

	assert_int_equal(mc_req_explain(&w.session, opcode, REMOTE + offset, len, &err), -EACCES);
	assert_non_null(strstr(err.text, "of 64 bytes at 0x"));
	assert_non_null(strstr(err.text, word));
}

/* Bounds, rights of the buffer, and the access list are told apart. */
static void explains(void **state)
{
	char near[96];

	snprintf(w.engine.name, sizeof w.engine.name, "vm");
	assert_int_equal(mc_req_explain(&w.session, MC_OP_WRITE, REMOTE, 64, NULL), 0);
	snprintf(near, sizeof near, "outside of every buffer that it shows; the nearest is %llu bytes at %#llx",
		 (unsigned long long)BUF_LEN, (unsigned long long)REMOTE);
	explained(MC_OP_READ, BUF_LEN - 63, 64, near);
	explained(MC_OP_READ, (uint64_t)-4096, 64, near);
	w.rbuf[0].access = MC_ACCESS_REMOTE_READ;
	assert_int_equal(mc_req_explain(&w.session, MC_OP_READ, REMOTE, 64, NULL), 0);
	explained(MC_OP_WRITE, 0, 64, "was registered there without MC_ACCESS_REMOTE_WRITE");
	w.rbuf[0].access = MC_ACCESS_REMOTE_WRITE;
	explained(MC_OP_READ, 0, 64, "was registered there without MC_ACCESS_REMOTE_READ");
	w.rbuf[0].access = MC_ACCESS_REMOTE_READ | MC_REMOTE_NO_KEYS;
	explained(MC_OP_WRITE, 0, 64, "its access list leaves 'vm' only 'read' of buffer");
	w.rbuf[0].access = MC_REMOTE_NO_KEYS;
	explained(MC_OP_WRITE, 0, 64, "its access list leaves 'vm' only 'none' of buffer");
	w.snapshot.nr = 0;
	explained(MC_OP_READ, 0, 64, "it shows no buffer");
}

static void submit_after_gone(void **state)
{
	struct mc_batch *b = batch_new(2);

	session_gone(-ESTALE);
	submit_one(b, MC_OP_READ, 0, 64);
	assert_true(is_done(b));
	assert_request(b, 0, MC_REQUEST_FAILED, -ESTALE);
	assert_int_equal(status_of(b, 0).scope, MC_SCOPE_PEER);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static void lists(void **state)
{
	struct mc_request r[6] = {
		request(MC_OP_WRITE, 0, 64), request(MC_OP_WRITE, 64, 64), request(MC_OP_READ, 128, 64),
		request(MC_OP_READ, BUF_GAP, 64), request(MC_OP_WRITE, 4096, 0), request(MC_OP_WRITE, 256, 3 << 20),
	};
	static const uint32_t order[] = {5, 1, 1, 3, 0};
	struct mc_batch *plain = batch_new(16), *listed = batch_new(16);
	struct mc_list *list;
	size_t idx = 99;

	r[3].user = &idx;
	assert_int_equal(mc_list_new(&w.engine, r, 6, &list, &idx), 0);
	assert_int_equal(mc_batch_submit(plain, r, 6, NULL), 0);
	for (size_t i = 0; i < MC_ARRAY_SIZE(order); i++)
		assert_int_equal(mc_batch_submit(plain, &r[order[i]], 1, NULL), 0);
	assert_int_equal(mc_batch_submit_list(listed, list, NULL, 6, NULL), 0);
	assert_int_equal(mc_batch_submit_list(listed, list, order, 5, NULL), 0);
	assert_int_equal(listed->nr, plain->nr);
	for (size_t i = 0; i < plain->nr; i++) {
		assert_int_equal(listed->reqs[i].local, plain->reqs[i].local);
		assert_int_equal(listed->reqs[i].offset, plain->reqs[i].offset);
		assert_int_equal(listed->reqs[i].len, plain->reqs[i].len);
		assert_int_equal(listed->reqs[i].opcode, plain->reqs[i].opcode);
		assert_ptr_equal(listed->reqs[i].user, plain->reqs[i].user);
		assert_int_equal(listed->reqs[i].state, plain->reqs[i].state);
	}
	for (struct mc_run *run = listed->runs; run; run = run->next)
		cut_all(run, 0);
	for (struct mc_run *run = plain->runs; run; run = run->next)
		cut_all(run, 0);
	let_go();
	assert_true(is_done(listed) && is_done(plain));
	assert_int_equal(mc_batch_failed(listed), 0);

	assert_int_equal(mc_batch_submit_list(listed, list, (uint32_t[]){0, 6}, 2, &idx), -EINVAL);
	assert_int_equal(idx, 1);
	assert_int_equal(mc_batch_submit_list(listed, list, NULL, 6, &idx), -ENOSPC);
	assert_int_equal(idx, 5);
	/* The buffers have changed since: resolved again, and refused by the table as it is now. */
	mc_batch_reset(listed);
	w.rbuf[0].access = MC_ACCESS_REMOTE_READ;
	w.rbuf[0].id = 40;
	assert_int_equal(mc_batch_submit_list(listed, list, NULL, 3, NULL), 0);
	w.refresh_done(w.refresh_arg, 0);
	assert_request(listed, 0, MC_REQUEST_FAILED, -EACCES);
	assert_request(listed, 2, MC_REQUEST_PENDING, 0);
	cut_all(listed->runs, 0);
	let_go();
	assert_true(is_done(listed));
	mc_list_free(list);

	r[1].local = NULL;
	assert_int_equal(mc_list_new(&w.engine, &r[1], 1, &list, &idx), -EFAULT);
	assert_int_equal(mc_list_new(&w.engine, r, 6, &list, &idx), -EACCES);
	assert_int_equal(idx, 0);
}

/* ---- callbacks, fd, reset, cancel, notify ------------------------------------------------------------------- */

static struct {
	unsigned calls;
	int wait, fresh_wait;
	bool resubmit;
} seen;

static void on_done(void *arg, struct mc_batch *b)
{
	assert_ptr_equal(arg, &seen);
	seen.calls++;
	seen.wait = mc_batch_wait(b, MC_SEC);
	assert_int_equal(mc_batch_poll(b), b->nr);
	if (seen.resubmit) {
		seen.resubmit = false;
		submit_one(b, MC_OP_WRITE, 0, 64);
	}
}

static void callbacks(void **state)
{
	struct mc_batch *b = batch_new(4);

	memset(&seen, 0, sizeof seen);
	seen.resubmit = true;
	assert_int_equal(mc_batch_set_callback(b, on_done, &seen), 0);
	submit_one(b, MC_OP_WRITE, 0, 64);
	assert_int_equal(mc_batch_set_callback(b, on_done, &seen), -EINVAL);
	cut_all(b->runs, 0);
	let_go();
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.wait, -EDEADLK);
	assert_false(is_done(b));
	assert_int_equal(b->nr, 2);
	cut_all(b->runs, 0);
	let_go();
	assert_int_equal(seen.calls, 2);
	assert_true(is_done(b));
}

/* The same where no baton is held: everything fails inside submit, on the caller's own thread. */
static void callback_without_baton(void **state)
{
	struct mc_batch *b = batch_new(4);
	struct mc_lane *lane = w.lane_list[0][0];

	memset(&seen, 0, sizeof seen);
	mc_batch_set_callback(b, on_done, &seen);
	mc_worker_leave(lane->worker);
	assert_false(mc_worker_any_mine());
	submit_one(b, MC_OP_WRITE, BUF_LEN, 64);
	while (!mc_worker_enter(lane->worker))
		sched_yield();
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.wait, -EDEADLK);
	assert_int_equal(mc_batch_failed(b), 1);
}

static void event_fd(void **state)
{
	struct mc_batch *b = batch_new(2);
	struct pollfd p = {.fd = mc_batch_fd(b), .events = POLLIN};

	assert_true(p.fd >= 0);
	assert_int_equal(mc_batch_fd(b), p.fd);
	assert_int_equal(poll(&p, 1, 0), 0);
	for (int i = 0; i < 2; i++) {
		submit_one(b, MC_OP_WRITE, 0, 64);
		assert_int_equal(poll(&p, 1, 0), 0);
		assert_int_equal(mc_batch_reset(b), -EBUSY);
		cut_all(b->runs, 0);
		let_go();
		assert_int_equal(poll(&p, 1, 0), 1);
		assert_int_equal(mc_batch_reset(b), 0);
		assert_int_equal(poll(&p, 1, 0), 0);
		assert_int_equal(mc_batch_poll(b), 0);
	}
}

static void cancels(void **state)
{
	struct mc_batch *b = batch_new(8);
	struct mc_piece p;

	assert_int_equal(mc_batch_cancel(b), 0); /* nothing to cancel */
	submit_one(b, MC_OP_WRITE, 0, 2 << 20);
	submit_one(b, MC_OP_WRITE, 0, 64);
	assert_true(mc_run_cut(b->runs->next, &p));
	assert_int_equal(mc_batch_cancel(b), 0);
	let_go();
	assert_request(b, 1, MC_REQUEST_FAILED, -ECANCELED);
	assert_false(is_done(b)); /* a piece is still out */
	mc_piece_end(&p, 0, MC_SCOPE_NONE);
	assert_request(b, 0, MC_REQUEST_FAILED, -ECANCELED);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_failed(b), 2);
	/* After a reset it is as new. */
	assert_int_equal(mc_batch_reset(b), 0);
	assert_int_equal(mc_batch_failed(b), 0);
	submit_one(b, MC_OP_WRITE, 0, 64);
	assert_int_equal(cut_all(b->runs, 0), 1);
	let_go();
	assert_request(b, 0, MC_REQUEST_DONE, 0);
}

static void notifies(void **state)
{
	struct mc_batch *b = batch_new(4);
	char big[4097] = "";

	assert_int_equal(mc_batch_set_notify(b, &w.segment, big, sizeof big), -EINVAL);
	assert_int_equal(mc_batch_set_notify(b, &w.segment, "ready", 5), 0);
	submit_one(b, MC_OP_WRITE, 0, 64);
	assert_int_equal(w.notifies, 0);
	cut_all(b->runs, 0);
	let_go();
	assert_int_equal(w.notifies, 1);
	assert_false(is_done(b)); /* until the peer has queued it */
	w.notify_done(w.notify_arg, 0);
	assert_true(is_done(b));
	assert_int_equal(mc_batch_notify_status(b), 0);
	/* A request failed: none is sent. */
	mc_batch_reset(b);
	mc_batch_set_notify(b, &w.segment, "ready", 5);
	submit_one(b, MC_OP_WRITE, 0, 64);
	cut_all(b->runs, -EIO);
	let_go();
	assert_true(is_done(b));
	assert_int_equal(w.notifies, 1);
	assert_int_equal(mc_batch_notify_status(b), -ECANCELED);
	/* It cannot be posted. */
	mc_batch_reset(b);
	assert_int_equal(mc_batch_notify_status(b), 0);
	mc_batch_set_notify(b, &w.segment, "ready", 5);
	w.notify_answer = -ENOTCONN;
	submit_one(b, MC_OP_WRITE, 0, 64);
	cut_all(b->runs, 0);
	let_go();
	assert_true(is_done(b));
	assert_int_equal(mc_batch_notify_status(b), -ENOTCONN);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)
	const struct CMUnitTest tests[] = {
		T(coalesces), T(coalesces_up_to_a_slice), T(cuts_into_chunks), T(runs_end_with_the_buffer),
		T(retries), T(cut_by_several), T(failed_request), T(status_arguments), T(submit_arguments),
		T(bad_requests), T(refresh_finds), T(refresh_is_late), T(explains), T(submit_after_gone), T(lists), T(callbacks),
		T(callback_without_baton), T(event_fd), T(cancels), T(notifies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
