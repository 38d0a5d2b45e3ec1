/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verbs: the options that every transport over verbs has.  A plugin's table begins with RDMA_OPTIONS,
 * in the order of the enum; its own follow.
 */
#ifndef MC_RDMA_OPTIONS_H
#define MC_RDMA_OPTIONS_H

#include "rdma.h"

enum { RDMA_OPT_GID_INDEX, RDMA_OPT_PORT, RDMA_OPT_PKEY_INDEX, RDMA_OPT_TRAFFIC_CLASS, RDMA_OPT_SERVICE_LEVEL,
       RDMA_OPT_MTU, RDMA_OPT_QPS_PER_PEER, RDMA_OPT_MAX_WR, RDMA_OPT_MAX_INLINE, RDMA_OPT_MAX_CQE,
       RDMA_OPT_MAX_ENDPOINTS, RDMA_OPT_MAX_MR_SIZE, RDMA_OPT_PREF_SLICE, RDMA_OPT_ACK_RETRIES, RDMA_OPT_TIMEOUT,
       RDMA_OPT_RELAXED_ORDERING, RDMA_OPT_SUSPECT, RDMA_OPT_LANES, RDMA_OPT_COUNT };

extern const char *const rdma_mtu_words[], *const rdma_relaxed_words[];

/* Two lanes send from two processors, where they must; the core reads that option. */
#define RDMA_OPTIONS \
	{ .name = "gid_index", .type = MC_OPT_INT, .flags = MC_OPT_AUTO, .def = "auto", .min = -1, .max = 65535, \
	  .env = "MC_GID_INDEX", .doc = "the port's GID to use; auto or -1: what reaches each peer" }, \
	{ .name = "port", .type = MC_OPT_INT, .def = "1", .min = 1, .max = 255, .env = "MC_IB_PORT", \
	  .doc = "port of the device" }, \
	{ .name = "pkey_index", .type = MC_OPT_INT, .def = "0", .min = 0, .max = 65535, .env = "MC_PKEY_INDEX", \
	  .doc = "place of the partition key in the port's table" }, \
	{ .name = "traffic_class", .type = MC_OPT_INT, .flags = MC_OPT_AUTO, .def = "auto", .min = -1, .max = 255, \
	  .env = "MC_IB_TC", .doc = "traffic class of what is sent (DSCP times 4 on RoCE v2); auto or -1: none" }, \
	{ .name = "service_level", .type = MC_OPT_INT, .flags = MC_OPT_AUTO, .def = "auto", .min = -1, .max = 15, \
	  .env = "MC_IB_SL", .doc = "service level; auto or -1: 0" }, \
	{ .name = "mtu", .type = MC_OPT_ENUM, .def = "4096", .choices = rdma_mtu_words, .env = "MC_MTU", \
	  .doc = "largest path MTU; the ports of both ends may lower it" }, \
	{ .name = "qps_per_peer", .type = MC_OPT_INT, .def = "2", .min = 1, .max = RDMA_QPS_MAX, \
	  .env = "MC_NUM_QP_PER_EP", .doc = "queue pairs per peer, divided among the lanes, one each at least" }, \
	{ .name = "max_wr", .type = MC_OPT_INT, .def = "256", .min = 4, .max = 65536, .env = "MC_MAX_WR", \
	  .doc = "requests in flight per queue pair" }, \
	{ .name = "max_inline", .type = MC_OPT_SIZE, .def = "64", .min = 0, .max = 4096, .env = "MC_MAX_INLINE", \
	  .doc = "writes up to this go inside their request" }, \
	{ .name = "max_cqe", .type = MC_OPT_INT, .def = "4096", .min = 64, .max = 4194304, .env = "MC_MAX_CQE_PER_CTX", \
	  .doc = "entries of a lane's completion queue: requests in flight to all peers" }, \
	{ .name = "max_endpoints", .type = MC_OPT_INT, .def = "1024", .min = 1, .max = 65536, \
	  .env = "MC_MAX_EP_PER_CTX", \
	  .doc = "connections at a time, divided among the lanes, of those we opened and of those that peers opened each" }, \
	{ .name = "max_mr_size", .type = MC_OPT_SIZE, .flags = MC_OPT_AUTO, .def = "auto", .min = 4096, \
	  .max = INT64_MAX, .env = "MC_MAX_MR_SIZE", \
	  .doc = "largest memory region; larger buffers become several; auto: what the device can" }, \
	{ .name = "pref_slice", .type = MC_OPT_SIZE, .def = "64KiB", .min = 4096, .max = 1 << 30, \
	  .doc = "size into which large requests are best cut" }, \
	{ .name = "ack_retries", .type = MC_OPT_INT, .def = "6", .min = 1, .max = 6, \
	  .doc = "how often the device sends a packet again that is not acknowledged" }, \
	{ .name = "timeout", .type = MC_OPT_INT, .flags = MC_OPT_AUTO, .def = "auto", .min = 1, .max = 22, \
	  .doc = "wait for an acknowledgement, 4.096 us * 2^n; auto: from peer_timeout" }, \
	{ .name = "relaxed_ordering", .type = MC_OPT_ENUM, .def = "off", .choices = rdma_relaxed_words, \
	  .env = "MC_IB_PCI_RELAXED_ORDERING", \
	  .doc = "relaxed PCI ordering, which costs a flush per batch; on and auto: where the device has it" }, \
	{ .name = "suspect", .type = MC_OPT_DURATION, .def = "1s", .min = 10 * (int64_t)MC_MSEC, \
	  .max = 60 * (int64_t)MC_SEC, .doc = "a queue pair without a completion for this long is given up" }, \
	{ .name = "lanes", .type = MC_OPT_INT, .def = "2", .min = 1, .max = 64, .doc = "workers per device" }

#endif
