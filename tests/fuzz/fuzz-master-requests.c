/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of any client to a master's methods and its state, one after the other:
 *
 *   { u8 method, u8 milliseconds since the last one, u16 bytes, the request }...
 *
 * Bit 7 of the method: the entries of a PUT_END or PUT_REVOKE are the tokens of the last
 * PUT_START.  Whatever is asked, what the master knows stays sound.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/bytes.h"
#include "core/util/check.h"
#include "master/serve.h"

#define MSEC UINT64_C(1000000)
#define BEGIN (UINT64_C(1) << 40) /* of time */
#define BASE (UINT64_C(1) << 32)
#define LENT (UINT64_C(1) << 20)

static const struct mc_master_limits limits = {.size = sizeof limits, .nr_shards = 2, .lease_ns = 50 * MSEC, .soft_pin_ns = 500 * MSEC,
					       .client_ttl_ns = 1000 * MSEC, .put_ttl_ns = 100 * MSEC, .granule = 256,
					       .mean_object = 4096, .seed = 7};
static const struct mc_master_client_id client = {"fuzz"};

const struct mc_master_limits *master_server_limits(const struct master_server *server)
{
	return &limits;
}

void master_server_hurry(struct master_server *server)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct master_scratch scratch;
static uint64_t tokens[16];
static uint32_t nr_tokens;

/* The tokens of an answer to PUT_START. */
static void remember(const struct master_call *call)
{
	nr_tokens = 0;
	for (uint32_t i = 0; i < call->head.count && nr_tokens < MC_ARRAY_SIZE(tokens); i++)
		if (scratch.puts[i].status == 0)
			tokens[nr_tokens++] = scratch.puts[i].token;
}

static size_t ends(uint8_t *to, size_t cap)
{
	struct mc_wire_request head = {.version = 1, .count = nr_tokens, .client = client, .tenant = ""};
	struct mc_master_end list[MC_ARRAY_SIZE(tokens)];
	struct mc_wire w = mc_wire_writer(to, cap);

	for (uint32_t i = 0; i < nr_tokens; i++)
		list[i] = (struct mc_master_end){.token = tokens[i]};
	mc_wire_request(&w, &head, false);
	mc_wire_ends(&w, nr_tokens, list);
	return mc_wire_len(&w, cap);
}

static void ask(struct mc_master *state, uint32_t method, const void *data, size_t len, uint64_t now)
{
	struct master_call call = {.state = state,
				   .scratch = &scratch,
				   .from = "engine",
				   .generation = 3,
				   .now = now,
				   .in = mc_wire_reader(data, len),
				   .out = mc_wire_writer(scratch.reply, sizeof scratch.reply),
				   .head = {.tenant = ""}};
	int r;

	if (method < MC_WIRE_HELLO || method >= MC_WIRE_METHOD_END)
		return;
	mc_wire_reply(&call.out, &call.reply);
	mc_wire_request(&call.in, &call.head, method == MC_WIRE_HELLO);
	if (mc_wire_end(&call.in) < 0)
		return;
	r = master_methods[method].run(&call);
	if (r > 0)
		abort();
	if (r == 0 && method == MC_WIRE_PUT_START)
		remember(&call);
}

static struct mc_master *begin(void)
{
	struct mc_master_ping ping = {.size = sizeof ping, .client = client, .engine = "engine", .generation = 3};
	struct mc_master_segment segment = {.size = sizeof segment, .uuid = "one", .engine = "engine", .generation = 3, .base = BASE,
					    .len = LENT, .location = "cpu:0", .client = client};
	struct mc_master *state;

	if (mc_master_new(&limits, &state) < 0 || mc_master_start(state, NULL, BEGIN) < 0 ||
	    mc_master_client_ping(state, &ping, BEGIN) < 0 || mc_master_mount(state, &segment, BEGIN) < 0)
		abort();
	nr_tokens = 0;
	return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct mc_master *state;
	uint64_t now = BEGIN;
	struct mc_error err = {0};

	/* A state's tables are large and for the most part never touched: do not map them anew for each input. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	state = begin();
	for (unsigned n = 0; size >= 4 && n < 64; n++) {
		uint8_t made[1024];
		uint32_t method = data[0] & 0x1f;
		size_t len = MC_MIN((size_t)mc_get16(data + 2), size - 4);

		now += data[1] * MSEC;
		if ((data[0] & 0x80) && (method == MC_WIRE_PUT_END || method == MC_WIRE_PUT_REVOKE))
			ask(state, method, made, ends(made, sizeof made), now);
		else
			ask(state, method, data + 4, len, now);
		if (n % 4 == 3)
			mc_master_tick(state, now);
		data += 4 + len;
		size -= 4 + len;
	}
	if (mc_master_check(state, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	mc_master_free(state);
	return 0;
}
