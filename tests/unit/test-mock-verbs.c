/* SPDX-License-Identifier: Apache-2.0 */
/* The mock verbs library keeps to what real devices do: tests of the rdma transport lean on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <infiniband/verbs.h>

#include "mock-verbs.h"

#define LEN 65536u
#define DEPTH 8u
#define PSN_A 0x123456u
#define PSN_B 0x654321u
#define BOUND_NS UINT64_C(10000000000)

/* One end. */
struct end {
	struct ibv_context *ctx;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	unsigned char *mem;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct ibv_context *open_named(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *ctx = NULL;

	assert_non_null(list);
	for (int i = 0; list[i] && !ctx; i++)
		if (strcmp(ibv_get_device_name(list[i]), name) == 0)
			ctx = ibv_open_device(list[i]);
	ibv_free_device_list(list);
	return ctx;
}

static void end_open(struct end *e, const char *name, int cqe)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC };

	memset(e, 0, sizeof *e);
	e->ctx = open_named(name);
	assert_non_null(e->ctx);
	e->pd = ibv_alloc_pd(e->ctx);
	e->channel = ibv_create_comp_channel(e->ctx);
	e->cq = ibv_create_cq(e->ctx, cqe, NULL, e->channel, 0);
	e->mem = aligned_alloc(4096, LEN);
	memset(e->mem, 0, LEN);
	e->mr = ibv_reg_mr(e->pd, e->mem, LEN, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ |
						       IBV_ACCESS_REMOTE_WRITE);
	assert_non_null(e->mr);
	init.send_cq = init.recv_cq = e->cq;
	init.cap = (struct ibv_qp_cap){ .max_send_wr = DEPTH, .max_recv_wr = 4, .max_send_sge = 4,
					.max_recv_sge = 1, .max_inline_data = 64 };
	e->qp = ibv_create_qp(e->pd, &init);
	assert_non_null(e->qp);
}

static void end_close(struct end *e)
{
	if (e->qp)
		assert_int_equal(ibv_destroy_qp(e->qp), 0);
	assert_int_equal(ibv_dereg_mr(e->mr), 0);
	assert_int_equal(ibv_destroy_cq(e->cq), 0);
	assert_int_equal(ibv_destroy_comp_channel(e->channel), 0);
	assert_int_equal(ibv_dealloc_pd(e->pd), 0);
	assert_int_equal(ibv_close_device(e->ctx), 0);
	free(e->mem);
}

static int to_init(struct end *e)
{
	struct ibv_qp_attr a = { .qp_state = IBV_QPS_INIT, .port_num = 1,
				 .qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE };

	return ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

struct far {
	uint32_t qpn;
	union ibv_gid gid;
	uint16_t lid;
};

static int to_rtr(struct end *e, const struct far *far, uint32_t psn)
{
	struct ibv_port_attr port;
	struct ibv_qp_attr a = { .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_1024, .dest_qp_num = far->qpn,
				 .rq_psn = psn, .max_dest_rd_atomic = 4, .min_rnr_timer = 12 };

	assert_int_equal(ibv_query_port(e->ctx, 1, &port), 0);
	a.ah_attr.port_num = 1;
	a.ah_attr.dlid = far->lid;
	a.ah_attr.is_global = port.link_layer == IBV_LINK_LAYER_ETHERNET;
	a.ah_attr.grh = (struct ibv_global_route){ .dgid = far->gid, .sgid_index = 3, .hop_limit = 64 };
	return ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			     IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

static int to_rts(struct end *e, uint32_t psn, uint8_t timeout, uint8_t retry_cnt)
{
	struct ibv_qp_attr a = { .qp_state = IBV_QPS_RTS, .timeout = timeout, .retry_cnt = retry_cnt,
				 .rnr_retry = 7, .sq_psn = psn, .max_rd_atomic = 4 };

	return ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
			     IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

static struct far far_of(struct end *e)
{
	struct far far = { .qpn = e->qp->qp_num };
	struct ibv_port_attr port;

	assert_int_equal(ibv_query_port(e->ctx, 1, &port), 0);
	far.lid = port.lid;
	if (port.link_layer == IBV_LINK_LAYER_ETHERNET)
		assert_int_equal(ibv_query_gid(e->ctx, 1, 3, &far.gid), 0);
	return far;
}

static void pair_open(struct end *a, struct end *b, uint8_t retry_cnt)
{
	struct far fa, fb;

	end_open(a, "mock0", 64);
	end_open(b, "mock1", 64);
	fa = far_of(a);
	fb = far_of(b);
	assert_int_equal(to_init(a), 0);
	assert_int_equal(to_init(b), 0);
	assert_int_equal(to_rtr(a, &fb, PSN_B), 0);
	assert_int_equal(to_rtr(b, &fa, PSN_A), 0);
	assert_int_equal(to_rts(a, PSN_A, 12, retry_cnt), 0);
	assert_int_equal(to_rts(b, PSN_B, 12, retry_cnt), 0);
}

static void pair_close(struct end *a, struct end *b)
{
	end_close(a);
	end_close(b);
}

/* A request over `nr` pieces of len / nr bytes. */
static int post(struct end *e, enum ibv_wr_opcode opcode, uint64_t id, uint32_t len, int nr, uint64_t addr,
		uint32_t rkey, unsigned flags)
{
	struct ibv_sge sges[4];
	struct ibv_send_wr *bad, wr = { .wr_id = id, .sg_list = sges, .num_sge = nr, .opcode = opcode,
					.send_flags = flags };

	wr.wr.rdma.remote_addr = addr;
	wr.wr.rdma.rkey = rkey;
	for (int i = 0; i < nr; i++)
		sges[i] = (struct ibv_sge){ (uintptr_t)e->mem + (uint64_t)i * (len / (unsigned)nr),
					    len / (unsigned)nr, e->mr->lkey };
	return ibv_post_send(e->qp, &wr, &bad);
}

static int post_to(struct end *a, struct end *b, enum ibv_wr_opcode opcode, uint64_t id, uint32_t len)
{
	return post(a, opcode, id, len, len ? 1 : 0, (uintptr_t)b->mem, b->mr->rkey, IBV_SEND_SIGNALED);
}

static struct ibv_wc wait_wc(struct end *e)
{
	uint64_t end = now_ns() + BOUND_NS;
	struct ibv_wc wc;
	int n;

	while ((n = ibv_poll_cq(e->cq, 1, &wc)) == 0 && now_ns() < end)
		usleep(50);
	assert_int_equal(n, 1);
	return wc;
}

static void expect(struct end *e, uint64_t id, enum ibv_wc_status status)
{
	struct ibv_wc wc = wait_wc(e);

	assert_int_equal(wc.wr_id, id);
	assert_int_equal(wc.status, status);
}

static void quiet_for(struct end *e, unsigned ms)
{
	struct ibv_wc wc;

	usleep(ms * 1000);
	assert_int_equal(ibv_poll_cq(e->cq, 1, &wc), 0);
}

static struct ibv_async_event wait_event(struct end *e, enum ibv_event_type type)
{
	struct pollfd p = { .fd = e->ctx->async_fd, .events = POLLIN };
	struct ibv_async_event event;

	assert_int_equal(poll(&p, 1, (int)(BOUND_NS / 1000000)), 1);
	assert_int_equal(ibv_get_async_event(e->ctx, &event), 0);
	assert_int_equal(event.event_type, type);
	return event;
}

static enum ibv_qp_state state_of(struct end *e)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr a;

	assert_int_equal(ibv_query_qp(e->qp, &a, IBV_QP_STATE, &init), 0);
	return a.qp_state;
}

/* ---- bytes --------------------------------------------------------------------------------------------- */

static void moves_bytes(void **state)
{
	struct end a, b;

	pair_open(&a, &b, 3);
	for (int nr = 1; nr <= 4; nr++) {
		for (uint32_t i = 0; i < LEN; i++) {
			a.mem[i] = (unsigned char)(i * 7 + (unsigned)nr);
			b.mem[i] = 0;
		}
		assert_int_equal(post(&a, IBV_WR_RDMA_WRITE, 1, 32768, nr, (uintptr_t)b.mem + 100, b.mr->rkey,
				      IBV_SEND_SIGNALED), 0);
		expect(&a, 1, IBV_WC_SUCCESS);
		assert_memory_equal(b.mem + 100, a.mem, 32768 / (unsigned)nr * (unsigned)nr);
		memset(a.mem, 0, LEN);
		assert_int_equal(post(&a, IBV_WR_RDMA_READ, 2, 32768, nr, (uintptr_t)b.mem + 100, b.mr->rkey,
				      IBV_SEND_SIGNALED), 0);
		expect(&a, 2, IBV_WC_SUCCESS);
		assert_memory_equal(b.mem + 100, a.mem, 32768 / (unsigned)nr * (unsigned)nr);
	}
	/* Nothing to move: no key is looked at. */
	assert_int_equal(post(&a, IBV_WR_RDMA_WRITE, 3, 0, 0, 0, 0, IBV_SEND_SIGNALED), 0);
	expect(&a, 3, IBV_WC_SUCCESS);
	pair_close(&a, &b);
}

static void inlines_at_once(void **state)
{
	struct end a, b;

	pair_open(&a, &b, 3);
	mock_verbs_fault("mock0", "delay", 20000);
	memset(a.mem, 'x', 64);
	assert_int_equal(post(&a, IBV_WR_RDMA_WRITE, 1, 64, 1, (uintptr_t)b.mem, b.mr->rkey,
			      IBV_SEND_SIGNALED | IBV_SEND_INLINE), 0);
	memset(a.mem, 'y', 64); /* it was taken */
	assert_int_equal(post(&a, IBV_WR_RDMA_WRITE, 1, 65, 1, (uintptr_t)b.mem, b.mr->rkey,
			      IBV_SEND_SIGNALED | IBV_SEND_INLINE), EINVAL);
	expect(&a, 1, IBV_WC_SUCCESS);
	assert_int_equal(b.mem[63], 'x');
	mock_verbs_fault("mock0", "delay", 0);
	pair_close(&a, &b);
}

/* Places of the send queue are free when a completion at or behind them was polled. */
static void counts_places(void **state)
{
	struct end a, b;

	pair_open(&a, &b, 3);
	for (unsigned i = 0; i < DEPTH - 1; i++)
		assert_int_equal(post(&a, IBV_WR_RDMA_WRITE, i, 64, 1, (uintptr_t)b.mem, b.mr->rkey, 0), 0);
	quiet_for(&a, 20); /* carried out and silent */
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 7, 64), 0);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 8, 64), ENOMEM);
	expect(&a, 7, IBV_WC_SUCCESS);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, i, 64), 0);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 8, 64), ENOMEM);
	for (unsigned i = 0; i < DEPTH; i++)
		expect(&a, i, IBV_WC_SUCCESS);
	pair_close(&a, &b);
}

/* ---- refusals and flushes ------------------------------------------------------------------------------- */

static void refuses(struct end *a, struct end *b, enum ibv_wr_opcode opcode, uint64_t addr, uint32_t rkey)
{
	struct ibv_async_event event;
	struct ibv_recv_wr *bad, recv = { .wr_id = 77 };

	assert_int_equal(ibv_post_recv(b->qp, &recv, &bad), 0);
	assert_int_equal(post(a, opcode, 1, 64, 1, addr, rkey, 0), 0);
	assert_int_equal(post(a, opcode, 2, 64, 1, (uintptr_t)b->mem, b->mr->rkey, 0), 0);
	expect(a, 1, IBV_WC_REM_ACCESS_ERR);
	expect(a, 2, IBV_WC_WR_FLUSH_ERR);
	assert_int_equal(state_of(a), IBV_QPS_ERR);
	expect(b, 77, IBV_WC_WR_FLUSH_ERR);
	assert_int_equal(state_of(b), IBV_QPS_ERR);
	event = wait_event(b, IBV_EVENT_QP_ACCESS_ERR);
	assert_ptr_equal(event.element.qp, b->qp);
	ibv_ack_async_event(&event);
	/* What is posted now ends at once. */
	assert_int_equal(post(a, opcode, 3, 64, 1, (uintptr_t)b->mem, b->mr->rkey, 0), 0);
	expect(a, 3, IBV_WC_WR_FLUSH_ERR);
	recv.wr_id = 78;
	assert_int_equal(ibv_post_recv(b->qp, &recv, &bad), 0);
	expect(b, 78, IBV_WC_WR_FLUSH_ERR);
}

static void checks_keys(void **state)
{
	for (int i = 0; i < 5; i++) {
		struct ibv_mr *mr = NULL;
		struct end a, b;
		uint64_t addr;
		uint32_t key;

		pair_open(&a, &b, 3);
		addr = (uintptr_t)b.mem;
		key = b.mr->rkey;
		if (i == 3)
			mr = ibv_reg_mr(b.pd, b.mem, LEN, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
		if (i == 4) {
			mr = ibv_reg_mr(b.pd, b.mem, LEN, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
			key = mr->rkey;
			ibv_dereg_mr(mr);
			mr = NULL;
		}
		refuses(&a, &b, i == 0 ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
			i == 1 ? addr + LEN - 63 : i == 2 ? addr - 1 : addr, i == 0 ? key ^ 0x4000 : mr ? mr->rkey : key);
		if (mr)
			ibv_dereg_mr(mr);
		pair_close(&a, &b);
	}
}

static void wants_attributes(void **state)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1 };
	struct end a, b;
	struct far fb;

	end_open(&a, "mock0", 64);
	end_open(&b, "mock1", 64);
	fb = far_of(&b);
	assert_int_equal(ibv_modify_qp(a.qp, &attr, IBV_QP_STATE | IBV_QP_PORT), EINVAL);
	assert_int_equal(to_rtr(&a, &fb, 1), EINVAL);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 64), EINVAL);
	assert_int_equal(to_init(&a), 0);
	assert_int_equal(to_rts(&a, 1, 12, 3), EINVAL);
	assert_int_equal(to_rtr(&a, &fb, 0x1000000), EINVAL);
	assert_int_equal(to_rtr(&a, &fb, 1), 0);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 64), EINVAL);
	assert_int_equal(to_rts(&a, 1, 12, 8), EINVAL);
	assert_int_equal(to_rts(&a, 1, 12, 3), 0);
	attr.qp_state = IBV_QPS_ERR;
	assert_int_equal(ibv_modify_qp(a.qp, &attr, IBV_QP_STATE), 0);
	pair_close(&a, &b);
}

static void overruns(void **state)
{
	struct ibv_async_event event;
	struct end a, b;
	struct far fb;

	end_open(&a, "mock0", 4);
	end_open(&b, "mock1", 64);
	fb = far_of(&b);
	assert_int_equal(to_init(&a), 0);
	assert_int_equal(to_rtr(&a, &fb, 1), 0);
	assert_int_equal(to_rts(&a, 1, 8, 0), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, i, 64), 0);
	event = wait_event(&a, IBV_EVENT_CQ_ERR);
	assert_ptr_equal(event.element.cq, a.cq);
	ibv_ack_async_event(&event);
	pair_close(&a, &b);
}

/* ---- nobody answers ------------------------------------------------------------------------------------------ */

static void gives_up(struct end *a, struct end *b)
{
	uint64_t since = now_ns();

	assert_int_equal(post(a, IBV_WR_RDMA_WRITE, 1, 64, 1, (uintptr_t)b->mem, b->mr->rkey, 0), 0);
	assert_int_equal(post_to(a, b, IBV_WR_RDMA_WRITE, 2, 64), 0);
	expect(a, 1, IBV_WC_RETRY_EXC_ERR);
	expect(a, 2, IBV_WC_WR_FLUSH_ERR);
	/* 4.096 us * 2^12, four times. */
	assert_true(now_ns() - since >= UINT64_C(4) * 4096 * 4096);
}

static void retries_end(void **state)
{
	struct ibv_qp_attr err = { .qp_state = IBV_QPS_ERR };
	struct end a, b;

	for (int i = 0; i < 4; i++) {
		pair_open(&a, &b, 3);
		if (i == 0)
			assert_int_equal(ibv_modify_qp(b.qp, &err, IBV_QP_STATE), 0);
		if (i == 1) {
			assert_int_equal(ibv_destroy_qp(b.qp), 0);
			b.qp = NULL;
		}
		if (i == 2)
			mock_verbs_fault("mock1", "cut", 1);
		if (i == 3)
			mock_verbs_fault("mock0", "down", 1);
		gives_up(&a, &b);
		mock_verbs_fault("mock1", "cut", 0);
		mock_verbs_fault("mock0", "down", 0);
		pair_close(&a, &b);
	}
	/* 7 is for ever, and what comes back carries on. */
	pair_open(&a, &b, 7);
	mock_verbs_fault("mock1", "cut", 1);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 64), 0);
	quiet_for(&a, 300);
	mock_verbs_fault("mock1", "cut", 0);
	expect(&a, 1, IBV_WC_SUCCESS);
	pair_close(&a, &b);
}

static void silence_lasts(void **state)
{
	struct end a, b;

	pair_open(&a, &b, 0);
	mock_verbs_fault("mock0", "silent", 1);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 64), 0);
	quiet_for(&a, 200);
	mock_verbs_fault("mock0", "silent", 0);
	expect(&a, 1, IBV_WC_SUCCESS);
	pair_close(&a, &b);
}

/* Packets of a connection are known by its numbers; large ones may not get through. */
static void packets_are_known(void **state)
{
	struct end a, b;
	struct far fa, fb;

	for (int i = 0; i < 3; i++) {
		end_open(&a, "mock0", 64);
		end_open(&b, i == 2 ? "narrow" : "mock1", 64);
		fa = far_of(&a);
		fb = far_of(&b);
		if (i == 1)
			fb.gid.raw[15] ^= 0x40;
		assert_int_equal(to_init(&a) | to_init(&b), 0);
		assert_int_equal(to_rtr(&a, &fb, PSN_B) | to_rtr(&b, &fa, i == 0 ? PSN_A + 1 : PSN_A), 0);
		assert_int_equal(to_rts(&a, PSN_A, 8, 0), 0);
		if (i == 2) {
			assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 256), 0);
			expect(&a, 1, IBV_WC_SUCCESS);
		}
		assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 2, 4096), 0);
		expect(&a, 2, IBV_WC_RETRY_EXC_ERR);
		pair_close(&a, &b);
	}
}

/* ---- events, faults ------------------------------------------------------------------------------------------- */

static void announces(void **state)
{
	struct pollfd p;
	struct end a, b;
	struct ibv_cq *cq;
	void *ctx;

	pair_open(&a, &b, 3);
	p = (struct pollfd){ .fd = a.channel->fd, .events = POLLIN };
	fcntl(a.channel->fd, F_SETFL, O_NONBLOCK);
	assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, 1, 64), 0);
	expect(&a, 1, IBV_WC_SUCCESS);
	assert_int_equal(ibv_get_cq_event(a.channel, &cq, &ctx), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(ibv_req_notify_cq(a.cq, 0), 0);
	for (uint64_t i = 2; i < 4; i++)
		assert_int_equal(post_to(&a, &b, IBV_WR_RDMA_WRITE, i, 64), 0);
	assert_int_equal(poll(&p, 1, 10000), 1);
	expect(&a, 2, IBV_WC_SUCCESS);
	expect(&a, 3, IBV_WC_SUCCESS);
	assert_int_equal(ibv_get_cq_event(a.channel, &cq, &ctx), 0);
	assert_ptr_equal(cq, a.cq);
	assert_int_equal(ibv_get_cq_event(a.channel, &cq, &ctx), -1);
	ibv_ack_cq_events(a.cq, 1);
	pair_close(&a, &b);
}

static void faults_show(void **state)
{
	struct ibv_async_event event;
	struct ibv_port_attr port;
	union ibv_gid before, after;
	struct end a;

	end_open(&a, "mock0", 64);
	mock_verbs_fault("mock0", "down", 1);
	event = wait_event(&a, IBV_EVENT_PORT_ERR);
	ibv_ack_async_event(&event);
	assert_int_equal(ibv_query_port(a.ctx, 1, &port), 0);
	assert_int_equal(port.state, IBV_PORT_DOWN);
	mock_verbs_fault("mock0", "down", 0);
	event = wait_event(&a, IBV_EVENT_PORT_ACTIVE);
	ibv_ack_async_event(&event);
	assert_int_equal(ibv_query_gid(a.ctx, 1, 3, &before), 0);
	mock_verbs_fault("mock0", "gid_change", 5);
	event = wait_event(&a, IBV_EVENT_GID_CHANGE);
	ibv_ack_async_event(&event);
	assert_int_equal(ibv_query_gid(a.ctx, 1, 3, &after), 0);
	assert_int_equal(after.raw[15], before.raw[15] + 5);
	mock_verbs_fault("mock0", "gid_change", 0);
	mock_verbs_fault("mock0", "reg_errno", ENOMEM);
	assert_null(ibv_reg_mr(a.pd, a.mem, LEN, IBV_ACCESS_LOCAL_WRITE));
	assert_int_equal(errno, ENOMEM);
	mock_verbs_fault("mock0", "reg_errno", 0);
	mock_verbs_fault("mock0", "gone", 1);
	assert_int_equal(ibv_query_port(a.ctx, 1, &port), ENODEV);
	assert_null(open_named("mock0"));
	mock_verbs_fault("mock0", "gone", 0);
	end_close(&a);
}

static void pins(void **state)
{
	unsigned char *map = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ibv_mr *mr;
	struct end a;

	end_open(&a, "mock0", 64);
	mprotect(map + 4096, 4096, PROT_READ);
	assert_null(ibv_reg_mr(a.pd, map, 8192, IBV_ACCESS_LOCAL_WRITE));
	assert_int_equal(errno, EFAULT);
	mr = ibv_reg_mr(a.pd, map, 8192, IBV_ACCESS_REMOTE_READ);
	assert_non_null(mr);
	ibv_dereg_mr(mr);
	munmap(map + 4096, 4096);
	assert_null(ibv_reg_mr(a.pd, map, 3 * 4096, IBV_ACCESS_REMOTE_READ));
	assert_int_equal(errno, EFAULT);
	assert_null(ibv_reg_mr(a.pd, map, 64, IBV_ACCESS_REMOTE_WRITE));
	assert_int_equal(errno, EINVAL);
	munmap(map, 4096);
	munmap(map + 8192, 4096);
	end_close(&a);
}

/* ---- InfiniBand, another process ------------------------------------------------------------------------------ */

struct meeting {
	struct far a, b;
	uint64_t addr;
	uint32_t rkey;
};

static void serve(int fd)
{
	struct meeting m = { .addr = 0 };
	struct end b;

	alarm(60);
	end_open(&b, "ib1", 64);
	memset(b.mem, 'b', LEN);
	m.b = far_of(&b);
	m.addr = (uintptr_t)b.mem;
	m.rkey = b.mr->rkey;
	if (write(fd, &m, sizeof m) != sizeof m || read(fd, &m, sizeof m) != sizeof m || to_init(&b) ||
	    to_rtr(&b, &m.a, PSN_A) || write(fd, &m, sizeof m) != sizeof m)
		_exit(1);
	pause();
}

static void other_process(void **state)
{
	struct meeting m;
	struct end a;
	int fds[2];
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
	pid = fork();
	if (pid == 0) {
		serve(fds[1]);
		_exit(1);
	}
	end_open(&a, "ib0", 64);
	assert_int_equal(read(fds[0], &m, sizeof m), sizeof m);
	m.a = far_of(&a);
	assert_int_equal(write(fds[0], &m, sizeof m), sizeof m);
	assert_int_equal(to_init(&a) | to_rtr(&a, &m.b, PSN_B) | to_rts(&a, PSN_A, 12, 3), 0);
	assert_int_equal(read(fds[0], &m, sizeof m), sizeof m);
	/* A process that is stopped serves all the same. */
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	assert_int_equal(post(&a, IBV_WR_RDMA_READ, 1, LEN, 4, m.addr, m.rkey, IBV_SEND_SIGNALED), 0);
	expect(&a, 1, IBV_WC_SUCCESS);
	assert_int_equal(a.mem[LEN - 1], 'b');
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(post(&a, IBV_WR_RDMA_READ, 2, LEN, 1, m.addr, m.rkey, IBV_SEND_SIGNALED), 0);
	expect(&a, 2, IBV_WC_RETRY_EXC_ERR);
	close(fds[0]);
	close(fds[1]);
	end_close(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_process),
		cmocka_unit_test(moves_bytes),
		cmocka_unit_test(inlines_at_once),
		cmocka_unit_test(counts_places),
		cmocka_unit_test(checks_keys),
		cmocka_unit_test(wants_attributes),
		cmocka_unit_test(overruns),
		cmocka_unit_test(retries_end),
		cmocka_unit_test(silence_lasts),
		cmocka_unit_test(packets_are_known),
		cmocka_unit_test(announces),
		cmocka_unit_test(faults_show),
		cmocka_unit_test(pins),
	};

	setenv("MOCK_VERBS", "mock0 mock1 narrow:wire_mtu=512 ib0:ll=ib ib1:ll=ib", 1);
	unsetenv("MOCK_VERBS_DIR");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
