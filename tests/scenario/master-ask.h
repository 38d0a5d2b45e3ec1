/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mooncake_master as a process of its own, and what a client asks it, message by
 * message.  Memory is lent that does not exist: the master never touches it.
 */
#ifndef MC_TESTS_MASTER_ASK_H
#define MC_TESTS_MASTER_ASK_H

#define T (60 * MC_SEC)
#include "engines.h"

#include <mooncake/kv.h>
#include <mooncake/rpc.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "store_wire.h"

#define BASE (UINT64_C(1) << 40)
#define SEGMENT_LEN (UINT64_C(64) << 20)
#define VALUE_LEN 4000
#define BATCH 100
#define NR 1000
#define TEXT(...) (snprintf(text, sizeof text, __VA_ARGS__), text)

static const char *program;
static struct mc_engine *engine;
static struct mc_rpc_client *rpc;
static pid_t master;
static char text[256];

/* ---- the master -------------------------------------------------------------------------------- */

static pid_t master_run(const char *store, const char *ready)
{
	char url[64], folder[64], file[64];
	pid_t pid;

	snprintf(url, sizeof url, "--metadata_server=file://%s", dir);
	snprintf(folder, sizeof folder, "--dir=%s/%s", dir, store);
	snprintf(file, sizeof file, "--ready_file=%s/%s", dir, ready);
	unlink(TEXT("%s/%s", dir, ready));
	pid = fork();
	if (pid == 0) {
		execl(program, program, url, folder, file, "--port=0", "--nic_priority_matrix={\"*\": [[\"tcp:lo\"]]}",
		      "--default_kv_lease_ttl=500ms", "--put_start_discard_timeout_sec=1s", "--advertise_address=127.0.0.1", "--threads=3",
		      (char *)NULL);
		_exit(127);
	}
	return pid;
}

static void master_start(void)
{
	master = master_run("kept", "ready");
	for (int i = 0; access(TEXT("%s/ready", dir), F_OK) < 0; i++) {
		if (i > 1200 || waitpid(master, NULL, WNOHANG) != 0) {
			printf("FAIL the master did not start\n");
			exit(1);
		}
		usleep(50000);
	}
}

/* Its exit status, or 128 + signal. */
static int master_end(pid_t pid, int sig)
{
	int status = 0;

	if (sig)
		kill(pid, sig);
	for (int i = 0; waitpid(pid, &status, WNOHANG) == 0; i++) {
		if (i > 1200) {
			CHECK(false, "the master did not end");
			kill(pid, SIGKILL);
		}
		usleep(50000);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- asking ------------------------------------------------------------------------------------ */

static struct ask {
	struct mc_rpc_call call;
	struct mc_wire w; /* the request's, then the reply's */
	struct mc_wire_reply head;
	const char *sentence;
	uint8_t request[256 << 10], reply[1 << 20];
} ask_here;
static const struct mc_master_client_id self = {"scenario master"};

static struct mc_wire *begin(struct ask *a, uint32_t count, uint16_t flags)
{
	struct mc_wire_request head = {.version = MC_WIRE_VERSION_MAX, .flags = flags, .count = count, .client = self, .tenant = ""};

	a->w = mc_wire_writer(a->request, sizeof a->request);
	mc_wire_request(&a->w, &head, false);
	return &a->w;
}

static int send_raw(struct ask *a, uint32_t method, const void *data, size_t len)
{
	a->call = (struct mc_rpc_call){.size = sizeof a->call, .method = method, .data = data, .len = len, .reply = a->reply,
				       .reply_cap = sizeof a->reply};
	return mc_rpc_start(rpc, &a->call, T);
}

static int send_it(struct ask *a, uint32_t method)
{
	return send_raw(a, method, a->request, mc_wire_len(&a->w, sizeof a->request));
}

static int finish(struct ask *a)
{
	mc_rpc_wait(rpc, &a->call);
	a->sentence = "";
	a->w = mc_wire_reader(a->reply, a->call.reply_len);
	if (a->call.status == -EHOSTDOWN || a->call.status == -ENOENT || a->call.status == -ETIMEDOUT || !a->call.reply_len)
		return a->call.status;
	mc_wire_reply(&a->w, &a->head);
	if (a->call.status < 0)
		mc_wire_sentence(&a->w, &a->sentence);
	CHECK(!a->w.broken, "status %d", a->call.status);
	return a->call.status;
}

static int ask(struct ask *a, uint32_t method)
{
	int r = send_it(a, method);

	return r < 0 ? r : finish(a);
}

/* Until it answers, for it may just have been started.  The version that both speak; 0: none. */
static unsigned hello(uint16_t min, uint16_t max, struct mc_wire_welcome *welcome)
{
	struct mc_wire_hello hi = {.min = min, .max = max, .host = 7};
	int r = -1;

	for (int i = 0; r < 0 && i < 600; i++) {
		mc_wire_hello(begin(&ask_here, 0, 0), &hi);
		r = ask(&ask_here, MC_WIRE_HELLO);
		if (r < 0)
			usleep(50000);
	}
	CHECK(r == 0, "hello: %d %s", r, ask_here.sentence);
	mc_wire_welcome(&ask_here.w, welcome);
	CHECK(!ask_here.w.broken, "welcome");
	return welcome->version;
}

static uint32_t mount(void)
{
	struct mc_master_segment s = {.size = sizeof s, .uuid = "memory of nobody", .base = BASE, .len = SEGMENT_LEN, .location = "cpu:0",
				      .host = 7};
	uint32_t id = 0;
	int r;

	mc_wire_mount(begin(&ask_here, 0, 0), &s);
	r = ask(&ask_here, MC_WIRE_MOUNT);
	CHECK(r == 0, "mount: %d %s", r, ask_here.sentence);
	mc_wire_number(&ask_here.w, &id);
	return id;
}

/* ---- objects ----------------------------------------------------------------------------------- */

static struct mc_master_put wanted[BATCH];
static struct mc_master_got gots[BATCH];
static struct mc_master_end ends[BATCH];
static struct mc_master_extent places[BATCH * 4];
static char keys[BATCH][32];

static struct mc_master_key name(unsigned i, unsigned n)
{
	return (struct mc_master_key){keys[i], (uint32_t)snprintf(keys[i], sizeof keys[i], "object-%05u", n)};
}

static int put_start(unsigned first, unsigned nr)
{
	struct mc_master_put_config config = {.size = sizeof config, .nr_replicas = 1, .host = 7};
	struct mc_master_extents extents = {.at = places, .cap = BATCH * 4};
	struct mc_wire *w = begin(&ask_here, nr, 0);
	struct mc_master_full full = {0};
	uint32_t preferred[MC_WIRE_PREFERRED_MAX];
	int r;

	for (unsigned i = 0; i < nr; i++)
		wanted[i] = (struct mc_master_put){.key = name(i, first + i), .len = VALUE_LEN};
	mc_wire_put_config(w, &config, preferred);
	mc_wire_puts(w, nr, wanted);
	r = ask(&ask_here, MC_WIRE_PUT_START);
	if (r < 0)
		return r;
	if (ask_here.head.flags & MC_WIRE_FULL)
		mc_wire_full(&ask_here.w, &full);
	mc_wire_places(&ask_here.w, nr, wanted, &extents);
	CHECK(!ask_here.w.broken && ask_here.head.count == nr, "places");
	return 0;
}

static int put_end_send(struct ask *a, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		ends[i] = (struct mc_master_end){.token = wanted[i].token};
	mc_wire_ends(begin(a, nr, 0), nr, ends);
	return send_it(a, MC_WIRE_PUT_END);
}

static int put_end_finish(struct ask *a, unsigned nr)
{
	int r = finish(a);

	if (r == 0)
		mc_wire_statuses(&a->w, nr, &ends->status, sizeof *ends);
	return r;
}

static int get(unsigned first, unsigned nr)
{
	struct mc_master_extents extents = {.at = places, .cap = BATCH * 4};
	uint64_t lease_ns = 0;
	int r;

	for (unsigned i = 0; i < nr; i++)
		gots[i] = (struct mc_master_got){.key = name(i, first + i)};
	mc_wire_gets(begin(&ask_here, nr, MC_MASTER_GET_NO_LEASE), nr, gots);
	r = ask(&ask_here, MC_WIRE_GET);
	if (r == 0)
		mc_wire_gots(&ask_here.w, nr, gots, &extents, &lease_ns);
	CHECK(r == 0 && !ask_here.w.broken, "get: %d %s", r, ask_here.sentence);
	return r;
}

static uint64_t where[NR]; /* offset of each object; 0: it need not be there */

/* All of them, where they were put, when `status` is 0; else each says status. */
static void look(int status)
{
	for (unsigned n = 0; n < NR; n += BATCH) {
		get(n, BATCH);
		for (unsigned i = 0; i < BATCH; i++) {
			const struct mc_master_got *g = &gots[i];

			if (!where[n + i])
				continue;
			CHECK(g->status == status, "object %u: %d instead of %d", n + i, g->status, status);
			CHECK(g->status || (g->len == VALUE_LEN && g->nr == 1 && places[g->first].offset == where[n + i]), "object %u lies elsewhere",
			      n + i);
		}
	}
}

static void put_all(void)
{
	for (unsigned n = 0; n < NR; n += BATCH) {
		int r = put_start(n, BATCH);

		CHECK(r == 0, "put-start: %d %s", r, ask_here.sentence);
		for (unsigned i = 0; i < BATCH; i++) {
			CHECK(wanted[i].status == 0 && wanted[i].nr == 1, "object %u: %d", n + i, wanted[i].status);
			where[n + i] = places[wanted[i].first].offset;
		}
		put_end_send(&ask_here, BATCH);
		r = put_end_finish(&ask_here, BATCH);
		for (unsigned i = 0; i < BATCH; i++)
			CHECK(r == 0 && ends[i].status == 0, "put-end of %u: %d %d", n + i, r, ends[i].status);
	}
}

#endif
