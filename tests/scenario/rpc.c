/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rpc between two processes, by the public API alone: sizes, many outstanding
 * calls, deadlines, answers of another thread, a service withdrawn, a client
 * closed under its calls, and a server that is killed and comes back.
 *
 *   scenario-rpc                  the caller; starts the server itself
 *   scenario-rpc server DIR       the server; ends when its standard input does
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>

#define LONG (60 * MC_SEC)
#define NR_CALLS 10000
#define OUTSTANDING 64

static const char *self;
static char dir[] = "/tmp/mooncake-rpc-XXXXXX";

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "rpc.c:%d: %s\n", __LINE__, #cond);                        \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static struct mc_engine *engine_open(const char *name, const char *where)
{
	struct mc_config *config = NULL;
	struct mc_engine *engine = NULL;
	struct mc_error err = {0};
	char url[256];
	int r;

	snprintf(url, sizeof url, "file://%s", where);
	r = mc_config_new(&config, &err);
	if (r == 0)
		r = mc_config_env(config, &err);
	if (r == 0)
		r = mc_config_set(config, "metadata_server", url, &err);
	if (r == 0)
		r = mc_config_set(config, "local_server_name", name, &err);
	if (r == 0)
		r = mc_config_set(config, "port", "0", &err);
	if (r == 0)
		r = mc_config_set(config, "advertise_address", "127.0.0.1", &err);
	if (r == 0)
		r = mc_config_set(config, "nic_priority_matrix", "{\"*\": [[\"tcp:lo\"]]}", &err);
	if (r == 0)
		r = mc_engine_open(config, LONG, &engine, &err);
	mc_config_free(config);
	if (r < 0) {
		fprintf(stderr, "engine '%s': %s\n", name, err.text);
		exit(1);
	}
	return engine;
}

/* ---- the server ------------------------------------------------------------------------------- */

static void echo(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	CHECK(strcmp(in->from, "rpc-caller") == 0);
	CHECK(mc_rpc_reply(request, -(int)in->method, in->data, in->len) == 0);
}

/* Handed to the answering thread. */
static pthread_mutex_t late_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t late_cond = PTHREAD_COND_INITIALIZER;
static struct mc_rpc_request *late[OUTSTANDING];
static int nr_late;

static void answer_late(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	pthread_mutex_lock(&late_lock);
	CHECK(nr_late < OUTSTANDING);
	late[nr_late++] = request;
	pthread_cond_signal(&late_cond);
	pthread_mutex_unlock(&late_lock);
}

static void *late_main(void *arg)
{
	for (;;) {
		struct mc_rpc_request *request;

		pthread_mutex_lock(&late_lock);
		while (!nr_late)
			pthread_cond_wait(&late_cond, &late_lock);
		request = late[--nr_late];
		pthread_mutex_unlock(&late_lock);
		mc_rpc_reply(request, 0, "late", 5);
	}
	return NULL;
}

static void mute(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	/* Never answered; the process ends first. */
}

static int server(const char *where)
{
	struct mc_engine *engine = engine_open("rpc-server", where);
	struct mc_rpc_service *s[3];
	struct mc_error err;
	pthread_t thread;
	char c;

	CHECK(mc_rpc_serve(engine, "echo", echo, NULL, &s[0], &err) == 0);
	CHECK(mc_rpc_serve(engine, "late", answer_late, NULL, &s[1], &err) == 0);
	CHECK(mc_rpc_serve(engine, "mute", mute, NULL, &s[2], &err) == 0);
	CHECK(pthread_create(&thread, NULL, late_main, NULL) == 0);
	CHECK(write(1, "r", 1) == 1);
	/* 'u': withdraw echo.  End of file: end. */
	while (read(0, &c, 1) == 1) {
		if (c == 'u')
			mc_rpc_unserve(s[0]);
		CHECK(write(1, "u", 1) == 1);
	}
	/* Requests of `mute` are open, and stay so: the process ends without a close. */
	return 0;
}

struct child {
	pid_t pid;
	int to, from;
};

static struct child server_start(void)
{
	struct child child;
	int to[2], from[2];
	char c;

	CHECK(pipe(to) == 0 && pipe(from) == 0);
	child.pid = fork();
	CHECK(child.pid >= 0);
	if (child.pid == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		close(from[0]);
		execl(self, self, "server", dir, (char *)NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	child.to = to[1];
	child.from = from[0];
	CHECK(read(child.from, &c, 1) == 1 && c == 'r');
	return child;
}

static void server_kill(struct child *child)
{
	CHECK(kill(child->pid, SIGKILL) == 0);
	CHECK(waitpid(child->pid, NULL, 0) == child->pid);
	close(child->to);
	close(child->from);
}

/* ---- the caller ------------------------------------------------------------------------------- */

static struct mc_rpc_client *client_open(struct mc_engine *engine, const char *service)
{
	struct mc_rpc_client *client = NULL;
	struct mc_error err;

	CHECK(mc_rpc_client_open(engine, "rpc-server", service, &client, &err) == 0);
	return client;
}

static int ask(struct mc_rpc_client *client, const void *data, size_t len, void *reply, size_t cap,
	       uint64_t timeout_ns)
{
	struct mc_rpc_call call = {.size = sizeof call, .data = data, .len = len, .reply = reply,
				   .reply_cap = cap};

	CHECK(mc_rpc_start(client, &call, timeout_ns) == 0);
	CHECK(mc_rpc_wait(client, &call) == 0);
	CHECK(call.status != 0 || call.reply_len <= cap);
	return call.status;
}

static void sizes(struct mc_rpc_client *echo_client)
{
	static uint8_t out[MC_RPC_MESSAGE_MAX], in[MC_RPC_MESSAGE_MAX];

	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (uint8_t)(i * 7 + (i >> 9));
	for (size_t len = 0; len <= sizeof out; len = len ? len * 2 : 1) {
		memset(in, 0, sizeof in);
		CHECK(ask(echo_client, out, len, in, len, LONG) == 0);
		CHECK(memcmp(in, out, len) == 0);
	}
}

struct flow {
	struct mc_rpc_client *client;
	pthread_mutex_t lock; /* guards ended */
	pthread_cond_t cond;
	int started, ended;
	struct flow_call {
		struct mc_rpc_call call;
		struct flow *flow;
		uint64_t out, in;
	} calls[OUTSTANDING];
};

static void flow_next(struct flow_call *c)
{
	int n = __atomic_add_fetch(&c->flow->started, 1, __ATOMIC_RELAXED);

	if (n > NR_CALLS)
		return;
	c->out = (uint64_t)n * 0x9e3779b97f4a7c15u;
	CHECK(mc_rpc_start(c->flow->client, &c->call, LONG) == 0);
}

static void flow_done(struct mc_rpc_call *call)
{
	struct flow_call *c = call->user;

	CHECK(call->status == 0 && call->reply_len == sizeof c->in && c->in == c->out);
	pthread_mutex_lock(&c->flow->lock);
	if (++c->flow->ended == NR_CALLS)
		pthread_cond_signal(&c->flow->cond);
	pthread_mutex_unlock(&c->flow->lock);
	flow_next(c);
}

static void many(struct mc_rpc_client *echo_client)
{
	static struct flow f = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

	f.client = echo_client;
	for (int i = 0; i < OUTSTANDING; i++) {
		struct flow_call *c = &f.calls[i];

		c->flow = &f;
		c->call = (struct mc_rpc_call){.size = sizeof c->call, .data = &c->out,
					       .len = sizeof c->out, .reply = &c->in,
					       .reply_cap = sizeof c->in, .done = flow_done, .user = c};
		flow_next(c);
	}
	pthread_mutex_lock(&f.lock);
	while (f.ended < NR_CALLS)
		pthread_cond_wait(&f.cond, &f.lock);
	pthread_mutex_unlock(&f.lock);
}

static void late_answers(struct mc_engine *engine)
{
	struct mc_rpc_client *client = client_open(engine, "late");
	struct mc_rpc_call calls[OUTSTANDING];
	char replies[OUTSTANDING][5];

	for (int i = 0; i < OUTSTANDING; i++) {
		calls[i] = (struct mc_rpc_call){.size = sizeof calls[i], .reply = replies[i], .reply_cap = 5};
		CHECK(mc_rpc_start(client, &calls[i], LONG) == 0);
	}
	for (int i = 0; i < OUTSTANDING; i++) {
		CHECK(mc_rpc_wait(client, &calls[i]) == 0);
		CHECK(calls[i].status == 0 && strcmp(replies[i], "late") == 0);
	}
	mc_rpc_client_close(client);
}

static void canceled(struct mc_rpc_call *call)
{
	CHECK(call->status == -ECANCELED);
	++*(int *)call->user;
}

static void close_under_calls(struct mc_engine *engine)
{
	struct mc_rpc_client *client = client_open(engine, "mute");
	struct mc_rpc_call calls[OUTSTANDING];
	int ended = 0;

	for (int i = 0; i < OUTSTANDING; i++) {
		calls[i] = (struct mc_rpc_call){.size = sizeof calls[i], .done = canceled, .user = &ended};
		CHECK(mc_rpc_start(client, &calls[i], LONG) == 0);
	}
	mc_rpc_client_close(client);
	CHECK(ended == OUTSTANDING);
}

static void step(const char *what)
{
	printf("rpc: %s\n", what);
	fflush(stdout);
}

static sem_t held;
static struct mc_rpc_request *held_request;

static void hold(void *arg, struct mc_rpc_request *request, const struct mc_rpc_incoming *in)
{
	held_request = request; /* answered when its connection is cut */
	sem_post(&held);
}

/* A server that evicts a peer has no connection of it when the call returns. */
static void evicted(struct mc_engine *engine)
{
	struct mc_engine *local = engine_open("rpc-local", dir);
	struct mc_rpc_service *service = NULL;
	struct mc_rpc_client *client = NULL;
	struct mc_rpc_call call = {.size = sizeof call};
	struct mc_error err = {0};

	sem_init(&held, 0, 0);
	CHECK(mc_rpc_serve(local, "hold", hold, NULL, &service, &err) == 0);
	CHECK(mc_rpc_client_open(engine, "rpc-local", "hold", &client, &err) == 0);
	CHECK(mc_rpc_start(client, &call, LONG) == 0);
	sem_wait(&held);
	CHECK(mc_peer_evict(local, mc_engine_generation(engine), LONG) == 0);
	CHECK(mc_rpc_wait(client, &call) == 0 && call.status == -EHOSTDOWN);
	CHECK(mc_rpc_reply(held_request, 0, "x", 1) == -ENOTCONN);
	CHECK(mc_peer_evict(local, mc_engine_generation(engine), LONG) == -ENOENT);
	mc_rpc_client_close(client);
	mc_rpc_unserve(service);
	CHECK(mc_engine_close(local, LONG) == 0);
}

int main(int argc, char **argv)
{
	struct mc_engine *engine;
	struct mc_rpc_client *echo_client, *mute_client;
	struct mc_rpc_call open = {.size = sizeof open};
	struct child child;
	char c;
	int r = -1;

	if (argc == 3 && strcmp(argv[1], "server") == 0)
		return server(argv[2]);
	self = argv[0];
	CHECK(mkdtemp(dir));
	signal(SIGPIPE, SIG_IGN);
	child = server_start();
	engine = engine_open("rpc-caller", dir);
	echo_client = client_open(engine, "echo");
	mute_client = client_open(engine, "mute");

	step("messages of 0 bytes to 1 MiB");
	sizes(echo_client);
	step("10000 calls, 64 outstanding");
	many(echo_client);
	step("a call that nobody answers ends at its deadline");
	CHECK(ask(mute_client, "x", 1, NULL, 0, 50 * MC_MSEC) == -ETIMEDOUT);
	step("answers of another thread");
	late_answers(engine);
	step("a client closed under its calls");
	close_under_calls(engine);
	step("the caller is evicted: its calls end");
	evicted(engine);
	step("the server is killed: calls end");
	CHECK(mc_rpc_start(mute_client, &open, LONG) == 0);
	server_kill(&child);
	CHECK(mc_rpc_wait(mute_client, &open) == 0 && open.status == -EHOSTDOWN);
	CHECK(ask(echo_client, "x", 1, &c, 1, LONG) == -EHOSTDOWN);
	step("the server comes back: calls go on");
	child = server_start();
	for (int i = 0; i < 20 && r != 0; i++) {
		r = ask(echo_client, "y", 1, &c, 1, LONG);
		CHECK(r == 0 || r == -EHOSTDOWN); /* an attempt may have been under way */
	}
	CHECK(r == 0 && c == 'y');
	step("a service is withdrawn");
	CHECK(write(child.to, "u", 1) == 1 && read(child.from, &c, 1) == 1);
	CHECK(ask(echo_client, "x", 1, &c, 1, LONG) == -ENOENT);
	step("the engine is closed under a call");
	open = (struct mc_rpc_call){.size = sizeof open, .done = canceled, .user = &r};
	CHECK(mc_rpc_start(mute_client, &open, LONG) == 0);
	CHECK(mc_engine_close(engine, LONG) == 0);
	CHECK(r == 1);
	server_kill(&child);
	return 0;
}
