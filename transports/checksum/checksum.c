/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checksum filter: when the transport has done a slice, both ends hash its
 * range and the hashes are compared over the control connection, before the slice
 * is reported as done.  What has arrived wrong is named and sent again, a bounded
 * number of times; then the slice fails with -EBADMSG and scope PEER, so that it
 * is tried on another rail.  Config key `verify` puts it over every transport.
 */
#include "checksum.h"

#include <errno.h>
#include <string.h>

#include "core/util/check.h"

#define RETRY_NS (MC_MSEC / 5) /* the transport had no room */

/* ---- places -------------------------------------------------------------------------------------- */

static void list_init(struct ck_link *head)
{
	head->prev = head->next = head;
}

static void link_add(struct ck_link *head, struct ck_link *link)
{
	link->next = head;
	link->prev = head->prev;
	head->prev->next = link;
	head->prev = link;
}

static void link_del(struct ck_link *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
}

void ck_insert(struct ck_link *head, struct ck_op *op, enum ck_place place)
{
	op->place = place;
	link_add(head, &op->link);
}

void ck_take(struct ck_op *op)
{
	link_del(&op->link);
}

struct ck_op *ck_first(struct ck_link *head)
{
	return head->next == head ? NULL : (struct ck_op *)head->next;
}

void ck_end(struct ck *c, struct ck_op *op, int status, int scope)
{
	op->status = status;
	op->scope = scope;
	op->done_len = status < 0 ? 0 : op->slice->len;
	ck_insert(&c->ready, op, CK_READY);
}

void ck_wake_at(struct ck *c, uint64_t at_ns)
{
	if (!c->timer.deadline_ns || at_ns < c->timer.deadline_ns)
		c->host->timer_set(c->host, &c->timer, at_ns);
}

static void tell(struct ck *c, struct ck_op *op)
{
	c->next->complete(c->next, op->slice, op->status, op->scope, op->done_len);
}

static bool is_fenced(const struct ck_peer *p, const struct mc_slice *s)
{
	return p->fence_seen && s->epoch <= p->fenced;
}

/* ---- on their way down ---------------------------------------------------------------------------- */

/* Every slice, or the share of them that is asked for: by their numbers, so that two runs agree. */
static bool chosen(struct ck *c, const struct ck_peer *p, const struct mc_slice *s)
{
	uint64_t x;

	if (!s->len || (s->flags & MC_SLICE_FLUSH))
		return false;
	if (!p->able || !s->local_kind || strcmp(s->local_kind, "cpu") != 0) {
		mc_counter_add(c->unverified, 1);
		if (p->able && !c->kind_warned)
			c->host->log(c->host, MC_LOG_WARN,
				     "memory of kind '%s' is not verified: the CPU cannot read it", s->local_kind);
		c->kind_warned |= p->able;
		return false;
	}
	if (c->sample >= 1)
		return true;
	x = ++c->nr;
	x = XXH3_64bits(&x, sizeof x);
	return (double)(x >> 11) < c->sample * 0x1p53;
}

static int checksum_submit(void *inst, struct mc_slice *slice)
{
	struct ck_op *op = slice->priv;
	struct ck *c = inst;
	int r;

	if (c->stopped)
		return -ESHUTDOWN;
	*op = (struct ck_op){.slice = slice, .chosen = chosen(c, ck_peer_of(c, slice->peer), slice)};
	r = c->next->submit(c->next, slice);
	if (r != MC_DONE || !op->chosen)
		return r;
	ck_insert(&ck_peer_of(c, slice->peer)->want, op, CK_WANT);
	return 0;
}

/* The slice itself, or in its place a flush that makes it visible at the target. */
static int send_down(struct ck *c, struct ck_op *op, bool flush)
{
	struct mc_slice *s = op->slice;
	uint64_t len = s->len;
	uint8_t opcode = s->opcode, flags = s->flags;
	int r;

	op->place = flush ? CK_FLUSHING : CK_BELOW;
	if (flush) {
		s->opcode = MC_OP_READ;
		s->flags = MC_SLICE_FLUSH;
		s->len = 0;
	}
	r = c->next->submit(c->next, s);
	s->opcode = opcode;
	s->flags = flags;
	s->len = len;
	c->flush_due |= r == 0;
	return r;
}

/* The transport has done it: next its visibility, then the hashes. */
static void arrived(struct ck *c, struct ck_op *op)
{
	struct ck_peer *p = ck_peer_of(c, op->slice->peer);
	int r = MC_DONE;

	if (c->flushes && op->slice->opcode == MC_OP_WRITE && !op->flushed) {
		op->flushed = true;
		r = send_down(c, op, true);
	}
	if (r == MC_DONE) {
		ck_insert(&p->want, op, CK_WANT);
	} else if (r == -EAGAIN) {
		op->flushed = false;
		op->place = CK_AGAIN;
		ck_insert(&c->again, op, CK_AGAIN);
	} else if (r < 0) {
		ck_end(c, op, r, MC_SCOPE_PEER);
	}
}

void ck_repeat(struct ck *c, struct ck_op *op)
{
	if (op->tries++ < c->retries) {
		op->flushed = false;
		op->status = -EBADMSG; /* of the present copy: it is sent again, not flushed again */
		ck_insert(&c->again, op, CK_AGAIN);
		return;
	}
	mc_counter_add(c->given_up, 1);
	ck_end(c, op, -EBADMSG, MC_SCOPE_PEER);
}

/* What the transport had no room for, and what has arrived wrong. */
static int send_again(struct ck *c)
{
	struct ck_op *op;
	int nr = 0;

	while ((op = ck_first(&c->again))) {
		int r;

		ck_take(op);
		if (op->status == 0) {
			arrived(c, op);
			r = op->place == CK_AGAIN ? -EAGAIN : 0;
		} else {
			r = send_down(c, op, false);
			if (r == -EAGAIN) {
				ck_insert(&c->again, op, CK_AGAIN);
			} else if (r == MC_DONE) {
				op->status = 0;
				arrived(c, op);
			} else if (r < 0) {
				ck_end(c, op, r, MC_SCOPE_PEER);
			}
		}
		if (r == -EAGAIN) {
			ck_wake_at(c, c->host->now_ns(c->host) + RETRY_NS);
			break;
		}
		nr++;
	}
	return nr;
}

/* ---- on their way up -------------------------------------------------------------------------------- */

static void checksum_completed(void *inst, struct mc_slice *slice, int status, int scope, uint64_t done_len)
{
	struct ck_op *op = slice->priv;
	struct ck *c = inst;
	bool flush = op->place == CK_FLUSHING;

	op->status = status;
	op->scope = scope;
	op->done_len = flush && status == 0 ? slice->len : done_len;
	/* A completion of less than all is the host's to judge. */
	if (!op->chosen || status < 0 || op->done_len != slice->len) {
		tell(c, op);
	} else if (c->stopped || is_fenced(ck_peer_of(c, slice->peer), slice)) {
		/* Nobody can be asked any more, and what was not compared is not done. */
		op->status = c->stopped ? -ECANCELED : -ECONNRESET;
		op->scope = c->stopped ? MC_SCOPE_REQUEST : MC_SCOPE_PEER;
		op->done_len = 0;
		tell(c, op);
	} else {
		arrived(c, op);
	}
}

static int tell_ready(struct ck *c)
{
	struct ck_op *op;
	int nr = 0;

	for (; (op = ck_first(&c->ready)); nr++) {
		ck_take(op);
		tell(c, op);
	}
	return nr;
}

/* Move what is of the peer's epochs (peer NULL: of all) to another list. */
static void collect(struct ck_link *from, const void *peer, uint32_t epoch, struct ck_link *to)
{
	for (struct ck_link *l = from->next, *next; l != from; l = next) {
		struct ck_op *op = (struct ck_op *)l;

		next = l->next;
		if (peer && (op->slice->peer != peer || op->slice->epoch > epoch))
			continue;
		ck_take(op);
		link_add(to, &op->link);
	}
}

/* Everything that is held ends here.  What was over already keeps its status. */
static int end_all(struct ck *c, struct ck_peer *p, uint32_t epoch, int status, int scope)
{
	struct ck_link ending;
	struct ck_op *op;
	int nr = 0;

	list_init(&ending);
	collect(&c->ready, p ? p->peer : NULL, epoch, &ending);
	collect(&c->again, p ? p->peer : NULL, epoch, &ending);
	for (struct ck_link *l = c->peers.next; l != &c->peers; l = l->next) {
		struct ck_peer *one = (struct ck_peer *)l;

		if (p && one != p)
			continue;
		collect(&one->want, one->peer, epoch, &ending);
		collect(&one->asked, one->peer, epoch, &ending);
	}
	for (; (op = ck_first(&ending)); nr++) {
		ck_take(op);
		if (op->place == CK_ASKED || op->place == CK_NARROWING)
			ck_slot_free(ck_peer_of(c, op->slice->peer), op);
		if (op->place != CK_READY) {
			op->status = status;
			op->scope = scope;
			op->done_len = 0;
		}
		op->place = CK_BELOW;
		tell(c, op);
	}
	return nr;
}

/* ---- turns ------------------------------------------------------------------------------------------- */

static int turn(struct ck *c)
{
	struct ck_link *last = NULL;
	uint64_t budget = CK_TURN_BYTES;
	int nr = 0;

	if (c->stopped)
		return end_all(c, NULL, UINT32_MAX, -ECANCELED, MC_SCOPE_REQUEST);
	for (struct ck_link *l = c->peers.next; l != &c->peers; l = l->next) {
		struct ck_peer *p = (struct ck_peer *)l;

		if (!p->passive) {
			nr += ck_ask_turn(c, p);
		} else if (budget && ck_answer_busy(p)) {
			nr += ck_answer_turn(c, p, &budget);
			last = l;
		}
	}
	/* Who was served last is last in the next turn. */
	if (last && !budget) {
		link_del(&c->peers);
		link_add(last->next, &c->peers);
	}
	if (ck_first(&c->again))
		nr += send_again(c);
	if (c->flush_due) {
		c->flush_due = false;
		c->next->flush(c->next);
	}
	return nr + tell_ready(c);
}

static void on_timer(struct mc_timer *t, uint64_t now_ns)
{
	turn(t->user);
}

static int checksum_progress(void *inst)
{
	struct ck *c = inst;
	int nr = c->next->progress(c->next);

	return nr + turn(c);
}

static int checksum_arm(void *inst)
{
	struct ck *c = inst;

	if (ck_first(&c->ready) || c->flush_due || (ck_first(&c->again) && !c->timer.deadline_ns))
		return -EBUSY;
	for (struct ck_link *l = c->peers.next; l != &c->peers; l = l->next) {
		struct ck_peer *p = (struct ck_peer *)l;

		if (ck_answer_busy(p) || ck_ask_due(c, p) || (c->stopped && ck_first(&p->asked)))
			return -EBUSY;
		if (p->nr_free && ck_first(&p->want))
			ck_wake_at(c, p->muted_ns);
	}
	return c->next->arm(c->next);
}

static int checksum_cancel(void *inst, struct mc_slice *slice)
{
	struct ck_op *op = slice->priv;
	struct ck *c = inst;

	switch (op->place) {
	case CK_BELOW:
	case CK_FLUSHING:
		return c->next->cancel(c->next, slice);
	case CK_READY:
		return 0;
	case CK_ASKED:
	case CK_NARROWING:
		ck_slot_free(ck_peer_of(c, slice->peer), op);
		break;
	default:
		break;
	}
	ck_take(op);
	ck_end(c, op, -ECANCELED, MC_SCOPE_REQUEST);
	return 0;
}

static int checksum_fence(void *inst, void *peer, uint32_t epoch)
{
	struct ck_peer *p = ck_peer_of(inst, peer);
	struct ck *c = inst;

	p->fenced = p->fence_seen ? MC_MAX(p->fenced, epoch) : epoch;
	p->fence_seen = true;
	ck_answer_drop(p);
	end_all(c, p, epoch, -ECONNRESET, MC_SCOPE_PEER);
	return c->next->fence(c->next, peer, epoch);
}

/* ---- peers -------------------------------------------------------------------------------------------- */

/* One of the words of a list with spaces between. */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (; list && *list; list += strcspn(list, " "), list += strspn(list, " "))
		if (strcspn(list, " ") == len && !memcmp(list, word, len))
			return true;
	return false;
}

/* Once per name, not at each connection. */
static void warn_unable(struct ck *c, const struct ck_peer *p)
{
	uint64_t hash = XXH3_64bits(p->segment, strlen(p->segment));

	for (uint32_t i = 0; i < MC_MIN(c->nr_unable, MC_ARRAY_SIZE(c->unable)); i++)
		if (c->unable[i] == hash)
			return;
	c->unable[c->nr_unable++ % MC_ARRAY_SIZE(c->unable)] = hash;
	c->host->log(c->host, MC_LOG_WARN,
		     "peer '%s': transfers with it are not verified: its device %s has no filter checksum; set verify "
		     "there too", p->segment, p->device);
}

static int slots_new(struct ck *c, struct ck_peer *p)
{
	p->slots = c->host->alloc(c->host, CK_SLOTS * sizeof *p->slots);
	p->free_slots = c->host->alloc(c->host, CK_SLOTS * sizeof *p->free_slots);
	if (!p->slots || !p->free_slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < CK_SLOTS; i++)
		p->free_slots[i] = (uint16_t)(CK_SLOTS - 1 - i);
	p->nr_free = CK_SLOTS;
	return 0;
}

static void peer_free(struct ck *c, struct ck_peer *p)
{
	if (p->slots)
		c->host->free(c->host, p->slots, CK_SLOTS * sizeof *p->slots);
	if (p->free_slots)
		c->host->free(c->host, p->free_slots, CK_SLOTS * sizeof *p->free_slots);
	if (p->todo)
		c->host->free(c->host, p->todo, CK_SLOTS * sizeof *p->todo);
	p->slots = NULL;
	p->free_slots = NULL;
	p->todo = NULL;
}

static int checksum_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct ck_peer *p = ck_peer_of(inst, peer);
	struct ck *c = inst;

	memset(p, 0, sizeof *p);
	p->peer = peer;
	p->passive = args->passive;
	snprintf(p->segment, sizeof p->segment, "%s", args->segment ? args->segment : "");
	snprintf(p->device, sizeof p->device, "%s", args->remote_device ? args->remote_device : "");
	list_init(&p->want);
	list_init(&p->asked);
	if (!p->passive) {
		p->able = args->size > offsetof(struct mc_peer_args, remote_filters) &&
			  has_word(args->remote_filters, "checksum");
		if (p->able && slots_new(c, p) < 0) {
			peer_free(c, p);
			return -ENOMEM;
		}
		if (!p->able)
			warn_unable(c, p);
	}
	link_add(&c->peers, &p->link);
	return 0;
}

static void checksum_peer_close(void *inst, void *peer)
{
	struct ck_peer *p = ck_peer_of(inst, peer);

	link_del(&p->link);
	peer_free(inst, p);
}

static int checksum_peer_msg(void *inst, void *peer, const void *msg, size_t len)
{
	struct ck_peer *p = ck_peer_of(inst, peer);
	struct ck *c = inst;
	struct ckw_answer answer;
	struct ckw_ask ask;
	uint16_t nr = 0;
	int type;

	if (!ckw_is_ours(msg, len))
		return 0;
	type = ckw_parse(msg, len, &nr);
	/* Of questions and answers each end expects one kind; what is not valid is nobody's. */
	for (uint16_t i = 0; i < nr && p->passive && (type == CKW_ASK || type == CKW_NARROW); i++) {
		if (c->stopped || ckw_ask_get(msg, i, &ask) < 0)
			break;
		ck_asked(c, p, &ask, type == CKW_NARROW);
	}
	for (uint16_t i = 0; i < nr && !p->passive && type == CKW_ANSWER; i++) {
		ckw_answer_get(msg, i, &answer);
		ck_answered(c, p, &answer);
	}
	if (!p->passive && type == CKW_NARROWED)
		ck_narrowed(c, p, msg, nr);
	return 1;
}

/* ---- life --------------------------------------------------------------------------------------------- */

enum { OPT_SAMPLE, OPT_RETRIES };
static const struct mc_option checksum_options[] = {
	[OPT_SAMPLE] = {.name = "sample", .type = MC_OPT_FLOAT, .def = "0.05", .min = 0, .max = 1,
			.doc = "Share of slices that are verified; verify = full means 1."},
	[OPT_RETRIES] = {.name = "retries", .type = MC_OPT_INT, .def = "2", .min = 0, .max = 100,
			 .doc = "How often a slice that has arrived wrong is sent again on the same rail."},
	{.name = NULL},
};

static int checksum_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
			 const struct mc_filter_next *next, struct mc_transport_caps *caps, struct mc_error *err)
{
	struct ck *c = inst;

	c->host = host;
	c->next = next;
	c->sample = args->options[OPT_SAMPLE].d;
	c->retries = (uint32_t)args->options[OPT_RETRIES].i;
	c->generation = args->generation;
	c->flushes = caps->visibility == MC_VISIBLE_AFTER_FLUSH;
	list_init(&c->peers);
	list_init(&c->ready);
	list_init(&c->again);
	c->timer = (struct mc_timer){.size = sizeof c->timer, .fire = on_timer, .user = c};
	c->verified = host->counter(host, "checksum_verified", "Slices whose bytes were compared and equal.");
	c->bytes = host->counter(host, "checksum_bytes", "Bytes of these.");
	c->mismatches = host->counter(host, "checksum_mismatches", "Slices that had arrived wrong.");
	c->repaired = host->counter(host, "checksum_repaired", "Slices that were right when sent again.");
	c->given_up = host->counter(host, "checksum_failed", "Slices that stayed wrong: failed with EBADMSG.");
	c->unverified = host->counter(host, "checksum_unverified", "Slices that could not be compared.");
	c->answered = host->counter(host, "checksum_answered", "Ranges hashed for peers.");
	caps->flags &= ~MC_CAP_SYNC;
	return 0;
}

static void checksum_close(void *inst)
{
	struct ck *c = inst;

	c->host->timer_set(c->host, &c->timer, 0);
}

static void checksum_stop(void *inst)
{
	((struct ck *)inst)->stopped = true;
}

static const struct mc_filter_ops checksum_ops = {
	.size = sizeof checksum_ops,
	.instance_size = sizeof(struct ck),
	.slice_size = sizeof(struct ck_op),
	.peer_size = sizeof(struct ck_peer),
	.open = checksum_open,
	.close = checksum_close,
	.submit = checksum_submit,
	.progress = checksum_progress,
	.arm = checksum_arm,
	.cancel = checksum_cancel,
	.fence = checksum_fence,
	.completed = checksum_completed,
	.stop = checksum_stop,
	.peer_open = checksum_peer_open,
	.peer_close = checksum_peer_close,
	.peer_msg = checksum_peer_msg,
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = "checksum",
	.version = MC_VERSION,
	.summary = "compares what was moved at both ends, by XXH3",
	.ops = &checksum_ops,
	.options = checksum_options,
};
