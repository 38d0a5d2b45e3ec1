/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All about one object, and its removal.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "p2p_impl.h"

#define SOURCE_NS (3 * MC_SEC) /* for one source to answer */

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
	int r = mc_p2p_reader_open(&reader, store->engine, deadline_ns, err);

	s->sources = calloc(nr ? nr : 1, sizeof *s->sources);
	if (r == 0 && !s->sources)
		r = mc_fail(err, -ENOMEM, "object '%s': out of memory", s->record.name);
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

/* Tell one engine; 0: it has answered. */
static int tell(struct mc_p2p *store, const char *engine, struct mc_p2p_request *q, uint64_t deadline_ns)
{
	uint8_t bytes[MC_P2P_REQUEST_MAX];
	struct mc_rpc_call call = {.size = sizeof call, .method = MC_P2P_DROP, .data = bytes};
	struct mc_rpc_client *client;
	int r = mc_rpc_client_open(store->engine, engine, MC_P2P_SERVICE, &client, NULL);

	if (r < 0)
		return r;
	call.len = mc_p2p_request_put(MC_P2P_DROP, q, bytes);
	r = mc_rpc_start(client, &call, MC_MIN(mc_p2p_left(deadline_ns), SOURCE_NS));
	if (r == 0)
		r = mc_rpc_wait(client, &call);
	if (r == 0)
		r = call.status;
	mc_rpc_client_close(client);
	return r;
}

int mc_p2p_remove(struct mc_p2p *store, const char *name, uint64_t timeout_ns, uint32_t *ret_told, struct mc_error *err)
{
	uint64_t deadline = mc_p2p_deadline(timeout_ns);
	struct mc_p2p_record record = {.nr_sizes = 0};
	struct p2p_offer_at *offers = NULL;
	char key[MC_P2P_KEY_MAX];
	uint32_t told = 0;
	size_t nr = 0;
	int r;

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
	for (size_t i = 0; r == 0 && i < nr; i++) {
		struct mc_p2p_request q = {.count = 0, .root = offers[i].offer.root};

		mc_p2p_hash(name, strlen(name), &q.object);
		told += tell(store, offers[i].offer.engine, &q, deadline) == 0;
	}
	mc_p2p_record_free(&record);
	free(offers);
	if (r == 0 && ret_told)
		*ret_told = told;
	return r;
}
