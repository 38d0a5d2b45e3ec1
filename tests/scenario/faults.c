/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault per case, by the filter `fault` over tcp at the initiator: what the
 * engine promises holds all the same.  Every request ends once, within its bound;
 * those that say "done" have moved their bytes; after the end of a batch nobody
 * touches its memory any more.
 *
 *   faults CASE
 */
#include "patient.h"

#include <stdarg.h>
#include <stdatomic.h>

#define LEN ((size_t)4 << 20)
#define PIECE 65536u
#define NR (LEN / PIECE)
/* Neighbours would be carried as one slice. */
#define PLACE(i) ((i) * 27 % NR * PIECE)
#define BOUND (3 * MC_SEC) /* peer_timeout of both engines */

/* ---- what was logged ------------------------------------------------------------------------- */

static char flips[64][256], named[256]; /* named: the first mismatch that verify named */
static atomic_uint nr_flips, nr_named, nr_unable;

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	const char *at = strstr(line, "flipped bits ");
	unsigned n;

	if (at && (n = atomic_fetch_add(&nr_flips, 1)) < 64)
		snprintf(flips[n], sizeof flips[n], "%s", at);
	at = strstr(line, "has arrived wrong: ");
	if (at && atomic_fetch_add(&nr_named, 1) == 0)
		snprintf(named, sizeof named, "%s", at);
	if (strstr(line, "are not verified: its device"))
		atomic_fetch_add(&nr_unable, 1);
	if (level <= MC_LOG_ERROR || getenv("FAULTS_VERBOSE"))
		fprintf(stderr, "%s\n", line);
}

/* ---- two engines ------------------------------------------------------------------------------- */

struct pair {
	struct mc_engine *a, *b;
	struct mc_segment *s;
	unsigned char *local, *remote;
	atomic_uint calls; /* of the last batch's callback */
};

/* faults: "drop=0.1 drop_nth=3", options of the filter.  target: a setting of the target's, or NULL. */
static struct pair *pair_with(const char *faults, const char *verify, const char *target)
{
	const char *plain[] = {"peer_timeout=3", target, NULL};
	char words[12][64], retries[32];
	const char *settings[20] = {"peer_timeout=3", "transports.tcp.filters=fault", retries};
	struct pair *p = calloc(1, sizeof *p);
	struct mc_error err = {0};
	size_t n = 3;

	/* A rail that is always wrong is left soon. */
	snprintf(retries, sizeof retries, "retry_count=%d", strstr(faults, "flip=1") ? 2 : 1000);
	if (verify)
		settings[n++] = verify;
	for (unsigned i = 0; *faults && i < 12; i++) {
		size_t len = strcspn(faults, " ");

		snprintf(words[i], sizeof words[i], "filters.fault.%.*s", (int)len, faults);
		settings[n++] = words[i];
		faults += len + strspn(faults + len, " ");
	}
	p->b = engine_with("target", plain);
	p->a = engine_with("initiator", settings);
	NEED(mc_memory_alloc(p->a, "cpu:0", LEN, MC_ACCESS_ALL, T, (void **)&p->local, &err) == 0, "%s", err.text);
	NEED(mc_memory_alloc(p->b, "cpu:0", LEN, MC_ACCESS_ALL, T, (void **)&p->remote, &err) == 0, "%s", err.text);
	NEED(mc_segment_open(p->a, "target", T, &p->s, &err) == 0, "%s", err.text);
	return p;
}

static struct pair *pair_new(const char *faults)
{
	return pair_with(faults, NULL, NULL);
}

static void pair_free(struct pair *p)
{
	mc_segment_close(p->s);
	CHECK(mc_engine_close(p->a, T) == 0, "close");
	CHECK(mc_engine_close(p->b, T) == 0, "close");
	free(p);
}

static void fill(unsigned char *p, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < LEN; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static int add_counter(void *ctx, const struct mc_counter *c)
{
	struct {
		const char *name;
		uint64_t value;
	} *sum = ctx;

	if (!strcmp(c->name, sum->name) && !strncmp(c->object, "device ", 7))
		sum->value += c->value;
	return 0;
}

static uint64_t counter(struct mc_engine *e, const char *name)
{
	struct {
		const char *name;
		uint64_t value;
	} sum = {name, 0};

	CHECK(mc_engine_counters(e, add_counter, &sum) == 0, "counters");
	return sum.value;
}

static void called(void *arg, struct mc_batch *batch)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

static int status_of(const struct mc_batch *b, size_t idx)
{
	struct mc_request_status st = {.size = sizeof st};

	CHECK(mc_batch_status(b, idx, &st) == 0, "status");
	return st.state == MC_REQUEST_DONE ? 0 : st.state == MC_REQUEST_FAILED ? st.status : -EINPROGRESS;
}

/* NR pieces, there or back; each has ended, and the callback came once.  How many failed. */
static size_t move_all(struct pair *p, uint32_t opcode, uint64_t deadline_ns, struct mc_batch **ret)
{
	struct mc_request reqs[NR];
	struct mc_batch *b = NULL;
	size_t failed;

	for (size_t i = 0; i < NR; i++)
		reqs[i] = (struct mc_request){.opcode = opcode, .local = p->local + PLACE(i), .segment = p->s,
					      .offset = (uintptr_t)p->remote + PLACE(i), .len = PIECE};
	atomic_store(&p->calls, 0);
	NEED(mc_batch_new(p->a, NR, &b) == 0, "batch");
	mc_batch_set_deadline(b, deadline_ns);
	mc_batch_set_callback(b, called, &p->calls);
	NEED(mc_batch_submit(b, reqs, NR, NULL) == 0, "submit");
	CHECK(mc_batch_wait(b, 6 * T) == 0, "the batch does not end");
	CHECK(mc_batch_poll(b) == NR, "%zu of %zu have ended", mc_batch_poll(b), (size_t)NR);
	CHECK(atomic_load(&p->calls) == 1, "called %u times", atomic_load(&p->calls));
	failed = mc_batch_failed(b);
	if (ret)
		*ret = b;
	else
		mc_batch_free(b);
	return failed;
}

/* Rounds of writes and reads that all succeed, with the right bytes, although the fault has come. */
/* Where two buffers differ, for the message; and which of them is not as it was filled. */
static bool same(const struct pair *p, uint64_t seed)
{
	unsigned char *want = malloc(LEN);
	size_t n[2] = {0}, first[2] = {0}, last[2] = {0};
	const unsigned char *is[2] = {p->local, p->remote};

	fill(want, seed);
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < LEN; i++)
			if (is[k][i] != want[i]) {
				first[k] = n[k]++ ? first[k] : i;
				last[k] = i;
			}
	for (int k = 0; k < 2; k++)
		if (n[k])
			printf("%s: %zu bytes are not as they should be, from %zu to %zu\n", k ? "target" : "local",
			       n[k], first[k], last[k]);
	free(want);
	return !n[0] && !n[1];
}

static void rounds_right(struct pair *p, const char *counted, unsigned rounds)
{
	uint64_t seed = 1;

	for (unsigned i = 0; i < rounds; i++) {
		fill(p->local, seed);
		CHECK(move_all(p, MC_OP_WRITE, 3 * T, NULL) == 0, "a write failed");
		CHECK(same(p, seed), "round %u: wrong bytes were written", i);
		fill(p->remote, ++seed);
		CHECK(move_all(p, MC_OP_READ, 3 * T, NULL) == 0, "a read failed");
		CHECK(same(p, seed), "round %u: wrong bytes were read", i);
		seed++;
	}
	CHECK(counter(p->a, counted) > 0, "%s is 0: nothing was tested", counted);
}

static void all_right(const char *faults, const char *counted, unsigned rounds)
{
	struct pair *p = pair_new(faults);

	rounds_right(p, counted, rounds);
	pair_free(p);
}

/* One slice never ends: at the deadline the fence ends it, in time; what is done is right; nothing comes
 * later; and then all is well. */
static void never_ends(const char *faults, const char *counted, uint32_t opcode)
{
	struct pair *p = pair_new(faults);
	unsigned char *from = opcode == MC_OP_WRITE ? p->local : p->remote;
	unsigned char *to = opcode == MC_OP_WRITE ? p->remote : p->local;
	struct mc_batch *b;
	size_t failed, timed_out = 0;
	uint64_t start = now_ns();

	fill(from, 1);
	memset(to, 0, LEN);
	failed = move_all(p, opcode, 300 * MC_MSEC, &b);
	/* On a busy machine the deadline may come before that slice does. */
	for (int i = 0; i < 20 && counter(p->a, counted) == 0; i++) {
		mc_batch_free(b);
		start = now_ns();
		failed = move_all(p, opcode, 300 * MC_MSEC, &b);
	}
	start = now_ns() - start;
	CHECK(start > 300 * MC_MSEC, "it has ended before its deadline");
	CHECK(start < 300 * MC_MSEC + BOUND * 11 / 10 * SLOW, "it took %llu ms", (unsigned long long)(start / MC_MSEC));
	for (size_t i = 0; i < NR; i++) {
		int r = status_of(b, i);

		timed_out += r == -ETIMEDOUT;
		CHECK(r == 0 || r == -ETIMEDOUT, "%d", r);
		CHECK(r != 0 || !memcmp(from + PLACE(i), to + PLACE(i), PIECE), "request %zu says done", i);
	}
	CHECK(failed && failed == timed_out, "%zu failed", failed);
	mc_batch_free(b);
	CHECK(counter(p->a, counted) == 1, "%s: %llu", counted, (unsigned long long)counter(p->a, counted));
	memset(to, 0x5a, LEN);
	nap(100 * MC_MSEC);
	for (size_t i = 0; i < LEN; i++)
		if (to[i] != 0x5a) {
			CHECK(false, "a ghost wrote at %zu", i);
			break;
		}
	fill(from, 2);
	failed = move_all(p, opcode, T, &b);
	CHECK(failed == 0, "afterwards %zu of %zu have failed", failed, (size_t)NR);
	for (size_t i = 0; i < NR; i++)
		CHECK(status_of(b, i) == 0, "afterwards, request %zu: %d", i, status_of(b, i));
	mc_batch_free(b);
	CHECK(failed || !memcmp(from, to, LEN), "afterwards: other bytes");
	pair_free(p);
}

static void drop(void)
{
	never_ends("drop_nth=5", "fault_drop", MC_OP_WRITE);
	never_ends("drop_nth=5", "fault_drop", MC_OP_READ);
}

static void lose(void)
{
	never_ends("lose_nth=7", "fault_lose", MC_OP_WRITE);
	never_ends("lose_nth=7", "fault_lose", MC_OP_READ);
}

/* Of scope peer a failure is tried again, of scope request it is the request's end. */
static void fails(void)
{
	struct pair *p;
	struct mc_batch *b;
	size_t denied = 0;

	all_right("fail_nth=3 fail=0.01", "fault_fail", 2);
	p = pair_new("fail_nth=3 fail_scope=request fail_status=eacces");
	fill(p->local, 1);
	CHECK(move_all(p, MC_OP_WRITE, T, &b) == 1, "%zu failed", mc_batch_failed(b));
	for (size_t i = 0; i < NR; i++) {
		denied += status_of(b, i) == -EACCES;
		CHECK(status_of(b, i) != 0 || !memcmp(p->local + PLACE(i), p->remote + PLACE(i), PIECE), "%zu", i);
	}
	CHECK(denied == 1, "%zu were denied", denied);
	mc_batch_free(b);
	pair_free(p);
}

static void shorten(void)
{
	all_right("shorten_nth=3 shorten=0.01", "fault_shorten", 2);
}

static void kill_stream(void)
{
	all_right("kill_nth=10 kill=0.01", "fault_kill", 3);
}

static void stall(void)
{
	struct pair *p = pair_new("stall_nth=20 stall_time=300ms");
	uint64_t start;

	fill(p->local, 1);
	start = now_ns();
	CHECK(move_all(p, MC_OP_WRITE, T, NULL) == 0 && !memcmp(p->local, p->remote, LEN), "writes");
	start = now_ns() - start;
	CHECK(start >= 300 * MC_MSEC, "it took %llu ms", (unsigned long long)(start / MC_MSEC));
	CHECK(counter(p->a, "fault_stall") == 1, "no stall");
	pair_free(p);
	/* Longer than the deadline: the fence ends them, held or not. */
	p = pair_new("stall_nth=20 stall_time=3");
	start = now_ns();
	CHECK(move_all(p, MC_OP_WRITE, 300 * MC_MSEC, NULL) > 0, "nothing failed");
	start = now_ns() - start;
	CHECK(start < 300 * MC_MSEC + BOUND * 11 / 10 * SLOW, "it took %llu ms", (unsigned long long)(start / MC_MSEC));
	memset(p->remote, 0x5a, LEN);
	nap(100 * MC_MSEC);
	for (size_t i = 0; i < LEN; i++)
		if (p->remote[i] != 0x5a) {
			CHECK(false, "a ghost wrote at %zu", i);
			break;
		}
	pair_free(p);
}

static void delay(void)
{
	struct pair *p = pair_new("delay=1 delay_time=100ms");
	uint64_t start;

	fill(p->local, 1);
	start = now_ns();
	CHECK(move_all(p, MC_OP_WRITE, T, NULL) == 0 && !memcmp(p->local, p->remote, LEN), "writes");
	start = now_ns() - start;
	CHECK(start >= 100 * MC_MSEC, "it took %llu ms", (unsigned long long)(start / MC_MSEC));
	pair_free(p);
	all_right("delay=0.3 delay_time=3ms", "fault_delay", 2);
	all_right("hold=0.3 hold_time=3ms", "fault_hold", 2);
	/* Cancelled and past its deadline while it is held. */
	never_ends("hold_nth=5 hold_time=10min", "fault_hold", MC_OP_WRITE);
}

static void reorder(void)
{
	all_right("reorder=0.3", "fault_reorder", 5);
}

/* Exactly the bits that were said are wrong, and none of the source. */
static void flip(void)
{
	struct pair *p = pair_new("flip_nth=3 flip=0.02");
	unsigned char *want = malloc(LEN);
	uint64_t seed = 1;

	mc_log_set_level(MC_LOG_INFO);
	for (unsigned round = 0; round < 6; round++) {
		uint32_t opcode = round % 2 ? MC_OP_READ : MC_OP_WRITE;
		unsigned char *from = opcode == MC_OP_WRITE ? p->local : p->remote;
		unsigned char *to = opcode == MC_OP_WRITE ? p->remote : p->local;

		fill(from, seed++);
		memcpy(want, from, LEN);
		atomic_store(&nr_flips, 0);
		CHECK(move_all(p, opcode, T, NULL) == 0, "it failed");
		CHECK(!memcmp(want, from, LEN), "the source was touched");
		CHECK(round || atomic_load(&nr_flips), "no flip");
		for (unsigned i = 0; i < atomic_load(&nr_flips) && i < 64; i++) {
			unsigned mask;
			unsigned long long at;

			NEED(sscanf(flips[i], "flipped bits 0x%x of the byte at 0x%llx", &mask, &at) == 2, "%s",
			     flips[i]);
			want[at - (uintptr_t)p->remote] ^= (unsigned char)mask;
		}
		CHECK(!memcmp(want, to, LEN), "round %u: other bits than those that were said", round);
	}
	free(want);
	pair_free(p);
}

/* The one bit that was flipped is named, by its address; it is repaired; nobody above notices. */
static void verify_one(uint32_t opcode)
{
	struct pair *p = pair_with("flip_nth=7", "verify=full", "verify=full");
	unsigned char *from = opcode == MC_OP_WRITE ? p->local : p->remote;
	unsigned char *to = opcode == MC_OP_WRITE ? p->remote : p->local;
	unsigned long long at, at_named = 0;
	unsigned mask, mask_named = 0;
	const char *bits;

	atomic_store(&nr_flips, 0);
	atomic_store(&nr_named, 0);
	fill(from, 1);
	CHECK(move_all(p, opcode, T, NULL) == 0 && !memcmp(from, to, LEN), "wrong bytes");
	CHECK(atomic_load(&nr_flips) == 1 && atomic_load(&nr_named) == 1, "%u flips, %u named",
	      atomic_load(&nr_flips), atomic_load(&nr_named));
	NEED(sscanf(flips[0], "flipped bits 0x%x of the byte at 0x%llx", &mask, &at) == 2, "%s", flips[0]);
	NEED(sscanf(named, "has arrived wrong: the byte at 0x%llx", &at_named) == 1, "%s", named);
	bits = strstr(named, "(bits 0x");
	NEED(bits && sscanf(bits, "(bits 0x%x)", &mask_named) == 1, "%s", named);
	CHECK(at == at_named && mask == mask_named, "0x%02x at 0x%llx was flipped: %s", mask, at, named);
	CHECK(counter(p->a, "checksum_mismatches") == 1 && counter(p->a, "checksum_repaired") == 1, "counters");
	CHECK(counter(p->a, "checksum_verified") == NR, "%llu verified",
	      (unsigned long long)counter(p->a, "checksum_verified"));
	pair_free(p);
}

static void verify(void)
{
	struct pair *p;
	struct mc_batch *b;

	mc_log_set_level(MC_LOG_INFO);
	verify_one(MC_OP_WRITE);
	verify_one(MC_OP_READ);
	/* Many, among other faults: all is repaired. */
	p = pair_with("flip=0.05 kill=0.002 delay=0.1 reorder=0.1", "verify=full", "verify=full");
	rounds_right(p, "checksum_repaired", 3);
	pair_free(p);
	/* All of them, always: tried again, boundedly, then the failure has a name. */
	p = pair_with("flip=1", "verify=full", "verify=sampled");
	mc_log_set_level(MC_LOG_ERROR);
	NEED(mc_batch_new(p->a, 1, &b) == 0 && mc_batch_submit(b, &(struct mc_request){
		.opcode = MC_OP_WRITE, .local = p->local, .segment = p->s, .offset = (uintptr_t)p->remote,
		.len = PIECE}, 1, NULL) == 0, "submit");
	CHECK(mc_batch_wait(b, 3 * T) == 0 && status_of(b, 0) == -EBADMSG, "%d", status_of(b, 0));
	CHECK(counter(p->a, "checksum_failed") == 3, "failed on the rail %llu times",
	      (unsigned long long)counter(p->a, "checksum_failed"));
	mc_batch_free(b);
	pair_free(p);
}

/* A share of them; and a peer without it is named, once. */
static void verify_some(void)
{
	struct pair *p = pair_with("", "verify=sampled", "verify=full");
	uint64_t n;

	mc_log_set_level(MC_LOG_INFO);
	for (int i = 0; i < 10; i++)
		CHECK(move_all(p, MC_OP_WRITE, T, NULL) == 0, "a write failed");
	n = counter(p->a, "checksum_verified");
	CHECK(n > 0 && n < 10 * NR / 2, "%llu were verified", (unsigned long long)n);
	pair_free(p);
	atomic_store(&nr_unable, 0);
	p = pair_with("kill_nth=9", "verify=full", NULL);
	rounds_right(p, "checksum_unverified", 2);
	CHECK(atomic_load(&nr_unable) == 1, "said %u times", atomic_load(&nr_unable));
	CHECK(counter(p->a, "checksum_verified") == 0, "verified by whom?");
	pair_free(p);
}

/* Several at once, again and again. */
static void storm(void)
{
	all_right("seed=3 fail=0.003 shorten=0.003 kill=0.003 delay=0.1 hold=0.1 reorder=0.2 stall=0.003 "
		  "stall_time=20ms", "fault_delay", 3);
}

/* One request after the other: the same seed disturbs the same ones. */
static void seed_run(const char *faults, int *ret_status)
{
	struct pair *p = pair_new(faults);

	for (size_t i = 0; i < NR; i++) {
		struct mc_request req = {.opcode = MC_OP_WRITE, .local = p->local, .segment = p->s,
					 .offset = (uintptr_t)p->remote, .len = 100};
		struct mc_batch *b = NULL;

		NEED(mc_batch_new(p->a, 1, &b) == 0 && mc_batch_submit(b, &req, 1, NULL) == 0, "submit");
		CHECK(mc_batch_wait(b, T) == 0, "wait");
		ret_status[i] = status_of(b, 0);
		mc_batch_free(b);
	}
	pair_free(p);
}

static void seed(void)
{
	int first[NR], again[NR], other[NR];

	seed_run("seed=11 fail=0.3 fail_scope=request", first);
	seed_run("seed=11 fail=0.3 fail_scope=request", again);
	seed_run("seed=12 fail=0.3 fail_scope=request", other);
	CHECK(!memcmp(first, again, sizeof first), "the same seed decided otherwise");
	CHECK(memcmp(first, other, sizeof first), "another seed decided the same");
}

/* A plan that is not for this peer, or this device, does nothing. */
static void spared(void)
{
	static const char *const plans[] = {"fail=1 fail_scope=request peer=oth*", "fail=1 fail_scope=request device=eth*",
					    "fail=1 fail_scope=request ops=read", "fail=1 fail_scope=request after=100", ""};

	for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
		struct pair *p = pair_new(plans[i]);

		fill(p->local, i);
		CHECK(move_all(p, MC_OP_WRITE, T, NULL) == 0 && !memcmp(p->local, p->remote, LEN), "%s", plans[i]);
		pair_free(p);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{"drop", drop}, {"lose", lose}, {"fail", fails}, {"shorten", shorten}, {"flip", flip},
		{"kill", kill_stream}, {"stall", stall}, {"delay", delay}, {"reorder", reorder},
		{"verify", verify}, {"verify-some", verify_some}, {"storm", storm}, {"seed", seed}, {"spared", spared},
	};

	for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++) {
		if (strcmp(argv[1], cases[i].name))
			continue;
		engines_begin();
		mc_log_set_handler(on_log, NULL);
		cases[i].run();
		return engines_end();
	}
	fprintf(stderr, "usage: %s CASE\n", argv[0]);
	return 2;
}
