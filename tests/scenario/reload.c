/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library in a program that opens and closes it at run time: engines live
 * and end in between, and after dlclose nothing of it is called (a fork, the
 * end of threads) or left running.
 *
 *   reload LIBRARY
 */
#include "cli/check/census.h"

#include <mooncake/mooncake.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define T (10 * MC_SEC)

/* A function of the library by its own type. */
#define GET(name)                                                                                  \
	__typeof__(&name) p_##name;                                                                \
	*(void **)&p_##name = dlsym(lib, #name);                                                   \
	if (!p_##name)                                                                             \
		return printf("FAIL %s: %s\n", #name, dlerror()), 1

static int use(void *lib, const char *dir)
{
	struct mc_config *c = NULL;
	struct mc_engine *e = NULL;
	struct mc_error err = {0};
	char url[64];
	void *mem;
	int r;

	GET(mc_config_new);
	GET(mc_config_set);
	GET(mc_config_free);
	GET(mc_engine_open);
	GET(mc_engine_close);
	GET(mc_memory_alloc);
	GET(mc_log_set_level);
	snprintf(url, sizeof url, "file://%s", dir);
	p_mc_log_set_level(MC_LOG_ERROR);
	r = p_mc_config_new(&c, &err);
	r = r ? r : p_mc_config_set(c, "metadata_server", url, &err);
	r = r ? r : p_mc_config_set(c, "local_server_name", "reload", &err);
	r = r ? r : p_mc_config_set(c, "port", "0", &err);
	r = r ? r : p_mc_config_set(c, "advertise_address", "127.0.0.1", &err);
	r = r ? r : p_mc_config_set(c, "nic_priority_matrix", "{\"*\": [[\"tcp:lo\"]]}", &err);
	r = r ? r : p_mc_engine_open(c, T, &e, &err);
	r = r ? r : p_mc_memory_alloc(e, "*", 4096, MC_ACCESS_ALL, T, &mem, &err);
	r = r ? r : p_mc_engine_close(e, T);
	p_mc_config_free(c);
	if (r < 0)
		printf("FAIL %d %s\n", r, err.text);
	return r < 0;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/mc-reload-XXXXXX", cmd[64];
	unsigned fds = 0, threads = 0;
	int failed = 0;

	if (argc != 2)
		return 2;
	if (!mkdtemp(dir))
		return 1;
	for (int i = 0; i < 20 && !failed; i++) {
		void *lib = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
		int status = -1;
		pid_t pid;

		if (!lib) {
			printf("FAIL %s\n", dlerror());
			return 1;
		}
		failed = use(lib, dir);
		dlclose(lib);
		if (i == 0)
			threads = census_threads(); /* a sanitizer may have one of its own */
		if (census_threads() != threads || threads > 2)
			failed = printf("FAIL %u threads left\n", census_threads() - 1);
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, &status, 0);
		if (status != 0)
			failed = printf("FAIL fork after dlclose: %x\n", status);
		if (i == 1)
			fds = census_fds();
	}
	if (!failed && census_fds() != fds)
		failed = printf("FAIL %u descriptors, then %u\n", fds, census_fds());
	snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
	if (system(cmd) != 0)
		failed = 1;
	if (!failed)
		printf("ok\n");
	return failed ? 1 : 0;
}
