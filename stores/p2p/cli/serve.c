/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve: offer files and folders until a signal comes.  The files are looked at once a second; an
 * object whose file was changed or cut is taken back, for what is served must be what was hashed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cli/program/join.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>

#include "offer.h"
#include "program.h"
#include "stop.h"

#define LOOK_NS MC_SEC

struct serving {
	const struct p2pc_options *o;
	struct p2pc_session session;
	struct p2pc_offer *offers; /* they do not move: the guard of the maps knows them */
	size_t nr;
};

/* With --name all paths are one object, else each is one. */
static int open_offers(struct serving *s, struct mc_error *err)
{
	const struct p2pc_options *o = s->o;
	size_t nr = *o->name ? 1 : o->nr_args, each = *o->name ? o->nr_args : 1;

	s->offers = calloc(nr, sizeof *s->offers);
	if (!s->offers)
		return mc_fail(err, -ENOMEM, "out of memory");
	for (; s->nr < nr; s->nr++) {
		int r = p2pc_offer_open(&s->offers[s->nr], *o->name ? o->name : NULL, o->args + s->nr, each, o->force, err);

		for (size_t i = 0; r == 0 && i < s->nr; i++) {
			if (strcmp(s->offers[i].name, s->offers[s->nr].name) != 0)
				continue;
			p2pc_offer_close(&s->offers[s->nr]);
			return mc_fail(err, -EEXIST, "'%s' and '%s' would both be called '%s'; serve one with --name, or in another "
						     "process", o->args[i], o->args[s->nr], s->offers[i].name);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int register_offer(struct serving *s, struct p2pc_offer *offer, struct mc_error *err)
{
	struct mc_p2p_register_options options = {
		.size = sizeof options,
		.shard_size = s->o->shard_size,
		.attachment = offer->text,
		.attachment_len = offer->text_len,
		.stop = p2pc_stopping,
	};
	struct p2pc_progress p;
	char text[MC_TEXT_MAX];
	int r;

	p2pc_progress_init(&p, offer->name, false);
	p2pc_progress_text(&p, "reading '%s': %s", offer->name, mc_text_size(offer->manifest.size, text));
	r = p2pc_session_hold(&s->session, &offer->map, err);
	offer->held = r == 0;
	if (r == 0)
		r = mc_p2p_register(s->session.store, offer->name, offer->map.ranges, offer->map.nr, &options,
				    p2pc_timeout(s->o, MC_FOREVER), err);
	mc_tell_progress_end();
	offer->registered = r == 0;
	/* What was hashed is what is there now, or others would wait for shards that never verify. */
	return r < 0 ? r : p2pc_map_look(&offer->map, err);
}

/* ---- telling ---------------------------------------------------------------------------------- */

static int add_root(void *ctx, const struct mc_p2p_entry *entry)
{
	struct serving *s = ctx;

	for (size_t i = 0; i < s->nr; i++) {
		struct p2pc_offer *offer = &s->offers[i];

		if (strcmp(entry->name, offer->name) != 0)
			continue;
		offer->nr_shards = entry->nr_shards;
		offer->shard_size = entry->shard_size;
		memcpy(offer->root, entry->root, sizeof offer->root);
	}
	return 0;
}

/* What the records say of our objects, all in one question: what begins as all of their names do. */
static void read_records(struct serving *s)
{
	char prefix[MC_P2P_NAME_MAX + 1];
	size_t n;

	snprintf(prefix, sizeof prefix, "%s", s->offers[0].name);
	n = strlen(prefix);
	for (size_t i = 1; i < s->nr; i++)
		for (size_t k = 0; k < n; k++)
			if (s->offers[i].name[k] != prefix[k])
				n = k;
	while (n && ((unsigned char)prefix[n] & 0xc0) == 0x80) /* not within a character */
		n--;
	prefix[n] = '\0';
	mc_p2p_list(s->session.store, prefix, P2PC_ASK_NS, add_root, s, NULL);
}

static void tell_one(const struct serving *s, const struct p2pc_offer *offer, bool first)
{
	char size[MC_TEXT_MAX], shard[MC_TEXT_MAX];

	if (s->o->json) {
		fputs(first ? "{\"name\": " : ", {\"name\": ", stdout);
		mc_text_json(stdout, offer->name);
		printf(", \"size\": %" PRIu64 ", \"files\": %zu, \"tensors\": %" PRIu64 ", \"shards\": %u, \"shard_size\": %" PRIu64
		       ", \"root\": \"%s\"}", offer->manifest.size, offer->nr_files, offer->nr_tensors, offer->nr_shards,
		       offer->shard_size, offer->root);
		return;
	}
	fputs("serving '", stdout);
	mc_text_tame(stdout, offer->name);
	printf("': %s", mc_text_size(offer->manifest.size, size));
	if (offer->manifest.tree)
		printf(" in %zu file%s", offer->nr_files, offer->nr_files == 1 ? "" : "s");
	printf(", %u shard%s of %s, root %s\n", offer->nr_shards, offer->nr_shards == 1 ? "" : "s",
	       mc_text_size(offer->shard_size, shard), offer->root);
}

static void tell(struct serving *s)
{
	read_records(s);
	if (s->o->json) {
		fputs("{\"engine\": ", stdout);
		mc_text_json(stdout, mc_engine_name(s->session.engine));
		printf(", \"port\": %u, \"objects\": [", mc_engine_port(s->session.engine));
	}
	for (size_t i = 0; i < s->nr; i++)
		tell_one(s, &s->offers[i], i == 0);
	if (s->o->json)
		puts("]}");
	else
		printf("engine '%s' is ready on port %u\n", mc_engine_name(s->session.engine), mc_engine_port(s->session.engine));
	fflush(stdout);
}

/* ---- serving ---------------------------------------------------------------------------------- */

static void withdraw(struct serving *s, struct p2pc_offer *offer)
{
	if (offer->registered)
		mc_p2p_unregister(s->session.store, offer->name, P2PC_CLOSE_NS, NULL);
	if (offer->held)
		p2pc_session_release(&s->session, &offer->map);
	offer->registered = offer->held = false;
}

/* Take back what is not any more what it was; how many are left. */
static size_t look(struct serving *s, int *code)
{
	size_t left = 0;

	for (size_t i = 0; i < s->nr; i++) {
		struct p2pc_offer *offer = &s->offers[i];
		struct mc_error err = {0};

		if (offer->registered && p2pc_session_removed(&s->session, offer->name, code))
			withdraw(s, offer);
		if (offer->registered && p2pc_map_look(&offer->map, &err) < 0) {
			mc_tell("mooncake_p2p: %s while '%s' was served; it is taken back: serve it again", err.text, offer->name);
			withdraw(s, offer);
			*code = P2PC_EXIT_FAILED;
		}
		left += offer->registered;
	}
	return left;
}

static int serve(struct serving *s)
{
	uint64_t end = s->o->duration > 0 ? p2pc_now_ns() + (uint64_t)(s->o->duration * 1e9) : UINT64_MAX;
	int code = P2PC_EXIT_OK;

	while (!mc_stopping() && look(s, &code)) {
		uint64_t now = p2pc_now_ns();

		if (now >= end)
			break;
		mc_stop_wait(end - now < LOOK_NS ? end - now : LOOK_NS);
	}
	return code;
}

static void close_offers(struct serving *s)
{
	for (size_t i = 0; i < s->nr; i++)
		withdraw(s, &s->offers[i]);
	p2pc_session_close(&s->session);
	for (size_t i = 0; i < s->nr; i++)
		p2pc_offer_close(&s->offers[i]);
	free(s->offers);
}

int p2pc_serve(const struct p2pc_options *o, struct mc_config *config)
{
	struct serving s = {.o = o};
	struct mc_error err = {0};
	int r = open_offers(&s, &err), code;

	if (r == 0)
		r = p2pc_session_open(&s.session, o, config, false, &err);
	for (size_t i = 0; r == 0 && i < s.nr && !mc_stopping(); i++)
		r = register_offer(&s, &s.offers[i], &err);
	if (r == -ECANCELED && mc_stopping())
		r = 0; /* while it was hashed */
	if (r == 0 && !mc_stopping()) {
		tell(&s);
		r = mc_join_ready(o->ready_file, s.session.engine, &err);
	}
	code = r < 0 ? p2pc_tell_error(o, err.text, s.session.usage ? P2PC_EXIT_USAGE : P2PC_EXIT_FAILED) : serve(&s);
	close_offers(&s);
	return code;
}
