/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the rdma transport's handshake messages.  What is accepted keeps its promises, says the
 * same after another trip over the wire, and gives pairs of GIDs that both tables have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transports/shared/verbs/rdma.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "fuzz-rdma-hello: %s\n", what);
	abort();
}

static int route(const struct rdma_gid *own, const struct rdma_gid *far, const char *device)
{
	return own->raw[15] % 3 == 2 ? -1 : own->raw[15] % 3;
}

static void check_text(const char *why)
{
	for (; *why; why++)
		if (*why < 0x20 || *why > 0x7e)
			die("a sentence that a terminal obeys");
}

static void check_pairs(const struct rdma_port *far)
{
	struct rdma_pair pairs[RDMA_PAIRS_MAX];
	struct rdma_port own = *far;
	char why[192] = "";
	size_t nr = rdma_gid_pairs(&own, far, "dev0", route, pairs, why, sizeof why);

	if (nr > RDMA_PAIRS_MAX || (!nr && !why[0]))
		die("no pair and no reason");
	for (size_t i = 0; i < nr; i++)
		if (pairs[i].own >= own.nr_gids || pairs[i].far >= far->nr_gids)
			die("a pair that is in no table");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1), buf[RDMA_HELLO_MAX];
	struct rdma_hello h, again;
	size_t len;

	if (!exact)
		return 0;
	if (size)
		memcpy(exact, data, size);
	if (rdma_hello_decode(exact, size, &h) == 0) {
		if (h.nr_qps > RDMA_QPS_MAX || h.port.nr_gids > RDMA_GIDS_MAX || strlen(h.why) >= sizeof h.why)
			die("a list that is too long");
		check_text(h.why);
		if (h.msg == RDMA_MSG_HELLO || h.msg == RDMA_MSG_ACCEPT) {
			if (!h.nr_qps || !h.rd_atomic || h.mtu < 256 || h.mtu > 4096)
				die("a connection without what it needs");
			check_pairs(&h.port);
		}
		len = rdma_hello_encode(&h, buf, sizeof buf);
		if (len > sizeof buf || rdma_hello_decode(buf, len, &again) || memcmp(&h, &again, sizeof h))
			die("it says something else the second time");
	}
	free(exact);
	return 0;
}
