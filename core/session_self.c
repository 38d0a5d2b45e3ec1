/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that says again who it is, because it has reloaded its matrix: the JSON of
 * its hello, in a numbered message.  Its devices keep their places in the list, new
 * ones follow, so whatever holds an index stays right; what it was is kept, because
 * routes and readers without a lock may still look at it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "session_impl.h"

/* Bytes of different things that one peer says of itself, some ten thousand matrices of a usual size; what it says
 * again costs nothing. */
#define LATER_MAX (UINT64_C(4) << 20)

struct mc_peer_later {
	struct mc_peer_later *next;
	struct mc_peer_info info;
	uint64_t bytes; /* of what was said, in the list from here on */
};

void mc_peer_later_free(struct mc_peer_later *later)
{
	while (later) {
		struct mc_peer_later *next = later->next;

		mc_peer_info_fini(&later->info);
		free(later);
		later = next;
	}
}

/* ---- telling ------------------------------------------------------------------------------------ */

static void tell(void *arg)
{
	struct mc_sessions *ss = arg;
	struct mc_session_impl *i, *next;
	char *json = mc_hello_json(ss->engine);
	size_t len = json ? strlen(json) : 0;

	HASH_ITER(hh, ss->by_id, i, next) {
		int r = json ? mc_session_queue(i, MC_MSG_SELF, json, len, NULL, 0, false) : -ENOMEM;

		if (r < 0)
			mc_warn("peer '%s': it is not told of our new matrix: %s", i->info.name, strerror(-r));
	}
	free(json);
}

void mc_session_tell_self(struct mc_engine *engine)
{
	if (engine->sessions)
		mc_control_call(engine->control, tell, engine->sessions);
}

/* ---- hearing ------------------------------------------------------------------------------------ */

static bool same_device(const struct mc_remote_device *a, const struct mc_remote_device *b)
{
	return !strcmp(a->transport, b->transport) && !strcmp(a->name, b->name) && !strcmp(a->wire, b->wire) &&
	       a->nr_lanes == b->nr_lanes && !strcmp(a->filters, b->filters);
}

/* It is the same engine, and no device has another place. */
static bool continues(const struct mc_peer_info *was, const struct mc_peer_info *is)
{
	if (is->generation != was->generation || strcmp(is->name, was->name) != 0 || is->nr_devices < was->nr_devices)
		return false;
	for (size_t i = 0; i < was->nr_devices; i++)
		if (!same_device(&was->devices[i], &is->devices[i]))
			return false;
	return true;
}

static bool same_text(const struct mc_matrix *a, const struct mc_matrix *b)
{
	return a && b ? !strcmp(a->text, b->text) : a == b;
}

/* Both come from the parser, which leaves no byte of a device to chance. */
static bool same_info(const struct mc_peer_info *a, const struct mc_peer_info *b)
{
	return a->nr_devices == b->nr_devices && same_text(a->matrix, b->matrix) &&
	       !memcmp(a->devices, b->devices, a->nr_devices * sizeof *a->devices);
}

/* One that it has said before; NULL: never. */
static const struct mc_peer_info *said_before(const struct mc_session_impl *i, const struct mc_peer_info *info)
{
	if (same_info(&i->info, info))
		return &i->info;
	for (const struct mc_peer_later *l = i->later; l; l = l->next)
		if (same_info(&l->info, info))
			return &l->info;
	return NULL;
}

/* Engines that dialled each other have two sessions, and hear of one matrix in both: the second is no news. */
static bool is_news(const struct mc_session_impl *i, const struct mc_peer_info *was, const struct mc_peer_info *is)
{
	const struct mc_session_impl *other, *next;

	if (same_text(was->matrix, is->matrix))
		return false;
	HASH_ITER(hh, i->ss->by_id, other, next) {
		if (other != i && other->s.state == MC_SESSION_UP &&
		    other->s.peer->generation == is->generation && same_text(other->s.peer->matrix, is->matrix))
			return false;
	}
	return true;
}

int mc_session_self(struct mc_session_impl *i, const uint8_t *payload, size_t len)
{
	static struct mc_ratelimit rl;
	struct mc_peer_later *l = calloc(1, sizeof *l);
	const struct mc_peer_info *known;
	uint32_t dropped;
	struct mc_error err;
	int r = l ? mc_hello_parse((const char *)payload, len, &l->info, &err) : -ENOMEM;

	if (r == 0 && (i->s.state != MC_SESSION_UP || !continues(i->s.peer, &l->info))) {
		mc_peer_info_fini(&l->info);
		r = -EPROTO;
	}
	if (r < 0) {
		free(l);
		return r == -ENOMEM ? 0 : -EPROTO; /* without memory it stays what it was */
	}
	/* Keys for its new devices came before this. */
	mc_table_publish(i);
	known = said_before(i, &l->info);
	l->bytes = (i->later ? i->later->bytes : 0) + len;
	if (known || l->bytes > LATER_MAX) {
		if (!known && mc_ratelimit_ok(&rl, 10, &dropped))
			mc_warn("peer '%s': it has told of too many matrices since it connected, 4 MiB of them; the last is "
				"not looked at", i->info.name);
		mc_peer_info_fini(&l->info);
		free(l);
	} else {
		l->next = i->later;
		i->later = l;
		known = &l->info;
	}
	if (known && known != i->s.peer) {
		bool news = is_news(i, i->s.peer, known);

		i->s.peer = known;
		if (news && mc_ratelimit_ok(&rl, 10, &dropped))
			mc_info("peer '%s': its matrix is %s now", i->info.name,
				known->matrix ? known->matrix->text : "gone");
	}
	return 0;
}
