/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of the master: JSON for people's scripts, by yajl.  Handlers run on the
 * engine's helpers and may ask the state; /metrics is written on the control loop,
 * which waits for nobody, from figures of a moment ago.
 */
#include "pages.h"

#include <errno.h>
#include <inttypes.h>
#include <mooncake/http.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <yajl/yajl_gen.h>

#include <cli/program/args.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "metrics.h"

#define OBJECTS_DEFAULT 1000
#define OBJECTS_MAX 10000

struct master_pages {
	struct mc_master *state;
	struct master_server *server;
	struct master_keep *keep;
	struct mc_http_page *pages[10];
	size_t nr;
	pthread_mutex_t lock; /* figures; a leaf, never held for longer than a copy */
	struct master_figures figures;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MC_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static void put_name(yajl_gen g, const char *name)
{
	yajl_gen_string(g, (const unsigned char *)name, strlen(name));
}

static void put_text(yajl_gen g, const char *name, const char *text)
{
	put_name(g, name);
	put_name(g, mc_text_plain(text, strlen(text)) ? text : "?");
}

static void put_number(yajl_gen g, const char *name, uint64_t v)
{
	put_name(g, name);
	yajl_gen_integer(g, v > INT64_MAX ? INT64_MAX : (long long)v);
}

static void put_bool(yajl_gen g, const char *name, bool v)
{
	put_name(g, name);
	yajl_gen_bool(g, v);
}

static void put_hex(yajl_gen g, const char *name, const void *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = data;
	char hex[2 * MC_STORE_KEY_MAX];

	for (size_t i = 0; i < len && i < MC_STORE_KEY_MAX; i++) {
		hex[2 * i] = digits[p[i] >> 4];
		hex[2 * i + 1] = digits[p[i] & 15];
	}
	put_name(g, name);
	yajl_gen_string(g, (const unsigned char *)hex, 2 * len);
}

static void put_u64_hex(yajl_gen g, const char *name, uint64_t v)
{
	char hex[17];

	snprintf(hex, sizeof hex, "%016" PRIx64, v);
	put_text(g, name, hex);
}

/* Sends what was made and frees it. */
static int answer_json(yajl_gen g, struct mc_http_answer *answer)
{
	const unsigned char *text;
	size_t len;

	if (yajl_gen_get_buf(g, &text, &len) != yajl_gen_status_ok) {
		yajl_gen_free(g);
		return 500;
	}
	mc_http_type(answer, "application/json");
	mc_http_write(answer, text, len);
	mc_http_write(answer, "\n", 1);
	yajl_gen_free(g);
	return 200;
}

static int refuse(struct mc_http_answer *answer, int status, const char *sentence)
{
	yajl_gen g = yajl_gen_alloc(NULL);

	if (!g)
		return 500;
	yajl_gen_map_open(g);
	put_text(g, "error", sentence);
	yajl_gen_map_close(g);
	answer_json(g, answer);
	return status;
}

static bool is_post(const struct mc_http_ask *ask)
{
	return strcmp(ask->method, "POST") == 0 || strcmp(ask->method, "PUT") == 0;
}

static int number_argument(const struct mc_http_ask *ask, const char *name, uint64_t fallback, uint64_t *ret)
{
	const char *text = mc_http_argument(ask, name);
	char *end;

	*ret = fallback;
	if (!text)
		return 0;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno || end == text || *end || *text == '-' ? -EINVAL : 0;
}

/* ---- segments ---------------------------------------------------------------------------------- */

static const char *state_name(enum mc_master_segment_state state)
{
	return state == MC_MASTER_MOUNTED ? "mounted" : state == MC_MASTER_SUSPECT ? "suspect" : "draining";
}

static int put_segment(void *ctx, const struct mc_master_segment *s)
{
	yajl_gen g = ctx;

	yajl_gen_map_open(g);
	put_number(g, "id", s->id);
	put_text(g, "engine", s->engine);
	put_text(g, "state", state_name(s->state));
	put_number(g, "size", s->len);
	put_number(g, "used", s->used);
	put_number(g, "quarantined", s->quarantined);
	put_number(g, "objects", s->nr_objects);
	put_text(g, "location", s->location);
	put_u64_hex(g, "host", s->host);
	put_u64_hex(g, "base", s->base);
	put_u64_hex(g, "generation", s->generation);
	put_hex(g, "uuid", s->uuid, sizeof s->uuid);
	put_hex(g, "client", s->client.bytes, sizeof s->client.bytes);
	yajl_gen_map_close(g);
	return 0;
}

static int on_segments(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;
	yajl_gen g = strcmp(ask->method, "GET") == 0 ? yajl_gen_alloc(NULL) : NULL;

	if (!g)
		return strcmp(ask->method, "GET") == 0 ? 500 : 405;
	yajl_gen_map_open(g);
	put_name(g, "segments");
	yajl_gen_array_open(g);
	mc_master_segments(pages->state, 0, put_segment, g);
	yajl_gen_array_close(g);
	yajl_gen_map_close(g);
	return answer_json(g, answer);
}

static int print_engine(void *ctx, const struct mc_master_segment *s)
{
	mc_http_print(ctx, "%s\n", s->engine);
	return 0;
}

/* As the public project has it: names, one per line. */
static int on_names(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;

	if (strcmp(ask->method, "GET") != 0)
		return 405;
	mc_master_segments(pages->state, 0, print_engine, answer);
	return 200;
}

#define DRAIN_MAX 256

struct drain_list {
	const char *engine;
	uint32_t ids[DRAIN_MAX];
	size_t nr;
};

static int add_segment(void *ctx, const struct mc_master_segment *s)
{
	struct drain_list *list = ctx;

	if (strcmp(s->engine, list->engine) == 0 && list->nr < DRAIN_MAX)
		list->ids[list->nr++] = s->id;
	return list->nr == DRAIN_MAX;
}

static int on_drain(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;
	const char *segment = mc_http_argument(ask, "segment"), *off = mc_http_argument(ask, "drain");
	struct drain_list list = {.engine = mc_http_argument(ask, "engine")};
	bool drain = true;
	uint64_t id;
	yajl_gen g;

	if (!is_post(ask))
		return refuse(answer, 405, "use POST /segments/drain?segment=ID or ?engine=NAME, and &drain=false to take it back");
	if (!segment == !list.engine || number_argument(ask, "segment", 0, &id) < 0 || id > UINT32_MAX)
		return refuse(answer, 400, "give segment=ID (of /segments), or engine=NAME for all of that engine");
	if (off && mc_args_bool("drain", off, &drain, NULL) < 0)
		return refuse(answer, 400, "drain is true or false");
	if (list.engine)
		mc_master_segments(pages->state, 0, add_segment, &list);
	else
		list.ids[list.nr++] = (uint32_t)id;
	for (size_t i = 0; i < list.nr; i++)
		if (mc_master_drain(pages->state, list.ids[i], drain, now_ns()) < 0)
			return refuse(answer, 404, "there is no such segment; GET /segments lists them");
	if (!list.nr)
		return refuse(answer, 404, "no segment is of that engine; GET /segments lists them");
	g = yajl_gen_alloc(NULL);
	if (!g)
		return 500;
	yajl_gen_map_open(g);
	put_bool(g, "drain", drain);
	put_name(g, "segments");
	yajl_gen_array_open(g);
	for (size_t i = 0; i < list.nr; i++)
		yajl_gen_integer(g, list.ids[i]);
	yajl_gen_array_close(g);
	yajl_gen_map_close(g);
	return answer_json(g, answer);
}

/* ---- objects ----------------------------------------------------------------------------------- */

static int put_object(void *ctx, const struct mc_master_object *o)
{
	yajl_gen g = ctx;

	yajl_gen_map_open(g);
	if (mc_text_plain(o->key.data, o->key.len)) {
		put_name(g, "key");
		yajl_gen_string(g, o->key.data, o->key.len);
	} else {
		put_hex(g, "key_hex", o->key.data, o->key.len);
	}
	put_number(g, "size", o->len);
	put_number(g, "replicas", o->nr_replicas);
	put_bool(g, "complete", o->complete);
	put_number(g, "lease_ms", o->lease_ns / MC_MSEC);
	put_number(g, "soft_pin_s", o->soft_pin_ns / MC_SEC);
	put_bool(g, "hard_pinned", o->hard_pinned);
	yajl_gen_map_close(g);
	return 0;
}

static int on_objects(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;
	const char *prefix = mc_http_argument(ask, "prefix"), *regex = mc_http_argument(ask, "regex");
	const char *name = mc_http_argument(ask, "tenant");
	uint64_t cursor, limit, told = 0;
	struct mc_error err = {0};
	uint32_t tenant = 0;
	yajl_gen g;
	int r;

	if (strcmp(ask->method, "GET") != 0)
		return 405;
	if (number_argument(ask, "limit", OBJECTS_DEFAULT, &limit) < 0 || number_argument(ask, "cursor", 0, &cursor) < 0 || !limit ||
	    limit > OBJECTS_MAX || (prefix && regex))
		return refuse(answer, 400, "/objects?prefix=P or ?regex=E, with tenant=T, limit=1..10000, and the cursor of the last answer");
	name = name ? name : "";
	r = mc_master_tenant(pages->state, name, strlen(name), false, &tenant);
	if (r < 0 && r != -ENOENT)
		return refuse(answer, 400, "that is not a tenant's name");
	g = yajl_gen_alloc(NULL);
	if (!g)
		return 500;
	yajl_gen_map_open(g);
	put_name(g, "objects");
	yajl_gen_array_open(g);
	if (r < 0)
		cursor = 0;
	/* A call tells what some shards hold: until there are enough. */
	while (r >= 0 && told < limit) {
		r = mc_master_query(pages->state, tenant, regex ? MC_MASTER_REGEX : MC_MASTER_PREFIX, regex ? regex : prefix ? prefix : "",
				    &cursor, (uint32_t)(limit - told), put_object, g, now_ns(), &err);
		told += r > 0 ? (uint64_t)r : 0;
		if (!cursor)
			break;
	}
	if (r == -EINVAL) {
		yajl_gen_free(g);
		return refuse(answer, 400, err.text);
	}
	yajl_gen_array_close(g);
	put_number(g, "cursor", cursor);
	yajl_gen_map_close(g);
	return answer_json(g, answer);
}

/* ---- tenants, health --------------------------------------------------------------------------- */

static int put_tenant(void *ctx, const char *name, uint64_t quota, uint64_t used, uint64_t nr_objects)
{
	yajl_gen g = ctx;

	yajl_gen_map_open(g);
	put_text(g, "tenant", name);
	put_number(g, "quota", quota);
	put_number(g, "used", used);
	put_number(g, "objects", nr_objects);
	yajl_gen_map_close(g);
	return 0;
}

static int set_quota(struct master_pages *pages, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	const char *name = mc_http_argument(ask, "tenant"), *quota = mc_http_argument(ask, "quota");
	uint32_t tenant;
	uint64_t bytes;
	int r;

	if (!name || !quota || mc_text_parse_size(quota, &bytes) < 0)
		return refuse(answer, 400, "POST /tenants?tenant=T&quota=BYTES (64G; 0: no bound)");
	r = mc_master_tenant(pages->state, name, strlen(name), true, &tenant);
	if (r == 0)
		r = mc_master_quota(pages->state, tenant, bytes);
	return r < 0 ? refuse(answer, r == -EINVAL ? 400 : 500, r == -EINVAL ? "that is not a tenant's name" : strerror(-r)) : 0;
}

static int on_tenants(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;
	int r = is_post(ask) ? set_quota(pages, ask, answer) : strcmp(ask->method, "GET") == 0 ? 0 : 405;
	yajl_gen g;

	if (r)
		return r;
	g = yajl_gen_alloc(NULL);
	if (!g)
		return 500;
	yajl_gen_map_open(g);
	put_name(g, "tenants");
	yajl_gen_array_open(g);
	mc_master_tenants(pages->state, put_tenant, g);
	yajl_gen_array_close(g);
	yajl_gen_map_close(g);
	return answer_json(g, answer);
}

static int on_summary(void *arg, const struct mc_http_ask *ask, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;

	if (strcmp(ask->method, "GET") != 0)
		return 405;
	master_pages_look(pages, now_ns());
	pthread_mutex_lock(&pages->lock);
	master_summary_write(&pages->figures, answer);
	pthread_mutex_unlock(&pages->lock);
	return 200;
}

/* [control] */
static void on_metrics(void *arg, struct mc_http_answer *answer)
{
	struct master_pages *pages = arg;
	struct master_figures figures;

	pthread_mutex_lock(&pages->lock);
	figures = pages->figures;
	pthread_mutex_unlock(&pages->lock);
	master_metrics_write(&figures, answer);
}

void master_pages_look(struct master_pages *pages, uint64_t now)
{
	struct master_figures f = {.stats = {.size = sizeof f.stats}};

	mc_master_stats(pages->state, &f.stats, now);
	master_keep_stats(pages->keep, &f.keep);
	f.nr_methods = master_method_stats(pages->server, f.methods, MC_ARRAY_SIZE(f.methods));
	pthread_mutex_lock(&pages->lock);
	pages->figures = f;
	pthread_mutex_unlock(&pages->lock);
}

/* ---- opening ----------------------------------------------------------------------------------- */

int master_pages_open(struct mc_engine *engine, struct mc_master *state, struct master_server *server, struct master_keep *keep,
		      struct master_pages **ret_pages, struct mc_error *err)
{
	static const struct {
		const char *path, *about;
		mc_http_handler handler;
	} list[] = {
		{"/segments", "memory that clients lend, as JSON", on_segments},
		{"/segments/drain", "POST ?segment=ID or ?engine=NAME: nothing new goes there", on_drain},
		{"/get_all_segments", "engines that lend, one per line", on_names},
		{"/objects", "?prefix=P: objects as JSON", on_objects},
		{"/tenants", "tenants as JSON; POST ?tenant=T&quota=BYTES", on_tenants},
		{"/summary", "one line", on_summary},
	};
	struct master_pages *pages = calloc(1, sizeof *pages);
	int r = 0;

	if (!pages)
		return mc_fail(err, -ENOMEM, "pages of the master: out of memory");
	pages->state = state;
	pages->server = server;
	pages->keep = keep;
	pthread_mutex_init(&pages->lock, NULL);
	master_pages_look(pages, now_ns());
	for (size_t i = 0; r == 0 && i < MC_ARRAY_SIZE(list); i++) {
		r = mc_http_serve(engine, list[i].path, list[i].about, list[i].handler, pages, &pages->pages[pages->nr], err);
		pages->nr += r == 0;
	}
	if (r == 0) {
		r = mc_http_serve_metrics(engine, on_metrics, pages, &pages->pages[pages->nr], err);
		pages->nr += r == 0;
	}
	if (r < 0) {
		master_pages_close(pages);
		return r;
	}
	*ret_pages = pages;
	return 0;
}

void master_pages_close(struct master_pages *pages)
{
	if (!pages)
		return;
	while (pages->nr)
		mc_http_unserve(pages->pages[--pages->nr]);
	pthread_mutex_destroy(&pages->lock);
	free(pages);
}
