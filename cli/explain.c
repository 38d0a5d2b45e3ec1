/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mooncake explain: which rails a transfer between two locations would take, and
 * why not the others, before a byte of it moves.  Opens an engine of this config
 * as a client does, and the peer's segment; the rails that would be used are
 * connected, nothing is read or written.
 */
#include "core/explain.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "core/addr.h"
#include "core/batch.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/kind.h"
#include "core/numa.h"
#include "core/segment.h"
#include "core/session.h"
#include "core/stage.h"
#include "core/util/check.h"
#include "host_map.h"

#define DEFAULT_SIZE (UINT64_C(1) << 20)
#define SOME_SIZE (UINT64_C(64) << 10)

static const char help[] =
	"Which rails would carry a transfer from memory at LOCATION here to memory of\n"
	"SEGMENT, in which order they are asked, how long each would take, and for each\n"
	"that is not used the reason.  Nothing is moved.  LOCATION is cpu:N, cuda:N, ...;\n"
	"without one it is that of SEGMENT's first buffer.\n"
	"  mooncake explain --from=cpu:0 --to=node1 --size=64K\n"
	"  mooncake explain --from=cpu:0 --to=node1:cuda:0 --operation=read --json\n"
	"Exit: 0 if a rail would carry it, 1 if none would, 2 usage.\n";

struct wants {
	const char *from, *to, *operation;
	uint64_t size, timeout;
	bool json, connect;
};

struct end {
	char location[MC_LOCATION_MAX + 1], kind[MC_PLUGIN_NAME_MAX + 1];
	int32_t ordinal;
};

struct asking {
	const struct cli *cli;
	const struct wants *wants;
	uint32_t opcode;
	struct end from, to;
	bool to_given; /* the location of `to` */
	char segment[MC_SEGMENT_NAME_MAX + 1];
	struct mc_engine *engine;
	struct mc_session *session;
	struct mc_snapshot *snapshot;
	struct mc_local_buf made_up;
	const struct mc_local_buf *lbuf;  /* that, or a small one of ours */
	struct mc_remote_buf rbuf;        /* made up, if the segment has none there */
	const struct mc_remote_buf *real; /* of the snapshot; NULL: none */
	uint64_t size, deadline_ns;
	char notes[4][MC_ERROR_TEXT_MAX + 64];
	size_t nr_notes;
	struct cli_table table;
	struct mc_json_out *out;
};

static void note(struct asking *a, const char *fmt, ...) MC_PRINTF(2, 3);
static void note(struct asking *a, const char *fmt, ...)
{
	va_list ap;

	if (a->nr_notes == MC_ARRAY_SIZE(a->notes))
		return;
	va_start(ap, fmt);
	vsnprintf(a->notes[a->nr_notes++], sizeof a->notes[0], fmt, ap);
	va_end(ap);
}

/* ---- what is asked -------------------------------------------------------------------------- */

static int parse_end(const char *text, struct end *end, struct mc_error *err)
{
	char full[MC_PLUGIN_NAME_MAX + 16];
	int r = mc_location_parse(text, end->kind, &end->ordinal, err);

	if (r < 0)
		return r;
	if (end->ordinal < 0 && strcmp(text, "*") != 0)
		return mc_fail(err, -EINVAL, "location '%.64s' has no number: write '%.64s:0'", text, text);
	if (end->ordinal < 0) {
		strcpy(end->location, "*");
		strcpy(end->kind, "cpu");
		return 0;
	}
	snprintf(full, sizeof full, "%s:%d", end->kind, (int)end->ordinal);
	if (strlen(full) > MC_LOCATION_MAX)
		return mc_fail(err, -EINVAL, "location '%.64s' is longer than %d bytes", text, MC_LOCATION_MAX);
	memcpy(end->location, full, strlen(full) + 1);
	return 0;
}

/* Is the rest of `to` a location?  A segment's own name may have colons, and end in a port. */
static bool is_location(const struct asking *a, const char *text)
{
	char kind[MC_PLUGIN_NAME_MAX + 1];
	struct mc_error why;
	int32_t ordinal;

	if (!strcmp(text, "*"))
		return true;
	return mc_location_parse(text, kind, &ordinal, &why) == 0 && ordinal >= 0 &&
	       mc_registry_memory_kind(mc_config_registry(a->cli->config), kind, &why) == 0;
}

/* SEGMENT, SEGMENT:*, SEGMENT:KIND:N */
static int parse_to(struct asking *a, const char *to, struct mc_error *err)
{
	const char *at = strrchr(to, ':');
	size_t len = strlen(to);

	/* "cpu:0" has a colon of its own. */
	while (at && strcmp(at, ":*") != 0 && at > to && *--at != ':')
		;
	if (at && at > to && is_location(a, at + 1)) {
		int r = parse_end(at + 1, &a->to, err);

		if (r < 0)
			return r;
		a->to_given = strcmp(at + 1, "*") != 0;
		len = (size_t)(at - to);
	}
	if (len > MC_SEGMENT_NAME_MAX)
		return mc_fail(err, -EINVAL, "--to: the segment's name is longer than %d bytes", MC_SEGMENT_NAME_MAX);
	snprintf(a->segment, sizeof a->segment, "%.*s", (int)len, to);
	return mc_name_check(a->segment, err);
}

static int parse_wants(struct asking *a, struct mc_error *err)
{
	const struct wants *w = a->wants;
	char here[MC_LOCATION_MAX + 1];
	int r;

	if (!w->to)
		return mc_fail(err, -EINVAL, "--to=SEGMENT[:LOCATION] is missing; `mooncake segments` lists the segments");
	if (strcmp(w->operation, "read") != 0 && strcmp(w->operation, "write") != 0)
		return mc_fail(err, -EINVAL, "--operation=%s: it is read or write", w->operation);
	a->opcode = w->operation[0] == 'r' ? MC_OP_READ : MC_OP_WRITE;
	snprintf(here, sizeof here, "cpu:%d", mc_numa_here());
	r = parse_end(w->from ? w->from : here, &a->from, err);
	if (r == 0)
		r = mc_registry_memory_kind(mc_config_registry(a->cli->config), a->from.kind, err);
	return r < 0 ? r : parse_to(a, w->to, err);
}

/* ---- the engine ----------------------------------------------------------------------------- */

/* A client beside the engine that serves here: its name and port stay that one's. */
static int other_name(struct mc_config *config, struct mc_error *err)
{
	const char *name = mc_config_settings(config)->local_server_name;
	char other[MC_SEGMENT_NAME_MAX + 1];

	snprintf(other, sizeof other, "%.*s-explain-%d", (int)MC_MIN(strcspn(name, ":["), (size_t)200), name,
		 (int)getpid());
	return mc_config_set(config, "local_server_name", other, err);
}

static int open_engine(struct asking *a, struct mc_error *err)
{
	struct mc_config *config = a->cli->config;
	bool named = *mc_config_settings(config)->local_server_name &&
		     mc_config_origin(config, "local_server_name") != MC_ORIGIN_FLAG;
	int r = 0;

	if (mc_config_origin(config, "port") != MC_ORIGIN_FLAG)
		r = mc_config_set(config, "port", "0", err);
	if (r == 0 && mc_config_origin(config, "log_level") == MC_ORIGIN_DEFAULT)
		r = mc_config_set(config, "log_level", "error", err);
	if (r < 0)
		return r;
	r = mc_engine_open(config, a->wants->timeout, &a->engine, err);
	if ((r == -EEXIST || r == -EADDRINUSE) && named) {
		r = other_name(config, err);
		if (r == 0)
			r = mc_engine_open(config, a->wants->timeout, &a->engine, err);
		if (r == 0)
			note(a, "an engine with this config runs already: asked as '%s', which an access list there may treat "
			     "otherwise", mc_engine_name(a->engine));
	}
	return r;
}

/* ---- memory at both ends -------------------------------------------------------------------- */

/* How devices reach memory of another kind shows when they try it.  -ENODEV: there is no such location. */
static int register_some(struct asking *a, struct mc_error *err)
{
	struct mc_local_buf *b = NULL;
	void *mem = NULL;
	int r = mc_memory_alloc(a->engine, a->from.location, SOME_SIZE, MC_ACCESS_LOCAL, a->wants->timeout, &mem, err);

	if (r == -ENODEV)
		return r;
	if (r < 0) {
		note(a, "%s", err->text);
		return 0;
	}
	b = mc_local_find(a->engine, mem, SOME_SIZE);
	if (b) {
		mc_local_put(b); /* it stays until the engine closes */
		a->lbuf = b;
	}
	return 0;
}

static int find_local(struct asking *a, struct mc_error *err)
{
	struct mc_local_buf *b = &a->made_up;
	struct mc_error why = {0};
	char node[64];
	bool kind;

	/* The kind's plugin is open where the matrix has a row for it; else it opens with the first buffer. */
	kind = strcmp(a->from.kind, "cpu") != 0 &&
	       mc_registry_find(a->engine->registry, MC_KIND_MEMORY, a->from.kind, NULL);
	if (kind && mc_kind_open(a->engine, a->from.kind, &why) < 0) {
		note(a, "%s", why.text);
		kind = false;
	}
	a->lbuf = b;
	b->row = mc_matrix_row_find(a->engine->matrix, a->from.location);
	snprintf(b->location, sizeof b->location, "%s", a->from.location);
	snprintf(b->kind, sizeof b->kind, "%s", a->from.kind);
	b->ordinal = a->from.ordinal;
	snprintf(node, sizeof node, "/sys/devices/system/node/node%d", (int)b->ordinal);
	/* A kernel without NUMA tells of no node; then all memory is at cpu:0. */
	if (strcmp(b->kind, "cpu") == 0 && b->ordinal > 0 && access(node, F_OK) != 0)
		note(a, "this host has no NUMA node %d: judged as if it had memory at %s", (int)b->ordinal, b->location);
	if (!b->row)
		note(a, "no row of our nic_priority_matrix covers '%s': add one, or one for \"*\"", b->location);
	else if (kind)
		return register_some(a, err);
	return 0;
}

/* How well a buffer answers the question; 0: not at all. */
static int suits(const struct asking *a, const struct mc_remote_buf *b)
{
	uint32_t need = a->opcode == MC_OP_READ ? MC_ACCESS_REMOTE_READ : MC_ACCESS_REMOTE_WRITE;

	if (a->to_given && strcmp(a->to.location, b->location) != 0)
		return 0;
	return !(b->access & need) ? 1 : b->len < a->wants->size ? 2 : 3;
}

static void find_remote(struct asking *a)
{
	int best = 0;

	a->snapshot = mc_session_snapshot(a->session);
	for (size_t i = 0; a->snapshot && i < a->snapshot->nr; i++) {
		int s = suits(a, a->snapshot->bufs[i]);

		if (s > best) {
			best = s;
			a->real = a->snapshot->bufs[i];
		}
	}
	a->size = a->wants->size;
	if (a->real) {
		a->rbuf = *a->real;
		snprintf(a->to.location, sizeof a->to.location, "%s", a->real->location);
		if (!a->size)
			a->size = MC_MIN(DEFAULT_SIZE, a->real->len);
	} else {
		if (!a->to_given)
			parse_end("cpu:0", &a->to, NULL);
		snprintf(a->rbuf.location, sizeof a->rbuf.location, "%s", a->to.location);
		snprintf(a->rbuf.kind, sizeof a->rbuf.kind, "%s", a->to.kind);
		a->rbuf.ordinal = a->to.ordinal;
		a->rbuf.access = MC_ACCESS_ALL;
		note(a, "'%s' shows no buffer%s%s: judged as if it had one at %s", a->segment, a->to_given ? " at " : "",
		     a->to_given ? a->to.location : "", a->to.location);
	}
	a->size = a->size ? a->size : DEFAULT_SIZE;
	if (!mc_matrix_row_find(a->session->peer->matrix, a->to.location))
		note(a, "no row of the nic_priority_matrix of '%s' covers '%s': add one there, or one for \"*\"", a->segment,
		     a->to.location);
}

/* ---- telling -------------------------------------------------------------------------------- */

static void seconds_words(double s, char *buf, size_t cap)
{
	if (s >= 1)
		snprintf(buf, cap, "%.2f s", s);
	else if (s >= 1e-3)
		snprintf(buf, cap, "%.2f ms", s * 1e3);
	else if (s >= 1e-6)
		snprintf(buf, cap, "%.2f us", s * 1e6);
	else
		snprintf(buf, cap, "%.2f ns", s * 1e9);
}

static void tell_text(void *ctx, const struct mc_rail *rail)
{
	static const char *const head[] = {"TIER", "LOCAL", "REMOTE", "FINISH", "QUEUED", "RATE", "WEIGHT", "VERDICT"};
	struct asking *a = ctx;
	char tier[16], finish[32] = "", queued[32] = "", rate[48] = "", weight[32] = "";

	if (!a->table.nr_rows)
		cli_table_row(&a->table, 8, head);
	snprintf(tier, sizeof tier, "%u", rail->tier + 1);
	if (rail->rate) {
		seconds_words(rail->finish_s, finish, sizeof finish);
		cli_bytes_words(rail->queued, queued, sizeof queued);
		snprintf(rate, sizeof rate, "%.2f GB/s%s", (double)rail->rate / 1e9, rail->learned ? "" : " nominal");
		snprintf(weight, sizeof weight, "%g", rail->weight);
	}
	cli_table_row(&a->table, 8, (const char *const[]){tier, rail->local, rail->remote, finish, queued, rate, weight,
							  rail->why});
}

static void tell_json(void *ctx, const struct mc_rail *rail)
{
	struct asking *a = ctx;
	struct mc_json_out *o = a->out;

	mc_json_out_open(o, '{');
	cli_json_int(o, "tier", rail->tier + 1);
	cli_json_str(o, "local", rail->local);
	cli_json_str(o, "remote", *rail->remote ? rail->remote : NULL);
	cli_json_bool(o, "carries", rail->verdict <= MC_RAIL_SHARES);
	cli_json_str(o, "verdict", mc_verdict_word(rail->verdict));
	cli_json_str(o, "why", rail->why);
	if (rail->rate) {
		cli_json_open(o, "score", '{');
		mc_json_out_key(o, "finish_s");
		mc_json_out_double(o, rail->finish_s);
		cli_json_int(o, "queued_bytes", (int64_t)rail->queued);
		cli_json_int(o, "rate_bytes_per_s", (int64_t)rail->rate);
		cli_json_bool(o, "rate_learned", rail->learned);
		mc_json_out_key(o, "weight");
		mc_json_out_double(o, rail->weight);
		mc_json_out_close(o);
		cli_json_bool(o, "staged_here", rail->stage & MC_STAGE_LOCAL);
		cli_json_bool(o, "staged_there", rail->stage & MC_STAGE_REMOTE);
	} else {
		cli_json_str(o, "score", NULL);
	}
	mc_json_out_close(o);
}

/* Ask, and tell each rail as it comes; how many carry, or -errno. */
static int ask(struct asking *a, void (*each)(void *ctx, const struct mc_rail *rail))
{
	struct mc_error denied = {0};
	struct mc_explain q = {
		.session = a->session,
		.opcode = a->opcode,
		.len = a->size,
		.ored = a->size | a->rbuf.base,
		.lbuf = a->lbuf,
		.rbuf = &a->rbuf,
		.real = a->real != NULL,
		.deadline_ns = a->wants->connect ? a->deadline_ns : 0,
	};

	if (a->real && mc_req_explain(a->session, a->opcode, a->rbuf.base, a->size, &denied) < 0)
		q.denied = denied.text;
	return mc_explain(&q, each, a);
}

static int told_text(struct asking *a)
{
	char size[32];
	int r;

	cli_bytes_words(a->size, size, sizeof size);
	cli_line("%s of %s: %s here %s %s of '%s'", a->opcode == MC_OP_READ ? "read" : "write", size,
		 a->from.location, a->opcode == MC_OP_READ ? "<-" : "->", a->to.location, a->segment);
	r = ask(a, tell_text);
	for (size_t i = 0; i < a->nr_notes; i++)
		cli_line("note: %s", a->notes[i]);
	if (a->table.nr_rows) {
		printf("\n");
		cli_table_print(&a->table);
		printf("\n");
	}
	if (r > 0)
		printf("%d rail%s would carry it\n", r, r == 1 ? "" : "s");
	else if (r == 0)
		printf("no rail would carry it\n");
	return r;
}

static int told_json(struct asking *a)
{
	struct mc_json_out *o = a->out = mc_json_out_new(true);
	int r;

	mc_json_out_open(o, '{');
	cli_json_int(o, "schema", 1);
	cli_json_str(o, "operation", a->opcode == MC_OP_READ ? "read" : "write");
	cli_json_int(o, "size", (int64_t)a->size);
	cli_json_str(o, "from", a->from.location);
	cli_json_open(o, "to", '{');
	cli_json_str(o, "segment", a->segment);
	mc_json_out_key(o, "generation");
	mc_json_out_hex(o, a->session->peer->generation);
	cli_json_str(o, "location", a->to.location);
	mc_json_out_close(o);
	cli_json_open(o, "rails", '[');
	r = ask(a, tell_json);
	mc_json_out_close(o);
	cli_json_int(o, "carry", r > 0 ? r : 0);
	cli_json_open(o, "notes", '[');
	for (size_t i = 0; i < a->nr_notes; i++)
		mc_json_out_str(o, a->notes[i]);
	mc_json_out_close(o);
	mc_json_out_close(o);
	return cli_json_print(a->cli, o) == CLI_OK ? r : -EIO;
}

/* ---- the verb ------------------------------------------------------------------------------- */

static int answer(struct asking *a)
{
	struct mc_error err = {0};
	int r = open_engine(a, &err);

	if (r < 0)
		return cli_error(a->cli, r == -EINVAL ? CLI_USAGE : CLI_FAILED, "%s", err.text);
	a->deadline_ns = mc_deadline(a->wants->timeout);
	/* Not mc_segment_open: where no wire fits, that is what is to be told. */
	r = mc_session_open(a->engine, a->segment, a->deadline_ns, &a->session, &err);
	if (r < 0)
		return cli_error(a->cli, CLI_FAILED, "%s", err.text);
	r = find_local(a, &err);
	if (r < 0)
		return cli_error(a->cli, CLI_FAILED, "%s", err.text);
	find_remote(a);
	r = a->wants->json ? told_json(a) : told_text(a);
	if (r == -ENOMEM)
		cli_error(a->cli, CLI_FAILED, "out of memory");
	return r > 0 ? CLI_OK : CLI_FAILED;
}

static int run(const struct cli *cli, const struct wants *wants)
{
	struct asking *a = calloc(1, sizeof *a);
	struct mc_error err = {0};
	int code;

	if (!a)
		return cli_error(cli, CLI_FAILED, "out of memory");
	a->cli = cli;
	a->wants = wants;
	code = parse_wants(a, &err) < 0 ? cli_error(cli, CLI_USAGE, "%s", err.text) : answer(a);
	mc_snapshot_unref(a->snapshot);
	if (a->session)
		mc_session_unref(a->session);
	mc_engine_close(a->engine, 5 * MC_SEC);
	free(a);
	return code;
}

int cli_explain(int argc, char **argv)
{
	struct wants w = {.operation = "write", .timeout = 10 * MC_SEC, .connect = true};
	const struct cli_option options[] = {
		{"from", CLI_TEXT, &w.from, "LOCATION", "of our memory; default: cpu:N of the CPU that asks"},
		{"to", CLI_TEXT, &w.to, "SEGMENT[:LOCATION]", "the peer, and where its memory is"},
		{"size", CLI_SIZE, &w.size, "N", "bytes; default: 1MiB, or a smaller buffer's size"},
		{"operation", CLI_TEXT, &w.operation, "read|write", "default: write"},
		{"connect", CLI_FLAG, &w.connect, NULL, "=false: connect nothing, judge the tables alone"},
		{"timeout", CLI_SECONDS, &w.timeout, "SECONDS", "to find the peer and connect; default: 10"},
		{"json", CLI_FLAG, &w.json, NULL, "one JSON object"},
		{.name = NULL},
	};
	struct cli cli = {.verb = "explain", .args = "--to=SEGMENT[:LOCATION]", .help = help, .options = options, .with = CLI_CONFIG};
	int code = cli_parse(&cli, argc, argv);

	if (code < 0)
		code = run(&cli, &w);
	cli_fini(&cli);
	return code;
}
