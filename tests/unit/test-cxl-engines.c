/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines of one pool: who has what, what a lease that lapsed stops, what becomes of
 * those that die, and what a pool that is not ours is answered with.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "cxl-fixture.h"

#define LEN (UINT64_C(64) << 10)

struct pair {
	struct fake_world *w;
	struct fake_plugin plugin;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
};

static bool is_joined(void *inst)
{
	return ledger_of(inst)->joined && ledger_of(inst)->step == CXL_IDLE;
}

static struct fake_inst *opened(struct pair *p, const char *option)
{
	struct fake_inst *inst;
	struct mc_error err = {0};

	if (engine_open(p->w, &p->plugin, "pool", option, &inst, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fake_run(p->w, is_joined, inst, BOUND), 0);
	return inst;
}

static void world_begin(struct pair *p, uint64_t size)
{
	struct mc_error err;

	memset(p, 0, sizeof *p);
	assert_int_equal(pool_make("pool", size, 7), 0);
	p->w = fake_world_new(0);
	assert_int_equal(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &p->plugin, &err), 0);
}

static void begin_with(struct pair *p, const char *option)
{
	struct mc_error err = {0};

	world_begin(p, POOL_SIZE);
	p->a = opened(p, option);
	p->b = opened(p, option);
	assert_int_equal(fake_link(p->a, p->b, &p->la, &p->lb), 0);
	assert_int_equal(fake_buf_new(p->a, LEN, 0, NULL, MC_ACCESS_LOCAL, &p->local, &err), 0);
	assert_int_equal(fake_buf_new(p->b, LEN, 0, NULL, MC_ACCESS_ALL, &p->target, &err), 0);
	assert_int_equal(fake_peer_open(p->a, p->la, &p->peer), 0);
	assert_int_equal(fake_run(p->w, told, p->peer, BOUND), 0);
}

#define begin(p) begin_with(p, NULL)

static void end(struct pair *p)
{
	if (p->peer)
		fake_peer_close(p->peer);
	fake_run(p->w, NULL, NULL, BOUND);
	assert_int_equal(fake_buf_free(p->local, BOUND), 0);
	assert_int_equal(fake_buf_free(p->target, BOUND), 0);
	fake_close(p->a, BOUND);
	fake_close(p->b, BOUND);
	assert_int_equal(fake_world_free(p->w), 0);
}

static int slice(struct pair *p, enum mc_opcode op, uint64_t off, uint64_t len, unsigned flags)
{
	int r = one(p->a, p->peer, op, p->local, p->peer->remotes, off, len, flags);

	fake_flush(p->a);
	return r;
}

/* ---- the metadata service, from outside ------------------------------------------------------------- */

static void ignore(struct mc_kv_call *c, int status, const struct mc_kv *kv)
{
	*(int *)c->user = status;
}

static bool answered(void *status)
{
	return *(int *)status != 1;
}

/* Delete a key of the pool's. */
static void key_delete(struct pair *p, struct fake_inst *by, const char *of)
{
	int status = 1;
	char key[128];
	struct mc_kv_call c = {.size = sizeof c, .op = MC_KV_DELETE, .key = key, .done = ignore, .user = &status,
			       .deadline_ns = UINT64_MAX};

	snprintf(key, sizeof key, "%s%s", ledger_of(by)->prefix, of);
	assert_int_equal(by->host.kv(&by->host, &c), 0);
	assert_int_equal(fake_run(p->w, answered, &status, BOUND), 0);
	assert_int_equal(status, 0);
}

/* What happens when its lease ends. */
static void lease_ends(struct pair *p, struct fake_inst *of, struct fake_inst *by)
{
	char key[64];

	snprintf(key, sizeof key, "alive/%016llx", (unsigned long long)of->generation);
	key_delete(p, by, key);
}

/* ---- requests ----------------------------------------------------------------------------------- */

static void test_lines(void **state)
{
	struct pair p;

	begin(&p);
	fake_buf_fill(p.local, 0, LEN, 1);
	fake_buf_fill(p.target, 0, LEN, 2);
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, 100, 0), -EINVAL);
	assert_int_equal(slice(&p, MC_OP_WRITE, 32, 64, 0), -EINVAL);
	assert_int_equal(slice(&p, MC_OP_WRITE, 1, 4096, 0), -EINVAL);
	assert_int_equal(fake_buf_check(p.target, 0, LEN, 2), -1);
	assert_int_equal(slice(&p, MC_OP_WRITE, 64, 4096, 0), MC_DONE);
	assert_int_equal(slice(&p, MC_OP_WRITE, 5000, 3001, MC_SLICE_SOLE), MC_DONE);
	assert_int_equal(slice(&p, MC_OP_WRITE, 10001, 7, MC_SLICE_SOLE), MC_DONE);
	assert_int_equal(fake_buf_check(p.target, 64, 4096, 1), -1);
	assert_int_equal(fake_buf_check(p.target, 4160, 840, 2), -1);
	assert_int_equal(fake_buf_check(p.target, 5000, 3001, 1), -1);
	assert_int_equal(fake_buf_check(p.target, 8001, 2000, 2), -1);
	assert_int_equal(fake_buf_check(p.target, 10001, 7, 1), -1);
	assert_int_equal(fake_buf_check(p.target, 10008, 1000, 2), -1);
	/* A READ cuts no line of anybody's. */
	assert_int_equal(slice(&p, MC_OP_READ, 10001, 7, 0), MC_DONE);
	assert_int_equal(slice(&p, MC_OP_READ, LEN - 1, 2, 0), -EACCES);
	assert_int_equal(slice(&p, MC_OP_READ, 0, 0, 0), MC_DONE);
	end(&p);
}

static void test_lease_lapsed(void **state)
{
	struct pair p;

	begin(&p);
	fake_buf_fill(p.local, 0, LEN, 1);
	fake_buf_fill(p.target, 0, LEN, 2);
	fake_lease(p.w, 0);
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, LEN, 0), -ENETDOWN);
	assert_int_equal(slice(&p, MC_OP_READ, 0, LEN, 0), -ENETDOWN);
	assert_int_equal(fake_buf_check(p.target, 0, LEN, 2), -1);
	assert_int_equal(fake_buf_check(p.local, 0, LEN, 1), -1);
	fake_lease(p.w, 1);
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, LEN, 0), MC_DONE);
	assert_int_equal(fake_buf_check(p.target, 0, LEN, 1), -1);
	fake_lease(p.w, UINT64_MAX);
	end(&p);
}

/* ---- taking back -------------------------------------------------------------------------------- */

struct freeing {
	struct pair *p;
	bool over; /* atomic */
};

/* As a helper does it: the region is the host's until it returns. */
static void *free_main(void *arg)
{
	struct freeing *f = arg;
	struct fake_buf *b = f->p->target;

	b->inst->ops->mem_free(b->inst->priv, b->region, &b->desc);
	__atomic_store_n(&f->over, true, __ATOMIC_RELEASE);
	return NULL;
}

static uint64_t key_now(struct pair *p)
{
	const struct cxl_region *r = p->target->region;

	return cxl_key_read(&device_of(p->b)->pool, ledger_of(p->b)->slot, r->key_idx);
}

static void realloc_target(struct pair *p)
{
	struct mc_error err;

	/* The fixture's buffer has a region again, which its end frees. */
	assert_int_equal(p->b->ops->mem_alloc(p->b->priv, p->target->region, &p->target->desc, &err), 0);
}

/* Free while a lane says that it touches the memory: the key goes at once, the call comes back later. */
static void test_free_waits(void **state)
{
	struct freeing f;
	struct pair p;
	pthread_t thread;

	begin(&p);
	/* Taken, and no flush yet: the guard stands. */
	assert_int_equal(one(p.a, p.peer, MC_OP_WRITE, p.local, p.peer->remotes, 0, LEN, 0), MC_DONE);
	f = (struct freeing){.p = &p};
	assert_int_equal(pthread_create(&thread, NULL, free_main, &f), 0);
	while (key_now(&p))
		sched_yield();
	for (int i = 0; i < 1000; i++) {
		sched_yield();
		assert_false(__atomic_load_n(&f.over, __ATOMIC_ACQUIRE));
	}
	/* Under the same guard what was looked at before goes on; a new look is refused. */
	assert_int_equal(one(p.a, p.peer, MC_OP_WRITE, p.local, p.peer->remotes, 0, 64, 0), MC_DONE);
	fake_flush(p.a);
	pthread_join(thread, NULL);
	assert_int_equal(one(p.a, p.peer, MC_OP_WRITE, p.local, p.peer->remotes, 0, 64, 0), -EACCES);
	fake_flush(p.a);
	realloc_target(&p);
	end(&p);
}

/* An initiator that dies with its guard up holds a buffer for the quarantine, and not longer. */
static void test_free_outlives_the_dead(void **state)
{
	struct freeing f;
	struct pair p;
	pthread_t thread;

	begin(&p);
	assert_int_equal(one(p.a, p.peer, MC_OP_WRITE, p.local, p.peer->remotes, 0, LEN, 0), MC_DONE);
	p.a->paused = true;
	f = (struct freeing){.p = &p};
	assert_int_equal(pthread_create(&thread, NULL, free_main, &f), 0);
	while (key_now(&p))
		sched_yield();
	assert_false(__atomic_load_n(&f.over, __ATOMIC_ACQUIRE));
	lease_ends(&p, p.a, p.b);
	pthread_join(thread, NULL);
	/* Or cleared away already, where this took longer. */
	assert_true(cxl_ledger_dead(ledger_of(p.b), p.a->generation) ||
		    !cxl_doc_member(ledger_of(p.b)->doc, p.a->generation));
	realloc_target(&p);
	fake_flush(p.a);
	p.a->paused = false;
	fake_forgive(p.w);
	end(&p);
}

static bool alone(void *inst)
{
	return ledger_of(inst)->doc->nr_members == 1 && ledger_of(inst)->step == CXL_IDLE;
}

/* One that froze with its guard up and whose lease stands: free comes back, and nobody gets the bytes. */
static void test_free_has_a_bound(void **state)
{
	struct fake_buf *b, *spare, *all;
	struct cxl_ident ident;
	struct mc_error err;
	uint64_t offset;
	struct pair p;

	begin(&p);
	device_of(p.b)->patience_ns = 50 * MC_MSEC;
	assert_int_equal(fake_buf_new_owned(p.b, LEN, MC_ACCESS_ALL, &b, &err), 0);
	assert_int_equal(fake_buf_new_owned(p.b, LEN, MC_ACCESS_ALL, &spare, &err), 0);
	assert_int_equal(fake_buf_free(spare, BOUND), 0);
	offset = ((struct cxl_region *)b->region)->offset;
	assert_int_equal(one(p.a, p.peer, MC_OP_WRITE, p.local, p.peer->remotes, 0, 64, 0), MC_DONE);
	b->inst->ops->mem_free(b->inst->priv, b->region, &b->desc);
	assert_int_equal(b->inst->ops->mem_alloc(b->inst->priv, b->region, &b->desc, &err), 0);
	assert_true(((struct cxl_region *)b->region)->offset != offset);
	fake_flush(p.a);
	assert_int_equal(fake_buf_free(b, BOUND), 0);
	fake_peer_close(p.peer);
	fake_run(p.w, NULL, NULL, BOUND);
	assert_int_equal(fake_buf_free(p.target, BOUND), 0);
	fake_close(p.b, BOUND);
	/* Its slot stays, and is reaped as that of a dead one. */
	cxl_slot_read(&device_of(p.a)->pool, 1, &ident);
	assert_int_not_equal(ident.generation, 0);
	assert_int_equal(fake_run(p.w, alone, p.a, BOUND), 0);
	assert_int_equal(fake_buf_new_owned(p.a, POOL_SIZE - (256 << 10), MC_ACCESS_ALL, &all, &err), 0);
	assert_int_equal(fake_buf_free(all, BOUND), 0);
	assert_int_equal(fake_buf_free(p.local, BOUND), 0);
	fake_close(p.a, BOUND);
	assert_int_equal(fake_world_free(p.w), 0);
}

/* ---- death -------------------------------------------------------------------------------------- */

static bool is_gone(void *inst)
{
	return ((struct fake_inst *)inst)->last_event == MC_DEVICE_GONE;
}

/* Its units are free again after the quarantine; when it wakes up it hears of it, and touches nothing. */
static void test_quarantine(void **state)
{
	struct pair p;
	struct mc_error err;
	struct fake_buf *big;
	uint64_t since;

	begin(&p);
	fake_buf_fill(p.target, 0, LEN, 3);
	p.b->paused = true;
	/* More than is free while the other one has its units. */
	assert_int_equal(fake_buf_new_owned(p.a, POOL_SIZE - (128 << 10), MC_ACCESS_ALL, &big, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "in a row are not free"));
	since = fake_real_ns();
	lease_ends(&p, p.b, p.a);
	assert_int_equal(fake_run(p.w, alone, p.a, BOUND), 0);
	assert_true(fake_real_ns() - since >= 200 * MC_MSEC);
	assert_int_equal(fake_buf_new_owned(p.a, POOL_SIZE - (128 << 10), MC_ACCESS_ALL, &big, &err), 0);
	/* A key of its does not open what is another's now. */
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, 64, 0), -EACCES);
	p.b->paused = false;
	assert_int_equal(fake_run(p.w, is_gone, p.b, BOUND), 0);
	assert_non_null(strstr(p.b->event_why, "open the engine anew"));
	/* What its program writes there now goes nowhere. */
	fake_buf_fill(big, 0, big->len, 8);
	memset(p.target->base, 'x', LEN);
	assert_int_equal(fake_buf_check(big, 0, big->len, 8), -1);
	assert_int_equal(fake_buf_free(big, BOUND), 0);
	end(&p);
}

static void put_again(struct pair *p, struct fake_inst *of)
{
	int status = 1;
	char key[128];
	struct mc_kv_call c = {.size = sizeof c, .op = MC_KV_PUT, .key = key, .value = "x", .len = 1, .done = ignore,
			       .user = &status, .deadline_ns = UINT64_MAX};

	snprintf(key, sizeof key, "%salive/%016llx", ledger_of(of)->prefix, (unsigned long long)of->generation);
	assert_int_equal(of->host.kv(&of->host, &c), 0);
	assert_int_equal(fake_run(p->w, answered, &status, BOUND), 0);
}

/* A lease that lapsed and came back within the quarantine costs nothing. */
static void test_lapse_is_no_death(void **state)
{
	struct pair p;
	uint64_t until;

	/* Longer than a busy machine takes to put it again. */
	begin_with(&p, "quarantine=1s");
	lease_ends(&p, p.b, p.a);
	put_again(&p, p.b);
	until = fake_real_ns() + 1300 * MC_MSEC;
	while (fake_real_ns() < until)
		fake_run(p.w, NULL, NULL, MC_MSEC);
	assert_int_equal(ledger_of(p.a)->doc->nr_members, 2);
	fake_buf_fill(p.local, 0, LEN, 5);
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, LEN, 0), MC_DONE);
	end(&p);
}

/* ---- grants ------------------------------------------------------------------------------------- */

static bool both_in(void *ctx)
{
	struct pair *p = ctx;

	return ledger_of(p->a)->doc->nr_members == 2 && ledger_of(p->b)->doc->nr_members == 2 && is_joined(p->a) &&
	       is_joined(p->b);
}

/* The service has lost the grants: they are made again of what the pool says, with the same slots and units. */
static void test_grants_lost(void **state)
{
	struct pair p;
	struct fake_inst *c;
	struct cxl_grant before[2];

	begin(&p);
	cxl_ledger_kick(ledger_of(p.a));
	assert_int_equal(fake_run(p.w, both_in, &p, BOUND), 0);
	memcpy(before, ledger_of(p.a)->doc->grants, sizeof before);
	key_delete(&p, p.a, "grants");
	/* A new one comes first, and takes nothing of theirs. */
	p.a->paused = p.b->paused = true;
	c = opened(&p, NULL);
	p.a->paused = p.b->paused = false;
	assert_int_equal(ledger_of(c)->slot, 2);
	assert_int_equal(ledger_of(c)->doc->nr_members, 3);
	assert_memory_equal(ledger_of(c)->doc->grants, before, ledger_of(p.a)->doc->nr_grants * sizeof before[0]);
	fake_close(c, BOUND);
	key_delete(&p, p.a, "grants");
	cxl_ledger_kick(ledger_of(p.a));
	cxl_ledger_kick(ledger_of(p.b));
	fake_run(p.w, NULL, NULL, BOUND);
	cxl_ledger_kick(ledger_of(p.a));
	assert_int_equal(fake_run(p.w, both_in, &p, BOUND), 0);
	assert_memory_equal(ledger_of(p.a)->doc->grants, before, ledger_of(p.a)->doc->nr_grants * sizeof before[0]);
	fake_buf_fill(p.local, 0, LEN, 6);
	assert_int_equal(slice(&p, MC_OP_WRITE, 0, LEN, 0), MC_DONE);
	end(&p);
}

/* All at once: nobody has what another one has. */
static void test_crowd(void **state)
{
	enum { NR = 8 };
	struct fake_inst *inst[NR];
	struct fake_buf *buf[NR];
	struct mc_error err = {0};
	struct pair p;

	world_begin(&p, POOL_SIZE);
	for (int i = 0; i < NR; i++)
		assert_int_equal(engine_open(p.w, &p.plugin, "pool", NULL, &inst[i], &err), 0);
	for (int i = 0; i < NR; i++)
		assert_int_equal(fake_run(p.w, is_joined, inst[i], BOUND), 0);
	for (int i = 0; i < NR; i++) {
		assert_int_equal(fake_buf_new_owned(inst[i], 3 * LEN, MC_ACCESS_ALL, &buf[i], &err), 0);
		for (int j = 0; j < i; j++) {
			const struct cxl_region *x = buf[i]->region, *y = buf[j]->region;

			assert_true(x->offset + x->len <= y->offset || y->offset + y->len <= x->offset);
			assert_int_not_equal(ledger_of(inst[i])->slot, ledger_of(inst[j])->slot);
		}
	}
	for (int i = 0; i < NR; i++)
		fake_close(inst[i], BOUND);
	assert_int_equal(fake_world_free(p.w), 0);
}

/* Many buffers of all sizes, freed in another order: what is free comes together again. */
static void test_buffers(void **state)
{
	enum { NR = 512 };
	static struct fake_buf *buf[NR];
	struct fake_buf *more;
	struct mc_error err = {0};
	struct pair p;

	begin(&p);
	for (int i = 1; i < NR; i++)
		assert_int_equal(fake_buf_new_owned(p.b, 1 + (uint64_t)i * 37 % 9000, MC_ACCESS_ALL, &buf[i], &err), 0);
	assert_int_equal(fake_buf_new_owned(p.b, 1, MC_ACCESS_ALL, &more, &err), -EMFILE);
	assert_non_null(strstr(err.text, "keys for no more"));
	for (int i = 1; i < NR; i++)
		memset(buf[i]->base, i, buf[i]->len);
	for (int i = 1; i < NR; i++)
		for (uint64_t at = 0; at < buf[i]->len; at += 97)
			assert_int_equal(buf[i]->base[at], (unsigned char)i);
	for (int i = 0; i < NR; i++) {
		int k = i * 77 % NR;

		if (k)
			assert_int_equal(fake_buf_free(buf[k], BOUND), 0);
	}
	/* One range per extent, and one before the buffer that is left at most. */
	for (const struct cxl_free *f = device_of(p.b)->memory.list; f; f = f->next)
		assert_true(!f->next || f->offset + f->len < f->next->offset);
	assert_int_equal(fake_buf_new_owned(p.b, UINT64_C(1) << 40, MC_ACCESS_ALL, &more, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "make it larger"));
	end(&p);
}

/* ---- what is not ours --------------------------------------------------------------------------- */

static bool answered_ready(void *ctx)
{
	return ((struct fake_peer *)ctx)->status != 1;
}

static void test_other_pool(void **state)
{
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct mc_error err = {0};
	struct pair p;

	world_begin(&p, POOL_SIZE);
	assert_int_equal(pool_make("other", POOL_SIZE, 9), 0);
	a = opened(&p, NULL);
	assert_int_equal(engine_open(p.w, &p.plugin, "other", NULL, &b, &err), 0);
	assert_int_equal(fake_link(a, b, &la, &lb), 0);
	assert_int_equal(fake_peer_open(a, la, &peer), 0);
	assert_int_equal(fake_run(p.w, answered_ready, peer, BOUND), 0);
	assert_int_equal(peer->status, -EXDEV);
	assert_non_null(strstr(peer->why, "both ends must map the same one"));
	fake_peer_close(peer);
	fake_run(p.w, NULL, NULL, BOUND);
	fake_close(a, BOUND);
	fake_close(b, BOUND);
	assert_int_equal(fake_world_free(p.w), 0);
}

static uint64_t file_sum(const char *path)
{
	uint64_t sum = 1;
	FILE *f = fopen(path, "re");
	int c;

	assert_non_null(f);
	while ((c = getc(f)) != EOF)
		sum = sum * 31 + (unsigned)c;
	fclose(f);
	return sum;
}

/* Open it, be refused with this word and errno; not a byte of it is changed, and formatting is refused too. */
static void refused(struct pair *p, const char *name, int status, const char *word)
{
	struct mc_error err = {0};
	struct fake_inst *inst;
	char path[128];
	uint64_t before = 0;

	pool_path(name, path);
	if (access(path, F_OK) == 0)
		before = file_sum(path);
	assert_int_equal(engine_open(p->w, &p->plugin, name, NULL, &inst, &err), status);
	if (!strstr(err.text, word))
		fail_msg("%s", err.text);
	if (before)
		assert_true(file_sum(path) == before);
}

static void poke(const char *name, off_t at, const void *bytes, size_t len)
{
	char path[128];
	int fd;

	pool_path(name, path);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && pwrite(fd, bytes, len, at) == (ssize_t)len);
	close(fd);
}

static void test_refused(void **state)
{
	static const uint32_t version = 2;
	struct cxl_place place;
	struct cxl_geometry g;
	uint8_t uuid[CXL_UUID_LEN] = {1};
	struct mc_error err;
	char path[128];
	struct pair p;

	world_begin(&p, POOL_SIZE);
	refused(&p, "nothing", -ENODEV, "mooncake cxl format");
	refused(&p, "dax987.0", -ENODEV, "daxctl list");
	poke("tiny", 0, "x", 1);
	refused(&p, "tiny", -ENOSPC, "too few");
	poke("fresh", (1 << 20) - 1, "", 1);
	refused(&p, "fresh", -ENODATA, "mooncake cxl format");
	poke("foreign", 0, "another program's", 17);
	poke("foreign", 1 << 20, "", 1);
	refused(&p, "foreign", -EBADMSG, "left as it is");
	assert_int_equal(pool_make("later", POOL_SIZE, 3), 0);
	poke("later", 8, &version, sizeof version);
	refused(&p, "later", -EPROTONOSUPPORT, "same release");
	assert_int_equal(pool_make("cut", POOL_SIZE, 3), 0);
	pool_path("cut", path);
	assert_int_equal(truncate(path, POOL_SIZE / 2), 0);
	refused(&p, "cut", -ENOSPC, "give the device its size back");
	assert_int_equal(pool_make("damaged", POOL_SIZE, 3), 0);
	poke("damaged", 40, "\1\2\3", 3);
	refused(&p, "damaged", -EIO, "damaged");
	/* Formatting is refused where anything is, and done when told to. */
	pool_path("foreign", path);
	assert_int_equal(cxl_device_find_path(path, &place, &err), 0);
	assert_int_equal(cxl_pool_format(&place, 0, 0, uuid, false, &g, &err), -EEXIST);
	assert_non_null(strstr(err.text, "--force"));
	refused(&p, "foreign", -EBADMSG, "left as it is");
	assert_int_equal(cxl_pool_format(&place, 0, 0, uuid, true, &g, &err), 0);
	pool_path("pool", path);
	assert_int_equal(cxl_device_find_path(path, &place, &err), 0);
	assert_int_equal(cxl_pool_format(&place, 0, 0, uuid, false, &g, &err), -EEXIST);
	assert_non_null(strstr(err.text, "engines may be using it"));
	if (geteuid()) {
		assert_int_equal(chmod(path, 0400), 0);
		refused(&p, "pool", -EACCES, "let this user");
	}
	assert_int_equal(fake_world_free(p.w), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, pool_setup, pool_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_lines), TEST(test_lease_lapsed), TEST(test_free_waits), TEST(test_free_outlives_the_dead),
		TEST(test_free_has_a_bound),
		TEST(test_quarantine), TEST(test_lapse_is_no_death), TEST(test_grants_lost), TEST(test_crowd),
		TEST(test_buffers), TEST(test_other_pool), TEST(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
