/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the bench's flags to the engine's config: --protocol and --device_name
 * become a NIC priority matrix, unless the user gave one.  And the help, which
 * shows how they are meant to be used.
 */
#include "bench.h"

#include <errno.h>
#include <string.h>

/* Append one device as a JSON string; false: it does not fit, or is no device's name. */
static bool append_device(const char *transport, const char *device, size_t len, char *buf,
			  size_t cap, size_t *used)
{
	bool qualified = memchr(device, ':', len) != NULL;
	int n;

	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)device[i] < ' ' || device[i] == '"' || device[i] == '\\')
			return false;
	}
	n = snprintf(buf + *used, cap - *used, "%s\"%s%s%.*s\"", buf[*used - 1] == '[' ? "" : ", ",
		     qualified ? "" : transport, qualified || !*transport ? "" : ":", (int)len,
		     device);
	if (n < 0 || (size_t)n >= cap - *used)
		return false;
	*used += (size_t)n;
	return true;
}

int bench_matrix_text(const char *transport, const char *devices, char *buf, size_t cap,
		      struct mc_error *err)
{
	size_t used = (size_t)snprintf(buf, cap, "{\"*\": [[");

	for (const char *p = devices; *p;) {
		size_t len = strcspn(p, ",");

		if (len && !append_device(transport, p, len, buf, cap - 4, &used))
			return mc_fail(err, -EINVAL,
				       "flag --device_name: '%.*s' is no device's name", (int)len,
				       p);
		p += len + (p[len] == ',');
	}
	if (buf[used - 1] == '[')
		return mc_fail(err, -EINVAL, "flag --device_name: '%s' names no device", devices);
	snprintf(buf + used, cap - used, "]]}");
	return 0;
}

/* ---- devices of a transport ---------------------------------------------------------------------
 */

struct device_list {
	char usable[2048], loopback[512]; /* comma-separated */
	char remedy[256]; /* of the last that is not active */
};

static void list_add(char *list, size_t cap, const char *name)
{
	size_t used = strlen(list);

	if (used + strlen(name) + 2 < cap)
		snprintf(list + used, cap - used, "%s%s", used ? "," : "", name);
}

static int device_found(void *ctx, const struct mc_device_desc *device)
{
	struct device_list *list = ctx;

	if (!device->active)
		snprintf(list->remedy, sizeof list->remedy, "; %s: %s", device->name,
			 device->remedy && *device->remedy ? device->remedy : "not active");
	else if (strncmp(device->address, "127.", 4) == 0 || strcmp(device->address, "::1") == 0)
		list_add(list->loopback, sizeof list->loopback, device->name);
	else
		list_add(list->usable, sizeof list->usable, device->name);
	return 0;
}

/* --protocol alone: every active device of it; loopback only where there is nothing else. */
static int find_devices(const struct bench_options *opts, const struct mc_config *config,
			struct device_list *list, struct mc_error *err)
{
	int r = mc_transport_devices(config, opts->protocol, device_found, list, err);

	if (r < 0)
		return r;
	if (!*list->usable)
		snprintf(list->usable, sizeof list->usable, "%s", list->loopback);
	if (*list->usable)
		return 0;
	if (!*list->remedy && err->text[0])
		snprintf(list->remedy, sizeof list->remedy, ": %.250s", err->text);
	return mc_fail(err, -ENODEV, "flag --protocol: '%s' finds no usable device here%s",
		       opts->protocol, list->remedy);
}

int bench_configure(const struct bench_options *opts, struct mc_config *config,
		    struct mc_error *err)
{
	struct device_list list = {{0}};
	char matrix[4096];
	enum mc_origin origin = MC_ORIGIN_DEFAULT;
	int r = 0;

	if (!*opts->protocol && !*opts->device_name)
		return 0;
	mc_config_get(config, "nic_priority_matrix", &origin);
	if (origin == MC_ORIGIN_FLAG)
		return mc_fail(
			err, -EINVAL,
			"flags --nic_priority_matrix and %s: both choose devices; leave one out",
			*opts->protocol ? "--protocol" : "--device_name");
	if (!*opts->device_name)
		r = find_devices(opts, config, &list, err);
	if (r == 0)
		r = bench_matrix_text(opts->protocol,
				      *opts->device_name ? opts->device_name : list.usable, matrix,
				      sizeof matrix, err);
	return r < 0 ? r : mc_config_set(config, "nic_priority_matrix", matrix, err);
}

bool bench_is_usage(const struct mc_config *config, int status)
{
	const char *matrix = mc_config_get(config, "nic_priority_matrix", NULL);

	/* Without a matrix it is the host that has no device. */
	return status == -EINVAL || (status == -ENODEV && matrix && *matrix);
}

/* ---- one screen of help
 * --------------------------------------------------------------------------- */

/* clang-format off */
void bench_help(FILE *f)
{
	fputs("Move data between two engines, say how fast: start a target, then an initiator.\n"
	      "  transfer_engine_bench --mode=target --local_server_name=node1 --protocol=tcp\n"
	      "  transfer_engine_bench --segment_id=node1 --protocol=tcp --operation=write\n"
	      "Where, and over what:\n"
	      "  --metadata_server=URL     file:///dir (default: one per user); others, like\n"
	      "                            etcd://h:2379, with a metadata plugin for them\n"
	      "  --local_server_name=NAME  our segment's name, NAME[:port]; default: the host's\n"
	      "  --segment_id=NAME         the target's; default: the only other one there is\n"
	      "  --nic_priority_matrix=M   JSON text or file: {\"cpu:0\": [[\"tcp:eth0\"], []]}\n"
	      "  --protocol=NAME           one transport instead; --device_name=A,B: these only\n"
	      "What (default):\n"
	      "  --operation=read|write (read)   --block_size=BYTES (64K)  --batch_size=N (128)\n"
	      "  --threads=N (12)                --duration=SECONDS (10)   --buffer_size=N (1G)\n"
	      "  --stride=BYTES   gaps between blocks    --hot       one block, again and again\n"
	      "  --check          verify at both ends    --use_vram --gpu_id=0  GPU memory\n"
	      "  --prepared       submit a prepared list --sweep[=4K:16M]  a table of sizes\n"
	      "  --job=FILE       mixes, rates, several targets, traces: bench/jobs\n"
	      "Result:\n"
	      "  --json           one object on stdout   --report_unit=GiB --report_precision=3\n"
	      "  --ready_file=F   the target tells a script that it is up (or --ready_fd=N)\n"
	      "Every config key is a flag too: --log_level=debug, --set transports.tcp.lanes=2;\n"
	      "--config=FILE reads them, again on SIGHUP; --helpfull lists all; '-' is '_'.\n"
	      "Exit: 0 done (target: stopped by a signal), 1 failed or interrupted, 2 usage.\n",
	      f);
}
/* clang-format on */
