/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What two ends of the shm wire tell each other, over the Unix-socket stream that the core dials for
 * them, and the blob that describes a buffer.  docs/wire.md draws the bytes.
 *
 * Every message has SHM_MSG_SIZE bytes, so a stream needs no framing: a message is there when so many
 * bytes are, and descriptors arrive with the first of them.  Little-endian; what is not used is zero.
 */
#ifndef MC_SHM_WIRE_H
#define MC_SHM_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define SHM_WIRE_VERSION 1
#define SHM_MSG_SIZE 96u
#define SHM_BLOB_SIZE 16u
#define SHM_PROBE 16u /* bytes that prove who they are read from */
#define SHM_SLOTS UINT32_C(65536) /* of a device: its registered buffers and the peers it serves */

enum shm_msg_type {
	SHM_HELLO = 1, /* both ways, first; with the sender's flag (initiator) or table (target) */
	SHM_WANT = 2,  /* initiator: the memfd behind a buffer */
	SHM_GIVE = 3,  /* target: here it is, or why not */
};

/* Who is at the other end.  All of it is checked: a pid alone is another process's tomorrow. */
struct shm_hello {
	uint32_t pid;          /* in its own PID namespace */
	uint8_t boot[16];      /* of this boot of the host */
	uint64_t pid_ns;       /* inode of its PID namespace */
	uint64_t start;        /* of the process, clock ticks since the boot */
	uint64_t probe_addr;   /* where in its memory the same bytes lie */
	uint8_t probe[SHM_PROBE];
	uint32_t slot;         /* target: in its table, of this connection; initiator: 0 */
	uint64_t key;          /* target: what the slot holds as long as the connection may be used */
};

struct shm_want {
	uint64_t cookie; /* comes back */
	uint32_t slot;
	uint64_t key;
};

struct shm_give {
	uint64_t cookie;
	int32_t status; /* 0, with a descriptor; or -errno */
	uint64_t offset, len; /* of the buffer in the memfd */
};

struct shm_msg {
	uint32_t type; /* enum shm_msg_type */
	union {
		struct shm_hello hello;
		struct shm_want want;
		struct shm_give give;
	};
};

/* What mem_export tells. */
struct shm_blob {
	uint32_t slot; /* in the owner's table; holds key as long as the buffer is registered */
	uint64_t key;
	uint32_t flags;
};
#define SHM_BLOB_MAPPED (1u << 0) /* there is a memfd to ask for */

void shm_msg_encode(const struct shm_msg *m, uint8_t buf[SHM_MSG_SIZE]);
/* 0, or -EPROTO: no message of ours. */
int shm_msg_decode(const uint8_t buf[SHM_MSG_SIZE], struct shm_msg *ret_m);
void shm_blob_encode(const struct shm_blob *b, uint8_t buf[SHM_BLOB_SIZE]);
int shm_blob_decode(const void *blob, size_t len, struct shm_blob *ret_b);

/* Of files in /proc.  "3a0c1b5e-..." into 16 bytes: 0, or -EINVAL. */
int shm_uuid_parse(const char *text, uint8_t ret_uuid[16]);
/* The start time of a process, from its stat file: 0, or -EINVAL. */
int shm_stat_parse(const char *text, uint64_t *ret_start);

#endif
