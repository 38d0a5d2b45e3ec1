/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest of an object that mooncake_p2p serves: what its bytes are as files.  It
 * travels as the object's attachment, so it is under the root hash.
 *
 *   {"format":1,"kind":"tree","entries":[{"path":"a/b.bin","size":5,"mode":"0644"},{"path":"empty","dir":true}]}
 *
 * The object's bytes are those of the files, in the order of the entries, which is that of
 * their paths with '/' before all other bytes.  Folders are named only where they are empty.
 * kind "file": one entry, a file whose path has no '/'.  Modes are 0644 and 0755, so that the
 * same files make the same object whatever umask they were written under.
 */
#ifndef MC_P2P_CLI_MANIFEST_H
#define MC_P2P_CLI_MANIFEST_H

#include <mooncake/types.h>

#define P2PC_MANIFEST_MAX (1u << 20) /* bytes of its text */
#define P2PC_PATH_MAX 4095
#define P2PC_PART_MAX 255 /* of a path, between two '/' */

struct p2pc_entry {
	char *path;
	char *source; /* the file that it is here; NULL where it comes from others */
	uint64_t size;
	bool dir, exec;
};

struct p2pc_manifest {
	bool tree;
	struct p2pc_entry *entries;
	size_t nr, cap;
	uint64_t size; /* of all files */
};

/* Add an entry, its texts copied, the rest as what says; p2pc_manifest_seal puts them into order.  0; -ENOMEM. */
int p2pc_manifest_add(struct p2pc_manifest *m, const char *path, const char *source, const struct p2pc_entry *what);
/* Put it into order and check it as one that was read is. */
int p2pc_manifest_seal(struct p2pc_manifest *m, struct mc_error *err);
/* Read one from anywhere.  *ret is to be freed if it returns 0; -EBADMSG, -ENOMEM. */
int p2pc_manifest_parse(const void *text, size_t len, struct p2pc_manifest *ret, struct mc_error *err);
/* Its text, to be freed by the caller.  NULL: no memory. */
char *p2pc_manifest_print(const struct p2pc_manifest *m, size_t *ret_len);
void p2pc_manifest_free(struct p2pc_manifest *m);

/* A path that can be created below any folder and leaves it nowhere: relative, no empty part, no "." and "..",
 * UTF-8 without control characters.  0, or -EINVAL and why it is not. */
int p2pc_path_check(const char *path, struct mc_error *err);
/* The order of entries. */
int p2pc_path_compare(const char *a, const char *b);

#endif
