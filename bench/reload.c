/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGHUP: the config is read again, from the files, the environment and the flags
 * that the program was started with, and given to the engine while it works.  A thread
 * of its own does it, so that neither the transfers nor the thread that waits for
 * signals wait for devices that open.
 */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#define RELOAD_NS (30 * MC_SEC)

static int argc_then;
static char **argv_then;
static sem_t asked;
static atomic_bool ending;
static pthread_t thread;
static bool running;

void bench_reload_init(int argc, char **argv)
{
	argc_then = argc;
	argv_then = argv;
	sem_init(&asked, 0, 0);
}

void bench_reload_ask(void)
{
	sem_post(&asked);
}

/* As main does it. */
static int config_read(struct mc_config **ret_config, struct mc_error *err)
{
	struct mc_config *config;
	struct bench_options opts;
	int r = mc_config_new(&config, err);

	if (r < 0)
		return r;
	bench_options_init(&opts);
	r = bench_options_parse(&opts, argc_then, argv_then, config, err);
	if (r == 0)
		r = bench_configure(&opts, config, err);
	if (r < 0)
		mc_config_free(config);
	else
		*ret_config = config;
	return r;
}

static void *reload_thread(void *arg)
{
	struct mc_engine *engine = arg;

	for (;;) {
		struct mc_config *config = NULL;
		struct mc_error err = {0};
		int r;

		while (sem_wait(&asked) != 0)
			;
		if (atomic_load(&ending))
			return NULL;
		while (sem_trywait(&asked) == 0) /* once for all of them */
			if (atomic_load(&ending))
				return NULL;
		r = config_read(&config, &err);
		if (r == 0)
			r = mc_engine_reload(engine, config, RELOAD_NS, &err);
		if (r < 0)
			fprintf(stderr, "config not reloaded, the old one stays: %s\n", err.text);
		mc_config_free(config);
	}
}

void bench_reload_start(struct mc_engine *engine)
{
	int r;

	atomic_store(&ending, false);
	r = pthread_create(&thread, NULL, reload_thread, engine);
	running = r == 0;
	if (r)
		fprintf(stderr, "SIGHUP will not reload the config: no thread for it: %s\n", strerror(r));
}

void bench_reload_end(void)
{
	if (!running)
		return;
	running = false;
	atomic_store(&ending, true);
	sem_post(&asked);
	pthread_join(thread, NULL);
}
