/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport between engines of one process, by memcpy, and, with one BENT_*
 * defined, one that breaks the contract in one way: check-plugin must find it, by
 * the check that is there for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mooncake/transport.h>

#ifndef NAME
#define NAME "bent"
#endif
#define DEPTH 64

/* ---- what loading it does -------------------------------------------------------------------- */

#if defined(BENT_PRINTS) || defined(BENT_STARTS) || defined(BENT_OPENS) || defined(BENT_SIGNAL) || \
	defined(BENT_ENV) || defined(BENT_WRITES)
static void *idle(void *arg)
{
	pause();
	return arg;
}

__attribute__((constructor)) static void loaded(void)
{
	pthread_t thread;
	int fd = -1;

	(void)idle;
	(void)thread;
#if defined(BENT_PRINTS)
	puts("bent 1.0 is here");
#elif defined(BENT_STARTS)
	pthread_create(&thread, NULL, idle, NULL);
#elif defined(BENT_OPENS)
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	(void)fd;
#elif defined(BENT_SIGNAL)
	signal(SIGUSR1, SIG_IGN);
#elif defined(BENT_ENV)
	setenv("BENT", "1", 1);
#elif defined(BENT_WRITES)
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (write(fd, "here", 4) == 4)
		close(fd);
#endif
	(void)fd;
}
#endif

#ifdef BENT_EXPORTS
extern __attribute__((visibility("default"))) int bent_version;
int bent_version = 1;
#endif

#ifdef BENT_LINKS
const char *mc_version(void);
#endif

/* ---- the transport --------------------------------------------------------------------------- */

struct op {
	struct op *next;
	struct mc_slice *slice;
	void *to;
	const void *from;
	uint64_t len;
	void *peer;
};

struct peer {
	struct peer *next;
	bool starved; /* was told -EAGAIN */
};

struct bent {
	const struct mc_host *host;
	struct peer *news;
	struct op *queue, **tail;
	unsigned nr;
	bool stopped;
	struct op ghosts[DEPTH]; /* BENT_GHOST: what it still copies when it must not */
	unsigned nr_ghosts;
	int fd;
	struct mc_timer timer;
};

static int bent_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_transport_caps *caps, struct mc_error *err)
{
	static const char *const kinds[] = {"cpu", NULL};
	struct bent *b = inst;

	b->host = host;
	b->tail = &b->queue;
	b->fd = -1;
#if defined(BENT_LEAKS_FD)
	if (fcntl(0, F_DUPFD_CLOEXEC, 3) < 0)
		return mc_fail(err, -errno, "no descriptor");
#elif defined(BENT_LEAKS_MEMORY)
	*(void *volatile *)&b->ghosts[0].to = malloc(100);
	b->ghosts[0].to = NULL;
#elif defined(BENT_KEEPS)
	if (!host->alloc(host, 4096))
		return mc_fail(err, -ENOMEM, "no memory");
#elif defined(BENT_HANGS)
	pause();
#elif defined(BENT_INHERITS)
	b->fd = dup(0);
#elif defined(BENT_LINKS)
	if (!mc_version())
		return mc_fail(err, -ENODEV, "no version");
#endif
	caps->flags = MC_CAP_READ | MC_CAP_WRITE | MC_CAP_CPU_COPY | MC_CAP_TRUST;
	caps->fence = MC_FENCE_LOCAL;
	caps->visibility = MC_VISIBLE_AT_COMPLETION;
	caps->local_kinds = caps->remote_kinds = kinds;
	caps->max_slice = 1 << 20;
	caps->bandwidth = UINT64_C(1) << 30;
	return 0;
}

static void bent_stop(void *inst)
{
	((struct bent *)inst)->stopped = true;
}

static void bent_close(void *inst)
{
	struct bent *b = inst;

	if (b->fd >= 0)
		close(b->fd);
}

static int bent_mem_reg(void *inst, void *region, const struct mc_mem_desc *desc,
			struct mc_error *err)
{
#ifdef BENT_HELPER
	struct bent *b = inst;

	b->host->timer_set(b->host, &b->timer, 0);
#endif
	return 0;
}

static int bent_peer_open(void *inst, void *priv, const struct mc_peer_args *args)
{
	struct bent *b = inst;
	struct peer *p = priv;

#ifdef BENT_WAITS
	if (!args->passive)
		return 0; /* until the other end has said that it is there */
	b->host->peer_send(b->host, priv, "here", 4);
#endif
	p->next = b->news;
	b->news = p;
	return 0;
}

#ifdef BENT_WAITS
static void bent_peer_msg(void *inst, void *priv, const void *msg, size_t len)
{
	struct bent *b = inst;
	struct peer *p = priv;

	p->next = b->news;
	b->news = p;
}
#endif

static void bent_peer_close(void *inst, void *priv)
{
	struct bent *b = inst;

	for (struct peer **p = &b->news; *p; p = &(*p)->next) {
		if (*p == priv) {
			*p = (*p)->next;
			break;
		}
	}
}

#ifdef BENT_THREAD
struct elsewhere {
	const struct mc_host *host;
	struct mc_slice *slice;
};

static void *complete_elsewhere(void *arg)
{
	struct elsewhere *e = arg;

	e->host->complete(e->host, e->slice, 0, MC_SCOPE_NONE, e->slice->len);
	return NULL;
}
#endif

static int bent_submit(void *inst, struct mc_slice *slice)
{
	struct bent *b = inst;
	struct op *op = slice->priv;
	void *remote = (void *)(uintptr_t)slice->remote_offset;

	if (b->stopped)
		return -ESHUTDOWN;
	if (slice->len > 1 << 20)
		return -EMSGSIZE;
#if defined(BENT_CRASHES)
	raise(SIGSEGV);
#elif defined(BENT_EXITS)
	exit(0);
#elif defined(BENT_INSIDE)
	b->host->complete(b->host, slice, 0, MC_SCOPE_NONE, slice->len);
	return 0;
#endif
	if (b->nr == DEPTH) {
		((struct peer *)slice->peer)->starved = true;
		return -EAGAIN;
	}
	*op = (struct op){.slice = slice, .len = slice->len, .peer = slice->peer};
	op->to = slice->opcode == MC_OP_WRITE ? remote : slice->local;
	op->from = slice->opcode == MC_OP_WRITE ? slice->local : remote;
	*b->tail = op;
	b->tail = &op->next;
	b->nr++;
	return 0;
}

/* Take the first one from the queue. */
static struct op *pop(struct bent *b)
{
	struct op *op = b->queue;

	b->queue = op->next;
	if (!b->queue)
		b->tail = &b->queue;
	b->nr--;
	return op;
}

static void finish(struct bent *b, struct op *op)
{
	struct mc_slice *slice = op->slice;
	struct peer *p = op->peer;
	bool starved = p->starved;

#ifndef BENT_IDLE
	memcpy(op->to, op->from, op->len);
#endif
#if defined(BENT_BESIDE)
	((unsigned char *)op->to)[op->len] ^= 1;
#elif defined(BENT_WRONG)
	if (op->len)
		((unsigned char *)op->to)[op->len / 2] ^= 1;
#endif
	p->starved = false;
#ifdef BENT_THREAD
	{
		struct elsewhere e = {b->host, slice};
		pthread_t thread;

		if (pthread_create(&thread, NULL, complete_elsewhere, &e) == 0)
			pthread_join(thread, NULL);
	}
#else
	b->host->complete(b->host, slice, 0, MC_SCOPE_NONE, slice->len);
#endif
#ifdef BENT_TWICE
	b->host->complete(b->host, slice, 0, MC_SCOPE_NONE, slice->len);
#endif
	if (starved)
		b->host->peer_writable(b->host, p);
}

static int bent_progress(void *inst)
{
	struct bent *b = inst;
	int n = 0;

	while (b->news) {
		struct peer *p = b->news;

		b->news = p->next;
		b->host->peer_ready(b->host, p, 0, NULL, NULL);
		n++;
	}
	while (b->nr_ghosts) {
		struct op *g = &b->ghosts[--b->nr_ghosts];

		memcpy(g->to, g->from, g->len);
		n++;
	}
	while (b->queue && b->stopped) {
		struct op *op = pop(b);

		b->host->complete(b->host, op->slice, -ECANCELED, MC_SCOPE_REQUEST, 0);
		n++;
	}
	for (int i = 0; b->queue && i < 8; i++, n++)
		finish(b, pop(b));
	return n;
}

static int bent_arm(void *inst)
{
	struct bent *b = inst;

	return b->news || b->queue || b->nr_ghosts ? -EBUSY : 0;
}

static int bent_fence(void *inst, void *peer, uint32_t epoch)
{
	struct bent *b = inst;

	/* Instances here have slices to one peer at a time; those of others end with them. */
	while (b->queue) {
		struct op *op = pop(b);

#ifdef BENT_GHOST
		b->ghosts[b->nr_ghosts++] = *op;
#endif
		b->host->complete(b->host, op->slice, -ECONNRESET, MC_SCOPE_PEER, 0);
	}
	b->host->fenced(b->host, peer, epoch);
	return 0;
}

static const struct mc_transport_ops bent_ops = {
	.size = sizeof bent_ops,
	.instance_size = sizeof(struct bent),
	.peer_size = sizeof(struct peer),
	.slice_size = sizeof(struct op),
	.open = bent_open,
	.stop = bent_stop,
	.close = bent_close,
	.mem_reg = bent_mem_reg,
	.peer_open = bent_peer_open,
	.peer_accept = bent_peer_open,
	.peer_close = bent_peer_close,
#ifdef BENT_WAITS
	.peer_msg = bent_peer_msg,
#endif
	.submit = bent_submit,
	.progress = bent_progress,
	.arm = bent_arm,
	.fence = bent_fence,
};

static const struct mc_option options[] = {
	{
		.name = "colour",
		.type = MC_OPT_INT,
		.def = "3",
		.min = 1,
		.max = 7,
#ifndef BENT_UNDOCUMENTED
		.doc = "has no effect",
#endif
	},
	{.name = NULL},
};
static const char *const memory[] = {"cpu", NULL};
static const char *const claims[] = {NAME "*", NULL};

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_TRANSPORT),
	.name = NAME,
	.version = "1.0",
	.summary = "copies between engines of one process",
	.ops = &bent_ops,
	.options = options,
	.wire = "bent",
	.wire_min = 1,
	.wire_max = 1,
	.memory = memory,
	.claims = claims,
};
