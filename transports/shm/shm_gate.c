/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: the table of what may be touched, the flags of those who touch it, and registered
 * memory.  shm.h says how table and flags work together.
 *
 * Tables and flags are memfds that are sealed before they are sent: nobody but their maker can write
 * them (F_SEAL_FUTURE_WRITE) and their maker cannot cut them short below who has mapped them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

#define POLL_NS 50000 /* between two looks at a raised flag */

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* ---- words that one process writes and others read ---------------------------------------------- */

static int words_new(const char *name, size_t size, shm_word **ret_words, int *ret_fd)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), r;
	void *map;

	if (fd < 0)
		return -errno;
	map = ftruncate(fd, (off_t)size) < 0 ? MAP_FAILED
					     : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		goto fail;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
		munmap(map, size);
		goto fail;
	}
	*ret_words = map;
	*ret_fd = fd;
	return 0;
fail:
	r = -errno;
	close(fd);
	return r;
}

const void *shm_map_words(int fd, size_t size)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	void *map;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || st.st_size < (off_t)size)
		return NULL;
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	return map == MAP_FAILED ? NULL : map;
}

int shm_flag_open(struct shm *x)
{
	return words_new("mooncake-flag", SHM_FLAG_SIZE, &x->flag, &x->flag_fd);
}

void shm_flag_close(struct shm *x)
{
	if (!x->flag)
		return;
	munmap((void *)x->flag, SHM_FLAG_SIZE);
	close(x->flag_fd);
	x->flag = NULL;
}

int shm_device_open(struct shm_device *dev)
{
	int r = words_new("mooncake-table", SHM_TABLE_SIZE, &dev->table, &dev->table_fd);

	if (r == 0)
		pthread_mutex_init(&dev->lock, NULL);
	return r;
}

void shm_device_close(struct shm_device *dev)
{
	if (!dev->table)
		return;
	munmap((void *)dev->table, SHM_TABLE_SIZE);
	close(dev->table_fd);
	dev->table = NULL;
	free(dev->regions);
	free(dev->free_slots);
	pthread_mutex_destroy(&dev->lock);
}

/* ---- slots ------------------------------------------------------------------------------------- */

static bool slots_grow(struct shm_device *dev)
{
	uint32_t cap = dev->cap_slots ? 2 * dev->cap_slots : 64;
	struct shm_region **regions = realloc(dev->regions, cap * sizeof(struct shm_region *));
	uint32_t *free_slots;

	if (!regions)
		return false;
	dev->regions = regions;
	free_slots = realloc(dev->free_slots, cap * sizeof *free_slots);
	if (!free_slots)
		return false;
	dev->free_slots = free_slots;
	dev->cap_slots = cap;
	return true;
}

/* A slot with a key that nobody can guess.  [any] */
int shm_slot_take(struct shm *x, struct shm_region *region, uint32_t *ret_slot, uint64_t *ret_key)
{
	struct shm_device *dev = x->dev;
	uint64_t key;
	uint32_t slot;
	int r = 0;

	do
		x->host->random(x->host, &key, sizeof key);
	while (!key);
	pthread_mutex_lock(&dev->lock);
	if (!dev->nr_free && dev->nr_slots == SHM_SLOTS)
		r = -ENOSPC;
	else if (!dev->nr_free && dev->nr_slots == dev->cap_slots && !slots_grow(dev))
		r = -ENOMEM;
	if (r == 0) {
		slot = dev->nr_free ? dev->free_slots[--dev->nr_free] : dev->nr_slots++;
		dev->regions[slot] = region;
		atomic_store_explicit(&dev->table[slot], key, memory_order_release);
		*ret_slot = slot;
		*ret_key = key;
	}
	pthread_mutex_unlock(&dev->lock);
	return r;
}

/* From here on nobody begins to touch what it stands for. */
void shm_slot_empty(struct shm_device *dev, uint32_t slot)
{
	pthread_mutex_lock(&dev->lock);
	dev->regions[slot] = NULL;
	atomic_store(&dev->table[slot], 0);
	pthread_mutex_unlock(&dev->lock);
}

void shm_slot_put(struct shm_device *dev, uint32_t slot)
{
	pthread_mutex_lock(&dev->lock);
	dev->free_slots[dev->nr_free++] = slot;
	pthread_mutex_unlock(&dev->lock);
}

/* ---- flags of peers ------------------------------------------------------------------------------ */

struct shm_watcher *shm_watcher_new(struct shm_device *dev, int fd)
{
	struct shm_watcher *w = calloc(1, sizeof *w);

	if (!w)
		return NULL;
	w->flag = shm_map_words(fd, SHM_FLAG_SIZE);
	if (!w->flag) {
		free(w);
		return NULL;
	}
	atomic_init(&w->refs, 1);
	pthread_mutex_lock(&dev->lock);
	w->next = dev->watchers;
	dev->watchers = w;
	pthread_mutex_unlock(&dev->lock);
	return w;
}

void shm_watcher_unref(struct shm_watcher *w)
{
	if (atomic_fetch_sub(&w->refs, 1) != 1)
		return;
	munmap((void *)(uintptr_t)w->flag, SHM_FLAG_SIZE);
	free(w);
}

void shm_watcher_drop(struct shm_device *dev, struct shm_watcher *w)
{
	struct shm_watcher **at = &dev->watchers;

	pthread_mutex_lock(&dev->lock);
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	pthread_mutex_unlock(&dev->lock);
	atomic_store(&w->dead, true);
	shm_watcher_unref(w);
}

/* All peers' flags that are to be waited for; NULL: no memory, or none. */
static struct shm_watcher **watchers_held(struct shm_device *dev, size_t *ret_nr)
{
	struct shm_watcher **list = NULL;
	size_t nr = 0;

	pthread_mutex_lock(&dev->lock);
	for (struct shm_watcher *w = dev->watchers; w; w = w->next)
		nr++;
	if (nr)
		list = malloc(nr * sizeof(struct shm_watcher *));
	nr = 0;
	for (struct shm_watcher *w = dev->watchers; list && w; w = w->next) {
		atomic_fetch_add(&w->refs, 1);
		list[nr++] = w;
	}
	pthread_mutex_unlock(&dev->lock);
	*ret_nr = nr;
	return list;
}

/* Until the copy that its flag announces, if there is one, has ended. */
static void flag_wait(const struct shm *x, const struct shm_watcher *w, uint64_t until_ns)
{
	uint64_t seen = atomic_load(w->flag);

	while (seen & 1 && atomic_load(w->flag) == seen && !atomic_load(&w->dead) &&
	       x->host->now_ns(x->host) < until_ns)
		nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
}

/* A process that is frozen inside a chunk keeps us for P6's bound; that is the stated limit of P2. */
static void flags_wait(const struct shm *x)
{
	uint64_t until = x->host->now_ns(x->host) + x->peer_timeout_ns;
	size_t nr;
	struct shm_watcher **list;

	list = watchers_held(x->dev, &nr);
	if (list) {
		for (size_t i = 0; i < nr; i++) {
			flag_wait(x, list[i], until);
			shm_watcher_unref(list[i]);
		}
		free(list);
		return;
	}
	/* None, or no memory for a list: then workers wait with us. */
	pthread_mutex_lock(&x->dev->lock);
	for (struct shm_watcher *w = x->dev->watchers; w; w = w->next)
		flag_wait(x, w, until);
	pthread_mutex_unlock(&x->dev->lock);
}

/* ---- registered memory --------------------------------------------------------------------------- */

/* A descriptor for peers to map: it cannot be cut short, other users cannot open it anew, and it allows
 * no writing that the registration does not.  -1: there is none. */
static int share_open(const struct mc_mem_desc *desc)
{
	int memfd = mc_mem_share_fd(desc), seals;
	char path[32];

	if (memfd < 0)
		return -1;
	fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK);
	seals = fcntl(memfd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return -1;
	(void)!fchmod(memfd, S_IRUSR | S_IWUSR);
	if (desc->access & MC_ACCESS_REMOTE_WRITE)
		return fcntl(memfd, F_DUPFD_CLOEXEC, 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", memfd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* [helper] */
int shm_mem_reg(void *inst, void *priv, const struct mc_mem_desc *desc, struct mc_error *err)
{
	struct shm_region *region = priv;
	struct shm *x = inst;
	int r;

	if (desc->kind && strcmp(desc->kind, "cpu") != 0)
		return mc_fail(err, -EOPNOTSUPP, "shm reaches memory of kind 'cpu', not '%s'", desc->kind);
	*region = (struct shm_region){.base = (uintptr_t)desc->addr, .len = desc->len, .share_fd = -1};
	if (x->mode != SHM_ATTACH && desc->access) {
		region->share_fd = share_open(desc);
		region->share_offset = region->share_fd < 0 ? 0 : desc->share_offset;
	}
	r = shm_slot_take(x, region, &region->slot, &region->key);
	if (r == 0)
		return 0;
	if (region->share_fd >= 0)
		close(region->share_fd);
	return mc_fail(err, r, r == -ENOSPC ? "shm holds %u buffers and peers, and no more: register fewer, larger ranges"
					    : "shm: out of memory for %u slots", SHM_SLOTS);
}

/* [helper] On return no peer touches the memory. */
void shm_mem_unreg(void *inst, void *priv)
{
	struct shm_region *region = priv;
	struct shm *x = inst;

	shm_slot_empty(x->dev, region->slot);
	flags_wait(x);
	shm_slot_put(x->dev, region->slot);
	if (region->share_fd >= 0)
		close(region->share_fd);
	region->share_fd = -1;
}

/* [helper] */
int shm_mem_export(void *inst, void *priv, void *blob, size_t cap)
{
	const struct shm_region *region = priv;
	struct shm_blob b = {.slot = region->slot, .key = region->key};

	(void)inst;
	if (cap < SHM_BLOB_SIZE)
		return -ENOSPC;
	if (region->share_fd >= 0)
		b.flags |= SHM_BLOB_MAPPED;
	shm_blob_encode(&b, blob);
	return (int)SHM_BLOB_SIZE;
}
