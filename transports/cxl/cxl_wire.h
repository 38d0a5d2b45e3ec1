/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes that engines share: what lies in a pool, and what they tell each other of
 * it.  All integers are little-endian; every word of a pool has one writer.
 *
 * A pool:
 *   0             header: written by `mooncake cxl format` alone, CXL_HEADER_LEN bytes
 *   slots_offset  nr_slots slots of slot_size bytes, each written by the engine to which
 *                 the metadata service granted it
 *   data_offset   nr_units units of `unit` bytes, granted as extents
 *
 * A slot:
 *   0     identity: u64 generation (0: free), u32 lanes, u32 nr_extents, name
 *   64    guards: a line per lane; its first word says which other engine's memory the lane
 *         is touching: sequence << 8 | slot + 1, 0 in the low byte: none
 *   1088  beat: u64, another value every few seconds as long as the engine's lease holds
 *   2048  extents: u32 first unit, u32 number; what the grants say, for others to check
 *   4096  keys: a u64 per buffer that peers may reach, 0: none
 */
#ifndef MC_CXL_WIRE_H
#define MC_CXL_WIRE_H

#include <mooncake/types.h>

#define CXL_LINE 64u
#define CXL_PAGE 4096u

#define CXL_POOL_MAGIC UINT64_C(0x4c4f4f505843434d) /* "MCCXPOOL" */
#define CXL_POOL_VERSION 1u
#define CXL_HEADER_LEN 128u
#define CXL_SLOTS_MAX 254u /* a guard names one in eight bits */
#define CXL_LANES_MAX 16u
#define CXL_EXTENTS_MAX 256u
#define CXL_NAME_MAX 47u

#define CXL_SLOT_GUARDS 64u
#define CXL_SLOT_BEAT (CXL_SLOT_GUARDS + CXL_LANES_MAX * CXL_LINE)
#define CXL_SLOT_EXTENTS 2048u
#define CXL_SLOT_KEYS 4096u
#define CXL_SLOT_MIN (CXL_SLOT_KEYS + 4096u)
#define CXL_SLOT_MAX (1u << 20)

#define CXL_UUID_LEN 16u
#define CXL_UUID_TEXT 37u /* with the final NUL */

struct cxl_extent {
	uint32_t first, nr; /* units */
};

struct cxl_geometry {
	uint8_t uuid[CXL_UUID_LEN];
	uint64_t size;  /* bytes that the pool uses of its device */
	uint64_t unit;  /* of grants: a power of two, whole pages */
	uint64_t slots_offset, data_offset;
	uint32_t slot_size, nr_slots, nr_units;
	uint32_t nr_keys; /* of a slot; follows from slot_size */
};

/* Choose the places for a pool of `size` bytes in grants of `unit`.
 *   nr_slots   engines that may use it at once; 0: by its size
 *   returns    0; -ENOSPC: too small, err says how large it must be; -EINVAL */
int cxl_geometry_plan(uint64_t size, uint64_t unit, uint32_t nr_slots, struct cxl_geometry *ret,
		      struct mc_error *err);

void cxl_header_put(const struct cxl_geometry *g, uint8_t header[CXL_HEADER_LEN]);
/* Read the header of a device of device_size bytes; name is for messages.
 *   returns   0; -ENODATA: nothing is there; -EBADMSG: something else is there; -EPROTONOSUPPORT:
 *             another version; -EIO: damaged; -ENOSPC: the device is smaller than the pool */
int cxl_header_get(const uint8_t header[CXL_HEADER_LEN], const char *name, uint64_t device_size,
		   struct cxl_geometry *ret, struct mc_error *err);

void cxl_uuid_text(const uint8_t uuid[CXL_UUID_LEN], char text[CXL_UUID_TEXT]);

/* What the owner of a buffer tells its peers: where it lies, and the key that stands in the owner's
 * slot as long as they may reach it. */
#define CXL_BLOB_LEN 80u
struct cxl_blob {
	uint8_t uuid[CXL_UUID_LEN];
	uint64_t generation; /* of the owner */
	uint64_t key;
	uint64_t offset, len; /* in the pool */
	uint64_t base;        /* the owner's address */
	uint32_t slot, key_idx;
};
void cxl_blob_put(const struct cxl_blob *b, uint8_t blob[CXL_BLOB_LEN]);
/* A stranger's bytes against our pool.  0; -EPROTO: no blob, or one of another pool, or out of bounds */
int cxl_blob_get(const void *bytes, size_t len, const struct cxl_geometry *g, struct cxl_blob *ret);

/* The first message in each direction: which pool this end has. */
#define CXL_HELLO_LEN 24u
void cxl_hello_put(const uint8_t uuid[CXL_UUID_LEN], uint8_t hello[CXL_HELLO_LEN]);
/* 0; -EPROTO: no hello */
int cxl_hello_get(const void *bytes, size_t len, uint8_t ret_uuid[CXL_UUID_LEN]);

#endif
