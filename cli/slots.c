/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of the operations of each kind of plugin, to say which of them a plugin
 * has.  A slot that a header gains and a list here lacks does not compile: the
 * lists and the sizes of private areas together must fill the table.
 */
#include "slots.h"

#include <string.h>

#include "core/util/check.h"

struct slot {
	const char *name;
	size_t offset;
};

#define T(slot) {#slot, offsetof(struct mc_transport_ops, slot)}
static const struct slot transport_slots[] = {
	T(enumerate), T(probe),	     T(open),	     T(reconfigure), T(stop),	    T(close),
	T(mem_alloc), T(mem_free),   T(mem_reg),     T(mem_unreg),   T(mem_export), T(mem_import),
	T(mem_release), T(peer_open), T(peer_accept), T(peer_msg),    T(peer_attach), T(peer_close),
	T(submit),    T(flush),	     T(progress),    T(arm),	     T(cancel),	    T(fence),
	T(counters),  T(mem_sync),   T(mem_explain),
};
#undef T
#define T(slot) {#slot, offsetof(struct mc_metadata_ops, slot)}
static const struct slot metadata_slots[] = {
	T(open),  T(close), T(get),	    T(put),	    T(cas),		T(del),
	T(list),  T(watch), T(unwatch),	    T(lease_grant), T(lease_keepalive), T(lease_revoke),
	T(reconfigure),
};
#undef T
#define T(slot) {#slot, offsetof(struct mc_memory_ops, slot)}
static const struct slot memory_slots[] = {
	T(open), T(close), T(count), T(identify), T(alloc), T(free), T(copy), T(export_dmabuf), T(flush), T(distance),
	T(extent), T(pin), T(unpin),
};
#undef T
#define T(slot) {#slot, offsetof(struct mc_filter_ops, slot)}
static const struct slot filter_slots[] = {
	T(open),  T(close),	T(submit), T(flush), T(progress),  T(arm),	  T(cancel),
	T(fence), T(completed), T(attach), T(stop),  T(peer_open), T(peer_close), T(peer_msg),
};
#undef T

#define FILLS(type, slots, nr_sizes)                                                               \
	_Static_assert(sizeof(struct type) == (MC_ARRAY_SIZE(slots) + (nr_sizes)) * sizeof(void *), \
		       #type " and " #slots " differ")
FILLS(mc_transport_ops, transport_slots, 6);
FILLS(mc_metadata_ops, metadata_slots, 3);
FILLS(mc_memory_ops, memory_slots, 2);
FILLS(mc_filter_ops, filter_slots, 4);

void cli_slots(const struct mc_plugin_desc *desc, void (*each)(void *ctx, const char *name, bool has),
	       void *ctx)
{
	static const struct {
		const struct slot *slots;
		size_t nr;
	} kinds[MC_KIND_COUNT] = {
		[MC_KIND_TRANSPORT] = {transport_slots, MC_ARRAY_SIZE(transport_slots)},
		[MC_KIND_METADATA] = {metadata_slots, MC_ARRAY_SIZE(metadata_slots)},
		[MC_KIND_MEMORY] = {memory_slots, MC_ARRAY_SIZE(memory_slots)},
		[MC_KIND_FILTER] = {filter_slots, MC_ARRAY_SIZE(filter_slots)},
	};
	size_t size;

	memcpy(&size, desc->ops, sizeof size);
	for (size_t i = 0; i < kinds[desc->kind].nr; i++) {
		const struct slot *s = &kinds[desc->kind].slots[i];
		void (*op)(void) = NULL;

		if (s->offset + sizeof op <= size)
			memcpy(&op, (const char *)desc->ops + s->offset, sizeof op);
		each(ctx, s->name, op != NULL);
	}
}
