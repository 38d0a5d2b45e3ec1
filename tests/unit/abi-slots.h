/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every slot of the tables that transports, memory kinds and hosts give each
 * other, in the order of the structs: SLOT(table, return type, name, parameters,
 * arguments), VOID for those without a result.  A slot that the headers have and
 * this list lacks does not compile (test-abi.c).
 */
#ifdef SLOTS_HOST
LOG
SLOT(host, uint64_t, now_ns, (const struct mc_host *h), (h))
VOID(host, random, (const struct mc_host *h, void *buf, size_t len), (h, buf, len))
SLOT(host, void *, alloc, (const struct mc_host *h, size_t len), (h, len))
VOID(host, free, (const struct mc_host *h, void *ptr, size_t len), (h, ptr, len))
SLOT(host, uint64_t *, counter, (const struct mc_host *h, const char *name, const char *doc),
     (h, name, doc))
SLOT(host, int, watch, (const struct mc_host *h, struct mc_watch *w), (h, w))
SLOT(host, int, rewatch, (const struct mc_host *h, struct mc_watch *w, uint32_t events), (h, w,
     events))
VOID(host, unwatch, (const struct mc_host *h, struct mc_watch *w), (h, w))
VOID(host, timer_set, (const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns), (h,
     t, deadline_ns))
VOID(host, post, (const struct mc_host *h, struct mc_work *w), (h, w))
VOID(host, run_blocking, (const struct mc_host *h, struct mc_work *w), (h, w))
VOID(host, complete, (const struct mc_host *h, struct mc_slice *s, int status, int scope,
     uint64_t done_len), (h, s, status, scope, done_len))
VOID(host, complete_any, (const struct mc_host *h, struct mc_slice *s, int status, int scope,
     uint64_t done_len), (h, s, status, scope, done_len))
SLOT(host, int, peer_send, (const struct mc_host *h, void *peer, const void *msg, size_t len),
     (h, peer, msg, len))
VOID(host, peer_ready, (const struct mc_host *h, void *peer, int status,
     const struct mc_transport_caps *caps, const char *why), (h, peer, status, caps, why))
VOID(host, peer_writable, (const struct mc_host *h, void *peer), (h, peer))
VOID(host, fenced, (const struct mc_host *h, void *peer, uint32_t epoch), (h, peer, epoch))
VOID(host, device_event, (const struct mc_host *h, int event, const char *why), (h, event, why))
SLOT(host, int, stream_dial, (const struct mc_host *h, void *peer, uint64_t token), (h, peer,
     token))
VOID(host, imported, (const struct mc_host *h, void *remote, int status), (h, remote, status))
SLOT(host, int, range_get, (const struct mc_host *h, void *peer, uint64_t generation,
     uint64_t offset, uint64_t len, uint32_t access, struct mc_range *range), (h, peer,
     generation, offset, len, access, range))
VOID(host, range_put, (const struct mc_host *h, struct mc_range *range), (h, range))
SLOT(host, int, mem_copy, (const struct mc_host *h, struct mc_copy *c), (h, c))
SLOT(host, int, mem_identify, (const struct mc_host *h, const void *addr, uint64_t len,
     struct mc_mem_desc *desc), (h, addr, len, desc))
SLOT(host, int, kv, (const struct mc_host *h, struct mc_kv_call *c), (h, c))
VOID(host, kv_event, (const struct mc_host *h, void *watch, const struct mc_kv *kv), (h, watch, kv))
VOID(host, copied, (const struct mc_host *h, struct mc_copy *c, int status), (h, c, status))
SLOT(host, uint64_t *, gauge, (const struct mc_host *h, const char *name, const char *doc), (h, name, doc))
VOID(host, run_lazily, (const struct mc_host *h, struct mc_work *w), (h, w))
SLOT(host, uint64_t, lease_left_ns, (const struct mc_host *h), (h))
#endif
#ifdef SLOTS_TRANSPORT
SLOT(transport, int, enumerate, (const struct mc_host *host, int (*found)(void *ctx,
     const char *device), void *ctx), (host, found, ctx))
SLOT(transport, int, probe, (const struct mc_host *host, const char *device,
     struct mc_device_info *info, struct mc_error *err), (host, device, info, err))
SLOT(transport, int, open, (void *inst, const struct mc_host *host,
     const struct mc_open_args *args, struct mc_transport_caps *caps, struct mc_error *err),
     (inst, host, args, caps, err))
SLOT(transport, int, reconfigure, (void *inst, const struct mc_value *options,
     struct mc_error *err), (inst, options, err))
VOID(transport, stop, (void *inst), (inst))
VOID(transport, close, (void *inst), (inst))
SLOT(transport, int, mem_alloc, (void *inst, void *region, struct mc_mem_desc *desc,
     struct mc_error *err), (inst, region, desc, err))
VOID(transport, mem_free, (void *inst, void *region, struct mc_mem_desc *desc), (inst, region,
     desc))
SLOT(transport, int, mem_reg, (void *inst, void *region, const struct mc_mem_desc *desc,
     struct mc_error *err), (inst, region, desc, err))
VOID(transport, mem_unreg, (void *inst, void *region), (inst, region))
SLOT(transport, int, mem_export, (void *inst, void *region, void *blob, size_t cap), (inst,
     region, blob, cap))
SLOT(transport, int, mem_import, (void *inst, void *remote, void *peer,
     const struct mc_remote_buffer *buf), (inst, remote, peer, buf))
VOID(transport, mem_release, (void *inst, void *remote), (inst, remote))
SLOT(transport, int, peer_open, (void *inst, void *peer, const struct mc_peer_args *args),
     (inst, peer, args))
SLOT(transport, int, peer_accept, (void *inst, void *peer, const struct mc_peer_args *args),
     (inst, peer, args))
VOID(transport, peer_msg, (void *inst, void *peer, const void *msg, size_t len), (inst, peer,
     msg, len))
VOID(transport, peer_attach, (void *inst, void *peer, const struct mc_stream *stream), (inst,
     peer, stream))
VOID(transport, peer_close, (void *inst, void *peer), (inst, peer))
SLOT(transport, int, submit, (void *inst, struct mc_slice *slice), (inst, slice))
VOID(transport, flush, (void *inst), (inst))
SLOT(transport, int, progress, (void *inst), (inst))
SLOT(transport, int, arm, (void *inst), (inst))
SLOT(transport, int, cancel, (void *inst, struct mc_slice *slice), (inst, slice))
SLOT(transport, int, fence, (void *inst, void *peer, uint32_t epoch), (inst, peer, epoch))
VOID(transport, counters, (void *inst, void (*emit)(void *ctx, const char *name,
     uint64_t value), void *ctx), (inst, emit, ctx))
SLOT(transport, int, mem_sync, (void *inst, void *region, void *addr, uint64_t len, uint32_t how),
     (inst, region, addr, len, how))
VOID(transport, mem_explain, (void *inst, const void *region, char *text, size_t cap), (inst, region, text,
     cap))
#endif
#ifdef SLOTS_MEMORY
SLOT(memory, int, open, (void *inst, const struct mc_host *host,
     const struct mc_open_args *args, struct mc_error *err), (inst, host, args, err))
VOID(memory, close, (void *inst), (inst))
SLOT(memory, int, count, (void *inst), (inst))
SLOT(memory, int, identify, (void *inst, const void *addr, uint64_t len,
     struct mc_mem_desc *desc), (inst, addr, len, desc))
SLOT(memory, int, alloc, (void *inst, struct mc_mem_desc *desc, struct mc_error *err), (inst,
     desc, err))
VOID(memory, free, (void *inst, struct mc_mem_desc *desc), (inst, desc))
SLOT(memory, int, copy, (void *inst, struct mc_copy *c), (inst, c))
SLOT(memory, int, export_dmabuf, (void *inst, struct mc_mem_desc *desc, struct mc_error *err),
     (inst, desc, err))
SLOT(memory, int, flush, (void *inst, const struct mc_mem_desc *desc), (inst, desc))
SLOT(memory, int, distance, (void *inst, int32_t ordinal, const char *pci), (inst, ordinal, pci))
SLOT(memory, int, extent, (void *inst, const struct mc_mem_desc *desc, uint64_t *ret_len), (inst, desc, ret_len))
SLOT(memory, int, pin, (void *inst, void *addr, uint64_t len), (inst, addr, len))
VOID(memory, unpin, (void *inst, void *addr), (inst, addr))
#endif
