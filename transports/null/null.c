/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The null transport: takes every slice, moves nothing, and says at once that it is
 * done.  It shows what the core itself costs per request, and it is the template for
 * a transport of your own: copy the folder, rename, and fill in the operations.
 *
 * What a real transport does differently is said beside each operation.  Operations
 * that are missing here are optional; transport.h says what each is for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <mooncake/transport.h>

/* What it is called, what its devices begin with, and what it calls itself to peers. */
#define NAME "null"

/* Options come parsed, checked and in this order to open. */
enum { OPT_MAX_SLICE };
static const struct mc_option null_options[] = {
	{ .name = "max_slice", .type = MC_OPT_SIZE, .def = "1GiB", .min = 1,
	  .max = INT64_C(1) << 40,
	  .doc = "largest piece that a request is cut into" },
	{ .name = NULL },
};

/* State lives in areas that the host allocates zeroed; nothing is global.  There is one instance
 * per lane of a device, and one peer per engine that is talked to. */
struct null {
	const struct mc_host *host;
	uint64_t *slices;
	uint64_t *bytes;
	struct null_peer *news; /* opened, and the host does not know yet that they are ready */
	bool stopped;
};

struct null_peer {
	struct null_peer *next; /* null->news */
};

/* [helper] One device, that always exists.  A real transport lists what sysfs or its library
 * shows, and opens none of it. */
static int null_enumerate(const struct mc_host *host, int (*found)(void *ctx, const char *device),
			  void *ctx)
{
	(void)host;
	return found(ctx, NAME "0");
}

/* [helper] Any device whose name begins so can be used.  Of a device that cannot,
 * remedy says what to do. */
static int null_probe(const struct mc_host *host, const char *device, struct mc_device_info *info,
		      struct mc_error *err)
{
	(void)host;
	(void)err;
	snprintf(info->name, sizeof info->name, "%s", device);
	info->numa_node = -1;
	info->state = MC_STATE_ACTIVE;
	if (strncmp(device, NAME, strlen(NAME)) != 0) {
		info->state = MC_STATE_MISSING;
		snprintf(info->remedy, sizeof info->remedy,
			 "'%.63s' is no device of the " NAME " transport: name it " NAME "0", device);
	}
	return 0;
}

/* [helper] Say what this lane can do.  May block until args->deadline_ns; on failure fill err with
 * one sentence and leave nothing to close. */
static int null_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const any_kind[] = { "*", NULL };
	struct mc_device_info info = { .size = sizeof info };
	struct null *null = inst;

	null_probe(host, args->device, &info, err);
	if (info.state != MC_STATE_ACTIVE)
		return mc_fail(err, -ENODEV, "%s", info.remedy);
	null->host = host;
	null->slices = host->counter(host, "submitted", "slices taken");
	null->bytes = host->counter(host, "bytes", "bytes that a real transport would have moved");
	/* SYNC: submit finishes each slice, so nothing is ever in flight and nothing to fence. */
	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_SYNC;
	caps->fence = MC_FENCE_LOCAL;
	caps->visibility = MC_VISIBLE_AT_COMPLETION;
	caps->local_kinds = any_kind;
	caps->remote_kinds = any_kind;
	caps->max_slice = (uint64_t)args->options[OPT_MAX_SLICE].i;
	caps->bandwidth = UINT64_C(1) << 40;
	return 0;
}

/* [worker] Take no new work.  Slices in flight would end with -ECANCELED in progress. */
static void null_stop(void *inst)
{
	((struct null *)inst)->stopped = true;
}

/* [helper] Undo open.  Nothing was allocated here. */
static void null_close(void *inst)
{
	(void)inst;
}

/* [helper] Pin or map the memory here.  mem_export and mem_import carry keys to the peers; there
 * are none. */
static int null_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc,
			struct mc_error *err)
{
	(void)inst;
	(void)region;
	(void)desc;
	(void)err;
	return 0;
}

/* [helper] Undo mem_reg. */
static void null_mem_unreg(void *inst, void *region)
{
	(void)inst;
	(void)region;
}

/* [worker] Begin to connect.  The answer is host->peer_ready; progress gives it, because the host
 * may do anything with the peer in that call. */
static int null_peer_open(void *inst, void *priv, const struct mc_peer_args *args)
{
	struct null *null = inst;
	struct null_peer *peer = priv;

	(void)args;
	peer->next = null->news;
	null->news = peer;
	return 0;
}

/* [worker] Forget the peer; its area is not touched from here on. */
static void null_peer_close(void *inst, void *priv)
{
	struct null *null = inst;

	for (struct null_peer **p = &null->news; *p; p = &(*p)->next) {
		if (*p == priv) {
			*p = (*p)->next;
			break;
		}
	}
}

/* [worker] Finished at once.  A real transport puts the slice into its queue, returns 0, and calls
 * host->complete from progress. */
static int null_submit(void *inst, struct mc_slice *slice)
{
	struct null *null = inst;

	if (null->stopped)
		return -ESHUTDOWN;
	mc_counter_add(null->slices, 1);
	mc_counter_add(null->bytes, slice->len);
	return MC_DONE;
}

/* [worker] Look for completions and news without waiting; how many there were. */
static int null_progress(void *inst)
{
	struct null *null = inst;
	int events = 0;

	while (null->news) {
		struct null_peer *peer = null->news;

		null->news = peer->next;
		null->host->peer_ready(null->host, peer, 0, NULL, NULL);
		events++;
	}
	return events;
}

/* [worker] Before the worker sleeps: is anything left that no descriptor will announce? */
static int null_arm(void *inst)
{
	return ((struct null *)inst)->news ? -EBUSY : 0;
}

/* [worker] Nothing is in flight, so every epoch has ended already. */
static int null_fence(void *inst, void *peer, uint32_t epoch)
{
	struct null *null = inst;

	null->host->fenced(null->host, peer, epoch);
	return 0;
}

static const struct mc_transport_ops null_ops = {
	.size = sizeof null_ops,
	.instance_size = sizeof(struct null),
	.peer_size = sizeof(struct null_peer),
	.enumerate = null_enumerate,
	.probe = null_probe,
	.open = null_open,
	.stop = null_stop,
	.close = null_close,
	.mem_reg = null_mem_reg,
	.mem_unreg = null_mem_unreg,
	.peer_open = null_peer_open,
	.peer_accept = null_peer_open,
	.peer_close = null_peer_close,
	.submit = null_submit,
	.progress = null_progress,
	.arm = null_arm,
	.fence = null_fence,
};

static const char *const null_memory[] = { "*", NULL };
static const char *const null_claims[] = { NAME "*", NULL };

/* The one symbol that a plugin exports.  The manifest in plugins.d is made from it. */
const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = NAME,
	.version = MC_VERSION,
	.summary = "moves nothing: shows the core's own cost, and how a transport is written",
	.ops = &null_ops,
	.options = null_options,
	.wire = NAME,
	.wire_min = 1,
	.wire_max = 1,
	.memory = null_memory,
	.claims = null_claims,
};
