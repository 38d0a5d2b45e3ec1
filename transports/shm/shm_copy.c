/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: slices.  Memory that is mapped here is copied in submit; slices for memory of another
 * process gather there, and flush moves many of them in one system call.
 *
 * Before each chunk of at most SHM_CHUNK both slots are looked at, and the clock: a process that was
 * frozen touches nothing more, for its peers may have given it up meanwhile (P2).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <sys/uio.h>
#include <utlist.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "shm.h"

/* From here on a copy goes past the caches, unless it goes where one of the last has gone: what is so
 * large is rarely in them, and a line that is written whole need not be read first.  README.md has
 * figures. */
#define STREAM_FROM (UINT64_C(256) << 10)
#define LINE 64u
#define AHEAD 1024u /* bytes */

static uint64_t boot_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * MC_SEC + (uint64_t)t.tv_nsec;
}

bool shm_was_frozen(struct shm *x)
{
	uint64_t now = boot_ns(), last = x->look_ns;

	x->look_ns = now;
	x->unlooked = 0;
	return last && now - last > x->peer_timeout_ns / 2;
}

static void frozen(struct shm *x)
{
	struct shm_peer *p;

	DL_FOREACH(x->peers, p)
		if (!p->passive)
			shm_peer_break(p, -ETIMEDOUT, "this process was frozen");
}

/* Odd from here on: a target that empties a slot waits until the flag changes, or we see that it is
 * empty.  Both sides write their own word and then read the other's, all of it in the one order that
 * sequential consistency gives: not both can miss the other. */
static void flag_raise(struct shm *x)
{
	uint64_t v = atomic_load_explicit(x->flag, memory_order_relaxed);

	atomic_exchange(x->flag, v + 1);
}

static void flag_lower(struct shm *x)
{
	uint64_t v = atomic_load_explicit(x->flag, memory_order_relaxed);

	atomic_store_explicit(x->flag, v + 1, memory_order_release);
}

/* With the flag raised.  0: what the remote stands for may be touched. */
static inline int slots_look(const struct shm_peer *p, const struct shm_remote *r)
{
	if (MC_UNLIKELY(atomic_load(&p->table[p->slot]) != p->key))
		return -ENOTCONN;
	return MC_LIKELY(atomic_load(&p->table[r->slot]) == r->key) ? 0 : -EACCES;
}

/* ---- copying -------------------------------------------------------------------------------------- */

#ifdef __SSE2__
static void copy_line(char *to, const char *from)
{
	__m128i a = _mm_loadu_si128((const __m128i *)from), b = _mm_loadu_si128((const __m128i *)(from + 16));
	__m128i c = _mm_loadu_si128((const __m128i *)(from + 32)), d = _mm_loadu_si128((const __m128i *)(from + 48));

	_mm_stream_si128((__m128i *)to, a);
	_mm_stream_si128((__m128i *)(to + 16), b);
	_mm_stream_si128((__m128i *)(to + 32), c);
	_mm_stream_si128((__m128i *)(to + 48), d);
}

/* Streaming stores are weakly ordered: the fence puts them before all that comes after, the lowering
 * of the flag and the completion included (Intel SDM vol. 1, 10.4.6.2). */
static void copy_large(char *to, const char *from, size_t len)
{
	size_t head = -(uintptr_t)to % LINE;

	memcpy(to, from, head);
	to += head;
	from += head;
	len -= head;
	for (; len >= LINE; len -= LINE) {
		_mm_prefetch(from + AHEAD, _MM_HINT_NTA);
		copy_line(to, from);
		to += LINE;
		from += LINE;
	}
	memcpy(to, from, len);
	_mm_sfence();
}
#else
static void copy_large(char *to, const char *from, size_t len)
{
	memcpy(to, from, len);
}
#endif

/* Was it written a moment ago?  Then its lines are still near. */
static bool is_recent(struct shm *x, const char *to)
{
	for (unsigned i = 0; i < SHM_RECENT; i++)
		if (x->recent[i] == to)
			return true;
	x->recent[x->nr_recent++ % SHM_RECENT] = to;
	return false;
}

static void copy(struct shm *x, char *to, const char *from, size_t len)
{
	if (len < STREAM_FROM || is_recent(x, to))
		memcpy(to, from, len);
	else
		copy_large(to, from, len);
}

/* ---- mapped memory -------------------------------------------------------------------------------- */

static int refused(struct shm *x, struct shm_peer *p, int status)
{
	mc_counter_add(x->c_refused, 1);
	if (status == -ENOTCONN)
		shm_peer_break(p, -ECONNRESET, "the other end has closed the connection");
	return status;
}

static int copy_mapped(struct shm *x, struct shm_peer *p, const struct shm_remote *r, const struct mc_slice *s)
{
	char *there = r->map + (s->remote_offset - r->base), *here = s->local;
	bool write = s->opcode == MC_OP_WRITE;
	uint64_t done = 0;

	while (done < s->len) {
		uint64_t n = MC_MIN(s->len - done, SHM_CHUNK);
		int status;

		x->unlooked += n + SHM_LOOK_EVERY;
		if (MC_UNLIKELY(x->unlooked > SHM_CHUNK) && MC_UNLIKELY(shm_was_frozen(x))) {
			frozen(x);
			return -ENOTCONN;
		}
		flag_raise(x);
		status = slots_look(p, r);
		if (MC_LIKELY(status == 0))
			copy(x, write ? there + done : here + done, write ? here + done : there + done, n);
		flag_lower(x);
		if (MC_UNLIKELY(status < 0))
			return refused(x, p, status);
		done += n;
	}
	mc_counter_add(x->c_mapped, s->len);
	return MC_DONE;
}

/* [worker] */
int shm_submit(void *inst, struct mc_slice *s)
{
	struct shm *x = inst;
	struct shm_peer *p = s->peer;
	const struct shm_remote *r = s->remote;
	struct shm_op *op = s->priv;
	uint32_t need = s->opcode == MC_OP_WRITE ? MC_ACCESS_REMOTE_WRITE : MC_ACCESS_REMOTE_READ;

	if (MC_UNLIKELY(x->stopped))
		return -ESHUTDOWN;
	if (MC_UNLIKELY(p->state != SHM_READY))
		return -ENOTCONN;
	if (MC_UNLIKELY(s->len > x->max_slice))
		return -EMSGSIZE;
	if (MC_UNLIKELY(s->opcode >= MC_OP_COUNT))
		return -EINVAL;
	if (MC_UNLIKELY(!(r->access & need) || !mc_range_inside(r->base, r->len, s->remote_offset, s->len)))
		return refused(x, p, -EACCES);
	if (MC_UNLIKELY(!s->len))
		return MC_DONE;
	if (r->map)
		return copy_mapped(x, p, r, s);
	if (MC_UNLIKELY(!p->attach))
		return refused(x, p, -EACCES);
	*op = (struct shm_op){.slice = s};
	*x->queue_tail = op;
	x->queue_tail = &op->next;
	return 0;
}

/* ---- memory of another process ------------------------------------------------------------------------ */

static void op_end(struct shm *x, struct shm_op *op, int status, int scope)
{
	struct mc_slice *s = op->slice;

	x->host->complete(x->host, s, status, scope, op->done);
}

/* [worker] It ends with the next flush, or progress. */
int shm_cancel(void *inst, struct mc_slice *s)
{
	(void)inst;
	((struct shm_op *)s->priv)->cancelled = true;
	return 0;
}

void shm_end_queued(struct shm *x, const struct shm_peer *p, int status, int scope)
{
	struct shm_op *list = x->queue, *mine = NULL, **tail = &mine;

	x->queue = NULL;
	x->queue_tail = &x->queue;
	while (list) {
		struct shm_op *op = list;
		bool ends = !p || op->slice->peer == p;
		struct shm_op ***to = ends ? &tail : &x->queue_tail;

		list = op->next;
		op->next = NULL;
		**to = op;
		*to = &op->next;
	}
	while (mine) {
		struct shm_op *op = mine;

		mine = op->next;
		op_end(x, op, status, scope);
	}
}

/* One system call's worth of the list, for one peer in one direction; the flag is raised.  *ret_nr
 * pieces; 0, or why the first one must not go. */
static int gather(struct shm *x, struct shm_op *first, unsigned *ret_nr)
{
	const struct mc_slice *s = first->slice;
	const struct shm_peer *p = s->peer;
	uint8_t opcode = s->opcode;
	uint64_t sum = 0;
	unsigned nr = 0;

	for (struct shm_op *op = first; op && nr < SHM_IOV && sum < SHM_CHUNK; op = op->next) {
		uint64_t n;
		int status;

		s = op->slice;
		if (s->peer != p || s->opcode != opcode || op->cancelled)
			break;
		status = slots_look(p, s->remote);
		if (status < 0) {
			if (op == first)
				return status;
			break;
		}
		n = MC_MIN(s->len - op->done, SHM_CHUNK - sum);
		x->near[nr] = (struct iovec){(char *)s->local + op->done, n};
		x->far[nr++] = (struct iovec){(void *)(uintptr_t)(s->remote_offset + op->done), n};
		sum += n;
	}
	*ret_nr = nr;
	return 0;
}

/* Bytes moved, or -errno. */
static ssize_t attach(struct shm *x, const struct shm_op *first)
{
	const struct shm_peer *p = first->slice->peer;
	struct pollfd gone[] = {{.fd = p->life.fd, .events = POLLIN}, {.fd = p->watch.fd}};
	bool write = first->slice->opcode == MC_OP_WRITE;
	unsigned nr = 0;
	ssize_t n;
	int r;

	/* A pid may be another process's by now, its descriptor never is; a program that it executes is told by the
	 * end of the stream alone. */
	if (poll(gone, MC_ARRAY_SIZE(gone), 0) != 0)
		return gone[0].revents ? -ESRCH : -ENOTCONN;
	if (shm_was_frozen(x))
		return -ETIMEDOUT;
	flag_raise(x);
	r = gather(x, (struct shm_op *)first, &nr);
	if (r < 0) {
		flag_lower(x);
		return r;
	}
	n = write ? process_vm_writev(p->pid, x->near, nr, x->far, nr, 0)
		  : process_vm_readv(p->pid, x->near, nr, x->far, nr, 0);
	r = errno;
	flag_lower(x);
	mc_counter_add(x->c_calls, 1);
	return n < 0 ? -r : n ? n : -EFAULT;
}

/* The peer is lost to us: what it has left ends in the fence. */
static void attach_broken(struct shm *x, struct shm_peer *p, int status)
{
	char remedy[200];

	if (status == -ETIMEDOUT) {
		frozen(x);
	} else if (status == -ESRCH) {
		shm_peer_break(p, -ECONNRESET, "its process has ended");
	} else if (status == -ENOTCONN) {
		refused(x, p, status);
	} else {
		shm_attach_remedy(-status, p->pid, p->uid, remedy, sizeof remedy);
		shm_peer_break(p, -EPERM, remedy);
	}
}

static void queue_add(struct shm *x, struct shm_op *op)
{
	op->next = NULL;
	*x->queue_tail = op;
	x->queue_tail = &op->next;
}

/* Do what one call does for the list: what is left of it. */
static struct shm_op *run(struct shm *x, struct shm_op *op)
{
	struct shm_peer *p = op->slice->peer;
	struct shm_op *next = op->next;
	ssize_t n;

	/* The host first hears why from the peer; a slice that fails before would be all that it has to say. */
	if (p->state != SHM_READY && p->news && !op->cancelled && !x->stopped) {
		queue_add(x, op);
		return next;
	}
	if (op->cancelled || x->stopped || p->state != SHM_READY) {
		if (op->cancelled || x->stopped)
			op_end(x, op, -ECANCELED, MC_SCOPE_REQUEST);
		else
			op_end(x, op, -ECONNRESET, MC_SCOPE_PEER);
		return next;
	}
	n = attach(x, op);
	if (n == -EFAULT || n == -ENOMEM || n == -EACCES) {
		mc_counter_add(x->c_refused, 1);
		op_end(x, op, (int)n, MC_SCOPE_REQUEST);
		return next;
	}
	if (n < 0) {
		attach_broken(x, p, (int)n);
		return op; /* the peer is not ready any more */
	}
	mc_counter_add(x->c_attached, (uint64_t)n);
	while (n > 0) {
		uint64_t part = MC_MIN(op->slice->len - op->done, (uint64_t)n);

		op->done += part;
		n -= (ssize_t)part;
		if (op->done < op->slice->len)
			return op;
		next = op->next;
		op_end(x, op, 0, MC_SCOPE_NONE);
		op = next;
	}
	return op;
}

/* [worker] What completions bring waits for the next time.  From one flush to the next submit the host
 * may let pass what time it likes: it looks at the clock itself before each turn. */
void shm_flush(void *inst)
{
	struct shm *x = inst;
	struct shm_op *list = x->queue;

	x->queue = NULL;
	x->queue_tail = &x->queue;
	while (list)
		list = run(x, list);
	x->look_ns = 0;
}
