/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All about one object, and its removal.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util/cleanup.h"
#include "p2p_impl.h"

#define SOURCE_NS (3 * MC_SEC) /* for one source to answer */
#define ASK_AT_ONCE 64

/* ---- asking many ------------------------------------------------------------------------------ */

struct asked {
	struct mc_rpc_client *client;
	struct mc_rpc_call call;
	uint8_t bytes[MC_P2P_REQUEST_MAX];
};

static int ask_begin(struct mc_p2p *store, uint32_t method, const struct mc_p2p_offer *o, uint64_t wait_ns, struct asked *a)
{
	struct mc_p2p_request q = {.count = 0, .root = o->root};
	int r;

	mc_p2p_hash(o->name, strlen(o->name), &q.object);
	a->call = (struct mc_rpc_call){.size = sizeof a->call, .method = method, .data = a->bytes};
	a->call.len = mc_p2p_request_put(method, &q, a->bytes);
	r = mc_rpc_client_open(store->engine, o->engine, MC_P2P_SERVICE, &a->client, NULL);
	return r == 0 ? mc_rpc_start(a->client, &a->call, wait_ns) : r;
}

/* Tell each of these engines the same, many at once, so that those who are frozen or cut off take no time from the others.
 *   ret_status  by offer: 0, or why there is no answer */
static void ask_many(struct mc_p2p *store, uint32_t method, const struct p2p_offer_at *offers, size_t nr,
		     uint64_t deadline_ns, int *ret_status)
{
	struct asked asked[ASK_AT_ONCE];

	for (size_t first = 0; first < nr; first += ASK_AT_ONCE) {
		size_t some = MC_MIN(nr - first, (size_t)ASK_AT_ONCE);

		memset(asked, 0, sizeof asked);
		for (size_t i = 0; i < some; i++)
			ret_status[first + i] = ask_begin(store, method, &offers[first + i].offer,
							  MC_MIN(mc_p2p_left(deadline_ns), SOURCE_NS), &asked[i]);
		for (size_t i = 0; i < some; i++) {
			int *status = &ret_status[first + i];

			if (*status == 0)
				*status = mc_rpc_wait(asked[i].client, &asked[i].call);
			if (*status == 0)
				*status = asked[i].call.status;
			mc_rpc_client_close(asked[i].client);
		}
	}
}

/* ---- stat ------------------------------------------------------------------------------------ */

/* An info and all that it points to. */
struct stat {
	struct mc_p2p_info info; /* first: it is what the caller frees */
	struct mc_p2p_record record;
	struct p2p_offer_at *offers;
	struct mc_p2p_source *sources;
	uint8_t *attachment;
};

/* The attachment of a source, verified by the root. */
static int read_attachment(struct stat *s, struct p2p_reader *reader, struct mc_segment *segment,
			   const struct mc_p2p_offer *o, const struct mc_p2p_block *b)
{
	uint64_t len = (uint64_t)b->nr_shards * MC_P2P_HASH_SIZE;
	uint8_t *hashes = malloc(len), *attachment = malloc(b->attachment_len);
	struct mc_p2p_hash root, attached;
	int r = hashes && attachment ? 0 : -ENOMEM;

	if (r == 0)
		r = mc_p2p_read(reader, segment, o->block + b->hashes_off, hashes, len, SOURCE_NS, NULL);
	if (r == 0)
		r = mc_p2p_read(reader, segment, o->block + b->attachment_off, attachment, b->attachment_len, SOURCE_NS, NULL);
	if (r == 0) {
		mc_p2p_root(b->size, b->shard_size, hashes, b->nr_shards, b->attachment_len, &b->attachment_hash, &root);
		mc_p2p_hash(attachment, b->attachment_len, &attached);
		if (memcmp(&root, &s->record.root, sizeof root) != 0 ||
		    memcmp(&attached, &b->attachment_hash, sizeof attached) != 0)
			r = -EBADMSG;
	}
	if (r == 0) {
		s->attachment = attachment;
		s->info.attachment = attachment;
		attachment = NULL;
	}
	free(hashes);
	free(attachment);
	return r;
}

static int ask_source(struct mc_p2p *store, struct stat *s, struct p2p_reader *reader, const struct mc_p2p_offer *o,
		      struct mc_p2p_source *to, uint64_t deadline_ns)
{
	uint64_t wait = MC_MIN(mc_p2p_left(deadline_ns), SOURCE_NS);
	uint8_t header[MC_P2P_BLOCK_HEADER], *map = NULL;
	struct mc_segment *segment = NULL;
	struct mc_p2p_block b;
	int r = mc_segment_open(store->engine, o->engine, wait, &segment, NULL);

	if (r == 0 && mc_segment_generation(segment) != o->generation)
		r = -ESTALE;
	if (r == 0)
		r = mc_p2p_read(reader, segment, o->block, header, sizeof header, SOURCE_NS, NULL);
	if (r == 0)
		r = mc_p2p_block_parse(header, o->block_len, &b, NULL);
	if (r == 0 && (memcmp(&b.root, &s->record.root, sizeof b.root) != 0 || b.size != s->record.size ||
		       b.shard_size != s->record.shard_size || b.attachment_len != s->record.attachment_len))
		r = -EBADMSG;
	if (r == 0) {
		map = calloc(1, mc_p2p_bitmap_len(b.nr_shards));
		r = map ? mc_p2p_read(reader, segment, o->block + b.bitmap_off, map, mc_p2p_bitmap_len(b.nr_shards), SOURCE_NS,
				      NULL)
			: -ENOMEM;
	}
	if (r == 0) {
		to->answers = true;
		to->have = mc_p2p_bits_count(map, b.nr_shards);
		if (b.attachment_len && !s->attachment)
			read_attachment(s, reader, segment, o, &b);
	}
	free(map);
	mc_segment_close(segment);
	return r;
}

static int ask_sources(struct mc_p2p *store, struct stat *s, size_t nr, uint64_t deadline_ns, struct mc_error *err)
{
	struct p2p_reader reader = {.engine = NULL};
	mc_cleanup(mc_freep) int *status = calloc(nr ? nr : 1, sizeof *status);
	int r = mc_p2p_reader_open(&reader, store->engine, deadline_ns, err);

	s->sources = calloc(nr ? nr : 1, sizeof *s->sources);
	if (r == 0 && (!s->sources || !status))
		r = mc_fail(err, -ENOMEM, "object '%s': out of memory", s->record.name);
	/* Who is there?  Of a get of ours it says that it goes on, which is so if there is one. */
	if (r == 0)
		ask_many(store, MC_P2P_KEEP, s->offers, nr, deadline_ns, status);
	for (size_t i = 0; r == 0 && i < nr; i++) {
		const struct mc_p2p_offer *o = &s->offers[i].offer;
		struct mc_p2p_source *to = &s->sources[s->info.nr_sources];

		if (memcmp(&o->root, &s->record.root, sizeof o->root) != 0)
			continue; /* of an object that had the name before */
		s->info.nr_sources++;
		to->size = sizeof *to;
		to->engine = o->engine;
		to->rack = o->rack;
		to->generation = o->generation;
		to->role = o->role;
		to->same_host = strcmp(o->host, store->host) == 0;
		if (status[i] == 0)
			ask_source(store, s, &reader, o, to, deadline_ns);
	}
	s->info.sources = s->sources;
	mc_p2p_reader_close(&reader);
	return r;
}

int mc_p2p_stat(struct mc_p2p *store, const char *name, uint64_t timeout_ns, struct mc_p2p_info **ret_info,
		struct mc_error *err)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	struct stat *s;
	size_t nr = 0;
	int r;

	if (!store || !ret_info)
		return mc_fail(err, -EINVAL, "object: store and ret_info may not be NULL");
	r = mc_p2p_name_check(name, err);
	if (r < 0)
		return r;
	s = calloc(1, sizeof *s);
	if (!s)
		return mc_fail(err, -ENOMEM, "object '%s': out of memory", name);
	r = mc_p2p_record_read(store, name, deadline, &s->record, NULL, err);
	if (r == 0)
		r = mc_p2p_offers_read(store, name, deadline, &s->offers, &nr, err);
	if (r == 0)
		r = ask_sources(store, s, nr, deadline, err);
	if (r < 0) {
		mc_p2p_info_free(&s->info);
		return r;
	}
	s->info.size = sizeof s->info;
	s->info.name = s->record.name;
	s->info.len = s->record.size;
	s->info.shard_size = s->record.shard_size;
	s->info.nr_shards = mc_p2p_nr_shards(s->record.size, s->record.shard_size);
	mc_p2p_hash_text(&s->record.root, s->info.root);
	s->info.created_by = s->record.created_by;
	s->info.created = s->record.created;
	s->info.ranges = s->record.sizes;
	s->info.nr_ranges = s->record.nr_sizes;
	s->info.attachment_len = s->record.attachment_len;
	*ret_info = &s->info;
	return 0;
}

void mc_p2p_info_free(struct mc_p2p_info *info)
{
	struct stat *s = (struct stat *)info;

	if (!s)
		return;
	mc_p2p_record_free(&s->record);
	free(s->offers);
	free(s->sources);
	free(s->attachment);
	free(s);
}

/* ---- remove ---------------------------------------------------------------------------------- */

int mc_p2p_remove(struct mc_p2p *store, const char *name, uint64_t timeout_ns, uint32_t *ret_told, struct mc_error *err)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	struct mc_p2p_record record = {.nr_sizes = 0};
	struct p2p_offer_at *offers = NULL;
	char key[MC_P2P_KEY_MAX];
	uint32_t told = 0;
	int *status, r;
	size_t nr = 0;

	if (!store)
		return mc_fail(err, -EINVAL, "object: store may not be NULL");
	r = mc_p2p_name_check(name, err);
	if (r == 0)
		r = mc_p2p_record_read(store, name, deadline, &record, NULL, err);
	/* A record that nobody can read is removed all the same; whom to tell is not known then. */
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r == 0)
		r = mc_p2p_offers_read(store, name, deadline, &offers, &nr, err);
	else
		r = 0;
	mc_p2p_object_key(name, key);
	if (r == 0)
		r = mc_kv_remove(store->engine, key, 0, mc_p2p_left(deadline), err);
	status = r == 0 ? calloc(nr ? nr : 1, sizeof *status) : NULL;
	if (status)
		ask_many(store, MC_P2P_DROP, offers, nr, deadline, status);
	for (size_t i = 0; status && i < nr; i++)
		told += status[i] == 0;
	mc_p2p_record_free(&record);
	free(offers);
	free(status);
	if (r == 0 && ret_told)
		*ret_told = told;
	return r;
}
