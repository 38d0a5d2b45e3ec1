/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests may ask of the mock verbs library beyond <infiniband/verbs.h>.  Programs that do not
 * link it find the functions by dlsym.
 *
 * The library stands in for libibverbs.so.1 (LD_LIBRARY_PATH) where there is no RDMA device.  The
 * devices of a process:
 *
 *   MOCK_VERBS="mock0 mock1:ll=ib,mtu=1024,gids=v2/10.0.0.1+v2/fe80::1"
 *   MOCK_VERBS_DIR=DIR   a folder that the test makes: processes with the same one reach each other.
 *                        Without it only a process and those that it forks do
 *
 * Settings of a device, of which a bool is 0 or 1:
 *   ll=ib|eth    link layer                 mtu=N        path MTU that the port has (256..4096)
 *   gids=A+B     TYPE/ADDRESS each, of ib, v1, v2; a '!' behind it: reaches nobody
 *   wire_mtu=N   larger packets are lost    lid=N        of an InfiniBand port
 *   sync=1       requests are carried out by the thread that posts them, so nobody waits for the
 *                engine: what is left to count is the program's own work
 *   dmabuf=1     ibv_reg_dmabuf_mr works, for what mmap takes, from the file's position on
 *   peermem=1    ibv_reg_mr takes memory of the fake CUDA driver (tests/cuda), as with nvidia_peermem
 *   inline=N  max_wr=N  max_sge=N  max_cqe=N  max_qp=N  max_mr=N  max_mr_size=N  rd_atomic=N
 * and every fault below.  Without gids, device number n of the fabric has fe80::77:n and
 * 127.77.0.n (both RoCE v1 and v2), or one InfiniBand GID.
 *
 * Faults are a device's, in every process of the fabric, and last until they are set to 0:
 *   down=1           the port is down: PORT_ERR, requests are not answered; 0: PORT_ACTIVE
 *   cut=1            nothing that this device sends or is sent arrives; no event
 *   silent=1         as cut, but no timeout ever runs out either
 *   gone=1           every call answers ENODEV, and as silent
 *   fatal=1          DEVICE_FATAL, all queue pairs in ERR
 *   gid_change=N     N is added to the last byte of each GID; GID_CHANGE
 *   no_flush=1       what is outstanding when a queue pair goes to ERR never completes
 *   delay=US         each request waits so long before it is carried out
 *   slow_destroy=MS  ibv_destroy_qp takes so long
 *   reg_errno=E      ibv_reg_mr fails with E
 *   reg_after=N      ... from the N-th registration on, counted from now
 *   qp_errno=E       ibv_create_qp fails with E
 *   none=0           ends all of them
 */
#ifndef MC_MOCK_VERBS_H
#define MC_MOCK_VERBS_H

#include <stdint.h>

/* 0, or -ENOENT: no such device or fault.  [any thread] */
int mock_verbs_fault(const char *device, const char *fault, int64_t value);
typedef int mock_verbs_fault_fn(const char *device, const char *fault, int64_t value);

/* What all processes of the fabric have done with the device so far, or have now:
 * posts, requests, signalled, inlined, polls, completions, bytes, events; qps, mrs, cqs.
 * -ENOENT: no such device or name. */
int64_t mock_verbs_stat(const char *device, const char *name);
typedef int64_t mock_verbs_stat_fn(const char *device, const char *name);

#endif
