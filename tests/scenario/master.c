/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A living mooncake_master, asked by rpc alone: what it keeps over kill -9, whose
 * versions it speaks, what garbage does to it, and who is the master of a name.
 *
 *   PROGRAM MASTER CASE...
 */
#include "master-ask.h"

/* ---- cases ------------------------------------------------------------------------------------- */

static void again(int sig, int code, uint64_t epoch, bool mounted)
{
	struct mc_wire_welcome welcome;
	uint32_t id;
	int r = master_end(master, sig);

	CHECK(r == code, "the master ended with %d instead of %d", r, code);
	master_start();
	hello(1, 1, &welcome);
	CHECK(ask_here.head.epoch == epoch, "epoch %llu", (unsigned long long)ask_here.head.epoch);
	begin(&ask_here, 0, 0);
	r = ask(&ask_here, MC_WIRE_PING);
	CHECK(r == 0 && ask_here.head.flags & MC_WIRE_REMOUNT, "ping: %d, flags %u", r, ask_here.head.flags);
	if (!mounted)
		return;
	look(-EAGAIN);
	id = mount();
	CHECK(id == 1, "segment %u", id);
	look(0);
}

/* What was complete is there again, at its place; what was removed or not complete is not. */
static void case_restart(void)
{
	struct mc_master_named gone[10];
	struct mc_wire_welcome welcome;
	int r;

	hello(1, 1, &welcome);
	CHECK(ask_here.head.epoch == 1 && welcome.lease_ns == 500 * MC_MSEC, "epoch, lease");
	mount();
	put_all();
	look(0);
	for (unsigned i = 0; i < 10; i++) {
		gone[i] = (struct mc_master_named){.key = name(i, i * 7)};
		where[i * 7] = 0;
	}
	mc_wire_keys(begin(&ask_here, 10, MC_MASTER_REMOVE_FORCE), 10, gone);
	CHECK(ask(&ask_here, MC_WIRE_REMOVE) == 0, "remove: %s", ask_here.sentence);
	r = put_start(NR, 1);
	CHECK(r == 0 && wanted[0].status == 0, "put-start");
	again(SIGKILL, 128 + SIGKILL, 2, true);
	put_end_send(&ask_here, 1);
	r = put_end_finish(&ask_here, 1);
	CHECK(r == 0 && ends[0].status == -ESTALE, "a put of before: %d %d", r, ends[0].status);
	for (unsigned i = 0; i < 10; i++) {
		get(i * 7, 1);
		CHECK(gots[0].status == -ENOENT, "removed object %u: %d", i * 7, gots[0].status);
	}
	again(SIGTERM, 0, 3, true);
}

/* Killed before, while and after it is asked: whatever it has said stays true, and no two objects share bytes. */
static void case_storm(void)
{
	struct mc_wire_welcome welcome;
	bool maybe[NR] = {false};
	unsigned n = 0;

	hello(1, 1, &welcome);
	mount();
	memset(where, 0, sizeof where);
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < 1 + round % 3; i++, n += 50) {
			bool last = i == round % 3;
			int r = put_start(n, 50);

			/* Just started: nothing is given out before the leases of its last life have ended. */
			for (int tries = 0; tries < 200 && (r < 0 || wanted[0].status == -ENOSPC); tries++) {
				usleep(50000);
				r = put_start(n, 50);
			}
			CHECK(r == 0 && wanted[0].status == 0, "put-start in round %u: %d %d", round, r, wanted[0].status);
			put_end_send(&ask_here, 50);
			if (last) {
				usleep(round * 40);
				kill(master, SIGKILL);
			}
			r = put_end_finish(&ask_here, 50);
			for (unsigned k = 0; k < 50; k++) {
				maybe[n + k] = r < 0;
				where[n + k] = r == 0 && ends[k].status == 0 ? places[wanted[k].first].offset : 0;
			}
		}
		again(0, 128 + SIGKILL, round + 2, false);
		mount();
		look(0);
	}
	for (unsigned a = 0; a < n; a += 50) {
		get(a, 50);
		for (unsigned k = 0; k < 50; k++) {
			CHECK(gots[k].status == 0 || maybe[a + k], "object %u: %d", a + k, gots[k].status);
			where[a + k] = gots[k].status == 0 ? places[gots[k].first].offset : 0;
		}
	}
	for (unsigned a = 0; a < n; a++)
		for (unsigned b = 0; b < a; b++)
			CHECK(!where[a] || !where[b] || where[a] + VALUE_LEN <= where[b] || where[b] + VALUE_LEN <= where[a],
			      "objects %u and %u share bytes", a, b);
}

/* A client of another range works if the ranges meet, and hears which they are if not. */
static void case_versions(void)
{
	struct mc_wire_welcome welcome;
	struct mc_wire_request head = {.version = MC_WIRE_VERSION_MAX + 1, .client = self, .tenant = ""};
	struct mc_wire_hello hi = {.min = 1, .max = 9};
	uint64_t more = 42;
	int r;

	CHECK(hello(0, 1, &welcome) == 1, "older and ours: %u", welcome.version);
	CHECK(hello(1, 2, &welcome) == 1, "ours and newer: %u", welcome.version);
	CHECK(hello(2, 3, &welcome) == 0 && welcome.min == MC_WIRE_VERSION_MIN && welcome.max == MC_WIRE_VERSION_MAX,
	      "newer alone: %u, told %u to %u", welcome.version, welcome.min, welcome.max);
	/* What a later version appends to its HELLO is passed over. */
	ask_here.w = mc_wire_writer(ask_here.request, sizeof ask_here.request);
	mc_wire_request(&ask_here.w, &head, true);
	mc_wire_hello(&ask_here.w, &hi);
	mc_wire_amount(&ask_here.w, &more);
	r = ask(&ask_here, MC_WIRE_HELLO);
	CHECK(r == 0 && ask_here.head.version == MC_WIRE_VERSION_MAX, "a later HELLO: %d, version %u", r, ask_here.head.version);
	mc_wire_welcome(&ask_here.w, &welcome);
	CHECK(welcome.version == 1, "a later HELLO: %u", welcome.version);
	/* But nothing else of a version that we do not speak. */
	ask_here.w = mc_wire_writer(ask_here.request, sizeof ask_here.request);
	mc_wire_request(&ask_here.w, &head, true);
	r = ask(&ask_here, MC_WIRE_STATS);
	CHECK(r == -EPROTONOSUPPORT && strstr(ask_here.sentence, "speaks 1 to 1"), "STATS of version 2: %d '%s'", r, ask_here.sentence);
	begin(&ask_here, 0, 0);
	r = ask(&ask_here, MC_WIRE_METHOD_END);
	CHECK(r == -ENOSYS && *ask_here.sentence, "no such method: %d '%s'", r, ask_here.sentence);
}

static uint32_t next_random(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

#define FLIGHT 64
#define GARBAGE 12000

/* A request of some kind that is sound, of which one in two then is spoilt. */
static size_t draw(uint8_t *out, size_t cap, uint32_t *method)
{
	struct mc_wire_request head = {.version = 1, .flags = (uint16_t)(next_random() % 64), .count = next_random() % 5, .tenant = ""};
	struct mc_wire w = mc_wire_writer(out, cap);
	struct mc_wire_match match = {.match = next_random() % 2, .pattern = next_random() % 2 ? "(o|b)*[a-z]{1,9}" : "ob", .max = 3};
	size_t len;

	*method = next_random() % (MC_WIRE_METHOD_END + 1);
	if (*method == MC_WIRE_MOUNT || *method == MC_WIRE_LEAVE)
		*method = MC_WIRE_GET;
	head.client = self;
	if (next_random() % 16 == 0)
		head.count = next_random();
	mc_wire_request(&w, &head, true);
	w.broken = false;
	if (*method == MC_WIRE_QUERY || *method == MC_WIRE_REMOVE_MATCH) {
		mc_wire_match(&w, &match);
	} else {
		for (uint32_t i = 0; i < 60 + next_random() % 300 && w.left; i++, w.left--)
			*w.to++ = next_random() % 3 ? (uint8_t)(next_random() % 8) : (uint8_t)next_random();
	}
	len = cap - w.left;
	for (uint32_t i = next_random() % 2 ? next_random() % 4 : 0; i > 0; i--)
		out[next_random() % len] = (uint8_t)next_random();
	return next_random() % 4 ? len : next_random() % (len + 1);
}

/* Garbage in every method, many at once: each is answered, and the master goes on. */
static void case_hostile(void)
{
	static struct ask_slot {
		struct mc_rpc_call call;
		uint8_t request[1024], reply[1 << 16];
	} flight[FLIGHT];
	struct mc_wire_welcome welcome;
	unsigned nr_status[2] = {0};
	int r;

	for (unsigned n = 0; n < GARBAGE; n++) {
		struct ask_slot *s = &flight[n % FLIGHT];
		uint32_t method;
		size_t len;

		if (n >= FLIGHT)
			mc_rpc_wait(rpc, &s->call);
		if (n >= FLIGHT && s->call.status != -EMSGSIZE)
			nr_status[s->call.status < 0]++;
		len = draw(s->request, sizeof s->request, &method);
		s->call = (struct mc_rpc_call){.size = sizeof s->call, .method = method, .data = s->request, .len = len, .reply = s->reply,
					       .reply_cap = sizeof s->reply};
		r = mc_rpc_start(rpc, &s->call, T);
		CHECK(r == 0, "message %u: %d", n, r);
	}
	for (unsigned i = 0; i < FLIGHT; i++) {
		mc_rpc_wait(rpc, &flight[i].call);
		CHECK(flight[i].call.status != -EHOSTDOWN && flight[i].call.status != -ETIMEDOUT, "status %d", flight[i].call.status);
	}
	CHECK(nr_status[0] > 100 && nr_status[1] > 100, "%u answered, %u refused", nr_status[0], nr_status[1]);
	CHECK(waitpid(master, NULL, WNOHANG) == 0, "the master has ended");
	hello(1, 1, &welcome);
	mount();
	put_all();
	look(0);
}

static struct mc_wire *begin_for(struct ask *a, const char *tenant, uint32_t count)
{
	struct mc_wire_request head = {.version = MC_WIRE_VERSION_MAX, .count = count, .client = self, .tenant = tenant};

	a->w = mc_wire_writer(a->request, sizeof a->request);
	mc_wire_request(&a->w, &head, false);
	return &a->w;
}

static void drain(uint32_t on)
{
	uint32_t id = 1;

	mc_wire_number(begin(&ask_here, 0, 0), &id);
	mc_wire_number(&ask_here.w, &on);
	CHECK(ask(&ask_here, MC_WIRE_DRAIN) == 0, "drain: %s", ask_here.sentence);
}

static uint64_t matching(enum mc_wire_method method, const char *pattern, uint64_t *ret_refused)
{
	struct mc_wire_match match = {.match = MC_MASTER_REGEX, .pattern = pattern, .max = 7};
	uint64_t nr = 0;

	do {
		struct mc_wire_removed removed = {0};

		mc_wire_match(begin(&ask_here, 0, 0), &match);
		CHECK(ask(&ask_here, method) == 0, "method %d: %s", method, ask_here.sentence);
		if (method == MC_WIRE_QUERY) {
			mc_wire_amount(&ask_here.w, &match.cursor);
			CHECK(ask_here.head.count <= 7, "%u objects at a time", ask_here.head.count);
			for (uint32_t i = 0; i < ask_here.head.count; i++, nr++) {
				struct mc_master_object o = {.size = sizeof o};

				mc_wire_object(&ask_here.w, &o);
				CHECK(!ask_here.w.broken && o.len == VALUE_LEN && o.complete && o.key.len == 12, "object");
			}
		} else {
			mc_wire_removed(&ask_here.w, &removed);
			match.cursor = removed.cursor;
			nr += removed.removed;
			*ret_refused += removed.refused;
		}
	} while (match.cursor);
	return nr;
}

/* What the cases above do not ask for: each method does what it is called. */
static void case_methods(void)
{
	struct mc_wire_welcome welcome;
	struct mc_master_stats stats = {.size = sizeof stats};
	struct mc_master_segment segment = {.size = sizeof segment};
	struct mc_master_named pinned = {.key = {"object-00003", 12}};
	uint64_t span = MC_FOREVER, refused = 0, quota = 2 * VALUE_LEN, lease;
	uint32_t from = 0;
	int r;

	hello(1, 1, &welcome);
	mount();
	drain(1);
	put_start(0, 1);
	CHECK(wanted[0].status == -ENOSPC && wanted[0].retry_ms, "a put while all is drained: %d", wanted[0].status);
	mc_wire_number(begin(&ask_here, 0, 0), &from);
	CHECK(ask(&ask_here, MC_WIRE_SEGMENTS) == 0 && ask_here.head.count == 1, "segments: %u", ask_here.head.count);
	mc_wire_segment(&ask_here.w, &segment);
	CHECK(segment.state == MC_MASTER_DRAINING && strcmp(segment.engine, "asker") == 0 && segment.base == BASE, "segment");
	drain(0);
	put_all();
	CHECK(matching(MC_WIRE_QUERY, "^object-0000[0-9]$", NULL) == 10, "query");
	mc_wire_amount(begin(&ask_here, 1, 0), &span);
	mc_wire_keys(&ask_here.w, 1, &pinned);
	r = ask(&ask_here, MC_WIRE_PIN);
	mc_wire_statuses(&ask_here.w, 1, &pinned.status, sizeof pinned);
	CHECK(r == 0 && pinned.status == 0, "pin: %d %d", r, pinned.status);
	r = (int)matching(MC_WIRE_REMOVE_MATCH, "^object-0000[0-9]$", &refused);
	CHECK(r == 9 && refused == 1, "removed %d, refused %llu", r, (unsigned long long)refused);
	for (unsigned i = 0; i < 10; i++)
		gots[i] = (struct mc_master_got){.key = name(i, i)};
	mc_wire_gets(begin(&ask_here, 10, 0), 10, gots);
	CHECK(ask(&ask_here, MC_WIRE_EXIST) == 0, "exist: %s", ask_here.sentence);
	mc_wire_gots(&ask_here.w, 10, gots, NULL, &lease);
	CHECK(lease == welcome.lease_ns, "lease %llu", (unsigned long long)lease);
	for (unsigned i = 0; i < 10; i++)
		CHECK(gots[i].status == (i == 3 ? 0 : -ENOENT), "object %u: %d", i, gots[i].status);
	/* A regex that is none is said, not swallowed. */
	mc_wire_match(begin(&ask_here, 0, 0), &(struct mc_wire_match){.match = MC_MASTER_REGEX, .pattern = "(", .max = 1});
	r = ask(&ask_here, MC_WIRE_QUERY);
	CHECK(r == -EINVAL && *ask_here.sentence, "bad regex: %d", r);
	/* Another tenant sees nothing of it, and has its own bound. */
	mc_wire_amount(begin_for(&ask_here, "other", 0), &quota);
	CHECK(ask(&ask_here, MC_WIRE_QUOTA) == 0, "quota: %s", ask_here.sentence);
	mc_wire_gets(begin_for(&ask_here, "other", 1), 1, gots + 3);
	CHECK(ask(&ask_here, MC_WIRE_GET) == 0, "get: %s", ask_here.sentence);
	mc_wire_gots(&ask_here.w, 1, gots, &(struct mc_master_extents){.at = places, .cap = 1}, &lease);
	CHECK(gots[0].status == -ENOENT, "of another tenant: %d", gots[0].status);
	begin(&ask_here, 0, 0);
	r = ask(&ask_here, MC_WIRE_TENANTS);
	CHECK(r == 0 && ask_here.head.count == 2, "tenants: %d, %u", r, ask_here.head.count);
	begin(&ask_here, 0, 0);
	r = ask(&ask_here, MC_WIRE_STATS);
	mc_wire_stats(&ask_here.w, &stats);
	CHECK(r == 0 && stats.nr_objects == NR - 9 && stats.nr_clients == 1 && stats.nr_segments == 1, "stats: %llu objects",
	      (unsigned long long)stats.nr_objects);
	begin(&ask_here, 0, 0);
	CHECK(ask(&ask_here, MC_WIRE_LEAVE) == 0, "leave: %s", ask_here.sentence);
	get(10, 1);
	CHECK(gots[0].status == -ENOENT, "of a client that left: %d", gots[0].status);
	CHECK(put_start(NR, 1) == -ESTALE, "a put of a client that left");
}

#define CROWD 400 /* keys of a batch that the pool takes */
#define CROWDED 32

static struct {
	struct mc_rpc_call call;
	uint8_t request[16384], reply[32768];
	unsigned first;
} crowd[CROWDED];

static void crowd_check(unsigned i)
{
	static struct mc_master_got found[CROWD];
	static struct mc_master_extent at[CROWD];
	struct mc_master_extents extents = {.at = at, .cap = CROWD};
	struct mc_wire w;
	struct mc_wire_reply head;
	uint64_t lease;

	mc_rpc_wait(rpc, &crowd[i].call);
	w = mc_wire_reader(crowd[i].reply, crowd[i].call.reply_len);
	mc_wire_reply(&w, &head);
	mc_wire_gots(&w, CROWD, found, &extents, &lease);
	CHECK(crowd[i].call.status == 0 && !w.broken && head.count == CROWD, "a batch: %d", crowd[i].call.status);
	for (unsigned k = 0; k < CROWD && failures < 20; k++)
		CHECK(found[k].status == 0 && at[found[k].first].offset == where[crowd[i].first + k % BATCH], "object %u: %d",
		      crowd[i].first + k % BATCH, found[k].status);
}

/* So many batches at once that the pool has to help: each answer is that of its own question. */
static void case_crowd(void)
{
	static struct mc_master_got asked[CROWD];
	struct mc_wire_welcome welcome;

	hello(1, 1, &welcome);
	mount();
	put_all();
	for (unsigned n = 0; n < 1000; n++) {
		unsigned i = n % CROWDED, first = n * 37 % (NR - BATCH);
		size_t len;

		if (n >= CROWDED)
			crowd_check(i);
		for (unsigned k = 0; k < CROWD; k++)
			asked[k] = (struct mc_master_got){.key = name(k % BATCH, first + k % BATCH)};
		mc_wire_gets(begin(&ask_here, CROWD, 0), CROWD, asked);
		len = mc_wire_len(&ask_here.w, sizeof ask_here.request);
		memcpy(crowd[i].request, ask_here.request, len);
		crowd[i].first = first;
		crowd[i].call = (struct mc_rpc_call){.size = sizeof crowd[i].call, .method = MC_WIRE_GET, .data = crowd[i].request, .len = len,
						     .reply = crowd[i].reply, .reply_cap = sizeof crowd[i].reply};
		CHECK(mc_rpc_start(rpc, &crowd[i].call, T) == 0, "batch %u", n);
	}
	for (unsigned i = 0; i < CROWDED; i++)
		crowd_check(i);
}

/* Of two masters of one name one serves: one that is started beside it, and one that believes to be alone. */
static void case_two(void)
{
	pid_t other = master_run("other", "ready2");
	struct mc_error err = {0};
	struct mc_wire_welcome welcome;
	int r;

	r = master_end(other, 0);
	CHECK(r == 1, "the second one ended with %d", r);
	hello(1, 1, &welcome);
	r = mc_kv_write(engine, "store/master/mooncake_master", "elsewhere", 9, 0, T, NULL, &err);
	CHECK(r == 0, "%s", err.text);
	r = master_end(master, 0);
	CHECK(r == 1, "who has lost its name ended with %d", r);
	mc_kv_remove(engine, "store/master/mooncake_master", 0, T, NULL);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {{"restart", case_restart}, {"storm", case_storm}, {"versions", case_versions}, {"hostile", case_hostile},
		     {"methods", case_methods}, {"crowd", case_crowd},
		     {"two", case_two}};
	struct mc_error err = {0};

	program = argc > 1 ? argv[1] : "";
	engines_begin();
	engine = engine_new("asker", "{\"*\": [[\"tcp:lo\"]]}");
	for (int i = 2; i < argc; i++) {
		for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
			if (strcmp(argv[i], cases[c].name) != 0)
				continue;
			CHECK(mc_rpc_client_open(engine, "mooncake_master", MC_STORE_SERVICE, &rpc, &err) == 0, "%s", err.text);
			master_start();
			cases[c].run();
			if (waitpid(master, NULL, WNOHANG) == 0) {
				int r = master_end(master, SIGTERM);

				CHECK(r == 0, "%s: the master ended with %d", argv[i], r);
			}
			mc_rpc_client_close(rpc);
			snprintf(text, sizeof text, "rm -rf '%s/kept' '%s/other'", dir, dir);
			CHECK(system(text) == 0, "rm");
		}
	}
	mc_engine_close(engine, T);
	return engines_end();
}
