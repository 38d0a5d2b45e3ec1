/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An application outside the tree, in C and in C++: every public header, and one
 * transfer as the config file that is named says.  check-installed builds
 * it against mooncake.pc, as a user would.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mooncake/http.h>
#include <mooncake/kv.h>
#include <mooncake/memory.h>
#include <mooncake/metadata.h>
#include <mooncake/mooncake.h>
#include <mooncake/plugin.h>
#include <mooncake/rpc.h>
#include <mooncake/transport.h>
#include <mooncake/types.h>

#define LEN 4096u

static int fail(const char *what, int r, const struct mc_error *err)
{
	fprintf(stderr, "%s: %d %s\n", what, r, err->text);
	return 1;
}

static int transfer(struct mc_engine *engine, struct mc_error *err)
{
	struct mc_segment *segment;
	struct mc_request_status status;
	struct mc_request request;
	struct mc_batch *batch;
	void *mem;
	int r;

	r = mc_memory_alloc(engine, "*", 2 * LEN, MC_ACCESS_ALL, 10 * MC_SEC, &mem, err);
	if (r < 0)
		return fail("mc_memory_alloc", r, err);
	r = mc_segment_open(engine, mc_engine_name(engine), 10 * MC_SEC, &segment, err);
	if (r < 0)
		return fail("mc_segment_open", r, err);
	r = mc_batch_new(engine, 1, &batch);
	if (r < 0)
		return fail("mc_batch_new", r, err);
	memset(&request, 0, sizeof request);
	request.opcode = MC_OP_WRITE;
	request.local = mem;
	request.segment = segment;
	request.offset = (uint64_t)(uintptr_t)mem + LEN;
	request.len = LEN;
	memset(&status, 0, sizeof status);
	status.size = sizeof status;
	r = mc_batch_submit(batch, &request, 1, NULL);
	if (r == 0)
		r = mc_batch_wait(batch, 10 * MC_SEC);
	if (r == 0)
		r = mc_batch_status(batch, 0, &status);
	if (r < 0 || status.state != MC_REQUEST_DONE)
		return fail("the transfer", r < 0 ? r : status.status, err);
	mc_batch_free(batch);
	mc_segment_close(segment);
	return 0;
}

int main(int argc, char **argv)
{
	struct mc_config *config;
	struct mc_engine *engine;
	struct mc_error err;
	int r;

	memset(&err, 0, sizeof err);
	r = mc_config_new(&config, &err);
	if (r == 0 && argc > 1)
		r = mc_config_load(config, argv[1], &err);
	if (r < 0)
		return fail("the config", r, &err);
	r = mc_engine_open(config, 10 * MC_SEC, &engine, &err);
	mc_config_free(config);
	if (r < 0)
		return fail("mc_engine_open", r, &err);
	r = transfer(engine, &err);
	if (r == 0)
		printf("mooncake %s: %u bytes by %s\n", mc_version(), LEN, mc_engine_matrix(engine));
	if (mc_engine_close(engine, 10 * MC_SEC) < 0)
		r = 1;
	return r;
}
