/* SPDX-License-Identifier: Apache-2.0 */
/* What `serve` offers: files, or a folder, as one object with its manifest and its bytes in memory. */
#ifndef MC_P2P_CLI_OFFER_H
#define MC_P2P_CLI_OFFER_H

#include "manifest.h"
#include "map.h"

struct p2pc_offer {
	char *name;
	struct p2pc_manifest manifest;
	char *text; /* of the manifest */
	size_t text_len;
	struct p2pc_map map;
	size_t nr_files;
	uint64_t nr_tensors; /* of its safetensors files */
	bool held, registered; /* its memory, with the engine; the object, with the store */
	uint64_t shard_size;   /* of its record, once registered */
	uint32_t nr_shards;
	char root[MC_P2P_ROOT_SIZE];
};

/* Look at paths and map them: a file, a folder, or (nr > 1) several files as one object.
 *   name     NULL: the last part of the path
 *   force    a checkpoint that is not whole is offered all the same, with a warning
 *   returns  0; below: err says which file, and nothing is left to close */
int p2pc_offer_open(struct p2pc_offer *o, const char *name, char *const *paths, size_t nr, bool force, struct mc_error *err);
void p2pc_offer_close(struct p2pc_offer *o);

/* Names of get's unfinished work: ".NAME.HASH.mc-part". */
#define P2PC_PART_SUFFIX ".mc-part"

#endif
