/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rpc service between two engines of one process.  The metadata and the
 * control loop are stood in for here: a record is a row of `known`, dialling makes
 * a socket pair.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/record.h"
#include "core/rpc_impl.h"
#include "core/rpc_wire.h"
#include "core/util/check.h"
#include "core/worker_impl.h"

#define NEVER (60 * MC_SEC) /* longer than any test waits */

/* ---- what stands in for metadata and control ------------------------------------------------- */

static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mc_engine *known[4];
static atomic_int nr_lookups, nr_dials;

void mc_record_free(struct mc_record *record)
{
	free(record->name);
	for (char **a = record->addresses; a && *a; a++)
		free(*a);
	free(record->addresses);
	free(record);
}

int mc_record_find(struct mc_engine *engine, const char *name, uint64_t deadline_ns,
		   struct mc_record **ret_record, struct mc_error *err)
{
	struct mc_record *rec;

	atomic_fetch_add(&nr_lookups, 1);
	pthread_mutex_lock(&known_lock);
	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (!known[i] || strcmp(known[i]->name, name) != 0)
			continue;
		rec = calloc(1, sizeof *rec);
		rec->name = strdup(name);
		rec->generation = known[i]->generation;
		rec->addresses = calloc(2, sizeof *rec->addresses);
		rec->addresses[0] = strdup(name);
		pthread_mutex_unlock(&known_lock);
		*ret_record = rec;
		return 0;
	}
	pthread_mutex_unlock(&known_lock);
	return mc_fail(err, -ENOENT, "no record of '%s'", name);
}

static int dial(const char *address, const struct mc_stream_hello *hello, int *ret_fd)
{
	int fds[2], r = -ECONNREFUSED;

	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (!known[i] || strcmp(known[i]->name, address) != 0)
			continue;
		if (known[i]->generation != hello->to_generation)
			return -ESTALE;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
		r = mc_rpc_accept(known[i], fds[1], hello);
		if (r == 0) {
			*ret_fd = fds[0];
			return 0;
		}
		close(fds[0]);
		close(fds[1]);
	}
	return r;
}

int mc_stream_dial(struct mc_engine *engine, const char *const *addresses, const char *local_address,
		   const struct mc_stream_hello *hello, uint64_t deadline_ns,
		   void (*done)(void *arg, int fd, const char *why), void *arg)
{
	int fd = -1, r;

	atomic_fetch_add(&nr_dials, 1);
	pthread_mutex_lock(&known_lock);
	r = dial(addresses[0], hello, &fd);
	pthread_mutex_unlock(&known_lock);
	done(arg, r < 0 ? r : fd, r < 0 ? "refused by the test" : NULL);
	return 0;
}

static struct mc_settings settings = {.peer_timeout = 5 * MC_SEC, .spin = 20000, .max_peers = 16};

static void engine_up(struct mc_engine *e, const char *name, uint64_t generation)
{
	memset(e, 0, sizeof *e);
	e->set = &settings;
	e->pid = getpid();
	e->generation = generation;
	snprintf(e->name, sizeof e->name, "%s", name);
	assert_int_equal(mc_helpers_new(&e->helpers), 0);
	pthread_mutex_lock(&known_lock);
	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (!known[i]) {
			known[i] = e;
			break;
		}
	}
	pthread_mutex_unlock(&known_lock);
}

static void engine_down(struct mc_engine *e)
{
	pthread_mutex_lock(&known_lock);
	for (size_t i = 0; i < MC_ARRAY_SIZE(known); i++) {
		if (known[i] == e)
			known[i] = NULL;
	}
	pthread_mutex_unlock(&known_lock);
	mc_rpc_close(e);
	assert_null(e->rpc);
	mc_helpers_free(e->helpers);
}

/* ---- services --------------------------------------------------------------------------------- */

static void echo(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	assert_string_equal(in->from, "caller");
	assert_int_equal(in->generation, 1);
	assert_int_equal(mc_rpc_reply(request, in->method ? -(int)in->method : 0, in->data, in->len), 0);
}

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t kept_cond = PTHREAD_COND_INITIALIZER;
static struct mc_rpc_request *kept[256];
static size_t nr_kept;

static void keep(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	pthread_mutex_lock(&kept_lock);
	assert_true(nr_kept < MC_ARRAY_SIZE(kept));
	kept[nr_kept++] = request;
	pthread_cond_signal(&kept_cond);
	pthread_mutex_unlock(&kept_lock);
}

static struct mc_rpc_request *take_kept(void)
{
	struct mc_rpc_request *r;

	pthread_mutex_lock(&kept_lock);
	while (!nr_kept)
		pthread_cond_wait(&kept_cond, &kept_lock);
	r = kept[--nr_kept];
	pthread_mutex_unlock(&kept_lock);
	return r;
}

struct pair {
	struct mc_engine caller, server;
	struct mc_rpc_service *echo, *keep;
	struct mc_rpc_client *client;
};

static void serve(struct pair *p)
{
	struct mc_error err;

	assert_int_equal(mc_rpc_serve(&p->server, "echo", echo, NULL, &p->echo, &err), 0);
	assert_int_equal(mc_rpc_serve(&p->server, "keep", keep, NULL, &p->keep, &err), 0);
}

static struct mc_rpc_client *client_of(struct pair *p, const char *segment, const char *service)
{
	struct mc_rpc_client *c = NULL;
	struct mc_error err;

	assert_int_equal(mc_rpc_client_open(&p->caller, segment, service, &c, &err), 0);
	return c;
}

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof *p);

	nr_kept = 0;
	engine_up(&p->caller, "caller", 1);
	engine_up(&p->server, "server", 2);
	serve(p);
	p->client = client_of(p, "server", "echo");
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	engine_down(&p->caller);
	engine_down(&p->server);
	free(p);
	return 0;
}

static int ask(struct mc_rpc_client *client, const void *data, size_t len, void *reply, size_t cap,
	       size_t *ret_len)
{
	struct mc_rpc_call call = {.size = sizeof call, .data = data, .len = len, .reply = reply,
				   .reply_cap = cap};

	assert_int_equal(mc_rpc_start(client, &call, NEVER), 0);
	assert_int_equal(mc_rpc_wait(client, &call), 0);
	if (ret_len)
		*ret_len = call.reply_len;
	return call.status;
}

/* ---- tests --------------------------------------------------------------------------------------- */

static void test_sizes(void **state)
{
	static const size_t sizes[] = {0, 1, 7, 31, 32, 33, 1000, 4096, 65535, 262144, 262145, 700001,
				       MC_RPC_MESSAGE_MAX};
	struct pair *p = *state;
	uint8_t *out = malloc(MC_RPC_MESSAGE_MAX), *in = malloc(MC_RPC_MESSAGE_MAX + 1);
	size_t len = 0;

	for (size_t i = 0; i < MC_RPC_MESSAGE_MAX; i++)
		out[i] = (uint8_t)(i * 131 + (i >> 8));
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < MC_ARRAY_SIZE(sizes); i++) {
			memset(in, 0xee, MC_RPC_MESSAGE_MAX + 1);
			assert_int_equal(ask(p->client, out, sizes[i], in, sizes[i], &len), 0);
			assert_int_equal(len, sizes[i]);
			assert_memory_equal(in, out, sizes[i]);
			assert_int_equal(in[sizes[i]], 0xee);
		}
	}
	assert_int_equal(atomic_load(&nr_dials) >= 1, 1);
	free(out);
	free(in);
}

static void test_arguments(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_call call = {.size = sizeof call, .data = "x", .len = MC_RPC_MESSAGE_MAX + 1};
	struct mc_rpc_service *s = NULL;
	struct mc_rpc_client *c = NULL;
	struct mc_error err = {0};
	char reply[4];
	size_t len;

	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), -EMSGSIZE);
	call.len = 1;
	call.data = NULL;
	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), -EINVAL);
	call.data = "x";
	call.size = 8;
	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), -EINVAL);
	assert_int_equal(mc_rpc_serve(&p->server, "echo", echo, NULL, &s, &err), -EEXIST);
	assert_int_equal(mc_rpc_serve(&p->server, "Echo", echo, NULL, &s, &err), -EINVAL);
	assert_int_equal(mc_rpc_client_open(&p->caller, "", "echo", &c, &err), -EINVAL);
	assert_int_equal(mc_rpc_client_open(&p->caller, "server", "a b", &c, &err), -EINVAL);
	assert_null(c);
	mc_rpc_client_close(NULL);
	mc_rpc_unserve(NULL);
	/* The reply does not fit: its length is told, nothing is stored. */
	memset(reply, 0x55, sizeof reply);
	assert_int_equal(ask(p->client, "hello", 5, reply, sizeof reply, &len), -EMSGSIZE);
	assert_int_equal(len, 5);
	assert_memory_equal(reply, "\x55\x55\x55\x55", 4);
	p->caller.pid++;
	assert_int_equal(mc_rpc_client_open(&p->caller, "server", "echo", &c, &err), -EPERM);
	p->caller.pid--;
}

static void test_status_and_no_service(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_call call = {.size = sizeof call, .method = EDOM, .data = "x", .len = 1};
	struct mc_rpc_client *none = client_of(p, "server", "none");
	struct mc_rpc_client *nowhere = client_of(p, "nowhere", "echo");
	struct mc_rpc_client *mute = client_of(p, "caller", "echo"); /* ourselves, without services */

	call.reply = &call;
	call.reply = NULL;
	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), 0);
	assert_int_equal(mc_rpc_wait(p->client, &call), 0);
	assert_int_equal(call.status, -EMSGSIZE); /* there was a byte, and no room */
	call.len = 0;
	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), 0);
	assert_int_equal(mc_rpc_wait(p->client, &call), 0);
	assert_int_equal(call.status, -EDOM);
	assert_int_equal(ask(none, "x", 1, NULL, 0, NULL), -ENOENT);
	assert_int_equal(ask(nowhere, "x", 1, NULL, 0, NULL), -EHOSTDOWN);
	assert_int_equal(ask(mute, "x", 1, NULL, 0, NULL), -ENOENT);
	/* unserve: from its return on nobody answers under the name. */
	mc_rpc_unserve(p->echo);
	assert_int_equal(ask(p->client, "x", 1, NULL, 0, NULL), -ENOENT);
	mc_rpc_client_close(none);
	mc_rpc_client_close(nowhere);
}

struct flow {
	struct pair *p;
	int to_start, ended, failed;
	struct flow_call {
		struct mc_rpc_call call;
		uint64_t out, in;
	} calls[64];
};

static void flow_done(struct mc_rpc_call *call)
{
	struct flow *f = call->user;
	struct flow_call *c = MC_CONTAINER_OF(call, struct flow_call, call);

	if (call->status != 0 || call->reply_len != sizeof c->in || c->in != c->out)
		f->failed++;
	__atomic_store_n(&f->ended, f->ended + 1, __ATOMIC_RELAXED);
	if (f->to_start-- > 0) {
		c->out += 64;
		if (mc_rpc_start(f->p->client, call, NEVER) != 0)
			f->failed++;
	}
}

static void test_many_outstanding(void **state)
{
	struct flow f = {.p = *state, .to_start = 10000 - 64};

	for (int i = 0; i < 64; i++) {
		struct flow_call *c = &f.calls[i];

		c->out = (uint64_t)i;
		c->call = (struct mc_rpc_call){.size = sizeof c->call, .data = &c->out, .len = 8,
					       .reply = &c->in, .reply_cap = 8, .done = flow_done,
					       .user = &f};
		assert_int_equal(mc_rpc_start(f.p->client, &c->call, NEVER), 0);
	}
	/* Calls that wait drive the others on. */
	while (__atomic_load_n(&f.ended, __ATOMIC_RELAXED) < 10000)
		assert_int_equal(ask(f.p->client, "x", 1, &(char){0}, 1, NULL), 0);
	mc_rpc_client_close(f.p->client);
	assert_int_equal(f.ended, 10000);
	assert_int_equal(f.failed, 0);
}

static void *caller_thread(void *arg)
{
	struct pair *p = arg;
	static const size_t lens[] = {8, 100, 5000, 300000};
	uint8_t *out = calloc(1, 300000), *in = calloc(1, 300000);
	void *why = NULL;

	for (int i = 0; i < 400 && !why; i++) {
		struct mc_rpc_call call = {.size = sizeof call, .data = out, .len = lens[i % 4],
					   .reply = in, .reply_cap = 300000};

		memcpy(out, &i, sizeof i);
		if (mc_rpc_start(p->client, &call, NEVER) != 0 || mc_rpc_wait(p->client, &call) != 0)
			why = "not started";
		else if (call.status != 0 || call.reply_len != call.len || memcmp(in, out, call.len) != 0)
			why = "bad reply";
	}
	free(out);
	free(in);
	return why;
}

static void test_threads(void **state)
{
	pthread_t t[4];

	for (size_t i = 0; i < MC_ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, caller_thread, *state), 0);
	for (size_t i = 0; i < MC_ARRAY_SIZE(t); i++) {
		void *why = NULL;

		pthread_join(t[i], &why);
		assert_null(why);
	}
}

static void test_deadline(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *c = client_of(p, "server", "keep");
	char buf[8] = "before";
	struct mc_rpc_call call = {.size = sizeof call, .data = "x", .len = 1, .reply = buf,
				   .reply_cap = sizeof buf};
	struct mc_rpc_call never = call;

	assert_int_equal(mc_rpc_start(c, &call, 10 * MC_MSEC), 0);
	assert_int_equal(mc_rpc_wait(c, &call), 0);
	assert_int_equal(call.status, -ETIMEDOUT);
	/* The answer comes too late: it is not sent, or finds nobody. */
	assert_int_equal(mc_rpc_reply(take_kept(), 0, "late", 4), 0);
	assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
	assert_string_equal(buf, "before");
	/* Without an end: it waits for its answer. */
	assert_int_equal(mc_rpc_start(c, &never, MC_FOREVER), 0);
	assert_int_equal(mc_rpc_reply(take_kept(), 0, "now", 4), 0);
	assert_int_equal(mc_rpc_wait(c, &never), 0);
	assert_int_equal(never.status, 0);
	assert_string_equal(buf, "now");
}

static void *answer_all(void *arg)
{
	for (int i = 0; i < 100; i++) {
		if (mc_rpc_reply(take_kept(), 0, &i, sizeof i) != 0)
			return "not answered";
	}
	return NULL;
}

static void test_answers_of_another_thread(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *c = client_of(p, "server", "keep");
	struct mc_rpc_call calls[100];
	int replies[100];
	pthread_t t;
	void *why = NULL;

	for (int i = 0; i < 100; i++) {
		calls[i] = (struct mc_rpc_call){.size = sizeof calls[i], .reply = &replies[i],
						.reply_cap = sizeof replies[i]};
		assert_int_equal(mc_rpc_start(c, &calls[i], NEVER), 0);
	}
	assert_int_equal(pthread_create(&t, NULL, answer_all, NULL), 0);
	for (int i = 99; i >= 0; i--) {
		assert_int_equal(mc_rpc_wait(c, &calls[i]), 0);
		assert_int_equal(calls[i].status, 0);
		assert_int_equal(calls[i].reply_len, sizeof(int));
	}
	pthread_join(t, &why);
	assert_null(why);
}

static void count_done(struct mc_rpc_call *call)
{
	assert_int_equal(call->status, -ECANCELED);
	++*(int *)call->user;
}

static void test_client_close(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *c = client_of(p, "server", "keep");
	struct mc_rpc_call calls[20];
	int ended = 0;

	for (int i = 0; i < 20; i++) {
		calls[i] = (struct mc_rpc_call){.size = sizeof calls[i], .done = count_done, .user = &ended};
		assert_int_equal(mc_rpc_start(c, &calls[i], NEVER), 0);
	}
	mc_rpc_client_close(c);
	assert_int_equal(ended, 20);
	/* The other client's calls go on over the same connection. */
	assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(mc_rpc_reply(take_kept(), 0, NULL, 0), 0);
}

static void test_server_goes_and_comes(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *c = client_of(p, "server", "keep");
	struct mc_rpc_call call = {.size = sizeof call};
	struct mc_rpc_request *open;

	assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
	assert_int_equal(mc_rpc_start(c, &call, NEVER), 0);
	open = take_kept();
	engine_down(&p->server);
	assert_int_equal(mc_rpc_wait(c, &call), 0);
	assert_int_equal(call.status, -EHOSTDOWN);
	/* It was not answered; answering after the close frees it. */
	assert_int_equal(mc_rpc_reply(open, 0, "x", 1), -ENOTCONN);
	assert_int_equal(ask(p->client, "x", 1, NULL, 0, NULL), -EHOSTDOWN);
	/* Another generation under the same name. */
	engine_up(&p->server, "server", 3);
	serve(p);
	assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
	/* The connection is lost, the peer is not: the known addresses do, without a look-up. */
	for (int i = 0; i < 3; i++) {
		int before = atomic_load(&nr_lookups);

		assert_int_equal(mc_rpc_evict(&p->server, 1), 0);
		/* The end of the stream may be seen before the call or after it. */
		if (ask(p->client, "x", 1, &(char){0}, 1, NULL) == -EHOSTDOWN)
			assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
		assert_int_equal(atomic_load(&nr_lookups), before);
	}
	assert_int_equal(mc_rpc_evict(&p->server, 77), -ENOENT);
}

static void nop(struct mc_rpc_call *call)
{
}

static void test_bounded(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *c = client_of(p, "nobody", "keep");
	static struct mc_rpc_call calls[64];
	char *mib = calloc(1, MC_RPC_MESSAGE_MAX);
	int n = 0, r = 0;

	/* Nothing leaves for a peer that is not there; what waits is bounded.  The dial may fail in
	 * between and end all that waited, so not every round gets there. */
	for (int round = 0; round < 100 && r != -ENOBUFS; round++) {
		for (n = 0; n < 64; n++) {
			calls[n] = (struct mc_rpc_call){.size = sizeof calls[n], .data = mib,
							.len = MC_RPC_MESSAGE_MAX, .done = nop};
			r = mc_rpc_start(c, &calls[n], NEVER);
			if (r != 0)
				break;
		}
		if (r == 0) {
			mc_rpc_client_close(c);
			c = client_of(p, "nobody", "keep");
		}
	}
	assert_int_equal(r, -ENOBUFS);
	mc_rpc_client_close(c);
	free(mib);
}

static void wait_inside(struct mc_rpc_call *call)
{
	struct mc_rpc_call other = {.size = sizeof other};
	struct pair *p = call->user;
	int *r = call->reply;

	*r = mc_rpc_start(p->client, &other, NEVER) == 0 ? mc_rpc_wait(p->client, &other) : 1;
	/* `other` must not be left behind: the client ends it. */
	mc_rpc_client_close(p->client);
	if (other.status != -ECANCELED)
		*r = 2;
	__atomic_store_n(&p->client, NULL, __ATOMIC_RELEASE);
}

static void test_callbacks_may_close_but_not_wait(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *drive = client_of(p, "server", "echo");
	int r = 0;
	struct mc_rpc_call call = {.size = sizeof call, .reply = &r, .reply_cap = sizeof r,
				   .done = wait_inside, .user = p};

	assert_int_equal(mc_rpc_start(p->client, &call, NEVER), 0);
	while (__atomic_load_n(&p->client, __ATOMIC_ACQUIRE))
		assert_int_equal(ask(drive, NULL, 0, NULL, 0, NULL), 0);
	assert_int_equal(r, -EDEADLK);
}

static void test_hostile_frames(void **state)
{
	struct pair *p = *state;
	struct mc_stream_hello hello = {.kind = MC_STREAM_RPC, .from_generation = 1};
	const struct mc_rpc_head good = {.type = MC_RPC_REQUEST, .name_len = 4, .len = 3,
					 .reply_len = 3, .timeout_ns = UINT64_MAX};
	uint8_t frame[64];
	int fds[2], sent;
	char c;

	snprintf(hello.from, sizeof hello.from, "caller");
	for (int broken = 0; broken < 6; broken++) {
		mc_rpc_head_put(frame, &good);
		memcpy(frame + MC_RPC_HEAD_LEN, "echoabc", 7);
		switch (broken) {
		case 0: frame[0] = 9; break;     /* version */
		case 1: frame[1] = 0; break;     /* type */
		case 2: frame[1] = MC_RPC_REPLY; /* with a name */ break;
		case 3: frame[7] = 0xff; break;  /* length */
		case 4: frame[2] = 200; break;   /* name */
		default: break;
		}
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
		assert_int_equal(mc_rpc_accept(&p->server, fds[1], &hello), 0);
		/* Byte by byte, so that every state of the reader is seen. */
		for (sent = 0; sent < (int)MC_RPC_HEAD_LEN + 7; sent++) {
			if (send(fds[0], frame + sent, 1, MSG_NOSIGNAL) != 1)
				break;
		}
		while (recv(fds[0], frame, sizeof frame, MSG_PEEK) < 0 && errno == EAGAIN)
			sched_yield();
		if (broken < 5) {
			assert_true(recv(fds[0], &c, 1, 0) <= 0); /* closed */
		} else {
			while (recv(fds[0], frame, sizeof frame, MSG_PEEK) < (int)MC_RPC_HEAD_LEN + 3)
				sched_yield();
			assert_memory_equal(frame + MC_RPC_HEAD_LEN, "abc", 3);
		}
		close(fds[0]);
	}
	assert_int_equal(ask(p->client, "x", 1, &(char){0}, 1, NULL), 0);
}

static bool lies_warm(struct mc_engine *e)
{
	return atomic_load(&e->rpc->worker->warm_ns) != 0;
}

/* Until the baton lies warm once; the thread may take it up at any time after. */
static void make_warm(struct pair *p)
{
	uint64_t end = mc_now_ns() + NEVER;
	bool warm = false;

	while (!warm && mc_now_ns() < end) {
		assert_int_equal(ask(p->client, NULL, 0, NULL, 0, NULL), 0);
		warm = lies_warm(&p->caller);
	}
	assert_true(warm);
}

static void ended(struct mc_rpc_call *call)
{
	atomic_store((atomic_int *)call->user, 1);
}

/* Who asks and waits in turn leaves the baton warm, unless calls are under way that nobody waits in, or peers call. */
static void test_warm(void **state)
{
	struct pair *p = *state;
	struct mc_rpc_client *keeper = client_of(p, "server", "keep"), *back = NULL;
	atomic_int over = 0;
	struct mc_rpc_call call = {.size = sizeof call, .done = ended, .user = &over};
	struct mc_error err;

	make_warm(p);
	assert_int_equal(mc_rpc_start(keeper, &call, NEVER), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(ask(p->client, NULL, 0, NULL, 0, NULL), 0);
		assert_false(lies_warm(&p->caller));
	}
	assert_int_equal(mc_rpc_reply(take_kept(), 0, NULL, 0), 0);
	while (!atomic_load(&over))
		sched_yield();
	make_warm(p);
	/* The server asks, too; it is asked by the caller's engine. */
	assert_int_equal(mc_rpc_client_open(&p->server, "caller", "none", &back, &err), 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(ask(back, NULL, 0, NULL, 0, NULL), -ENOENT);
		assert_false(lies_warm(&p->server));
	}
	mc_rpc_client_close(back);
	mc_rpc_client_close(keeper);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_sizes),
		T(test_arguments),
		T(test_status_and_no_service),
		T(test_many_outstanding),
		T(test_threads),
		T(test_deadline),
		T(test_answers_of_another_thread),
		T(test_client_close),
		T(test_server_goes_and_comes),
		T(test_bounded),
		T(test_callbacks_may_close_but_not_wait),
		T(test_hostile_frames),
		T(test_warm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
