/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The example transport: slices, frames, and the bytes.
 *
 * Sending takes many frames and their payloads in one system call; receiving puts what is missing
 * of a payload where it belongs and what follows it into a small buffer, in one call too.  Both
 * ends send and receive alike; what a frame means is in `request` and `requested` for the target,
 * in `answer` and `answered` for the initiator.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "example.h"

#define GATHER 64 /* pieces of memory per system call */
#define TURNS 16 /* system calls until others get their turn */
#define FRAME sizeof(struct example_frame)

/* ---- queues ------------------------------------------------------------ */

void example_queue_init(struct example_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void push(struct example_queue *q, struct example_out *o)
{
	o->next = NULL;
	*q->tail = o;
	q->tail = &o->next;
}

static struct example_out *pop(struct example_queue *q)
{
	struct example_out *o = q->head;

	if (o)
		q->head = o->next;
	if (!q->head)
		q->tail = &q->head;
	return o;
}

/* ---- slices ------------------------------------------------------------ */

/* [worker] Only queue it; flush sends. */
int example_submit(void *inst, struct mc_slice *slice)
{
	struct example *x = inst;
	struct example_peer *p = slice->peer;
	struct example_op *op = slice->priv;
	bool write = slice->opcode == MC_OP_WRITE;

	if (x->stopped)
		return -ESHUTDOWN;
	if (p->state != PEER_READY)
		return -ENOTCONN;
	if (slice->len > x->max_slice)
		return -EMSGSIZE;
	if (p->nr_inflight >= x->depth) {
		p->starved = true;
		return -EAGAIN;
	}
	*op = (struct example_op){.slice = slice};
	op->out.frame = (struct example_frame){.magic = EXAMPLE_MAGIC,
					       .len = slice->len,
					       .type = write ? FRAME_WRITE : FRAME_READ,
					       .generation = p->generation,
					       .offset = slice->remote_offset};
	op->out.bytes = slice->local;
	op->out.len = write ? slice->len : 0;
	push(&p->out, &op->out);
	p->nr_inflight++;
	return 0;
}

/* The slice has ended; example_deliver tells the host. */
static void op_end(struct example *x, struct example_op *op, int status)
{
	op->status = status;
	op->over = true;
	push(&x->over, &op->out);
}

/* What broke. */
static int scope_of(int status)
{
	return status == 0 ? MC_SCOPE_NONE : status == -ECONNRESET ? MC_SCOPE_PEER : MC_SCOPE_REQUEST;
}

/* Each call of the host comes after our own lists are in order: it may submit from inside. */
int example_deliver(struct example *x)
{
	struct example_op *op;
	int nr = 0;

	for (; (op = (struct example_op *)pop(&x->over)); nr++) {
		struct mc_slice *slice = op->slice;
		struct example_peer *p = slice->peer;
		int status = op->status;
		bool room;

		p->nr_inflight--;
		room = p->starved && p->state == PEER_READY && p->nr_inflight <= x->depth / 2;
		p->starved &= !room;
		if (status == 0) {
			mc_counter_add(x->c_slices, 1);
			mc_counter_add(x->c_bytes, slice->len);
		}
		x->host->complete(x->host, slice, status,
				  scope_of(status), status == 0 ? slice->len : 0);
		if (room)
			x->host->peer_writable(x->host, p);
	}
	return nr;
}

void example_peer_end(struct example_peer *p, int status)
{
	struct example_out *o;

	if (p->passive)
		return;
	while ((o = pop(&p->sent)) || (o = pop(&p->out)))
		op_end(p->example, (struct example_op *)o, status);
}

/* [worker] What is begun must go on, or the other end takes the next frame for its payload. */
int example_cancel(void *inst, struct mc_slice *slice)
{
	struct example_op *op = slice->priv;
	struct example_peer *p = slice->peer;
	struct example_out **at = &p->out.head;

	if (op->over)
		return 0;
	while (*at && *at != &op->out)
		at = &(*at)->next;
	if (!*at || (*at == p->out.head && p->out_done))
		return -EALREADY;
	*at = op->out.next;
	if (!*at)
		p->out.tail = at;
	op_end(inst, op, -ECANCELED);
	return 0;
}

/* ---- sending ------------------------------------------------------------ */

/* Its bytes are with the socket.  The target's answer has no more use for the user's memory. */
static void sent(struct example_peer *p, struct example_out *o)
{
	struct example_answer *a = (struct example_answer *)o;

	if (!p->passive) {
		push(&p->sent, o);
	} else if (a->held) {
		a->held = false;
		p->example->host->range_put(p->example->host, &a->range);
	}
}

void example_release(struct example_peer *p)
{
	for (unsigned i = 0; i < EXAMPLE_ANSWERS; i++) {
		if (p->answers[i].held)
			p->example->host->range_put(p->example->host, &p->answers[i].range);
		p->answers[i].held = false;
	}
}

/* What is left of an out after `skip` bytes; at most two pieces. */
static size_t gather(struct iovec *iov, struct example_out *o, uint64_t skip)
{
	size_t nr = 0;

	if (skip < FRAME)
		iov[nr++] = (struct iovec){(char *)&o->frame + skip, FRAME - skip};
	skip = skip < FRAME ? 0 : skip - FRAME;
	if (skip < o->len)
		iov[nr++] = (struct iovec){(char *)o->bytes + skip, o->len - skip};
	return nr;
}

/* A system call's worth of the queue.  False: the socket takes nothing now. */
static bool send_some(struct example_peer *p)
{
	struct iovec iov[GATHER];
	struct msghdr msg = {.msg_iov = iov};
	uint64_t skip = p->out_done;
	ssize_t n;

	for (struct example_out *o = p->out.head; o && msg.msg_iovlen + 2 <= GATHER; o = o->next) {
		msg.msg_iovlen += gather(iov + msg.msg_iovlen, o, skip);
		skip = 0;
	}
	n = sendmsg(p->watch.fd, &msg, MSG_NOSIGNAL);
	if (n < 0) {
		/* A broken stream is dealt with in one place: where it is read. */
		if (errno != EAGAIN && errno != EINTR)
			shutdown(p->watch.fd, SHUT_RDWR);
		return false;
	}
	p->out_done += (uint64_t)n;
	while (p->out.head && p->out_done >= FRAME + p->out.head->len) {
		p->out_done -= FRAME + p->out.head->len;
		sent(p, pop(&p->out));
	}
	return true;
}

/* Send what is queued, and say what to wait for.  A target that has answers left does not read. */
static void send_queue(struct example_peer *p)
{
	const struct mc_host *h = p->example->host;
	uint32_t events;

	for (int i = 0; p->out.head && i < TURNS && send_some(p); i++)
		;
	events = (p->out.head ? POLLOUT : 0) | (p->passive && p->out.head ? 0 : POLLIN);
	if (events != p->watch.events && h->rewatch(h, &p->watch, events) < 0)
		shutdown(p->watch.fd, SHUT_RDWR);
}

/* [worker] A peer whose socket is full goes on when its descriptor says so. */
void example_flush(void *inst)
{
	struct example *x = inst;

	for (struct example_peer *p = x->peers; p; p = p->next)
		if (p->state == PEER_READY && p->out.head && !(p->watch.events & POLLOUT))
			send_queue(p);
}

/* ---- what a frame means ------------------------------------------------------------ */

/* Target: a request.  The host checks the range, and holds the memory until we are done. */
static int request(struct example_peer *p, const struct example_frame *f)
{
	const struct mc_host *h = p->example->host;
	struct example_answer *a = &p->answers[p->answer_idx];
	bool write = f->type == FRAME_WRITE;
	int r;

	if (!write && f->type != FRAME_READ)
		return -EPROTO;
	*a = (struct example_answer){.range = {.size = sizeof a->range}};
	r = h->range_get(h, p, f->generation, f->offset, f->len,
			 write ? MC_ACCESS_REMOTE_WRITE : MC_ACCESS_REMOTE_READ, &a->range);
	a->held = r == 0;
	if (r == 0 && strcmp(a->range.kind, "cpu") != 0)
		r = -EACCES; /* our caps say that we do not reach it */
	if (r < 0)
		mc_counter_add(p->example->c_refused, 1);
	a->out.frame = (struct example_frame){.magic = EXAMPLE_MAGIC,
					      .type = FRAME_DONE,
					      .status = (uint16_t)-r};
	p->place = r == 0 ? a->range.addr : NULL;
	p->missing = write ? f->len : 0;
	if (!write && r == 0) {
		a->out.frame.len = a->out.len = f->len;
		a->out.bytes = a->range.addr;
	}
	return 0;
}

/* Target: the request is complete, with its payload. */
static void requested(struct example_peer *p)
{
	push(&p->out, &p->answers[p->answer_idx].out);
	p->answer_idx = (p->answer_idx + 1) % EXAMPLE_ANSWERS;
}

/* Initiator: the answer to the oldest slice that was sent. */
static int answer(struct example_peer *p, const struct example_frame *f)
{
	struct example_op *op = (struct example_op *)p->sent.head;
	bool reads;

	if (!op || f->type != FRAME_DONE)
		return -EPROTO;
	op->status = -(int)f->status;
	if (f->status && f->status != EACCES && f->status != ESTALE)
		op->status = -EIO; /* whatever else a stranger says */
	reads = op->slice->opcode == MC_OP_READ && op->status == 0;
	if (f->len != (reads ? op->slice->len : 0))
		return -EPROTO;
	p->place = op->slice->local;
	p->missing = f->len;
	return 0;
}

static void answered(struct example_peer *p)
{
	struct example_op *op = (struct example_op *)pop(&p->sent);

	op_end(p->example, op, op->status);
}

/* ---- receiving ------------------------------------------------------------ */

/* Handle what is in the buffer; a part of a frame stays there.  -EPROTO: this is no frame. */
static int handle(struct example_peer *p)
{
	struct example_frame frame;
	size_t at = 0, n;
	int r;

	for (;;) {
		if (!p->in_payload) {
			if (p->in_len - at < FRAME)
				break;
			memcpy(&frame, p->in + at, FRAME);
			at += FRAME;
			if (frame.magic != EXAMPLE_MAGIC)
				return -EPROTO;
			r = p->passive ? request(p, &frame) : answer(p, &frame);
			if (r < 0)
				return r;
			p->in_payload = true;
		}
		n = p->missing < p->in_len - at ? (size_t)p->missing : p->in_len - at;
		if (p->place && n) {
			memcpy(p->place, p->in + at, n);
			p->place += n;
		}
		p->missing -= n;
		at += n;
		if (p->missing)
			break;
		p->in_payload = false;
		if (p->passive)
			requested(p);
		else
			answered(p);
	}
	p->in_len -= at;
	memmove(p->in, p->in + at, p->in_len);
	return 0;
}

/* One system call.  1: something came; 0: nothing is there; or -errno. */
static int receive(struct example_peer *p)
{
	bool direct = p->in_payload && p->place;
	struct iovec iov[2] = {{p->place, direct ? p->missing : 0},
			       {p->in + p->in_len, EXAMPLE_IN - p->in_len}};
	ssize_t n = readv(p->watch.fd, iov, 2);
	size_t placed;
	int r;

	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	placed = (size_t)n < iov[0].iov_len ? (size_t)n : iov[0].iov_len;
	if (placed) {
		p->place += placed;
		p->missing -= placed;
	}
	p->in_len += (size_t)n - placed;
	r = handle(p);
	return r < 0 ? r : 1;
}

/* [worker] The stream can be read or written, or is broken. */
void example_stream_ready(struct mc_watch *watch, uint32_t revents)
{
	struct example_peer *p = watch->user;
	struct example *x = p->example;
	int r = revents & (POLLHUP | POLLERR) ? -ECONNRESET : 1;

	for (int i = 0; r > 0 && i < TURNS; i++) {
		send_queue(p);
		if (p->passive && p->out.head)
			break;
		r = receive(p);
	}
	if (r >= 0)
		send_queue(p);
	else
		example_peer_break(p, r,
				   r == -EPROTO ? "the other end sent no frame of ours"
						: "the connection was lost");
	example_deliver(x);
}
