/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any message of the managed store, read and written again: for its unit test and its fuzzer.
 */
#ifndef MC_STORE_MESSAGES_H
#define MC_STORE_MESSAGES_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "store_wire.h"

#define ECHO_EXTENTS 8192u

/* Where a message's parts lie between reading and writing. */
struct echo {
	struct mc_wire_request request;
	struct mc_wire_reply reply;
	struct mc_master_put puts[MC_WIRE_COUNT_MAX];
	struct mc_master_got gots[MC_WIRE_COUNT_MAX];
	struct mc_master_end ends[MC_WIRE_COUNT_MAX];
	struct mc_master_named names[MC_WIRE_COUNT_MAX];
	struct mc_master_extent extents[ECHO_EXTENTS];
	uint32_t preferred[MC_WIRE_PREFERRED_MAX];
	uint64_t generations[MC_WIRE_EVICT_MAX];
};

static void echo_request(struct echo *e, uint32_t method, struct mc_wire *in, struct mc_wire *out)
{
	uint32_t n;

#define BOTH(function, ...)                        \
	do {                                       \
		function(in, __VA_ARGS__);         \
		if (!in->broken)                   \
			function(out, __VA_ARGS__); \
	} while (0)
	BOTH(mc_wire_request, &e->request, method == MC_WIRE_HELLO);
	n = e->request.count;
	if (method == MC_WIRE_HELLO) {
		struct mc_wire_hello hello = {0};

		BOTH(mc_wire_hello, &hello);
	} else if (method == MC_WIRE_PING) {
		BOTH(mc_wire_generations, n, e->generations);
	} else if (method == MC_WIRE_MOUNT) {
		struct mc_master_segment segment = {.size = sizeof segment};

		BOTH(mc_wire_mount, &segment);
	} else if (method == MC_WIRE_UNMOUNT) {
		uint8_t uuid[16] = {0};

		BOTH(mc_wire_uuid, uuid);
	} else if (method == MC_WIRE_DRAIN || method == MC_WIRE_SEGMENTS) {
		uint32_t number = 0;

		BOTH(mc_wire_number, &number);
	} else if (method == MC_WIRE_PUT_START) {
		struct mc_master_put_config config = {.size = sizeof config};

		BOTH(mc_wire_put_config, &config, e->preferred);
		BOTH(mc_wire_puts, n, e->puts);
	} else if (method == MC_WIRE_PUT_END || method == MC_WIRE_PUT_REVOKE) {
		BOTH(mc_wire_ends, n, e->ends);
	} else if (method == MC_WIRE_GET || method == MC_WIRE_EXIST) {
		BOTH(mc_wire_gets, n, e->gots);
	} else if (method == MC_WIRE_REMOVE || method == MC_WIRE_PIN) {
		uint64_t span = 0;

		if (method == MC_WIRE_PIN)
			BOTH(mc_wire_amount, &span);
		BOTH(mc_wire_keys, n, e->names);
	} else if (method == MC_WIRE_REMOVE_MATCH || method == MC_WIRE_QUERY) {
		struct mc_wire_match match = {0};

		BOTH(mc_wire_match, &match);
	} else if (method == MC_WIRE_QUOTA) {
		uint64_t bytes = 0;

		BOTH(mc_wire_amount, &bytes);
	}
}

static void echo_reply(struct echo *e, uint32_t method, struct mc_wire *in, struct mc_wire *out)
{
	struct mc_master_extents extents = {.at = e->extents, .cap = ECHO_EXTENTS};
	uint64_t amount = 0;
	uint32_t n;

	BOTH(mc_wire_reply, &e->reply);
	n = in->broken ? 0 : e->reply.count;
	if (method == MC_WIRE_HELLO) {
		struct mc_wire_welcome welcome = {0};

		BOTH(mc_wire_welcome, &welcome);
	} else if (method == MC_WIRE_PING) {
		BOTH(mc_wire_generations, n, e->generations);
	} else if (method == MC_WIRE_MOUNT) {
		uint32_t number = 0;

		BOTH(mc_wire_number, &number);
	} else if (method == MC_WIRE_SEGMENTS) {
		for (uint32_t i = 0; i < n && !in->broken; i++) {
			struct mc_master_segment segment = {.size = sizeof segment};

			BOTH(mc_wire_segment, &segment);
		}
	} else if (method == MC_WIRE_PUT_START) {
		struct mc_master_full full = {0};

		if (e->reply.flags & MC_WIRE_FULL)
			BOTH(mc_wire_full, &full);
		BOTH(mc_wire_places, n, e->puts, &extents);
	} else if (method == MC_WIRE_GET) {
		BOTH(mc_wire_gots, n, e->gots, &extents, &amount);
	} else if (method == MC_WIRE_EXIST) {
		BOTH(mc_wire_gots, n, e->gots, NULL, &amount);
	} else if (method == MC_WIRE_PUT_END || method == MC_WIRE_PUT_REVOKE || method == MC_WIRE_REMOVE ||
		   method == MC_WIRE_PIN) {
		BOTH(mc_wire_statuses, n, &e->names[0].status, sizeof e->names[0]);
	} else if (method == MC_WIRE_REMOVE_MATCH) {
		struct mc_wire_removed removed = {0};

		BOTH(mc_wire_removed, &removed);
	} else if (method == MC_WIRE_QUERY) {
		BOTH(mc_wire_amount, &amount);
		for (uint32_t i = 0; i < n && !in->broken; i++) {
			struct mc_master_object object = {.size = sizeof object};

			BOTH(mc_wire_object, &object);
		}
	} else if (method == MC_WIRE_TENANTS) {
		for (uint32_t i = 0; i < n && !in->broken; i++) {
			struct mc_wire_tenant tenant = {0};

			BOTH(mc_wire_tenant, &tenant);
		}
	} else if (method == MC_WIRE_STATS) {
		struct mc_master_stats stats = {.size = sizeof stats};

		BOTH(mc_wire_stats, &stats);
	} else if (method == MC_WIRE_METHOD_END) {
		const char *text = NULL;

		BOTH(mc_wire_sentence, &text);
	}
#undef BOTH
}

/* Read a message and write it to `to` again.  returns how long it has become; -EBADMSG: it is broken */
static int echo_message(struct echo *e, uint32_t method, bool reply, const uint8_t *data, size_t len, uint8_t *to, size_t cap)
{
	struct mc_wire in = mc_wire_reader(data, len), out = mc_wire_writer(to, cap);

	(reply ? echo_reply : echo_request)(e, method, &in, &out);
	if (mc_wire_end(&in) < 0)
		return -EBADMSG;
	return out.broken ? -EMSGSIZE : (int)mc_wire_len(&out, cap);
}

#endif
