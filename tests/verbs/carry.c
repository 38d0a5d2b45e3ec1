/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carrying out one request, as the two devices and the wire between them would: is the other end
 * there, do path and connection agree, do keys, bounds and rights; then the bytes, a part at a time.
 */
#include "mock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define MESSAGE_MAX (UINT64_C(1) << 30)

/* ---- the own end --------------------------------------------------------------------------------------- */

static bool region_allows(const struct shared_mr *mr, uint32_t key, uint32_t pd, uint64_t addr, uint64_t len,
			  unsigned access)
{
	return key && mr->key == key && mr->pd == pd && (mr->access & access) == access &&
	       mc_range_inside(mr->addr, mr->len, addr, len);
}

/* Only this process changes its regions, and under big. */
static bool local_ok(const struct mock_qp *qp, const struct mock_wqe *wqe)
{
	unsigned access = wqe->wr.opcode == IBV_WR_RDMA_READ ? IBV_ACCESS_LOCAL_WRITE : 0;

	for (int i = 0; i < wqe->wr.num_sge && !wqe->data; i++) {
		const struct ibv_sge *s = &wqe->sges[i];

		if (s->length && !region_allows(&proc.host->mrs[s->lkey % MRS], s->lkey, qp->qp.pd->handle, s->addr,
						s->length, access))
			return false;
	}
	return true;
}

/* ---- the wire -------------------------------------------------------------------------------------------- */

static bool has_gid(const struct shared_dev *dev, const unsigned char *raw, uint32_t type)
{
	for (uint32_t i = 0; i < dev->nr_gids; i++) {
		struct shared_gid gid;

		dev_gid(dev, i, &gid);
		if (gid.type == type && !gid.nowhere && memcmp(gid.raw, raw, sizeof gid.raw) == 0)
			return true;
	}
	return false;
}

static bool path_leads_to(const struct mock_qp *qp, const struct shared_dev *far)
{
	const struct shared_dev *own = qp->ctx->dev;
	const struct ibv_ah_attr *ah = &qp->attr.ah_attr;
	struct shared_gid sgid;

	if (own->infiniband != far->infiniband || (own->infiniband && ah->dlid != far->set[S_LID]))
		return false;
	if (!ah->is_global)
		return true;
	dev_gid(own, ah->grh.sgid_index, &sgid);
	return !sgid.nowhere && has_gid(far, ah->grh.dgid.raw, sgid.type);
}

/* Does what this end sends arrive, and the answer too?  Under the other host's lock. */
static bool answers(const struct mock_qp *qp, const struct mock_wqe *wqe, uint32_t dest,
		    const struct shared_qp *far, const struct shared_dev *far_dev)
{
	const struct shared_dev *own = qp->ctx->dev;
	uint32_t state = atomic_load(&far->state);
	int64_t wire = MC_MIN(own->set[S_WIRE_MTU], far_dev->set[S_WIRE_MTU]);

	if (dev_fault(own, F_DOWN) || dev_fault(own, F_CUT) || dev_fault(far_dev, F_DOWN) ||
	    dev_fault(far_dev, F_CUT) || dev_fault(far_dev, F_SILENT) || dev_fault(far_dev, F_GONE) ||
	    dev_fault(far_dev, F_FATAL))
		return false;
	if (far->number != dest || (state != IBV_QPS_RTR && state != IBV_QPS_RTS))
		return false;
	if (far->dest != qp->qp.qp_num || far->rq_psn != qp->attr.sq_psn)
		return false;
	if (128 << qp->attr.path_mtu > wire && (int64_t)wqe->len > wire)
		return false;
	return path_leads_to(qp, far_dev);
}

/* ---- the bytes --------------------------------------------------------------------------------------------- */

/* Where the bytes are that a region's address names. */
static uintptr_t place(const struct host *host, uint32_t key, uint64_t addr)
{
	return (uintptr_t)(addr + host->mrs[key % MRS].shift);
}

/* The own side's pieces of [done, done + len). */
static int pieces(struct mock_wqe *wqe, uint64_t len, struct iovec iov[SGES])
{
	uint64_t skip = wqe->done;
	int nr = 0;

	if (wqe->data) {
		iov[0] = (struct iovec){ wqe->data + skip, len };
		return 1;
	}
	for (int i = 0; i < wqe->wr.num_sge && len; i++) {
		const struct ibv_sge *s = &wqe->sges[i];
		uint64_t n = s->length > skip ? MC_MIN(s->length - skip, len) : 0;

		if (n)
			iov[nr++] = (struct iovec){ (void *)place(proc.host, s->lkey, s->addr + skip), n };
		skip -= MC_MIN(skip, s->length);
		len -= n;
	}
	return nr;
}

/* Inside of a process sanitizers shall see what is touched. */
static void copy_here(const struct iovec *iov, int nr, unsigned char *far, bool read)
{
	for (int i = 0; i < nr; far += iov[i++].iov_len) {
		if (read)
			memcpy(iov[i].iov_base, far, iov[i].iov_len);
		else
			memcpy(far, iov[i].iov_base, iov[i].iov_len);
	}
}

static int copy(struct mock_wqe *wqe, struct host *host, uint64_t len)
{
	bool read = wqe->wr.opcode == IBV_WR_RDMA_READ;
	pid_t pid = (pid_t)atomic_load(&host->pid);
	struct iovec iov[SGES], far = { (void *)place(host, wqe->wr.wr.rdma.rkey, wqe->wr.wr.rdma.remote_addr + wqe->done),
				       len };
	int nr = pieces(wqe, len, iov);
	ssize_t n;

	if (pid == proc.pid) {
		copy_here(iov, nr, far.iov_base, read);
		return IBV_WC_SUCCESS;
	}
	n = read ? process_vm_readv(pid, iov, (unsigned long)nr, &far, 1, 0) :
		   process_vm_writev(pid, iov, (unsigned long)nr, &far, 1, 0);
	if (n == (ssize_t)len)
		return IBV_WC_SUCCESS;
	if (n < 0 && errno == EPERM) {
		perror("mock verbs: process_vm_writev");
		abort();
	}
	return n < 0 && errno == ESRCH ? CARRY_LATER : IBV_WC_REM_OP_ERR;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static int refuse(struct host *host, struct shared_qp *far)
{
	far->refused = 1;
	atomic_store(&far->state, IBV_QPS_ERR);
	host_ring(host);
	return IBV_WC_REM_ACCESS_ERR;
}

/* Under the other host's lock. */
static int carry_to(struct mock_qp *qp, struct mock_wqe *wqe, struct host *host)
{
	uint32_t dest = qp->attr.dest_qp_num, key = wqe->wr.wr.rdma.rkey;
	struct shared_qp *far = &host->qps[dest % QPS];
	struct shared_dev *far_dev = &fabric_get()->devs[far->dev];
	bool read = wqe->wr.opcode == IBV_WR_RDMA_READ;
	unsigned access = read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
	uint64_t len = MC_MIN(wqe->len - wqe->done, STEP);
	int r;

	if (!answers(qp, wqe, dest, far, far_dev))
		return CARRY_LATER;
	if (far->mtu != 128u << qp->attr.path_mtu || (read && !far->max_dest_reads))
		return IBV_WC_REM_INV_REQ_ERR;
	if (!wqe->len)
		return IBV_WC_SUCCESS;
	if (!(far->access & access) ||
	    !region_allows(&host->mrs[key % MRS], key, far->pd, wqe->wr.wr.rdma.remote_addr, wqe->len, access))
		return refuse(host, far);
	r = copy(wqe, host, len);
	if (r != IBV_WC_SUCCESS)
		return r;
	dev_count(qp->ctx->dev, N_BYTES, (int64_t)len);
	wqe->done += len;
	return wqe->done < wqe->len ? CARRY_MORE : IBV_WC_SUCCESS;
}

int carry(struct mock_qp *qp, struct mock_wqe *wqe)
{
	struct host *host = &fabric_get()->hosts[qp->attr.dest_qp_num >> 18];
	int r;

	if (wqe->len > MESSAGE_MAX)
		return IBV_WC_LOC_LEN_ERR;
	if (!local_ok(qp, wqe))
		return IBV_WC_LOC_PROT_ERR;
	if (wqe->wr.opcode == IBV_WR_RDMA_READ && !qp->attr.max_rd_atomic)
		return IBV_WC_LOC_QP_OP_ERR;
	if (!atomic_load(&host->pid))
		return CARRY_LATER;
	if (!shared_trylock(&host->lock))
		return CARRY_BUSY;
	r = carry_to(qp, wqe, host);
	pthread_mutex_unlock(&host->lock);
	return r;
}
