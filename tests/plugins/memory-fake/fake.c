/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test-only memory kind `fake`: host memory that poses as device memory.  The
 * address that users see is mapped PROT_NONE, so a CPU touch faults; the data
 * live in a memfd with a hidden alias.  Copies run on a thread of their own and
 * answer through host->copied; the memfd is what export_dmabuf gives.
 */
#include <mooncake/memory.h>

#include <core/util/check.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct block {
	struct block *next;
	unsigned char *addr, *alias;
	uint64_t len;
	int32_t ordinal;
	int fd;
};

struct fake {
	const struct mc_host *host;
	int64_t count, sync_below, depth, piece;
	int64_t nr_pinned;
	uint64_t *nr_flushes, *nr_copies;
	pthread_mutex_t lock; /* everything below: operations come from any thread */
	pthread_cond_t wake;
	struct block *blocks;
	struct mc_copy *head, **tail; /* copies that wait, linked by priv[0] */
	int64_t nr_waiting;
	pthread_t thread;
	bool running, quit;
};

/* ---- blocks --------------------------------------------------------------------------------- */

/* The block that holds all of the range: 0; none of it: -ENOENT; a part of it: -EINVAL. */
static int block_find(const struct fake *f, const void *addr, uint64_t len, struct block **ret)
{
	for (struct block *b = f->blocks; b; b = b->next) {
		if (mc_range_inside((uintptr_t)b->addr, b->len, (uintptr_t)addr, len)) {
			*ret = b;
			return 0;
		}
		if (mc_range_overlaps((uintptr_t)b->addr, b->len, (uintptr_t)addr, len))
			return -EINVAL;
	}
	return -ENOENT;
}

static void block_free(struct block *b)
{
	if (b->addr)
		munmap(b->addr, b->len);
	if (b->alias)
		munmap(b->alias, b->len);
	if (b->fd >= 0)
		close(b->fd);
	free(b);
}

static int block_map(struct block *b)
{
	void *p;

	b->fd = memfd_create("mooncake-fake", MFD_CLOEXEC);
	if (b->fd < 0 || ftruncate(b->fd, (off_t)b->len) < 0)
		return -errno;
	p = mmap(NULL, b->len, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	b->alias = p;
	p = mmap(NULL, b->len, PROT_NONE, MAP_SHARED, b->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	b->addr = p;
	return 0;
}

static int fake_alloc(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct fake *f = inst;
	struct block *b;
	int r;

	if (desc->ordinal < -1 || desc->ordinal >= f->count)
		return mc_fail(err, -ENODEV, "location 'fake:%d' does not exist: there are %d", desc->ordinal,
			       (int)f->count);
	if (!desc->len)
		return mc_fail(err, -EINVAL, "cannot allocate 0 bytes of kind 'fake'");
	b = calloc(1, sizeof *b);
	if (!b)
		return mc_fail(err, -ENOMEM, "no memory");
	b->fd = -1;
	b->len = mc_round_up(desc->len, 4096);
	b->ordinal = MC_MAX(desc->ordinal, 0);
	r = block_map(b);
	if (r < 0) {
		block_free(b);
		return mc_fail(err, r, "cannot map %llu bytes of kind 'fake': %s",
			       (unsigned long long)desc->len, strerror(-r));
	}
	pthread_mutex_lock(&f->lock);
	b->next = f->blocks;
	f->blocks = b;
	pthread_mutex_unlock(&f->lock);
	desc->addr = b->addr;
	desc->kind = "fake";
	desc->ordinal = b->ordinal;
	return 0;
}

static void fake_free(void *inst, struct mc_mem_desc *desc)
{
	struct fake *f = inst;
	struct block **p, *b;

	pthread_mutex_lock(&f->lock);
	for (p = &f->blocks; *p && (*p)->addr != desc->addr; p = &(*p)->next)
		;
	b = *p;
	if (b)
		*p = b->next;
	pthread_mutex_unlock(&f->lock);
	if (b)
		block_free(b);
}

static int fake_identify(void *inst, const void *addr, uint64_t len, struct mc_mem_desc *desc)
{
	struct fake *f = inst;
	struct block *b = NULL;
	int r;

	pthread_mutex_lock(&f->lock);
	r = block_find(f, addr, len, &b);
	if (r == 0) {
		desc->kind = "fake";
		desc->ordinal = b->ordinal;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_export_dmabuf(void *inst, struct mc_mem_desc *desc, struct mc_error *err)
{
	struct fake *f = inst;
	struct block *b = NULL;
	int r;

	pthread_mutex_lock(&f->lock);
	r = block_find(f, desc->addr, desc->len, &b);
	if (r == 0) {
		desc->dmabuf_fd = fcntl(b->fd, F_DUPFD_CLOEXEC, 3);
		desc->dmabuf_offset = (uint64_t)((unsigned char *)desc->addr - b->addr);
		r = desc->dmabuf_fd < 0 ? -errno : 0;
	}
	pthread_mutex_unlock(&f->lock);
	return r < 0 ? mc_fail(err, r, "address %p is not memory of kind 'fake'", desc->addr) : 0;
}

/* ---- copies ------------------------------------------------------------------------------------ */

static int copy_now(struct fake *f, const struct mc_copy *c)
{
	struct block *b = NULL;
	unsigned char *mem;
	int r;

	pthread_mutex_lock(&f->lock);
	r = block_find(f, c->mem, c->len, &b);
	mem = r == 0 ? b->alias + ((unsigned char *)c->mem - b->addr) : NULL;
	pthread_mutex_unlock(&f->lock);
	if (r < 0)
		return r == -ENOENT ? -EFAULT : r;
	memcpy(c->to_host ? c->hostptr : mem, c->to_host ? (void *)mem : c->hostptr, c->len);
	return 0;
}

static void *copy_thread(void *arg)
{
	struct fake *f = arg;

	pthread_mutex_lock(&f->lock);
	while (!f->quit || f->head) {
		struct mc_copy *c = f->head;
		int r;

		if (!c) {
			pthread_cond_wait(&f->wake, &f->lock);
			continue;
		}
		f->head = c->priv[0];
		if (!f->head)
			f->tail = &f->head;
		f->nr_waiting--;
		pthread_mutex_unlock(&f->lock);
		r = copy_now(f, c);
		f->host->copied(f->host, c, r);
		pthread_mutex_lock(&f->lock);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static int fake_copy(void *inst, struct mc_copy *c)
{
	struct fake *f = inst;
	int r = 0;

	if ((int64_t)c->len < f->sync_below) {
		r = copy_now(f, c);
		return r < 0 ? r : MC_DONE;
	}
	pthread_mutex_lock(&f->lock);
	if (f->nr_waiting >= f->depth)
		r = -EAGAIN;
	else if (!f->running && pthread_create(&f->thread, NULL, copy_thread, f))
		r = -ENOMEM;
	else
		f->running = true;
	if (r == 0) {
		c->priv[0] = NULL;
		*f->tail = c;
		f->tail = (struct mc_copy **)&c->priv[0];
		f->nr_waiting++;
		mc_counter_add(f->nr_copies, 1);
		pthread_cond_signal(&f->wake);
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int fake_flush(void *inst, const struct mc_mem_desc *desc)
{
	struct fake *f = inst;
	struct block *b = NULL;
	int r = 0;

	if (desc->ordinal < -1 || desc->ordinal >= f->count)
		return -ENODEV;
	pthread_mutex_lock(&f->lock);
	if (desc->len)
		r = block_find(f, desc->addr, desc->len, &b);
	mc_counter_add(f->nr_flushes, 1);
	pthread_mutex_unlock(&f->lock);
	return r == -ENOENT ? -EFAULT : r;
}

/* ---- the rest ------------------------------------------------------------------------------------ */

/* Pieces begin at multiples of the option from the block's start. */
static int fake_extent(void *inst, const struct mc_mem_desc *desc, uint64_t *ret_len)
{
	struct fake *f = inst;
	struct block *b = NULL;
	uint64_t piece, at = 0;
	int r;

	pthread_mutex_lock(&f->lock);
	r = block_find(f, desc->addr, desc->len, &b);
	if (r == 0)
		at = (uint64_t)((unsigned char *)desc->addr - b->addr);
	pthread_mutex_unlock(&f->lock);
	piece = f->piece ? (uint64_t)f->piece - at % (uint64_t)f->piece : desc->len;
	*ret_len = MC_MIN(piece, desc->len);
	return r;
}

/* Pinning is only counted. */
static int fake_pin(void *inst, void *addr, uint64_t len)
{
	struct fake *f = inst;

	(void)addr;
	(void)len;
	__atomic_fetch_add(&f->nr_pinned, 1, __ATOMIC_RELAXED);
	return 0;
}

static void fake_unpin(void *inst, void *addr)
{
	struct fake *f = inst;

	(void)addr;
	__atomic_fetch_sub(&f->nr_pinned, 1, __ATOMIC_RELAXED);
}

enum { OPT_COUNT, OPT_SYNC_BELOW, OPT_DEPTH, OPT_PIECE };
static const struct mc_option options[] = {
	[OPT_COUNT] = { .name = "count", .type = MC_OPT_INT, .def = "2", .min = 0, .max = 64,
			.doc = "How many devices of the kind there are; 0: opening fails with -ENODEV." },
	[OPT_SYNC_BELOW] = { .name = "sync_below", .type = MC_OPT_SIZE, .def = "0", .max = INT64_MAX,
			     .doc = "Smaller copies finish inside the call." },
	[OPT_DEPTH] = { .name = "depth", .type = MC_OPT_INT, .def = "64", .min = 1, .max = 65536,
			.doc = "Copies that may wait; further ones are answered with -EAGAIN." },
	[OPT_PIECE] = { .name = "piece", .type = MC_OPT_SIZE, .def = "0", .max = INT64_MAX,
			.doc = "Devices register memory in pieces of this size; 0: at once." },
	{ .name = NULL },
};

static int fake_open(void *inst, const struct mc_host *host, const struct mc_open_args *args,
		     struct mc_error *err)
{
	struct fake *f = inst;

	f->host = host;
	f->count = args->options[OPT_COUNT].i;
	f->sync_below = args->options[OPT_SYNC_BELOW].i;
	f->depth = args->options[OPT_DEPTH].i;
	f->piece = args->options[OPT_PIECE].i;
	if (!f->count)
		return mc_fail(err, -ENODEV, "memory 'fake': no device: option 'count' is 0");
	f->tail = &f->head;
	f->nr_flushes = host->counter(host, "flushes", "Calls of flush.");
	f->nr_copies = host->counter(host, "copies", "Copies that ran on the thread.");
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->wake, NULL);
	return 0;
}

static void fake_close(void *inst)
{
	struct fake *f = inst;

	if (f->nr_pinned > 0) {
		fprintf(stderr, "memory-fake: %lld pinned ranges were left\n", (long long)f->nr_pinned);
		abort();
	}
	pthread_mutex_lock(&f->lock);
	f->quit = true;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
	if (f->running)
		pthread_join(f->thread, NULL);
	while (f->blocks) {
		struct block *b = f->blocks;

		f->blocks = b->next;
		block_free(b);
	}
	pthread_cond_destroy(&f->wake);
	pthread_mutex_destroy(&f->lock);
}

static int fake_count(void *inst)
{
	return (int)((struct fake *)inst)->count;
}

/* The devices sit on PCI buses 00, 01, ...: the bus number tells how far away another is. */
static int fake_distance(void *inst, int32_t ordinal, const char *pci)
{
	char *end;
	long bus;

	if (!pci || strlen(pci) < 7 || ordinal < 0)
		return -1;
	bus = strtol(pci + 5, &end, 16);
	return *end == ':' ? abs((int)bus - ordinal) : -1;
}

static const struct mc_memory_ops fake_ops = {
	.size = sizeof fake_ops,
	.instance_size = sizeof(struct fake),
	.open = fake_open,
	.close = fake_close,
	.count = fake_count,
	.identify = fake_identify,
	.alloc = fake_alloc,
	.free = fake_free,
	.copy = fake_copy,
	.export_dmabuf = fake_export_dmabuf,
	.flush = fake_flush,
	.distance = fake_distance,
	.extent = fake_extent,
	.pin = fake_pin,
	.unpin = fake_unpin,
};

static const char *const kinds[] = { "fake", NULL };

const struct mc_plugin_desc mc_plugin_desc = {
	MC_PLUGIN_HEAD(MC_KIND_MEMORY),
	.name = "fake",
	.version = "0.1.0",
	.summary = "tests only: host memory posing as device memory",
	.ops = &fake_ops,
	.options = options,
	.memory = kinds,
};
