/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The managed store under faults, held against a model: real processes (a master with a log,
 * lenders), which are killed by SIGKILL and frozen at random while threads put, get, replace, look
 * for and remove values.  Each thread has keys of its own, and knows for each which values it may
 * find: the last that was acknowledged, and those whose end it did not hear.
 *
 *   store-storm CASE [SECONDS [SEED]]     STORE, MASTER: the programs
 *
 *   master   the master is killed and frozen; memory lives, so what was acknowledged must be there
 *   lenders  lenders, too; a value may be gone then, but is never another one
 *   full     the pool is too small: values are evicted while the master is killed
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <fcntl.h>

#define T (60 * MC_SEC)
#include "engines.h"

#include <mooncake/store.h>

#define TCP "{\"*\": [[\"tcp:lo\"]]}"
#define THREADS 3
#define KEYS 48 /* of a thread */
#define BATCH 6
#define VALUE_MAX 40000u
#define MAY 12 /* values that a key may have */
#define LENDERS 2

enum verb { PUT, GET, EXIST, REMOVE, VERBS };
static const char *const verb_names[] = {"put", "get", "exist", "remove"};

struct key {
	char name[24];
	uint32_t version;     /* of the last put that was begun */
	uint32_t may[MAY];    /* versions that may be found; the last one first */
	bool unsure[MAY];     /* its put was not heard of again: it may come late */
	unsigned nr;
	bool absent;          /* it may be that there is none */
};

struct worker {
	pthread_t thread;
	unsigned idx;
	uint64_t random;
	struct mc_store *store;
	struct key keys[KEYS];
	uint8_t *buffer; /* BATCH values */
	_Atomic int doing; /* enum verb; VERBS: nothing */
	uint64_t nr[VERBS], refused, unheard;
};

static struct worker workers[THREADS];
static atomic_bool stop, lossy; /* lossy: values may go by themselves */
static char meta_flag[128], log_flag[128];
static pid_t master, lenders[LENDERS];
static uint64_t killed_in[VERBS], kills, freezes, seed, chance;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t draw(uint64_t *state, uint64_t below)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (*state >> 11) % below;
}

static void nap(uint64_t ms)
{
	struct timespec ts = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

/* ---- values --------------------------------------------------------------------------------------- */

static uint64_t tag_of(const struct worker *w, const struct key *k, uint32_t version)
{
	return ((uint64_t)w->idx << 56) | ((uint64_t)(k - w->keys) << 40) | version;
}

static uint32_t len_of(uint64_t tag)
{
	return 1 + (uint32_t)((tag * UINT64_C(0x9e3779b97f4a7c15) >> 33) % VALUE_MAX);
}

static uint8_t byte_of(uint64_t tag, uint32_t at)
{
	return (uint8_t)((tag + (at & ~7u)) * UINT64_C(0xd1342543de82ef95) >> (8 * (at & 7)));
}

static void fill(uint8_t *to, uint64_t tag)
{
	for (uint32_t i = 0; i < len_of(tag); i++)
		to[i] = byte_of(tag, i);
}

static bool filled(const uint8_t *data, uint64_t len, uint64_t tag)
{
	if (len != len_of(tag))
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (data[i] != byte_of(tag, i))
			return false;
	return true;
}

/* ---- the model ------------------------------------------------------------------------------------ */

/* Only this version, and what may come late. */
static void settle(struct key *k, uint32_t version, bool present)
{
	unsigned n = 0;

	for (unsigned i = 0; i < k->nr; i++) {
		if (!k->unsure[i] || (present && k->may[i] == version))
			continue;
		k->may[n] = k->may[i];
		k->unsure[n++] = true;
	}
	k->nr = n;
	if (present) {
		k->may[k->nr] = version;
		k->unsure[k->nr++] = false;
	}
	k->absent = !present;
}

static void perhaps(struct key *k, uint32_t version)
{
	if (k->nr == MAY - 1) { /* the oldest is far behind its deadline */
		memmove(k->may, k->may + 1, (MAY - 1) * sizeof *k->may);
		memmove(k->unsure, k->unsure + 1, (MAY - 1) * sizeof *k->unsure);
		k->nr--;
	}
	k->may[k->nr] = version;
	k->unsure[k->nr++] = true;
}

static void not_there(struct worker *w, struct key *k, const char *verb)
{
	CHECK(k->absent || atomic_load(&lossy), "seed %llu: %s: '%s' is gone, version %u was acknowledged",
	      (unsigned long long)seed, verb, k->name, k->nr ? k->may[k->nr - 1] : 0);
	settle(k, 0, false);
}

static void got(struct worker *w, struct key *k, const uint8_t *data, uint64_t len)
{
	for (unsigned i = 0; i < k->nr; i++) {
		if (filled(data, len, tag_of(w, k, k->may[i]))) {
			settle(k, k->may[i], true);
			return;
		}
	}
	CHECK(false, "seed %llu: get: '%s' has %llu bytes that are none of the %u values it may have (last begun: %u)",
	      (unsigned long long)seed, k->name, (unsigned long long)len, k->nr, k->version);
}

/* Nobody knows what became of it. */
static bool unheard(int status)
{
	return status == -ETIMEDOUT || status == -EHOSTDOWN || status == -ESTALE || status == -ECANCELED || status == -EIO;
}

static void judge(struct worker *w, enum verb verb, struct key *k, const struct mc_store_op *op, bool replace)
{
	int s = op->status;

	w->nr[verb]++;
	w->unheard += unheard(s);
	if (verb == PUT && s == 0)
		settle(k, k->version, true);
	else if (verb == PUT && unheard(s))
		perhaps(k, k->version);
	else if (verb == PUT && s == -EEXIST)
		CHECK(k->nr && !replace, "seed %llu: put: '%s' is said to be there", (unsigned long long)seed, k->name);
	else if (verb == REMOVE && s == 0)
		settle(k, 0, false);
	else if (s == -ENOENT && verb != PUT)
		not_there(w, k, verb_names[verb]);
	else if (verb == REMOVE && unheard(s))
		k->absent = true;
	else if (verb == GET && s == 0)
		got(w, k, op->ranges->addr, op->moved == op->len ? op->len : UINT64_MAX);
	else if (verb == EXIST && s == 0)
		CHECK(k->nr, "seed %llu: exist: '%s' is there, and was never put", (unsigned long long)seed, k->name);
	else if (s == -ENOSPC || s == -EBUSY || s == -EAGAIN)
		w->refused++;
	else
		CHECK(unheard(s), "seed %llu: %s: '%s': %s", (unsigned long long)seed, verb_names[verb], k->name, strerror(-s));
}

/* ---- workers -------------------------------------------------------------------------------------- */

static void turn(struct worker *w, enum verb verb, const unsigned *which, unsigned nr, uint64_t timeout_ns)
{
	bool replace = draw(&w->random, 3) > 0;
	struct mc_store_range ranges[BATCH];
	struct mc_store_op ops[BATCH] = {0};
	struct mc_store_config config = {.size = sizeof config};

	if (verb == REMOVE)
		config.flags = MC_STORE_FORCE;
	else if (verb == PUT && replace)
		config.flags = MC_STORE_REPLACE;
	for (unsigned i = 0; i < nr; i++) {
		struct key *k = &w->keys[which[i]];
		uint8_t *at = w->buffer + i * VALUE_MAX;

		ranges[i] = (struct mc_store_range){at, VALUE_MAX};
		ops[i] = (struct mc_store_op){.key = k->name, .key_len = (uint32_t)strlen(k->name), .ranges = &ranges[i], .nr_ranges = 1};
		if (verb == PUT) {
			ranges[i].len = len_of(tag_of(w, k, ++k->version));
			fill(at, tag_of(w, k, k->version));
		} else if (verb == GET) {
			memset(at, 0xa5, VALUE_MAX);
		}
	}
	atomic_store(&w->doing, (int)verb);
	if (verb == PUT)
		mc_store_put_batch(w->store, ops, nr, &config, timeout_ns, NULL);
	else if (verb == GET)
		mc_store_get_batch(w->store, ops, nr, &config, timeout_ns, NULL);
	else if (verb == EXIST)
		mc_store_exist_batch(w->store, ops, nr, &config, timeout_ns, NULL);
	else
		mc_store_remove_batch(w->store, ops, nr, &config, timeout_ns, NULL);
	atomic_store(&w->doing, VERBS);
	for (unsigned i = 0; i < nr; i++)
		judge(w, verb, &w->keys[which[i]], &ops[i], replace);
}

static void *work(void *arg)
{
	static const enum verb often[] = {PUT, PUT, PUT, GET, GET, GET, GET, EXIST, REMOVE};
	struct worker *w = arg;

	while (!atomic_load(&stop) && failures < 5) {
		unsigned which[BATCH], nr = 1 + (unsigned)draw(&w->random, BATCH), first = (unsigned)draw(&w->random, KEYS);

		for (unsigned i = 0; i < nr; i++)
			which[i] = (first + i * 5) % KEYS;
		turn(w, often[draw(&w->random, sizeof often / sizeof *often)], which, nr, 20 * MC_SEC);
	}
	return NULL;
}

static void workers_begin(struct mc_engine *engine)
{
	struct mc_store_options options = {.size = sizeof options, .staging_len = 4 << 20};
	struct mc_error err = {0};

	for (unsigned i = 0; i < THREADS; i++) {
		struct worker *w = &workers[i];
		void *buffer = NULL;
		int r;

		w->idx = i;
		w->doing = VERBS;
		w->random = seed * 31 + i * UINT64_C(0x9e3779b97f4a7c15) + 1;
		for (unsigned k = 0; k < KEYS; k++) {
			snprintf(w->keys[k].name, sizeof w->keys[k].name, "storm/%u/%u", i, k);
			w->keys[k].absent = true;
		}
		r = mc_store_open(engine, &options, T, &w->store, &err);
		if (r == 0) /* one of them passes through staging memory */
			r = i ? mc_memory_alloc(engine, "*", BATCH * VALUE_MAX, MC_ACCESS_LOCAL, T, &buffer, &err) :
				(buffer = malloc(BATCH * VALUE_MAX)) ? 0 : -ENOMEM;
		w->buffer = buffer;
		CHECK(r == 0, "worker: %s", err.text);
		if (r < 0 || pthread_create(&w->thread, NULL, work, w) != 0)
			exit(1);
	}
}

/* ---- processes ------------------------------------------------------------------------------------ */

static pid_t run(const char *program, const char *name, const char *const *flags)
{
	char ready[128], said[128], ready_flag[160], name_flag[64];
	const char *argv[24] = {program};
	size_t n = 1;
	pid_t pid;

	snprintf(ready, sizeof ready, "%s/%s.ready", dir, name);
	snprintf(ready_flag, sizeof ready_flag, "--ready_file=%s", ready);
	snprintf(said, sizeof said, "%s/%s.said", dir, name);
	snprintf(name_flag, sizeof name_flag, "--local_server_name=%s", name);
	unlink(ready);
	for (; *flags; flags++)
		argv[n++] = *flags;
	argv[n++] = ready_flag;
	argv[n++] = meta_flag;
	argv[n++] = "--port=0";
	argv[n++] = "--advertise_address=127.0.0.1";
	argv[n++] = "--nic_priority_matrix=" TCP;
	argv[n++] = name_flag;
	pid = fork();
	if (pid == 0) {
		int fd = open(said, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(program, (char **)argv);
		_exit(127);
	}
	for (uint64_t end = now_ns() + T; access(ready, F_OK) < 0; nap(5)) {
		int status;

		if (now_ns() > end || waitpid(pid, &status, WNOHANG) == pid) {
			char cmd[200];

			snprintf(cmd, sizeof cmd, "tail -n 5 %s", said);
			printf("FAIL seed %llu: '%s' did not start\n", (unsigned long long)seed, name);
			exit(system(cmd) ? 1 : 1);
		}
	}
	return pid;
}

static void master_begin(void)
{
	static const char *const flags[] = {log_flag, "--default_kv_lease_ttl=300ms", "--client_ttl=6",
					    "--put_start_discard_timeout_sec=2", NULL};

	master = run(getenv("MASTER"), "mooncake_master", flags);
}

static void lender_begin(unsigned i, const char *size)
{
	const char *const flags[] = {"serve", size, NULL};
	char name[32];
	static unsigned lives;

	snprintf(name, sizeof name, "lender-%u-%u", i, lives++);
	lenders[i] = run(getenv("STORE"), name, flags);
}

static void kill_now(pid_t pid)
{
	for (unsigned i = 0; i < THREADS; i++) {
		int doing = atomic_load(&workers[i].doing);

		if (doing < VERBS)
			killed_in[doing]++;
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	kills++;
}

static void freeze(pid_t pid)
{
	kill(pid, SIGSTOP);
	nap(20 + draw(&chance, 200));
	kill(pid, SIGCONT);
	freezes++;
}

static void fault(const char *name, const char *size)
{
	unsigned what = (unsigned)draw(&chance, 10), which = (unsigned)draw(&chance, LENDERS);

	nap(draw(&chance, draw(&chance, 2) ? 60 : 900));
	if (what < 6) {
		kill_now(master);
		if (draw(&chance, 3) == 0)
			nap(draw(&chance, 400));
		master_begin();
	} else if (what < 8) {
		freeze(draw(&chance, 2) ? master : lenders[which]);
	} else if (strcmp(name, "lenders") == 0) {
		kill_now(lenders[which]);
		lender_begin(which, size);
	}
}

/* Everything that was acknowledged, once more and in peace. */
static void look_at_all(void)
{
	for (unsigned i = 0; i < THREADS; i++) {
		struct worker *w = &workers[i];

		for (unsigned k = 0; k < KEYS; k += BATCH) {
			unsigned which[BATCH];

			for (unsigned b = 0; b < BATCH; b++)
				which[b] = k + b;
			turn(w, GET, which, BATCH, T);
		}
	}
}

static void tell(const char *name, uint64_t start)
{
	uint64_t nr[VERBS] = {0}, all = 0, refused = 0, lost = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		for (int v = 0; v < VERBS; v++) {
			nr[v] += workers[i].nr[v];
			all += workers[i].nr[v];
		}
		refused += workers[i].refused;
		lost += workers[i].unheard;
	}
	printf("%s: seed %llu: %llu operations in %.1f s (", name, (unsigned long long)seed, (unsigned long long)all,
	       (double)(now_ns() - start) / 1e9);
	for (int v = 0; v < VERBS; v++)
		printf("%s%s %llu", v ? ", " : "", verb_names[v], (unsigned long long)nr[v]);
	printf("), %llu refused, %llu without an answer; %llu processes killed (during", (unsigned long long)refused,
	       (unsigned long long)lost, (unsigned long long)kills);
	for (int v = 0; v < VERBS; v++)
		printf(" %s %llu", verb_names[v], (unsigned long long)killed_in[v]);
	printf("), %llu frozen\n", (unsigned long long)freezes);
	CHECK(all > 50 && kills > 0, "nothing has happened");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "master", *size = strcmp(name, "full") == 0 ? "--size=2M" : "--size=128M";
	uint64_t span = (argc > 2 ? strtoull(argv[2], NULL, 10) : 8) * MC_SEC, start;
	struct mc_engine *engine;

	seed = argc > 3 ? strtoull(argv[3], NULL, 10) : now_ns() % 1000000 + 1;
	chance = seed * 2654435761u + 1;
	if (!getenv("STORE") || !getenv("MASTER"))
		return 2;
	atomic_store(&lossy, strcmp(name, "master") != 0);
	engines_begin();
	snprintf(meta_flag, sizeof meta_flag, "--metadata_server=file://%s", dir);
	snprintf(log_flag, sizeof log_flag, "--dir=%s/log", dir);
	master_begin();
	for (unsigned i = 0; i < LENDERS; i++)
		lender_begin(i, size);
	engine = engine_new("storm", TCP);
	workers_begin(engine);
	start = now_ns();
	while (now_ns() - start < span && failures < 5)
		fault(name, size);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	if (failures < 5)
		look_at_all();
	tell(name, start);
	for (unsigned i = 0; i < THREADS; i++) {
		mc_store_close(workers[i].store, MC_SEC);
		if (!i)
			free(workers[i].buffer);
	}
	mc_engine_close(engine, T);
	for (unsigned i = 0; i < LENDERS; i++)
		kill(lenders[i], SIGKILL);
	kill(master, SIGKILL);
	while (wait(NULL) > 0)
		;
	return engines_end();
}
