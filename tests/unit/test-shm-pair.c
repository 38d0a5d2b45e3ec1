/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two shm instances in one process, over Unix sockets: what is shm's own beside the conformance
 * suite.  What is unregistered or fenced is touched no more, and who is just touching it is waited
 * for; a process that was frozen stops; rights of mappings; who is believed to be whom.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/check/fake-host.h"
#include "transports/shm/shm.h"

#define BOUND (20 * MC_SEC)
#define LEN (UINT64_C(4) << 20)

struct pair {
	struct fake_world *w;
	struct fake_plugin plugin;
	struct fake_inst *a, *b;
	struct fake_link *la, *lb;
	struct fake_peer *peer;
	struct fake_buf *local, *target;
	struct fake_remote *remote;
	struct shm *near, *far; /* a's and b's */
};

/* The boot clock stands where the test has put it; elsewhere it goes. */
static uint64_t boot_now;

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	if (id != CLOCK_BOOTTIME || !boot_now)
		return __real_clock_gettime(id, t);
	*t = (struct timespec){.tv_sec = (time_t)(boot_now / MC_SEC), .tv_nsec = (long)(boot_now % MC_SEC)};
	return 0;
}

/* The next message comes without its descriptor, as when there is no place for it. */
static bool lose_next;

ssize_t __real_recvmsg(int fd, struct msghdr *h, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *h, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *h, int flags)
{
	ssize_t n = __real_recvmsg(fd, h, flags);
	struct cmsghdr *c = n > 0 && lose_next ? CMSG_FIRSTHDR(h) : NULL;

	if (c) {
		close(*(int *)(void *)CMSG_DATA(c));
		h->msg_controllen = 0;
		h->msg_flags |= MSG_CTRUNC;
		lose_next = false;
	}
	return n;
}

static void open_both(struct pair *p, const char *mode)
{
	struct fake_open how = {.device = "shm0", .words = &mode, .nr_words = 1};
	struct mc_error err = {0};

	memset(p, 0, sizeof *p);
	p->w = fake_world_new(0);
	assert_int_equal(fake_plugin_init(&mc_plugin_desc, MC_KIND_TRANSPORT, &p->plugin, &err), 0);
	assert_int_equal(fake_open(p->w, &p->plugin, &how, &p->a, &err), 0);
	assert_int_equal(fake_open(p->w, &p->plugin, &how, &p->b, &err), 0);
	assert_int_equal(fake_link(p->a, p->b, &p->la, &p->lb), 0);
	p->near = p->a->priv;
	p->far = p->b->priv;
}

static void join(struct pair *p, uint32_t access)
{
	struct mc_error err = {0};

	assert_int_equal(fake_buf_new(p->a, LEN, 0, NULL, MC_ACCESS_LOCAL, &p->local, &err), 0);
	assert_int_equal(fake_buf_new(p->b, LEN, 5, NULL, access, &p->target, &err), 0);
	assert_int_equal(fake_peer_open(p->a, p->la, &p->peer), 0);
	assert_int_equal(fake_peer_wait(p->peer, BOUND), 0);
	p->remote = fake_remote_find(p->peer, p->target->base);
	assert_non_null(p->remote);
	assert_int_equal(p->remote->status, 0);
	fake_buf_fill(p->local, 0, LEN, 1);
	fake_buf_fill(p->target, 0, LEN, 2);
}

static void start(struct pair *p, const char *mode)
{
	open_both(p, mode);
	join(p, MC_ACCESS_ALL);
}

static void end(struct pair *p)
{
	boot_now = 0;
	fake_peer_close(p->peer);
	assert_int_equal(fake_buf_free(p->local, BOUND), 0);
	assert_int_equal(fake_buf_free(p->target, BOUND), 0);
	assert_int_equal(fake_close(p->a, BOUND), 0);
	assert_int_equal(fake_close(p->b, BOUND), 0);
	assert_int_equal(fake_world_free(p->w), 0);
}

/* A slice's status; ret_scope may be NULL. */
static int transfer(struct pair *p, enum mc_opcode op, uint64_t off, uint64_t len, int *ret_scope)
{
	struct fake_slice *s = fake_slice_new(p->a);
	int r;

	fake_slice_set(s, p->peer, op, p->local, off, p->remote, off, len, 0);
	r = fake_transfer(s, BOUND);
	if (ret_scope)
		*ret_scope = s->scope;
	fake_slice_free(s);
	return r;
}

static bool untouched(struct pair *p)
{
	return fake_buf_check(p->target, 0, LEN, 2) < 0 && fake_buf_guards_ok(p->target);
}

static struct shm_region *region_of(struct pair *p)
{
	return p->target->region;
}

static struct shm_peer *passive_of(struct pair *p)
{
	return fake_peer_other(p->peer)->area;
}

/* ---- what may be touched ---------------------------------------------------------------------- */

static const char *const modes[] = {"mode=map", "mode=attach"};

/* A buffer that is taken back between two chunks, or before the first. */
static void test_slot_gone(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct pair p;
		int scope;

		start(&p, modes[i]);
		shm_slot_empty(&p.far->own, region_of(&p)->slot);
		assert_int_equal(transfer(&p, MC_OP_WRITE, 0, LEN, &scope), -EACCES);
		assert_int_equal(transfer(&p, MC_OP_READ, 0, 64, &scope), -EACCES);
		assert_true(untouched(&p));
		assert_true(p.peer->ready);
		assert_int_equal(fake_buf_check(p.local, 0, LEN, 1), -1);
		end(&p);
	}
}

/* The target closes the connection alone: an initiator that knows nothing of it touches nothing. */
static void test_connection_gone(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct pair p;

		start(&p, modes[i]);
		shm_slot_empty(&p.far->own, passive_of(&p)->slot);
		assert_true(transfer(&p, MC_OP_WRITE, 0, 4096, NULL) < 0);
		assert_true(untouched(&p));
		/* Told before the slice ends, which says less. */
		assert_true(!i || p.peer->status == -ECONNRESET);
		fake_run(p.w, NULL, NULL, BOUND);
		assert_int_equal(p.peer->status, -ECONNRESET);
		assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
		end(&p);
	}
}

struct lowering {
	struct shm *owner;      /* of the flag */
	const shm_word *slot;   /* emptied before we lower it */
	bool emptied, lowered;
};

/* The other process's half of a copy: it ends some time after the slot was emptied. */
static void *lower(void *arg)
{
	struct lowering *l = arg;

	while (atomic_load(l->slot))
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	__atomic_store_n(&l->lowered, true, __ATOMIC_SEQ_CST);
	atomic_fetch_add(l->owner->flag, 1);
	return NULL;
}

/* mem_unreg returns when the copy that was under way has ended, and not before. */
static void test_unregister_waits(void **state)
{
	struct lowering l;
	struct mc_error err = {0};
	struct shm_region *region;
	struct mc_mem_desc desc;
	pthread_t thread;
	struct pair p;

	start(&p, "mode=auto");
	region = region_of(&p);
	l = (struct lowering){.owner = p.near, .slot = &p.far->own.table[region->slot]};
	atomic_fetch_add(p.near->flag, 1);
	assert_int_equal(pthread_create(&thread, NULL, lower, &l), 0);
	shm_mem_unreg(p.far, region);
	assert_true(__atomic_load_n(&l.lowered, __ATOMIC_SEQ_CST));
	pthread_join(thread, NULL);
	desc = p.target->desc;
	assert_int_equal(shm_mem_reg(p.far, region, &desc, &err), 0); /* the host unregisters it again */
	end(&p);
}

/* A flag that stays up, a frozen process's, is waited for as long as for a silent peer. */
static void test_unregister_gives_up(void **state)
{
	struct mc_error err = {0};
	struct pair p;
	uint64_t t;

	start(&p, "mode=auto");
	p.far->peer_timeout_ns = 100 * MC_MSEC;
	atomic_fetch_add(p.near->flag, 1);
	t = fake_real_ns();
	shm_mem_unreg(p.far, region_of(&p));
	assert_true(fake_real_ns() - t >= 100 * MC_MSEC);
	atomic_fetch_add(p.near->flag, 1);
	assert_int_equal(shm_mem_reg(p.far, region_of(&p), &p.target->desc, &err), 0);
	end(&p);
}

static bool is_fenced(void *ctx)
{
	return fake_peer_fenced(ctx);
}

/* The target's fence is over when the flag is lowered, or its process gone. */
static void test_target_fence_waits(void **state)
{
	for (int dies = 0; dies < 2; dies++) {
		struct fake_peer *other;
		struct pair p;

		start(&p, "mode=auto");
		other = fake_peer_other(p.peer);
		atomic_fetch_add(p.near->flag, 1);
		other->gone = true;
		assert_int_equal(fake_peer_fence_begin(other), 0);
		assert_int_equal(fake_run(p.w, is_fenced, other, 30 * MC_MSEC), -ETIMEDOUT);
		if (dies)
			assert_int_equal(shutdown(((struct shm_peer *)p.peer->area)->watch.fd, SHUT_RDWR), 0);
		else
			atomic_fetch_add(p.near->flag, 1);
		assert_int_equal(fake_run(p.w, is_fenced, other, BOUND), 0);
		if (dies)
			atomic_fetch_add(p.near->flag, 1);
		assert_true(transfer(&p, MC_OP_WRITE, 0, 4096, NULL) < 0);
		assert_true(untouched(&p));
		assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
		end(&p);
	}
}

/* ---- frozen -------------------------------------------------------------------------------------- */

/* Between two slices of one turn more than half of the bound goes: nothing more is touched. */
static void test_frozen(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct fake_slice *s;
		struct pair p;

		start(&p, modes[i]);
		boot_now = 100 * MC_SEC;
		shm_was_frozen(p.near);
		assert_int_equal(transfer(&p, MC_OP_READ, 0, LEN / 2, NULL), 0);
		fake_buf_fill(p.local, 0, LEN, 1);
		shm_was_frozen(p.near);
		boot_now += 2600 * MC_MSEC;
		s = fake_slice_new(p.a);
		fake_slice_set(s, p.peer, MC_OP_WRITE, p.local, 0, p.remote, 0, LEN, 0);
		assert_int_equal(fake_submit(s), i ? 0 : -ENOTCONN);
		fake_flush(p.a);
		fake_run(p.w, NULL, NULL, BOUND);
		assert_true(untouched(&p));
		assert_int_equal(p.peer->status, -ETIMEDOUT);
		assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
		if (i) {
			assert_int_equal(s->state, FAKE_DONE);
			assert_int_equal(s->scope, MC_SCOPE_PEER);
		}
		fake_slice_free(s);
		end(&p);
	}
}

/* However long nothing was to do, that is no freeze. */
static void test_asleep(void **state)
{
	struct pair p;

	start(&p, "mode=map");
	boot_now = 100 * MC_SEC;
	shm_was_frozen(p.near);
	assert_int_equal(transfer(&p, MC_OP_WRITE, 0, LEN, NULL), 0);
	boot_now += 3600 * MC_SEC;
	assert_int_equal(transfer(&p, MC_OP_WRITE, 0, LEN, NULL), 0);
	end(&p);
}

/* ---- rights ---------------------------------------------------------------------------------------- */

static void test_read_only(void **state)
{
	struct shm_remote *r;
	struct pair p;
	int scope;

	open_both(&p, "mode=map");
	join(&p, MC_ACCESS_REMOTE_READ);
	r = p.remote->area;
	assert_non_null(r->map);
	assert_int_equal(transfer(&p, MC_OP_WRITE, 0, 64, &scope), -EACCES);
	assert_int_equal(transfer(&p, MC_OP_READ, 0, LEN, NULL), 0);
	assert_int_equal(fake_buf_check(p.local, 0, LEN, 2), -1);
	/* Nor can who has the mapping give it to himself. */
	assert_int_equal(mprotect(r->map_base, r->map_len, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(errno, EACCES);
	end(&p);
}

/* What peers are given to look at they cannot write, and nobody can cut it short. */
static void test_words_sealed(void **state)
{
	struct pair p;

	start(&p, "mode=map");
	assert_true(mmap(NULL, SHM_TABLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p.far->own.table_fd, 0) == MAP_FAILED);
	assert_int_equal(ftruncate(p.far->own.table_fd, 0), -1);
	assert_int_equal(ftruncate(p.target->desc.share_fd, 0), -1);
	end(&p);
}

/* A memfd that its owner could cut short is not mapped: then attach has to do. */
static void test_unsealable(void **state)
{
	int fd = memfd_create("unsealable", MFD_CLOEXEC); /* it is sealed against seals */
	struct mc_mem_desc desc = {.size = sizeof desc, .kind = "cpu", .len = 4096, .dmabuf_fd = -1,
				   .share_fd = fd, .access = MC_ACCESS_ALL};
	struct shm_region region;
	struct mc_error err = {0};
	struct pair p;

	start(&p, "mode=auto");
	assert_true(fd >= 0 && ftruncate(fd, 4096) == 0);
	desc.addr = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_int_equal(shm_mem_reg(p.far, &region, &desc, &err), 0);
	assert_int_equal(region.share_fd, -1);
	shm_mem_unreg(p.far, &region);
	munmap(desc.addr, 4096);
	close(fd);
	end(&p);
}

/* What comes is no memfd that can be trusted to stay: attach is used, or where that is closed nothing. */
static void test_unmappable(void **state)
{
	static const char *const both[] = {"mode=auto", "mode=map"};

	for (int i = 0; i < 2; i++) {
		struct mc_error err = {0};
		struct pair p;

		open_both(&p, both[i]);
		assert_int_equal(fake_buf_new(p.a, LEN, 0, NULL, MC_ACCESS_LOCAL, &p.local, &err), 0);
		assert_int_equal(fake_buf_new(p.b, LEN, 5, NULL, MC_ACCESS_ALL, &p.target, &err), 0);
		close(region_of(&p)->share_fd);
		region_of(&p)->share_fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_int_equal(fake_peer_open(p.a, p.la, &p.peer), 0);
		assert_int_equal(fake_peer_wait(p.peer, BOUND), 0);
		p.remote = fake_remote_find(p.peer, p.target->base);
		assert_int_equal(p.remote->status, i ? -EPROTO : 0);
		fake_buf_fill(p.local, 0, LEN, 1);
		if (!i) {
			assert_int_equal(transfer(&p, MC_OP_WRITE, 0, LEN, NULL), 0);
			assert_int_equal(fake_buf_check(p.target, 0, LEN, 1), -1);
		}
		end(&p);
	}
}

/* Large copies go past the caches the first time and through them when they come again: whatever the
 * places in a line, no byte beside them changes. */
static void test_large(void **state)
{
	static const uint64_t shifts[] = {0, 1, 15, 59, 63};
	struct pair p;

	start(&p, "mode=map");
	for (unsigned i = 0; i < 5; i++) {
		for (uint64_t again = 0; again < 2; again++) {
			uint64_t off = 4096 + shifts[i], len = (UINT64_C(300) << 10) + shifts[4 - i];

			fake_buf_fill(p.target, 0, LEN, 2);
			fake_buf_fill(p.local, 0, LEN, 10 + again);
			assert_int_equal(transfer(&p, MC_OP_WRITE, off, len, NULL), 0);
			assert_int_equal(fake_buf_check(p.target, off, len, 10 + again), -1);
			assert_int_equal(fake_buf_check(p.target, 0, off, 2), -1);
			assert_int_equal(fake_buf_check(p.target, off + len, LEN - off - len, 2), -1);
		}
	}
	end(&p);
}

/* ---- attach ----------------------------------------------------------------------------------------- */

#define MANY 128
static void submit_many(struct pair *p, struct fake_slice **s, uint64_t len)
{
	for (int i = 0; i < MANY; i++) {
		s[i] = fake_slice_new(p->a);
		fake_slice_set(s[i], p->peer, MC_OP_WRITE, p->local, i * 2 * len, p->remote, i * 2 * len, len, 0);
		assert_int_equal(fake_submit(s[i]), 0);
	}
	fake_flush(p->a);
}

/* A batch of small slices is one system call. */
static void test_one_call(void **state)
{
	struct fake_slice *s[MANY];
	struct pair p;

	start(&p, "mode=attach");
	submit_many(&p, s, 64);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(s[i]->status, 0);
		assert_int_equal(fake_buf_check(p.target, (uint64_t)i * 128, 64, 1), -1);
		assert_int_equal(fake_buf_check(p.target, (uint64_t)i * 128 + 64, 64, 2), -1);
		fake_slice_free(s[i]);
	}
	assert_int_equal(fake_counter(p.a, "attach_calls"), 1);
	end(&p);
}

/* Memory that the owner has no more: the slices for it fail, the others do not. */
static void test_hole(void **state)
{
	struct fake_slice *s[MANY];
	unsigned char *hole;
	struct pair p;

	start(&p, "mode=attach");
	hole = (unsigned char *)(((uintptr_t)p.target->base + 65536) & ~(uintptr_t)4095);
	assert_int_equal(mprotect(hole, 4096, PROT_NONE), 0);
	submit_many(&p, s, 4096);
	assert_int_equal(mprotect(hole, 4096, PROT_READ | PROT_WRITE), 0);
	for (int i = 0; i < MANY; i++) {
		uint64_t off = (uint64_t)i * 8192;
		unsigned char *at = p.target->base + off;
		bool hit = at < hole + 4096 && hole < at + 4096;

		assert_int_equal(s[i]->status, hit ? -EFAULT : 0);
		assert_int_equal(s[i]->scope, hit ? MC_SCOPE_REQUEST : MC_SCOPE_NONE);
		if (!hit)
			assert_int_equal(fake_buf_check(p.target, off, 4096, 1), -1);
		fake_slice_free(s[i]);
	}
	assert_true(p.peer->ready);
	end(&p);
}

/* ---- who is whom -------------------------------------------------------------------------------------- */

static void impostor(void (*bend)(struct shm *far), int status, const char *what)
{
	struct pair p;

	open_both(&p, "mode=auto");
	bend(p.far);
	assert_int_equal(fake_peer_open(p.a, p.la, &p.peer), 0);
	assert_int_equal(fake_peer_wait(p.peer, BOUND), status);
	assert_non_null(strstr(p.peer->why, what));
	assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
	fake_peer_close(p.peer);
	assert_int_equal(fake_close(p.a, BOUND), 0);
	assert_int_equal(fake_close(p.b, BOUND), 0);
	assert_int_equal(fake_world_free(p.w), 0);
}

static void other_pid(struct shm *x)
{
	x->self.pid++;
}

static void other_boot(struct shm *x)
{
	x->self.boot[3] ^= 1;
}

static void other_start(struct shm *x)
{
	x->self.start++;
}

static void no_place(struct shm *x)
{
	(void)x;
	lose_next = true;
}

static void test_impostors(void **state)
{
	impostor(other_pid, -EPERM, "holds the socket");
	impostor(other_boot, -EHOSTUNREACH, "another kernel");
	impostor(other_start, -ESTALE, "began at another time");
	impostor(no_place, -EMFILE, "raise the limit of descriptors");
}

/* Start times of another time name space are shifted, and say nothing here. */
static void test_other_times(void **state)
{
	struct pair p;

	open_both(&p, "mode=auto");
	p.far->self.pid_ns ^= UINT64_C(1) << 32;
	p.far->self.start++;
	join(&p, MC_ACCESS_ALL);
	end(&p);
}

static bool peer_told(void *ctx)
{
	return ((struct pair *)ctx)->peer->status < 0;
}

/* The other process has ended, but a child of it holds its end of the stream: here we hold it. */
static void test_orphaned(void **state)
{
	struct shm_peer *near;
	struct pair p;
	pid_t child;

	start(&p, "mode=auto");
	near = p.peer->area;
	assert_true(near->life.fd >= 0);
	p.near->host->unwatch(p.near->host, &near->life);
	close(near->life.fd);
	child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	assert_true(child > 0);
	near->pid = child;
	assert_int_equal(shm_life_watch(near), 0);
	kill(child, SIGKILL);
	fake_run(p.w, peer_told, &p, BOUND);
	waitpid(child, NULL, 0);
	assert_int_equal(p.peer->status, -ECONNRESET);
	assert_non_null(strstr(p.peer->why, "its process has ended"));
	assert_true(transfer(&p, MC_OP_WRITE, 0, 4096, NULL) < 0);
	assert_true(untouched(&p));
	assert_int_equal(fake_peer_fence(p.peer, BOUND), 0);
	end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slot_gone),
		cmocka_unit_test(test_connection_gone),
		cmocka_unit_test(test_unregister_waits),
		cmocka_unit_test(test_unregister_gives_up),
		cmocka_unit_test(test_target_fence_waits),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_asleep),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_words_sealed),
		cmocka_unit_test(test_unsealable),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_unmappable),
		cmocka_unit_test(test_one_call),
		cmocka_unit_test(test_hole),
		cmocka_unit_test(test_impostors),
		cmocka_unit_test(test_other_times),
		cmocka_unit_test(test_orphaned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
