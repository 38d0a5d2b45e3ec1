/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches of metadata/etcd that were cut off, or whose server fell silent or lost
 * what it had: what happened meanwhile is told all the same.
 */
#include "etcd-outage.h"

#include <string.h>

/* Away while the history is thrown away: what changed is told all the same, once and no more. */
void case_compaction(void)
{
	struct mh_watch *watching;
	uint64_t changed, created, last;
	char text[64];

	put(w.in, KEY "same", "one", 0);
	put(w.in, KEY "changed", "one", 0);
	put(w.in, KEY "gone", "one", 0);
	watching = watch(w.in);
	last = put(w.in, KEY "seen", "one", 0);
	CHECK(mh_watch_wait(watching, KEY "seen", last, 10 * MC_SEC));
	relay_set(w.relay, RELAY_CUT);
	changed = put(w.direct, KEY "changed", "two", 0);
	created = put(w.direct, KEY "created", "one", 0);
	CHECK(w.ops->del(mh_area(w.direct), KEY "gone", 0, IN(5), NULL) == 0);
	CHECK(w.ops->del(mh_area(w.direct), KEY "seen", 0, IN(5), NULL) == 0);
	last = put(w.direct, "mooncake/elsewhere", "x", 0);
	snprintf(text, sizeof text, "compact %llu", (unsigned long long)last);
	command(text);
	relay_set(w.relay, RELAY_PASS);
	CHECK(mh_watch_wait(watching, KEY "changed", changed, 20 * MC_SEC), "a change is missing");
	CHECK(mh_watch_wait(watching, KEY "created", created, 20 * MC_SEC), "a new key is missing");
	CHECK(mh_watch_wait(watching, KEY "gone", 0, 20 * MC_SEC), "a deletion is missing");
	CHECK(mh_watch_wait(watching, KEY "seen", 0, 20 * MC_SEC), "a deletion is missing");
	last = put(w.direct, KEY "gone", "again", 0);
	CHECK(mh_watch_wait(watching, KEY "gone", last, 20 * MC_SEC), "the stream does not go on");
	mh_unwatch(watching);
	for (size_t i = 0; i < watching->nr; i++)
		CHECK(strcmp(watching->events[i].key, KEY "same") != 0, "'same' had not changed");
	mh_watch_free(watching);
}

/* etcd comes back without its data: its revisions begin anew, and are lower than what was seen. */
void case_wiped(void)
{
	struct mh_watch *watching;
	uint64_t last = 0;

	for (int i = 0; i < 30; i++)
		last = put(w.direct, KEY "a", "one", 0);
	put(w.direct, KEY "gone", "one", 0);
	watching = watch(w.direct);
	last = put(w.direct, KEY "a", "two", 0);
	CHECK(mh_watch_wait(watching, KEY "a", last, 10 * MC_SEC));
	for (int i = 0; i < 2; i++) {
		command("wipe");
		/* Not the revision that it had in the life before. */
		for (int j = 0; j <= i; j++)
			last = put(w.direct, KEY "a", "three", 0);
		CHECK(mh_watch_wait(watching, KEY "a", last, 20 * MC_SEC), "a change is missing");
		last = put(w.direct, KEY "new", "three", 0);
		CHECK(mh_watch_wait(watching, KEY "new", last, 20 * MC_SEC), "a new key is missing");
		CHECK(mh_watch_wait(watching, KEY "gone", 0, 20 * MC_SEC), "a deletion is missing");
		for (int j = 0; j < 30 && i == 0; j++)
			last = put(w.direct, KEY "gone", "four", 0);
		if (i == 0)
			CHECK(mh_watch_wait(watching, KEY "gone", last, 20 * MC_SEC), "the stream does not go on");
	}
	watch_end(watching);
}

/* Cut while nothing is compacted: every change is told. */
void case_resume(void)
{
	struct mh_watch *watching = watch(w.in);
	uint64_t last = put(w.in, KEY "a", "0", 0);
	size_t nr = 0;

	CHECK(mh_watch_wait(watching, KEY "a", last, 10 * MC_SEC));
	relay_set(w.relay, RELAY_CUT);
	for (int i = 0; i < 20; i++)
		last = put(w.direct, KEY "a", "1", 0);
	CHECK(w.ops->del(mh_area(w.direct), KEY "a", 0, IN(5), NULL) == 0);
	last = put(w.direct, KEY "b", "1", 0);
	relay_set(w.relay, RELAY_PASS);
	CHECK(mh_watch_wait(watching, KEY "b", last, 20 * MC_SEC));
	mh_unwatch(watching);
	for (size_t i = 0; i < watching->nr; i++)
		nr += !strcmp(watching->events[i].key, KEY "a");
	CHECK(nr == 22, "%zu events of 22", nr);
	mh_watch_free(watching);
}

/* One endpoint falls silent without closing anything: the watch leaves it. */
void case_silent(void)
{
	struct mh_watch *watching;
	uint64_t last;

	w.in = open_url(NULL, "etcd://127.0.0.1:%d,127.0.0.1:%d", relay_port(w.relay), relay_port(w.relay2));
	watching = watch(w.in);
	last = put(w.direct, KEY "a", "1", 0);
	CHECK(mh_watch_wait(watching, KEY "a", last, 10 * MC_SEC));
	relay_set(w.relay, RELAY_STALL);
	last = put(w.direct, KEY "a", "2", 0);
	CHECK(mh_watch_wait(watching, KEY "a", last, 30 * MC_SEC), "it waits for the silent one");
	watch_end(watching);
}
