/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every public function with arguments that are missing, zero or far too large;
 * from a forked child; from a callback; engines opened by several threads at
 * once, under names good and bad.  Wrong calls answer -EINVAL, where there is
 * room for it with a sentence, and what was there goes on working.
 */
#include "engines.h"

#include <mooncake/rpc.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

static const char matrix[] = "{\"*\": [[\"tcp:lo\"]]}";
static struct mc_error err;

static int each_key(void *ctx, const struct mc_config_key *key)
{
	return 1;
}

static int each_name(void *ctx, const char *name)
{
	return 0;
}

static int each_device(void *ctx, const struct mc_device_desc *device)
{
	return 0;
}

static int each_counter(void *ctx, const struct mc_counter *counter)
{
	return 0;
}

/* Both an errno and a sentence. */
#define INVALID(call)                                                                              \
	do {                                                                                       \
		int r_;                                                                            \
		err.text[0] = '\0';                                                                \
		r_ = (call);                                                                       \
		CHECK(r_ == -EINVAL, "%s: %d", #call, r_);                                         \
		CHECK(err.text[0], "%s: no sentence", #call);                                      \
	} while (0)
#define INVAL(call)                                                                                \
	do {                                                                                       \
		int r_ = (call);                                                                   \
		CHECK(r_ == -EINVAL, "%s: %d", #call, r_);                                         \
	} while (0)

static void test_config(void)
{
	struct mc_config *c = config_new("x", matrix);
	char huge[70000];

	memset(huge, 'x', sizeof huge - 1);
	huge[sizeof huge - 1] = '\0';
	INVALID(mc_config_new(NULL, &err));
	INVALID(mc_config_load(NULL, "/nonexistent", &err));
	INVALID(mc_config_load(c, NULL, &err));
	INVALID(mc_config_env(NULL, &err));
	INVALID(mc_config_set(NULL, "port", "1", &err));
	INVALID(mc_config_set(c, NULL, "1", &err));
	INVALID(mc_config_set(c, "port", NULL, &err));
	INVALID(mc_config_set(c, "port", "65536", &err));
	CHECK(mc_config_set(c, huge, "1", &err) == -ENOENT, "%s", err.text);
	CHECK(!mc_config_get(c, NULL, NULL) && !mc_config_get(NULL, "port", NULL), "get");
	CHECK(!mc_config_get(c, huge, NULL), "get");
	INVAL(mc_config_each(NULL, each_key, NULL));
	INVAL(mc_config_each(c, NULL, NULL));
	INVALID(mc_transport_devices(NULL, "tcp", each_device, NULL, &err));
	INVALID(mc_transport_devices(c, NULL, each_device, NULL, &err));
	INVALID(mc_transport_devices(c, "tcp", NULL, NULL, &err));
	INVALID(mc_transport_devices(c, huge, each_device, NULL, &err));
	mc_config_free(c);
	mc_config_free(NULL);
}

static int open_named(const char *name)
{
	struct mc_config *c = config_new("x", matrix);
	struct mc_engine *e = NULL;
	int r = mc_config_set(c, "local_server_name", name, &err);

	r = r ? r : mc_engine_open(c, T, &e, &err);
	mc_config_free(c);
	if (e)
		mc_engine_close(e, T);
	return r;
}

static void test_engine_args(struct mc_engine *e)
{
	struct mc_config *c = config_new("y", matrix);
	struct mc_engine *other = NULL;
	char longest[MC_SEGMENT_NAME_MAX + 2];

	INVALID(mc_engine_open(NULL, T, &other, &err));
	INVALID(mc_engine_open(c, T, NULL, &err));
	/* No time at all may be enough. */
	if (mc_engine_open(c, 0, &other, &err) == 0)
		CHECK(mc_engine_close(other, T) == 0, "close");
	mc_config_free(c);
	CHECK(mc_engine_close(NULL, 0) == 0, "close");
	CHECK(!mc_engine_name(NULL) && !mc_engine_port(NULL) && !mc_engine_generation(NULL) &&
	      !mc_engine_matrix(NULL), "of nothing");
	INVAL(mc_engine_counters(NULL, each_counter, NULL));
	INVAL(mc_engine_counters(e, NULL, NULL));
	memset(longest, 'n', sizeof longest);
	longest[MC_SEGMENT_NAME_MAX] = '\0';
	CHECK(open_named(longest) == 0, "%s", err.text);
	CHECK(open_named("\xc3\xa4 b:c:1") == 0, "%s", err.text);
	memset(longest, 'n', sizeof longest);
	longest[MC_SEGMENT_NAME_MAX + 1] = '\0';
	INVALID(open_named(longest));
	INVALID(open_named("a/b"));
	INVALID(open_named("a@b"));
	INVALID(open_named("a\nb"));
	INVALID(open_named("a\xff"));
}

static void test_memory_args(struct mc_engine *e)
{
	static char mem[8192];
	void *addr = NULL;

	INVALID(mc_memory_alloc(NULL, "*", 1, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, NULL, 1, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "*", 0, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "*", 1, 0, T, NULL, &err));
	INVALID(mc_memory_alloc(e, "*", UINT64_MAX, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "*", UINT64_MAX - 4094, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "*", 1, ~0u, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "cpu:99999999999", 1, 0, T, &addr, &err));
	INVALID(mc_memory_alloc(e, "cpu:1000", 1, 0, T, &addr, &err));
	CHECK(mc_memory_alloc(e, "*", UINT64_MAX / 2 - 8192, 0, T, &addr, &err) == -ENOMEM, "%s", err.text);
	INVALID(mc_memory_free(NULL, mem, T, &err));
	CHECK(mc_memory_free(e, NULL, T, &err) == -ENOENT, "%s", err.text);
	INVALID(mc_memory_register(NULL, mem, 1, "*", 0, T, &err));
	INVALID(mc_memory_register(e, NULL, 1, "*", 0, T, &err));
	INVALID(mc_memory_register(e, mem, 0, "*", 0, T, &err));
	INVALID(mc_memory_register(e, mem, UINT64_MAX, "*", 0, T, &err));
	INVALID(mc_memory_register(e, mem, 1, NULL, 0, T, &err));
	INVALID(mc_memory_register(e, mem, 1, "", 0, T, &err));
	INVALID(mc_memory_register(e, mem, 1, "*", 1u << 31, T, &err));
	INVALID(mc_memory_unregister(NULL, mem, T, &err));
	CHECK(mc_memory_unregister(e, NULL, T, &err) == -ENOENT, "%s", err.text);
	CHECK(mc_memory_unregister(e, (void *)UINTPTR_MAX, T, &err) == -ENOENT, "%s", err.text);
}

static void test_segment_args(struct mc_engine *e, struct mc_segment *s)
{
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_segment *other = NULL;
	struct mc_notify n = {.size = 4};
	char huge[5000] = "";

	INVALID(mc_segment_open(NULL, "x", T, &other, &err));
	INVALID(mc_segment_open(e, NULL, T, &other, &err));
	INVALID(mc_segment_open(e, "x", T, NULL, &err));
	INVALID(mc_segment_open(e, "", T, &other, &err));
	memset(huge, 'x', sizeof huge - 1);
	INVALID(mc_segment_open(e, huge, T, &other, &err));
	CHECK(mc_segment_open(e, "nobody", 0, &other, &err) < 0 && err.text[0] && !other, "no time at all");
	mc_segment_close(NULL);
	CHECK(!mc_segment_name(NULL) && !mc_segment_generation(NULL) && !mc_segment_nr_buffers(NULL),
	      "of nothing");
	INVAL(mc_segment_buffer(NULL, 0, &info));
	INVAL(mc_segment_buffer(s, 0, NULL));
	CHECK(mc_segment_buffer(s, SIZE_MAX, &info) == -ERANGE, "range");
	info.size = 3;
	INVAL(mc_segment_buffer(s, 0, &info));
	INVALID(mc_request_check(NULL, &err));
	INVALID(mc_request_check(&(struct mc_request){.len = 1}, &err));
	INVALID(mc_request_check(&(struct mc_request){.segment = s, .opcode = MC_OP_COUNT}, &err));
	CHECK(mc_request_check(&(struct mc_request){.segment = s}, &err) == 0, "of no bytes");
	CHECK(mc_request_check(&(struct mc_request){.segment = s, .local = huge, .len = 1}, &err) == -EFAULT,
	      "of our memory");
	INVALID(mc_segment_list(NULL, T, each_name, NULL, &err));
	INVALID(mc_segment_list(e, T, NULL, NULL, &err));
	INVALID(mc_notify_send(NULL, "x", 1, T, &err));
	INVALID(mc_notify_send(s, NULL, 1, T, &err));
	INVALID(mc_notify_send(s, huge, SIZE_MAX, T, &err));
	INVAL(mc_notify_recv(NULL, &n, 0));
	INVAL(mc_notify_recv(e, NULL, 0));
	INVAL(mc_notify_recv(e, &n, 0));
	INVAL(mc_notify_fd(NULL));
	INVAL(mc_peer_evict(NULL, 1, T));
	CHECK(mc_peer_evict(e, 0, T) == -ENOENT, "evict");
}

static void test_batch_args(struct mc_engine *e, struct mc_segment *s)
{
	struct mc_request req = {.opcode = MC_OP_READ, .segment = s, .len = 1};
	struct mc_request_status st = {.size = sizeof st};
	struct mc_batch *b = NULL, *other = NULL;
	struct mc_list *list = NULL;
	uint32_t idx = 0;
	size_t at = 9;

	INVAL(mc_batch_new(NULL, 1, &other));
	INVAL(mc_batch_new(e, 0, &other));
	INVAL(mc_batch_new(e, ((size_t)1 << 20) + 1, &other));
	INVAL(mc_batch_new(e, SIZE_MAX, &other));
	INVAL(mc_batch_new(e, 1, NULL));
	CHECK(mc_batch_new(e, 2, &b) == 0, "batch");
	mc_batch_free(NULL);
	INVAL(mc_batch_set_deadline(NULL, 1));
	INVAL(mc_batch_set_notify(NULL, s, "x", 1));
	INVAL(mc_batch_set_notify(b, NULL, "x", 1));
	INVAL(mc_batch_set_notify(b, s, NULL, 1));
	INVAL(mc_batch_set_notify(b, s, "x", 4097));
	INVAL(mc_batch_set_callback(NULL, NULL, NULL));
	INVAL(mc_batch_submit(NULL, &req, 1, &at));
	INVAL(mc_batch_submit(b, NULL, 1, &at));
	INVAL(mc_batch_submit(b, &req, 0, &at));
	CHECK(mc_batch_submit(b, &req, SIZE_MAX, &at) == -ENOSPC, "space");
	req.segment = NULL;
	at = 9;
	INVAL(mc_batch_submit(b, &req, 1, &at));
	CHECK(at == 0, "the culprit is %zu", at);
	req.segment = s;
	req.opcode = 77;
	INVAL(mc_batch_submit(b, &req, 1, NULL));
	req.opcode = MC_OP_READ;
	req.flags = 2;
	INVAL(mc_batch_submit(b, &req, 1, NULL));
	CHECK(mc_batch_poll(NULL) == 0 && mc_batch_poll(b) == 0 && mc_batch_failed(NULL) == 0, "poll");
	INVAL(mc_batch_wait(NULL, 0));
	CHECK(mc_batch_wait(b, 0) == 0, "nothing to wait for");
	INVAL(mc_batch_notify_status(NULL));
	INVAL(mc_batch_fd(NULL));
	INVAL(mc_batch_status(NULL, 0, &st));
	INVAL(mc_batch_status(b, 0, NULL));
	CHECK(mc_batch_status(b, 0, &st) == -ERANGE, "none yet");
	INVAL(mc_batch_cancel(NULL));
	INVAL(mc_batch_reset(NULL));
	INVAL(mc_list_new(NULL, &req, 1, &list, &at));
	INVAL(mc_list_new(e, NULL, 1, &list, &at));
	INVAL(mc_list_new(e, &req, 0, &list, &at));
	INVAL(mc_list_new(e, &req, 1, NULL, &at));
	req.segment = NULL;
	INVAL(mc_list_new(e, &req, 1, &list, &at));
	mc_list_free(NULL);
	INVAL(mc_batch_submit_list(NULL, NULL, &idx, 1, &at));
	INVAL(mc_batch_submit_list(b, NULL, &idx, 1, &at));
	/* Ranges at the ends of everything fail alone. */
	req = (struct mc_request){.opcode = MC_OP_WRITE, .local = (void *)UINTPTR_MAX, .segment = s,
				  .offset = UINT64_MAX, .len = UINT64_MAX};
	CHECK(mc_batch_submit(b, &req, 1, &at) == 0 && mc_batch_wait(b, T) == 0, "submit");
	CHECK(mc_batch_failed(b) == 1 && mc_batch_status(b, 0, &st) == 0 && st.status < 0, "%d", st.status);
	mc_batch_free(b);
}

static int no_answer(void)
{
	return 0;
}

static void test_rpc_args(struct mc_engine *e)
{
	struct mc_rpc_service *service = NULL;
	struct mc_rpc_client *client = NULL;
	mc_rpc_handler handler = (mc_rpc_handler)(void *)no_answer; /* never called */

	INVALID(mc_rpc_serve(NULL, "s", handler, NULL, &service, &err));
	INVALID(mc_rpc_serve(e, NULL, handler, NULL, &service, &err));
	INVALID(mc_rpc_serve(e, "s", NULL, NULL, &service, &err));
	INVALID(mc_rpc_serve(e, "s", handler, NULL, NULL, &err));
	mc_rpc_unserve(NULL);
	INVAL(mc_rpc_reply(NULL, 0, NULL, 0));
	INVALID(mc_rpc_client_open(NULL, "x", "s", &client, &err));
	INVALID(mc_rpc_client_open(e, NULL, "s", &client, &err));
	INVALID(mc_rpc_client_open(e, "x", NULL, &client, &err));
	INVALID(mc_rpc_client_open(e, "x", "s", NULL, &err));
	mc_rpc_client_close(NULL);
	INVAL(mc_rpc_start(NULL, NULL, T));
	INVAL(mc_rpc_wait(NULL, NULL));
}

/* ---- fork ----------------------------------------------------------------------------------- */

#define FORBIDDEN(call)                                                                            \
	do {                                                                                       \
		int r_ = (call);                                                                   \
		CHECK(r_ == -EPERM, "in a child: %s: %d", #call, r_);                              \
	} while (0)

static int child(struct mc_engine *e, struct mc_segment *s, struct mc_batch *b)
{
	struct mc_request req = {.opcode = MC_OP_READ, .segment = s};
	static struct mc_notify n = {.size = sizeof n};
	struct mc_batch *other;
	struct mc_segment *segment;
	struct mc_list *list;
	void *addr;

	failures = 0;
	FORBIDDEN(mc_memory_alloc(e, "*", 1, 0, T, &addr, &err));
	FORBIDDEN(mc_memory_register(e, &n, 1, "*", 0, T, &err));
	FORBIDDEN(mc_memory_unregister(e, &n, T, &err));
	FORBIDDEN(mc_memory_free(e, &n, T, &err));
	FORBIDDEN(mc_segment_open(e, "x", T, &segment, &err));
	FORBIDDEN(mc_segment_list(e, T, each_name, NULL, &err));
	FORBIDDEN(mc_batch_new(e, 1, &other));
	FORBIDDEN(mc_batch_submit(b, &req, 1, NULL));
	FORBIDDEN(mc_batch_wait(b, T));
	FORBIDDEN(mc_list_new(e, &req, 1, &list, NULL));
	FORBIDDEN(mc_notify_send(s, "x", 1, T, &err));
	FORBIDDEN(mc_notify_recv(e, &n, T));
	FORBIDDEN(mc_notify_fd(e));
	FORBIDDEN(mc_peer_evict(e, 1, T));
	FORBIDDEN(mc_engine_counters(e, each_counter, NULL));
	FORBIDDEN(mc_engine_close(e, T));
	mc_batch_free(b);
	mc_segment_close(s);
	return failures ? 1 : 0;
}

static void test_fork(struct mc_engine *e, struct mc_segment *s)
{
	struct mc_batch *b = NULL;
	int status = -1;
	pid_t pid;

	CHECK(mc_batch_new(e, 1, &b) == 0, "batch");
	pid = fork();
	if (!pid)
		_exit(child(e, s, b));
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child: %x", status);
	mc_batch_free(b);
}

/* ---- callbacks ------------------------------------------------------------------------------ */

struct inside {
	struct mc_engine *engine;
	struct mc_segment *segment;
	int results[8];
	atomic_bool called;
};

static void called(void *arg, struct mc_batch *batch)
{
	struct inside *in = arg;
	static struct mc_notify n = {.size = sizeof n};
	struct mc_segment *s;
	void *addr;

	in->results[0] = mc_batch_wait(batch, T);
	in->results[1] = mc_memory_alloc(in->engine, "*", 1, 0, T, &addr, NULL);
	in->results[2] = mc_segment_open(in->engine, "x", T, &s, NULL);
	in->results[3] = mc_notify_send(in->segment, "x", 1, T, NULL);
	in->results[4] = mc_notify_recv(in->engine, &n, T);
	in->results[5] = mc_engine_close(in->engine, T);
	in->results[6] = mc_peer_evict(in->engine, 1, T);
	in->results[7] = mc_engine_counters(in->engine, each_counter, NULL);
	atomic_store(&in->called, true);
}

static void test_callback(struct mc_engine *e, struct mc_segment *s, void *mine)
{
	struct inside in = {.engine = e, .segment = s};
	struct mc_buffer_info info = {.size = sizeof info};
	struct mc_request req = {.opcode = MC_OP_WRITE, .local = mine, .segment = s, .len = 4096};
	struct mc_batch *b = NULL;

	CHECK(mc_segment_buffer(s, 0, &info) == 0 && mc_batch_new(e, 1, &b) == 0, "batch");
	req.offset = info.offset;
	CHECK(mc_batch_set_callback(b, called, &in) == 0, "callback");
	CHECK(mc_batch_submit(b, &req, 1, NULL) == 0 && mc_batch_wait(b, T) == 0, "submit");
	for (int i = 0; i < 1000 && !atomic_load(&in.called); i++)
		usleep(1000);
	CHECK(atomic_load(&in.called), "the callback");
	for (int i = 0; i < 8; i++)
		CHECK(in.results[i] == -EDEADLK, "in a callback: %d: %d", i, in.results[i]);
	CHECK(!mc_batch_failed(b), "the request");
	mc_batch_free(b);
}

/* ---- threads -------------------------------------------------------------------------------- */

static void *open_and_close(void *arg)
{
	char name[32];

	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof name, "t%d", *(int *)arg);
		CHECK(mc_engine_close(engine_new(name, matrix), T) == 0, "close");
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[4];
	int names[4] = {0, 1, 2, 3};

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, open_and_close, &names[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
	struct mc_engine *e, *other;
	struct mc_segment *s = NULL;
	void *mem, *mine;

	engines_begin();
	printf("config\n");
	test_config();
	e = engine_new("e", matrix);
	other = engine_new("other", matrix);
	CHECK(mc_memory_alloc(other, "*", 4096, MC_ACCESS_ALL, T, &mem, &err) == 0, "%s", err.text);
	CHECK(mc_memory_alloc(e, "*", 4096, MC_ACCESS_LOCAL, T, &mine, &err) == 0, "%s", err.text);
	CHECK(mc_segment_open(e, "other", T, &s, &err) == 0, "%s", err.text);
	printf("arguments\n");
	test_engine_args(e);
	test_memory_args(e);
	test_segment_args(e, s);
	test_batch_args(e, s);
	test_rpc_args(e);
	printf("fork\n");
	test_fork(e, s);
	printf("callback\n");
	test_callback(e, s, mine);
	printf("threads\n");
	test_threads();
	mc_segment_close(s);
	CHECK(mc_engine_close(e, T) == 0, "close");
	CHECK(mc_engine_close(other, T) == 0, "close");
	return engines_end();
}
