/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shares (p2p_net.h): each link has a level, the most that one flow gets of it; a flow's rate is the lower
 * level of its two links.  When a flow comes or goes, its links' levels are computed anew, then those of links
 * whose flows that changed, until nothing moves by a hundredth: what is far away is not touched, so that a step
 * costs little with thousands of flows.
 */
#include "p2p_net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NET_FLOW (-1)
#define MAX_ON_LINK 512
#define SETTLED 0.01
#define MAX_TURNS 400           /* of levels, per flow that comes or goes */
#define NONE UINT32_MAX

struct flow {
	uint32_t link[2];       /* up, down; NONE: this place is free */
	uint32_t next_free;
	uint32_t version;       /* events of an older one are stale */
	double left, rate;
	uint64_t since_ns;
	struct net_event then;
};

struct link {
	double rate, level, sent;
	uint32_t nr, cap, *flows;
	bool queued, touched;
};

struct net {
	uint64_t now_ns, delay_ns, queue_ns, posted;
	uint32_t nr_links, nr_flows, free_flow;
	struct link *links;     /* 2 h: up, 2 h + 1: down */
	struct flow *flows;
	struct net_event *heap;
	size_t nr_events, cap_events;
	uint32_t *queue, *touched;
};

static void *grown(void *p, size_t size)
{
	p = realloc(p, size);
	if (!p) {
		perror("p2p_sim");
		exit(1);
	}
	return p;
}

struct net *net_new(uint32_t nr_hosts, double rate, uint64_t delay_ns, uint64_t queue_ns)
{
	struct net *n = grown(NULL, sizeof *n);

	*n = (struct net){.now_ns = 1, .delay_ns = delay_ns, .queue_ns = queue_ns, .nr_links = 2 * nr_hosts,
			  .free_flow = NONE};
	n->links = grown(NULL, n->nr_links * sizeof *n->links);
	n->queue = grown(NULL, n->nr_links * sizeof *n->queue);
	n->touched = grown(NULL, n->nr_links * sizeof *n->touched);
	for (uint32_t i = 0; i < n->nr_links; i++)
		n->links[i] = (struct link){.rate = rate, .level = INFINITY};
	return n;
}

void net_free(struct net *n)
{
	for (uint32_t i = 0; i < n->nr_links; i++)
		free(n->links[i].flows);
	free(n->links);
	free(n->flows);
	free(n->heap);
	free(n->queue);
	free(n->touched);
	free(n);
}

uint64_t net_now(const struct net *n)
{
	return n->now_ns;
}

double net_sent(const struct net *n, uint32_t host)
{
	return n->links[2 * host].sent;
}

/* ---- events ------------------------------------------------------------------------------------ */

static bool before(const struct net_event *a, const struct net_event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

void net_post(struct net *n, const struct net_event *event)
{
	struct net_event e = *event;
	size_t i = n->nr_events++;

	if (i == n->cap_events) {
		n->cap_events = n->cap_events ? 2 * n->cap_events : 1024;
		n->heap = grown(n->heap, n->cap_events * sizeof *n->heap);
	}
	e.order = n->posted++;
	for (; i && before(&e, &n->heap[(i - 1) / 2]); i = (i - 1) / 2)
		n->heap[i] = n->heap[(i - 1) / 2];
	n->heap[i] = e;
}

static struct net_event pop(struct net *n)
{
	struct net_event first = n->heap[0], last = n->heap[--n->nr_events];
	size_t i = 0, child;

	for (; (child = 2 * i + 1) < n->nr_events; i = child) {
		if (child + 1 < n->nr_events && before(&n->heap[child + 1], &n->heap[child]))
			child++;
		if (!before(&n->heap[child], &last))
			break;
		n->heap[i] = n->heap[child];
	}
	n->heap[i] = last;
	return first;
}

void net_send(struct net *n, struct net_event e)
{
	/* A full link has a queue, and what is small waits in it with what is large. */
	e.at_ns = n->now_ns + n->delay_ns + (n->links[2 * e.from].level < INFINITY ? n->queue_ns : 0) +
		  (n->links[2 * e.to + 1].level < INFINITY ? n->queue_ns : 0);
	net_post(n, &e);
}

/* ---- shares ------------------------------------------------------------------------------------ */

static uint32_t other_end(const struct flow *f, uint32_t link)
{
	return f->link[0] == link ? f->link[1] : f->link[0];
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* What is left for each flow that its other end lets take more; infinite: the link is not full. */
static double level_of(const struct net *n, uint32_t link)
{
	const struct link *l = &n->links[link];
	double limits[MAX_ON_LINK], left = l->rate;

	for (uint32_t i = 0; i < l->nr; i++)
		limits[i] = n->links[other_end(&n->flows[l->flows[i]], link)].level;
	qsort(limits, l->nr, sizeof *limits, by_value);
	for (uint32_t i = 0; i < l->nr; i++) {
		if (limits[i] > left / (l->nr - i))
			return left / (l->nr - i);
		left -= limits[i];
	}
	return INFINITY;
}

static bool moved(double from, double to)
{
	if (isinf(from) || isinf(to))
		return isinf(from) != isinf(to);
	return fabs(to - from) > SETTLED * from;
}

static void advance(struct net *n, struct flow *f)
{
	double bytes = f->rate * (double)(n->now_ns - f->since_ns) / NET_SEC;

	bytes = bytes < f->left ? bytes : f->left;
	f->left -= bytes;
	n->links[f->link[0]].sent += bytes;
	f->since_ns = n->now_ns;
}

static void flow_rate(struct net *n, uint32_t flow)
{
	struct flow *f = &n->flows[flow];
	double up = n->links[f->link[0]].level, down = n->links[f->link[1]].level, rate = up < down ? up : down;
	struct net_event e = {.kind = NET_FLOW, .from = flow};

	rate = fmin(rate, n->links[f->link[0]].rate);   /* levels that had no time to settle */
	if (!moved(f->rate, rate) && f->rate > 0)
		return;
	advance(n, f);
	f->rate = rate;
	e.to = ++f->version;
	e.at_ns = n->now_ns + (uint64_t)(f->left / rate * NET_SEC) + 1;
	net_post(n, &e);
}

static void enqueue(struct net *n, uint32_t link, uint32_t *tail)
{
	if (n->links[link].queued)
		return;
	n->links[link].queued = true;
	n->queue[(*tail)++ % n->nr_links] = link;
}

/* Levels from these two links on, then the rates of what hangs on them. */
static void settle(struct net *n, uint32_t up, uint32_t down)
{
	uint32_t head = 0, tail = 0, nr_touched = 0;

	enqueue(n, up, &tail);
	enqueue(n, down, &tail);
	while (head < tail) {
		uint32_t at = n->queue[head++ % n->nr_links];
		struct link *l = &n->links[at];
		double level = level_of(n, at);
		bool go_on = moved(l->level, level) && head < MAX_TURNS;

		l->queued = false;
		l->level = level;
		if (!l->touched) {
			l->touched = true;
			n->touched[nr_touched++] = at;
		}
		for (uint32_t i = 0; i < l->nr && go_on; i++)
			enqueue(n, other_end(&n->flows[l->flows[i]], at), &tail);
	}
	for (uint32_t t = 0; t < nr_touched; t++) {
		struct link *l = &n->links[n->touched[t]];

		l->touched = false;
		for (uint32_t i = 0; i < l->nr; i++)
			flow_rate(n, l->flows[i]);
	}
}

static void hang(struct net *n, uint32_t link, uint32_t flow)
{
	struct link *l = &n->links[link];

	if (l->nr == MAX_ON_LINK) {
		fprintf(stderr, "p2p_sim: more than %d flows on a link\n", MAX_ON_LINK);
		exit(1);
	}
	if (l->nr == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 8;
		l->flows = grown(l->flows, l->cap * sizeof *l->flows);
	}
	l->flows[l->nr++] = flow;
}

static void unhang(struct net *n, uint32_t link, uint32_t flow)
{
	struct link *l = &n->links[link];

	for (uint32_t i = 0; i < l->nr; i++)
		if (l->flows[i] == flow) {
			l->flows[i] = l->flows[--l->nr];
			return;
		}
}

void net_flow(struct net *n, uint32_t from, uint32_t to, double bytes, const struct net_event *then)
{
	uint32_t i = n->free_flow, version = 0;

	if (i == NONE) {
		i = n->nr_flows++;
		if (!(i & (i + 1)))     /* 2^k - 1: the places end */
			n->flows = grown(n->flows, (2ull * i + 2) * sizeof *n->flows);
	} else {
		n->free_flow = n->flows[i].next_free;
		version = n->flows[i].version;
	}
	n->flows[i] = (struct flow){.link = {2 * from, 2 * to + 1}, .version = version + 1, .left = bytes,
				    .since_ns = n->now_ns, .then = *then};
	hang(n, 2 * from, i);
	hang(n, 2 * to + 1, i);
	settle(n, 2 * from, 2 * to + 1);
}

bool net_step(struct net *n, struct net_event *ret_event)
{
	while (n->nr_events) {
		struct net_event e = pop(n);
		struct flow *f;
		uint32_t up, down;

		n->now_ns = e.at_ns;
		*ret_event = e;
		if (e.kind != NET_FLOW)
			return true;
		f = &n->flows[e.from];
		if (f->version != e.to)
			continue;
		advance(n, f);
		*ret_event = f->then;
		ret_event->at_ns = n->now_ns;
		up = f->link[0];
		down = f->link[1];
		unhang(n, up, e.from);
		unhang(n, down, e.from);
		f->version++;
		f->next_free = n->free_flow;
		n->free_flow = e.from;
		settle(n, up, down);
		return true;
	}
	return false;
}
