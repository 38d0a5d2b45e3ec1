/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hosts that share one CXL memory device (tests/lab/two-hosts -C): both write and
 * read each other's memory in it; one loses its power in the middle of what it
 * writes, and comes back.
 *
 *   cxl-hosts serve   on host b: does what the file `ask` in LAB_SHARE says, answers in `answer`
 *   cxl-hosts         on host a
 */
#include "cxl-ends.h"
#include "hosts.h"

#define LEN ((uint64_t)1 << 20)
#define AREA ((uint64_t)64 << 10)
#define NR_AREAS (LEN / AREA)
#define QUARANTINE_S 2

/* ---- files in the folder that both see ---------------------------------------------------------- */

static void shared_take(const char *name, char *text, size_t cap)
{
	uint64_t end = now_ns() + HOSTS_PATIENCE;
	char path[200];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", share, name);
	while (!shared(name)) {
		NEED(now_ns() < end, "waited in vain for %s", name);
		nap(20 * MC_MSEC);
	}
	f = fopen(path, "re");
	NEED(f && fgets(text, (int)cap, f), "%s: %s", path, strerror(errno));
	fclose(f);
	NEED(unlink(path) == 0, "%s: %s", path, strerror(errno));
}

/* ---- both ends ----------------------------------------------------------------------------------- */

static void end_open(struct end *e, const char *name, const char *address)
{
	char metadata[200], advertise[100], quarantine[64];
	struct mc_error err;

	snprintf(metadata, sizeof metadata, "metadata_server=file://%s/metadata", share);
	snprintf(advertise, sizeof advertise, "advertise_address=%s", address);
	snprintf(quarantine, sizeof quarantine, "transports.cxl.quarantine=%ds", QUARANTINE_S);
	memset(e, 0, sizeof *e);
	e->engine = engine_with(name, (const char *const[]){metadata, advertise, quarantine, "lease_ttl=4s", "peer_timeout=4",
		"transports.cxl.growth=2MiB", "nic_priority_matrix={\"*\": [[\"cxl:dax0.0\"]]}", NULL});
	NEED(mc_memory_alloc(e->engine, "cxl:0", LEN, MC_ACCESS_ALL, T, (void **)&e->mem, &err) == 0, "%s", err.text);
	NEED(mc_memory_alloc(e->engine, "cpu:0", LEN, MC_ACCESS_LOCAL, T, (void **)&e->local, &err) == 0, "%s", err.text);
}

/* Words, for a byte of emulated memory takes as long as eight. */
static void fill(unsigned char *at, uint64_t len, uint64_t seed)
{
	for (uint64_t i = 0; i < len; i += 8)
		*(volatile uint64_t *)(at + i) = seed << 32 ^ i * UINT64_C(0x9e3779b97f4a7c15);
}

static bool holds(const unsigned char *at, uint64_t len, uint64_t seed)
{
	for (uint64_t i = 0; i < len; i += 8)
		if (*(const volatile uint64_t *)(at + i) != (seed << 32 ^ i * UINT64_C(0x9e3779b97f4a7c15)))
			return false;
	return true;
}

/* ---- host b --------------------------------------------------------------------------------------- */

/* Area after area, round after round, each with a notify; the number is the seed.  Until the power goes. */
static void write_for_ever(struct end *e)
{
	for (uint64_t k = 1;; k++) {
		char word[24];

		fill(e->local, AREA, k);
		snprintf(word, sizeof word, "%llu", (unsigned long long)k);
		NEED(transfer(e, MC_OP_WRITE, 0, k % NR_AREAS * AREA, AREA, 0, word) == 0, "write %s", word);
	}
}

static int serve(void)
{
	char line[64], answer[16];
	struct end e;

	end_open(&e, "far", "10.88.0.2");
	shared_write("ready", "");
	for (;;) {
		unsigned long long seed = 0;
		int r = -EINVAL;

		shared_take("ask", line, sizeof line);
		if (sscanf(line, "fill %llu", &seed) == 1) {
			fill(e.mem, LEN, seed);
			r = mc_memory_publish(e.engine, e.mem, LEN, NULL);
		} else if (sscanf(line, "check %llu", &seed) == 1) {
			r = mc_memory_refresh(e.engine, e.mem, LEN, NULL);
			r = r ? r : !holds(e.mem, LEN, seed);
		} else if (!strncmp(line, "meet", 4)) {
			end_meet(&e, "near");
			r = 0;
		} else if (sscanf(line, "write %llu", &seed) == 1) {
			fill(e.local, LEN, seed);
			r = transfer(&e, MC_OP_WRITE, 0, 0, LEN, 0, "written");
		} else if (!strncmp(line, "for ever", 8)) {
			write_for_ever(&e);
		} else if (!strncmp(line, "end", 3)) {
			break;
		}
		snprintf(answer, sizeof answer, "%d\n", r);
		shared_write("answer", answer);
	}
	mc_segment_close(e.peer);
	CHECK(mc_engine_close(e.engine, T) == 0, "close");
	return failures != 0;
}

/* ---- host a --------------------------------------------------------------------------------------- */

static int ask(const char *what, unsigned long long seed)
{
	char text[64];

	snprintf(text, sizeof text, "%s %llu\n", what, seed);
	shared_write("ask", text);
	shared_take("answer", text, sizeof text);
	return atoi(text);
}

static void host_ready(void)
{
	uint64_t end = now_ns() + HOSTS_PATIENCE;
	char path[200];

	while (!shared("ready")) {
		NEED(now_ns() < end, "host b does not come up");
		nap(50 * MC_MSEC);
	}
	snprintf(path, sizeof path, "%s/ready", share);
	unlink(path);
}

static void both_ways(struct end *e)
{
	struct mc_notify n = {.size = sizeof n};

	for (unsigned seed = 1; seed < 3; seed++) {
		fill(e->local, LEN, seed);
		CHECK(transfer(e, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write");
		CHECK(ask("check", seed) == 0, "what we wrote is not what it reads");
		CHECK(ask("fill", seed + 10) == 0, "fill");
		CHECK(transfer(e, MC_OP_READ, 0, 0, LEN, 0, NULL) == 0, "read");
		CHECK(holds(e->local, LEN, seed + 10), "what we read is not what it wrote");
		CHECK(ask("write", seed + 20) == 0, "its write");
		CHECK(mc_notify_recv(e->engine, &n, 4 * T) == 0 && !strcmp((const char *)n.data, "written"), "its notify");
		CHECK(mc_memory_refresh(e->engine, e->mem, LEN, NULL) == 0, "refresh");
		CHECK(holds(e->mem, LEN, seed + 20), "what it wrote is not what we read");
	}
	printf("both ways: ok\n");
}

static uint64_t told_of(struct end *e, uint64_t told, uint64_t span_ns)
{
	struct mc_notify n = {.size = sizeof n};

	if (mc_notify_recv(e->engine, &n, span_ns) < 0)
		return 0;
	CHECK(strtoull((const char *)n.data, NULL, 10) == told + 1, "notify %s after %llu", (const char *)n.data,
	      (unsigned long long)told);
	return told + 1;
}

/* Of each area the last that we were told of is there, whole; of two at most, one that was under way. */
static void power_failure(struct end *e)
{
	uint64_t told = 0, more, until;
	unsigned begun = 0;

	shared_write("ask", "for ever\n");
	while (told < NR_AREAS + 5) {
		more = told_of(e, told, HOSTS_PATIENCE);
		NEED(more, "host b does not write");
		told = more;
	}
	wish("kill b");
	until = now_ns() + 6 * MC_SEC; /* what it sent before, and longer than peer_timeout */
	while (now_ns() < until)
		if ((more = told_of(e, told, 200 * MC_MSEC)))
			told = more;
	CHECK(mc_memory_refresh(e->engine, e->mem, LEN, NULL) == 0, "refresh");
	for (uint64_t k = told - NR_AREAS + 1; k <= told; k++)
		begun += !holds(e->mem + k % NR_AREAS * AREA, AREA, k);
	CHECK(begun <= 2, "%u areas do not hold what was notified last", begun);
	for (uint64_t k = told - NR_AREAS + 3; k <= told; k++)
		CHECK(holds(e->mem + k % NR_AREAS * AREA, AREA, k), "write %llu of %llu was notified, and is not whole",
		      (unsigned long long)k, (unsigned long long)told);
	printf("power failure after %llu writes: ok\n", (unsigned long long)told);
}

/* What the dead engine had is given away, after the quarantine; and its host comes back. */
static void comes_back(struct end *e)
{
	uint64_t end = now_ns() + HOSTS_PATIENCE;
	struct mc_error err;
	uint64_t big = UINT64_C(244) << 20; /* all but ours and a little: the pool has 248 */
	void *mem = NULL;
	int r;

	while ((r = mc_memory_alloc(e->engine, "cxl:0", big, MC_ACCESS_ALL, T, &mem, &err)) == -ENOSPC && now_ns() < end)
		nap(100 * MC_MSEC);
	NEED(r == 0, "memory of the dead: %d %s", r, err.text);
	CHECK(mc_memory_free(e->engine, mem, T, &err) == 0, "%s", err.text);
	/* Units stay granted until the engine closes. */
	mc_segment_close(e->peer);
	CHECK(mc_engine_close(e->engine, T) == 0, "close");
	end_open(e, "near", "10.88.0.1");
	wish("boot b");
	host_ready();
	end_meet(e, "far");
	CHECK(ask("meet", 0) == 0, "it does not meet us");
	fill(e->local, LEN, 5);
	CHECK(transfer(e, MC_OP_WRITE, 0, 0, LEN, 0, NULL) == 0, "write");
	CHECK(ask("check", 5) == 0, "what we wrote is not what it reads");
	printf("comes back: ok\n");
}

int main(int argc, char **argv)
{
	struct end e;

	setvbuf(stdout, NULL, _IOLBF, 0);
	share = getenv("LAB_SHARE");
	NEED(share, "LAB_SHARE: run by tests/lab/two-hosts");
	mc_log_set_level(MC_LOG_WARN);
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	end_open(&e, "near", "10.88.0.1");
	host_ready();
	end_meet(&e, "far");
	CHECK(ask("meet", 0) == 0, "it does not meet us");
	both_ways(&e);
	power_failure(&e);
	comes_back(&e);
	shared_write("ask", "end\n");
	mc_segment_close(e.peer);
	CHECK(mc_engine_close(e.engine, T) == 0, "close");
	printf(failures ? "%d failed\n" : "ok\n", failures);
	return failures != 0;
}
