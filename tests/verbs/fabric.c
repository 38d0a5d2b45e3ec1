/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all processes share: made in a file of $MOCK_VERBS_DIR, or when the library is loaded, for
 * this process and its children.  Devices come from $MOCK_VERBS; a name that another process has
 * described already is that device.
 */
#include "mock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *const fault_names[F_COUNT] = {
	[F_DOWN] = "down", [F_CUT] = "cut", [F_SILENT] = "silent", [F_GONE] = "gone", [F_FATAL] = "fatal",
	[F_GID_CHANGE] = "gid_change", [F_NO_FLUSH] = "no_flush", [F_DELAY] = "delay", [F_SLOW_DESTROY] = "slow_destroy",
	[F_REG_ERRNO] = "reg_errno", [F_REG_AFTER] = "reg_after", [F_QP_ERRNO] = "qp_errno",
};
static const char *const setting_names[S_COUNT] = {
	[S_MTU] = "mtu", [S_WIRE_MTU] = "wire_mtu", [S_LID] = "lid", [S_INLINE] = "inline",
	[S_MAX_WR] = "max_wr", [S_MAX_SGE] = "max_sge", [S_MAX_CQE] = "max_cqe", [S_MAX_QP] = "max_qp",
	[S_MAX_MR] = "max_mr", [S_MAX_MR_SIZE] = "max_mr_size", [S_RD_ATOMIC] = "rd_atomic",
	[S_SYNC] = "sync",
	[S_DMABUF] = "dmabuf",
	[S_PEERMEM] = "peermem",
};
static const int64_t setting_defaults[S_COUNT] = {
	[S_MTU] = 4096, [S_WIRE_MTU] = 4096, [S_LID] = 0, [S_INLINE] = 256, [S_MAX_WR] = 16384,
	[S_MAX_SGE] = SGES, [S_MAX_CQE] = 1 << 20, [S_MAX_QP] = QPS, [S_MAX_MR] = MRS,
	[S_MAX_MR_SIZE] = INT64_MAX, [S_RD_ATOMIC] = 16,
};
static const char *const stat_names[N_COUNT] = {
	[N_POSTS] = "posts", [N_REQUESTS] = "requests", [N_SIGNALLED] = "signalled", [N_INLINED] = "inlined",
	[N_POLLS] = "polls", [N_COMPLETIONS] = "completions", [N_BYTES] = "bytes", [N_EVENTS] = "events",
	[N_QPS] = "qps", [N_MRS] = "mrs", [N_CQS] = "cqs",
};

static struct fabric *fabric;
static pthread_once_t fabric_once = PTHREAD_ONCE_INIT;
static int fabric_errno;

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- locks and doorbells ---------------------------------------------------------------------------- */

static void shared_lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

/* Whoever died while holding it had at most copied a part. */
void shared_lock(pthread_mutex_t *lock)
{
	if (pthread_mutex_lock(lock) == EOWNERDEAD)
		pthread_mutex_consistent(lock);
}

bool shared_trylock(pthread_mutex_t *lock)
{
	int r = pthread_mutex_trylock(lock);

	if (r == EOWNERDEAD)
		pthread_mutex_consistent(lock);
	return r == 0 || r == EOWNERDEAD;
}

void host_ring(struct host *host)
{
	atomic_fetch_add(&host->doorbell, 1);
	syscall(SYS_futex, &host->doorbell, FUTEX_WAKE, 64, NULL, NULL, 0);
}

/* ---- devices ------------------------------------------------------------------------------------------- */

static int find_name(const char *const *names, int nr, const char *name, size_t len)
{
	for (int i = 0; i < nr; i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return i;
	return -1;
}

static void add_gid(struct shared_dev *dev, const char *address, uint32_t type, bool nowhere)
{
	struct shared_gid *gid = &dev->gids[dev->nr_gids];

	if (dev->nr_gids == GIDS)
		return;
	memset(gid, 0, sizeof *gid);
	gid->type = type;
	gid->nowhere = nowhere;
	if (inet_pton(AF_INET6, address, gid->raw) == 1) {
		dev->nr_gids++;
	} else if (inet_pton(AF_INET, address, gid->raw + 12) == 1) {
		gid->raw[10] = gid->raw[11] = 0xff;
		dev->nr_gids++;
	} else {
		fprintf(stderr, "mock verbs: no address '%s'\n", address);
		abort();
	}
}

/* "v2/10.0.0.1+v1/fe80::1!" */
static void parse_gids(struct shared_dev *dev, char *text)
{
	char *save, *word;

	for (word = strtok_r(text, "+", &save); word; word = strtok_r(NULL, "+", &save)) {
		char *slash = strchr(word, '/');
		size_t len = strlen(word);
		bool nowhere = word[len - 1] == '!';

		if (!slash || slash == word) {
			fprintf(stderr, "mock verbs: gids need TYPE/ADDRESS, not '%s'\n", word);
			abort();
		}
		if (nowhere)
			word[len - 1] = '\0';
		add_gid(dev, slash + 1,
			slash[-1] == '2' ? IBV_GID_TYPE_ROCE_V2 :
			slash[-1] == '1' ? IBV_GID_TYPE_ROCE_V1 : IBV_GID_TYPE_IB, nowhere);
	}
}

static void default_gids(struct shared_dev *dev, unsigned nr)
{
	char local[64], v4[64];

	snprintf(local, sizeof local, "fe80::77:%x", nr);
	snprintf(v4, sizeof v4, "127.77.0.%u", nr);
	if (dev->infiniband) {
		add_gid(dev, local, IBV_GID_TYPE_IB, false);
		return;
	}
	add_gid(dev, local, IBV_GID_TYPE_ROCE_V1, false);
	add_gid(dev, local, IBV_GID_TYPE_ROCE_V2, false);
	add_gid(dev, v4, IBV_GID_TYPE_ROCE_V1, false);
	add_gid(dev, v4, IBV_GID_TYPE_ROCE_V2, false);
}

static void parse_word(struct shared_dev *dev, char *word)
{
	char *value = strchr(word, '=');
	size_t len = value ? (size_t)(value - word) : 0;
	int i;

	if (!value) {
		fprintf(stderr, "mock verbs: '%s' is no NAME=VALUE\n", word);
		abort();
	}
	value++;
	if (len == 2 && memcmp(word, "ll", 2) == 0)
		dev->infiniband = strcmp(value, "ib") == 0;
	else if (len == 4 && memcmp(word, "gids", 4) == 0)
		parse_gids(dev, value);
	else if ((i = find_name(setting_names, S_COUNT, word, len)) >= 0)
		dev->set[i] = strtoll(value, NULL, 0);
	else if ((i = find_name(fault_names, F_COUNT, word, len)) >= 0)
		atomic_store(&dev->faults[i], strtoll(value, NULL, 0));
	else {
		fprintf(stderr, "mock verbs: no setting '%s'\n", word);
		abort();
	}
}

/* Under fabric.lock. */
static void make_dev(struct shared_dev *dev, unsigned nr, char *spec)
{
	char *save, *word, *words = strchr(spec, ':');

	if (words)
		*words++ = '\0';
	memcpy(dev->set, setting_defaults, sizeof dev->set);
	dev->set[S_LID] = nr;
	for (word = words ? strtok_r(words, ",", &save) : NULL; word; word = strtok_r(NULL, ",", &save))
		parse_word(dev, word);
	if (!dev->nr_gids)
		default_gids(dev, nr);
	snprintf(dev->name, sizeof dev->name, "%s", spec);
}

static struct shared_dev *dev_of(struct fabric *f, char *spec)
{
	size_t len = strcspn(spec, ":");

	for (unsigned i = 0; i < DEVS; i++) {
		struct shared_dev *dev = &f->devs[i];

		if (!dev->name[0])
			make_dev(dev, i + 1, spec);
		if (strlen(dev->name) == len && memcmp(dev->name, spec, len) == 0)
			return dev;
	}
	return NULL;
}

unsigned fabric_devs_here(struct shared_dev *devs[DEVS])
{
	struct fabric *f = fabric_get();
	const char *env = getenv("MOCK_VERBS");
	char *text = f && env ? strdup(env) : NULL, *save, *spec;
	unsigned nr = 0;

	if (!text)
		return 0;
	shared_lock(&f->lock);
	for (spec = strtok_r(text, " \t\n", &save); spec && nr < DEVS; spec = strtok_r(NULL, " \t\n", &save)) {
		devs[nr] = dev_of(f, spec);
		nr += devs[nr] != NULL;
	}
	pthread_mutex_unlock(&f->lock);
	free(text);
	return nr;
}

struct shared_dev *fabric_dev(const char *name)
{
	struct shared_dev *devs[DEVS];
	struct fabric *f = fabric_get();

	fabric_devs_here(devs);
	for (unsigned i = 0; f && i < DEVS; i++)
		if (strcmp(f->devs[i].name, name) == 0)
			return &f->devs[i];
	return NULL;
}

void dev_gid(const struct shared_dev *dev, uint32_t idx, struct shared_gid *ret)
{
	*ret = dev->gids[idx];
	ret->raw[15] += (unsigned char)atomic_load(&dev->faults[F_GID_CHANGE]);
}

/* ---- hosts ----------------------------------------------------------------------------------------------- */

static bool is_dead(uint32_t pid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%u/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return true;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 'Z';
	fclose(f);
	return state == 'Z' || state == 'X';
}

static void host_claim(struct host *host)
{
	if (!host->made)
		shared_lock_init(&host->lock);
	host->made = true;
	shared_lock(&host->lock);
	for (unsigned i = 0; i < QPS; i++)
		host->qps[i].number = 0;
	for (unsigned i = 0; i < MRS; i++)
		host->mrs[i].key = 0;
	pthread_mutex_unlock(&host->lock);
	atomic_store(&host->pid, (uint32_t)getpid());
}

struct host *fabric_join(uint32_t *ret_idx)
{
	struct fabric *f = fabric_get();
	struct host *found = NULL;

	if (!f)
		return NULL;
	shared_lock(&f->lock);
	for (uint32_t i = 0; i < HOSTS && !found; i++) {
		uint32_t pid = atomic_load(&f->hosts[i].pid);

		if (pid && !is_dead(pid))
			continue;
		found = &f->hosts[i];
		*ret_idx = i;
		host_claim(found);
	}
	pthread_mutex_unlock(&f->lock);
	return found;
}

void fabric_leave(struct host *host)
{
	atomic_store(&host->pid, 0);
}

/* ---- the mapping -------------------------------------------------------------------------------------------- */

static struct fabric *map(int fd)
{
	void *p = mmap(NULL, sizeof(struct fabric), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static struct fabric *map_file(const char *dir)
{
	struct fabric *f = NULL;
	struct stat st;
	char path[4096];
	int fd;

	snprintf(path, sizeof path, "%s/fabric", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return NULL;
	flock(fd, LOCK_EX);
	if (fstat(fd, &st) == 0 && (st.st_size || ftruncate(fd, sizeof(struct fabric)) == 0))
		f = map(fd);
	if (f && !st.st_size)
		shared_lock_init(&f->lock);
	/* The mapping keeps the open file, and would keep the lock. */
	flock(fd, LOCK_UN);
	close(fd);
	return f;
}

static void fabric_make(void)
{
	const char *dir = getenv("MOCK_VERBS_DIR");

	fabric = dir ? map_file(dir) : map(-1);
	if (!fabric)
		fabric_errno = errno;
	else if (!dir)
		shared_lock_init(&fabric->lock);
}

struct fabric *fabric_get(void)
{
	pthread_once(&fabric_once, fabric_make);
	errno = fabric ? errno : fabric_errno;
	return fabric;
}

/* Before any fork, so that children share it. */
__attribute__((constructor)) static void fabric_load(void)
{
	fabric_get();
}

/* ---- for tests ------------------------------------------------------------------------------------------------ */

EXPORT int mock_verbs_fault(const char *device, const char *fault, int64_t value)
{
	struct shared_dev *dev = fabric_dev(device);
	int i = find_name(fault_names, F_COUNT, fault, strlen(fault));
	bool none = strcmp(fault, "none") == 0;

	if (!dev || (i < 0 && !none))
		return -ENOENT;
	for (int j = none ? 0 : i; j < (none ? (int)F_COUNT : i + 1); j++)
		atomic_store(&dev->faults[j], none ? 0 : value);
	for (unsigned h = 0; h < HOSTS; h++)
		if (atomic_load(&fabric->hosts[h].pid))
			host_ring(&fabric->hosts[h]);
	return 0;
}

EXPORT int64_t mock_verbs_stat(const char *device, const char *name)
{
	struct shared_dev *dev = fabric_dev(device);
	int i = find_name(stat_names, N_COUNT, name, strlen(name));

	return !dev || i < 0 ? -ENOENT : atomic_load(&dev->stats[i]);
}
