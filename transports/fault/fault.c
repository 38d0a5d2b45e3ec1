/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault filter: wraps any transport and does to its slices what a seeded plan
 * says (fault_plan.h).  It breaks promises of the transport's, never those of a
 * filter: each slice that it took ends once, a fence ends all that it holds of the
 * fenced epochs before the transport's own answer, and stop holds nothing back.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/util/check.h"
#include "fault.h"

#define OVERTAKEN_MAX 8u
#define OVERTAKEN_NS (2 * MC_MSEC) /* if nothing comes to overtake it */
#define RETRY_NS (MC_MSEC / 5)	   /* the transport had no room for a slice that was held */

/* ---- lists --------------------------------------------------------------------------------------- */

static void list_init(struct fault_link *head)
{
	head->prev = head->next = head;
}

static void insert_after(struct fault_link *at, struct fault_op *op)
{
	op->link.prev = at;
	op->link.next = at->next;
	at->next->prev = &op->link;
	at->next = &op->link;
}

static void take(struct fault *f, struct fault_op *op)
{
	op->link.prev->next = op->link.next;
	op->link.next->prev = op->link.prev;
	if (f->late == op)
		f->late = NULL;
}

static struct fault_op *op_of(struct fault_link *link)
{
	return (struct fault_op *)link;
}

static struct fault_op *first(struct fault_link *head)
{
	return head->next == head ? NULL : op_of(head->next);
}

/* In the order of due_ns, behind its equals: mostly at the end. */
static void insert_due(struct fault_link *head, struct fault_op *op, enum fault_place place, uint64_t due_ns)
{
	struct fault_link *at = head->prev;

	op->place = place;
	op->due_ns = due_ns;
	while (at != head && op_of(at)->due_ns > due_ns)
		at = at->prev;
	insert_after(at, op);
}

/* ---- peers and their streams --------------------------------------------------------------------- */

static struct fault_peer *peer_of(const struct fault *f, void *peer)
{
	return f->next->peer_priv(f->next, peer);
}

/* Nothing of it may be held back: its peer's epoch is fenced, or will be at once. */
static bool is_fenced(const struct fault *f, const struct mc_slice *s)
{
	const struct fault_peer *p = peer_of(f, s->peer);

	return p->fence_seen && s->epoch <= p->fenced;
}

static int fault_peer_open(void *inst, void *peer, const struct mc_peer_args *args)
{
	struct fault *f = inst;

	*peer_of(f, peer) = (struct fault_peer){.meant = fault_plan_peer(&f->plan, args->segment)};
	return 0;
}

static void fault_attach(void *inst, void *peer, struct mc_stream *stream)
{
	struct fault_peer *p = peer_of(inst, peer);
	struct stat st;

	if (stream->fd < 0 || fstat(stream->fd, &st) < 0)
		return;
	p->streams[p->nr_streams % FAULT_STREAMS].fd = stream->fd;
	p->streams[p->nr_streams % FAULT_STREAMS].epoch = stream->epoch;
	p->streams[p->nr_streams % FAULT_STREAMS].ino = (uint64_t)st.st_ino;
	p->nr_streams++;
}

/* The descriptor is the transport's, which may have closed it: then its number is another's. */
static bool cut_streams(struct fault *f, const struct mc_slice *s)
{
	struct fault_peer *p = peer_of(f, s->peer);
	bool cut = false;
	struct stat st;

	for (uint32_t i = 0; i < MC_MIN(p->nr_streams, FAULT_STREAMS); i++)
		if (p->streams[i].epoch == s->epoch && fstat(p->streams[i].fd, &st) == 0 &&
		    S_ISSOCK(st.st_mode) && (uint64_t)st.st_ino == p->streams[i].ino)
			cut |= shutdown(p->streams[i].fd, SHUT_RDWR) == 0;
	return cut;
}

/* ---- completions on their way up ------------------------------------------------------------------- */

static void tell(struct fault *f, struct fault_op *op)
{
	f->next->complete(f->next, op->slice, op->status, op->scope, op->done_len);
}

/* Tell it in the next turn: for what ends inside submit or cancel. */
static void tell_soon(struct fault *f, struct fault_op *op, int status, int scope)
{
	op->status = status;
	op->scope = scope;
	op->done_len = 0;
	insert_due(&f->waiting, op, FAULT_WAITING, 0);
}

/* One more has overtaken the late one. */
static void overtaken(struct fault *f)
{
	struct fault_op *late = f->late;

	if (!late || --f->late_left)
		return;
	take(f, late);
	tell(f, late);
}

/* What the transport ended, unless it is kept.  True: told. */
static bool pass_up(struct fault *f, struct fault_op *op)
{
	uint64_t due = 0, now;

	if (f->stopped || op->status < 0 || is_fenced(f, op->slice)) {
		tell(f, op);
		return true;
	}
	if (fault_has(op, FAULT_LOSE)) {
		fault_count(f, FAULT_LOSE);
		op->place = FAULT_LOST;
		insert_after(&f->lost, op);
		return false;
	}
	now = f->host->now_ns(f->host);
	if (fault_has(op, FAULT_DELAY)) {
		fault_count(f, FAULT_DELAY);
		due = now + f->plan.delay_ns;
	}
	if (now < f->stalled_ns)
		due = MC_MAX(due, f->stalled_ns);
	if (fault_has(op, FAULT_REORDER) && !due && !f->late) {
		fault_count(f, FAULT_REORDER);
		f->late_left = 1 + (unsigned)fault_plan_draw(&f->plan, FAULT_REORDER, op->nth, OVERTAKEN_MAX);
		due = now + OVERTAKEN_NS;
		insert_due(&f->waiting, op, FAULT_WAITING, due);
		f->late = op;
		return false;
	}
	if (due) {
		insert_due(&f->waiting, op, FAULT_WAITING, due);
		return false;
	}
	tell(f, op);
	overtaken(f);
	return true;
}

static void fault_completed(void *inst, struct mc_slice *slice, int status, int scope, uint64_t done_len)
{
	struct fault_op *op = slice->priv;
	struct fault *f = inst;

	op->status = status;
	op->scope = scope;
	op->done_len = done_len;
	fault_returned(f, op, status);
	pass_up(f, op);
}

/* ---- slices on their way down ---------------------------------------------------------------------- */

/* The scope that goes with what a transport's submit refuses with. */
static int scope_of(int r)
{
	switch (r) {
	case -ECONNRESET:
	case -ENOTCONN:
	case -EPIPE:
		return MC_SCOPE_PEER;
	case -ENODEV:
	case -ENETDOWN:
	case -EIO:
		return MC_SCOPE_NIC;
	default:
		return MC_SCOPE_REQUEST;
	}
}

/* A flush follows the writes that were submitted before it: when it is to be held for them. */
static uint64_t flush_due(struct fault *f, const struct mc_slice *s)
{
	for (struct fault_link *l = f->held.prev; l != &f->held; l = l->prev)
		if (op_of(l)->slice->peer == s->peer)
			return op_of(l)->due_ns;
	return 0;
}

/* When it is to be sent; 0: now. */
static uint64_t send_due(struct fault *f, struct fault_op *op)
{
	uint64_t now, due = 0;

	if (f->idle || is_fenced(f, op->slice))
		return 0;
	now = f->host->now_ns(f->host);
	if (fault_has(op, FAULT_STALL)) {
		fault_count(f, FAULT_STALL);
		f->stalled_ns = MC_MAX(f->stalled_ns, now + f->plan.stall_ns);
	}
	if (fault_has(op, FAULT_HOLD)) {
		fault_count(f, FAULT_HOLD);
		due = now + f->plan.hold_ns;
	}
	if (now < f->stalled_ns)
		due = MC_MAX(due, f->stalled_ns);
	if (op->slice->flags & MC_SLICE_FLUSH)
		due = MC_MAX(due, flush_due(f, op->slice));
	return due;
}

/* To the transport now.  0: it has it, or it was kept on its way back; MC_DONE; < 0: not taken. */
static int send_now(struct fault *f, struct fault_op *op)
{
	int r = fault_send(f, op);

	if (r == 0 && fault_has(op, FAULT_KILL) && cut_streams(f, op->slice))
		fault_count(f, FAULT_KILL);
	if (r != MC_DONE)
		return r;
	fault_returned(f, op, 0);
	op->status = 0;
	op->scope = MC_SCOPE_NONE;
	op->done_len = op->sent_len;
	return MC_DONE;
}

static void set_timer(struct fault *f)
{
	const struct fault_op *h = first(&f->held), *w = first(&f->waiting);
	uint64_t due = h && w ? MC_MIN(h->due_ns, w->due_ns) : h ? h->due_ns : w ? w->due_ns : 0;

	/* What is due at once waits for progress, which arm asks for. */
	if (due && due != f->timer.deadline_ns)
		f->host->timer_set(f->host, &f->timer, due);
}

static int fault_submit(void *inst, struct mc_slice *slice)
{
	struct fault_op *op = slice->priv;
	struct fault *f = inst;
	bool counted;
	uint64_t due;
	int r;

	if (f->stopped)
		return -ESHUTDOWN;
	*op = (struct fault_op){.slice = slice};
	counted = !f->idle && f->plan.ops[slice->opcode] && !(slice->flags & MC_SLICE_FLUSH) &&
		  !is_fenced(f, slice) && peer_of(f, slice->peer)->meant;
	if (counted) {
		op->nth = ++f->nr;
		op->faults = fault_plan_decide(&f->plan, op->nth);
	}
	if (fault_has(op, FAULT_DROP)) {
		fault_count(f, FAULT_DROP);
		op->place = FAULT_LOST;
		insert_after(&f->lost, op);
		return 0;
	}
	if (fault_has(op, FAULT_FAIL)) {
		fault_count(f, FAULT_FAIL);
		tell_soon(f, op, f->plan.fail_status, f->plan.fail_scope);
		return 0;
	}
	if (fault_has(op, FAULT_KILL) && !peer_of(f, slice->peer)->nr_streams) {
		fault_count(f, FAULT_KILL);
		tell_soon(f, op, -ECONNRESET, MC_SCOPE_PEER);
		return 0;
	}
	due = send_due(f, op);
	if (due) {
		insert_due(&f->held, op, FAULT_HELD, due);
		set_timer(f);
		return 0;
	}
	r = send_now(f, op);
	if (r == -EAGAIN && counted)
		f->nr--; /* the same slice comes again */
	if (r != MC_DONE)
		return r;
	if (!op->faults && f->stalled_ns == 0)
		return MC_DONE;
	/* It ends as others do, but not from inside this call. */
	insert_due(&f->waiting, op, FAULT_ENDED, 0);
	return 0;
}

/* ---- turns ------------------------------------------------------------------------------------------ */

static int tell_due(struct fault *f, uint64_t now)
{
	struct fault_op *op;
	int nr = 0;

	while ((op = first(&f->waiting)) && op->due_ns <= now) {
		take(f, op);
		if (op->place == FAULT_ENDED)
			pass_up(f, op);
		else
			tell(f, op);
		nr++;
	}
	return nr;
}

static int send_held(struct fault *f, uint64_t now)
{
	struct fault_op *op;
	int nr = 0;

	while ((op = first(&f->held)) && op->due_ns <= now) {
		int r;

		take(f, op);
		r = send_now(f, op);
		if (r == -EAGAIN) {
			insert_due(&f->held, op, FAULT_HELD, now + RETRY_NS);
			break;
		}
		nr++;
		if (r == MC_DONE) {
			pass_up(f, op);
		} else if (r < 0) {
			op->status = r;
			op->scope = scope_of(r);
			op->done_len = 0;
			tell(f, op);
		}
	}
	if (nr)
		f->next->flush(f->next);
	return nr;
}

/* Everything that is held, of a peer's epochs or (peer NULL) of all, ends here. */
static int end_all(struct fault *f, const void *peer, uint32_t epoch, int status, int scope)
{
	struct fault_link *heads[] = {&f->held, &f->lost, &f->waiting}, ending;
	struct fault_op *op;
	int nr = 0;

	/* First out of the lists, because the host may do what it likes when it is told. */
	list_init(&ending);
	for (unsigned i = 0; i < MC_ARRAY_SIZE(heads); i++) {
		for (struct fault_link *l = heads[i]->next, *next; l != heads[i]; l = next) {
			next = l->next;
			op = op_of(l);
			if (peer && (op->slice->peer != peer || op->slice->epoch > epoch))
				continue;
			take(f, op);
			if (heads[i] != &f->waiting) {
				op->status = status;
				op->scope = scope;
				op->done_len = 0;
			}
			op->place = FAULT_WAITING;
			op->due_ns = 0;
			insert_after(ending.prev, op);
		}
	}
	while ((op = first(&ending))) {
		take(f, op);
		tell(f, op);
		nr++;
	}
	return nr;
}

static int turn(struct fault *f)
{
	uint64_t now;
	int nr;

	if (f->stopped)
		return end_all(f, NULL, 0, -ECANCELED, MC_SCOPE_REQUEST);
	if (!first(&f->waiting) && !first(&f->held))
		return 0;
	now = f->host->now_ns(f->host);
	if (now >= f->stalled_ns)
		f->stalled_ns = 0;
	nr = tell_due(f, now) + send_held(f, now);
	set_timer(f);
	return nr;
}

static void on_timer(struct mc_timer *t, uint64_t now_ns)
{
	turn(t->user);
}

static int fault_progress(void *inst)
{
	struct fault *f = inst;
	int nr = f->next->progress(f->next);

	return nr + turn(f);
}

static int fault_arm(void *inst)
{
	struct fault *f = inst;
	uint64_t now = f->host->now_ns(f->host);
	const struct fault_op *h = first(&f->held), *w = first(&f->waiting);

	if ((h && h->due_ns <= now) || (w && w->due_ns <= now))
		return -EBUSY;
	if (f->stopped && (h || w || first(&f->lost)))
		return -EBUSY;
	set_timer(f);
	return f->next->arm(f->next);
}

static int fault_cancel(void *inst, struct mc_slice *slice)
{
	struct fault_op *op = slice->priv;
	struct fault *f = inst;

	switch (op->place) {
	case FAULT_HELD:
		take(f, op);
		tell_soon(f, op, -ECANCELED, MC_SCOPE_REQUEST);
		return 0;
	case FAULT_WAITING:
	case FAULT_ENDED:
		take(f, op);
		insert_due(&f->waiting, op, FAULT_WAITING, 0);
		return 0;
	case FAULT_LOST:
		return -EALREADY; /* as if it was on the wire */
	default:
		return f->next->cancel(f->next, slice);
	}
}

static int fault_fence(void *inst, void *peer, uint32_t epoch)
{
	struct fault_peer *p = peer_of(inst, peer);
	struct fault *f = inst;

	/* From now on nothing of it is kept: what the transport ends goes straight up. */
	p->fenced = p->fence_seen ? MC_MAX(p->fenced, epoch) : epoch;
	p->fence_seen = true;
	end_all(f, peer, epoch, -ECONNRESET, MC_SCOPE_PEER);
	return f->next->fence(f->next, peer, epoch);
}

/* ---- life ------------------------------------------------------------------------------------------- */

static void say_plan(const struct fault *f)
{
	char text[512];

	fault_plan_text(&f->plan, text, sizeof text);
	if (*text)
		f->host->log(f->host, MC_LOG_WARN, "transfers are disturbed on purpose (filter fault): %s", text);
}

static int fault_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		      const struct mc_filter_next *next, struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const docs[FAULT_KINDS] = {
		[FAULT_DROP] = "Slices that the filter fault never sent.",
		[FAULT_LOSE] = "Completions that the filter fault lost.",
		[FAULT_FAIL] = "Slices that the filter fault failed.",
		[FAULT_SHORTEN] = "Slices that the filter fault shortened.",
		[FAULT_FLIP] = "Bits that the filter fault flipped.",
		[FAULT_KILL] = "Times that the filter fault cut a peer's streams.",
		[FAULT_STALL] = "Times that the filter fault stood still.",
		[FAULT_HOLD] = "Slices that the filter fault sent later.",
		[FAULT_DELAY] = "Completions that the filter fault delayed.",
		[FAULT_REORDER] = "Completions that the filter fault had others overtake.",
	};
	struct fault *f = inst;
	char name[32], text[512];

	f->host = host;
	f->next = next;
	fault_plan_init(&f->plan, args->options, args->device ? args->device : "", args->lane);
	fault_plan_text(&f->plan, text, sizeof text);
	f->idle = !*text;
	f->cpu_copy = caps->flags & MC_CAP_CPU_COPY;
	f->alignment = MC_MAX(caps->alignment, 1u);
	list_init(&f->held);
	list_init(&f->waiting);
	list_init(&f->lost);
	f->timer = (struct mc_timer){.size = sizeof f->timer, .fire = on_timer, .user = f};
	for (unsigned kind = 0; kind < FAULT_KINDS && !f->idle; kind++) {
		snprintf(name, sizeof name, "fault_%s", fault_names[kind]);
		f->counters[kind] = host->counter(host, name, docs[kind]);
	}
	if (!f->idle)
		caps->flags &= ~MC_CAP_SYNC;
	say_plan(f);
	return 0;
}

static void fault_close(void *inst)
{
	struct fault *f = inst;

	f->host->timer_set(f->host, &f->timer, 0);
}

static void fault_stop(void *inst)
{
	((struct fault *)inst)->stopped = true;
}

static const struct mc_filter_ops fault_ops = {
	.size = sizeof fault_ops,
	.instance_size = sizeof(struct fault),
	.slice_size = sizeof(struct fault_op),
	.peer_size = sizeof(struct fault_peer),
	.open = fault_open,
	.close = fault_close,
	.submit = fault_submit,
	.progress = fault_progress,
	.arm = fault_arm,
	.cancel = fault_cancel,
	.fence = fault_fence,
	.completed = fault_completed,
	.attach = fault_attach,
	.stop = fault_stop,
	.peer_open = fault_peer_open,
};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_FILTER),
	.name = "fault",
	.version = MC_VERSION,
	.summary = "for tests: drops, delays, fails, reorders and spoils slices by a seeded plan",
	.ops = &fault_ops,
	.options = fault_options,
};
