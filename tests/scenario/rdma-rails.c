/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One peer, reached over one, two and four cables with an RDMA device at each end, which go
 * and come back in every way that a cable or a device has: no byte is wrong, no request
 * fails while there is a way, and the way that came back is used again.
 *
 *   rails 4 rdma-rails CASE...
 */
#include "cables.h"

/* Seconds of silence after which a peer is gone; its control connection does not use the cables. */
#define TIMEOUT "peer_timeout=4"
/* The promise is 2 s and 5 s; twice as long where two processors emulate this machine and others work. */
#define STALL (4 * MC_SEC)
#define RETURN_MS 10000u

/* What traffic moves in a round, each way; rails hold little, so that all have a part of it. */
#define LEN (PEER_LEN / 2)
#define WINDOW "rail_window=200us"

static struct mc_engine *engine;
static struct peer far;
static const char *near_more; /* a further setting of the near end */

/* {"*": [["rdma:ra0", "rdma:ra1"], LOWER]} */
static void matrix(char *buf, size_t cap, char end, unsigned nr, const char *lower)
{
	size_t n = (size_t)snprintf(buf, cap, "nic_priority_matrix={\"*\": [[");

	for (unsigned i = 0; i < nr; i++)
		n += (size_t)snprintf(buf + n, cap - n, "%s\"rdma:r%c%u\"", i ? ", " : "", end, i);
	snprintf(buf + n, cap - n, "]%s]}", lower);
}

/* Two engines with nr rails between them. */
static void pair_open(const char *name, unsigned nr, const char *lower)
{
	char mine[256], theirs[256], near_name[64];

	matrix(mine, sizeof mine, 'a', nr, lower);
	matrix(theirs, sizeof theirs, 'b', nr, lower);
	snprintf(near_name, sizeof near_name, "near-%s", name);
	memset(&far, 0, sizeof far);
	peer_start(&far, name, (const char *const[]){TIMEOUT, theirs, NULL});
	engine = engine_with(near_name, (const char *const[]){TIMEOUT, WINDOW, mine, near_more, NULL});
}

static void pair_close(void)
{
	CHECK(mc_engine_close(engine, T) == 0, "close");
	peer_end(&far);
}

static const char *device(unsigned i)
{
	static const char *const names[] = {"rdma:ra0", "rdma:ra1", "rdma:ra2", "rdma:ra3"};

	return names[i];
}

/* ---- all is well ----------------------------------------------------------------------------------- */

/* Each of the rails has its part. */
static void spread(unsigned nr)
{
	uint64_t all = 0, bytes[4];
	struct traffic t;
	char name[16];

	snprintf(name, sizeof name, "far%u", nr);
	pair_open(name, nr, "");
	traffic_start(&t, engine, name, LEN, 0);
	for (unsigned i = 0; i < nr; i++)
		carries(engine, device(i), 1, name);
	for (unsigned i = 0; i < nr; i++)
		bytes[i] = carried(engine, device(i));
	traffic_goes_on(&t, 6, name);
	traffic_end(&t, name);
	for (unsigned i = 0; i < nr; i++) {
		bytes[i] = carried(engine, device(i)) - bytes[i];
		all += bytes[i];
	}
	for (unsigned i = 0; i < nr; i++) {
		printf("%u rails: %s carried %llu of %llu bytes\n", nr, device(i), (unsigned long long)bytes[i],
		       (unsigned long long)all);
		CHECK(bytes[i] * nr * 5 > all, "%s is hardly used", device(i));
	}
	CHECK(count(engine, "engine", "failures") == 0, "slices failed");
	pair_close();
}

static void one(void)
{
	spread(1);
}

static void two(void)
{
	spread(2);
}

static void four(void)
{
	spread(4);
}

/* ---- one of two goes ------------------------------------------------------------------------------- */

/* Of two rails the first goes while it is used, in some way, and comes back. */
static void goes(const char *what, void (*cut)(unsigned), void (*heal)(unsigned))
{
	struct traffic t;
	uint64_t usual, stall, silent;
	unsigned ms;

	pair_open(what, 2, "");
	traffic_start(&t, engine, what, LEN, 0);
	traffic_goes_on(&t, 2, what);
	usual = traffic_goes_on(&t, 5, what);
	carries(engine, device(0), 1 << 20, what);
	cut(0);
	stall = traffic_goes_on(&t, 5, what);
	silent = carried(engine, device(0));
	traffic_goes_on(&t, 5, what);
	CHECK(carried(engine, device(0)) == silent, "%s: %llu bytes went over a cable that is cut", what,
	      (unsigned long long)(carried(engine, device(0)) - silent));
	heal(0);
	ms = carries(engine, device(0), 1 << 20, what);
	printf("%s: a round took %llu ms at most, %llu ms when the rail was cut; used again %u ms after it was back\n",
	       what, (unsigned long long)(usual / MC_MSEC), (unsigned long long)(stall / MC_MSEC), ms);
	CHECK(stall < STALL, "%s: a stall of %llu ms", what, (unsigned long long)(stall / MC_MSEC));
	CHECK(ms < RETURN_MS, "%s: used again after %u ms", what, ms);
	traffic_end(&t, what);
	pair_close();
}

static void link_down(void)
{
	goes("link-down", cable_down, cable_up);
}

static void deaf(void)
{
	goes("deaf", cable_deaf, cable_heal);
}

/* ---- what arrives late ------------------------------------------------------------------------------ */

#define LATE (5 * MC_SEC) /* longer than it takes to give a silent rail up */

static void one_way(char end, const char *how)
{
	NEED(fprintf(cable_tc, "qdisc replace dev e%c0 root netem " CABLE_WELL " %s\n", end, how) > 0 &&
	     fflush(cable_tc) == 0, "tc has ended");
	nap(300 * MC_MSEC); /* it obeys meanwhile */
}

/* A batch of which the first rail has a part: its device was given more requests than before. */
static struct mc_batch *submit_on(uint32_t op, unsigned char *local, struct mc_segment *s, uint64_t before)
{
	for (unsigned tries = 0; tries < 100; tries++) {
		struct mc_batch *b = submit_many(engine, op, local, s, far.base, LEN, LEN >> 16, 1 << 16, PATIENCE);

		while (count(engine, "device rdma:ra0", "requests") == before)
			if (mc_batch_wait(b, 10 * MC_MSEC) == 0)
				break;
		if (count(engine, "device rdma:ra0", "requests") > before)
			return b;
		mc_batch_free(b);
	}
	NEED(false, "late: the rail is not used");
	return NULL;
}

/* The end's packets on the first rail take LATE while data goes that way.  The rail is given up and the other one
 * does the work; when the packets arrive all is over, and they change nothing (P2).  The device itself would try
 * for half a minute. */
static void late_from(char end, uint32_t op, unsigned char *local, struct mc_segment *s)
{
	unsigned char *to = op == MC_OP_WRITE ? far.mem : local;
	uint64_t start, from = carried(engine, device(0)), suspects, posted, took;
	struct mc_batch *b;

	while (carried(engine, device(0)) < from + (1 << 20))
		NEED(move_one(engine, op, local, s, far.base, LEN, PATIENCE) == 0, "late: it does not work");
	suspects = count(engine, "device rdma:ra0", "endpoints_suspect");
	posted = count(engine, "device rdma:ra0", "requests");
	one_way(end, "delay 5s");
	memset(to, 0, LEN);
	b = submit_on(op, local, s, posted);
	start = now_ns();
	/* A target that is stopped cannot say that its half is dead, and its memory is in reach all the same. */
	if (op == MC_OP_WRITE) {
		peer_signal(&far, SIGSTOP);
		CHECK(mc_batch_wait(b, 1800 * MC_MSEC) == -ETIMEDOUT, "late: tried again before the target has said a word");
		peer_signal(&far, SIGCONT);
	}
	CHECK(mc_batch_wait(b, PATIENCE) == 0 && !mc_batch_failed(b), "late: %zu requests failed", mc_batch_failed(b));
	took = now_ns() - start;
	mc_batch_free(b);
	memset(to, GUARD, LEN);
	CHECK(count(engine, "device rdma:ra0", "endpoints_suspect") > suspects, "late: nobody was suspected");
	printf("late: %s over after %llu ms%s\n", op == MC_OP_WRITE ? "writes" : "reads",
	       (unsigned long long)(took / MC_MSEC), took < LATE ? "" : ": too slow to tell anything");
	if (took < LATE)
		nap(LATE + MC_SEC - took);
	CHECK(guard_holds(to, LEN), "late: bytes that were under way have arrived");
	one_way(end, "delay 0ms");
}

static void late(void)
{
	struct mc_segment *s;
	unsigned char *local;

	near_more = "transports.rdma.timeout=20";
	pair_open("late", 2, "");
	near_more = NULL;
	s = segment_new(engine, "late");
	local = memory_new(engine, LEN);
	memset(local, 1, LEN);
	late_from('a', MC_OP_WRITE, local, s);
	late_from('b', MC_OP_READ, local, s);
	mc_segment_close(s);
	pair_close();
}

/* Not every packet arrives: slow, and no more than that. */
static void lossy(void)
{
	uint64_t longest;
	struct traffic t;

	pair_open("lossy", 2, "");
	traffic_start(&t, engine, "lossy", LEN, 0);
	traffic_goes_on(&t, 3, "lossy");
	cable_netem(0, "loss 5%");
	cable_netem(1, "loss 5%");
	longest = traffic_goes_on(&t, 4, "lossy");
	cable_heal(0);
	cable_heal(1);
	printf("5 %% loss: a round took %llu ms at most\n", (unsigned long long)(longest / MC_MSEC));
	traffic_goes_on(&t, 3, "lossy");
	traffic_end(&t, "lossy");
	pair_close();
}

/* The device is taken away, and says nothing for ever: who deletes it waits for us to let go. */
static bool exists(const char *format, unsigned i)
{
	char path[96];

	snprintf(path, sizeof path, format, i);
	return access(path, F_OK) == 0;
}

static void deleted(void)
{
	uint64_t stall, start;
	struct traffic t;

	pair_open("deleted", 2, "");
	traffic_start(&t, engine, "deleted", LEN, 0);
	traffic_goes_on(&t, 3, "deleted");
	carries(engine, device(1), 1 << 20, "deleted");
	start = now_ns();
	NEED(sh("ip link delete ea1 &") == 0, "ip");
	stall = traffic_goes_on(&t, 20, "deleted");
	while (exists("/sys/class/net/ea%u", 1) || exists("/sys/class/infiniband/ra%u", 1) ||
	       exists("/sys/class/infiniband/rb%u", 1)) {
		NEED(now_ns() < start + PATIENCE, "the deleted device is held on to: ea1 %d, ra1 %d, rb1 %d",
		     exists("/sys/class/net/ea%u", 1), exists("/sys/class/infiniband/ra%u", 1),
		     exists("/sys/class/infiniband/rb%u", 1));
		nap(10 * MC_MSEC);
	}
	printf("deleted: a round took %llu ms at most; gone after %llu ms\n", (unsigned long long)(stall / MC_MSEC),
	       (unsigned long long)((now_ns() - start) / MC_MSEC));
	CHECK(stall < STALL, "a stall of %llu ms", (unsigned long long)(stall / MC_MSEC));
	traffic_goes_on(&t, 10, "deleted");
	traffic_end(&t, "deleted");
	pair_close();
}

/* ---- all of them go -------------------------------------------------------------------------------- */

/* Another way is there: it is taken, and left again. */
static void all_tcp(void)
{
	struct traffic t;
	uint64_t stall;
	unsigned ms;

	pair_open("all-tcp", 2, ", [\"tcp:lo\"]");
	traffic_start(&t, engine, "all-tcp", LEN, 0);
	traffic_goes_on(&t, 5, "all-tcp");
	CHECK(carried(engine, "tcp:lo") == 0, "the lower tier was used without need");
	cable_down(0);
	cable_deaf(1);
	stall = traffic_goes_on(&t, 6, "all-tcp");
	CHECK(carried(engine, "tcp:lo") > 2 << 20, "not over tcp");
	cable_up(0);
	cable_heal(1);
	ms = carries(engine, device(0), 1 << 20, "all-tcp");
	carries(engine, device(1), 1 << 20, "all-tcp");
	printf("all cut: a round took %llu ms at most; rdma again after %u ms\n", (unsigned long long)(stall / MC_MSEC),
	       ms);
	CHECK(stall < STALL, "a stall of %llu ms", (unsigned long long)(stall / MC_MSEC));
	CHECK(ms < RETURN_MS, "rdma again after %u ms", ms);
	traffic_end(&t, "all-tcp");
	pair_close();
}

/* There is none: an error with a type by the deadline, no ghost, and all is well when they are back. */
static void all_none(void)
{
	enum { NR = 1024 };
	const uint64_t deadline = 3 * MC_SEC;
	struct mc_segment *s;
	struct mc_batch *b;
	struct traffic t;
	unsigned char *local;
	unsigned typed = 0;
	uint64_t start;
	int r;

	pair_open("all-none", 2, "");
	s = segment_new(engine, "all-none");
	local = memory_new(engine, PEER_LEN);
	memset(local, 1, PEER_LEN);
	CHECK(move_one(engine, MC_OP_WRITE, local, s, far.base, PEER_LEN, T) == 0, "write");
	start = now_ns();
	b = submit_many(engine, MC_OP_WRITE, local, s, far.base, PEER_LEN, NR, 1 << 20, deadline);
	nap(50 * MC_MSEC);
	cable_down(0);
	cable_deaf(1);
	CHECK(mc_batch_wait(b, PATIENCE) == 0, "wait");
	printf("all cut, no tcp: over after %llu ms, of which %llu were given\n",
	       (unsigned long long)((now_ns() - start) / MC_MSEC), (unsigned long long)(deadline / MC_MSEC));
	/* At the deadline fencing begins; both ends answer over the control channel, which is well. */
	CHECK(now_ns() - start < deadline + 4 * MC_SEC, "too late");
	for (size_t i = 0; i < NR; i++) {
		r = status_of(b, i);
		typed += r == -ETIMEDOUT || r == -ENETDOWN || r == -EHOSTUNREACH;
	}
	CHECK(typed && typed == mc_batch_failed(b), "%u typed of %zu failed, the last with %d", typed, mc_batch_failed(b),
	      status_of(b, NR - 1));
	mc_batch_free(b);
	memset(far.mem, GUARD, PEER_LEN);
	cable_up(0);
	cable_heal(1);
	nap(MC_SEC);
	CHECK(guard_holds(far.mem, PEER_LEN), "a ghost wrote");
	mc_segment_close(s);
	start = now_ns();
	traffic_start(&t, engine, "all-none", LEN, 0);
	traffic_goes_on(&t, 3, "all-none");
	printf("well again %llu ms later\n", (unsigned long long)((now_ns() - start) / MC_MSEC));
	traffic_end(&t, "all-none");
	pair_close();
}

static const struct promise cases[] = {
	{"one", one},	{"two", two},	  {"four", four},	{"link-down", link_down}, {"deaf", deaf},
	{"late", late},	  {"lossy", lossy}, {"all-tcp", all_tcp}, {"all-none", all_none},   {"deleted", deleted},
};

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	printf("  %llu: %s\n", (unsigned long long)(now_ns() / MC_MSEC), line);
}

int main(int argc, char **argv)
{
	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	engines_begin();
	mc_log_set_level(MC_LOG_DEBUG);
	mc_log_set_handler(on_log, NULL);
	cables_begin(4);
	cases_run(argc, argv, cases, sizeof cases / sizeof *cases);
	cables_end();
	mc_log_set_handler(NULL, NULL);
	return engines_end();
}
