/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a job: one JSON object, whose keys are in one table.  Strict: an unknown
 * key, a key given twice, a value of another type or out of its range is refused
 * with file, line, key and what would do.  The text is parsed as a stream, no
 * tree is built.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "job.h"
#include <cli/program/words.h>

#include <core/util/check.h>
#include <core/util/cleanup.h>

enum key_type {
	KEY_BOOL,
	KEY_COUNT,
	KEY_SIZE,
	KEY_RATE, /* bytes per second, as a size */
	KEY_REAL,
	KEY_SECONDS,
	KEY_TEXT,
	KEY_WORD,
	KEY_PEERS, /* a count, or "all", which is 0 */
	KEY_BLOCKS,
};

/* Kinds of jobs in which a key has a meaning. */
enum { IN_LOAD = 1, IN_REPLAY = 2, IN_BOTH = 3 };

struct key {
	const char *name;
	enum key_type type;
	size_t offset; /* of the field in struct bench_job */
	double min, max; /* KEY_TEXT: max is the field's size */
	const char *const *words;
	int in;
	const char *doc;
};

#define GIB 1073741824.0
#define FIELD(f) offsetof(struct bench_job, f)
#define TEXT(f) FIELD(f), 0, sizeof ((struct bench_job *)0)->f

static const char *const locality_words[] = {"sequential", "hot", "uniform", "zipf", NULL};
static const char *const evict_words[] = {"lru", "modulo", NULL};

static const struct key keys[] = {
	{"name", KEY_TEXT, TEXT(name), NULL, IN_BOTH, "the job's name; default: the file's"},
	{"about", KEY_TEXT, TEXT(about), NULL, IN_BOTH, "a sentence for people"},
	{"blocks", KEY_BLOCKS, FIELD(blocks), 1, 16 * GIB, NULL, IN_BOTH,
	 "a size, or a list of {\"size\": , \"share\": }: how often each is drawn"},
	{"batch", KEY_COUNT, FIELD(batch), 1, 1048576, NULL, IN_LOAD, "blocks per batch"},
	{"depth", KEY_COUNT, FIELD(depth), 1, 256, NULL, IN_BOTH, "batches that a thread has in flight"},
	{"threads", KEY_COUNT, FIELD(threads), 1, 1024, NULL, IN_BOTH, "submitting threads"},
	{"peers", KEY_PEERS, FIELD(peers), 1, BENCH_MAX_PEERS, NULL, IN_BOTH,
	 "targets, or \"all\"; requests go to one after the other"},
	{"read_share", KEY_REAL, FIELD(read_share), 0, 1, NULL, IN_LOAD, "share of requests that read"},
	{"bytes_per_s", KEY_RATE, FIELD(bytes_per_s), 0, 1e15, NULL, IN_LOAD,
	 "asked of all threads together, open loop; 0: as fast as it goes"},
	{"requests_per_s", KEY_REAL, FIELD(requests_per_s), 0, 1e9, NULL, IN_LOAD,
	 "likewise; leave one of the two out"},
	{"think_time", KEY_SECONDS, FIELD(think_time), 0, 3600, NULL, IN_LOAD,
	 "between a request's end and the thread's next, without a rate"},
	{"locality", KEY_WORD, FIELD(locality), 0, 0, locality_words, IN_LOAD, "which place of the footprint"},
	{"zipf_exponent", KEY_REAL, FIELD(zipf_exponent), 0.01, 10, NULL, IN_LOAD, "of the locality zipf"},
	{"footprint", KEY_SIZE, FIELD(footprint), 1, 65536 * GIB, NULL, IN_BOTH, "bytes of each target that are used"},
	{"layers", KEY_COUNT, FIELD(layers), 1, 4096, NULL, IN_LOAD, "batches per request, all to one target"},
	{"layer_time", KEY_SECONDS, FIELD(layer_time), 0, 60, NULL, IN_LOAD,
	 "from layer to layer, whether the last one has ended or not"},
	{"notify", KEY_BOOL, FIELD(notify), 0, 0, NULL, IN_LOAD,
	 "each batch ends with a message to the target, after its bytes"},
	{"broadcast", KEY_BOOL, FIELD(broadcast), 0, 0, NULL, IN_LOAD, "each block goes to every target"},
	{"passes", KEY_COUNT, FIELD(passes), 0, 1e9, NULL, IN_LOAD,
	 "times over the footprint, then the job is done; 0: the duration says"},
	{"trace", KEY_TEXT, TEXT(trace), NULL, IN_REPLAY,
	 "file of requests to replay, relative to the job; or --trace=FILE"},
	{"speed", KEY_REAL, FIELD(speed), 0, 1e9, NULL, IN_REPLAY,
	 "so many times faster than the trace; 0: without waiting"},
	{"evict", KEY_WORD, FIELD(evict), 0, 0, evict_words, IN_REPLAY, "what goes when the footprint is full"},
	{"duration", KEY_SECONDS, FIELD(duration), 0, 31536000, NULL, IN_BOTH,
	 "0: one request per thread, all passes, or the whole trace"},
	{"warm_up", KEY_SECONDS, FIELD(warm_up), 0, 3600, NULL, IN_LOAD,
	 "transferring before the measured time; none with passes"},
	{"seed", KEY_COUNT, FIELD(seed), 0, 9007199254740992, NULL, IN_BOTH, "of random numbers; 0: drawn, and printed"},
};
static_assert(MC_ARRAY_SIZE(keys) <= 64, "one bit per key in bench_job.set");

static const struct key *key_find(const char *name)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
	}
	return NULL;
}

bool bench_job_given(const struct bench_job *job, const char *name)
{
	const struct key *key = key_find(name);

	return key && (job->set >> (key - keys) & 1);
}

void bench_job_give(struct bench_job *job, const char *name)
{
	const struct key *key = key_find(name);

	MC_ASSERT(key);
	job->set |= UINT64_C(1) << (key - keys);
}

bool bench_job_replays(const struct bench_job *job)
{
	return bench_job_given(job, "trace");
}

/* ---- the reader --------------------------------------------------------------------------------
 */

enum place {
	AT_START, /* before the object */
	AT_KEYS,
	AT_LIST, /* in blocks */
	AT_BLOCK, /* in an object of that list */
};

struct reader {
	const char *what, *text;
	size_t len;
	yajl_handle yajl;
	struct bench_job *job;
	struct mc_error *err;
	int result;
	enum place at;
	const struct key *key; /* whose value is next */
	/* In an object of blocks. */
	bool is_share; /* the member whose value is next */
	bool has_size, has_share;
};

#define KEY_LEN 127
#define SHARE_MAX 1e9

static unsigned line_of(const struct reader *r, size_t to)
{
	unsigned line = 1;

	for (size_t i = 0; i < to && i < r->len; i++)
		line += r->text[i] == '\n';
	return line;
}

/* Always 0, which ends the parsing. */
static int refuse(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(struct reader *r, const char *fmt, ...)
{
	char why[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	r->result = mc_fail(r->err, -EINVAL, "%s:%u: %s", r->what,
			    line_of(r, yajl_get_bytes_consumed(r->yajl)), why);
	return 0;
}

/* What a key takes, for sentences. */
static void expected(const struct key *key, char *buf, size_t cap)
{
	size_t used = 0;

	switch (key->type) {
	case KEY_BOOL:
		snprintf(buf, cap, "true or false");
		break;
	case KEY_COUNT:
		snprintf(buf, cap, "a whole number from %.0f to %.0f", key->min, key->max);
		break;
	case KEY_PEERS:
		snprintf(buf, cap, "a whole number from %.0f to %.0f, or \"all\"", key->min, key->max);
		break;
	case KEY_SIZE:
	case KEY_RATE:
		snprintf(buf, cap, "bytes from %.0f to %.0f, like 4096 or \"64K\"", key->min, key->max);
		break;
	case KEY_REAL:
		snprintf(buf, cap, "a number from %g to %g", key->min, key->max);
		break;
	case KEY_SECONDS:
		snprintf(buf, cap, "seconds from %g to %g, like 2.5 or \"20ms\"", key->min, key->max);
		break;
	case KEY_TEXT:
		snprintf(buf, cap, "a text of at most %.0f bytes, in one line", key->max - 1);
		break;
	case KEY_BLOCKS:
		snprintf(buf, cap, "a size like \"64K\", or a list of at most %d {\"size\": , \"share\": }",
			 BENCH_MAX_SIZES);
		break;
	case KEY_WORD:
		for (int i = 0; key->words[i] && used < cap; i++)
			used += (size_t)snprintf(buf + used, cap - used, "%s\"%s\"", i ? ", " : "",
						 key->words[i]);
		break;
	}
}

static int refuse_value(struct reader *r, const char *got)
{
	char want[256];

	expected(r->key, want, sizeof want);
	return refuse(r, "key '%s': %.80s is not %s", r->key->name, got, want);
}

/* A value for the key outside of the list of blocks. */
static int take(struct reader *r, const char *text, bool number)
{
	static const char control[] = "\001\002\003\004\005\006\a\b\t\n\v\f\r\016\017\020\021\022\023\024\025"
				      "\026\027\030\031\032\033\034\035\036\037\177";
	const struct key *key = r->key;
	void *field = (char *)r->job + key->offset;
	double real = 0;
	int64_t whole = 0;

	switch (key->type) {
	case KEY_COUNT:
	case KEY_PEERS:
		if (key->type == KEY_PEERS && !number && strcmp(text, "all") == 0)
			whole = 0;
		else if (!number || mc_word_number(text, false, &whole) < 0 ||
			 (double)whole < key->min || (double)whole > key->max)
			return 0;
		memcpy(field, &whole, sizeof whole);
		return 1;
	case KEY_SIZE:
	case KEY_RATE:
	case KEY_BLOCKS:
		if (mc_word_number(text, true, &whole) < 0 || (double)whole < key->min ||
		    (double)whole > key->max)
			return 0;
		if (key->type == KEY_RATE)
			*(double *)field = (double)whole;
		else
			memcpy(field, &whole, sizeof whole);
		return 1;
	case KEY_REAL:
	case KEY_SECONDS:
		if ((key->type == KEY_REAL && !number) ||
		    (key->type == KEY_REAL ? mc_word_real(text, &real)
					   : mc_word_seconds(text, &real)) < 0 ||
		    !(real >= key->min) || real > key->max)
			return 0;
		*(double *)field = real;
		return 1;
	case KEY_TEXT:
		/* It is printed to terminals. */
		if (number || (double)strlen(text) >= key->max || strcspn(text, control) != strlen(text))
			return 0;
		strcpy(field, text);
		return 1;
	case KEY_WORD:
		for (int i = 0; !number && key->words[i]; i++) {
			if (strcmp(key->words[i], text) == 0) {
				*(int *)field = i;
				return 1;
			}
		}
		return 0;
	case KEY_BOOL:
		return 0;
	}
	return 0;
}

/* A member of an object of blocks. */
static int take_member(struct reader *r, const char *text, bool number)
{
	struct bench_job_block *block = &r->job->blocks[r->job->nr_blocks - 1];
	int64_t size;

	if (r->is_share) {
		if (!number || mc_word_real(text, &block->share) < 0 || !(block->share > 0) ||
		    block->share > SHARE_MAX)
			return refuse(r, "key 'share' of blocks: %.80s is not a number above 0, up to %g",
				      text, SHARE_MAX);
		return 1;
	}
	if (mc_word_number(text, true, &size) < 0 || (double)size < r->key->min ||
	    (double)size > r->key->max)
		return refuse(r, "key 'size' of blocks: %.80s is not bytes from %.0f to %.0f, like \"64K\"", text,
			      r->key->min, r->key->max);
	block->size = (uint64_t)size;
	return 1;
}

static int take_scalar(struct reader *r, const void *s, size_t len, bool number)
{
	char text[1200];

	if (r->at == AT_START)
		return refuse(r, "not an object: a job looks like {\"blocks\": \"64K\", \"batch\": 16}");
	if (r->at == AT_LIST)
		return refuse(r, "key 'blocks': the list holds objects like {\"size\": \"64K\", \"share\": 2}");
	if (len >= sizeof text || memchr(s, 0, len))
		return refuse_value(r, "what is there");
	memcpy(text, s, len);
	text[len] = '\0';
	if (r->at == AT_BLOCK)
		return take_member(r, text, number);
	if (!take(r, text, number)) {
		char quoted[100];

		snprintf(quoted, sizeof quoted, "'%.90s'", text);
		return refuse_value(r, quoted);
	}
	if (r->key->type == KEY_BLOCKS) {
		r->job->nr_blocks = 1;
		r->job->blocks[0].share = 1;
	}
	return 1;
}

static int on_number(void *ctx, const char *s, size_t len)
{
	return take_scalar(ctx, s, len, true);
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
	return take_scalar(ctx, s, len, false);
}

static int on_bool(void *ctx, int value)
{
	struct reader *r = ctx;

	if (r->at != AT_KEYS || r->key->type != KEY_BOOL)
		return take_scalar(r, value ? "true" : "false", value ? 4 : 5, true);
	*((bool *)((char *)r->job + r->key->offset)) = value;
	return 1;
}

static int on_null(void *ctx)
{
	return take_scalar(ctx, "null", 4, true);
}

/* Of an object of blocks. */
static int on_member(struct reader *r, const char *name)
{
	bool *seen = strcmp(name, "size") == 0 ? &r->has_size : strcmp(name, "share") == 0 ? &r->has_share : NULL;

	if (!seen)
		return refuse(r, "key '%s' of blocks is not known; there are 'size' and 'share'", name);
	if (*seen)
		return refuse(r, "key '%s' of blocks is there twice", name);
	*seen = true;
	r->is_share = seen == &r->has_share;
	return 1;
}

static int refuse_key(struct reader *r, const char *name)
{
	size_t best = SIZE_MAX;
	const char *closest = "";

	for (size_t i = 0; i < MC_ARRAY_SIZE(keys); i++) {
		size_t d = mc_word_distance(name, keys[i].name);

		if (d < best) {
			best = d;
			closest = keys[i].name;
		}
	}
	if (best <= MC_MAX((size_t)2, strlen(name) / 3))
		return refuse(r, "key '%s' is not known (did you mean '%s'?)", name, closest);
	return refuse(r, "key '%s' is not known; --helpfull lists them all", name);
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
	struct reader *r = ctx;
	char name[KEY_LEN + 1];

	if (len > KEY_LEN || memchr(s, 0, len))
		return refuse(r, "a key of %zu bytes is not known", len);
	memcpy(name, s, len);
	name[len] = '\0';
	if (r->at == AT_BLOCK)
		return on_member(r, name);
	r->key = key_find(name);
	if (!r->key)
		return refuse_key(r, name);
	if (bench_job_given(r->job, name))
		return refuse(r, "key '%s' is there twice", name);
	bench_job_give(r->job, name);
	return 1;
}

static int on_map_start(void *ctx)
{
	struct reader *r = ctx;

	if (r->at == AT_START) {
		r->at = AT_KEYS;
		return 1;
	}
	if (r->at != AT_LIST)
		return r->at == AT_KEYS ? refuse_value(r, "an object") : refuse(r, "key 'blocks': an object in an object");
	if (r->job->nr_blocks == BENCH_MAX_SIZES)
		return refuse(r, "key 'blocks': more than %d sizes", BENCH_MAX_SIZES);
	r->job->blocks[r->job->nr_blocks++] = (struct bench_job_block){.share = 1};
	r->has_size = r->has_share = false;
	r->at = AT_BLOCK;
	return 1;
}

static int on_map_end(void *ctx)
{
	struct reader *r = ctx;

	if (r->at == AT_BLOCK && !r->has_size)
		return refuse(r, "key 'blocks': an object without a size");
	r->at = r->at == AT_BLOCK ? AT_LIST : AT_START;
	return 1;
}

static int on_array_start(void *ctx)
{
	struct reader *r = ctx;

	if (r->at == AT_START)
		return refuse(r, "not an object: a job looks like {\"blocks\": \"64K\", \"batch\": 16}");
	if (r->at != AT_KEYS || r->key->type != KEY_BLOCKS)
		return r->at == AT_KEYS ? refuse_value(r, "a list") : refuse(r, "key 'blocks': a list in a list");
	r->job->nr_blocks = 0;
	r->at = AT_LIST;
	return 1;
}

static int on_array_end(void *ctx)
{
	struct reader *r = ctx;

	if (!r->job->nr_blocks)
		return refuse(r, "key 'blocks': the list is empty");
	r->at = AT_KEYS;
	return 1;
}

/* A syntax error, in one line: the library adds a picture of the place. */
static void refuse_syntax(struct reader *r)
{
	unsigned char *why = yajl_get_error(r->yajl, 0, (const unsigned char *)r->text, r->len);

	if (why)
		why[strcspn((char *)why, "\n")] = '\0';
	refuse(r, "%s", why ? (char *)why : "not JSON");
	yajl_free_error(r->yajl, why);
}

int bench_job_parse(const char *what, const char *text, size_t len, struct bench_job *job,
		    struct mc_error *err)
{
	static const yajl_callbacks callbacks = {
		.yajl_null = on_null,
		.yajl_boolean = on_bool,
		.yajl_number = on_number,
		.yajl_string = on_string,
		.yajl_start_map = on_map_start,
		.yajl_map_key = on_key,
		.yajl_end_map = on_map_end,
		.yajl_start_array = on_array_start,
		.yajl_end_array = on_array_end,
	};
	struct reader r = {.what = what, .text = text, .len = len, .job = job, .err = err};
	yajl_status status;

	if (len > BENCH_JOB_MAX_BYTES)
		return mc_fail(err, -EFBIG, "%s: more than %u bytes", what, BENCH_JOB_MAX_BYTES);
	r.yajl = yajl_alloc(&callbacks, NULL, &r);
	if (!r.yajl)
		return mc_fail(err, -ENOMEM, "%s: no memory", what);
	status = yajl_parse(r.yajl, (const unsigned char *)text, len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(r.yajl);
	if (status == yajl_status_error)
		refuse_syntax(&r);
	yajl_free(r.yajl);
	return r.result;
}

/* ---- showing it --------------------------------------------------------------------------------
 */

static void blocks_text(const struct bench_job *job, char *buf, size_t cap)
{
	size_t used = 0;

	for (size_t i = 0; i < job->nr_blocks && used < cap; i++)
		used += (size_t)snprintf(buf + used, cap - used, "%s{\"size\": %" PRIu64 ", \"share\": %.17g}",
					 i ? ", " : "[", job->blocks[i].size, job->blocks[i].share);
	if (used < cap)
		snprintf(buf + used, cap - used, "]");
}

static void key_text(const struct bench_job *job, const struct key *key, char *buf, size_t cap)
{
	const void *field = (const char *)job + key->offset;
	uint64_t whole;

	switch (key->type) {
	case KEY_BOOL:
		snprintf(buf, cap, "%s", *(const bool *)field ? "true" : "false");
		break;
	case KEY_COUNT:
	case KEY_SIZE:
	case KEY_PEERS:
		memcpy(&whole, field, sizeof whole);
		if (key->type == KEY_PEERS && !whole)
			snprintf(buf, cap, "all");
		else
			snprintf(buf, cap, "%" PRIu64, whole);
		break;
	case KEY_RATE:
		snprintf(buf, cap, "%.0f", *(const double *)field);
		break;
	case KEY_REAL:
	case KEY_SECONDS:
		snprintf(buf, cap, "%.17g", *(const double *)field);
		break;
	case KEY_TEXT:
		snprintf(buf, cap, "%s", (const char *)field);
		break;
	case KEY_WORD:
		snprintf(buf, cap, "%s", key->words[*(const int *)field]);
		break;
	case KEY_BLOCKS:
		blocks_text(job, buf, cap);
		break;
	}
}

void bench_job_each(const struct bench_job *job,
		    void (*each)(void *ctx, const char *name, const char *value, bool quote), void *ctx)
{
	char text[2048];

	for (size_t i = 0; i < MC_ARRAY_SIZE(keys); i++) {
		const struct key *key = &keys[i];

		if (!(key->in & (bench_job_replays(job) ? IN_REPLAY : IN_LOAD)))
			continue;
		key_text(job, key, text, sizeof text);
		each(ctx, key->name, text,
		     key->type == KEY_TEXT || key->type == KEY_WORD || (key->type == KEY_PEERS && !job->peers));
	}
}

void bench_job_help(FILE *f)
{
	struct bench_job job;
	char want[256], text[2048];

	bench_job_init(&job);
	fputs("Keys of a job:\n", f);
	for (size_t i = 0; i < MC_ARRAY_SIZE(keys); i++) {
		expected(&keys[i], want, sizeof want);
		key_text(&job, &keys[i], text, sizeof text);
		fprintf(f, "  %s  %s, default '%s'%s\n      %s\n", keys[i].name, want, text,
			keys[i].in == IN_REPLAY ? ", in a replay" : keys[i].in == IN_LOAD ? ", not in a replay" : "",
			keys[i].doc);
	}
}

/* ---- what its keys say together ---------------------------------------------------------------- */

int bench_job_keys_check(const struct bench_job *job, struct mc_error *err)
{
	bool replays = bench_job_replays(job);

	for (size_t i = 0; i < MC_ARRAY_SIZE(keys); i++) {
		if (!(job->set >> i & 1) || (keys[i].in & (replays ? IN_REPLAY : IN_LOAD)))
			continue;
		return mc_fail(err, -EINVAL, "job '%s': key '%s' %s", job->name, keys[i].name,
			       replays ? "has no meaning in the replay of a trace; leave it out"
				       : "is of the replay of a trace; leave it out, or name a trace");
	}
	return 0;
}
