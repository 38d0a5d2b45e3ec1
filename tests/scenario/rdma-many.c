/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an RDMA device has only so much of: queue pairs for 200 peers with room for 16, and
 * memory regions that are made and given back 10,000 times.
 *
 *   rails 1 rdma-many CASE...
 */
#include "cables.h"

#include <sys/resource.h>

#define TIMEOUT "peer_timeout=20"
#define NEAR "nic_priority_matrix={\"*\": [[\"rdma:ra0\"]]}"
#define FAR "nic_priority_matrix={\"*\": [[\"rdma:rb0\"]]}"
#define CAP 16u
#define PEERS 200u
#define VISITS (PEERS + 30)
#define PIECE ((size_t)16384)

/* ---- many peers ------------------------------------------------------------------------------------- */

/* crowd FIRST NR: so many engines in one process, each with a buffer of its own, with few threads and long leases,
 * since they stand for as many hosts. */
static int as_crowd(char **argv)
{
	unsigned first = (unsigned)atoi(argv[0]), nr = (unsigned)atoi(argv[1]);
	struct mc_engine **engines = calloc(nr, sizeof *engines);
	char name[32], byte;

	NEED(engines, "memory");
	for (unsigned i = 0; i < nr; i++) {
		snprintf(name, sizeof name, "peer%u", first + i);
		engines[i] = engine_with(name, (const char *const[]){TIMEOUT, FAR, "transports.rdma.lanes=1", "lease_ttl=100", NULL});
		memory_new(engines[i], PIECE);
	}
	dprintf(3, "ready\n");
	while (read(0, &byte, 1) > 0)
		;
	for (unsigned i = 0; i < nr; i++)
		CHECK(mc_engine_close(engines[i], T) == 0, "close");
	free(engines);
	return failures != 0;
}

struct one {
	struct mc_segment *segment;
	uint64_t offset;
};

/* What belongs to the i-th in this round, there and back; 0: it was. */
static int visit(struct mc_engine *e, struct one *o, unsigned char *local, unsigned seed)
{
	int r;

	for (size_t k = 0; k < PIECE; k++)
		local[k] = byte_of(seed, k);
	r = move_one(e, MC_OP_WRITE, local, o->segment, o->offset, PIECE, PATIENCE);
	memset(local, 0, PIECE);
	r = r ? r : move_one(e, MC_OP_READ, local, o->segment, o->offset, PIECE, PATIENCE);
	for (size_t k = 0; k < PIECE && r == 0; k++)
		r = local[k] == byte_of(seed, k) ? 0 : -EBADMSG;
	return r;
}

static void peers(void)
{
	static struct one ones[PEERS];
	struct mc_engine *e;
	struct mc_buffer_info info = {.size = sizeof info};
	struct role crowd;
	unsigned char *local;
	uint64_t start = now_ns(), worst = 0, t;
	char number[16], name[32];
	struct traffic hot;
	struct peer target = {0};

	snprintf(number, sizeof number, "%u", PEERS);
	role_start(&crowd, (const char *const[]){"crowd", "0", number, NULL});
	e = engine_with("near", (const char *const[]){TIMEOUT, NEAR, "transports.rdma.max_endpoints=16", NULL});
	local = memory_new(e, PIECE);
	peer_start(&target, "hot", (const char *const[]){TIMEOUT, FAR, NULL});
	role_says(&crowd, "ready");
	printf("%u engines after %llu ms\n", PEERS, (unsigned long long)((now_ns() - start) / MC_MSEC));
	/* One that is used all the time keeps its queue pairs. */
	traffic_start(&hot, e, "hot", PEER_LEN / 16, 50 * MC_MSEC);
	traffic_goes_on(&hot, 3, "hot");
	start = now_ns();
	for (unsigned i = 0; i < PEERS; i++) {
		snprintf(name, sizeof name, "peer%u", i);
		ones[i].segment = segment_new(e, name);
		NEED(mc_segment_buffer(ones[i].segment, 0, &info) == 0, "buffer of %s", name);
		ones[i].offset = info.offset;
	}
	printf("all opened after %llu ms\n", (unsigned long long)((now_ns() - start) / MC_MSEC));
	start = now_ns();
	/* Some of them twice: they have lost their queue pairs meanwhile. */
	for (unsigned i = 0; i < VISITS; i++) {
		int r;

		t = now_ns();
		r = visit(e, &ones[i % PEERS], local, i);
		NEED(r == 0, "visit %u: %d", i, r);
		t = now_ns() - t;
		worst = t > worst ? t : worst;
	}
	printf("%u visits after %llu ms, the longest took %llu ms\n", VISITS,
	       (unsigned long long)((now_ns() - start) / MC_MSEC), (unsigned long long)(worst / MC_MSEC));
	t = count(e, "device rdma:ra0", "endpoints_active");
	CHECK(t && t <= CAP, "%llu endpoints", (unsigned long long)t);
	t = traffic_goes_on(&hot, 3, "hot");
	printf("%u rounds of the one that is hot; the longest of the last took %llu ms\n", atomic_load(&hot.rounds),
	       (unsigned long long)(t / MC_MSEC));
	traffic_end(&hot, "hot");
	for (unsigned i = 0; i < PEERS; i++)
		mc_segment_close(ones[i].segment);
	CHECK(mc_engine_close(e, T) == 0, "close");
	role_end(&crowd);
	peer_end(&target);
}

/* ---- many regions -------------------------------------------------------------------------------- */

/* Resources of the device, as the kernel counts them. */
static unsigned long kernel_count(const char *device, const char *what)
{
	char cmd[128], line[256];
	unsigned long n = ~0ul;
	const char *at;
	FILE *f;

	snprintf(cmd, sizeof cmd, "rdma resource show %s", device);
	f = popen(cmd, "re");
	NEED(f && fgets(line, sizeof line, f), "%s", cmd);
	pclose(f);
	at = strstr(line, what);
	NEED(at && sscanf(at + strlen(what), " %lu", &n) == 1, "%s: %s", what, line);
	return n;
}

static void regions(void)
{
	enum { CYCLES = 10000 };
	static unsigned char mem[65536];
	unsigned long kernel, none = kernel_count("ra0", "mr"), none_pd = kernel_count("ra0", "pd");
	struct mc_engine *e = engine_with("near", (const char *const[]){TIMEOUT, NEAR, NULL});
	unsigned char *kept = memory_new(e, 65536);
	struct peer target = {0};
	struct mc_segment *s;
	struct mc_error err = {0};
	uint64_t gauge, start = now_ns();

	peer_start(&target, "target", (const char *const[]){TIMEOUT, FAR, NULL});
	s = segment_new(e, "target");
	gauge = count(e, "device rdma:ra0", "mrs");
	kernel = kernel_count("ra0", "mr");
	CHECK(gauge == 1 && kept, "gauge 'mrs' is %llu with one buffer", (unsigned long long)gauge);
	for (unsigned i = 0; i < CYCLES; i++) {
		NEED(mc_memory_register(e, mem, sizeof mem, "cpu:0", MC_ACCESS_ALL, T, &err) == 0, "%u: %s", i, err.text);
		if (i % 1000 == 0)
			CHECK(move_one(e, MC_OP_WRITE, mem, s, target.base, sizeof mem, T) == 0, "write %u", i);
		NEED(mc_memory_unregister(e, mem, T, &err) == 0, "%u: %s", i, err.text);
	}
	printf("%d cycles after %llu ms; mrs %llu -> %llu, of the kernel %lu -> %lu\n", CYCLES,
	       (unsigned long long)((now_ns() - start) / MC_MSEC), (unsigned long long)gauge,
	       (unsigned long long)count(e, "device rdma:ra0", "mrs"), kernel, kernel_count("ra0", "mr"));
	CHECK(count(e, "device rdma:ra0", "mrs") == gauge, "regions are left");
	CHECK(kernel_count("ra0", "mr") == kernel, "regions are left in the kernel");
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	CHECK(kernel_count("ra0", "mr") == none && kernel_count("ra0", "pd") == none_pd, "not all is given back: %lu, %lu",
	      kernel_count("ra0", "mr") - none, kernel_count("ra0", "pd") - none_pd);
	peer_end(&target);
}

static const struct promise cases[] = {{"peers", peers}, {"regions", regions}};

int main(int argc, char **argv)
{
	struct rlimit many = {65536, 65536};

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	NEED(setrlimit(RLIMIT_NOFILE, &many) == 0, "as many descriptors as engines need");
	if (argc >= 4 && !strcmp(argv[1], "--serve"))
		return peer_serve(argc - 2, argv + 2);
	if (argc == 6 && !strcmp(argv[1], "--as") && !strcmp(argv[2], "crowd")) {
		snprintf(dir, sizeof dir, "%s", argv[3]);
		mc_log_set_level(MC_LOG_ERROR);
		return as_crowd(argv + 4);
	}
	engines_begin();
	mc_log_set_level(MC_LOG_WARN);
	cases_run(argc, argv, cases, sizeof cases / sizeof *cases);
	return engines_end();
}
