/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An initiator that breaks the rules over RDMA, where no CPU of the target looks at a request
 * (P4): wrong keys, keys of other buffers and of those that are no more, ranges beyond a
 * buffer, writes to what may only be read.  Each is refused, no byte has changed at either
 * end, and others are served meanwhile.
 *
 *   rails 1 rdma-hostile
 *
 * The initiator is an engine of ours.  Its device is opened by this program's ibv_open_device,
 * so that a work request can be changed behind all checks, just before it is posted.
 */
#include "cables.h"

#include <dlfcn.h>
#include <infiniband/verbs.h>

#define TIMEOUT "peer_timeout=10"
#define NEAR "nic_priority_matrix={\"*\": [[\"rdma:ra0\"]]}"
#define FAR "nic_priority_matrix={\"*\": [[\"rdma:rb0\"]]}"
/* A refused request need not be tried again and again. */
#define TRIES "retry_count=1"
/* A machine that is busy elsewhere may say nothing for a second. */
#define PATIENT "transports.rdma.suspect=20s"

/* What the target registers of its PEER_LEN; all that is between is its own. */
#define OTHERS ((size_t)1 << 20)        /* [0, OTHERS): what others write to and read */
#define OPEN_AT (OTHERS + 65536)        /* for reading and writing */
#define WEIGHTS_AT ((size_t)2 << 20)    /* for reading */
#define GONE_AT ((size_t)3 << 20)       /* unregistered on demand */
#define LEN ((size_t)65536)
#define NR 64u                          /* bytes of a hostile request */

/* ---- behind the initiator's checks ------------------------------------------------------------------ */

static _Atomic(struct ibv_context *) hostile; /* requests on it are changed */
static atomic_bool opening;                   /* what is opened now is that */
static int (*post_send)(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);

/* A request that names `match` becomes this one. */
static struct attack {
	enum ibv_wr_opcode opcode;
	uint64_t match, addr;
	uint32_t rkey;
} attack;
static atomic_bool armed;     /* guards `attack`: written while it is false */
static atomic_uint nr_changed;
/* What the last request to `match` named, and the first of all, which went to the target's scratch memory. */
static _Atomic uint64_t scratch_addr;
static _Atomic uint32_t seen_rkey, scratch_rkey;

static void change(struct ibv_send_wr *wr)
{
	wr->opcode = attack.opcode;
	if (attack.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		wr->send_flags &= ~(unsigned)IBV_SEND_INLINE;
		wr->sg_list->length = 8;
		wr->wr.atomic.remote_addr = attack.addr;
		wr->wr.atomic.compare_add = 1;
		wr->wr.atomic.rkey = attack.rkey;
	} else {
		wr->wr.rdma.remote_addr = attack.addr;
		wr->wr.rdma.rkey = attack.rkey;
	}
	/* The data of an inline write is its own; a READ has nothing to go with it. */
	if (attack.opcode == IBV_WR_RDMA_READ)
		wr->send_flags &= ~(unsigned)IBV_SEND_INLINE;
	atomic_fetch_add(&nr_changed, 1);
}

static int hostile_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	if (qp->context != atomic_load(&hostile))
		return post_send(qp, wr, bad);
	for (struct ibv_send_wr *w = wr; w; w = w->next) {
		if (!atomic_load(&scratch_rkey)) {
			atomic_store(&scratch_addr, w->wr.rdma.remote_addr);
			atomic_store(&scratch_rkey, w->wr.rdma.rkey);
		}
		if (w->wr.rdma.remote_addr != attack.match)
			continue;
		atomic_store(&seen_rkey, w->wr.rdma.rkey);
		if (atomic_load(&armed))
			change(w);
	}
	return post_send(qp, wr, bad);
}

/* The plugin finds this one before libibverbs' own. */
__attribute__((visibility("default"))) struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	void *lib = dlopen("libibverbs.so.1", RTLD_NOW);
	struct ibv_context *(*next)(struct ibv_device *);
	struct ibv_context *ctx;

	NEED(lib, "%s", dlerror());
	*(void **)&next = dlsym(lib, "ibv_open_device");
	NEED(next, "%s", dlerror());
	ctx = next(device);
	if (!ctx || !atomic_load(&opening))
		return ctx;
	/* A device is probed before it is opened: the last one counts. */
	post_send = ctx->ops.post_send;
	ctx->ops.post_send = hostile_post_send;
	atomic_store(&hostile, ctx);
	return ctx;
}

/* ---- the target ------------------------------------------------------------------------------------- */

static void reg(struct mc_engine *e, unsigned char *at, size_t len, uint32_t access)
{
	struct mc_error err = {0};

	NEED(mc_memory_register(e, at, len, "cpu:0", access, T, &err) == 0, "%s", err.text);
}

/* victim: '-' on its input takes the buffer at GONE_AT away, '+' gives it back. */
static int as_victim(char **argv)
{
	struct mc_error err = {0};
	struct mc_engine *e = engine_with(argv[0], (const char *const[]){TIMEOUT, FAR, NULL});
	unsigned char *mem = peer_map(argv[0], PEER_AT);
	char c;

	reg(e, mem, OTHERS, MC_ACCESS_ALL);
	reg(e, mem + OPEN_AT, LEN, MC_ACCESS_ALL);
	reg(e, mem + WEIGHTS_AT, LEN, MC_ACCESS_REMOTE_READ);
	reg(e, mem + GONE_AT, LEN, MC_ACCESS_ALL);
	dprintf(3, "ready\n");
	while (read(0, &c, 1) > 0) {
		if (c == '-')
			NEED(mc_memory_unregister(e, mem + GONE_AT, T, &err) == 0, "%s", err.text);
		else
			reg(e, mem + GONE_AT, LEN, MC_ACCESS_ALL);
		dprintf(3, "done\n");
	}
	CHECK(mc_engine_close(e, T) == 0, "close");
	return failures != 0;
}

static struct role victim;
static unsigned char *theirs; /* its memory, as it sees it */

static void tell_victim(char c)
{
	NEED(write(victim.input, &c, 1) == 1, "the target has ended");
	role_says(&victim, "done");
}

/* ---- attacks ------------------------------------------------------------------------------------------ */

static struct mc_engine *evil;
static struct mc_segment *segment;
static unsigned char *local;
static struct traffic others;

static uint64_t there(size_t at)
{
	return (uintptr_t)PEER_AT + at;
}

/* One honest request; its key is the answer. */
static uint32_t honest(uint32_t op, size_t at)
{
	attack.match = there(at);
	memset(local, 'h', NR);
	NEED(move_one(evil, op, local, segment, there(at), NR, PATIENCE) == 0, "an honest request fails");
	if (op == MC_OP_WRITE)
		CHECK(all_are(theirs + at, NR, 'h'), "an honest write is not there");
	return atomic_load(&seen_rkey);
}

/* What is asked for by an honest request is changed into one with this opcode, address and key. */
static void refused(const char *what, uint32_t op, size_t at, enum ibv_wr_opcode opcode, uint64_t addr, uint32_t rkey)
{
	uint64_t start = now_ns();
	int r;

	memset(theirs + OTHERS, GUARD, PEER_LEN - OTHERS);
	memset(local, 'e', NR);
	attack = (struct attack){.opcode = opcode, .match = there(at), .addr = addr, .rkey = rkey};
	atomic_store(&nr_changed, 0);
	atomic_store(&armed, true);
	r = move_one(evil, op, local, segment, there(at), NR, PATIENCE);
	atomic_store(&armed, false);
	printf("%s: %d after %llu ms\n", what, r, (unsigned long long)((now_ns() - start) / MC_MSEC));
	CHECK(atomic_load(&nr_changed) > 0, "%s: no such request was posted", what);
	CHECK(r < 0 && r != -ETIMEDOUT, "%s: ended with %d", what, r);
	CHECK(guard_holds(theirs + OTHERS, PEER_LEN - OTHERS), "%s: bytes of the target have changed", what);
	CHECK(all_are(local, NR, 'e'), "%s: bytes came here", what);
	traffic_goes_on(&others, 1, what);
}

static void wrong_keys(uint32_t open, uint32_t weights)
{
	refused("a key that is guessed, write", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(OPEN_AT), open ^ 0x5a);
	refused("a key that is guessed, read", MC_OP_READ, OPEN_AT, IBV_WR_RDMA_READ, there(OPEN_AT), open ^ 0x5a00);
	refused("another buffer's key", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(WEIGHTS_AT), open);
	refused("another buffer's key, read", MC_OP_READ, OPEN_AT, IBV_WR_RDMA_READ, there(OPEN_AT), weights);
}

static void wrong_ranges(uint32_t open)
{
	refused("over the end, write", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(OPEN_AT + LEN - NR + 1), open);
	refused("over the end, read", MC_OP_READ, OPEN_AT, IBV_WR_RDMA_READ, there(OPEN_AT + LEN - NR + 1), open);
	refused("before the beginning", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(OPEN_AT) - 1, open);
	refused("far behind the end", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(GONE_AT), open);
	refused("over the end of all addresses", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, UINT64_MAX - NR / 2, open);
}

static void wrong_rights(uint32_t open, uint32_t weights)
{
	uint64_t scratch = atomic_load(&scratch_addr);
	uint32_t rkey = atomic_load(&scratch_rkey);

	refused("a write to what is for reading", MC_OP_READ, WEIGHTS_AT, IBV_WR_RDMA_WRITE, there(WEIGHTS_AT), weights);
	refused("an atomic", MC_OP_WRITE, OPEN_AT, IBV_WR_ATOMIC_FETCH_AND_ADD, there(OPEN_AT), open);
	NEED(rkey, "no probe was seen");
	refused("a read of the plugin's own memory", MC_OP_READ, OPEN_AT, IBV_WR_RDMA_READ, scratch, rkey);
	refused("the plugin's own memory below what is for probes", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, scratch - 4096,
		rkey);
}

static void gone_buffer(void)
{
	uint32_t old = honest(MC_OP_WRITE, GONE_AT), new;

	tell_victim('-');
	refused("a buffer that is no more, write", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(GONE_AT), old);
	refused("a buffer that is no more, read", MC_OP_READ, OPEN_AT, IBV_WR_RDMA_READ, there(GONE_AT), old);
	tell_victim('+');
	new = honest(MC_OP_WRITE, GONE_AT);
	CHECK(old != new, "a key is given twice");
	refused("the key of an earlier registration", MC_OP_WRITE, OPEN_AT, IBV_WR_RDMA_WRITE, there(GONE_AT), old);
}

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	printf("  %llu: %s\n", (unsigned long long)(now_ns() / MC_MSEC), line);
}

int main(int argc, char **argv)
{
	struct mc_engine *good;
	uint32_t open, weights;

	self = argv[0];
	signal(SIGPIPE, SIG_IGN);
	if (argc == 5 && !strcmp(argv[1], "--as")) {
		snprintf(dir, sizeof dir, "%s", argv[3]);
		mc_log_set_level(MC_LOG_ERROR);
		return as_victim(argv + 4);
	}
	engines_begin();
	mc_log_set_level(MC_LOG_WARN);
	mc_log_set_handler(on_log, NULL);
	role_start(&victim, (const char *const[]){"victim", "target", NULL});
	role_says(&victim, "ready");
	theirs = peer_map("target", NULL);
	good = engine_with("good", (const char *const[]){TIMEOUT, NEAR, PATIENT, NULL});
	traffic_start(&others, good, "target", OTHERS, 20 * MC_MSEC);
	traffic_goes_on(&others, 1, "before");
	atomic_store(&opening, true);
	evil = engine_with("evil", (const char *const[]){TIMEOUT, NEAR, TRIES, NULL});
	atomic_store(&opening, false);
	NEED(atomic_load(&hostile), "the plugin has not opened its device by us");
	segment = segment_new(evil, "target");
	local = memory_new(evil, 4096);
	open = honest(MC_OP_WRITE, OPEN_AT);
	weights = honest(MC_OP_READ, WEIGHTS_AT);
	wrong_keys(open, weights);
	wrong_ranges(open);
	wrong_rights(open, weights);
	gone_buffer();
	/* What is allowed still is. */
	honest(MC_OP_WRITE, OPEN_AT);
	honest(MC_OP_READ, WEIGHTS_AT);
	traffic_goes_on(&others, 2, "after");
	traffic_end(&others, "others");
	mc_segment_close(segment);
	CHECK(mc_engine_close(evil, T) == 0, "close");
	CHECK(count(good, "engine", "failures") == 0, "requests of others failed");
	CHECK(mc_engine_close(good, T) == 0, "close");
	role_end(&victim);
	mc_log_set_handler(NULL, NULL);
	return engines_end();
}
