/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines with a P2P store that are processes of their own, so that they can be
 * killed and frozen: led by lines, which they answer, and what they get lies in
 * files, which stay.
 *
 *   PROGRAM --as peer DIR NAME [KEY=VALUE]...   settings of the engine; p2p.get, p2p.serve (bytes per
 *                                               second), p2p.patience (ms): options of the store;
 *                                               p2p.timeout (ms): of get and stat
 *
 * METADATA is the service's URL, a folder of the test unless set; MATRIX as for engine_with.
 */
#ifndef MC_TESTS_P2P_PEERS_H
#define MC_TESTS_P2P_PEERS_H

#include <mooncake/p2p_store.h>

#include "roles.h"

/* Objects are small, and cut so finely that one shard is less than 1 %. */
#define OBJECT_LEN ((size_t)4 << 20)
#define SHARD_LEN ((size_t)32 << 10)
#define NR_SHARDS (OBJECT_LEN / SHARD_LEN)
#define P2P_T (60 * MC_SEC * SLOW)

/* ---- in the peer's process ---------------------------------------------------------------------- */

struct p2p_peer {
	struct mc_engine *engine;
	struct mc_p2p *store;
	const char *name;
	uint64_t timeout_ns;
	FILE *log;
	struct {
		char object[32];
		unsigned char *mem;
	} has[4];
};

static inline unsigned char object_byte(unsigned seed, size_t i)
{
	return (unsigned char)(seed * 151 + i * 7 + (i >> 8) * 13 + (i >> 15));
}

static inline void p2p_on_log(void *arg, enum mc_log_level level, const char *line)
{
	struct p2p_peer *p = arg;

	fprintf(p->log, "%s%s\n", level <= MC_LOG_WARN ? "warning: " : "", line);
	fflush(p->log);
}

/* A page of a file that was cut, touched by the CPU: zeros, for the one page. */
static inline void p2p_on_bus(int sig, siginfo_t *info, void *context)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	if (mmap((void *)((uintptr_t)info->si_addr / page * page), page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		abort();
}

/* Memory of an object: a file, for who comes back after he was killed. */
static inline unsigned char *object_memory(struct p2p_peer *p, const char *object)
{
	char path[200];
	void *mem;
	int fd;

	for (size_t i = 0; i < 4; i++) {
		if (p->has[i].mem && strcmp(p->has[i].object, object) == 0)
			return p->has[i].mem;
		if (p->has[i].mem)
			continue;
		snprintf(path, sizeof path, "%s/%s.%s", dir, p->name, object);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		NEED(fd >= 0 && ftruncate(fd, (off_t)OBJECT_LEN) == 0, "%s: %s", path, strerror(errno));
		mem = mmap(NULL, OBJECT_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		NEED(mem != MAP_FAILED, "%s: %s", path, strerror(errno));
		close(fd);
		snprintf(p->has[i].object, sizeof p->has[i].object, "%s", object);
		return p->has[i].mem = mem;
	}
	NEED(false, "too many objects");
}

/* One byte of each shard, behind the store's back: what TSan is right to forbid. */
__attribute__((no_sanitize("thread"), noinline)) static void object_spoil(unsigned char *mem)
{
	for (size_t i = 100; i < OBJECT_LEN; i += SHARD_LEN)
		mem[i] ^= 4;
}

static inline void p2p_do_register(struct p2p_peer *p, const char *object, unsigned seed, size_t shard)
{
	struct mc_p2p_register_options options = {.size = sizeof options, .shard_size = shard};
	unsigned char *mem = object_memory(p, object);
	/* The getters cut it elsewhere. */
	struct mc_p2p_range ranges[2] = {{mem, 1000001}, {mem + 1000001, OBJECT_LEN - 1000001}};
	struct mc_error err = {0};
	int r;

	for (size_t i = 0; i < OBJECT_LEN; i++)
		mem[i] = object_byte(seed, i);
	r = mc_p2p_register(p->store, object, ranges, 2, &options, P2P_T, &err);
	dprintf(3, "register %d %s\n", r, r < 0 ? err.text : "");
}

/* "at PERCENT" whenever it has come further, then "got ...". */
static inline void p2p_do_get(struct p2p_peer *p, const char *object, unsigned seed, bool resume)
{
	struct mc_p2p_get_options options = {.size = sizeof options, .flags = resume ? MC_P2P_RESUME : 0};
	struct mc_p2p_progress at = {.size = sizeof at};
	unsigned char *mem = object_memory(p, object);
	struct mc_p2p_range ranges[3] = {{mem, 77777}, {mem + 77777, 2000000},
					 {mem + 2077777, OBJECT_LEN - 2077777}};
	struct mc_error err = {0};
	struct mc_p2p_get *get = NULL;
	unsigned last = 0;
	size_t right = 0;
	int r;

	r = mc_p2p_get_start(p->store, object, ranges, 3, &options, p->timeout_ns, &get, &err);
	if (r == 0) {
		do {
			r = mc_p2p_get_wait(get, 5 * MC_MSEC, &err);
			mc_p2p_get_progress(get, &at);
			if (at.done_shards != last && at.nr_shards)
				dprintf(3, "at %u\n", 100 * at.done_shards / at.nr_shards);
			last = at.done_shards;
		} while (r == -EAGAIN);
		mc_p2p_get_free(get);
	}
	while (right < OBJECT_LEN && mem[right] == object_byte(seed, right))
		right++;
	dprintf(3, "got %d %u %llu %llu %u %u %s %s\n", r, at.done_shards,
		(unsigned long long)(at.resumed_len / SHARD_LEN), (unsigned long long)at.moved_len, at.dropped, at.corrupt,
		right == OBJECT_LEN ? "right" : "wrong", r < 0 ? err.text : "");
}

/* Begin one, cancel it a while later; "cancelled STATUS MS": how long that took. */
static inline void p2p_do_cancel(struct p2p_peer *p, const char *object, unsigned after_ms)
{
	unsigned char *mem = object_memory(p, object);
	struct mc_p2p_range range = {mem, OBJECT_LEN};
	struct mc_error err = {0};
	struct mc_p2p_get *get = NULL;
	uint64_t begin = 0;
	int r = mc_p2p_get_start(p->store, object, &range, 1, NULL, P2P_T, &get, &err);

	if (r == 0) {
		r = mc_p2p_get_wait(get, after_ms * MC_MSEC, &err);
		begin = now_ns();
		mc_p2p_get_cancel(get);
		r = r == -EAGAIN ? mc_p2p_get_wait(get, P2P_T, &err) : r;
		mc_p2p_get_free(get);
	}
	dprintf(3, "cancelled %d %u %s\n", r, (unsigned)((now_ns() - begin) / MC_MSEC), r < 0 ? err.text : "");
}

static inline void p2p_do_stat(struct p2p_peer *p, const char *object)
{
	struct mc_p2p_info *info = NULL;
	struct mc_error err = {0};
	int r = mc_p2p_stat(p->store, object, p->timeout_ns, &info, &err);

	if (r < 0) {
		dprintf(3, "stat %d %s\n", r, err.text);
		return;
	}
	dprintf(3, "stat 0");
	for (size_t i = 0; i < info->nr_sources; i++)
		dprintf(3, " %s=%u", info->sources[i].engine, info->sources[i].have);
	dprintf(3, "\n");
	mc_p2p_info_free(info);
}

static inline void p2p_obey(struct p2p_peer *p, char *line)
{
	char verb[16] = "", object[32] = "", word[16] = "";
	struct mc_error err = {0};
	unsigned seed = 0;
	int r = 0;

	sscanf(line, "%15s %31s %u %15s", verb, object, &seed, word);
	if (!strcmp(verb, "register")) {
		p2p_do_register(p, object, seed, *word ? strtoul(word, NULL, 10) : SHARD_LEN);
	} else if (!strcmp(verb, "get")) {
		p2p_do_get(p, object, seed, !strcmp(word, "resume"));
	} else if (!strcmp(verb, "cancelled")) {
		p2p_do_cancel(p, object, seed);
	} else if (!strcmp(verb, "stat")) {
		p2p_do_stat(p, object);
	} else if (!strcmp(verb, "spoil")) {
		object_spoil(object_memory(p, object));
		dprintf(3, "spoil 0\n");
	} else {
		if (!strcmp(verb, "unregister"))
			r = mc_p2p_unregister(p->store, object, P2P_T, &err);
		else if (!strcmp(verb, "delete"))
			r = mc_p2p_delete_replica(p->store, object, P2P_T, &err);
		else
			NEED(false, "no verb '%s'", verb);
		dprintf(3, "%s %d %s\n", verb, r, r < 0 ? err.text : "");
	}
}

/* argv: DIR NAME [KEY=VALUE]... */
static inline int p2p_peer_main(int argc, char **argv)
{
	struct mc_p2p_options options = {.size = sizeof options, .log = p2p_on_log};
	struct p2p_peer p = {.name = argv[1], .timeout_ns = P2P_T};
	const char *settings[16], *url = getenv("METADATA");
	char line[200], metadata[200];
	struct mc_error err = {0};
	size_t n = 0;
	int r;

	sigaction(SIGBUS, &(struct sigaction){.sa_sigaction = p2p_on_bus, .sa_flags = SA_SIGINFO}, NULL);
	snprintf(dir, sizeof dir, "%s", argv[0]);
	snprintf(line, sizeof line, "%s/%s.log", dir, p.name);
	p.log = fopen(line, "a");
	NEED(p.log, "%s", line);
	mc_log_set_level(MC_LOG_ERROR);
	snprintf(metadata, sizeof metadata, "metadata_server=%s", url ? url : "");
	if (url)
		settings[n++] = metadata;
	for (int i = 2; i < argc; i++) {
		const char *eq = strchr(argv[i], '=');

		NEED(eq && n < 15, "setting '%s'", argv[i]);
		if (!strncmp(argv[i], "p2p.get=", 8))
			options.max_rate_get = strtoull(eq + 1, NULL, 10);
		else if (!strncmp(argv[i], "p2p.serve=", 10))
			options.max_rate_serve = strtoull(eq + 1, NULL, 10);
		else if (!strncmp(argv[i], "p2p.patience=", 13))
			options.patience_ns = strtoull(eq + 1, NULL, 10) * MC_MSEC;
		else if (!strncmp(argv[i], "p2p.timeout=", 12))
			p.timeout_ns = strtoull(eq + 1, NULL, 10) * MC_MSEC * SLOW;
		else
			settings[n++] = argv[i];
	}
	settings[n] = NULL;
	p.engine = engine_with(p.name, settings);
	options.log_arg = &p;
	r = mc_p2p_open(p.engine, &options, &p.store, &err);
	NEED(r == 0, "%s", err.text);
	dprintf(3, "ready\n");
	while (fgets(line, sizeof line, stdin))
		p2p_obey(&p, line);
	CHECK(mc_p2p_close(p.store, P2P_T) == 0, "close of the store of '%s'", p.name);
	CHECK(mc_engine_close(p.engine, T) == 0, "close of '%s'", p.name);
	fclose(p.log);
	return failures != 0;
}

/* ---- in the test's ------------------------------------------------------------------------------------ */

/* A peer that is up; settings end with NULL. */
#define p2p_start(r, name, ...) p2p_start_with(r, (const char *const[]){"peer", name, __VA_ARGS__ __VA_OPT__(, ) NULL})
static inline void p2p_start_with(struct role *r, const char *const *words)
{
	role_start(r, words);
	role_says(r, "ready");
}

__attribute__((format(printf, 2, 3))) static inline void p2p_tell(const struct role *r, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vdprintf(r->input, format, ap);
	va_end(ap);
	dprintf(r->input, "\n");
}

/* The answer to what was told: its code, and its line. */
static inline int p2p_answer(struct role *r, const char *verb, const char **ret_line)
{
	const char *line = role_line(r);
	size_t len = strlen(verb);

	NEED(!strncmp(line, verb, len) && line[len] == ' ', "'%s' says '%s' to '%s'", r->name, line, verb);
	if (ret_line)
		*ret_line = line;
	return atoi(line + len);
}

#define p2p_ask(r, verb, ...) (p2p_tell(r, verb " " __VA_ARGS__), p2p_answer(r, verb, NULL))

/* How a get ended. */
struct p2p_got {
	int status;
	unsigned done, resumed, dropped, corrupt; /* shards; sources; shards */
	unsigned long long moved;
	bool right;
	char text[600];
};

/* Follow a get until it has come so far, or ended: then true. */
static inline bool p2p_follow(struct role *r, unsigned percent, struct p2p_got *got)
{
	for (;;) {
		const char *line = role_line(r);
		char right[8] = "";
		unsigned at;
		int n = 0;

		if (sscanf(line, "at %u", &at) == 1) {
			if (at >= percent)
				return false;
			continue;
		}
		*got = (struct p2p_got){0};
		NEED(sscanf(line, "got %d %u %u %llu %u %u %7s %n", &got->status, &got->done, &got->resumed, &got->moved,
			    &got->dropped, &got->corrupt, right, &n) == 7,
		     "'%s' says '%s' of its get", r->name, line);
		got->right = !strcmp(right, "right");
		snprintf(got->text, sizeof got->text, "%s", line + n);
		return true;
	}
}

/* Its get ends well: every byte is there. */
static inline struct p2p_got p2p_good(struct role *r)
{
	struct p2p_got got;

	p2p_follow(r, 1000, &got);
	CHECK(got.status == 0, "get of '%s': %d %s", r->name, got.status, got.text);
	CHECK(got.right && got.done == NR_SHARDS, "'%s': wrong bytes, %u shards", r->name, got.done);
	return got;
}

/* Does the log of a peer's store have a line with both? */
static inline bool p2p_logged(const char *name, const char *a, const char *b)
{
	char path[200], line[1200];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof path, "%s/%s.log", dir, name);
	f = fopen(path, "r");
	NEED(f, "%s", path);
	while (!found && fgets(line, sizeof line, f))
		found = strstr(line, a) && strstr(line, b);
	fclose(f);
	return found;
}

#endif
