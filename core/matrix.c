/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NIC priority matrix: JSON text to an immutable table from location to
 * tiers of devices, strict, every refusal with its place; and the transport of
 * each bare device name by the claims of the manifests.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "json.h"
#include "loader.h"
#include "manifest.h"
#include "matrix.h"
#include "util/check.h"
#include "util/cleanup.h"

#define WEIGHT_MAX 1000
#define ENTRIES_MAX 4096 /* of all rows: more than any host has, and each is compared with its row */

/* Where a check stands: begins every sentence about a meaning. */
struct place {
	const char *what;     /* "nic_priority_matrix" or the file's path */
	const char *location; /* as the user wrote it */
	size_t tier, device;
	size_t nr; /* devices so far, in all rows */
	struct mc_error *err;
};

static void entry_fini(struct mc_matrix_entry *e)
{
	free(e->transport);
	free(e->device);
}

void mc_matrix_free(struct mc_matrix *matrix)
{
	if (!matrix)
		return;
	for (size_t r = 0; r < matrix->nr_rows; r++) {
		struct mc_matrix_row *row = &matrix->rows[r];

		for (size_t t = 0; t < row->nr_tiers; t++) {
			for (size_t e = 0; e < row->tiers[t].nr; e++)
				entry_fini(&row->tiers[t].entries[e]);
			free(row->tiers[t].entries);
		}
		free(row->tiers);
		free(row->location);
	}
	free(matrix->rows);
	free(matrix->text);
	free(matrix->path);
	free(matrix);
}

/* The text is canonical, so it differs where the matrices do, but for what a bare name was resolved to. */
bool mc_matrix_same(const struct mc_matrix *a, const struct mc_matrix *b)
{
	if (strcmp(a->text, b->text) != 0 || a->nr_rows != b->nr_rows)
		return false;
	for (size_t r = 0; r < a->nr_rows; r++) {
		if (a->rows[r].nr_tiers != b->rows[r].nr_tiers)
			return false;
		for (size_t t = 0; t < a->rows[r].nr_tiers; t++) {
			const struct mc_matrix_tier *x = &a->rows[r].tiers[t], *y = &b->rows[r].tiers[t];

			if (x->nr != y->nr)
				return false;
			for (size_t e = 0; e < x->nr; e++)
				if (strcmp(x->entries[e].transport, y->entries[e].transport) != 0)
					return false;
		}
	}
	return true;
}

int mc_location_parse(const char *location, char kind[MC_PLUGIN_NAME_MAX + 1], int32_t *ret_ordinal,
		      struct mc_error *err)
{
	const char *colon = strchr(location, ':');
	size_t len = colon ? (size_t)(colon - location) : strlen(location);
	char name[MC_PLUGIN_NAME_MAX + 1];
	int64_t ordinal = -1;

	if (strcmp(location, "*") == 0) {
		strcpy(kind, "*");
		*ret_ordinal = -1;
		return 0;
	}
	if (strlen(location) > MC_LOCATION_MAX || len > MC_PLUGIN_NAME_MAX)
		goto bad;
	memcpy(name, location, len);
	name[len] = '\0';
	if (!mc_plugin_name_ok(name))
		goto bad;
	if (colon) {
		size_t digits = strspn(colon + 1, "0123456789");

		if (digits == 0 || digits > 9 || colon[1 + digits] != '\0' ||
		    (digits > 1 && colon[1] == '0'))
			goto bad;
		ordinal = strtoll(colon + 1, NULL, 10);
	}
	/* Both names are used for the same memory; one of them counts. */
	strcpy(kind, strcmp(name, "gpu") == 0 ? "cuda" : name);
	*ret_ordinal = (int32_t)ordinal;
	return 0;
bad:
	return mc_fail(err, -EINVAL, "location '%.64s': it must be KIND:NUMBER such as cpu:0, or '*'",
		       location);
}

static int no_memory(const struct place *at)
{
	return mc_fail(at->err, -ENOMEM, "%s: out of memory", at->what);
}

static int wrong_type(const struct place *at, const char *member, const char *want,
		      const struct mc_json *v)
{
	return mc_fail(at->err, -EINVAL, "%s: $.%.64s[%zu][%zu]%s must be %s, not %s", at->what,
		       at->location, at->tier, at->device, member, want, mc_json_type_name(v->type));
}

/* "eth0" or "tcp:eth0". */
static int parse_device(const struct place *at, const char *text, struct mc_matrix_entry *e)
{
	const char *colon = strchr(text, ':');
	const char *device = colon ? colon + 1 : text;
	size_t len = strlen(device);

	if (colon)
		e->transport = strndup(text, (size_t)(colon - text));
	e->device = strdup(device);
	if ((colon && !e->transport) || !e->device)
		return no_memory(at);
	if (colon && !mc_plugin_name_ok(e->transport))
		return mc_fail(at->err, -EINVAL,
			       "%s: $.%.64s[%zu][%zu]: '%.64s' is not the name of a transport", at->what,
			       at->location, at->tier, at->device, e->transport);
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)device[i] <= ' ' || device[i] == 0x7f || device[i] == '/')
			len = 0;
	}
	if (len == 0 || len > MC_DEVICE_NAME_MAX)
		return mc_fail(at->err, -EINVAL,
			       "%s: $.%.64s[%zu][%zu]: '%.80s' is not a device name: 1 to %d bytes without blanks and '/'",
			       at->what, at->location, at->tier, at->device, device, MC_DEVICE_NAME_MAX);
	return 0;
}

static int parse_weight(const struct place *at, const struct mc_json *v, double *ret)
{
	double w = v->type == MC_JSON_INT ? (double)v->i : v->type == MC_JSON_DOUBLE ? v->d : NAN;

	if (isnan(w))
		return wrong_type(at, ".weight", "a number", v);
	if (w <= 0 || w > WEIGHT_MAX)
		return mc_fail(at->err, -EINVAL,
			       "%s: $.%.64s[%zu][%zu].weight: %g is out of range: above 0, up to %d",
			       at->what, at->location, at->tier, at->device, w, WEIGHT_MAX);
	*ret = w;
	return 0;
}

/* { "device": "rdma:mlx5_0", "require": true, "weight": 2 } */
static int parse_object(const struct place *at, const struct mc_json *v, struct mc_matrix_entry *e)
{
	static const char *const known[] = {"device", "require", "weight", NULL};
	const char *device = NULL;
	int r;

	for (size_t i = 0; i < v->list.nr; i++) {
		const struct mc_json *member = &v->list.items[i];

		if (strcmp(member->key, "device") == 0) {
			if (member->type != MC_JSON_STRING)
				return wrong_type(at, ".device", "a string", member);
			device = member->s;
		} else if (strcmp(member->key, "require") == 0) {
			if (member->type != MC_JSON_BOOL)
				return wrong_type(at, ".require", "true or false", member);
			e->require = member->b;
		} else if (strcmp(member->key, "weight") == 0) {
			r = parse_weight(at, member, &e->weight);
			if (r < 0)
				return r;
		} else {
			const char *near = mc_closest(member->key, known);

			return mc_fail(at->err, -EINVAL,
				       "%s: $.%.64s[%zu][%zu]: unknown key '%.64s'%s%s%s", at->what,
				       at->location, at->tier, at->device, member->key,
				       near ? " (did you mean '" : "", near ? near : "",
				       near ? "'?)" : "");
		}
	}
	if (!device)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s[%zu][%zu]: there is no \"device\"", at->what,
			       at->location, at->tier, at->device);
	return parse_device(at, device, e);
}

static int parse_tier(struct place *at, const struct mc_json *v, struct mc_matrix_tier *tier)
{
	int r;

	if (v->type != MC_JSON_ARRAY)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s[%zu] must be an array of devices, not %s",
			       at->what, at->location, at->tier, mc_json_type_name(v->type));
	at->nr += v->list.nr;
	if (at->nr > ENTRIES_MAX)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s[%zu]: more than %d devices in all rows", at->what, at->location,
			       at->tier, ENTRIES_MAX);
	tier->entries = calloc(v->list.nr ? v->list.nr : 1, sizeof *tier->entries);
	if (!tier->entries)
		return no_memory(at);
	for (at->device = 0; at->device < v->list.nr; at->device++) {
		const struct mc_json *item = &v->list.items[at->device];
		struct mc_matrix_entry *e = &tier->entries[at->device];

		e->weight = 1;
		tier->nr++;
		if (item->type == MC_JSON_STRING)
			r = parse_device(at, item->s, e);
		else if (item->type == MC_JSON_OBJECT)
			r = parse_object(at, item, e);
		else
			r = wrong_type(at, "", "a device name or an object", item);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool same_device(const struct mc_matrix_entry *a, const struct mc_matrix_entry *b)
{
	if (strcmp(a->device, b->device) != 0)
		return false;
	return a->transport && b->transport ? strcmp(a->transport, b->transport) == 0
					    : a->transport == b->transport;
}

/* The entry at (tier, device) must not be in the row before it. */
static int check_first(const struct place *at, const struct mc_matrix_row *row)
{
	const struct mc_matrix_entry *e = &row->tiers[at->tier].entries[at->device];

	for (size_t t = 0; t <= at->tier; t++) {
		size_t nr = t == at->tier ? at->device : row->tiers[t].nr;

		for (size_t d = 0; d < nr; d++) {
			if (same_device(&row->tiers[t].entries[d], e))
				return mc_fail(at->err, -EINVAL,
					       "%s: $.%.64s[%zu][%zu]: device '%s' is in this row already, at [%zu][%zu]",
					       at->what, at->location, at->tier, at->device, e->device, t,
					       d);
		}
	}
	return 0;
}

static int check_row(struct place *at, const struct mc_matrix_row *row)
{
	size_t nr = 0;
	int r;

	for (at->tier = 0; at->tier < row->nr_tiers; at->tier++) {
		for (at->device = 0; at->device < row->tiers[at->tier].nr; at->device++) {
			nr++;
			r = check_first(at, row);
			if (r < 0)
				return r;
		}
	}
	if (nr == 0)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s: the row names no device", at->what,
			       at->location);
	return 0;
}

static int parse_location(const struct place *at, struct mc_matrix *m, struct mc_matrix_row *row)
{
	char kind[MC_PLUGIN_NAME_MAX + 1], text[MC_LOCATION_MAX + 16];
	struct mc_error why;
	int32_t ordinal;

	if (mc_location_parse(at->location, kind, &ordinal, &why) < 0)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s: %s", at->what, at->location, why.text);
	if (ordinal < 0 && strcmp(kind, "*") != 0)
		return mc_fail(at->err, -EINVAL,
			       "%s: $.%.64s: location '%s' has no number: write '%s:0', or '*' for all",
			       at->what, at->location, at->location, at->location);
	if (ordinal < 0)
		strcpy(text, "*");
	else
		snprintf(text, sizeof text, "%s:%d", kind, ordinal);
	for (size_t i = 0; i < m->nr_rows; i++) {
		if (&m->rows[i] != row && strcmp(m->rows[i].location, text) == 0)
			return mc_fail(at->err, -EINVAL, "%s: $.%.64s: location '%s' has a row already",
				       at->what, at->location, text);
	}
	row->location = strdup(text);
	return row->location ? 0 : no_memory(at);
}

static int parse_row(struct place *at, const struct mc_json *v, struct mc_matrix *m,
		     struct mc_matrix_row *row)
{
	int r = parse_location(at, m, row);

	if (r < 0)
		return r;
	if (v->type != MC_JSON_ARRAY)
		return mc_fail(at->err, -EINVAL, "%s: $.%.64s must be an array of tiers, not %s", at->what,
			       at->location, mc_json_type_name(v->type));
	row->tiers = calloc(v->list.nr ? v->list.nr : 1, sizeof *row->tiers);
	if (!row->tiers)
		return no_memory(at);
	for (at->tier = 0; at->tier < v->list.nr; at->tier++) {
		row->nr_tiers++;
		r = parse_tier(at, &v->list.items[at->tier], &row->tiers[at->tier]);
		if (r < 0)
			return r;
	}
	return check_row(at, row);
}

static void write_entry(struct mc_json_out *o, const struct mc_matrix_entry *e)
{
	char name[MC_PLUGIN_NAME_MAX + MC_DEVICE_NAME_MAX + 2];
	bool plain = !e->require && e->weight == 1;

	snprintf(name, sizeof name, "%s%s%s", e->transport ? e->transport : "",
		 e->transport ? ":" : "", e->device);
	if (plain) {
		mc_json_out_str(o, name);
		return;
	}
	mc_json_out_open(o, '{');
	mc_json_out_key(o, "device");
	mc_json_out_str(o, name);
	if (e->require) {
		mc_json_out_key(o, "require");
		mc_json_out_bool(o, true);
	}
	if (e->weight != 1) {
		mc_json_out_key(o, "weight");
		mc_json_out_double(o, e->weight);
	}
	mc_json_out_close(o);
}

static int write_text(struct mc_matrix *m)
{
	struct mc_json_out *o = mc_json_out_new(false);
	char *text;

	mc_json_out_open(o, '{');
	for (size_t r = 0; r < m->nr_rows; r++) {
		const struct mc_matrix_row *row = &m->rows[r];

		mc_json_out_key(o, row->location);
		mc_json_out_open(o, '[');
		for (size_t t = 0; t < row->nr_tiers; t++) {
			mc_json_out_open(o, '[');
			for (size_t e = 0; e < row->tiers[t].nr; e++)
				write_entry(o, &row->tiers[t].entries[e]);
			mc_json_out_close(o);
		}
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	text = mc_json_out_take(o);
	if (!text)
		return -ENOMEM;
	free(m->text);
	m->text = text;
	return 0;
}

static int parse_tree(struct place *at, const struct mc_json *root, struct mc_matrix *m)
{
	int r;

	if (root->type != MC_JSON_OBJECT)
		return mc_fail(at->err, -EINVAL,
			       "%s: it must be an object such as {\"cpu:0\": [[\"eth0\"], []]}, not %s",
			       at->what, mc_json_type_name(root->type));
	if (root->list.nr == 0)
		return mc_fail(at->err, -EINVAL, "%s: it has no row; leave it out to have one written",
			       at->what);
	m->rows = calloc(root->list.nr, sizeof *m->rows);
	if (!m->rows)
		return no_memory(at);
	for (size_t i = 0; i < root->list.nr; i++) {
		at->location = root->list.items[i].key;
		m->nr_rows++;
		r = parse_row(at, &root->list.items[i], m, &m->rows[i]);
		if (r < 0)
			return r;
	}
	return write_text(m) < 0 ? no_memory(at) : 0;
}

int mc_matrix_parse(const char *text_or_path, struct mc_matrix **ret_matrix, struct mc_error *err)
{
	const char *start = text_or_path + strspn(text_or_path, " \t\r\n");
	struct place at = {.what = "nic_priority_matrix", .err = err};
	mc_cleanup(mc_freep) char *from_file = NULL;
	size_t len = strlen(text_or_path);
	struct mc_json *root = NULL;
	struct mc_matrix *m;
	int r;

	if (!*start)
		return mc_fail(err, -EINVAL, "nic_priority_matrix: it is empty; leave it out to have one written");
	if (*start != '{' && *start != '[') {
		at.what = text_or_path;
		r = mc_read_file(text_or_path, &from_file, &len, err);
		if (r < 0)
			return mc_fail(err, r, "nic_priority_matrix: %.200s: %s; give the JSON text itself, beginning with '{', or the "
				       "path of a file", text_or_path, strerror(-r));
		text_or_path = from_file;
	}
	r = mc_json_parse(at.what, text_or_path, len, &root, err);
	if (r < 0)
		return r;
	m = calloc(1, sizeof *m);
	r = m ? parse_tree(&at, root, m) : no_memory(&at);
	if (r == 0 && from_file && !(m->path = strdup(at.what)))
		r = no_memory(&at);
	mc_json_free(root);
	if (r < 0) {
		mc_matrix_free(m);
		return r;
	}
	*ret_matrix = m;
	return 0;
}

const struct mc_matrix_row *mc_matrix_row_find(const struct mc_matrix *matrix, const char *location)
{
	const struct mc_matrix_row *any = NULL;
	char alias[MC_LOCATION_MAX + 2];

	if (strncmp(location, "gpu:", 4) == 0) {
		snprintf(alias, sizeof alias, "cuda:%s", location + 4);
		location = alias;
	}
	/* A peer may have told none. */
	for (size_t i = 0; matrix && i < matrix->nr_rows; i++) {
		if (strcmp(matrix->rows[i].location, location) == 0)
			return &matrix->rows[i];
		if (strcmp(matrix->rows[i].location, "*") == 0)
			any = &matrix->rows[i];
	}
	return any;
}

size_t mc_matrix_row_nr_entries(const struct mc_matrix_row *row)
{
	size_t nr = 0;

	for (size_t t = 0; t < row->nr_tiers; t++)
		nr += row->tiers[t].nr;
	return nr;
}

size_t mc_matrix_nr_entries(const struct mc_matrix *matrix)
{
	size_t nr = 0;

	for (size_t i = 0; i < matrix->nr_rows; i++)
		nr += mc_matrix_row_nr_entries(&matrix->rows[i]);
	return nr;
}

static int resolve_entry(const struct place *at, const struct mc_registry *registry,
			 const char *kind, struct mc_matrix_entry *e)
{
	const struct mc_manifest *m;
	struct mc_error why = {0};

	if (e->transport)
		m = mc_registry_find(registry, MC_KIND_TRANSPORT, e->transport, &why);
	else
		m = mc_registry_claim(registry, e->device, kind, &why);
	if (!m)
		return mc_fail(at->err, why.code, "%s: $.%s[%zu][%zu]: %.800s", at->what, at->location,
			       at->tier, at->device, why.text);
	if (!e->transport)
		e->transport = strdup(m->name);
	return e->transport ? 0 : no_memory(at);
}

int mc_matrix_resolve(struct mc_matrix *matrix, const struct mc_registry *registry,
		      struct mc_error *err)
{
	struct place at = {.what = matrix->path ? matrix->path : "nic_priority_matrix", .err = err};
	char kind[MC_PLUGIN_NAME_MAX + 1];
	struct mc_error why;
	int32_t ordinal;
	int r;

	for (size_t i = 0; i < matrix->nr_rows; i++) {
		struct mc_matrix_row *row = &matrix->rows[i];

		at.location = row->location;
		r = mc_location_parse(row->location, kind, &ordinal, err);
		if (r == 0 && strcmp(kind, "*") != 0 && mc_registry_memory_kind(registry, kind, &why) < 0)
			r = mc_fail(err, why.code, "%s: $.%s: %.800s", at.what, row->location, why.text);
		for (at.tier = 0; r == 0 && at.tier < row->nr_tiers; at.tier++) {
			struct mc_matrix_tier *tier = &row->tiers[at.tier];

			for (at.device = 0; r == 0 && at.device < tier->nr; at.device++)
				r = resolve_entry(&at, registry, kind, &tier->entries[at.device]);
		}
		/* "mlx5_0" and "rdma:mlx5_0" may turn out to be one device. */
		if (r == 0)
			r = check_row(&at, row);
		if (r < 0)
			return r;
	}
	return write_text(matrix) < 0 ? no_memory(&at) : 0;
}
