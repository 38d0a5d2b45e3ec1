/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The P2P store by its public header, several engines of one process over the matrix that is named:
 * what is registered in unequal ranges arrives in others; replicas serve on; who may have which name;
 * a source whose bytes changed is quarantined; an interrupted get goes on; caps are kept; cancel, remove, few
 * writes to the metadata.
 *
 *   scenario-p2p MATRIX
 */
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include <mooncake/kv.h>
#include <mooncake/p2p_store.h>

#define T (60 * MC_SEC)
#include "engines.h"

#define SIZE ((size_t)3 * 1000 * 1000 + 123)
#define SHARD (64u << 10)
#define RANGES 7

struct node {
	struct mc_engine *engine;
	struct mc_p2p *store;
	unsigned char *mem;
	struct mc_p2p_range ranges[RANGES];
	size_t nr;
};

/* ---- writes to the metadata, counted on their way to the library ---------------------------------- */

static int writes;

static void *next_of(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);

	if (!f)
		abort();
	__atomic_fetch_add(&writes, 1, __ATOMIC_RELAXED);
	return f;
}

int mc_kv_write(struct mc_engine *engine, const char *key, const void *value, size_t len, uint32_t flags,
		uint64_t timeout_ns, uint64_t *ret_revision, struct mc_error *err)
{
	__typeof__(mc_kv_write) *f = (__typeof__(mc_kv_write) *)next_of("mc_kv_write");

	return f(engine, key, value, len, flags, timeout_ns, ret_revision, err);
}

int mc_kv_swap(struct mc_engine *engine, const char *key, const void *value, size_t len, uint64_t expect_revision,
	       uint32_t flags, uint64_t timeout_ns, uint64_t *ret_revision, struct mc_error *err)
{
	__typeof__(mc_kv_swap) *f = (__typeof__(mc_kv_swap) *)next_of("mc_kv_swap");

	return f(engine, key, value, len, expect_revision, flags, timeout_ns, ret_revision, err);
}

int mc_kv_remove(struct mc_engine *engine, const char *key, uint64_t expect_revision, uint64_t timeout_ns,
		 struct mc_error *err)
{
	__typeof__(mc_kv_remove) *f = (__typeof__(mc_kv_remove) *)next_of("mc_kv_remove");

	return f(engine, key, expect_revision, timeout_ns, err);
}

/* ---- nodes ------------------------------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char last_log[2000]; /* read when no get goes on */

static void on_log(void *arg, enum mc_log_level level, const char *line)
{
	pthread_mutex_lock(&log_lock);
	if (level <= MC_LOG_WARN)
		snprintf(last_log, sizeof last_log, "%s", line);
	pthread_mutex_unlock(&log_lock);
}

static unsigned char byte_at(size_t i, unsigned seed)
{
	return (unsigned char)(i * 31 + (i >> 9) * 7 + seed);
}

/* Ranges with gaps between them, of lengths that are odd and unequal, and of nobody else's cut. */
static void cut(struct node *n, size_t nr, size_t total)
{
	size_t left = total, at = 0;

	n->nr = nr;
	for (size_t i = 0; i < nr; i++) {
		size_t len = i + 1 == nr ? left : left / (nr - i) / 2 + 1 + 17 * i;

		n->ranges[i] = (struct mc_p2p_range){.addr = n->mem + at, .len = len};
		at += len + 4096 - len % 4096 + 4096;
		left -= len;
	}
}

static struct node node_new(const char *name, const char *matrix, size_t nr, uint64_t rate_serve, uint64_t rate_get)
{
	struct mc_p2p_options options = {.size = sizeof options, .log = on_log, .patience_ns = 3 * MC_SEC, .lanes = 3,
					 .max_rate_serve = rate_serve, .max_rate_get = rate_get};
	struct node n = {.engine = engine_new(name, matrix)};
	struct mc_error err = {0};

	CHECK(mc_p2p_open(n.engine, &options, &n.store, &err) == 0, "%s", err.text);
	n.mem = mmap(NULL, SIZE + RANGES * 8192 + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cut(&n, nr, SIZE);
	return n;
}

static void fill(struct node *n, unsigned seed)
{
	size_t at = 0;

	for (size_t r = 0; r < n->nr; r++)
		for (size_t i = 0; i < n->ranges[r].len; i++)
			((unsigned char *)n->ranges[r].addr)[i] = byte_at(at++, seed);
}

static bool intact(const struct node *n, unsigned seed)
{
	size_t at = 0;

	for (size_t r = 0; r < n->nr; r++)
		for (size_t i = 0; i < n->ranges[r].len; i++)
			if (((unsigned char *)n->ranges[r].addr)[i] != byte_at(at++, seed)) {
				printf("byte %zu is wrong\n", at - 1);
				return false;
			}
	return true;
}

static int put(struct node *n, const char *name, struct mc_error *err)
{
	struct mc_p2p_register_options options = {.size = sizeof options, .shard_size = SHARD, .attachment = "a list",
						  .attachment_len = 6};

	return mc_p2p_register(n->store, name, n->ranges, n->nr, &options, T, err);
}

static int get(struct node *n, const char *name, uint32_t flags, struct mc_error *err)
{
	struct mc_p2p_get_options options = {.size = sizeof options, .flags = flags};

	return mc_p2p_get_replica(n->store, name, n->ranges, n->nr, &options, T, err);
}

static void node_free(struct node *n)
{
	CHECK(mc_p2p_close(n->store, T) == 0, "close");
	CHECK(mc_engine_close(n->engine, T) == 0, "engine");
}

static int count_entry(void *ctx, const struct mc_p2p_entry *e)
{
	CHECK(e->len == SIZE && e->shard_size == SHARD, "%s: %llu", e->name, (unsigned long long)e->len);
	(*(int *)ctx)++;
	return 0;
}

static int count_key(void *ctx, const struct mc_kv_entry *e)
{
	*(uint64_t *)ctx = e->revision;
	return 0;
}

static void check_stat(struct node *n, const char *name, size_t sources)
{
	struct mc_p2p_info *info = NULL;
	struct mc_error err = {0};

	CHECK(mc_p2p_stat(n->store, name, T, &info, &err) == 0, "%s", err.text);
	if (!info)
		return;
	CHECK(info->len == SIZE && info->nr_sources == sources && info->nr_ranges == 3, "%zu sources", info->nr_sources);
	CHECK(info->attachment && info->attachment_len == 6 && memcmp(info->attachment, "a list", 6) == 0, "attachment");
	for (size_t i = 0; i < info->nr_sources; i++)
		CHECK(info->sources[i].answers && info->sources[i].have == info->nr_shards && info->sources[i].same_host,
		      "source %s has %u", info->sources[i].engine, info->sources[i].have);
	mc_p2p_info_free(info);
}

static void check_get(struct node *seed, struct node *a, struct node *b)
{
	struct mc_p2p_get *g = NULL;
	struct mc_p2p_progress p = {.size = sizeof p};
	struct mc_error err = {0};
	struct pollfd pfd;
	int nr = 0;

	fill(seed, 1);
	CHECK(put(seed, "models/ü 1", &err) == 0, "%s", err.text);
	CHECK(put(seed, "models/ü 1", &err) == -EEXIST, "twice");
	CHECK(get(a, "models/nothing", 0, &err) == -ENOENT, "%s", err.text);
	writes = 0;
	CHECK(get(a, "models/ü 1", 0, &err) == 0, "%s", err.text);
	CHECK(writes == 1, "%d writes to the metadata of a get", writes);
	CHECK(intact(a, 1), "the first getter's bytes");
	check_stat(b, "models/ü 1", 2);
	CHECK(mc_p2p_list(b->store, "models/", T, count_entry, &nr, &err) == 1 && nr == 1, "%s", err.text);
	CHECK(mc_p2p_list(b->store, "other/", T, count_entry, &nr, &err) == 0 && nr == 1, "%s", err.text);
	/* The seed goes; the replica serves on. */
	CHECK(mc_p2p_unregister(seed->store, "models/ü 1", T, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_unregister(seed->store, "models/ü 1", T, &err) == -ENOENT, "%s", err.text);
	CHECK(mc_p2p_get_start(b->store, "models/ü 1", b->ranges, b->nr, NULL, T, &g, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_close(b->store, T) == -EBUSY, "closed under a get");
	pfd = (struct pollfd){.fd = mc_p2p_get_fd(g), .events = POLLIN};
	CHECK(poll(&pfd, 1, 60000) == 1, "the descriptor");
	CHECK(mc_p2p_get_wait(g, 0, &err) == 0, "%s", err.text);
	mc_p2p_get_progress(g, &p);
	CHECK(p.state == MC_P2P_DONE && p.done_len == SIZE && p.done_shards == p.nr_shards && p.moved_len >= SIZE, "progress");
	mc_p2p_get_free(g);
	CHECK(intact(b, 1), "the second getter's bytes");
	writes = 0;
	CHECK(mc_p2p_delete_replica(a->store, "models/ü 1", T, &err) == 0, "%s", err.text);
	CHECK(writes <= 2, "%d writes to the metadata of an end", writes);
	CHECK(mc_p2p_delete_replica(b->store, "models/ü 1", T, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_list(b->store, "", T, count_entry, &nr, &err) == 0, "the last source takes the record along");
}

static void check_names(struct node *seed, struct node *a)
{
	struct mc_error err = {0};

	fill(seed, 2);
	fill(a, 3);
	CHECK(put(seed, "x", &err) == 0, "%s", err.text);
	CHECK(put(a, "x", &err) == -EEXIST && strstr(err.text, "'p2p-seed'") && strstr(err.text, "'p2p-a'"), "%s", err.text);
	fill(a, 2);
	CHECK(put(a, "x", &err) == 0, "the same from two: %s", err.text);
	CHECK(put(a, "bad\nname", &err) == -EINVAL && put(a, "", &err) == -EINVAL && put(a, "\xc0\xaf", &err) == -EINVAL, "names");
	CHECK(mc_p2p_unregister(seed->store, "x", T, &err) == 0 && mc_p2p_unregister(a->store, "x", T, &err) == 0, "%s", err.text);
}

/* A source whose memory changes after it was registered serves what does not verify. */
static void check_corrupt(struct node *bad, struct node *good, struct node *b)
{
	struct mc_error err = {0};
	int r;

	fill(bad, 4);
	fill(good, 4);
	CHECK(put(bad, "c", &err) == 0 && put(good, "c", &err) == 0, "%s", err.text);
	fill(bad, 5);
	last_log[0] = '\0';
	CHECK(get(b, "c", 0, &err) == 0, "%s", err.text);
	CHECK(intact(b, 4), "what came from the good one");
	/* The good one may have given the rest before the second look at the bad one was over. */
	if (*last_log)
		CHECK(strstr(last_log, "'p2p-seed'") && (strstr(last_log, "quarantined") || strstr(last_log, "does not verify")), "%s",
		      last_log);
	CHECK(mc_p2p_delete_replica(b->store, "c", T, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_unregister(good->store, "c", T, &err) == 0, "%s", err.text);
	r = get(b, "c", 0, &err);
	CHECK(r == -EBADMSG && strstr(err.text, "'p2p-seed'"), "%d %s", r, err.text);
	CHECK(mc_p2p_unregister(bad->store, "c", T, &err) == 0, "%s", err.text);
}

static void check_resume(struct node *seed, struct node *a)
{
	struct mc_p2p_get_options options = {.size = sizeof options, .flags = MC_P2P_RESUME};
	struct mc_p2p_progress p = {.size = sizeof p};
	struct mc_error err = {0};
	struct mc_p2p_get *g = NULL;

	fill(seed, 6);
	fill(a, 6);
	memset(a->ranges[1].addr, 0xee, a->ranges[1].len);
	CHECK(put(seed, "r", &err) == 0, "%s", err.text);
	CHECK(mc_p2p_get_start(a->store, "r", a->ranges, a->nr, &options, T, &g, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_get_wait(g, T, &err) == 0, "%s", err.text);
	mc_p2p_get_progress(g, &p);
	CHECK(p.resumed_len > 0 && p.resumed_len + p.moved_len >= SIZE && p.resumed_len <= SIZE - a->ranges[1].len,
	      "resumed %llu, moved %llu", (unsigned long long)p.resumed_len, (unsigned long long)p.moved_len);
	mc_p2p_get_free(g);
	CHECK(intact(a, 6), "resumed");
	CHECK(mc_p2p_delete_replica(a->store, "r", T, &err) == 0, "%s", err.text);
}

static void check_end(struct node *seed, struct node *a, struct node *b)
{
	struct mc_error err = {0};
	struct mc_p2p_get *g = NULL;
	uint32_t told = 0;
	uint64_t revision = 0;
	int r;

	/* "r" is still there. */
	CHECK(mc_p2p_get_start(a->store, "r", a->ranges, a->nr, NULL, T, &g, &err) == 0, "%s", err.text);
	mc_p2p_get_cancel(g);
	r = mc_p2p_get_wait(g, T, &err);
	CHECK(r == -ECANCELED || r == 0, "%d %s", r, err.text);
	mc_p2p_get_free(g);
	if (r == 0)
		CHECK(mc_p2p_delete_replica(a->store, "r", T, &err) == 0, "%s", err.text);
	CHECK(get(a, "r", 0, &err) == 0, "%s", err.text);
	CHECK(mc_kv_each(a->engine, "p2p/source/", T, count_key, &revision, &err) == 2, "keys of sources");
	b->ranges[0].len--;
	CHECK(get(b, "r", 0, &err) == -EINVAL, "%s", err.text);
	b->ranges[0].len++;
	CHECK(mc_p2p_remove(b->store, "r", T, &told, &err) == 0 && told == 2, "%u told: %s", told, err.text);
	CHECK(mc_p2p_remove(b->store, "r", T, &told, &err) == -ENOENT, "%s", err.text);
	CHECK(get(b, "r", 0, &err) == -ENOENT, "%s", err.text);
	for (int i = 0; i < 200 && mc_kv_each(a->engine, "p2p/", T, count_key, &revision, &err) != 0; i++)
		usleep(50000);
	CHECK(mc_kv_each(a->engine, "p2p/", T, count_key, &revision, &err) == 0, "keys stay after remove");
	CHECK(mc_p2p_unregister(seed->store, "r", T, &err) == 0 && mc_p2p_delete_replica(a->store, "r", T, &err) == 0, "%s",
	      err.text);
	/* Nobody offers it: the record stands, its only source has died without a word. */
	CHECK(mc_kv_write(a->engine, "p2p/object/broken", "{", 1, 0, T, NULL, &err) == 0, "%s", err.text);
	CHECK(get(b, "broken", 0, &err) == -EBADMSG, "%s", err.text);
	CHECK(mc_p2p_remove(b->store, "broken", T, NULL, &err) == 0, "%s", err.text);
}

/* Two get at once from one that is slow, and from each other; it goes when half is there, and another one comes. */
static void check_together(struct node *seed, struct node *a, struct node *b, const char *matrix)
{
	struct node slow = node_new("p2p-slow", matrix, 4, 4 * SIZE, 0);
	struct node *to[2] = {a, b};
	struct mc_p2p_get *g[2] = {NULL, NULL};
	struct mc_p2p_progress p = {.size = sizeof p};
	struct mc_error err = {0};

	fill(&slow, 8);
	fill(seed, 8);
	CHECK(put(&slow, "t", &err) == 0, "%s", err.text);
	for (int i = 0; i < 2; i++)
		CHECK(mc_p2p_get_start(to[i]->store, "t", to[i]->ranges, to[i]->nr, NULL, T, &g[i], &err) == 0, "%s", err.text);
	do {
		usleep(2000);
		mc_p2p_get_progress(g[0], &p);
	} while (p.state < MC_P2P_DONE && p.done_len < SIZE / 2);
	CHECK(mc_p2p_unregister(slow.store, "t", T, &err) == 0, "%s", err.text);
	CHECK(put(seed, "t", &err) == 0, "%s", err.text);
	for (int i = 0; i < 2; i++) {
		CHECK(mc_p2p_get_wait(g[i], T, &err) == 0, "%s", err.text);
		mc_p2p_get_free(g[i]);
		CHECK(intact(to[i], 8), "getter %d of two", i);
		CHECK(mc_p2p_delete_replica(to[i]->store, "t", T, &err) == 0, "%s", err.text);
	}
	CHECK(mc_p2p_unregister(seed->store, "t", T, &err) == 0, "%s", err.text);
	node_free(&slow);
}

/* SIZE at RATE takes half a second; what is moved at once at the begin and the end is a small part of that. */
#define RATE (2 * SIZE)

static double seconds_of_get(struct node *from, struct node *to)
{
	struct timespec a, b;
	struct mc_error err = {0};

	CHECK(put(from, "slow", &err) == 0, "%s", err.text);
	clock_gettime(CLOCK_MONOTONIC, &a);
	CHECK(get(to, "slow", 0, &err) == 0, "%s", err.text);
	clock_gettime(CLOCK_MONOTONIC, &b);
	CHECK(intact(to, 7), "slowly");
	CHECK(mc_p2p_delete_replica(to->store, "slow", T, &err) == 0, "%s", err.text);
	CHECK(mc_p2p_unregister(from->store, "slow", T, &err) == 0, "%s", err.text);
	return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

static void check_rates(struct node *seed, struct node *a, const char *matrix)
{
	struct node capped = node_new("p2p-capped", matrix, 2, RATE, RATE);
	double took;

	fill(seed, 7);
	took = seconds_of_get(seed, &capped);
	CHECK(took > 0.35, "the cap on getting was not kept: %.3f s", took);
	fill(&capped, 7);
	took = seconds_of_get(&capped, a);
	CHECK(took > 0.3, "the cap on serving was not kept: %.3f s", took);
	node_free(&capped);
}

static bool stop_at_third(void *arg)
{
	return __atomic_add_fetch((unsigned *)arg, 1, __ATOMIC_RELAXED) >= 3;
}

/* Hashing can be stopped, and leaves nothing behind. */
static void check_stop(struct node *seed)
{
	unsigned asked = 0;
	struct mc_p2p_register_options options = {.size = sizeof options, .stop = stop_at_third, .stop_arg = &asked};
	struct mc_error err = {0};
	uint64_t revision = 0;

	CHECK(mc_p2p_register(seed->store, "stopped", seed->ranges, seed->nr, &options, T, &err) == -ECANCELED, "%s", err.text);
	CHECK(asked >= 3 && asked < 3 + 3, "asked %u times by 3 threads", asked);
	CHECK(mc_kv_each(seed->engine, "p2p/object/stopped", T, count_key, &revision, &err) == 0, "its record stays");
	CHECK(put(seed, "stopped", &err) == 0, "%s", err.text);
	CHECK(mc_p2p_unregister(seed->store, "stopped", T, &err) == 0, "%s", err.text);
}

#define GETS 24

/* A get leaves nothing at its source: what it asked for too much would block the source's slots for the next ones,
 * for seconds each time. */
static void check_again_and_again(struct node *seed, struct node *a)
{
	struct mc_p2p_register_options options = {.size = sizeof options, .shard_size = (uint64_t)4 << 20};
	struct timespec begin, end;
	struct mc_error err = {0};

	CHECK(mc_p2p_register(seed->store, "one", seed->ranges, seed->nr, &options, T, &err) == 0, "%s", err.text);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int i = 0; i < GETS; i++) {
		CHECK(get(a, "one", 0, &err) == 0, "%s", err.text);
		CHECK(mc_p2p_delete_replica(a->store, "one", T, &err) == 0, "%s", err.text);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	CHECK(end.tv_sec - begin.tv_sec < 15, "%d gets of one shard took %d s", GETS, (int)(end.tv_sec - begin.tv_sec));
	CHECK(mc_p2p_unregister(seed->store, "one", T, &err) == 0, "%s", err.text);
}

int main(int argc, char **argv)
{
	const char *matrix = argc > 1 ? argv[1] : "{\"*\": [[\"tcp:lo\"]]}";
	struct node seed, a, b;

	engines_begin();
	seed = node_new("p2p-seed", matrix, 3, 0, 0);
	a = node_new("p2p-a", matrix, 5, 0, 0);
	b = node_new("p2p-b", matrix, RANGES, 0, 0);
	check_get(&seed, &a, &b);
	check_names(&seed, &a);
	check_corrupt(&seed, &a, &b);
	check_resume(&seed, &a);
	check_end(&seed, &a, &b);
	check_stop(&seed);
	check_again_and_again(&seed, &a);
	check_rates(&seed, &a, matrix);
	check_together(&seed, &a, &b, matrix);
	node_free(&a);
	node_free(&seed);
	node_free(&b);
	return engines_end();
}
