/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who an engine is, as both ends of a session tell each other: name, generation,
 * addresses, devices with their wires, matrix.  JSON, for it is read once per
 * session and grows with every issue; what is unknown in it is skipped.
 */
#include <errno.h>
#include <string.h>

#include "addr.h"
#include "device.h"
#include "json.h"
#include "session_impl.h"
#include "stream_local.h"
#include "core/util/cleanup.h"

#define MAX_DEVICES 256
#define MAX_ADDRESSES 32

static void json_freep(struct mc_json **json)
{
	mc_json_free(*json);
}

static void put_device(struct mc_json_out *o, const struct mc_device *d, bool with_address)
{
	struct mc_addr addr = {.port = d->engine->port};
	struct sockaddr_storage ss;
	char text[MC_ADDR_TEXT_MAX] = "";
	size_t at = 0;

	mc_json_out_open(o, '{');
	mc_json_out_key(o, "transport");
	mc_json_out_str(o, d->transport);
	mc_json_out_key(o, "name");
	mc_json_out_str(o, d->name);
	mc_json_out_key(o, "wire");
	mc_json_out_str(o, d->wire);
	mc_json_out_key(o, "wire_min");
	mc_json_out_int(o, d->wire_min);
	mc_json_out_key(o, "wire_max");
	mc_json_out_int(o, d->wire_max);
	mc_json_out_key(o, "lanes");
	mc_json_out_int(o, d->nr_lanes);
	if (d->filters[0]) {
		mc_json_out_key(o, "filters");
		mc_json_out_str(o, d->filters);
	}
	mc_json_out_key(o, "subnet");
	mc_json_out_str(o, d->info.subnet);
	for (const char *const *k = d->caps.remote_kinds; k && *k && at < sizeof text; k++) {
		/* Without an agent peers reach what is registered here, which is what reaches it from here. */
		if (!(d->caps.flags & MC_CAP_AGENT) && !mc_device_reaches(d, *k))
			continue;
		at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", at ? " " : "", *k);
	}
	mc_json_out_key(o, "remote_kinds");
	mc_json_out_str(o, text);
	/* Streams go to the device's own address where it is one, and the user says no other. */
	snprintf(addr.host, sizeof addr.host, "%s", d->info.address);
	if (with_address && d->caps.streams && mc_addr_numeric(&addr, &ss) > 0) {
		mc_addr_of_sock((struct sockaddr *)&ss, text);
		mc_json_out_key(o, "address");
		mc_json_out_str(o, text);
	}
	mc_json_out_close(o);
}

/* Where engines of this host reach us; it means nothing to others. */
static void put_local(struct mc_json_out *o, const struct mc_engine *engine)
{
	const char *path = mc_engine_local_path(engine);
	char host[MC_HOST_ID_MAX + 1];

	if (!path || mc_host_id(host) < 0)
		return;
	mc_json_out_key(o, "local");
	mc_json_out_open(o, '{');
	mc_json_out_key(o, "host");
	mc_json_out_str(o, host);
	mc_json_out_key(o, "path");
	mc_json_out_str(o, path);
	mc_json_out_close(o);
}

static char *hello_json(struct mc_engine *engine, const struct mc_matrix *matrix, struct mc_device *const *more,
			size_t nr_more)
{
	struct mc_json_out *o = mc_json_out_new(false);
	bool own = !engine->set->advertise_address || !*engine->set->advertise_address;

	if (!o)
		return NULL;
	mc_json_out_open(o, '{');
	mc_json_out_key(o, "name");
	mc_json_out_str(o, engine->name);
	mc_json_out_key(o, "generation");
	mc_json_out_hex(o, engine->generation);
	mc_json_out_key(o, "cluster");
	mc_json_out_str(o, engine->set->cluster ? engine->set->cluster : "");
	mc_json_out_key(o, "addresses");
	mc_json_out_open(o, '[');
	for (char **at = mc_engine_addresses(engine); *at; at++)
		mc_json_out_str(o, *at);
	mc_json_out_close(o);
	put_local(o, engine);
	mc_json_out_key(o, "devices");
	mc_json_out_open(o, '[');
	for (size_t i = 0; i < engine->nr_devices; i++)
		put_device(o, engine->devices[i], own);
	for (size_t i = 0; i < nr_more; i++)
		put_device(o, more[i], own);
	mc_json_out_close(o);
	if (matrix && matrix->text) {
		mc_json_out_key(o, "matrix");
		mc_json_out_str(o, matrix->text);
	}
	mc_json_out_close(o);
	return mc_json_out_take(o);
}

char *mc_hello_json(struct mc_engine *engine)
{
	return hello_json(engine, engine->matrix, NULL, 0);
}

int mc_hello_fits(struct mc_engine *engine, const struct mc_matrix *matrix, struct mc_device *const *more,
		  size_t nr_more, struct mc_error *err)
{
	char *json = hello_json(engine, matrix, more, nr_more);
	size_t len = json ? strlen(json) : 0;

	free(json);
	if (!len)
		return mc_fail(err, -ENOMEM, "nic_priority_matrix: out of memory");
	if (len > MC_FRAME_MAX - MC_HELLO_FIXED)
		return mc_fail(err, -E2BIG, "nic_priority_matrix: with its %zu devices it is %zu bytes to tell each peer, of at "
			       "most %u: name fewer locations or devices", engine->nr_devices + nr_more, len,
			       MC_FRAME_MAX - MC_HELLO_FIXED);
	return 0;
}

/* A string of at most size - 1 bytes, or -EINVAL. */
static int get_str(const struct mc_json *o, const char *key, char *out, size_t size)
{
	const char *s = mc_json_str(o, key, "");

	if (strlen(s) >= size)
		return -EINVAL;
	strcpy(out, s);
	return 0;
}

static int get_u16(const struct mc_json *o, const char *key, uint16_t *ret)
{
	int64_t v = mc_json_int(o, key, 0);

	if (v < 0 || v > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)v;
	return 0;
}

static int parse_device(const struct mc_json *o, struct mc_remote_device *d)
{
	struct mc_addr addr;

	if (o->type != MC_JSON_OBJECT ||
	    get_str(o, "transport", d->transport, sizeof d->transport) < 0 ||
	    get_str(o, "name", d->name, sizeof d->name) < 0 ||
	    get_str(o, "wire", d->wire, sizeof d->wire) < 0 ||
	    get_str(o, "address", d->address, sizeof d->address) < 0 ||
	    get_str(o, "subnet", d->subnet, sizeof d->subnet) < 0 ||
	    get_str(o, "filters", d->filters, sizeof d->filters) < 0 ||
	    get_str(o, "remote_kinds", d->remote_kinds, sizeof d->remote_kinds) < 0 ||
	    get_u16(o, "wire_min", &d->wire_min) < 0 || get_u16(o, "wire_max", &d->wire_max) < 0 ||
	    get_u16(o, "lanes", &d->nr_lanes) < 0)
		return -EINVAL;
	if (!d->wire[0] || !d->name[0] || d->wire_min > d->wire_max || d->nr_lanes == 0 ||
	    d->nr_lanes > 1024)
		return -EINVAL;
	if (d->address[0] && (mc_addr_parse(d->address, &addr) < 0 || !addr.port))
		return -EINVAL;
	return 0;
}

static int parse_lists(const struct mc_json *json, struct mc_peer_info *info)
{
	const struct mc_json *list = mc_json_get(json, "addresses");
	struct mc_addr addr;

	if (!list || list->type != MC_JSON_ARRAY || list->list.nr > MAX_ADDRESSES)
		return -EINVAL;
	info->addresses = calloc(list->list.nr + 1, sizeof *info->addresses);
	if (!info->addresses)
		return -ENOMEM;
	for (size_t i = 0; i < list->list.nr; i++) {
		const struct mc_json *one = &list->list.items[i];

		if (one->type != MC_JSON_STRING || mc_addr_parse(one->s, &addr) < 0 || !addr.port)
			return -EINVAL;
		info->addresses[i] = strdup(one->s);
		if (!info->addresses[i])
			return -ENOMEM;
	}
	list = mc_json_get(json, "devices");
	if (!list || list->type != MC_JSON_ARRAY || list->list.nr > MAX_DEVICES)
		return -EINVAL;
	info->devices = calloc(list->list.nr + 1, sizeof *info->devices);
	if (!info->devices)
		return -ENOMEM;
	for (size_t i = 0; i < list->list.nr; i++) {
		if (parse_device(&list->list.items[i], &info->devices[i]) < 0)
			return -EINVAL;
		info->nr_devices++;
	}
	return 0;
}

static int parse_local(const struct mc_json *json, struct mc_peer_info *info)
{
	const struct mc_json *local = mc_json_get(json, "local");
	char host[MC_HOST_ID_MAX + 1], here[MC_HOST_ID_MAX + 1];
	const char *path;

	if (!local)
		return 0;
	if (local->type != MC_JSON_OBJECT || get_str(local, "host", host, sizeof host) < 0)
		return -EINVAL;
	path = mc_json_str(local, "path", "");
	if (!mc_unix_path_ok(path, info->generation))
		return -EINVAL;
	if (mc_host_id(here) < 0 || strcmp(here, host) != 0)
		return 0;
	info->local_path = strdup(path);
	return info->local_path ? 0 : -ENOMEM;
}

int mc_hello_parse(const char *text, size_t len, struct mc_peer_info *info, struct mc_error *err)
{
	mc_cleanup(json_freep) struct mc_json *json = NULL;
	const char *matrix;
	int r;

	memset(info, 0, sizeof *info);
	r = mc_json_parse("hello", text, len, &json, err);
	if (r < 0)
		return r;
	if (json->type != MC_JSON_OBJECT)
		return mc_fail(err, -EINVAL, "hello: not an object");
	info->generation = mc_json_hex(json, "generation", 0);
	if (!info->generation || get_str(json, "name", info->name, sizeof info->name) < 0 ||
	    mc_name_check(info->name, NULL) < 0)
		return mc_fail(err, -EINVAL, "hello: no valid name and generation in it");
	r = parse_lists(json, info);
	if (r == 0)
		r = parse_local(json, info);
	if (r < 0) {
		mc_peer_info_fini(info);
		return mc_fail(err, r, "hello of '%s': its addresses or devices are not valid",
			       mc_json_str(json, "name", ""));
	}
	matrix = mc_json_str(json, "matrix", "");
	/* Text only: a peer must not make us read a file. */
	if (*matrix == '{') {
		r = mc_matrix_parse(matrix, &info->matrix, err);
		if (r < 0)
			mc_peer_info_fini(info);
	}
	return r;
}

void mc_peer_info_fini(struct mc_peer_info *info)
{
	mc_addr_list_free(info->addresses);
	free(info->devices);
	free(info->local_path);
	mc_matrix_free(info->matrix);
	memset(info, 0, sizeof *info);
}
