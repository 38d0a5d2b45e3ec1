/* SPDX-License-Identifier: Apache-2.0 */
/*
 * get: fetch an object into files beside the place where they will appear, and let them appear
 * when all is verified.  What was interrupted lies there for the same command to go on with.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include <cli/program/join.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "program.h"
#include "stop.h"
#include "target.h"

#define SHOW_MS 200
#define LOOK_MS 1000
#define RETRY_NS (500 * MC_MSEC)

struct getting {
	const struct p2pc_options *o;
	const char *name;
	struct p2pc_session session;
	struct p2pc_progress progress;
	struct mc_p2p_info *info;
	struct p2pc_manifest manifest;
	struct p2pc_target target;
	struct mc_p2p_progress last;
	bool target_open, held, replica;
};

/* ---- before ----------------------------------------------------------------------------------- */

/* What is it?  With --wait it may come later; who has it may be silent for as long as the get has patience. */
static int find(struct getting *g, struct mc_error *err)
{
	uint64_t start = p2pc_now_ns(), end = start + (uint64_t)(g->o->wait * 1e9);
	uint64_t patience = start + MC_MIN(p2pc_patience(g->o), p2pc_timeout(g->o, MC_FOREVER));

	for (;;) {
		int r = mc_p2p_stat(g->session.store, g->name, P2PC_ASK_NS, &g->info, err);
		uint64_t now = p2pc_now_ns();

		if (r == 0 && g->info->attachment_len && !g->info->attachment) {
			r = mc_fail(err, -ENODATA, "'%s': %s; --patience=S waits longer", g->name,
				    g->info->nr_sources ? "nobody who offers it answers" : "nobody offers it now");
			mc_p2p_info_free(g->info);
			g->info = NULL;
			end = MC_MAX(end, patience);
		}
		if ((r != -ENOENT && r != -ENODATA) || now >= end || mc_stopping())
			return mc_stopping() && r < 0 ? mc_fail(err, -ECANCELED, "interrupted") : r;
		p2pc_progress_text(&g->progress, "waiting for '%s'", g->name);
		mc_stop_wait(end - now < RETRY_NS ? end - now : RETRY_NS);
	}
}

/* Its files.  What a program has registered need not have a manifest: one file of that name. */
static int read_manifest(struct getting *g, struct mc_error *err)
{
	const char *slash = strrchr(g->name, '/'), *base = slash ? slash + 1 : g->name;
	struct p2pc_entry file = {.size = g->info->len};
	struct mc_error why = {0};
	int r;

	if (g->info->attachment)
		r = p2pc_manifest_parse(g->info->attachment, g->info->attachment_len, &g->manifest, &why);
	else if (p2pc_manifest_add(&g->manifest, *base ? base : "object", NULL, &file) < 0)
		r = mc_fail(&why, -ENOMEM, "out of memory");
	else
		r = p2pc_manifest_seal(&g->manifest, &why);
	if (r == 0 && g->manifest.size != g->info->len)
		r = mc_fail(&why, -EBADMSG, "its manifest names %" PRIu64 " bytes, it has %" PRIu64, g->manifest.size, g->info->len);
	return r < 0 ? mc_fail(err, r, "'%.200s': %.800s", g->name, why.text) : 0;
}

/* ---- the get ---------------------------------------------------------------------------------- */

/* Show it and wait for its end, or for a signal's.  Files of ours that somebody cuts meanwhile end it, too: no source
 * can fill them. */
static int follow(struct getting *g, struct mc_p2p_get *get, struct mc_error *err)
{
	uint64_t look_ns = p2pc_now_ns() + MC_SEC;
	struct mc_error cut = {0};
	int r;

	for (;;) {
		struct pollfd fds[2] = {{.fd = mc_p2p_get_fd(get), .events = POLLIN}, {.fd = mc_stop_fd(), .events = POLLIN}};

		mc_p2p_get_progress(get, &g->last);
		p2pc_progress_show(&g->progress, &g->last);
		poll(fds, 2, g->progress.on ? SHOW_MS : LOOK_MS);
		if (fds[0].revents || mc_stopping())
			break;
		if (p2pc_now_ns() < look_ns)
			continue;
		if (p2pc_map_whole(&g->target.map, &cut) < 0)
			break;
		look_ns = p2pc_now_ns() + MC_SEC;
	}
	if (mc_stopping() || cut.code)
		mc_p2p_get_cancel(get);
	r = mc_p2p_get_wait(get, MC_FOREVER, err);
	if (r < 0 && !mc_stopping() && p2pc_map_whole(&g->target.map, &cut) < 0)
		r = mc_fail(err, -ESTALE, "%s meanwhile", cut.text);
	mc_p2p_get_progress(get, &g->last);
	g->replica = r == 0;
	return r;
}

static int fetch(struct getting *g, struct mc_error *err)
{
	struct mc_p2p_get_options options = {.size = sizeof options, .flags = g->target.resumed ? MC_P2P_RESUME : 0};
	struct mc_p2p_get *get;
	struct mc_error why = {0};
	int r = mc_p2p_get_start(g->session.store, g->name, g->target.map.ranges, g->target.map.nr, &options,
				 p2pc_timeout(g->o, MC_FOREVER), &get, &why);

	g->last.size = sizeof g->last;
	g->session.filling = &g->target.map;
	if (r == 0) {
		r = follow(g, get, &why);
		mc_p2p_get_free(get);
	}
	g->session.filling = NULL;
	mc_tell_progress_end();
	if (r < 0 && (g->last.done_len || g->target.resumed)) {
		char done[MC_TEXT_MAX], len[MC_TEXT_MAX], what[2 * MC_TEXT_MAX + 8] = "what had arrived before";

		if (g->last.done_len)
			snprintf(what, sizeof what, "%s of %s", mc_text_size(g->last.done_len, done),
				 mc_text_size(g->info->len, len));
		return mc_fail(err, r, "%.600s; %s: kept in '%.200s', and the same command goes on from there",
			       r == -ECANCELED ? "interrupted" : why.text, what, g->target.part);
	}
	return r < 0 ? mc_fail(err, r, "%s", r == -ECANCELED ? "interrupted" : why.text) : 0;
}

/* ---- telling ---------------------------------------------------------------------------------- */

static void tell(const struct getting *g)
{
	const struct mc_p2p_progress *l = &g->last;
	double seconds = (double)l->elapsed_ns / 1e9, rate = seconds > 0 ? (double)(l->done_len - l->resumed_len) / seconds : 0;
	char size[MC_TEXT_MAX], per[MC_TEXT_MAX], had[MC_TEXT_MAX];
	size_t nr_files = 0;

	for (size_t i = 0; i < g->manifest.nr; i++)
		nr_files += !g->manifest.entries[i].dir;
	if (g->o->json) {
		fputs("{\"name\": ", stdout);
		mc_text_json(stdout, g->name);
		fputs(", \"path\": ", stdout);
		mc_text_json(stdout, g->target.path);
		printf(", \"size\": %" PRIu64 ", \"files\": %zu, \"root\": \"%s\", \"seconds\": %.3f, \"rate\": %.0f, \"resumed\": %" PRIu64
		       ", \"moved\": %" PRIu64 ", \"sources\": %u, \"dropped\": %u, \"corrupt\": %u}\n",
		       g->info->len, nr_files, g->info->root, seconds, rate, l->resumed_len, l->moved_len, l->nr_sources,
		       l->dropped, l->corrupt);
	} else {
		fputs("got '", stdout);
		mc_text_tame(stdout, g->target.path);
		printf("': %s in %.1f s, %s/s, verified", mc_text_size(g->info->len, size), seconds,
		       mc_text_size((uint64_t)rate, per));
		if (l->resumed_len)
			printf("; %s were there already", mc_text_size(l->resumed_len, had));
		if (l->dropped)
			printf("; %u source%s left or failed", l->dropped, l->dropped == 1 ? "" : "s");
		if (l->corrupt)
			printf("; %u shard%s did not verify and came again", l->corrupt, l->corrupt == 1 ? "" : "s");
		putchar('\n');
	}
	fflush(stdout);
}

/* ---- after ------------------------------------------------------------------------------------ */

static int serve_on(struct getting *g)
{
	uint64_t end = g->o->duration > 0 ? p2pc_now_ns() + (uint64_t)(g->o->duration * 1e9) : UINT64_MAX, now;

	while (!mc_stopping() && (now = p2pc_now_ns()) < end) {
		struct mc_error err = {0};
		int code = P2PC_EXIT_OK;

		if (p2pc_session_removed(&g->session, g->name, &code))
			return code;
		if (p2pc_map_look(&g->target.map, &err) < 0) {
			mc_tell("mooncake_p2p: %s while '%s' was served; it is taken back", err.text, g->name);
			return P2PC_EXIT_FAILED;
		}
		mc_stop_wait(end - now < MC_SEC ? end - now : MC_SEC);
	}
	return P2PC_EXIT_OK;
}

static int get(struct getting *g, struct mc_config *config, struct mc_error *err)
{
	int r = p2pc_session_open(&g->session, g->o, config, true, err);

	if (r == 0)
		r = find(g, err);
	if (r == 0)
		r = read_manifest(g, err);
	if (r == 0) {
		r = p2pc_target_open(&g->target, g->o->output, g->name, &g->manifest, g->info->root, g->o->force, err);
		g->target_open = r == 0;
	}
	if (r == 0) {
		r = p2pc_session_hold(&g->session, &g->target.map, err);
		g->held = r == 0;
	}
	if (r == 0)
		r = fetch(g, err);
	if (r == 0)
		r = p2pc_target_finish(&g->target, g->o->sync, err);
	return r;
}

int p2pc_get(const struct p2pc_options *o, struct mc_config *config)
{
	struct getting g = {.o = o, .name = o->args[0]};
	struct mc_error err = {0};
	int r, code = P2PC_EXIT_OK;

	p2pc_progress_init(&g.progress, g.name, false);
	r = get(&g, config, &err);
	mc_tell_progress_end();
	if (r == 0) {
		tell(&g);
		r = mc_join_ready(o->ready_file, g.session.engine, &err);
	}
	if (r == 0 && o->serve)
		code = serve_on(&g);
	if (r < 0)
		code = p2pc_tell_error(o, err.text, g.session.usage ? P2PC_EXIT_USAGE : P2PC_EXIT_FAILED);
	if (g.replica)
		mc_p2p_delete_replica(g.session.store, g.name, P2PC_CLOSE_NS, NULL);
	if (g.held)
		p2pc_session_release(&g.session, &g.target.map);
	p2pc_session_close(&g.session);
	if (g.target_open)
		p2pc_target_close(&g.target, g.target.resumed || g.last.done_len > 0);
	p2pc_manifest_free(&g.manifest);
	mc_p2p_info_free(g.info);
	return code;
}
