/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two engines whose caches nothing keeps coherent.  All is right when each line is
 * written back, dropped and fenced as the rules say; and when any one of these is
 * left out, something is wrong: that is what every call is there for.
 */
#include "cxl-fixture.h"
#include "cxl-incoherent.h"

#define LEN (UINT64_C(256) << 10)
#define LARGE (UINT64_C(160) << 10) /* more than what a READ drops at once */
#define SMALL 512u

static int sync_buf(struct fake_buf *b, uint64_t off, uint64_t len, enum mc_sync how)
{
	return b->inst->ops->mem_sync(b->inst->priv, b->region, b->base + off, len, how);
}

/* What is left out, and from when on. */
struct fault {
	enum cxl_rule rule;
	enum inc_op op;
	enum { AT_START, WHEN_UP } from;
};

struct play {
	struct fault fault;
	struct fake_world *w;
	struct fake_plugin plugin;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
	struct fake_remote *remote;
	bool guard_seen;
};

/* Who reads nonsense of the slots never joins. */
#define JOIN_BOUND(p) ((p)->fault.rule ? 2 * MC_SEC : BOUND)

/* The first thing that is not as it should be. */
#define RIGHT(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return #cond;                                                              \
	} while (0)

static bool is_joined(void *inst)
{
	return ledger_of(inst)->joined && ledger_of(inst)->step == CXL_IDLE;
}

/* What another host reads of our slot, without our doing anything more. */
static bool slot_seen(struct fake_inst *inst)
{
	struct cxl_place place;
	struct cxl_ident ident;
	struct cxl_pool pool;
	char path[128];

	pool_path("pool", path);
	if (cxl_device_find_path(path, &place, NULL) < 0 || cxl_pool_open(&pool, &place, NULL) < 0)
		return false;
	cxl_slot_read(&pool, ledger_of(inst)->slot, &ident);
	cxl_pool_close(&pool);
	return ident.generation == inst->generation;
}

static const char *play_open(struct play *p)
{
	struct mc_error err = {0};

	if (p->fault.from == AT_START)
		inc_break(p->fault.rule, p->fault.op);
	RIGHT(pool_make("pool", POOL_SIZE, 7) == 0);
	p->w = fake_world_new(FAKE_QUIET);
	RIGHT(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &p->plugin, &err) == 0);
	RIGHT(engine_open(p->w, &p->plugin, "pool", NULL, &p->a, &err) == 0);
	RIGHT(fake_run(p->w, is_joined, p->a, JOIN_BOUND(p)) == 0);
	RIGHT(slot_seen(p->a));
	RIGHT(engine_open(p->w, &p->plugin, "pool", NULL, &p->b, &err) == 0);
	RIGHT(fake_link(p->a, p->b, &p->la, &p->lb) == 0);
	RIGHT(fake_buf_new(p->a, LEN, 0, NULL, MC_ACCESS_LOCAL, &p->local, &err) == 0);
	RIGHT(fake_buf_new(p->b, LEN, 0, NULL, MC_ACCESS_ALL, &p->target, &err) == 0);
	RIGHT(fake_peer_open(p->a, p->la, &p->peer) == 0);
	RIGHT(fake_run(p->w, told, p->peer, BOUND) == 0);
	p->remote = p->peer->remotes;
	RIGHT(p->remote->status == 0);
	inc_break(p->fault.rule, p->fault.op);
	return NULL;
}

static int slice(struct play *p, enum mc_opcode op, uint64_t off, uint64_t len, unsigned flags)
{
	return one(p->a, p->peer, op, p->local, p->remote, off, len, flags);
}

/* Asked of the owner: does somebody touch its memory? */
static bool guard_there(struct play *p)
{
	uint32_t slot, lane;
	uint64_t word;

	return cxl_guards_find(device_of(p->b), ledger_of(p->b)->slot, &slot, &lane, &word) &&
	       slot == ledger_of(p->a)->slot;
}

static void look_at_guard(void *arg)
{
	struct play *p = arg;

	p->guard_seen = guard_there(p);
}

static const char *play_write(struct play *p, uint64_t len, uint64_t seed)
{
	fake_buf_fill(p->local, 0, len, seed);
	RIGHT(slice(p, MC_OP_WRITE, 0, len, 0) == MC_DONE);
	/* It is complete: from here on the owner may look. */
	RIGHT(sync_buf(p->target, 0, len, MC_SYNC_REFRESH) == 0);
	RIGHT(fake_buf_check(p->target, 0, len, seed) < 0);
	fake_flush(p->a);
	return NULL;
}

static const char *play_read(struct play *p)
{
	for (uint64_t seed = 20; seed < 22; seed++) {
		fake_buf_fill(p->target, 0, LARGE, seed);
		RIGHT(sync_buf(p->target, 0, LARGE, MC_SYNC_PUBLISH) == 0);
		RIGHT(slice(p, MC_OP_READ, 0, LARGE, 0) == MC_DONE);
		fake_flush(p->a);
		RIGHT(fake_buf_check(p->local, 0, LARGE, seed) < 0);
	}
	return NULL;
}

/* Both write to one line, one after the other; who cuts it has seen it before. */
static const char *play_cut(struct play *p)
{
	RIGHT(slice(p, MC_OP_READ, 0, 128, 0) == MC_DONE);
	memset(p->target->base, 'o', 128);
	RIGHT(sync_buf(p->target, 0, 128, MC_SYNC_PUBLISH) == 0);
	memset(p->local->base + 32, 'i', 64);
	RIGHT(slice(p, MC_OP_WRITE, 32, 64, 0) == -EINVAL);
	RIGHT(slice(p, MC_OP_WRITE, 32, 64, MC_SLICE_SOLE) == MC_DONE);
	fake_flush(p->a);
	RIGHT(sync_buf(p->target, 0, 128, MC_SYNC_REFRESH) == 0);
	for (unsigned i = 0; i < 128; i++)
		RIGHT(p->target->base[i] == (i >= 32 && i < 96 ? 'i' : 'o'));
	return NULL;
}

static const char *play_guard(struct play *p)
{
	const char *wrong;

	RIGHT(!guard_there(p));
	inc_on_write(LARGE, look_at_guard, p);
	wrong = play_write(p, LARGE, 30);
	inc_on_write(0, NULL, NULL);
	if (wrong)
		return wrong;
	RIGHT(p->guard_seen);
	RIGHT(!guard_there(p));
	return NULL;
}

/* The owner takes it back; who has not heard of it yet is refused. */
static const char *play_free(struct play *p)
{
	int r;

	p->a->paused = true;
	fake_buf_free(p->target, BOUND);
	p->target = NULL;
	r = slice(p, MC_OP_WRITE, 0, SMALL, 0);
	fake_flush(p->a);
	p->a->paused = false;
	RIGHT(r == -EACCES);
	return NULL;
}

/* Memory that was freed with lines that nobody published, and is another engine's then. */
static const char *play_leave(struct play *p)
{
	struct mc_error err = {0};
	struct fake_buf *b, *mine;
	uint64_t offset;

	RIGHT(fake_buf_new_owned(p->b, LARGE, MC_ACCESS_ALL, &b, &err) == 0);
	offset = (uint64_t)(b->base - device_of(p->b)->pool.base);
	fake_buf_fill(b, 0, LARGE, 40);
	fake_buf_free(b, BOUND);
	fake_peer_close(p->peer);
	fake_run(p->w, NULL, NULL, BOUND);
	fake_close(p->b, BOUND);
	p->b = NULL;
	p->peer = NULL;
	/* It comes to the same place. */
	RIGHT(fake_buf_new_owned(p->a, 2 * LEN + LARGE, MC_ACCESS_ALL, &mine, &err) == 0);
	offset -= (uint64_t)(mine->base - device_of(p->a)->pool.base);
	RIGHT(offset + LARGE <= mine->len);
	fake_buf_fill(mine, 0, mine->len, 41);
	RIGHT(sync_buf(mine, 0, mine->len, MC_SYNC_PUBLISH) == 0);
	inc_evict();
	RIGHT(sync_buf(mine, 0, mine->len, MC_SYNC_REFRESH) == 0);
	RIGHT(fake_buf_check(mine, 0, mine->len, 41) < 0);
	return NULL;
}

static const char *play_all(struct play *p)
{
	const char *wrong = play_open(p);

	wrong = wrong ? wrong : play_write(p, LARGE, 10);
	wrong = wrong ? wrong : play_write(p, SMALL, 11);
	wrong = wrong ? wrong : play_read(p);
	wrong = wrong ? wrong : play_cut(p);
	wrong = wrong ? wrong : play_guard(p);
	wrong = wrong ? wrong : play_free(p);
	return wrong ? wrong : play_leave(p);
}

/* What was wrong, if anything was; all is cleared away with rules that hold again. */
static const char *play(const struct fault *fault, char why[256])
{
	struct play p = {.fault = fault ? *fault : (struct fault){0}};
	const char *wrong = play_all(&p);
	unsigned breaches = 0;

	snprintf(why, 256, "%s", wrong ? wrong : "");
	inc_break(0, 0);
	inc_on_write(0, NULL, NULL);
	if (p.a)
		fake_flush(p.a);
	/* A guard that nobody saw go. */
	if (p.a && ledger_of(p.a)->joined)
		cxl_guard_clear(&device_of(p.a)->pool, ledger_of(p.a)->slot, 0, 1 << 20);
	if (p.peer)
		fake_peer_close(p.peer);
	if (p.w)
		fake_run(p.w, NULL, NULL, JOIN_BOUND(&p));
	if (p.b)
		fake_close(p.b, BOUND);
	if (p.a)
		fake_close(p.a, BOUND);
	if (p.w)
		breaches = fake_world_free(p.w);
	inc_forget();
	if (!fault && breaches)
		snprintf(why, 256, "%s", fake_last_of_all());
	return why[0] ? why : NULL;
}

static const struct fault faults[] = {
	{CXL_HEADER_SET, INC_WRITE_BACK, AT_START},
	{CXL_HEADER_SET, INC_FENCE, AT_START},
	{CXL_HEADER_LOOK, INC_DROP, AT_START},
	{CXL_SLOT_SET, INC_WRITE_BACK, AT_START},
	{CXL_SLOT_SET, INC_FENCE, AT_START},
	{CXL_SLOT_LOOK, INC_DROP, AT_START},
	{CXL_KEY_SET, INC_WRITE_BACK, AT_START},
	{CXL_KEY_SET, INC_FENCE, AT_START},
	{CXL_KEY_SET, INC_WRITE_BACK, WHEN_UP},
	{CXL_KEY_LOOK, INC_DROP, AT_START},
	{CXL_KEY_LOOK, INC_DROP, WHEN_UP},
	{CXL_GUARD_SET, INC_WRITE_BACK, WHEN_UP},
	{CXL_GUARD_CLEAR, INC_WRITE_BACK, WHEN_UP},
	{CXL_GUARD_CLEAR, INC_FENCE, WHEN_UP},
	{CXL_GUARD_LOOK, INC_DROP, WHEN_UP},
	{CXL_WRITE, INC_WRITE_BACK, WHEN_UP},
	{CXL_WRITE, INC_STREAM, WHEN_UP},
	{CXL_WRITE, INC_FENCE, WHEN_UP},
	{CXL_CUT, INC_DROP, WHEN_UP},
	{CXL_READ, INC_DROP, WHEN_UP},
	{CXL_READ, INC_FORGET, WHEN_UP},
	{CXL_READ, INC_SETTLE, WHEN_UP},
	{CXL_LEAVE, INC_DROP, WHEN_UP},
	{CXL_PUBLISH, INC_WRITE_BACK, WHEN_UP},
	{CXL_PUBLISH, INC_FENCE, WHEN_UP},
	{CXL_REFRESH, INC_DROP, WHEN_UP},
};
#define NR_FAULTS (sizeof faults / sizeof faults[0])

static void test_all_right(void **state)
{
	char why[256];

	if (play(NULL, why))
		fail_msg("%s", why);
}

static void test_each_is_needed(void **state)
{
	unsigned unnoticed = 0;

	for (size_t i = 0; i < NR_FAULTS; i++) {
		char why[256];
		const char *wrong = play(&faults[i], why);

		if (!wrong)
			print_error("rule %d, call %d, from %d: nothing is wrong without it\n", faults[i].rule, faults[i].op,
				    faults[i].from);
		unnoticed += !wrong;
	}
	assert_int_equal(unnoticed, 0);
}

/* Every kind of call that the transport makes is in the list above. */
static void test_none_is_forgotten(void **state)
{
	for (int rule = 1; rule < CXL_NR_RULES; rule++)
		for (int op = 1; op < INC_NR_OPS; op++) {
			bool listed = false;

			for (size_t i = 0; i < NR_FAULTS; i++)
				listed |= (int)faults[i].rule == rule && (int)faults[i].op == op;
			if (listed != (inc_calls((enum cxl_rule)rule, (enum inc_op)op) > 0))
				fail_msg("rule %d, call %d: %s", rule, op, listed ? "never made" : "not in the list");
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_right, pool_setup, pool_teardown),
		cmocka_unit_test_setup_teardown(test_each_is_needed, pool_setup, pool_teardown),
		cmocka_unit_test(test_none_is_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
