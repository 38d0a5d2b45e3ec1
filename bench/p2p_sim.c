/* SPDX-License-Identifier: Apache-2.0 */
/*
 * p2p_sim: how long N getters of one object take that start together, in virtual time: the P2P store's own
 * choice of sources (p2p_pick) and its grant queue (p2p_serve) over the network of p2p_net.c.  No sockets, so
 * a thousand hosts fit; bench/p2p-scale holds it against real ones.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util/check.h"
#include "p2p_net.h"
#include "stores/p2p/p2p_pick.h"
#include "stores/p2p/p2p_serve.h"

#define MS 1000000ull
#define MAX_RUNS 64
#define GIVE_UP_NS (3600 * NET_SEC)

enum kind { START, LIST, TURN, GRANT, GRANTED, REFUSED, LANDED, ENDED, MAP_ASKED, MAP_READ, SERVE };

struct config {
	uint32_t getters[MAX_RUNS], nr_runs;
	uint64_t size, shard, join_ns, dial_ns, delay_ns, queue_ns, seed, wait_ns;
	double rate;            /* bytes/s of a link */
	double useful;          /* of which are the object's: the rest is heads of packets */
	struct mc_p2p_pick_limits pick;
	struct mc_p2p_serve_limits serve;
	uint32_t lanes;
	bool json, verbose, no_news;
};

/* A host: 0 is the seed, the others get and serve what they have. */
struct host {
	struct mc_p2p_pick *pick;       /* NULL: the seed */
	struct mc_p2p_serve *serve;
	struct mc_p2p_tally tally;
	uint8_t *map;
	int32_t *source_of;             /* of a host; -1: not known */
	uint32_t *host_of;              /* of a source */
	uint32_t known, lists;
	uint32_t reading, nr_tasks;     /* shards on their way; granted ones that wait for a lane */
	struct net_event tasks[256];
	bool joined, done;
	uint64_t done_ns, turn_ns, serve_ns;
};

struct sim {
	const struct config *c;
	struct net *net;
	struct host *hosts;
	uint32_t nr_hosts, nr_shards, nr_joined, nr_done;
	uint64_t events, wasted, refused, maps;
	uint64_t rng;
};

static void *zeroed(size_t nr, size_t size)
{
	void *p = calloc(nr, size);

	if (!p) {
		perror("p2p_sim");
		exit(1);
	}
	return p;
}

static double draw(struct sim *s)
{
	s->rng = s->rng * 6364136223846793005ull + 1442695040888963407ull;
	return (double)(s->rng >> 11) / (double)(1ull << 53);
}

static uint64_t shard_bytes(const struct sim *s, uint32_t shard)
{
	uint64_t at = shard * s->c->shard;

	return MC_MIN(s->c->shard, s->c->size - at);
}

static void post(struct sim *s, int kind, uint32_t to, uint64_t at_ns)
{
	net_post(s->net, &(struct net_event){.at_ns = MC_MAX(at_ns, net_now(s->net)), .kind = kind, .to = to});
}

static void message(struct sim *s, int kind, uint32_t from, uint32_t to, uint64_t what)
{
	net_send(s->net, (struct net_event){.kind = kind, .from = from, .to = to, .what = what});
}

/* ---- a getter ---------------------------------------------------------------------------------- */

/* As the getter lists: soon again at first, when others come up too, then ever less often; longer among many. */
static uint64_t list_after(const struct host *h)
{
	uint64_t ns = (250 * MS << MC_MIN(h->lists, 4u)) + h->known * MS;

	return MC_MIN(ns, 10 * NET_SEC);
}

static void learn(struct sim *s, uint32_t g, uint32_t host)
{
	struct host *h = &s->hosts[g];
	int i;

	if (host == g || h->source_of[host] >= 0)
		return;
	i = mc_p2p_pick_source_add(h->pick, MC_P2P_FAR, net_now(s->net));
	h->source_of[host] = i;
	h->host_of[i] = host;
	h->known++;
	if (!host)
		mc_p2p_pick_source_map(h->pick, (uint32_t)i, NULL, net_now(s->net));
}

static void turn(struct sim *s, uint32_t g)
{
	struct host *h = &s->hosts[g];
	uint64_t now = net_now(s->net), wake;
	uint32_t source, who[MC_P2P_SAMPLE];
	struct net_event e = {.kind = GRANT, .from = g};
	size_t nr;

	if (h->done || !h->joined)
		return;
	while (!mc_p2p_pick_next(h->pick, now, &source, e.candidates, &e.nr)) {
		e.to = h->host_of[source];
		net_send(s->net, e);
	}
	nr = mc_p2p_pick_sample(h->pick, who, MC_P2P_SAMPLE, now);
	for (size_t i = 0; i < nr; i++) {
		s->maps++;
		message(s, MAP_ASKED, g, h->host_of[who[i]], 0);
	}
	wake = mc_p2p_pick_wake(h->pick, now);
	if (wake != UINT64_MAX && (h->turn_ns <= now || wake < h->turn_ns)) {
		h->turn_ns = MC_MAX(wake, now + MS);
		post(s, TURN, g, h->turn_ns);
	}
}

static void list(struct sim *s, uint32_t g)
{
	struct host *h = &s->hosts[g];

	if (h->done)
		return;
	for (uint32_t i = 0; i < s->nr_hosts; i++)
		if (s->hosts[i].joined)
			learn(s, g, i);
	post(s, LIST, g, net_now(s->net) + list_after(h));
	h->lists++;
	turn(s, g);
}

static void read_map(struct sim *s, uint32_t g, uint32_t host)
{
	struct host *h = &s->hosts[g];

	if (h->source_of[host] >= 0 && host)
		mc_p2p_pick_source_map(h->pick, (uint32_t)h->source_of[host], s->hosts[host].map, net_now(s->net));
}

/* Lanes take what was granted. */
static void read_shards(struct sim *s, uint32_t g)
{
	struct host *h = &s->hosts[g];

	while (h->reading < s->c->lanes && h->nr_tasks) {
		struct net_event then = h->tasks[0];

		memmove(h->tasks, h->tasks + 1, --h->nr_tasks * sizeof *h->tasks);
		h->reading++;
		net_flow(s->net, then.from, g, (double)shard_bytes(s, (uint32_t)then.what) / s->c->useful, &then);
	}
}

static void landed(struct sim *s, const struct net_event *e)
{
	uint32_t shard = (uint32_t)e->what, g = e->to;
	struct host *h = &s->hosts[g];

	mc_p2p_pick_done(h->pick, (uint32_t)h->source_of[e->from], shard, shard_bytes(s, shard), net_now(s->net));
	if (!s->c->no_news)
		read_map(s, g, e->from);
	h->map[shard / 8] |= (uint8_t)(1u << (shard % 8));
	message(s, ENDED, g, e->from, e->what >> 32 << 1);
	h->reading--;
	read_shards(s, g);
	if (!mc_p2p_pick_missing(h->pick) && !h->done) {
		h->done = true;
		h->done_ns = net_now(s->net);
		s->nr_done++;
	}
	turn(s, g);
}

/* The answer of a source has come. */
static void granted(struct sim *s, const struct net_event *e)
{
	struct host *h = &s->hosts[e->to];
	uint32_t source = (uint32_t)h->source_of[e->from], shard = (uint32_t)e->what;
	struct net_event then = {.kind = LANDED, .from = e->from, .to = e->to, .what = e->what};

	if (e->kind == REFUSED) {
		s->refused++;
		mc_p2p_pick_refused(h->pick, source, net_now(s->net) + e->what, net_now(s->net));
	} else if (mc_p2p_pick_granted(h->pick, source, shard, net_now(s->net))) {
		s->wasted++;
		message(s, ENDED, e->to, e->from, e->what >> 32 << 1 | 1);
	} else {
		h->tasks[h->nr_tasks++] = then;
		read_shards(s, e->to);
	}
	turn(s, e->to);
}

/* ---- a source ---------------------------------------------------------------------------------- */

/* The ticket's getter is kept in the number of the getter. */
static void answer(struct sim *s, uint32_t host, uint32_t getter, const struct mc_p2p_grant *g)
{
	message(s, g->status ? REFUSED : GRANTED, host, getter, g->status ? g->retry_ns : g->slot << 32 | g->shard);
}

static void serve(struct sim *s, uint32_t host)
{
	struct host *h = &s->hosts[host];
	struct mc_p2p_grant g;
	uint64_t wake, now = net_now(s->net);

	while (mc_p2p_serve_next(h->serve, now, &g))
		answer(s, host, (uint32_t)g.getter, &g);
	wake = mc_p2p_serve_wake(h->serve);
	if (wake != UINT64_MAX && (h->serve_ns <= now || wake < h->serve_ns)) {
		h->serve_ns = wake;
		post(s, SERVE, host, wake);
	}
}

static void asked(struct sim *s, const struct net_event *e)
{
	struct host *h = &s->hosts[e->to];
	uint64_t now = net_now(s->net);
	struct mc_p2p_grant g = {0};
	int r = mc_p2p_serve_ask(h->serve, &h->tally, e->from, e->candidates, e->nr, now + s->c->wait_ns, now, &g);

	if (!r || r == -EAGAIN)
		answer(s, e->to, e->from, &g);
	else if (r != -EINPROGRESS)
		message(s, REFUSED, e->to, e->from, 100 * MS);
	serve(s, e->to);
}

/* ---- a run ------------------------------------------------------------------------------------- */

static void happen(struct sim *s, const struct net_event *e)
{
	switch ((enum kind)e->kind) {
	case START:
		s->hosts[e->to].joined = true;
		list(s, e->to);
		break;
	case LIST:
		list(s, e->to);
		break;
	case TURN:
		turn(s, e->to);
		break;
	case GRANT:
		asked(s, e);
		break;
	case GRANTED:
	case REFUSED:
		granted(s, e);
		break;
	case LANDED:
		landed(s, e);
		break;
	case ENDED:
		mc_p2p_serve_done(s->hosts[e->to].serve, e->from, e->what >> 1,
				  e->what & 1 ? MC_P2P_END_DECLINED : MC_P2P_END_OK, net_now(s->net));
		serve(s, e->to);
		break;
	case MAP_ASKED:
		message(s, MAP_READ, e->to, e->from, 0);
		break;
	case MAP_READ:
		read_map(s, e->to, e->from);
		turn(s, e->to);
		break;
	case SERVE:
		serve(s, e->to);
		break;
	}
}

static void host_init(struct sim *s, uint32_t i)
{
	struct host *h = &s->hosts[i];
	const struct config *c = s->c;

	h->map = zeroed((s->nr_shards + 7) / 8, 1);
	h->tally = (struct mc_p2p_tally){s->nr_shards, zeroed(s->nr_shards, sizeof(uint32_t)), i ? h->map : NULL};
	if (mc_p2p_serve_new(&c->serve, &h->serve) ||
	    (i && mc_p2p_pick_new(s->nr_shards, s->nr_hosts, &c->pick, c->seed + i, &h->pick))) {
		fprintf(stderr, "p2p_sim: no memory, or a limit that cannot be\n");
		exit(1);
	}
	h->joined = !i;
	h->source_of = zeroed(s->nr_hosts, sizeof *h->source_of);
	h->host_of = zeroed(s->nr_hosts, sizeof *h->host_of);
	memset(h->source_of, 0xff, s->nr_hosts * sizeof *h->source_of);
	if (i)
		post(s, START, i, c->dial_ns + (uint64_t)(draw(s) * (double)c->join_ns));
}

static void host_fini(struct host *h)
{
	mc_p2p_pick_free(h->pick);
	mc_p2p_serve_free(h->serve);
	free(h->tally.granted);
	free(h->map);
	free(h->source_of);
	free(h->host_of);
}

static void report(const struct sim *s, uint32_t nr, bool first)
{
	uint64_t last = 0;
	double sum = 0;

	for (uint32_t i = 1; i < s->nr_hosts; i++) {
		last = MC_MAX(last, s->hosts[i].done_ns);
		sum += (double)s->hosts[i].done_ns;
	}
	if (s->c->json)
		printf("%s\n    {\"getters\": %u, \"seconds\": %.4f, \"mean_seconds\": %.4f, \"seed_copies\": %.3f}",
		       first ? "" : ",", nr, (double)last / 1e9, sum / nr / 1e9,
		       net_sent(s->net, 0) * s->c->useful / (double)s->c->size);
	else
		printf("%5u getters %8.3f s, on average %8.3f s, the seed sent %.2f copies\n", nr,
		       (double)last / 1e9, sum / nr / 1e9, net_sent(s->net, 0) * s->c->useful / (double)s->c->size);
	if (s->c->verbose)
		fprintf(stderr, "  refused %lu, granted in vain %lu, bitmaps %lu, events %lu\n",
			(unsigned long)s->refused, (unsigned long)s->wasted, (unsigned long)s->maps,
			(unsigned long)s->events);
	fflush(stdout);
}

static int run(const struct config *c, uint32_t nr, bool first)
{
	struct sim s = {.c = c, .nr_hosts = nr + 1, .nr_shards = (uint32_t)((c->size + c->shard - 1) / c->shard),
			.rng = c->seed * 2 + 1};
	struct net_event e;

	s.net = net_new(s.nr_hosts, c->rate, c->delay_ns, c->queue_ns);
	s.hosts = zeroed(s.nr_hosts, sizeof *s.hosts);
	for (uint32_t i = 0; i < s.nr_hosts; i++)
		host_init(&s, i);
	while (s.nr_done < nr && net_step(s.net, &e) && e.at_ns < GIVE_UP_NS) {
		s.events++;
		happen(&s, &e);
	}
	if (s.nr_done == nr)
		report(&s, nr, first);
	else
		fprintf(stderr, "p2p_sim: %u of %u getters have not ended after %.0f s\n", nr - s.nr_done, nr,
			(double)net_now(s.net) / 1e9);
	for (uint32_t i = 0; i < s.nr_hosts; i++)
		host_fini(&s.hosts[i]);
	free(s.hosts);
	net_free(s.net);
	return s.nr_done == nr ? 0 : 1;
}

static int usage(FILE *f)
{
	fputs("usage: p2p_sim [FLAG...]\n"
	      "How long N getters of one object take that start together, in virtual time.\n"
	      "  --getters=N,...   how many, a run each (default 1,2,4,8,16)\n"
	      "  --size=MIB        of the object (default 64)\n"
	      "  --shard=KIB       (default: as the store chooses)\n"
	      "  --mbit=RATE       of each host's uplink and downlink, Mbit/s (default 200)\n"
	      "  --useful=SHARE    of it that is the object's (default 0.945: tcp over Ethernet)\n"
	      "  --delay=US        one way, idle (default 100)\n"
	      "  --queue=US        what a full link adds (default 2000)\n"
	      "  --start=MS        from the start to the first GRANT (default 30)\n"
	      "  --spread=MS       the getters start within this (default 20)\n"
	      "  --wait=MS         how long a GRANT may wait (default 250)\n"
	      "  --lanes=N         shards that a getter reads at once (default 4)\n"
	      "  --slots=N --waiting=N --per-source=N --per-getter=N --candidates=N\n"
	      "                    bounds of the store (default: its own)\n"
	      "  --no-news         bitmaps are read by sampling only, not beside shards\n"
	      "  --seed=N          of all that is by lot (default 1)\n"
	      "  --json            an object on stdout\n"
	      "  --verbose         what went on, on stderr\n"
	      "Exit: 0 ok, 1 failed, 2 usage.\n", f);
	return f == stdout ? 0 : 2;
}

static int parse_getters(struct config *c, char *list)
{
	c->nr_runs = 0;
	for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
		unsigned long n = strtoul(word, NULL, 10);

		if (!n || n > 10000 || c->nr_runs == MAX_RUNS)
			return -1;
		c->getters[c->nr_runs++] = (uint32_t)n;
	}
	return c->nr_runs ? 0 : -1;
}

enum flag { F_GETTERS = 256, F_SIZE, F_SHARD, F_MBIT, F_USEFUL, F_DELAY, F_QUEUE, F_START, F_SPREAD, F_WAIT,
	    F_SLOTS, F_WAITING, F_PER_SOURCE, F_PER_GETTER, F_CANDIDATES, F_LANES, F_SEED, F_NO_NEWS, F_JSON, F_VERBOSE };

static const struct option flags[] = {
	{"getters", 1, 0, F_GETTERS}, {"size", 1, 0, F_SIZE}, {"shard", 1, 0, F_SHARD}, {"mbit", 1, 0, F_MBIT},
	{"useful", 1, 0, F_USEFUL}, {"delay", 1, 0, F_DELAY}, {"queue", 1, 0, F_QUEUE},
	{"start", 1, 0, F_START}, {"spread", 1, 0, F_SPREAD}, {"wait", 1, 0, F_WAIT}, {"slots", 1, 0, F_SLOTS},
	{"waiting", 1, 0, F_WAITING}, {"per-source", 1, 0, F_PER_SOURCE}, {"per-getter", 1, 0, F_PER_GETTER},
	{"candidates", 1, 0, F_CANDIDATES}, {"lanes", 1, 0, F_LANES}, {"seed", 1, 0, F_SEED}, {"no-news", 0, 0, F_NO_NEWS},
	{"json", 0, 0, F_JSON}, {"verbose", 0, 0, F_VERBOSE}, {"help", 0, 0, 'h'}, {0},
};

static int set_flag(struct config *c, int flag)
{
	char *end = NULL;
	double v = optarg && flag != F_GETTERS ? strtod(optarg, &end) : 0;

	if (end && (*end || end == optarg || !(v >= 0 && v <= 1e9)))
		return -1;
	switch (flag) {
	case F_GETTERS: return parse_getters(c, optarg);
	case F_SIZE: c->size = (uint64_t)(v * (1 << 20)); break;
	case F_SHARD: c->shard = (uint64_t)(v * (1 << 10)); break;
	case F_MBIT: c->rate = v * 1e6 / 8; break;
	case F_USEFUL: c->useful = v; break;
	case F_DELAY: c->delay_ns = (uint64_t)(v * 1e3); break;
	case F_QUEUE: c->queue_ns = (uint64_t)(v * 1e3); break;
	case F_START: c->dial_ns = (uint64_t)(v * 1e6); break;
	case F_SPREAD: c->join_ns = (uint64_t)(v * 1e6); break;
	case F_WAIT: c->wait_ns = (uint64_t)(v * 1e6); break;
	case F_SLOTS: c->serve.slots = (uint32_t)v; break;
	case F_WAITING: c->serve.queue = (uint32_t)v; break;
	case F_PER_SOURCE: c->pick.per_source = (uint32_t)v; break;
	case F_PER_GETTER: c->pick.per_getter = (uint32_t)v; break;
	case F_CANDIDATES: c->pick.nr_candidates = (uint32_t)v; break;
	case F_LANES: c->lanes = (uint32_t)v; break;
	case F_SEED: c->seed = (uint64_t)v; break;
	case F_NO_NEWS: c->no_news = true; break;
	case F_JSON: c->json = true; break;
	case F_VERBOSE: c->verbose = true; break;
	default: return -1;
	}
	return c->lanes && c->size && c->rate > 0 && c->useful > 0 && c->useful <= 1 ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct config c = {
		.getters = {1, 2, 4, 8, 16}, .nr_runs = 5, .size = 64 << 20, .rate = 25e6, .useful = 0.945,
		.delay_ns = 100000, .queue_ns = 2 * MS, .dial_ns = 30 * MS, .join_ns = 20 * MS,
		.wait_ns = 250 * MS, .seed = 1, .lanes = 4,
	};
	int r = 0;

	for (int flag; (flag = getopt_long(argc, argv, "h", flags, NULL)) != -1;) {
		if (flag == 'h')
			return usage(stdout);
		if (flag == '?')
			return usage(stderr);
		if (set_flag(&c, flag) < 0) {
			fprintf(stderr, "p2p_sim: a value that a flag does not take: %s\n", optarg ? optarg : "");
			return 2;
		}
	}
	if (optind < argc)
		return usage(stderr);
	if (!c.shard)
		c.shard = MC_MAX(MC_MIN(c.size / 64, 64ull << 20), 1ull << 20);
	if (c.json)
		printf("{\"size\": %lu, \"shard\": %lu, \"link_bytes_per_s\": %.0f, \"runs\": [",
		       (unsigned long)c.size, (unsigned long)c.shard, c.rate);
	for (uint32_t i = 0; i < c.nr_runs && !r; i++)
		r = run(&c, c.getters[i], !i);
	if (c.json)
		printf("\n]}\n");
	return r;
}
