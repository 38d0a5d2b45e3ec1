/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the rpc service "p2p".  Little-endian, fixed layout:
 *
 *   every request   0 u32 format, 1 · 4 u32 count · 8 hash of the name[16] · 24 root[16]
 *   GRANT           40 u32 candidates[count], 1 <= count <= 16
 *   DONE            count: enum mc_p2p_end · 40 u64 slot
 *   DROP            count: 0
 *   KEEP            count: 0: the slots of this getter go on
 *   answer to GRANT 0 u64 slot · 8 u64 rate, bytes/s, 0: no cap · 16 u32 shard · 20 u32 retry_ms, not 0: no slot
 */
#ifndef MC_P2P_WIRE_H
#define MC_P2P_WIRE_H

#include "p2p_block.h"
#include "p2p_serve.h"

#define MC_P2P_SERVICE "p2p"
#define MC_P2P_REQUEST_MAX (40 + 4 * MC_P2P_CANDIDATES)
#define MC_P2P_ANSWER_LEN 24

enum mc_p2p_method { MC_P2P_GRANT = 1, MC_P2P_DONE_WITH = 2, MC_P2P_DROP = 3, MC_P2P_KEEP = 4, MC_P2P_LEAVE = 5 };

struct mc_p2p_request {
	struct mc_p2p_hash object, root;
	uint32_t count; /* candidates, or how a slot ended */
	uint32_t candidates[MC_P2P_CANDIDATES];
	uint64_t slot;
};

struct mc_p2p_answer {
	uint64_t slot, rate;
	uint32_t shard, retry_ms;
};

size_t mc_p2p_request_put(uint32_t method, const struct mc_p2p_request *request, uint8_t to[MC_P2P_REQUEST_MAX]);
/* 0; -EPROTONOSUPPORT: another format; -EBADMSG. */
int mc_p2p_request_parse(uint32_t method, const void *from, size_t len, struct mc_p2p_request *ret);
void mc_p2p_answer_put(const struct mc_p2p_answer *answer, uint8_t to[MC_P2P_ANSWER_LEN]);
int mc_p2p_answer_parse(const void *from, size_t len, struct mc_p2p_answer *ret);

#endif
