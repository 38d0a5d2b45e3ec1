/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hosts with two cables (tests/lab/two-hosts): a cable is pulled, the other host freezes,
 * loses its power and is started again.  Beside it is a peer on this host, by a cable of
 * its own (tests/lab/rails), which must not notice.
 *
 *   rdma-hosts serve             on host b, until the folder LAB_SHARE has `end`
 *   rails 1 rdma-hosts CASE...   on host a
 */
#include "cables.h"
#include "hosts.h"

/* Seconds of silence after which a peer is gone. */
#define BOUND (4 * MC_SEC)
#define TIMEOUT "peer_timeout=4"

static struct mc_engine *engine;
static struct traffic beside;
static struct peer other;

static struct mc_engine *engine_at(const char *name, const char *addresses, const char *devices)
{
	char metadata[200], advertise[100], matrix[200];

	snprintf(metadata, sizeof metadata, "metadata_server=file://%s/metadata", share);
	snprintf(advertise, sizeof advertise, "advertise_address=%s", addresses);
	snprintf(matrix, sizeof matrix, "nic_priority_matrix={\"*\": [[%s]]}", devices);
	return engine_with(name, (const char *const[]){metadata, advertise, matrix, TIMEOUT, NULL});
}

/* ---- host b -------------------------------------------------------------------------------------------- */

static int serve(void)
{
	struct mc_engine *e = engine_at("far", "10.88.0.2,10.88.1.2", "\"rdma:rxe0\", \"rdma:rxe1\"");

	memory_new(e, PEER_LEN);
	shared_write("ready", "");
	while (!shared("end"))
		nap(100 * MC_MSEC);
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

/* ---- host a -------------------------------------------------------------------------------------------- */

static void host_ready(void)
{
	uint64_t end = now_ns() + 2 * PATIENCE; /* its machine starts anew */

	while (!shared("ready")) {
		NEED(now_ns() < end, "the other host does not come up");
		nap(20 * MC_MSEC);
	}
}

static uint64_t far_base(struct mc_segment *s)
{
	struct mc_buffer_info info = {.size = sizeof info};

	NEED(mc_segment_buffer(s, 0, &info) == 0, "buffer");
	return info.offset;
}

/* From now on; and what came of it. */
static unsigned beside_mark(void)
{
	atomic_store(&beside.longest, 0);
	return atomic_load(&beside.rounds);
}

static void beside_check(const char *what, unsigned mark)
{
	unsigned rounds = atomic_load(&beside.rounds) - mark;
	uint64_t longest = atomic_load(&beside.longest);

	printf("%s: the other peer: %u rounds, the longest took %llu ms\n", what, rounds,
	       (unsigned long long)(longest / MC_MSEC));
	CHECK(rounds >= 5 && longest < BOUND / 2, "%s: the other peer was held up", what);
}

static void pulled(void)
{
	struct traffic t;
	uint64_t stall;
	unsigned ms;

	traffic_start(&t, engine, "far", PEER_LEN / 4, 0);
	traffic_goes_on(&t, 5, "pulled");
	carries(engine, "rdma:rxe0", 1 << 18, "pulled");
	wish("pull 0");
	stall = traffic_goes_on(&t, 10, "pulled");
	wish("plug 0");
	ms = carries(engine, "rdma:rxe0", 1 << 18, "plugged");
	printf("pulled: a round took %llu ms at most; used again after %u ms\n", (unsigned long long)(stall / MC_MSEC), ms);
	CHECK(stall < BOUND, "a stall of %llu ms", (unsigned long long)(stall / MC_MSEC));
	CHECK(ms < 10000, "used again after %u ms", ms);
	traffic_end(&t, "pulled");
}

/* The host goes in the middle of a batch: an error with a type, in time; nobody else notices. */
static void host_goes(const char *how)
{
	enum { NR = 1024 };
	struct mc_segment *s = segment_new(engine, "far");
	unsigned char *local = memory_new(engine, PEER_LEN);
	unsigned typed = 0, mark;
	struct mc_batch *b;
	uint64_t start;

	memset(local, 1, PEER_LEN);
	b = submit_many(engine, MC_OP_WRITE, local, s, far_base(s), PEER_LEN, NR, 1 << 20, 6 * T);
	nap(100 * MC_MSEC);
	wish(how);
	start = now_ns();
	mark = beside_mark();
	CHECK(mc_batch_wait(b, 6 * T) == 0, "wait");
	printf("%s: over after %llu ms\n", how, (unsigned long long)((now_ns() - start) / MC_MSEC));
	/* Of the bound and 10 %, and as much again for a machine that is emulated on a busy one. */
	CHECK(now_ns() - start < BOUND * 22 / 10, "too late");
	beside_check(how, mark);
	for (size_t i = 0; i < NR; i++)
		typed += status_of(b, i) == -EHOSTDOWN;
	CHECK(typed && typed == mc_batch_failed(b), "%u typed of %zu failed", typed, mc_batch_failed(b));
	mc_batch_free(b);
	mc_segment_close(s);
	CHECK(mc_memory_free(engine, local, T, NULL) == 0, "free");
}

/* It is used again as it is. */
static void host_is_back(const char *what)
{
	struct mc_segment *s = NULL;
	struct mc_error err = {0};
	uint64_t start = now_ns();
	struct traffic t;

	while (mc_segment_open(engine, "far", T, &s, &err) < 0) {
		NEED(now_ns() < start + 2 * PATIENCE, "%s: %s", what, err.text);
		nap(100 * MC_MSEC);
	}
	mc_segment_close(s);
	traffic_start(&t, engine, "far", PEER_LEN / 4, 0);
	traffic_goes_on(&t, 3, what);
	printf("%s: three rounds after %llu ms\n", what, (unsigned long long)((now_ns() - start) / MC_MSEC));
	traffic_end(&t, what);
}

static void frozen(void)
{
	host_goes("stop b");
	nap(BOUND);
	wish("cont b");
	host_is_back("frozen");
}

static void powerless(void)
{
	char path[200];

	host_goes("kill b");
	snprintf(path, sizeof path, "%s/ready", share);
	NEED(unlink(path) == 0, "%s", path);
	wish("boot b");
	host_ready();
	host_is_back("powerless");
}

static const struct promise cases[] = {{"pulled", pulled}, {"frozen", frozen}, {"powerless", powerless}};

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	printf("  %llu: %s\n", (unsigned long long)(now_ns() / MC_MSEC), line);
}

static void beside_start(void)
{
	char metadata[200];

	snprintf(metadata, sizeof metadata, "metadata_server=file://%s/metadata", share);
	peer_start(&other, "other",
		   (const char *const[]){metadata, TIMEOUT, "nic_priority_matrix={\"*\": [[\"rdma:rb0\"]]}", NULL});
	traffic_start(&beside, engine, "other", PEER_LEN / 16, 20 * MC_MSEC);
}

int main(int argc, char **argv)
{
	share = getenv("LAB_SHARE");
	NEED(share, "to be run by tests/lab/two-hosts");
	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	engines_begin();
	mc_log_set_level(MC_LOG_INFO);
	mc_log_set_handler(on_log, NULL);
	host_ready();
	engine = engine_at("near", "10.88.0.1,10.88.1.1", "\"rdma:rxe0\", \"rdma:rxe1\", \"rdma:ra0\"");
	beside_start();
	cases_run(argc, argv, cases, sizeof cases / sizeof *cases);
	traffic_end(&beside, "the other peer");
	CHECK(mc_engine_close(engine, T) == 0, "close");
	mc_log_set_handler(NULL, NULL);
	peer_end(&other);
	shared_write("end", "");
	return engines_end();
}
