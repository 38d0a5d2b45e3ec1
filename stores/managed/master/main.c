/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake_master: the state, what it keeps, its service and pages, and the thread of
 * time.  It is found under its engine's name; of two masters of one name one serves.
 */
#include <errno.h>
#include <inttypes.h>
#include <mooncake/kv.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cli/program/join.h>
#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>
#include <core/util/std-fds.h>

#include "flags.h"
#include "pages.h"

#define OPEN_NS (30 * MC_SEC)
#define CLOSE_NS (5 * MC_SEC)
#define ASK_NS (5 * MC_SEC)
#define GRACE_NS (30 * MC_SEC)	 /* what is left of the log is folded meanwhile */
#define TICK_MAX_NS (10 * MC_MSEC)
#define TICK_MIN_NS (MC_MSEC / 5)
#define LOOK_NS (250 * MC_MSEC)	 /* figures for /metrics */
#define CLAIM_NS (2 * MC_SEC)	 /* whose name is it */

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

struct program {
	struct master_flags flags;
	struct mc_engine *engine;
	struct mc_master *state;
	struct master_keep *keep;
	struct master_server *server;
	struct master_pages *pages;
	char claim[MC_KV_NAME_MAX + 1]; /* key that says who the master is */
	char claimed[128];		/* its value */
	pthread_t ticker;
	pthread_mutex_t lock; /* hurry, ending; a leaf */
	pthread_cond_t wake;
	bool hurry, ending, ticking, usage;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- time -------------------------------------------------------------------------------------- */

static void hurry(void *arg)
{
	struct program *p = arg;

	pthread_mutex_lock(&p->lock);
	if (!p->hurry)
		pthread_cond_signal(&p->wake);
	p->hurry = true;
	pthread_mutex_unlock(&p->lock);
}

/* Until `end`, or somebody is in a hurry; false: it is over. */
static bool sleep_until(struct program *p, uint64_t end)
{
	const struct timespec ts = {.tv_sec = (time_t)(end / MC_SEC), .tv_nsec = (long)(end % MC_SEC)};
	bool on;

	pthread_mutex_lock(&p->lock);
	while (!p->ending && !p->hurry)
		if (pthread_cond_timedwait(&p->wake, &p->lock, &ts) == ETIMEDOUT)
			break;
	p->hurry = false;
	on = !p->ending;
	pthread_mutex_unlock(&p->lock);
	return on;
}

static void *tick_thread(void *arg)
{
	struct program *p = arg;
	uint64_t looked = 0, now = now_ns(), next;

	do {
		next = mc_master_tick(p->state, now);
		if (now - looked >= LOOK_NS && p->pages) {
			master_pages_look(p->pages, now);
			looked = now;
		}
		now = now_ns();
		next = MC_MIN(MC_MAX(next, now + TICK_MIN_NS), now + TICK_MAX_NS);
	} while (sleep_until(p, next) && (now = now_ns()));
	return NULL;
}

static int tick_start(struct program *p, struct mc_error *err)
{
	int r = pthread_create(&p->ticker, NULL, tick_thread, p);

	if (r)
		return mc_fail(err, -r, "thread of the master: %s", strerror(r));
	p->ticking = true;
	return 0;
}

static void tick_stop(struct program *p)
{
	if (!p->ticking)
		return;
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->ticker, NULL);
	p->ticking = false;
}

/* ---- whose name -------------------------------------------------------------------------------- */

/* The engine's name is taken: nobody else of this name lives, as far as we can see. */
static int claim(struct program *p, struct mc_error *err)
{
	char host[64] = "host";

	gethostname(host, sizeof host - 1);
	snprintf(p->claim, sizeof p->claim, "store/master/%s", mc_engine_name(p->engine));
	snprintf(p->claimed, sizeof p->claimed, "host %s, process %ld, generation %016" PRIx64, host, (long)getpid(),
		 mc_engine_generation(p->engine));
	return mc_kv_write(p->engine, p->claim, p->claimed, strlen(p->claimed), MC_KV_LEASED, ASK_NS, NULL, err);
}

static int copy_value(void *ctx, const struct mc_kv_entry *entry)
{
	snprintf(ctx, 256, "%.*s", (int)MC_MIN(entry->len, (size_t)255), (const char *)entry->value);
	return 0;
}

/* Has another one claimed it, because it could not reach us?  Then it serves, and we do not: both would give away the
 * same memory.  A service that does not answer changes nothing. */
static bool claim_lost(struct program *p)
{
	char who[256] = "";

	if (mc_kv_read(p->engine, p->claim, ASK_NS, copy_value, who, NULL) < 0 || strcmp(who, p->claimed) == 0)
		return false;
	mc_tell("mooncake_master: master '%s' is served by another one now (%s); this one ends", mc_engine_name(p->engine), who);
	return true;
}

/* ---- from flags to a master -------------------------------------------------------------------- */

static uint32_t default_threads(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	/* Clients and the rpc worker need the others; with one thread batches stay on the rpc worker. */
	return cores > 2 ? (uint32_t)MC_MIN(cores - 2, 8) : 1;
}

/* A mistake of the user's is one that another command line mends. */
static int open_engine(struct program *p, struct mc_config *config, struct mc_error *err)
{
	const char *name = mc_config_get(config, "local_server_name", NULL);
	struct mc_error why = {0};
	int r = mc_join_open(config, OPEN_NS, &p->engine, &p->usage, &why);

	if (r == -EEXIST)
		return mc_fail(err, r, "master '%s' is running already: %s", name, why.text);
	return r < 0 ? mc_fail(err, r, "%s", why.text) : claim(p, err);
}

static int open_all(struct program *p, struct mc_config *config, struct mc_error *err)
{
	struct master_flags *f = &p->flags;
	struct master_serve_options serve = {.state = NULL,
					     .limits = &f->limits,
					     .threads = f->threads ? (uint32_t)f->threads : default_threads(),
					     .hurry = hurry,
					     .arg = p};
	struct mc_master_sink sink;
	int r = mc_master_new(&f->limits, &p->state);

	if (r < 0)
		return mc_fail(err, r, "the master's state: %s", strerror(-r));
	r = master_keep_open(f->dir, p->state, &p->keep, err);
	if (r < 0)
		return r;
	r = open_engine(p, config, err);
	if (r < 0)
		return r;
	sink = master_keep_sink(p->keep);
	r = mc_master_start(p->state, &sink, now_ns());
	if (r < 0)
		return mc_fail(err, r, "folder '%s': what begins now could not be written there: %s", f->dir, strerror(-r));
	/* After a power cut the number of this life must not come again. */
	r = master_keep_sync(p->keep, OPEN_NS, err);
	if (r < 0)
		return r;
	serve.engine = p->engine;
	serve.state = p->state;
	r = master_serve(&serve, &p->server, err);
	if (r == 0)
		r = master_pages_open(p->engine, p->state, p->server, p->keep, &p->pages, err);
	return r < 0 ? r : tick_start(p, err);
}

static void close_all(struct program *p)
{
	tick_stop(p);
	master_pages_close(p->pages);
	master_unserve(p->server);
	mc_engine_close(p->engine, CLOSE_NS);
	mc_master_free(p->state);
	master_keep_close(p->keep);
}

/* ---- telling ----------------------------------------------------------------------------------- */

static void tell(struct program *p)
{
	struct mc_master_stats stats = {.size = sizeof stats};
	struct master_keep_stats keep;

	mc_master_stats(p->state, &stats, now_ns());
	master_keep_stats(p->keep, &keep);
	printf("master '%s' serves on port %u, epoch %" PRIu64 ": ", mc_engine_name(p->engine), mc_engine_port(p->engine), stats.epoch);
	if (!keep.kept)
		printf("nothing is kept over a restart (no --dir)\n");
	else
		printf("%" PRIu64 " objects in %" PRIu64 " segments loaded from '%s' in %.2f s\n", stats.nr_objects, stats.nr_segments,
		       p->flags.dir, keep.load_s);
	fflush(stdout);
}

static void cut_short(void)
{
	fputs("ended before all was closed: what was logged is read at the next start\n", stderr);
}

static int serve(struct program *p)
{
	while (!mc_stop_wait(CLAIM_NS)) {
		if (claim_lost(p))
			return EXIT_FAILED;
		master_keep_watch(p->keep, p->flags.dir);
	}
	return EXIT_OK;
}

static int run(struct program *p, struct mc_config *config)
{
	const struct mc_stop_options stop = {.grace_ns = GRACE_NS, .cut_short = cut_short};
	struct mc_error err = {0};
	pthread_condattr_t attr;
	int code, r;

	mc_tell_log_init();
	if (mc_stop_init(&stop, &err) < 0)
		return mc_tell_error("mooncake_master", false, err.text, EXIT_FAILED);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, &attr);
	pthread_condattr_destroy(&attr);
	r = open_all(p, config, &err);
	if (r == 0) {
		tell(p);
		r = mc_join_ready(p->flags.ready_file, p->engine, &err);
	}
	code = r < 0 ? mc_tell_error("mooncake_master", false, err.text, p->usage ? EXIT_USAGE : EXIT_FAILED) : serve(p);
	close_all(p);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	mc_stop_fini();
	return code;
}

int main(int argc, char **argv)
{
	static struct program p;
	struct mc_error err = {0};
	struct mc_config *config;
	int code = EXIT_OK, r;

	mc_hold_std_fds();
	if (mc_config_new(&config, &err) < 0) {
		fprintf(stderr, "mooncake_master: %s\n", err.text);
		return EXIT_FAILED;
	}
	r = master_flags_parse(&p.flags, argc, argv, config, &err);
	if (p.flags.version)
		printf("mooncake_master %s\n", mc_version());
	else if (p.flags.help)
		master_help(stdout);
	else if (p.flags.helpfull)
		master_help_full(stdout, config);
	else
		code = r < 0 ? mc_tell_error("mooncake_master", false, err.text, EXIT_USAGE) : run(&p, config);
	mc_config_free(config);
	master_flags_fini(&p.flags);
	errno = 0;
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "mooncake_master: stdout: %s\n", errno ? strerror(errno) : "not all of the answer could be written");
		return EXIT_FAILED;
	}
	return code;
}
