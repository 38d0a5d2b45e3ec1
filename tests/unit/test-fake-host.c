/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host catches what it says it catches: a transport that breaks one rule
 * at a time, and the sentence that names it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/check/fake-host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum sin { NONE, COMPLETE_IN_SUBMIT, COMPLETE_TWICE, NO_SCOPE, TOO_MUCH, WRONG_THREAD, WRITE_BEHIND_PEER,
	   TOUCH_CLOSED_PEER, FENCED_EARLY, LEAVE_WATCH, LEAVE_TIMER, LEAVE_MEMORY, FORGET_SLICE, WHY_MISSING };

struct bad {
	const struct mc_host *host;
	enum sin sin;
	struct mc_slice *slice; /* in flight */
	unsigned char *peer;
	struct mc_timer timer;
};

static const char *const sins[] = { "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", NULL };
static const struct mc_option bad_options[] = {
	{ .name = "sin", .type = MC_OPT_ENUM, .def = "0", .choices = sins, .doc = "What to do wrong." },
	{ .name = NULL },
};

static struct mc_watch left_watch; /* of LEAVE_WATCH: outlives the instance */

static void on_watch(struct mc_watch *w, uint32_t revents)
{
}

static void on_timer(struct mc_timer *t, uint64_t now_ns)
{
}

static int bad_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const kinds[] = { "cpu", NULL };
	struct bad *b = inst;

	b->host = host;
	b->sin = (enum sin)args->options[0].i2;
	*caps = (struct mc_transport_caps){ .size = sizeof *caps, .flags = MC_CAP_READ | MC_CAP_WRITE,
					    .fence = MC_FENCE_LOCAL, .visibility = MC_VISIBLE_AT_COMPLETION,
					    .local_kinds = kinds, .remote_kinds = kinds, .max_slice = 4096 };
	b->timer = (struct mc_timer){ .size = sizeof b->timer, .fire = on_timer };
	if (b->sin == LEAVE_WATCH) {
		int fds[2];

		if (pipe(fds) < 0)
			return -EMFILE;
		close(fds[1]);
		left_watch = (struct mc_watch){ .size = sizeof left_watch, .fd = fds[0], .ready = on_watch };
		host->watch(host, &left_watch);
	}
	if (b->sin == LEAVE_TIMER)
		host->timer_set(host, &b->timer, host->now_ns(host) + 100 * MC_SEC);
	if (b->sin == LEAVE_MEMORY)
		host->alloc(host, 4096);
	return 0;
}

static void bad_close(void *inst)
{
}

static int bad_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct bad *b = inst;

	b->peer = peer;
	if (b->sin == WHY_MISSING)
		b->host->peer_ready(b->host, peer, -EIO, NULL, NULL);
	b->host->peer_ready(b->host, peer, 0, NULL, NULL);
	if (b->sin == WRITE_BEHIND_PEER)
		b->peer[16] = 1;
	return 0;
}

static void bad_peer_close(void *inst, void *peer)
{
}

static void *other_thread(void *arg)
{
	struct bad *b = arg;

	b->host->complete(b->host, b->slice, 0, MC_SCOPE_NONE, b->slice->len);
	return NULL;
}

static int bad_submit(void *inst, struct mc_slice *slice)
{
	struct bad *b = inst;
	pthread_t t;

	b->slice = slice;
	if (b->sin == COMPLETE_IN_SUBMIT)
		b->host->complete(b->host, slice, 0, MC_SCOPE_NONE, slice->len);
	if (b->sin == WRONG_THREAD && pthread_create(&t, NULL, other_thread, b) == 0)
		pthread_join(t, NULL);
	return 0;
}

static int bad_progress(void *inst)
{
	struct bad *b = inst;
	struct mc_slice *s = b->slice;

	if (!s || b->sin == COMPLETE_IN_SUBMIT || b->sin == WRONG_THREAD || b->sin == FORGET_SLICE ||
	    b->sin == FENCED_EARLY)
		return 0;
	b->slice = NULL;
	b->host->complete(b->host, s, b->sin == NO_SCOPE ? -EIO : 0, MC_SCOPE_NONE,
			  b->sin == TOO_MUCH ? s->len + 1 : b->sin == NO_SCOPE ? 0 : s->len);
	if (b->sin == COMPLETE_TWICE)
		b->host->complete(b->host, s, 0, MC_SCOPE_NONE, s->len);
	return 1;
}

static int bad_fence(void *inst, void *peer, uint32_t epoch)
{
	struct bad *b = inst;

	b->host->fenced(b->host, peer, epoch);
	return 0;
}

static const struct mc_transport_ops bad_ops = {
	.size = sizeof bad_ops,
	.instance_size = sizeof(struct bad),
	.peer_size = 16,
	.open = bad_open,
	.close = bad_close,
	.peer_open = bad_peer_open,
	.peer_close = bad_peer_close,
	.submit = bad_submit,
	.progress = bad_progress,
	.fence = bad_fence,
};

static const char *const cpu[] = { "cpu", NULL };
static const struct mc_plugin_desc bad_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "bad", .version = "1", .summary = "breaks one rule", .ops = &bad_ops, .options = bad_options,
	.wire = "bad", .wire_min = 1, .wire_max = 1, .memory = cpu,
};

struct run {
	struct fake_world *w;
	struct fake_plugin plugin;
	struct fake_inst *a, *b;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
	struct fake_slice *s;
};

static void run_open(struct run *r, enum sin sin)
{
	struct fake_open how = { .nr_words = 1 }, good = { .nr_words = 0 };
	char word[16];
	const char *words[] = { word };
	struct fake_link *la, *lb;
	struct mc_error err;

	memset(r, 0, sizeof *r);
	snprintf(word, sizeof word, "sin=%d", sin);
	how.words = words;
	r->w = fake_world_new(FAKE_QUIET);
	assert_int_equal(fake_plugin_init(&bad_desc, MC_KIND_TRANSPORT, &r->plugin, &err), 0);
	assert_int_equal(fake_open(r->w, &r->plugin, &how, &r->a, &err), 0);
	assert_int_equal(fake_open(r->w, &r->plugin, &good, &r->b, &err), 0);
	assert_int_equal(fake_link(r->a, r->b, &la, &lb), 0);
	assert_int_equal(fake_buf_new(r->a, 4096, 0, NULL, MC_ACCESS_LOCAL, &r->local, &err), 0);
	assert_int_equal(fake_buf_new(r->b, 4096, 0, NULL, MC_ACCESS_ALL, &r->target, &err), 0);
	assert_int_equal(fake_peer_open(r->a, la, &r->peer), 0);
	assert_int_equal(fake_peer_wait(r->peer, 5 * MC_SEC), 0);
	r->s = fake_slice_new(r->a);
	fake_slice_set(r->s, r->peer, MC_OP_WRITE, r->local, 0, r->peer->remotes, 0, 100, 0);
}

/* Do one transfer and close; expect a sentence, or none. */
static void expect(enum sin sin, const char *sentence)
{
	struct run r;
	char last[512];

	run_open(&r, sin);
	if (sin == FENCED_EARLY) {
		assert_int_equal(fake_submit(r.s), 0);
		fake_peer_fence(r.peer, 5 * MC_SEC);
	} else {
		fake_transfer(r.s, 20 * MC_MSEC);
	}
	if (sin == TOUCH_CLOSED_PEER) {
		void *area = r.peer->area;

		fake_peer_close(r.peer);
		r.a->host.peer_writable(&r.a->host, area);
	}
	fake_close(r.b, 20 * MC_MSEC);
	snprintf(last, sizeof last, "%s", fake_last_breach(r.w));
	fake_close(r.a, 20 * MC_MSEC);
	if (!last[0])
		snprintf(last, sizeof last, "%s", fake_last_breach(r.w));
	if (sin == LEAVE_WATCH) {
		close(left_watch.fd);
		free(left_watch.host);
	}
	r.s->state = FAKE_DONE; /* whatever became of it: nobody will touch it */
	fake_slice_free(r.s);
	if (!sentence)
		assert_string_equal(last, "");
	else if (!strstr(last, sentence))
		fail_msg("expected '%s', got '%s'", sentence, last);
	if (sentence)
		assert_true(fake_world_free(r.w) > 0);
	else
		assert_int_equal(fake_world_free(r.w), 0);
}

static void test_good(void **state)
{
	expect(NONE, NULL);
}

static void test_completions(void **state)
{
	expect(COMPLETE_IN_SUBMIT, "no completion comes from inside submit");
	expect(COMPLETE_TWICE, "each slice completes exactly once");
	expect(NO_SCOPE, "a failure has a scope");
	expect(TOO_MUCH, "done_len is the slice's length");
	expect(WRONG_THREAD, "is called on the instance's worker");
}

static void test_peers(void **state)
{
	expect(WHY_MISSING, "says why");
	expect(WRITE_BEHIND_PEER, "only inside its private areas");
	expect(TOUCH_CLOSED_PEER, "not named after peer_close");
	expect(FENCED_EARLY, "complete before fenced");
}

static void test_leaks(void **state)
{
	expect(LEAVE_WATCH, "unwatches every descriptor");
	expect(LEAVE_TIMER, "disarms every timer");
	expect(LEAVE_MEMORY, "frees what it allocated");
	expect(FORGET_SLICE, "in flight");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_completions),
		cmocka_unit_test(test_peers),
		cmocka_unit_test(test_leaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
