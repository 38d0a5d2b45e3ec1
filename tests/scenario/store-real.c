/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The managed store's client library with a real master and lenders that are processes:
 * replicas and pieces over all of them, tenants, what is listed and removed, a lender that is
 * stopped, wrong bits on the wire, leases that run out, and a writer that is stopped in the
 * middle of a put over shared memory while others are given room.
 *
 *   PROGRAM MASTER CASE
 *   PROGRAM --lend DIR NAME MATRIX LEN      until its input ends
 *   PROGRAM --write DIR NAME MATRIX         puts until something fails
 */
#define T (60 * MC_SEC)
#include "engines.h"

#include <mooncake/store.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define LENDERS 3
#define MEM ((size_t)32 << 20)
#define TCP "{\"*\": [[\"tcp:lo\"]]}"
#define SHM "{\"*\": [[\"shm:shm0\"], [\"tcp:lo\"]]}"

static const char *self, *program;
static pid_t master, lenders[LENDERS], writer;
static struct mc_engine *engine;
static struct mc_store *store;
static unsigned char *mem;

/* ---- processes ------------------------------------------------------------------------------------ */

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void wait_for(const char *what)
{
	char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, what);
	for (int i = 0; access(path, F_OK) < 0; i++) {
		if (i == 1200) {
			printf("FAIL '%s' did not come up\n", what);
			exit(1);
		}
		pause_ms(50);
	}
}

static void ready(const char *what)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, what);
	f = fopen(path, "w");
	if (f)
		fclose(f);
}

static pid_t spawn(const char *path, const char *const *argv)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(path, (char *const *)argv);
		_exit(127);
	}
	return pid;
}

static void master_start(const char *lease, const char *put_ttl, const char *client_ttl)
{
	char url[64], log[64], file[64], l[64], p[64], c[64];
	const char *argv[] = {program, url, log, file, l, p, "--port=0", "--nic_priority_matrix=" TCP, "--advertise_address=127.0.0.1",
			      c, NULL};

	snprintf(url, sizeof url, "--metadata_server=file://%s", dir);
	snprintf(log, sizeof log, "--dir=%s/log", dir);
	snprintf(file, sizeof file, "--ready_file=%s/master", dir);
	snprintf(l, sizeof l, "--default_kv_lease_ttl=%s", lease);
	snprintf(p, sizeof p, "--put_start_discard_timeout_sec=%s", put_ttl);
	snprintf(c, sizeof c, "--client_ttl=%s", client_ttl);
	master = spawn(program, argv);
	wait_for("master");
}

static void lenders_start(const char *matrix, const char *len)
{
	for (int i = 0; i < LENDERS; i++) {
		char name[16];
		const char *argv[] = {self, "--lend", dir, name, matrix, len, NULL};

		snprintf(name, sizeof name, "lender-%d", i);
		lenders[i] = spawn(self, argv);
		wait_for(name);
	}
}

static int lend(char **argv)
{
	struct mc_engine *e;
	struct mc_store *s;
	struct mc_error err = {0};

	snprintf(dir, sizeof dir, "%s", argv[0]);
	mc_log_set_level(MC_LOG_ERROR);
	e = engine_new(argv[1], argv[2]);
	if (mc_store_open(e, NULL, T, &s, &err) < 0 || mc_store_lend(s, NULL, strtoull(argv[3], NULL, 0), NULL, T, NULL, &err) < 0) {
		printf("FAIL %s: %s\n", argv[1], err.text);
		return 1;
	}
	ready(argv[1]);
	for (;;)
		pause();
}

static void end(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGCONT);
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

static struct mc_store *store_open(const char *tenant, bool checksum)
{
	struct mc_store_options o = {.size = sizeof o, .tenant = tenant, .checksum = checksum};
	struct mc_error err = {0};
	struct mc_store *s = NULL;

	CHECK(mc_store_open(engine, &o, T, &s, &err) == 0, "%s", err.text);
	if (!s)
		exit(1);
	return s;
}

static void user_start(const char *matrix, const char *const *settings)
{
	struct mc_config *c = config_new("user", matrix);
	struct mc_error err = {0};

	for (; *settings; settings += 2)
		CHECK(mc_config_set(c, settings[0], settings[1], &err) == 0, "%s", err.text);
	CHECK(mc_engine_open(c, T, &engine, &err) == 0, "%s", err.text);
	mc_config_free(c);
	if (!engine)
		exit(1);
	CHECK(mc_memory_alloc(engine, "*", MEM, MC_ACCESS_LOCAL, T, (void **)&mem, &err) == 0, "%s", err.text);
	store = store_open(NULL, false);
}

/* ---- values ---------------------------------------------------------------------------------------- */

static void fill(unsigned char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)(i * 131 + (i >> 8) * 7 + (i >> 16) * 3 + seed);
}

static bool is(const unsigned char *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (unsigned char)(i * 131 + (i >> 8) * 7 + (i >> 16) * 3 + seed))
			return false;
	return true;
}

static int put(struct mc_store *s, const char *key, size_t len, unsigned seed, unsigned replicas, uint32_t flags)
{
	struct mc_store_config c = {.size = sizeof c, .nr_replicas = replicas, .flags = flags};
	struct mc_error err = {0};
	int r;

	fill(mem, len, seed);
	r = mc_store_put(s, key, strlen(key), mem, len, &c, T, &err);
	CHECK(r == 0 || r == -EEXIST || r == -ENOSPC || r == -E2BIG, "put %s: %d %s", key, r, err.text);
	return r;
}

static int get(struct mc_store *s, const char *key, size_t len, unsigned seed, uint32_t flags, struct mc_error *err)
{
	struct mc_store_config c = {.size = sizeof c, .flags = flags};
	uint64_t got = 0;
	int r;

	memset(mem, 0x55, len);
	r = mc_store_get(s, key, strlen(key), mem, len, &got, &c, T, err);
	CHECK(r < 0 || (got == len && is(mem, len, seed)), "get %s: wrong bytes", key);
	return r;
}

/* ---- cases ------------------------------------------------------------------------------------------ */

struct seen {
	unsigned nr;
	unsigned replicas;
	uint64_t bytes;
	bool engines[LENDERS];
};

static int see_place(void *ctx, const struct mc_store_place *p)
{
	struct seen *s = ctx;

	s->nr++;
	s->bytes += p->len;
	s->replicas |= 1u << p->replica;
	for (int i = 0; i < LENDERS; i++) {
		char name[16];

		snprintf(name, sizeof name, "lender-%d", i);
		s->engines[i] |= !strcmp(name, p->engine);
	}
	return 0;
}

static int see_entry(void *ctx, const struct mc_store_entry *e)
{
	struct seen *s = ctx;

	s->nr++;
	s->bytes += e->len;
	return 0;
}

/* Where values lie, who sees them, and how they go. */
static void kinds(void)
{
	struct mc_store_info info = {.size = sizeof info};
	struct mc_error err = {0};
	struct mc_store *other;
	struct seen s = {0};
	uint64_t refused = 0;

	master_start("1s", "5s", "30");
	lenders_start(TCP, "0x1000000");
	user_start(TCP, (const char *const[]){NULL});
	other = store_open("other", true);
	CHECK(put(store, "r/two", 100000, 1, 2, 0) == 0 && put(store, "r/two", 100000, 1, 2, 0) == -EEXIST, "two");
	CHECK(mc_store_locate(store, "r/two", 5, T, see_place, &s, &err) == 0 && s.nr == 2 && s.replicas == 3 && s.bytes == 200000 &&
	      s.engines[0] + s.engines[1] + s.engines[2] == 2, "%u places %s", s.nr, err.text);
	CHECK(get(store, "r/two", 100000, 1, 0, &err) == 0, "%s", err.text);
	/* More than any one lender has: pieces. */
	s = (struct seen){0};
	CHECK(put(store, "r/large", 24 << 20, 2, 1, 0) == 0 && get(store, "r/large", 24 << 20, 2, 0, &err) == 0, "%s", err.text);
	CHECK(mc_store_locate(store, "r/large", 7, T, see_place, &s, &err) == 0 && s.nr >= 2 && s.bytes == 24 << 20, "%u pieces", s.nr);
	CHECK(mc_store_put(store, "r/huge", 6, mem, UINT64_C(1) << 40, NULL, T, &err) == -E2BIG &&
	      strstr(err.text, "larger than all memory that is lent"), "%s", err.text);
	/* A name space of its own. */
	CHECK(get(other, "r/two", 100000, 1, 0, &err) == -ENOENT && put(other, "r/two", 5000, 9, 1, MC_STORE_HARD_PIN) == 0, "tenant");
	CHECK(get(other, "r/two", 5000, 9, 0, &err) == 0 && get(store, "r/two", 100000, 1, 0, &err) == 0, "%s", err.text);
	CHECK(mc_store_remove(other, "r/two", 5, 0, T, &err) == -EBUSY, "leased and pinned");
	CHECK(mc_store_pin(other, "r/two", 5, 0, T, &err) == 0, "%s", err.text);
	CHECK(mc_store_pin(other, "none", 4, 0, T, &err) == -ENOENT && strstr(err.text, "there is no such value"), "%s", err.text);
	CHECK(mc_store_remove(other, "r/two", 5, MC_STORE_FORCE, T, &err) == 0, "%s", err.text);
	/* Replaced; listed; removed. */
	CHECK(put(store, "r/two", 70000, 3, 2, MC_STORE_REPLACE) == 0 && get(store, "r/two", 70000, 3, 0, &err) == 0, "%s", err.text);
	CHECK(put(store, "q/1", 10, 4, 1, 0) == 0, "put");
	s = (struct seen){0};
	CHECK(mc_store_list(store, "r/", T, see_entry, &s, &err) == 2 && s.nr == 2 && s.bytes == (24 << 20) + 70000, "%u %s", s.nr, err.text);
	CHECK(mc_store_info(store, T, &info, &err) == 0 && info.nr_objects == 3 && info.nr_segments == 3 && info.lent == 48 << 20 &&
	      info.nr_clients == 5, "%llu objects, %llu clients", (unsigned long long)info.nr_objects, (unsigned long long)info.nr_clients);
	CHECK(mc_store_remove_prefix(store, "r/", 0, T, &refused, &err) + refused == 2, "%s", err.text);
	CHECK(mc_store_remove_prefix(store, "r/", MC_STORE_FORCE, T, NULL, &err) >= 0, "%s", err.text);
	CHECK(mc_store_remove_regex(store, "^q/[0-9]$", MC_STORE_FORCE, T, NULL, &err) == 1, "%s", err.text);
	CHECK(mc_store_remove_regex(store, "(", 0, T, NULL, &err) == -EINVAL && err.text[0], "%s", err.text);
	CHECK(mc_store_list(store, "", T, see_entry, &s, &err) == 0, "something is left");
	CHECK(mc_store_close(other, T) == 0, "close");
}

/* A lender of two is stopped: the other replica is read, within the engine's bound; killed: at once. */
static void stopped(void)
{
	struct mc_error err = {0};
	char key[16];

	master_start("20s", "30s", "30");
	lenders_start(TCP, "0x1000000");
	user_start(TCP, (const char *const[]){"peer_timeout", "1s", NULL});
	for (unsigned i = 0; i < 12; i++) {
		snprintf(key, sizeof key, "s-%u", i);
		CHECK(put(store, key, 200000, i, 2, MC_STORE_ALL_REPLICAS) == 0 && get(store, key, 200000, i, 0, &err) == 0, "%s", err.text);
	}
	kill(lenders[0], SIGSTOP);
	for (unsigned i = 0; i < 12; i++) {
		snprintf(key, sizeof key, "s-%u", i);
		CHECK(get(store, key, 200000, i, 0, &err) == 0, "%s: %s", key, err.text);
	}
	kill(lenders[0], SIGCONT);
	end(&lenders[1]);
	for (unsigned i = 0; i < 12; i++) {
		snprintf(key, sizeof key, "s-%u", i);
		CHECK(get(store, key, 200000, i, 0, &err) == 0, "%s: %s", key, err.text);
		snprintf(key, sizeof key, "t-%u", i);
		CHECK(put(store, key, 200000, i, 1, 0) == 0 && get(store, key, 200000, i, 0, &err) == 0, "%s: %s", key, err.text);
	}
}

/* Bits flip on the way to us: with a checksum no wrong byte is told as good. */
static void flipped(void)
{
	unsigned good = 0, bad = 0;
	struct mc_error err = {0};
	char key[16];

	master_start("20s", "30s", "30");
	lenders_start(TCP, "0x1000000");
	user_start(TCP, (const char *const[]){"transports.tcp.filters", "fault", "filters.fault.flip", "0.3", "filters.fault.ops", "read",
					      NULL});
	for (unsigned i = 0; i < 40; i++) {
		unsigned replicas = i % 2 + 1;
		int r;

		snprintf(key, sizeof key, "f-%u", i);
		CHECK(put(store, key, 50000, i, replicas, MC_STORE_CHECKSUM) == 0, "put");
		/* get() itself looks at the bytes. */
		r = get(store, key, 50000, i, MC_STORE_CHECKSUM, &err);
		CHECK(r == 0 || r == -EBADMSG, "%d %s", r, err.text);
		good += r == 0;
		bad += r < 0;
	}
	CHECK(good > 10 && bad > 0, "%u good, %u bad", good, bad);
}

/* Reads take longer than the lease. */
static void leases(void)
{
	struct mc_error err = {0};

	master_start("300ms", "30s", "30");
	lenders_start(TCP, "0x1000000");
	user_start(TCP, (const char *const[]){"transports.tcp.filters", "fault", "filters.fault.delay", "1", "filters.fault.delay_time", "600ms",
					      "filters.fault.ops", "read", NULL});
	CHECK(put(store, "late", 50000, 1, 1, 0) == 0, "put");
	CHECK(get(store, "late", 50000, 1, 0, &err) == -ESTALE && strstr(err.text, "longer than a lease"), "%s", err.text);
}

/* ---- a writer that is stopped ------------------------------------------------------------------------ */

static int write_on(char **argv)
{
	unsigned char *from = NULL;
	struct mc_engine *e;
	struct mc_store *s;
	struct mc_error err = {0};

	snprintf(dir, sizeof dir, "%s", argv[0]);
	mc_log_set_level(MC_LOG_ERROR);
	e = engine_new(argv[1], argv[2]);
	if (mc_store_open(e, NULL, T, &s, &err) < 0 || mc_memory_alloc(e, "*", 8 << 20, MC_ACCESS_LOCAL, T, (void **)&from, &err) < 0) {
		printf("FAIL %s: %s\n", argv[1], err.text);
		return 1;
	}
	memset(from, 0xbb, 8 << 20);
	for (unsigned i = 0;; i++) {
		char key[32];

		snprintf(key, sizeof key, "w-%u", i);
		mc_store_put(s, key, strlen(key), from, 8 << 20, NULL, 100 * MC_MSEC, NULL);
		mc_store_remove(s, key, strlen(key), MC_STORE_FORCE, T, NULL);
		if (i == 3)
			ready(argv[1]);
	}
}

/* Stopped at any moment of its puts, for longer than a put may take: what is given to others then is never written
 * over when it goes on. */
static void frozen(void)
{
	struct mc_error err = {0};
	char key[16];

	master_start("300ms", "1s", "3");
	lenders_start(SHM, "0x1000000");
	user_start(SHM, (const char *const[]){NULL});
	for (unsigned round = 0; round < 3; round++) {
		char name[16];
		const char *argv[] = {self, "--write", dir, name, SHM, NULL};
		unsigned nr = 0;

		snprintf(name, sizeof name, "writer-%u", round);
		writer = spawn(self, argv);
		wait_for(name);
		pause_ms(10 + 7 * round);
		kill(writer, SIGSTOP);
		waitpid(writer, NULL, WUNTRACED);
		/* Its put is given up, the lenders are told. */
		pause_ms(3000);
		for (; nr < 10; nr++) {
			struct mc_store_config c = {.size = sizeof c, .flags = MC_STORE_HARD_PIN};

			snprintf(key, sizeof key, "v-%u-%u", round, nr);
			fill(mem, 4 << 20, nr);
			if (mc_store_put(store, key, strlen(key), mem, 4 << 20, &c, 2 * MC_SEC, &err) < 0)
				break;
		}
		CHECK(nr >= 6, "round %u: only %u found room: %s", round, nr, err.text);
		kill(writer, SIGCONT);
		pause_ms(300);
		kill(writer, SIGSTOP); /* what it does after that is its right */
		for (unsigned i = 0; i < nr; i++) {
			snprintf(key, sizeof key, "v-%u-%u", round, i);
			CHECK(get(store, key, 4 << 20, i, 0, &err) == 0, "round %u: %s: %s", round, key, err.text);
		}
		end(&writer);
		mc_store_remove_prefix(store, "", MC_STORE_FORCE, T, NULL, &err);
		pause_ms(1000);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {{"kinds", kinds}, {"stopped", stopped}, {"flipped", flipped}, {"leases", leases}, {"frozen", frozen}};
	bool found = false;

	self = argv[0];
	if (argc == 6 && !strcmp(argv[1], "--lend"))
		return lend(argv + 2);
	if (argc == 5 && !strcmp(argv[1], "--write"))
		return write_on(argv + 2);
	if (argc != 3) {
		fprintf(stderr, "usage: %s MASTER CASE\n", argv[0]);
		return 2;
	}
	program = argv[1];
	engines_begin();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		if (!strcmp(argv[2], cases[i].name)) {
			cases[i].run();
			found = true;
		}
	CHECK(found, "there is no case '%s'", argv[2]);
	end(&writer);
	CHECK(mc_store_close(store, T) == 0, "close");
	mc_engine_close(engine, T);
	for (int i = 0; i < LENDERS; i++)
		end(&lenders[i]);
	end(&master);
	return engines_end();
}
