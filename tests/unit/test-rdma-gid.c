/* SPDX-License-Identifier: Apache-2.0 */
/* Which GIDs of two ports go together, and in what order; routes are what the test says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transports/shared/verbs/rdma.h"

/* "v2/10.0.0.1/24 v1/fe80::1/64": type, address, prefix of the address. */
static void parse_port(struct rdma_port *port, const char *text)
{
	char copy[512], *save, *word;

	memset(port, 0, sizeof *port);
	port->mtu = 4096;
	snprintf(copy, sizeof copy, "%s", text);
	for (word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		struct rdma_gid *gid = &port->gids[port->nr_gids];
		char *address = strchr(word, '/'), *prefix;

		assert_non_null(address);
		*address++ = '\0';
		prefix = strchr(address, '/');
		if (prefix)
			*prefix++ = '\0';
		gid->type = strcmp(word, "ib") == 0 ? RDMA_GID_IB : strcmp(word, "v1") == 0 ? RDMA_GID_ROCE1 :
			    RDMA_GID_ROCE2;
		port->infiniband |= gid->type == RDMA_GID_IB;
		gid->index = (uint16_t)port->nr_gids;
		gid->prefix = prefix ? (uint8_t)atoi(prefix) : 0;
		if (inet_pton(AF_INET6, address, gid->raw) != 1) {
			assert_int_equal(inet_pton(AF_INET, address, gid->raw + 12), 1);
			gid->raw[10] = gid->raw[11] = 0xff;
			gid->prefix = (uint8_t)(gid->prefix ? gid->prefix + 96 : 0);
		}
		port->nr_gids++;
	}
}

/* Routes of the test: a GID whose last byte is 66 is nowhere, 77 perhaps. */
static int route(const struct rdma_gid *own, const struct rdma_gid *far, const char *device)
{
	if (own->raw[15] == 66 || far->raw[15] == 66)
		return -EHOSTUNREACH;
	return own->raw[15] == 77 || far->raw[15] == 77;
}

/* ways: "own>far own>far", places in the tables. */
static const struct {
	const char *what, *own, *far, *ways;
} cases[] = {
	{ "one of each", "v2/10.0.0.1/24", "v2/10.0.0.2/24", "0>0" },
	{ "the same subnet first", "v2/10.0.0.1/24 v2/10.1.0.1/24", "v2/10.1.0.2/24 v2/10.0.0.2/24",
	  "0>1 1>0 0>0 1>1" },
	{ "IPv4 before IPv6", "v2/2001:db8::1/64 v2/10.0.0.1/24", "v2/2001:db8::2/64 v2/10.0.0.2/24", "1>1 0>0" },
	{ "link-local last", "v2/fe80::1/64 v2/2001:db8::1/64", "v2/fe80::2/64 v2/2001:db8::2/64", "1>1 0>0" },
	{ "169.254 is link-local too", "v2/169.254.1.1/16 v2/10.0.0.1/24", "v2/169.254.1.2/16 v2/10.0.0.2/24",
	  "1>1 0>0" },
	{ "link-local reaches nothing else", "v2/fe80::1/64", "v2/2001:db8::2/64", "" },
	{ "RoCE v2 before v1", "v1/10.0.0.1/24 v2/10.0.0.1/24", "v1/10.0.0.2/24 v2/10.0.0.2/24", "1>1 0>0" },
	{ "a link-local v2 after a global v1", "v2/fe80::1/64 v1/10.0.0.1/24", "v2/fe80::2/64 v1/10.0.0.2/24",
	  "1>1 0>0" },
	{ "types do not mix", "v1/10.0.0.1/24", "v2/10.0.0.2/24", "" },
	{ "families do not mix", "v2/10.0.0.1/24", "v2/2001:db8::2/64", "" },
	{ "InfiniBand alone", "ib/fe80::1", "ib/fe80::2", "0>0" },
	{ "InfiniBand with RoCE", "ib/fe80::1", "v2/fe80::2/64", "" },
	{ "no route", "v2/10.0.0.66/24", "v2/10.0.0.2/24", "" },
	{ "no route by one of two", "v2/10.0.0.66/24 v2/10.0.1.1/24", "v2/10.0.0.2/24", "1>0" },
	{ "perhaps is last", "v2/10.0.0.77/24 v2/fe80::1/64", "v2/10.0.0.2/24 v2/fe80::2/64", "1>1 0>0" },
	{ "unknown prefixes", "v2/10.0.0.1", "v2/10.0.0.2", "0>0" },
	{ "the prefix of one end is enough", "v2/10.0.0.1/24 v2/10.1.0.1/24", "v2/10.1.0.2", "1>0 0>0" },
	{ "none here", "", "v2/10.0.0.2/24", "" },
	{ "none there", "v2/10.0.0.1/24", "", "" },
	{ "as soft-RoCE has them", "v2/fe80::1/64 v2/10.77.0.1/24", "v2/fe80::2/64 v2/10.77.0.2/24", "1>1 0>0" },
	{ "as mlx5 has them",
	  "v1/fe80::1/64 v2/fe80::1/64 v1/10.0.0.1/24 v2/10.0.0.1/24",
	  "v1/fe80::2/64 v2/fe80::2/64 v1/10.0.0.2/24 v2/10.0.0.2/24", "3>3 2>2 1>1 0>0" },
};

static void test_table(void **state)
{
	unsigned bad = 0;

	for (size_t i = 0; i < MC_ARRAY_SIZE(cases); i++) {
		struct rdma_pair pairs[RDMA_PAIRS_MAX];
		char why[256] = "", ways[128] = "";
		struct rdma_port own, far;
		size_t nr, at = 0;

		parse_port(&own, cases[i].own);
		parse_port(&far, cases[i].far);
		nr = rdma_gid_pairs(&own, &far, "dev0", route, pairs, why, sizeof why);
		for (size_t j = 0; j < nr; j++)
			at += (size_t)snprintf(ways + at, sizeof ways - at, "%s%u>%u", j ? " " : "", pairs[j].own,
					       pairs[j].far);
		if (strcmp(ways, cases[i].ways) == 0 && (nr || strlen(why) > 20))
			continue;
		print_error("%s: '%s' instead of '%s' (%s)\n", cases[i].what, ways, cases[i].ways, why);
		bad++;
	}
	assert_int_equal(bad, 0);
}

/* Full tables: the best ones are found, wherever they stand. */
static void test_many(void **state)
{
	struct rdma_pair pairs[RDMA_PAIRS_MAX];
	struct rdma_port own, far;
	char why[256];
	size_t nr;

	parse_port(&own, "v2/fe80::1/64");
	own.nr_gids = RDMA_GIDS_MAX;
	for (uint32_t i = 1; i < RDMA_GIDS_MAX; i++) {
		own.gids[i] = own.gids[0];
		own.gids[i].raw[14] = (uint8_t)i;
		own.gids[i].index = (uint16_t)i;
	}
	far = own;
	memset(own.gids[63].raw, 0, 16);
	own.gids[63].raw[10] = own.gids[63].raw[11] = 0xff;
	own.gids[63].raw[12] = 10;
	own.gids[63].prefix = 96 + 8;
	far.gids[40] = own.gids[63];
	far.gids[40].raw[15] = 9;
	nr = rdma_gid_pairs(&own, &far, "dev0", route, pairs, why, sizeof why);
	assert_int_equal(nr, RDMA_PAIRS_MAX);
	assert_int_equal(pairs[0].own, 63);
	assert_int_equal(pairs[0].far, 40);
	for (size_t i = 1; i < nr; i++)
		assert_true(pairs[i].rank >= pairs[i - 1].rank);
}

/* Sentences name the device and what to do. */
static void test_sentences(void **state)
{
	struct rdma_pair pairs[RDMA_PAIRS_MAX];
	struct rdma_port own, far;
	char why[256] = "";

	parse_port(&own, "v2/10.0.0.66/24");
	parse_port(&far, "v2/10.0.0.2/24");
	assert_int_equal(rdma_gid_pairs(&own, &far, "dev0", route, pairs, why, sizeof why), 0);
	assert_non_null(strstr(why, "10.0.0.66"));
	assert_non_null(strstr(why, "10.0.0.2 "));
	assert_non_null(strstr(why, "dev0"));
	assert_non_null(strstr(why, "route"));
	parse_port(&far, "v1/10.0.0.2/24");
	assert_int_equal(rdma_gid_pairs(&own, &far, "dev0", route, pairs, why, sizeof why), 0);
	assert_non_null(strstr(why, "RoCE v1"));
	assert_non_null(strstr(why, "RoCE v2"));
	/* A short place is no danger. */
	assert_int_equal(rdma_gid_pairs(&own, &far, "dev0", route, pairs, why, 8), 0);
	assert_true(strlen(why) < 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table), cmocka_unit_test(test_many), cmocka_unit_test(test_sentences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
