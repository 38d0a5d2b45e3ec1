/* SPDX-License-Identifier: Apache-2.0 */
/* Every function of the library, called from C++11: one engine that uses its own segment. */
#include <mooncake/kv.h>
#include <mooncake/mooncake.h>
#include <mooncake/rpc.h>

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

static const uint64_t T = 10 * MC_SEC;
static mc_error err;

static void must(bool good, const char *what)
{
	if (!good)
		throw std::runtime_error(std::string(what) + ": " + err.text);
}
#define MUST(cond) must(cond, #cond)

struct Config {
	mc_config *c = nullptr;
	Config() { MUST(mc_config_new(&c, &err) == 0); }
	~Config() { mc_config_free(c); }
	void set(const char *key, const std::string &value)
	{
		MUST(mc_config_set(c, key, value.c_str(), &err) == 0);
	}
};

template <class Thing> int collect(void *ctx, const Thing *thing)
{
	static_cast<std::set<std::string> *>(ctx)->insert(thing->name);
	return 0;
}

static int collect_key(void *ctx, const mc_config_key *key)
{
	static_cast<std::set<std::string> *>(ctx)->insert(key->key);
	return 0;
}

static int collect_name(void *ctx, const char *name)
{
	static_cast<std::set<std::string> *>(ctx)->insert(name);
	return 0;
}

static void on_line(void *arg, mc_log_level, const char *)
{
	++*static_cast<std::atomic<int> *>(arg);
}

static void on_done(void *arg, mc_batch *)
{
	++*static_cast<std::atomic<int> *>(arg);
}

static void use_config(Config &config, const std::string &dir)
{
	std::set<std::string> keys, devices;
	const std::string file = dir + "/config.json";
	mc_origin origin;
	std::unique_ptr<FILE, int (*)(FILE *)> f(fopen(file.c_str(), "w"), fclose);

	MUST(fputs("{ \"port\": 0, \"advertise_address\": \"127.0.0.1\" }", f.get()) >= 0);
	f.reset();
	MUST(mc_config_load(config.c, file.c_str(), &err) == 0);
	MUST(mc_config_env(config.c, &err) == 0);
	config.set("metadata_server", "file://" + dir);
	config.set("local_server_name", "cxx");
	config.set("nic_priority_matrix", "{\"*\": [[\"tcp:lo\"]]}");
	MUST(!strcmp(mc_config_get(config.c, "port", &origin), "0") && origin == MC_ORIGIN_FILE);
	MUST(mc_config_each(config.c, collect_key, &keys) == 0 && keys.count("port"));
	MUST(mc_transport_devices(config.c, "tcp", collect<mc_device_desc>, &devices, &err) == 0);
	MUST(devices.count("lo"));
}

static void use_batches(mc_engine *engine, mc_segment *segment, char *mem)
{
	std::vector<mc_request> requests(8);
	std::atomic<int> done(0);
	mc_request_status status = mc_request_status();
	mc_list *list = nullptr;
	mc_batch *batch = nullptr;
	mc_notify notify = mc_notify();
	const uint32_t idx[] = {3, 1};
	pollfd fd = {-1, POLLIN, 0};
	size_t culprit;

	for (size_t i = 0; i < requests.size(); i++) {
		requests[i] = mc_request();
		requests[i].opcode = MC_OP_WRITE;
		requests[i].local = mem + 64 * i;
		requests[i].segment = segment;
		requests[i].offset = reinterpret_cast<uintptr_t>(mem) + 4096 + 64 * i;
		requests[i].len = 64;
	}
	memset(mem, 7, 4096);
	MUST(mc_batch_new(engine, requests.size(), &batch) == 0);
	MUST(mc_batch_set_deadline(batch, T) == 0);
	MUST(mc_batch_set_callback(batch, on_done, &done) == 0);
	MUST(mc_batch_set_notify(batch, segment, "hello", 5) == 0);
	fd.fd = mc_batch_fd(batch);
	MUST(mc_batch_submit(batch, requests.data(), requests.size(), &culprit) == 0);
	MUST(mc_batch_wait(batch, T) == 0);
	MUST(poll(&fd, 1, 10000) == 1);
	MUST(mc_batch_poll(batch) == requests.size() && mc_batch_failed(batch) == 0);
	MUST(mc_batch_notify_status(batch) == 0);
	status.size = sizeof status;
	MUST(mc_batch_status(batch, 7, &status) == 0 && status.state == MC_REQUEST_DONE);
	MUST(!memcmp(mem, mem + 4096, 512));
	for (int i = 0; i < 10000 && !done; i++)
		usleep(1000);
	MUST(done == 1);
	fd.fd = mc_notify_fd(engine);
	MUST(poll(&fd, 1, 10000) == 1);
	notify.size = sizeof notify;
	MUST(mc_notify_recv(engine, &notify, T) == 0 && notify.len == 5);
	MUST(mc_notify_send(segment, "again", 5, T, &err) == 0);
	MUST(mc_notify_recv(engine, &notify, T) == 0 && !strcmp(notify.from, "cxx"));
	MUST(mc_batch_reset(batch) == 0);
	MUST(mc_list_new(engine, requests.data(), requests.size(), &list, &culprit) == 0);
	MUST(mc_batch_submit_list(batch, list, idx, 2, &culprit) == 0);
	MUST(mc_batch_wait(batch, T) == 0 && mc_batch_poll(batch) == 2);
	MUST(mc_batch_cancel(batch) == 0);
	mc_list_free(list);
	mc_batch_free(batch);
}

static void answer(void *, mc_rpc_request *request, const mc_rpc_incoming *in)
{
	mc_rpc_reply(request, 0, in->data, in->len);
}

static void use_rpc(mc_engine *engine)
{
	mc_rpc_service *service = nullptr;
	mc_rpc_client *client = nullptr;
	mc_rpc_call call = mc_rpc_call();
	char reply[16] = "";

	MUST(mc_rpc_serve(engine, "echo", answer, nullptr, &service, &err) == 0);
	MUST(mc_rpc_client_open(engine, "cxx", "echo", &client, &err) == 0);
	call.size = sizeof call;
	call.data = "ping";
	call.len = 4;
	call.reply = reply;
	call.reply_cap = sizeof reply;
	MUST(mc_rpc_start(client, &call, T) == 0);
	MUST(mc_rpc_wait(client, &call) == 0 && call.status == 0 && !memcmp(reply, "ping", 4));
	mc_rpc_client_close(client);
	mc_rpc_unserve(service);
}

static int take_entry(void *ctx, const mc_kv_entry *entry)
{
	*static_cast<std::string *>(ctx) = std::string(static_cast<const char *>(entry->value), entry->len);
	return 0;
}

static void use_kv(mc_engine *engine)
{
	std::string text;
	uint64_t revision = 0;

	MUST(mc_kv_write(engine, "cxx/a", "one", 3, MC_KV_LEASED, T, &revision, &err) == 0);
	MUST(mc_kv_swap(engine, "cxx/a", "two", 3, revision, 0, T, nullptr, &err) == 0);
	MUST(mc_kv_read(engine, "cxx/a", T, take_entry, &text, &err) == 0 && text == "two");
	MUST(mc_kv_each(engine, "cxx/", T, take_entry, &text, &err) == 1);
	MUST(mc_kv_remove(engine, "cxx/a", 0, T, &err) == 0);
}

static void use_engine(const Config &config)
{
	std::set<std::string> names, counters;
	mc_buffer_info info = mc_buffer_info();
	mc_engine *engine = nullptr;
	mc_segment *segment = nullptr;
	static char own[4096];
	void *mem = nullptr;

	MUST(mc_engine_open(config.c, T, &engine, &err) == 0);
	MUST(!strcmp(mc_engine_name(engine), "cxx") && mc_engine_port(engine));
	MUST(mc_engine_matrix(engine) && mc_engine_generation(engine));
	MUST(mc_memory_alloc(engine, "*", 8192, MC_ACCESS_ALL, T, &mem, &err) == 0);
	MUST(mc_memory_register(engine, own, sizeof own, "*", MC_ACCESS_LOCAL, T, &err) == 0);
	MUST(mc_segment_open(engine, "cxx", T, &segment, &err) == 0);
	MUST(mc_segment_generation(segment) == mc_engine_generation(engine));
	MUST(!strcmp(mc_segment_name(segment), "cxx") && mc_segment_nr_buffers(segment) == 1);
	info.size = sizeof info;
	MUST(mc_segment_buffer(segment, 0, &info) == 0 && info.len == 8192);
	MUST(mc_segment_list(engine, T, collect_name, &names, &err) == 1 && names.count("cxx"));
	use_batches(engine, segment, static_cast<char *>(mem));
	use_rpc(engine);
	use_kv(engine);
	MUST(mc_engine_counters(engine, collect<mc_counter>, &counters) == 0);
	MUST(counters.count("bytes_written"));
	MUST(mc_peer_evict(engine, 1, T) == -ENOENT);
	mc_segment_close(segment);
	MUST(mc_memory_unregister(engine, own, T, &err) == 0);
	MUST(mc_memory_free(engine, mem, T, &err) == 0);
	MUST(mc_engine_close(engine, T) == 0);
}

int main()
{
	char dir[] = "/tmp/mc-cxx-XXXXXX";
	std::atomic<int> nr_lines(0);
	int status = 1;

	if (!mkdtemp(dir))
		return 1;
	try {
		Config config;

		mc_log_set_handler(on_line, &nr_lines);
		mc_log_set_level(MC_LOG_INFO);
		use_config(config, dir);
		use_engine(config);
		MUST(nr_lines > 0);
		printf("%s ok\n", mc_version());
		status = 0;
	} catch (const std::exception &e) {
		printf("FAIL %s\n", e.what());
	}
	return system((std::string("rm -rf ") + dir).c_str()) ? 1 : status;
}
