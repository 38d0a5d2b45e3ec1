/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory plugins: opening and closing, how many ordinals there are, memory and what is
 * said of an address.
 */
#include "cases_mem.h"
#include "leaks.h"
#include "core/util/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- helpers ------------------------------------------------------------------------------- */

static int try_open(struct ctx *c, struct mem *m, struct mc_error *err)
{
	int r;

	m->w = fake_world_new(0);
	m->ops = &c->plugin.ops.memory;
	r = fake_memory_open(m->w, &c->plugin, c->words, c->nr_words, err);
	m->a = r == 0 ? fake_memory_area(m->w) : NULL;
	return r;
}

int mem_open(struct ctx *c, struct mem *m)
{
	struct mc_error err = {0};
	int r = try_open(c, m, &err);

	CHECK(r == 0, "open: %d %s", r, err.text);
	return PASS;
}

int mem_close(struct ctx *c, struct mem *m)
{
	CHECK(!fake_world_free(m->w), "%s", "");
	return PASS;
}

int mem_count(const struct mem *m)
{
	return m->ops->count ? m->ops->count(m->a) : 1;
}

int mem_alloc(struct ctx *c, struct mem *m, int32_t ordinal, uint64_t len, struct mc_mem_desc *ret)
{
	struct mc_error err = {0};
	int r;

	*ret = (struct mc_mem_desc){.size = sizeof *ret, .len = len, .ordinal = ordinal, .dmabuf_fd = -1, .share_fd = -1};
	r = m->ops->alloc(m->a, ret, &err);
	CHECK(r == 0, "alloc of %llu bytes on ordinal %d: %d %s", (unsigned long long)len, ordinal, r, err.text);
	CHECK(ret->addr && ret->len >= len, "alloc does not fill in an address and at least the length");
	return PASS;
}

void copy_set(struct copying *x, const struct mc_mem_desc *d, uint64_t off, void *hostptr, uint64_t len, bool to_host)
{
	*x = (struct copying){.status = 1};
	x->c = (struct mc_copy){.size = sizeof x->c,
				.mem = (char *)d->addr + off,
				.hostptr = hostptr,
				.len = len,
				.kind = d->kind,
				.ordinal = d->ordinal,
				.to_host = to_host,
				.user = &x->status};
}

int copy_try(struct mem *m, struct copying *x)
{
	return m->ops->copy(m->a, &x->c);
}

int copy_wait(struct copying *x)
{
	uint64_t until = fake_real_ns() + COPY_BOUND;
	int64_t status;

	while ((status = __atomic_load_n(&x->status, __ATOMIC_ACQUIRE)) == 1 && fake_real_ns() < until)
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
	return status == 1 ? -ETIMEDOUT : (int)status;
}

int copy_all(struct mem *m, const struct mc_mem_desc *d, uint64_t off, void *hostptr, uint64_t len, bool to_host)
{
	uint64_t until = fake_real_ns() + COPY_BOUND;
	struct copying x;
	int r;

	copy_set(&x, d, off, hostptr, len, to_host);
	while ((r = copy_try(m, &x)) == -EAGAIN && fake_real_ns() < until)
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
	return r == MC_DONE ? 0 : r < 0 ? r : copy_wait(&x);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Open with one more option: it works, or fails with a sentence; never more than that. */
static int try_option(struct ctx *c, const char *name, const char *value)
{
	struct mem m;
	struct mc_error err = {0};
	char word[512];
	unsigned nr;
	int r;

	snprintf(word, sizeof word, "%s=%s", name, value);
	c->words[c->nr_words++] = word;
	r = try_open(c, &m, &err);
	c->nr_words--;
	nr = fake_world_free(m.w);
	CHECK(!nr, "with %s", word);
	CHECK(r == 0 || err.text[0], "with %s: open answered %d without a sentence", word, r);
	return PASS;
}

static int case_options(struct ctx *c)
{
	return options_try(c, c->plugin.desc, try_option);
}

/* Every memory that was not freed goes with close. */
static int one_cycle(struct ctx *c, int i)
{
	struct mc_mem_desc kept, freed;
	struct mem m;
	char byte = 1;
	int r = mem_open(c, &m);

	if (r == PASS && m.ops->alloc) {
		r = mem_alloc(c, &m, -1, 1 << 20, &kept);
		if (r == PASS)
			r = mem_alloc(c, &m, 0, 100, &freed);
		if (r != PASS)
			return r;
		CHECK(copy_all(&m, &kept, 0, &byte, 1, false) == 0, "a copy of one byte fails");
		m.ops->free(m.a, &freed);
	}
	return r == PASS ? mem_close(c, &m) : r;
}

static int case_open_close(struct ctx *c)
{
	return leaks_over(c, one_cycle, true);
}

static int case_open_fails(struct ctx *c)
{
	for (unsigned nth = 1; nth < 20; nth++) {
		struct fake_world *w = fake_world_new(0);
		struct mc_error err = {0};
		int r;

		fake_fail_alloc(w, nth);
		r = fake_memory_open(w, &c->plugin, c->words, c->nr_words, &err);
		fake_fail_alloc(w, 0);
		CHECK(r == 0 || err.text[0], "open answered %d without a sentence when alloc %u fails", r, nth);
		CHECK(!fake_world_free(w), "when alloc %u fails", nth);
	}
	return PASS;
}

static int case_fork(struct ctx *c)
{
	bool before[LEAKS_FDS];
	struct mc_mem_desc d;
	struct mem m;
	char out[64] = "before the fork", in[64];
	pid_t pid;
	int r;

	NEEDS_ALLOC(c);
	fds_open(before);
	r = mem_open(c, &m);
	if (r == PASS)
		r = mem_alloc(c, &m, 0, 65536, &d);
	if (r != PASS)
		return r;
	CHECK(copy_all(&m, &d, 0, out, sizeof out, false) == 0, "a copy fails");
	r = closed_on_exec(c, before);
	if (r != PASS)
		return r;
	pid = bystander_start();
	CHECK(pid > 0, "no process: %s", strerror(errno));
	snprintf(out, sizeof out, "after the fork");
	r = copy_all(&m, &d, 0, out, sizeof out, false);
	if (r == 0)
		r = copy_all(&m, &d, 0, in, sizeof in, true);
	bystander_end(pid);
	CHECK(r == 0 && !memcmp(in, out, sizeof in), "after the program has forked copies fail (%d) or bring other bytes", r);
	m.ops->free(m.a, &d);
	return mem_close(c, &m);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Is it this plugin's own kind, and that ordinal? */
static int described(struct ctx *c, const struct mc_mem_desc *d, int32_t ordinal, const char *by)
{
	CHECK(d->kind && has_kind(c->plugin.desc->memory, d->kind) && strcmp(d->kind, "cpu") != 0,
	      "%s says kind '%s', which is not the plugin's", by, d->kind ? d->kind : "");
	CHECK(ordinal < 0 || d->ordinal == ordinal, "%s says ordinal %d of memory on ordinal %d", by, d->ordinal,
	      ordinal);
	return PASS;
}

static int case_alloc(struct ctx *c)
{
	struct mc_mem_desc d;
	struct mc_error err = {0};
	struct mem m;
	int r, nr;

	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	if (r != PASS)
		return r;
	nr = mem_count(&m);
	CHECK(nr >= 1, "open has answered 0, count says %d", nr);
	for (int32_t i = -1; i < nr && i < 16; i++) {
		for (uint64_t len = 1; len < 1 << 22; len = len * 16 + 1) {
			r = mem_alloc(c, &m, i, len, &d);
			if (r == PASS)
				r = described(c, &d, i, "alloc");
			if (r != PASS)
				return r;
			CHECK(d.ordinal >= 0 && d.ordinal < nr, "alloc says ordinal %d, count says %d", d.ordinal, nr);
			m.ops->free(m.a, &d);
		}
	}
	d = (struct mc_mem_desc){.size = sizeof d, .len = 4096, .ordinal = nr, .dmabuf_fd = -1, .share_fd = -1};
	r = m.ops->alloc(m.a, &d, &err);
	CHECK(r == -ENODEV && err.text[0], "alloc on ordinal %d of %d answers %d '%s', not -ENODEV with a sentence", nr,
	      nr, r, err.text);
	d = (struct mc_mem_desc){.size = sizeof d, .len = UINT64_C(1) << 55, .dmabuf_fd = -1, .share_fd = -1};
	err = (struct mc_error){0};
	r = m.ops->alloc(m.a, &d, &err);
	CHECK(r < 0 && err.text[0], "alloc of 32 PiB answers %d without a sentence", r);
	return mem_close(c, &m);
}

/* What identify answers for a range; kind and ordinal too, where it says that it is of the kind. */
static int identify(struct ctx *c, struct mem *m, const void *addr, uint64_t len, int want, int32_t ordinal,
		    const char *what)
{
	struct mc_mem_desc d = {.size = sizeof d, .ordinal = -1, .dmabuf_fd = -1, .share_fd = -1};
	int r = m->ops->identify(m->a, addr, len, &d);

	CHECK(r == want, "identify answers %d for %s, not %d (%s)", r, what, want, want ? strerror(-want) : "it is");
	return r == 0 ? described(c, &d, ordinal, "identify") : PASS;
}

static int case_identify(struct ctx *c)
{
	static const char here[] = "a constant";
	const uint64_t len = 1 << 20, far = UINT64_C(1) << 40;
	struct mc_mem_desc d;
	struct mem m;
	char local;
	void *heap = malloc(100000);
	int r = mem_open(c, &m);

	if (r == PASS)
		r = identify(c, &m, &local, 1, -ENOENT, 0, "an address of the stack");
	if (r == PASS)
		r = identify(c, &m, heap, 100000, -ENOENT, 0, "malloc's memory");
	if (r == PASS)
		r = identify(c, &m, here, sizeof here, -ENOENT, 0, "a constant of the program");
	for (int32_t i = 0; r == PASS && m.ops->alloc && i < mem_count(&m) && i < 16; i++) {
		char *p;

		r = mem_alloc(c, &m, i, len, &d);
		p = d.addr;
		if (r == PASS)
			r = identify(c, &m, p, len, 0, i, "all of what it allocated");
		if (r == PASS)
			r = identify(c, &m, p, 1, 0, i, "the first byte of what it allocated");
		if (r == PASS)
			r = identify(c, &m, p + len - 1, 1, 0, i, "the last byte of what it allocated");
		if (r == PASS)
			r = identify(c, &m, p + 4097, 333, 0, i, "a part of what it allocated");
		if (r == PASS)
			r = identify(c, &m, p + 4096, far, -EINVAL, i, "a range that goes far beyond what it allocated");
		if (r == PASS && (uintptr_t)p > far)
			r = identify(c, &m, p - far, far + 1, -EINVAL, i, "a range that begins far before what it allocated");
		if (r == PASS)
			m.ops->free(m.a, &d);
	}
	free(heap);
	return r == PASS ? mem_close(c, &m) : r;
}

static int case_distance(struct ctx *c)
{
	static const char *const odd[] = {"", ":", "nonsense", "0000:zz:00.0", "0000:00:00.0.0.0.0.0.0.0.0.0.0.0"};
	struct mem m;
	int r;

	if (!c->plugin.ops.memory.distance)
		return skip(c, "no distances (distance)");
	r = mem_open(c, &m);
	if (r != PASS)
		return r;
	r = m.ops->distance(m.a, 0, "0000:3b:00.0");
	CHECK(r >= -1, "distance to 0000:3b:00.0 is %d", r);
	r = m.ops->distance(m.a, -1, "0000:3b:00.0");
	CHECK(r == -1, "distance from ordinal -1 is %d, not -1 (unknown)", r);
	for (size_t i = 0; i < MC_ARRAY_SIZE(odd); i++) {
		r = m.ops->distance(m.a, 0, odd[i]);
		CHECK(r >= -1, "distance to '%s' is %d", odd[i], r);
	}
	return mem_close(c, &m);
}

/* ---- what devices see -------------------------------------------------------------------------- */

static int case_dmabuf(struct ctx *c)
{
	struct mc_mem_desc d, part;
	struct mc_error err = {0};
	struct mem m;
	char host[16];
	int r;

	if (!c->plugin.ops.memory.export_dmabuf)
		return skip(c, "no dma-buf (export_dmabuf)");
	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	if (r == PASS)
		r = mem_alloc(c, &m, 0, 1 << 20, &d);
	if (r != PASS)
		return r;
	part = d;
	r = m.ops->export_dmabuf(m.a, &d, &err);
	if (r == -ENOTSUP || r == -EOPNOTSUPP)
		return skip(c, "no dma-buf on this host: %s", err.text);
	CHECK(r == 0 && d.dmabuf_fd >= 0, "export_dmabuf: %d, descriptor %d: %s", r, d.dmabuf_fd, err.text);
	c->told->section = 3;
	CHECK(fcntl(d.dmabuf_fd, F_GETFD) & FD_CLOEXEC, "the descriptor of export_dmabuf would be inherited: O_CLOEXEC");
	c->told->section = 0;
	part.addr = (char *)part.addr + 65536;
	part.len = 65536;
	r = m.ops->export_dmabuf(m.a, &part, &err);
	CHECK(r == 0 && part.dmabuf_fd >= 0, "export_dmabuf of a part: %d %s", r, err.text);
	CHECK(part.dmabuf_fd != d.dmabuf_fd, "export_dmabuf gives a descriptor twice, each caller closes his own");
	CHECK(part.dmabuf_offset == d.dmabuf_offset + 65536, "the offset of 64 KiB behind the start is %llu, the start's %llu",
	      (unsigned long long)part.dmabuf_offset, (unsigned long long)d.dmabuf_offset);
	close(part.dmabuf_fd);
	close(d.dmabuf_fd);
	CHECK(copy_all(&m, &d, 0, host, sizeof host, true) == 0, "after the caller has closed the dma-buf a copy fails");
	part = (struct mc_mem_desc){.size = sizeof part, .addr = host, .len = sizeof host, .kind = d.kind, .dmabuf_fd = -1, .share_fd = -1};
	err = (struct mc_error){0};
	r = m.ops->export_dmabuf(m.a, &part, &err);
	CHECK(r < 0 && err.text[0], "export_dmabuf of the program's stack answers %d without a sentence", r);
	m.ops->free(m.a, &d);
	return mem_close(c, &m);
}

static int case_flush(struct ctx *c)
{
	struct mc_mem_desc d, all;
	struct mem m;
	char host[16];
	int r;

	if (!c->plugin.ops.memory.flush)
		return skip(c, "nothing to flush (flush)");
	NEEDS_ALLOC(c);
	r = mem_open(c, &m);
	if (r == PASS)
		r = mem_alloc(c, &m, 0, 65536, &d);
	if (r != PASS)
		return r;
	r = m.ops->flush(m.a, &d);
	CHECK(r == 0, "flush of memory that it allocated answers %d", r);
	all = (struct mc_mem_desc){.size = sizeof all, .kind = d.kind, .ordinal = d.ordinal, .dmabuf_fd = -1, .share_fd = -1};
	r = m.ops->flush(m.a, &all);
	CHECK(r == 0, "flush of all of an ordinal (len 0) answers %d", r);
	all.ordinal = -1;
	r = m.ops->flush(m.a, &all);
	CHECK(r == 0, "flush of all of the kind (ordinal -1) answers %d", r);
	all.ordinal = mem_count(&m);
	r = m.ops->flush(m.a, &all);
	CHECK(r == -ENODEV, "flush of an ordinal that does not exist answers %d, not -ENODEV", r);
	all = d;
	all.addr = host;
	all.len = sizeof host;
	r = m.ops->flush(m.a, &all);
	CHECK(r == -EFAULT, "flush of the program's stack answers %d, not -EFAULT", r);
	m.ops->free(m.a, &d);
	return mem_close(c, &m);
}

static int case_open(struct ctx *c)
{
	struct mem m;
	int r = mem_open(c, &m);

	if (r == PASS)
		fake_world_free(m.w); /* what is breached, the others tell */
	return r;
}

const struct test_case mem_cases[] = {
	{LIVES, "open", case_open, 9},
	{LIVES, "options", case_options, 1},
	{LIVES, "open-close-100", case_open_close, 9},
	{LIVES, "open-fails", case_open_fails, 9},
	{LIVES, "alloc", case_alloc, 9},
	{LIVES, "identify", case_identify, 9},
	{LIVES, "distance", case_distance, 9},
	{LIVES, "fork", case_fork, 3},
	{MOVES, "dmabuf", case_dmabuf, 9},
	{MOVES, "flush", case_flush, 9},
	{.run = NULL},
};
