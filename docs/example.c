/* SPDX-License-Identifier: Apache-2.0 */
/* Two engines in one process: the writer puts a text into the memory of the owner. */
#include <stdio.h>
#include <string.h>

#include <mooncake/mooncake.h>

static int open_engine(const char *name, struct mc_engine **ret_engine, struct mc_error *err)
{
	struct mc_config *config = NULL;
	int r = mc_config_new(&config, err);

	if (r == 0 && (r = mc_config_env(config, err)) == 0 && /* MC_LOG_LEVEL and the like */
	    (r = mc_config_set(config, "local_server_name", name, err)) == 0 &&
	    (r = mc_config_set(config, "port", "0", err)) == 0 &&
	    (r = mc_config_set(config, "nic_priority_matrix", "{\"*\": [[\"tcp:lo\"]]}", err)) == 0)
		r = mc_engine_open(config, 10 * MC_SEC, ret_engine, err);
	mc_config_free(config);
	return r;
}

/* Write len bytes at local, registered memory, to the start of the segment's first buffer. */
static int put(struct mc_engine *engine, const char *name, void *local, size_t len, struct mc_error *err)
{
	struct mc_buffer_info info = {sizeof info};
	struct mc_request_status status = {sizeof status};
	struct mc_segment *segment = NULL;
	struct mc_batch *batch = NULL;
	int r = mc_segment_open(engine, name, 10 * MC_SEC, &segment, err);

	if (r == 0 && (r = mc_segment_buffer(segment, 0, &info)) == 0 &&
	    (r = mc_batch_new(engine, 1, &batch)) == 0) {
		struct mc_request request = {MC_OP_WRITE, 0, local, segment, info.offset, len, NULL};

		if ((r = mc_batch_submit(batch, &request, 1, NULL)) == 0 &&
		    (r = mc_batch_wait(batch, 10 * MC_SEC)) == 0 &&
		    (r = mc_batch_status(batch, 0, &status)) == 0)
			r = status.status;
	}
	mc_batch_free(batch);
	mc_segment_close(segment);
	return r;
}

int main(void)
{
	struct mc_engine *owner = NULL, *writer = NULL;
	struct mc_error err = {0};
	void *memory, *text;
	int r;

	if ((r = open_engine("owner", &owner, &err)) == 0 &&
	    (r = mc_memory_alloc(owner, "*", 4096, MC_ACCESS_ALL, MC_SEC, &memory, &err)) == 0 &&
	    (r = open_engine("writer", &writer, &err)) == 0 &&
	    (r = mc_memory_alloc(writer, "*", 4096, MC_ACCESS_LOCAL, MC_SEC, &text, &err)) == 0) {
		memcpy(text, "hello, segment", sizeof "hello, segment");
		if ((r = put(writer, "owner", text, sizeof "hello, segment", &err)) == 0)
			printf("%s\n", (char *)memory);
	}
	if (r < 0)
		fprintf(stderr, "%s: %s\n", strerror(-r), err.text);
	mc_engine_close(writer, MC_SEC);
	mc_engine_close(owner, MC_SEC);
	return r < 0;
}
