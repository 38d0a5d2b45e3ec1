/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers of the fake host: what the core's control channel does between two
 * engines, and the services that plugins call about them.  Data streams are made
 * by one end and handed to the other.  What tests ask for is in fake-peer-calls.c.
 */
#include "fake-link.h"
#include "core/util/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- peers: common to both ends ------------------------------------------------------------------ */

struct fake_peer *peer_find(struct fake_link *l, uint32_t id)
{
	for (struct fake_peer *p = l->inst->st->peers; p; p = p->next)
		if (p->link == l && p->id == id && p->open)
			return p;
	return NULL;
}

struct fake_peer *peer_new(struct fake_link *l, uint32_t id, uint32_t epoch, bool passive)
{
	struct fake_peer *p = calloc(1, sizeof *p);
	struct fake_inst *inst = l->inst;

	if (!p)
		abort();
	p->inst = inst;
	p->link = l;
	p->id = id;
	p->epoch = epoch;
	p->passive = passive;
	p->open = true;
	p->status = 1;
	p->caps = inst->caps;
	p->area = area_new(inst->world, AREA_PEER, inst->ops->peer_size, p);
	p->next = inst->st->peers;
	inst->st->peers = p;
	return p;
}

static void remotes_release(struct fake_peer *p)
{
	while (p->remotes) {
		struct fake_remote *r = p->remotes;

		p->remotes = r->next;
		if (r->area) {
			if (r->status == 0 || r->status == -EINPROGRESS)
				p->inst->ops->mem_release(p->inst->priv, r->area);
			area_release(p->inst->world, r->area);
		}
		free(r);
	}
}

void peer_drop(struct fake_peer *p)
{
	struct fake_inst *inst = p->inst;
	struct fake_peer **q = &inst->st->peers;

	if (!p->open)
		return;
	if (p->nr_inflight)
		fake_breach(inst->world, "the test closes a peer of %s with %u slices in flight",
			    inst->name, p->nr_inflight);
	remotes_release(p);
	if (!p->passive || fake_has(inst->plugin, peer_accept))
		inst->ops->peer_close(inst->priv, p->area);
	p->open = p->ready = false;
	area_release(inst->world, p->area);
	p->area = NULL;
	while (*q != p)
		q = &(*q)->next;
	*q = p->next;
	pthread_mutex_lock(&inst->world->lock);
	p->next = inst->world->old_peers;
	inst->world->old_peers = p;
	pthread_mutex_unlock(&inst->world->lock);
}

void peer_args_fill(struct fake_peer *p, const struct msg *m, struct mc_peer_args *args)
{
	static const char *const addresses[] = { "127.0.0.1", NULL };

	*args = (struct mc_peer_args){
		.size = sizeof *args,
		.segment = m->open.engine,
		.generation = m->open.generation,
		.remote_device = m->open.device,
		.remote_kinds = "cpu",
		.addresses = addresses,
		.wire_version = p->inst->plugin->desc->wire_max,
		.epoch = p->epoch,
		.remote_lane = m->open.lane,
		.passive = p->passive,
		.deadline_ns = world_now(p->inst->world) +
			       (p->inst->world->peer_deadline_ns ? p->inst->world->peer_deadline_ns : 5 * MC_SEC),
		.remote_filters = p->passive ? NULL : p->inst->plugin->filters,
	};
}

static void import_ready(struct fake_peer *p)
{
	struct fake_inst *inst = p->inst;

	for (struct fake_remote *r = p->remotes; r && p->open && p->ready; r = r->next) {
		struct mc_remote_buffer b = { .size = sizeof b, .base = r->base, .len = r->len,
					      .kind = r->kind, .ordinal = r->ordinal,
					      .access = r->access, .blob_len = r->blob_len,
					      .blob = r->blob_len ? r->blob : NULL };

		if (r->area)
			continue;
		r->area = area_new(inst->world, AREA_REMOTE, inst->ops->remote_size, r);
		r->status = 0;
		r->status = inst->ops->mem_import(inst->priv, r->area, p->area, &b);
	}
}

static void import_job(struct fake_job *job)
{
	struct fake_peer *p = job->a;

	if (p->open && !p->passive)
		import_ready(p);
}

/* ---- streams --------------------------------------------------------------------------------------- */

static void attach(struct fake_peer *p, int fd, bool passive, uint64_t token, uint32_t epoch)
{
	struct mc_stream s = { .size = sizeof s, .fd = fd, .passive = passive, .token = token,
			       .epoch = epoch, .why = fd < 0 ? "no connection" : NULL };

	p->inst->ops->peer_attach(p->inst->priv, p->area, &s);
}

static void make_stream(struct fake_peer *p, uint64_t token)
{
	struct msg m = { .type = MSG_STREAM, .id = p->id, .epoch = p->epoch, .token = token };
	int own = -1, far, r = p->gone ? -ECONNREFUSED : stream_make(p->link, &own, &far);

	if (r == 0)
		r = link_send(p->link, &m, far);
	attach(p, r < 0 ? r : own, false, token, p->epoch);
}

void peer_make_streams(struct fake_peer *p)
{
	uint32_t nr = p->inst->caps.streams;

	for (uint32_t i = 0; i < nr && p->open; i++)
		make_stream(p, i);
}

static void dial_job(struct fake_job *job)
{
	struct fake_peer *p = job->a;

	if (p->open)
		make_stream(p, (uint64_t)job->n);
}

/* ---- what arrives ------------------------------------------------------------------------------------- */

static void tell_buffer(struct fake_peer *p, const struct fake_buf *b, bool gone)
{
	struct msg m = { .type = gone ? MSG_UNBUFFER : MSG_BUFFER, .id = p->id };

	m.buffer.base = (uintptr_t)b->base;
	m.buffer.len = b->len;
	m.buffer.ordinal = b->desc.ordinal;
	m.buffer.access = b->desc.access;
	m.buffer.blob_len = (uint32_t)b->blob_len;
	snprintf(m.buffer.kind, sizeof m.buffer.kind, "%s", b->desc.kind);
	memcpy(m.buffer.blob, b->blob, (size_t)b->blob_len);
	link_send(p->link, &m, -1);
}

void peers_tell_buffer(struct fake_inst *inst, struct fake_buf *buf, bool gone)
{
	for (struct fake_peer *p = inst->st->peers; p; p = p->next)
		if (p->passive)
			tell_buffer(p, buf, gone);
}

static void on_open(struct fake_link *l, const struct msg *m)
{
	struct fake_inst *inst = l->inst;
	struct fake_peer *p = peer_new(l, m->id, m->epoch, true);
	struct msg answer = { .type = MSG_ACCEPTED, .id = p->id };
	struct mc_peer_args args;

	peer_args_fill(p, m, &args);
	link_fill_open(inst, &answer);
	if (fake_has(inst->plugin, peer_accept))
		answer.status = inst->ops->peer_accept(inst->priv, p->area, &args);
	else
		answer.status = 0;
	link_send(l, &answer, -1);
	if (answer.status < 0) {
		area_release(inst->world, p->area);
		inst->st->peers = p->next;
		free(p);
		return;
	}
	for (struct fake_buf *b = inst->lane0->st->bufs; b; b = b->next)
		if (!b->dying)
			tell_buffer(p, b, false);
	answer = (struct msg){ .type = MSG_SNAPSHOT, .id = p->id };
	link_send(l, &answer, -1);
	if (!fake_has(inst->plugin, peer_accept)) {
		answer.type = MSG_READY;
		link_send(l, &answer, -1);
	}
}

static void on_buffer(struct fake_peer *p, const struct msg *m)
{
	struct fake_remote *r = calloc(1, sizeof *r), **tail = &p->remotes;

	if (!r)
		abort();
	r->peer = p;
	r->status = -EINPROGRESS;
	r->base = m->buffer.base;
	r->len = m->buffer.len;
	r->ordinal = m->buffer.ordinal;
	r->access = m->buffer.access;
	r->blob_len = m->buffer.blob_len;
	memcpy(r->kind, m->buffer.kind, sizeof r->kind);
	memcpy(r->blob, m->buffer.blob, sizeof r->blob);
	while (*tail)
		tail = &(*tail)->next;
	*tail = r;
	import_ready(p);
}

static void on_unbuffer(struct fake_peer *p, const struct msg *m)
{
	for (struct fake_remote **q = &p->remotes, *r; (r = *q); q = &r->next) {
		if (r->base != m->buffer.base)
			continue;
		*q = r->next;
		if (r->area) {
			if (r->status == 0 || r->status == -EINPROGRESS)
				p->inst->ops->mem_release(p->inst->priv, r->area);
			area_release(p->inst->world, r->area);
		}
		free(r);
		return;
	}
}

static void on_fence(struct fake_peer *p, uint32_t epoch)
{
	int r;

	p->fence_asked = epoch;
	r = p->inst->ops->fence(p->inst->priv, p->area, epoch);
	if (r == -ENOTSUP) {
		struct msg m = { .type = MSG_FENCED, .id = p->id, .epoch = epoch };

		p->fenced_epoch = epoch;
		link_send(p->link, &m, -1);
	} else if (r) {
		fake_breach(p->inst->world, "fence at the target answers 0: it answered %d", r);
	}
}

static void on_peer(struct fake_peer *p, const struct msg *m, int fd)
{
	switch (m->type) {
	case MSG_ACCEPTED:
		p->remote_open = m->status == 0;
		if (m->status < 0)
			p->status = m->status;
		break;
	case MSG_READY:
		p->remote_ready = m->status == 0;
		break;
	case MSG_PEER:
		p->inst->ops->peer_msg(p->inst->priv, p->area, m->peer.bytes, m->peer.len);
		break;
	case MSG_STREAM:
		attach(p, fd, true, m->token, m->epoch);
		p->epoch = MC_MAX(p->epoch, m->epoch);
		break;
	case MSG_FENCE:
		on_fence(p, m->epoch);
		break;
	case MSG_FENCED:
		p->remote_fenced_epoch = MC_MAX(p->remote_fenced_epoch, m->epoch);
		break;
	case MSG_BUFFER:
		on_buffer(p, m);
		break;
	case MSG_UNBUFFER:
		on_unbuffer(p, m);
		break;
	case MSG_SNAPSHOT:
		p->snapshot = true;
		break;
	case MSG_CLOSE:
		if (p->nr_inflight)
			p->gone = true; /* the test fences it and closes it */
		else
			peer_drop(p);
		break;
	}
}

/* A passive peer whose engine died is fenced and closed, as the core's P6 does. */
static void drop_job(struct fake_job *job)
{
	struct fake_peer *p = job->a;

	if (p->open)
		peer_drop(p);
}

void link_lost(struct fake_link *l)
{
	if (l->broken)
		return;
	l->broken = true;
	if (l->source)
		inst_drop_source(l->inst, l->fd, l->source);
	l->source = NULL;
	for (struct fake_peer *p = l->inst->st->peers, *next; p; p = next) {
		next = p->next;
		if (p->link != l)
			continue;
		p->gone = true;
		if (p->passive && p->fence_asked < p->epoch) {
			p->fence_asked = p->epoch;
			if (l->inst->ops->fence(l->inst->priv, p->area, p->epoch) == -ENOTSUP)
				p->fenced_epoch = p->epoch;
		}
		if (p->passive && p->fenced_epoch >= p->epoch)
			inst_post(l->inst, drop_job, p, NULL, 0);
	}
}

void link_ready(struct fake_link *l)
{
	for (int i = 0; i < 16 && !l->broken; i++) {
		struct fake_peer *p;
		struct msg m;
		int fd, r = link_receive(l, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r < 0) {
			link_lost(l);
			return;
		}
		if (m.type == MSG_STREAM)
			fd = stream_accept(l, fd);
		p = peer_find(l, m.id);
		if (m.type == MSG_HELLO)
			l->hello = m;
		else if (m.type == MSG_OPEN)
			on_open(l, &m);
		else if (p)
			on_peer(p, &m, fd);
		else if (fd >= 0)
			close(fd);
	}
}

/* ---- services ------------------------------------------------------------------------------------------- */

static struct fake_peer *peer_of(const struct mc_host *h, void *area, const char *service)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;
	struct fake_peer *p = area_owner(area, AREA_PEER);

	if (!on_worker(inst))
		fake_breach(inst->world, "%s is called on the instance's worker: %s called it from %s", service,
			    inst->name, called_from());
	if (!p || p->inst != inst || !p->open) {
		fake_breach(inst->world, "a peer is not named after peer_close: %s called %s", inst->name, service);
		return NULL;
	}
	return p;
}

int peer_service_send(const struct mc_host *h, void *area, const void *msg, size_t len)
{
	struct fake_peer *p = peer_of(h, area, "peer_send");
	struct msg m = { .type = MSG_PEER };

	if (!p)
		return -EINVAL;
	if (len > MC_PEER_MSG_MAX) {
		fake_breach(p->inst->world, "a handshake message has at most %d bytes: %zu sent", MC_PEER_MSG_MAX, len);
		return -EMSGSIZE;
	}
	m.id = p->id;
	m.peer.len = (uint32_t)len;
	memcpy(m.peer.bytes, msg, len);
	return link_send(p->link, &m, -1);
}

void peer_service_ready(const struct mc_host *h, void *area, int status,
			const struct mc_transport_caps *caps, const char *why)
{
	struct fake_peer *p = peer_of(h, area, "peer_ready");
	struct msg m = { .type = MSG_READY, .status = status };

	if (!p)
		return;
	if (status > 0)
		fake_breach(p->inst->world, "a status is 0 or -errno: peer_ready got %d", status);
	if (status < 0 && (!why || !*why))
		fake_breach(p->inst->world, "peer_ready with an error says why: %s gave %d alone",
			    p->inst->name, status);
	p->status = status;
	p->ready = status == 0;
	p->nr_ready++;
	snprintf(p->why, sizeof p->why, "%s", why ? why : "");
	if (caps && status == 0) {
		p->caps = *caps;
		if (caps->size < sizeof *caps || caps->max_slice > p->inst->caps.max_slice)
			fake_breach(p->inst->world, "peer_ready narrows the caps of open: %s widened them",
				    p->inst->name);
	}
	m.id = p->id;
	if (p->passive)
		link_send(p->link, &m, -1);
	else if (p->ready)
		inst_post(p->inst, import_job, p, NULL, 0);
}

void peer_service_writable(const struct mc_host *h, void *area)
{
	struct fake_peer *p = peer_of(h, area, "peer_writable");

	if (p)
		p->nr_writable++;
}

static void fenced(struct fake_peer *p, uint32_t epoch)
{
	struct msg m = { .type = MSG_FENCED, .id = p->id, .epoch = epoch };

	p->fenced_epoch = MC_MAX(p->fenced_epoch, epoch);
	if (p->passive) {
		link_send(p->link, &m, -1);
		if (p->gone)
			inst_post(p->inst, drop_job, p, NULL, 0);
	}
}

static void fenced_job(struct fake_job *job)
{
	struct fake_peer *p = job->a;

	if (p->open)
		fenced(p, (uint32_t)job->n);
}

void peer_service_fenced(const struct mc_host *h, void *area, uint32_t epoch)
{
	struct fake_peer *p = peer_of(h, area, "fenced");
	unsigned nr_any;

	if (!p)
		return;
	nr_any = __atomic_load_n(&p->inst->st->nr_any, __ATOMIC_RELAXED);
	if (p->nr_inflight > nr_any && epoch >= p->epoch)
		fake_breach(p->inst->world, "slices of an epoch complete before fenced: %s had %u in flight",
			    p->inst->name, p->nr_inflight);
	if (epoch > p->fence_asked)
		fake_breach(p->inst->world, "fenced answers fence: %s named epoch %u, asked was %u",
			    p->inst->name, epoch, p->fence_asked);
	/* What complete_any was given before counts as completed: it is delivered first. */
	if (nr_any)
		inst_post(p->inst, fenced_job, p, NULL, epoch);
	else
		fenced(p, epoch);
}

int peer_service_dial(const struct mc_host *h, void *area, uint64_t token)
{
	struct fake_peer *p = peer_of(h, area, "stream_dial");

	if (!p)
		return -EINVAL;
	inst_post(p->inst, dial_job, p, NULL, (int64_t)token);
	return 0;
}

void peer_service_imported(const struct mc_host *h, void *area, int status)
{
	struct fake_inst *inst = (struct fake_inst *)(uintptr_t)h;
	struct fake_remote *r = area_owner(area, AREA_REMOTE);

	if (!on_worker(inst))
		fake_breach(inst->world, "imported is called on the instance's worker: %s did not", inst->name);
	if (!r || r->status != -EINPROGRESS) {
		fake_breach(inst->world, "imported answers an import once, before mem_release: %s broke it",
			    inst->name);
		return;
	}
	r->status = status;
}
