/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport: slices over TCP streams that the core dials and admits.  This
 * file holds the descriptor, the options, open and close.  README.md says what it
 * needs and what was measured; tcp.h says how the files divide the work.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tcp.h"

enum { OPT_STREAMS, OPT_MAX_INFLIGHT, OPT_MAX_SLICE, OPT_PREF_SLICE, OPT_SNDBUF, OPT_RCVBUF,
       OPT_BOUNCE };

/* A socket buffer smaller than a loopback segment makes TCP wait for its timers. */
#define SOCKBUF_MIN (64 << 10)

static const struct mc_option tcp_options[] = {
	{ .name = "streams", .type = MC_OPT_INT, .def = "1", .min = 1, .max = MC_TCP_STREAMS_MAX,
	  .doc = "TCP connections per peer and lane; for where the network limits one of them" },
	{ .name = "max_inflight", .type = MC_OPT_INT, .def = "4096", .min = 1, .max = 1 << 20,
	  .doc = "slices in flight per peer; more wait in the core" },
	{ .name = "max_slice", .type = MC_OPT_SIZE, .def = "16MiB", .min = 4096,
	  .max = MC_TCP_LEN_MAX, .doc = "largest piece that a request is cut into" },
	{ .name = "pref_slice", .type = MC_OPT_SIZE, .def = "1MiB", .min = 4096,
	  .max = MC_TCP_LEN_MAX, .doc = "size into which large requests are best cut" },
	{ .name = "sndbuf", .type = MC_OPT_SIZE, .flags = MC_OPT_AUTO, .def = "auto",
	  .min = SOCKBUF_MIN, .max = 1 << 30,
	  .doc = "send buffer of a connection (SO_SNDBUF); auto: as the kernel grows it" },
	{ .name = "rcvbuf", .type = MC_OPT_SIZE, .flags = MC_OPT_AUTO, .def = "auto",
	  .min = SOCKBUF_MIN, .max = 1 << 30,
	  .doc = "receive buffer of a connection (SO_RCVBUF); auto: as the kernel grows it" },
	{ .name = "bounce", .type = MC_OPT_SIZE, .def = "1MiB", .min = MC_TCP_CHUNK,
	  .max = 1 << 30,
	  .doc = "host memory through which peers reach memory that the CPU cannot touch" },
	{ .name = NULL },
};

static int open_buffers(struct tcp *tcp, uint64_t bounce)
{
	tcp->nr_bounces = (uint32_t)(bounce / MC_TCP_CHUNK);
	tcp->bounce_all = calloc(tcp->nr_bounces, sizeof *tcp->bounce_all);
	/* Pages that are never used cost nothing. */
	tcp->bounce_mem = tcp->host->alloc(tcp->host, tcp->nr_bounces * MC_TCP_CHUNK);
	tcp->scratch = tcp->host->alloc(tcp->host, MC_TCP_CHUNK);
	if (!tcp->bounce_all || !tcp->bounce_mem || !tcp->scratch)
		return -ENOMEM;
	for (uint32_t i = 0; i < tcp->nr_bounces; i++) {
		tcp->bounce_all[i].buf = tcp->bounce_mem + i * MC_TCP_CHUNK;
		LL_PREPEND(tcp->bounces, &tcp->bounce_all[i]);
	}
	return 0;
}

/* [helper] Also undoes a half-made open. */
static void tcp_close(void *inst)
{
	struct tcp *tcp = inst;

	tcp_pipe_close(tcp);
	tcp_link_close(tcp);
	if (tcp->scratch)
		tcp->host->free(tcp->host, tcp->scratch, MC_TCP_CHUNK);
	if (tcp->bounce_mem)
		tcp->host->free(tcp->host, tcp->bounce_mem, tcp->nr_bounces * MC_TCP_CHUNK);
	free(tcp->bounce_all);
	tcp->scratch = tcp->bounce_mem = NULL;
	tcp->bounce_all = tcp->bounces = NULL;
}

static void open_counters(struct tcp *tcp)
{
	const struct mc_host *h = tcp->host;

	tcp->c_sent = h->counter(h, "bytes_sent", "bytes to sockets, heads included");
	tcp->c_lent = h->counter(h, "bytes_lent", "bytes of WRITEs among them that were not copied");
	tcp->c_received = h->counter(h, "bytes_received", "bytes from sockets, heads included");
	tcp->c_send_calls = h->counter(h, "send_calls", "system calls that sent something");
	tcp->c_recv_calls = h->counter(h, "recv_calls", "system calls that received something");
	tcp->c_refused = h->counter(h, "refused", "requests of peers that were refused");
	tcp->c_broken = h->counter(h, "streams_broken", "streams that ended by an error");
}

/* [helper] */
static int tcp_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		    struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const local_kinds[] = { "cpu", NULL };
	static const char *const remote_kinds[] = { "*", NULL };
	const struct mc_value *o = args->options;
	struct mc_device_info info = { .size = sizeof info };
	struct tcp *tcp = inst;
	int r;

	tcp->host = host;
	tcp->link.fd = -1;
	tcp->streams = (uint32_t)o[OPT_STREAMS].i;
	tcp->max_inflight = (uint32_t)o[OPT_MAX_INFLIGHT].i;
	tcp->sndbuf = o[OPT_SNDBUF].i == MC_VALUE_AUTO ? 0 : (int)o[OPT_SNDBUF].i;
	tcp->rcvbuf = o[OPT_RCVBUF].i == MC_VALUE_AUTO ? 0 : (int)o[OPT_RCVBUF].i;
	if (o[OPT_PREF_SLICE].i > o[OPT_MAX_SLICE].i)
		return mc_fail(err, -EINVAL,
			       "option 'pref_slice' exceeds 'max_slice': lower it to at most %lld",
			       (long long)o[OPT_MAX_SLICE].i);
	tcp_probe(host, args->device, &info, err);
	if (info.state != MC_STATE_ACTIVE)
		return mc_fail(err, info.state == MC_STATE_MISSING ? -ENODEV : -ENETDOWN, "%s",
			       info.remedy);
	r = open_buffers(tcp, (uint64_t)o[OPT_BOUNCE].i);
	if (r < 0) {
		tcp_close(tcp);
		return mc_fail(err, r,
			       "no memory for %lld bytes of bounce buffers: lower option 'bounce'",
			       (long long)o[OPT_BOUNCE].i);
	}
	open_counters(tcp);
	if (!args->lane)
		tcp_link_open(tcp, args->device);
	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_AGENT | MC_CAP_CPU_COPY | MC_CAP_SPIN;
	caps->fence = MC_FENCE_BOTH;
	caps->visibility = MC_VISIBLE_AT_COMPLETION;
	caps->alignment = 1;
	caps->local_kinds = local_kinds;
	caps->remote_kinds = remote_kinds;
	caps->max_slice = (uint64_t)o[OPT_MAX_SLICE].i;
	caps->pref_slice = (uint64_t)o[OPT_PREF_SLICE].i;
	caps->max_inline = MC_TCP_TINY;
	/* Loopback and virtual interfaces tell no speed; the scheduler learns the real one. */
	caps->bandwidth = info.speed ? info.speed : UINT64_C(4000000000);
	caps->latency_ns = 15000;
	caps->max_inflight = tcp->max_inflight;
	caps->streams = tcp->streams;
	return 0;
}

/* [worker] */
static void tcp_stop(void *inst)
{
	struct tcp *tcp = inst;

	if (tcp->stopped)
		return;
	tcp->stopped = true;
	tcp_link_stop(tcp);
	tcp_peers_stop(tcp);
}

/* [helper] Host memory needs no registration here; ranges are checked by the host. */
static int tcp_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc,
		       struct mc_error *err)
{
	(void)inst;
	(void)region;
	(void)desc;
	(void)err;
	return 0;
}

static void tcp_mem_unreg(void *inst, void *region)
{
	(void)inst;
	(void)region;
}

/* [worker] */
static void tcp_counters(void *inst, void (*emit)(void *ctx, const char *name, uint64_t value),
			 void *ctx)
{
	const struct tcp *tcp = inst;
	const struct tcp_peer *peer;
	const struct tcp_stream *st;
	uint64_t streams = 0;

	DL_FOREACH(tcp->peers, peer)
		DL_FOREACH(peer->streams, st)
			streams += st->watch.fd >= 0;
	emit(ctx, "streams", streams);
	emit(ctx, "hot_streams", tcp->nr_hot);
	emit(ctx, "in_flight", tcp->nr_flight);
}

static const struct mc_transport_ops tcp_ops = {
	.size = sizeof tcp_ops,
	.instance_size = sizeof(struct tcp),
	.peer_size = sizeof(struct tcp_peer),
	.slice_size = sizeof(struct tcp_op),
	.enumerate = tcp_enumerate,
	.probe = tcp_probe,
	.open = tcp_open,
	.stop = tcp_stop,
	.close = tcp_close,
	.mem_reg = tcp_mem_reg,
	.mem_unreg = tcp_mem_unreg,
	.peer_open = tcp_peer_open,
	.peer_accept = tcp_peer_accept,
	.peer_attach = tcp_peer_attach,
	.peer_close = tcp_peer_close,
	.submit = tcp_submit,
	.flush = tcp_flush,
	.progress = tcp_progress,
	.arm = tcp_arm,
	.cancel = tcp_cancel,
	.fence = tcp_fence,
	.counters = tcp_counters,
};

/* Any kind of memory: the target places it, and the core stages it here. */
static const char *const tcp_memory[] = { "*", NULL };
static const char *const tcp_claims[] = { "sysfs:class/net/*", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = "tcp",
	.version = MC_VERSION,
	.summary = "TCP sockets, any memory through the CPU",
	.ops = &tcp_ops,
	.options = tcp_options,
	.wire = "tcp",
	.wire_min = MC_TCP_WIRE_VERSION,
	.wire_max = MC_TCP_WIRE_VERSION,
	.memory = tcp_memory,
	.claims = tcp_claims,
};
