/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine's record as JSON.  Small: what one must know to dial it, and what a
 * person wants to see in the metadata service; buffers and keys travel over the
 * control channel.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "addr.h"
#include "device.h"
#include "json.h"
#include "meta.h"
#include "core/util/cleanup.h"

#define RECORD_FORMAT 1
#define MAX_ADDRESSES 32

static void json_freep(struct mc_json **json)
{
	mc_json_free(*json);
}

static void record_freep(struct mc_record **record)
{
	mc_record_free(*record);
}

void mc_record_free(struct mc_record *record)
{
	if (!record)
		return;
	free(record->name);
	mc_addr_list_free(record->addresses);
	free(record);
}

char *mc_record_json(struct mc_engine *engine, size_t *ret_len)
{
	struct mc_json_out *o = mc_json_out_new(false);
	const struct mc_matrix *matrix = engine->matrix;
	char *text;

	if (!o)
		return NULL;
	mc_json_out_open(o, '{');
	mc_json_out_key(o, "format");
	mc_json_out_int(o, RECORD_FORMAT);
	mc_json_out_key(o, "name");
	mc_json_out_str(o, engine->name);
	mc_json_out_key(o, "generation");
	mc_json_out_hex(o, engine->generation);
	/* For people, by this host's clock; no engine reads it. */
	mc_json_out_key(o, "published");
	mc_json_out_int(o, time(NULL));
	mc_json_out_key(o, "addresses");
	mc_json_out_open(o, '[');
	for (char **at = mc_engine_addresses(engine); *at; at++)
		mc_json_out_str(o, *at);
	mc_json_out_close(o);
	if (mc_engine_local_path(engine)) {
		mc_json_out_key(o, "local_socket");
		mc_json_out_str(o, mc_engine_local_path(engine));
	}
	mc_json_out_key(o, "devices");
	mc_json_out_open(o, '[');
	for (size_t i = 0; i < engine->nr_devices; i++) {
		const struct mc_device *d = engine->devices[i];

		if (d->retired)
			continue;
		mc_json_out_open(o, '{');
		mc_json_out_key(o, "device");
		mc_json_out_str(o, d->label);
		mc_json_out_key(o, "wire");
		mc_json_out_str(o, d->wire);
		mc_json_out_key(o, "wire_min");
		mc_json_out_int(o, d->wire_min);
		mc_json_out_key(o, "wire_max");
		mc_json_out_int(o, d->wire_max);
		mc_json_out_close(o);
	}
	mc_json_out_close(o);
	if (matrix && matrix->text) {
		mc_json_out_key(o, "matrix");
		mc_json_out_str(o, matrix->text);
	}
	mc_json_out_close(o);
	text = mc_json_out_take(o);
	if (text)
		*ret_len = strlen(text);
	return text;
}

static int parse_addresses(const char *what, const struct mc_json *list, struct mc_record *r,
			   struct mc_error *err)
{
	struct mc_addr addr;

	if (!list || list->type != MC_JSON_ARRAY || list->list.nr == 0 ||
	    list->list.nr > MAX_ADDRESSES)
		return mc_fail(err, -EBADMSG, "%s: $.addresses: not a list of 1 to %d addresses", what,
			       MAX_ADDRESSES);
	r->addresses = calloc(list->list.nr + 1, sizeof *r->addresses);
	if (!r->addresses)
		return mc_fail(err, -ENOMEM, "%s: out of memory", what);
	for (size_t i = 0; i < list->list.nr; i++) {
		const struct mc_json *one = &list->list.items[i];

		if (one->type != MC_JSON_STRING || mc_addr_parse(one->s, &addr) < 0 || !addr.port)
			return mc_fail(err, -EBADMSG, "%s: $.addresses[%zu]: not host:port", what, i);
		r->addresses[i] = strdup(one->s);
		if (!r->addresses[i])
			return mc_fail(err, -ENOMEM, "%s: out of memory", what);
	}
	return 0;
}

int mc_record_parse(const char *what, const char *text, size_t len, struct mc_record **ret_record,
		    struct mc_error *err)
{
	mc_cleanup(json_freep) struct mc_json *json = NULL;
	mc_cleanup(record_freep) struct mc_record *record = calloc(1, sizeof *record);
	const char *name;
	int r;

	if (!record)
		return mc_fail(err, -ENOMEM, "%s: out of memory", what);
	r = mc_json_parse(what, text, len, &json, err);
	if (r < 0)
		return r;
	if (json->type != MC_JSON_OBJECT)
		return mc_fail(err, -EBADMSG, "%s: not an object", what);
	if (mc_json_int(json, "format", 0) < RECORD_FORMAT)
		return mc_fail(err, -EBADMSG, "%s: $.format: missing or not known", what);
	name = mc_json_str(json, "name", "");
	r = mc_name_check(name, err);
	if (r < 0)
		return mc_fail(err, -EBADMSG, "%s: $.name: not a segment name", what);
	record->generation = mc_json_hex(json, "generation", 0);
	if (!record->generation)
		return mc_fail(err, -EBADMSG, "%s: $.generation: not 16 hex digits", what);
	record->name = strdup(name);
	if (!record->name)
		return mc_fail(err, -ENOMEM, "%s: out of memory", what);
	r = parse_addresses(what, mc_json_get(json, "addresses"), record, err);
	if (r < 0)
		return r;
	*ret_record = mc_steal(record);
	return 0;
}
