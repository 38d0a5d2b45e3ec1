/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The picture of a host: for machines that the test makes up, small, large and odd,
 * nothing lies over something else or leaves the page, each entry of the matrix is
 * a line of its tier's weight that ends at its boxes, and names cannot break the file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/util/check.h"
#include "host_map.h"

#define MAX_NODES 16
#define MAX_DEVICES 256

static struct mc_topo_node nodes[MAX_NODES];
static struct mc_topo_device devices[MAX_DEVICES];
static const char *transports[MAX_DEVICES];
static struct cli_pool pools[4];
static struct cli_topology t;
static char *svg;

/* ---- machines ----------------------------------------------------------------------------------- */

static void host(size_t nr_nodes)
{
	memset(devices, 0, sizeof devices);
	memset(transports, 0, sizeof transports);
	t = (struct cli_topology){.host = "host1", .transports = transports, .discovered = true,
				  .pools = pools,
				  .facts = {.nr_nodes = nr_nodes, .nodes = nodes, .devices = devices}};
	for (size_t i = 0; i < nr_nodes; i++) {
		nodes[i] = (struct mc_topo_node){.node = (int32_t)i, .nr_cpus = 16, .memory = UINT64_C(64) << 30,
						 .nr_distances = (uint32_t)nr_nodes};
		for (size_t k = 0; k < nr_nodes; k++)
			nodes[i].distances[k] = i == k ? 10 : 21;
	}
}

static void device(enum mc_topo_class class, const char *name, const char *transport, int node)
{
	size_t i = t.facts.nr_devices++;

	assert_true(i < MAX_DEVICES);
	devices[i] = (struct mc_topo_device){.class = class, .numa_node = node, .ordinal = -1};
	snprintf(devices[i].name, sizeof devices[i].name, "%s", name);
	if (class == MC_TOPO_GPU)
		devices[i].ordinal = atoi(name + 4);
	transports[i] = transport;
}

static void pool(const char *transport, const char *name, uint64_t capacity, bool active)
{
	struct cli_pool *p = &pools[t.nr_pools++];

	*p = (struct cli_pool){.capacity = capacity, .numa_node = 0, .active = active};
	snprintf(p->transport, sizeof p->transport, "%s", transport);
	snprintf(p->name, sizeof p->name, "%s", name);
}

static void draw(const char *matrix)
{
	struct mc_error err = {0};
	size_t len = 0;
	FILE *f;

	if (matrix && mc_matrix_parse(matrix, &t.matrix, &err) < 0)
		fail_msg("%s", err.text);
	f = open_memstream(&svg, &len);
	assert_non_null(f);
	assert_int_equal(cli_topology_svg(f, &t), 0);
	fclose(f);
}

static int done(void **state)
{
	free(svg);
	svg = NULL;
	mc_matrix_free(t.matrix);
	t.matrix = NULL;
	return 0;
}

/* ---- looking at it -------------------------------------------------------------------------------- */

struct area {
	double x, y, w, h;
};

static double attribute(const char *at, const char *name)
{
	char key[32];
	const char *end = strchr(at, '>'), *found;

	snprintf(key, sizeof key, " %s=\"", name);
	found = strstr(at, key);
	if (!found || found > end)
		fail_msg("no %s in %.120s", name, at);
	return strtod(found + strlen(key), NULL);
}

static bool overlap(const struct area *a, const struct area *b)
{
	return a->x < b->x + b->w && b->x < a->x + a->w && a->y < b->y + b->h && b->y < a->y + a->h;
}

/* Boxes with class "box", in order. */
static size_t boxes(struct area *list, size_t cap)
{
	size_t nr = 0;

	for (const char *p = svg; (p = strstr(p, "<rect class=\"box")); p++) {
		assert_true(nr < cap);
		list[nr++] = (struct area){attribute(p, "x"), attribute(p, "y"), attribute(p, "width"), attribute(p, "height")};
	}
	return nr;
}

/* Texts as wide as a wide face draws them, lines of 11 units around their middle. */
static size_t texts(struct area *list, size_t cap)
{
	size_t nr = 0;

	for (const char *p = svg; (p = strstr(p, "<text class=\"")); p++) {
		const char *class = p + strlen("<text class=\""), *s = strchr(p, '>') + 1, *end = strstr(s, "</text>");
		double font = !strncmp(class, "title", 5) ? 18 : !strncmp(class, "words", 5) ? 12 : 14;
		size_t letters = 0;

		for (; s < end; s++) {
			if (*s == '&')
				s = strchr(s, ';');
			letters += ((unsigned char)*s & 0xc0) != 0x80;
		}
		assert_true(nr < cap);
		list[nr++] = (struct area){attribute(p, "x"), attribute(p, "y") - font * 0.75, (double)letters * font * (font > 12 && *class != 'n' ? 0.72 : 0.6),
					   font * 0.8};
	}
	return nr;
}

static bool inside(const struct area *a, const struct area *page)
{
	return a->x >= page->x && a->y >= page->y && a->x + a->w <= page->x + page->w && a->y + a->h <= page->y + page->h;
}

static void look(void)
{
	static struct area box[1024], text[4096];
	struct area page = {.x = 0};
	size_t nr_boxes = boxes(box, 1024), nr_texts = texts(text, 4096);

	assert_int_equal(sscanf(strstr(svg, "viewBox=\"") + 9, "%lf %lf %lf %lf", &page.x, &page.y, &page.w, &page.h), 4);
	for (size_t i = 0; i < nr_boxes; i++) {
		assert_true(inside(&box[i], &page));
		for (size_t k = 0; k < i; k++)
			assert_false(overlap(&box[i], &box[k]));
	}
	for (size_t i = 0; i < nr_texts; i++) {
		assert_true(inside(&text[i], &page));
		/* All of it in a box, or nothing. */
		for (size_t k = 0; k < nr_boxes; k++)
			assert_true(!overlap(&text[i], &box[k]) || inside(&text[i], &box[k]));
		for (size_t k = 0; k < i; k++)
			assert_false(overlap(&text[i], &text[k]));
	}
}

static size_t count(const char *what)
{
	size_t nr = 0;

	for (const char *p = svg; (p = strstr(p, what)); p++)
		nr++;
	return nr;
}

/* Every line begins at the right side of a box and ends at the left side of another, at places of its own. */
static void look_at_lines(size_t want)
{
	static struct area box[1024];
	static double ends[1024][2];
	size_t nr_boxes = boxes(box, 1024), nr = 0;

	for (const char *p = svg; (p = strstr(p, "<path class=\"line t")); p++) {
		const char *d = strstr(p, " d=\"M") + 5;
		double v[8];
		int hits = 0;

		if (sscanf(d, "%lf %lfC%lf %lf %lf %lf %lf %lf", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) != 8)
			continue; /* of the legend */
		for (size_t i = 0; i < nr_boxes; i++) {
			hits += v[0] == box[i].x + box[i].w && v[1] > box[i].y && v[1] < box[i].y + box[i].h;
			hits += v[6] == box[i].x && v[7] > box[i].y && v[7] < box[i].y + box[i].h;
		}
		assert_int_equal(hits, 2);
		assert_true(nr < 1024);
		ends[nr][0] = v[1];
		ends[nr][1] = v[7];
		for (size_t i = 0; i < nr; i++)
			assert_true(ends[i][0] != v[1] && ends[i][1] != v[7]);
		nr++;
	}
	assert_int_equal(nr, want);
}

/* ---- tests ------------------------------------------------------------------------------------------ */

static void small_host(void **state)
{
	host(1);
	device(MC_TOPO_NET, "eth0", "tcp", -1);
	device(MC_TOPO_NET, "lo", "tcp", -1);
	devices[1].loopback = true;
	draw("{\"cpu:0\": [[\"tcp:eth0\"]], \"*\": [[\"tcp:eth0\"]]}");
	look();
	look_at_lines(2);
	assert_int_equal(count("class=\"box\""), 3);
	assert_int_equal(count("class=\"box apart\""), 1); /* lo */
	assert_int_equal(count(">16 CPUs, 64.0 GiB<"), 1);
	assert_int_equal(count(">network, loopback<"), 1);
	assert_int_equal(count("tier 2"), 0);
	assert_int_equal(count("distance"), 0);
	assert_int_equal(count("prefers-color-scheme: dark"), 1);
}

static void two_nodes(void **state)
{
	host(2);
	device(MC_TOPO_RDMA, "mlx5_0", "rdma", 0);
	device(MC_TOPO_RDMA, "mlx5_1", "rdma", 1);
	device(MC_TOPO_NET, "eth0", "tcp", -1);
	device(MC_TOPO_GPU, "cuda0", NULL, 1);
	draw("{\"cpu:0\": [[\"rdma:mlx5_0\"], [\"rdma:mlx5_1\"], [\"tcp:eth0\"]],"
	     "\"cpu:1\": [[\"rdma:mlx5_1\"], [\"rdma:mlx5_0\"], [\"tcp:eth0\"]],"
	     "\"*\": [[\"rdma:mlx5_0\", \"rdma:mlx5_1\"], [\"tcp:eth0\"]]}");
	look();
	look_at_lines(9);
	assert_int_equal(count("line t0\" d=\"M264.0"), 4);
	assert_int_equal(count("line t1\" d=\"M264.0"), 3);
	assert_int_equal(count("line t2\" d=\"M264.0"), 2);
	assert_int_equal(count(">GPU, node 1; as *<"), 1);
	assert_int_equal(count("distance between nodes"), 1);
}

/* 8 nodes, 16 GPUs, 32 devices, all in one matrix of five tiers. */
static void large_host(void **state)
{
	static char matrix[1 << 16];
	size_t at = 0;

	host(8);
	for (int i = 0; i < 32; i++) {
		char name[32];

		snprintf(name, sizeof name, "mlx5_%d", i);
		device(MC_TOPO_RDMA, name, "rdma", i / 4);
	}
	for (int i = 0; i < 16; i++) {
		char name[32];

		snprintf(name, sizeof name, "cuda%d", i);
		device(MC_TOPO_GPU, name, NULL, i / 2);
	}
	for (int i = 0; i < 24; i++) {
		at += (size_t)snprintf(matrix + at, sizeof matrix - at, "%s\"%s:%d\": [", i ? ", " : "{",
				       i < 8 ? "cpu" : "cuda", i < 8 ? i : i - 8);
		for (int tier = 0; tier < 5; tier++)
			at += (size_t)snprintf(matrix + at, sizeof matrix - at, "%s[\"rdma:mlx5_%d\", \"rdma:mlx5_%d\"]",
					       tier ? ", " : "", (i + tier) % 32, (i + tier + 8) % 32);
		at += (size_t)snprintf(matrix + at, sizeof matrix - at, "]");
	}
	snprintf(matrix + at, sizeof matrix - at, "}");
	draw(matrix);
	look();
	look_at_lines(240);
	assert_int_equal(count("tier 4 and below"), 1);
}

/* A pool is a device; one that the matrix does not name stands apart. */
static void memory_pools(void **state)
{
	host(1);
	pool("cxl", "dax0.0", UINT64_C(250) << 20, true);
	pool("cxl", "mem1", 0, false);
	draw("{\"cpu:0\": [[\"cxl:dax0.0\"]], \"cxl:0\": [[\"cxl:dax0.0\"]]}");
	look();
	look_at_lines(2);
	assert_int_equal(count(">pool, 250 MiB, node 0<"), 1);
	assert_int_equal(count(">pool, node 0, not usable<"), 1);
	assert_int_equal(count("class=\"box apart\""), 1);
}

static void odd_names(void **state)
{
	host(1);
	snprintf(t.host, sizeof t.host, "a<b>&\"%0240d", 7);
	device(MC_TOPO_NET, "<&\"\x01\xff>--", NULL, -1);
	device(MC_TOPO_NET, "a-name-of-as-many-letters-as-a-device-name-may-have-which-is-63-of", "tcp", -1);
	draw("{\"cuda:7\": [[\"null:&<\"]]}");
	look();
	look_at_lines(1);
	assert_int_equal(count("\x01") + count("\xff") + count("a<b"), 0);
	assert_int_equal(count("&#60;&#38;&#34;??&#62;--"), 1);
	assert_int_equal(count(">not found by discovery<"), 2);
	assert_int_equal(count("; no row<"), 1);
}

static void no_matrix(void **state)
{
	host(0);
	draw(NULL);
	look();
	look_at_lines(0);
	done(NULL);
	host(16); /* too many for the grid */
	draw(NULL);
	look();
	assert_int_equal(count("distance"), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, done)
	const struct CMUnitTest tests[] = {T(small_host), T(two_nodes), T(large_host), T(memory_pools), T(odd_names), T(no_matrix)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
