/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What two checksum filters say to each other, by host->peer_send: little-endian,
 * one head of 16 bytes, then entries.
 *
 *   head      u64 magic, u8 type, u8 version, u16 nr, u32 0
 *   ASK       nr of: u32 id, u8 opcode, 3 bytes 0, u64 offset, u64 len, u64 hash
 *   ANSWER    nr of: u32 id, u32 status, u64 hash
 *   NARROW    one:   u32 id, u8 opcode, 3 bytes 0, u64 offset, u64 len, u64 part
 *   NARROWED  u32 id, u32 status, then nr of u64: the hashes of the parts, or the bytes if part is 1
 *
 * status is 0, or an errno.  Hashes are XXH3, 64 bits, without a seed.
 */
#ifndef MC_CHECKSUM_WIRE_H
#define MC_CHECKSUM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CKW_MAGIC UINT64_C(0x4d75736b6368434d) /* "MChcksuM" */
#define CKW_VERSION 1
#define CKW_HEAD 16u
#define CKW_ASK_SIZE 32u
#define CKW_ANSWER_SIZE 16u
#define CKW_NARROWED_HEAD 8u
#define CKW_MSG_MAX 4096u
#define CKW_ASKS ((CKW_MSG_MAX - CKW_HEAD) / CKW_ASK_SIZE)
#define CKW_ANSWERS ((CKW_MSG_MAX - CKW_HEAD) / CKW_ANSWER_SIZE)
#define CKW_PARTS 256u /* of one NARROW, at most */
#define CKW_NARROW_MAX (UINT64_C(64) << 20)

enum ckw_type { CKW_ASK = 1, CKW_ANSWER, CKW_NARROW, CKW_NARROWED };

struct ckw_ask {
	uint32_t id;
	uint8_t opcode;
	uint64_t offset, len;
	uint64_t value; /* ASK: the hash; NARROW: bytes per part */
};
struct ckw_answer {
	uint32_t id;
	int32_t status; /* 0 or -errno */
	uint64_t hash;
};

/* Begin a message in buf; returns where its first entry goes. */
uint8_t *ckw_begin(uint8_t *buf, enum ckw_type type);
/* Write the number of entries once it is known. */
void ckw_end(uint8_t *buf, uint16_t nr);
void ckw_ask_put(uint8_t *p, const struct ckw_ask *ask);
void ckw_answer_put(uint8_t *p, const struct ckw_answer *answer);
void ckw_narrowed_put(uint8_t *p, uint32_t id, int32_t status);
void ckw_part_put(uint8_t *p, uint64_t part);

/* Is it one of ours at all?  Then it is no transport's, valid or not. */
bool ckw_is_ours(const void *msg, size_t len);
/* The type of a valid message, with its number of entries; else -EPROTO.  Every length is checked:
 * entry i < nr may be read. */
int ckw_parse(const void *msg, size_t len, uint16_t *ret_nr);
/* ASK or NARROW; -EPROTO: not a valid entry. */
int ckw_ask_get(const void *msg, uint16_t i, struct ckw_ask *ret);
void ckw_answer_get(const void *msg, uint16_t i, struct ckw_answer *ret);
/* NARROWED: its answer (hash is not set), and part i. */
void ckw_narrowed_get(const void *msg, struct ckw_answer *ret);
uint64_t ckw_narrowed_part(const void *msg, uint16_t i);

#endif
