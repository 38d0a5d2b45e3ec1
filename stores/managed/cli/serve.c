/* SPDX-License-Identifier: Apache-2.0 */
/* serve: lend memory until a signal comes.  A terminal is told how full the pool is, once a second. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cli/program/join.h>
#include <cli/program/stop.h>
#include <cli/program/tell.h>
#include <cli/program/text.h>
#include <core/util/check.h>

#include "program.h"

#define LOOK_NS MC_SEC
/* Longer than a client takes to ask the master between two transfers: having to wake us for each costs it as much as
 * hundreds of KiB do. */
#define SPIN "200us"
#define STEP (UINT64_C(256) << 20)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

struct piece {
	void *addr;
	uint64_t len;
	char location[MC_LOCATION_MAX + 1];
};

struct serving {
	const struct msc_options *o;
	struct msc_session session;
	struct piece *pieces;
	size_t nr; /* that are lent */
	uint64_t len;
};

/* Pages that are there when the first value comes; what cannot be done so comes with the values. */
static void populate(struct piece *p)
{
	char done[MC_TEXT_MAX], all[MC_TEXT_MAX], line[160];

	for (uint64_t at = 0; at < p->len && !mc_stopping(); at += STEP) {
		uint64_t len = p->len - at < STEP ? p->len - at : STEP;

		if (madvise((char *)p->addr + at, len, MADV_POPULATE_WRITE) < 0)
			break;
		snprintf(line, sizeof line, "taking memory: %s of %s", mc_text_size(at + len, done), mc_text_size(p->len, all));
		if (mc_tell_progress_on())
			mc_tell_progress(line);
	}
	mc_tell_progress_end();
}

/* A number in a small file; missing: 0, "max": UINT64_MAX. */
static uint64_t number_in(const char *path, const char *behind)
{
	char text[4096];
	const char *at = text;
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

	if (f)
		fclose(f);
	text[n] = '\0';
	if (behind)
		at = strstr(text, behind) ? strstr(text, behind) + strlen(behind) : "";
	return strncmp(at, "max", 3) == 0 ? UINT64_MAX : strtoull(at, NULL, 10);
}

/* Memory that this process may still take: the host's, or less in a control group.  UINT64_MAX: not known. */
static uint64_t memory_left(void)
{
	uint64_t host = number_in("/proc/meminfo", "MemAvailable:"), most = number_in("/sys/fs/cgroup/memory.max", NULL);
	uint64_t taken = number_in("/sys/fs/cgroup/memory.current", NULL), left = host ? host << 10 : UINT64_MAX;

	return most && most != UINT64_MAX ? MC_MIN(left, most > taken ? most - taken : 0) : left;
}

/* Taking pages that are not there would end this process, or another one, without a word. */
static int check_room(const struct serving *s, const struct piece *p, struct mc_error *err)
{
	char len[MC_TEXT_MAX], left[MC_TEXT_MAX];
	uint64_t room = memory_left();

	if (!s->o->populate || p->len <= room || (*p->location != '*' && strncmp(p->location, "cpu:", 4) != 0))
		return 0;
	return mc_fail(err, -ENOMEM, "serve: to lend %s is more than the %s of memory that this host has left: lend less, or say "
				     "--nopopulate to take pages as values come", mc_text_size(p->len, len), mc_text_size(room, left));
}

static int lend_piece(struct serving *s, struct piece *p, struct mc_error *err)
{
	int r = check_room(s, p, err);

	if (r == 0)
		r = mc_memory_alloc(s->session.engine, p->location, p->len, MC_ACCESS_ALL, MSC_MEMORY_NS, &p->addr, err);

	if (r < 0)
		return r;
	if (s->o->populate)
		populate(p);
	r = mc_store_lend(s->session.store, p->addr, p->len, p->location, MSC_MEMORY_NS, NULL, err);
	if (r < 0)
		mc_memory_free(s->session.engine, p->addr, MSC_CLOSE_NS, NULL);
	return r;
}

/* The flags were checked. */
static int lend(struct serving *s, struct mc_error *err)
{
	size_t nr = msc_list_len(s->o->size);

	s->pieces = calloc(nr, sizeof *s->pieces);
	if (!s->pieces)
		return mc_fail(err, -1, "out of memory");
	for (; s->nr < nr && !mc_stopping(); s->nr++) {
		struct piece *p = &s->pieces[s->nr];
		char size[64];
		int r;

		msc_list_item(s->o->size, s->nr, size, sizeof size);
		mc_text_parse_size(size, &p->len);
		if (!*s->o->location || msc_list_item(s->o->location, s->nr, p->location, sizeof p->location) < 0)
			snprintf(p->location, sizeof p->location, "*");
		r = lend_piece(s, p, err);
		if (r < 0)
			return r;
		s->len += p->len;
	}
	return 0;
}

static void tell(const struct serving *s)
{
	char text[MC_TEXT_MAX];

	if (s->o->json) {
		fputs("{\"engine\": ", stdout);
		mc_text_json(stdout, mc_engine_name(s->session.engine));
		printf(", \"port\": %u, \"master\": ", mc_engine_port(s->session.engine));
		mc_text_json(stdout, s->o->master);
		printf(", \"lent\": %" PRIu64 ", \"pieces\": [", s->len);
		for (size_t i = 0; i < s->nr; i++) {
			printf("%s{\"size\": %" PRIu64 ", \"location\": ", i ? ", " : "", s->pieces[i].len);
			mc_text_json(stdout, s->pieces[i].location);
			putchar('}');
		}
		puts("]}");
	} else {
		printf("lending %s in %zu piece%s to '%s'; engine '%s' is ready on port %u\n", mc_text_size(s->len, text), s->nr,
		       s->nr == 1 ? "" : "s", s->o->master, mc_engine_name(s->session.engine), mc_engine_port(s->session.engine));
	}
	fflush(stdout);
}

static void show(const struct serving *s)
{
	struct mc_store_info info = {.size = sizeof info};
	struct mc_error err = {0};
	char used[MC_TEXT_MAX], lent[MC_TEXT_MAX], line[256];

	if (mc_store_info(s->session.store, LOOK_NS, &info, &err) < 0)
		snprintf(line, sizeof line, "the master does not answer: %.200s", err.text);
	else
		snprintf(line, sizeof line, "pool: %s of %s used (%.0f %%), %" PRIu64 " objects, %" PRIu64 " pieces, %" PRIu64 " clients",
			 mc_text_size(info.used, used), mc_text_size(info.lent, lent),
			 info.lent ? (double)info.used * 100 / (double)info.lent : 0, info.nr_objects, info.nr_segments, info.nr_clients);
	mc_tell_progress(line);
}

static void serve(const struct serving *s)
{
	uint64_t end = s->o->duration > 0 ? msc_now_ns() + (uint64_t)(s->o->duration * 1e9) : UINT64_MAX, now;

	while (!mc_stopping() && (now = msc_now_ns()) < end) {
		if (mc_tell_progress_on())
			show(s);
		mc_stop_wait(end - now < LOOK_NS ? end - now : LOOK_NS);
	}
	mc_tell_progress_end();
}

static void take_back(struct serving *s, struct piece *p)
{
	mc_store_take_back(s->session.store, p->addr, MSC_CLOSE_NS, NULL);
	mc_memory_free(s->session.engine, p->addr, MSC_CLOSE_NS, NULL);
}

int msc_serve(const struct msc_options *o, struct mc_config *config)
{
	struct serving s = {.o = o};
	struct mc_error err = {0};
	int r = mc_join_default(config, "spin", SPIN, &err), code = MSC_EXIT_OK;

	if (r == 0)
		r = msc_session_open(&s.session, o, config, true, &err);
	if (r == 0)
		r = lend(&s, &err);
	if (r == 0 && !mc_stopping()) {
		tell(&s);
		r = mc_join_ready(o->ready_file, s.session.engine, &err);
	}
	if (r < 0)
		code = msc_fail(o, &s.session, &err);
	else
		serve(&s);
	while (s.nr > 0)
		take_back(&s, &s.pieces[--s.nr]);
	msc_session_close(&s.session);
	free(s.pieces);
	mc_stop_done();
	return code;
}
