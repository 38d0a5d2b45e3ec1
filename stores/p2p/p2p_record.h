/* SPDX-License-Identifier: Apache-2.0 */
/* What the metadata service holds: names of keys, the record of an object, the key of a source.  See README.md. */
#ifndef MC_P2P_RECORD_H
#define MC_P2P_RECORD_H

#include <mooncake/p2p_store.h>

#include "p2p_hash.h"

#define MC_P2P_KEY_MAX 768
#define MC_P2P_RECORD_MAX (64u << 10) /* bytes of JSON */
#define MC_P2P_SIZES_TOLD 2000        /* ranges whose lengths the record tells */
#define MC_P2P_OBJECTS "p2p/object/"
#define MC_P2P_SOURCES "p2p/source/"

/* p2p/object/NAME */
struct mc_p2p_record {
	char name[MC_P2P_NAME_MAX + 1];
	char created_by[MC_SEGMENT_NAME_MAX + 1];
	char created[40];
	uint64_t size, shard_size, attachment_len;
	struct mc_p2p_hash root;
	size_t nr_sizes;
	uint64_t *sizes; /* the first MC_P2P_SIZES_TOLD; malloc'ed, may be NULL */
};

/* p2p/source/HASH OF THE NAME/ENGINE */
struct mc_p2p_offer {
	char name[MC_P2P_NAME_MAX + 1];
	char engine[MC_SEGMENT_NAME_MAX + 1]; /* of the key, not in the value */
	char host[64], rack[MC_P2P_LABEL_MAX + 1];
	struct mc_p2p_hash root;
	uint64_t generation, block, block_len;
	enum mc_p2p_role role;
};

/* 0; -EINVAL: err says what a name is. */
int mc_p2p_name_check(const char *name, struct mc_error *err);

void mc_p2p_object_key(const char *name, char key[MC_P2P_KEY_MAX]);
/* engine NULL: the prefix of all sources of the object. */
void mc_p2p_source_key(const char *name, const char *engine, char key[MC_P2P_KEY_MAX]);

/* JSON, malloc'ed; NULL: no memory. */
char *mc_p2p_record_print(const struct mc_p2p_record *record);
char *mc_p2p_offer_print(const struct mc_p2p_offer *offer);
/* Foreign text.  name: of the key, that the value must repeat.  0; -EBADMSG: err says what is wrong; -ENOMEM. */
int mc_p2p_record_parse(const char *name, const void *text, size_t len, struct mc_p2p_record *ret, struct mc_error *err);
void mc_p2p_record_free(struct mc_p2p_record *record);
/* engine: the last part of the key. */
int mc_p2p_offer_parse(const char *name, const char *engine, const void *text, size_t len, struct mc_p2p_offer *ret,
		       struct mc_error *err);

#endif
