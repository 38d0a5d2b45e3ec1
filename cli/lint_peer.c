/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake lint --peer: which rails would there be between this host and an
 * engine that runs, by its record: a rail exists where both ends have a device
 * of one wire, with a version that both speak.  Who is reached over it, and how
 * fast it is, only an engine finds out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/discover.h"
#include "core/matrix.h"
#include "core/meta.h"
#include "core/util/check.h"
#include "core/util/cleanup.h"
#include "lint.h"

struct peer {
	struct lint *lint;
	const char *name;
	struct mc_json *record;
	struct mc_matrix *mine, *theirs;
	struct mc_error why;
	int status;
};

static int got(void *ctx, const struct mc_kv *kv)
{
	struct peer *p = ctx;
	struct mc_record *record = NULL;
	char what[300];

	snprintf(what, sizeof what, "record '%s'", p->name);
	p->status = mc_record_parse(what, kv->value, kv->len, &record, &p->why);
	mc_record_free(record);
	if (p->status == 0)
		p->status = mc_json_parse(what, kv->value, kv->len, &p->record, &p->why);
	return 0;
}

static int fetch(struct peer *p, uint64_t timeout_ns)
{
	uint64_t deadline = mc_now_ns() + timeout_ns;
	char key[MC_KV_KEY_MAX + 1];
	struct mc_record *record = NULL;
	struct mc_engine *engine;
	int r;

	r = mc_engine_open_aside(p->lint->config, deadline, &engine, &p->why);
	if (r < 0)
		return r;
	/* Found, or with those that there are instead. */
	r = mc_record_find(engine, p->name, deadline, &record, &p->why);
	mc_record_free(record);
	if (r == 0) {
		snprintf(key, sizeof key, "%sengine/%s", engine->meta->prefix, p->name);
		p->status = -ENOENT;
		r = mc_meta_get(engine->meta, key, deadline, got, p, &p->why);
		r = r < 0 ? r : p->status;
	}
	mc_engine_close(engine, MC_SEC);
	return r;
}

static int matrices(struct peer *p)
{
	const char *text = mc_config_settings(p->lint->config)->nic_priority_matrix;
	const char *remote = mc_json_str(p->record, "matrix", NULL);
	mc_cleanup(mc_freep) char *found = NULL;
	struct mc_error why;
	int r = 0;

	if (!*text) {
		r = mc_discover_matrix(p->lint->registry, &found, &p->why);
		text = found;
	}
	if (r == 0)
		r = mc_matrix_parse(text, &p->mine, &p->why);
	if (r == 0)
		r = mc_matrix_resolve(p->mine, p->lint->registry, &p->why);
	if (r == 0 && (!remote || remote[strspn(remote, " \t\r\n")] != '{'))
		r = mc_fail(&p->why, -EBADMSG, "record '%s': it has no matrix", p->name);
	if (r == 0 && mc_matrix_parse(remote, &p->theirs, &why) < 0)
		r = mc_fail(&p->why, -EBADMSG, "record '%s': its matrix: %s", p->name, why.text);
	return r;
}

static bool usable(const struct lint *lint, const char *label)
{
	for (size_t i = 0; i < lint->nr_unusable; i++) {
		if (strcmp(lint->unusable[i], label) == 0)
			return false;
	}
	return true;
}

/* What their record says of a device; NULL: it is not open there. */
static const struct mc_json *device_of(const struct peer *p, const char *label)
{
	const struct mc_json *list = mc_json_get(p->record, "devices");

	for (size_t i = 0; list && list->type == MC_JSON_ARRAY && i < list->list.nr; i++) {
		const struct mc_json *d = &list->list.items[i];

		if (d->type == MC_JSON_OBJECT && strcmp(mc_json_str(d, "device", ""), label) == 0)
			return d;
	}
	return NULL;
}

static void rail_add(struct lint *lint, const struct lint_rail *rail)
{
	struct lint_rail *more = reallocarray(lint->rails, lint->nr_rails + 1, sizeof *more);

	if (!more)
		abort();
	lint->rails = more;
	more[lint->nr_rails++] = *rail;
}

/* A device of ours and one of theirs; 1: a rail. */
static int pair(struct peer *p, const struct mc_matrix_entry *mine, const struct mc_matrix_entry *theirs,
		struct lint_rail *rail)
{
	const struct mc_manifest *m = mc_registry_find(p->lint->registry, MC_KIND_TRANSPORT, mine->transport, NULL);
	const struct mc_json *d;
	int64_t lo, hi;

	snprintf(rail->local, sizeof rail->local, "%s:%s", mine->transport, mine->device);
	snprintf(rail->remote, sizeof rail->remote, "%s%s%s", theirs->transport ? theirs->transport : "",
		 theirs->transport ? ":" : "", theirs->device);
	d = device_of(p, rail->remote);
	if (!m || !d || !usable(p->lint, rail->local) || strcmp(m->wire, mc_json_str(d, "wire", "")) != 0)
		return 0;
	lo = MC_MAX(m->wire_min, mc_json_int(d, "wire_min", 1));
	hi = MC_MIN(m->wire_max, mc_json_int(d, "wire_max", 1));
	if (lo > hi) {
		char text[600];

		snprintf(text, sizeof text, "peer '%.200s': %s speaks wire %s %u..%u, its %s another version: update one end",
			 p->name, rail->local, m->wire, m->wire_min, m->wire_max, rail->remote);
		if (!lint_said(p->lint, text))
			lint_add(p->lint, LINT_WARNING, "peer-version", "%s", text);
		return 0;
	}
	snprintf(rail->wire, sizeof rail->wire, "%s %d", m->wire, (int)hi);
	rail_add(p->lint, rail);
	return 1;
}

static void rows(struct peer *p, const struct mc_matrix_row *mine, const struct mc_matrix_row *theirs)
{
	struct lint_rail rail = {0};
	int nr = 0;

	snprintf(rail.from, sizeof rail.from, "%s", mine->location);
	snprintf(rail.to, sizeof rail.to, "%s", theirs->location);
	for (size_t lt = 0; lt < mine->nr_tiers; lt++)
		for (size_t rt = 0; rt < theirs->nr_tiers; rt++)
			for (size_t l = 0; l < mine->tiers[lt].nr; l++)
				for (size_t r = 0; r < theirs->tiers[rt].nr; r++) {
					rail.tier = MC_MAX(lt, rt);
					nr += pair(p, &mine->tiers[lt].entries[l], &theirs->tiers[rt].entries[r], &rail);
				}
	if (!nr)
		lint_add(p->lint, LINT_ERROR, "peer-no-rail",
			 "peer '%s': no rail from %s here to %s there: no device of one wire at both ends", p->name,
			 mine->location, theirs->location);
}

static int by_tier(const void *a, const void *b)
{
	const struct lint_rail *x = a, *y = b;
	int r = strcmp(x->from, y->from);

	if (!r)
		r = strcmp(x->to, y->to);
	return r ? r : x->tier != y->tier ? (x->tier > y->tier ? 1 : -1) : strcmp(x->local, y->local);
}

void lint_peer(struct lint *lint, const char *name, uint64_t timeout_ns)
{
	struct peer p = {.lint = lint, .name = name};

	if (fetch(&p, timeout_ns) < 0) {
		lint_add(lint, LINT_ERROR, "peer", "%s", p.why.text);
	} else if (matrices(&p) < 0) {
		/* Ours has been looked at before. */
		if (!lint_said(lint, p.why.text))
			lint_add(lint, LINT_ERROR, "peer", "%s", p.why.text);
	} else {
		for (size_t i = 0; i < p.mine->nr_rows; i++)
			for (size_t j = 0; j < p.theirs->nr_rows; j++)
				rows(&p, &p.mine->rows[i], &p.theirs->rows[j]);
		if (lint->nr_rails)
			qsort(lint->rails, lint->nr_rails, sizeof *lint->rails, by_tier);
	}
	mc_json_free(p.record);
	mc_matrix_free(p.mine);
	mc_matrix_free(p.theirs);
}
