/* SPDX-License-Identifier: Apache-2.0 */
/* Figures in the text format of Prometheus. */
#include "metrics.h"

#include <inttypes.h>

#include <cli/program/text.h>
#include <core/util/check.h>

static void one(struct mc_http_answer *a, const char *name, const char *type, uint64_t value, const char *help)
{
	mc_http_print(a, "# HELP mooncake_master_%s %s\n# TYPE mooncake_master_%s %s\nmooncake_master_%s %" PRIu64 "\n", name, help,
		      name, type, name, value);
}

static void write_state(const struct mc_master_stats *s, struct mc_http_answer *a)
{
	one(a, "epoch", "gauge", s->epoch, "Lives of this master.");
	one(a, "objects", "gauge", s->nr_objects, "Complete objects.");
	one(a, "unfinished_puts", "gauge", s->nr_puts, "Puts that have started and not ended.");
	one(a, "clients", "gauge", s->nr_clients, "Clients that give signs of life.");
	one(a, "segments", "gauge", s->nr_segments, "Pieces of memory that clients lend.");
	one(a, "segments_suspect", "gauge", s->nr_suspect, "Of them not mounted again since the start.");
	one(a, "lent_bytes", "gauge", s->space.lent, "Memory that clients lend.");
	one(a, "used_bytes", "gauge", s->space.used, "Of it in use.");
	one(a, "leased_bytes", "gauge", s->space.leased, "Of it under a lease, when last looked at.");
	one(a, "pinned_bytes", "gauge", s->space.pinned, "Of it pinned, when last looked at.");
	one(a, "quarantined_bytes", "gauge", s->space.quarantined, "Of it not used again before a late writer is cut off.");
	one(a, "unfinished_bytes", "gauge", s->space.unfinished, "Of it of puts that have not ended.");
	one(a, "largest_free_bytes", "gauge", s->space.largest_free, "The longest free stretch.");
	one(a, "metadata_bytes", "gauge", s->metadata, "Memory for what the master knows.");
	one(a, "quiet_seconds", "gauge", s->waits_ns / MC_SEC, "Left, in which nothing is evicted after a restart.");
	one(a, "puts_total", "counter", s->nr_put, "Objects completed.");
	one(a, "gets_total", "counter", s->nr_get, "Keys asked for.");
	one(a, "hits_total", "counter", s->nr_hit, "Keys asked for that were there.");
	one(a, "removed_total", "counter", s->nr_removed, "Objects removed.");
	one(a, "evicted_total", "counter", s->nr_evicted, "Objects evicted.");
	one(a, "evicted_bytes_total", "counter", s->evicted_bytes, "Bytes evicted.");
	one(a, "expired_puts_total", "counter", s->nr_expired_puts, "Puts that did not end in time.");
	one(a, "lost_total", "counter", s->nr_lost, "Objects lost with the memory that they lay in.");
	mc_http_print(a, "# HELP mooncake_master_hit_ratio Hits of all keys asked for.\n# TYPE mooncake_master_hit_ratio gauge\n"
			 "mooncake_master_hit_ratio %.6f\n",
		      s->nr_get ? (double)s->nr_hit / (double)s->nr_get : 0.0);
}

static void write_keep(const struct master_keep_stats *k, struct mc_http_answer *a)
{
	one(a, "log_kept", "gauge", k->kept, "1: changes are kept in a folder; 0: nowhere.");
	one(a, "log_changes", "gauge", k->last, "Changes appended, of all lives.");
	one(a, "log_synced", "gauge", k->synced, "Of them on the disk.");
	one(a, "log_files", "gauge", k->disk.log_files, "Files of the log.");
	one(a, "log_folded", "gauge", k->disk.folded, "Changes folded into the database.");
	one(a, "database_bytes", "gauge", k->disk.database_bytes, "The database.");
	one(a, "log_errno", "gauge", k->disk.failed < 0 ? (uint64_t)-k->disk.failed : 0,
	    "Why the last folding failed; 0: it did not.");
	one(a, "loaded_values", "gauge", k->nr_loaded, "Values found at the start.");
	one(a, "broken_values", "gauge", k->nr_broken, "Of them left out.");
}

static void write_histogram(const struct master_method_stats *m, struct mc_http_answer *a)
{
	for (size_t i = 0; i < MC_ARRAY_SIZE(m->slower); i++)
		mc_http_print(a, "mooncake_master_rpc_seconds_bucket{method=\"%s\",le=\"%g\"} %" PRIu64 "\n", m->name,
			      (double)master_latency_bounds_ns[i] / 1e9, m->nr > m->slower[i] ? m->nr - m->slower[i] : 0);
	mc_http_print(a, "mooncake_master_rpc_seconds_bucket{method=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", m->name, m->nr);
	mc_http_print(a, "mooncake_master_rpc_seconds_sum{method=\"%s\"} %.9f\n", m->name, (double)m->total_ns / 1e9);
	mc_http_print(a, "mooncake_master_rpc_seconds_count{method=\"%s\"} %" PRIu64 "\n", m->name, m->nr);
}

void master_metrics_write(const struct master_figures *f, struct mc_http_answer *a)
{
	write_state(&f->stats, a);
	write_keep(&f->keep, a);
	mc_http_print(a, "# HELP mooncake_master_rpc_keys_total Keys in requests.\n# TYPE mooncake_master_rpc_keys_total counter\n");
	for (size_t i = 0; i < f->nr_methods; i++)
		mc_http_print(a, "mooncake_master_rpc_keys_total{method=\"%s\"} %" PRIu64 "\n", f->methods[i].name, f->methods[i].nr_keys);
	mc_http_print(a, "# HELP mooncake_master_rpc_failed_total Requests that failed as a whole.\n"
			 "# TYPE mooncake_master_rpc_failed_total counter\n");
	for (size_t i = 0; i < f->nr_methods; i++)
		mc_http_print(a, "mooncake_master_rpc_failed_total{method=\"%s\"} %" PRIu64 "\n", f->methods[i].name,
			      f->methods[i].nr_failed);
	mc_http_print(a, "# HELP mooncake_master_rpc_seconds Time from a request to its answer, in the master.\n"
			 "# TYPE mooncake_master_rpc_seconds histogram\n");
	for (size_t i = 0; i < f->nr_methods; i++)
		write_histogram(&f->methods[i], a);
}

void master_summary_write(const struct master_figures *f, struct mc_http_answer *a)
{
	const struct mc_master_stats *s = &f->stats;
	char used[MC_TEXT_MAX], lent[MC_TEXT_MAX];

	mc_http_print(a,
		      "%" PRIu64 " objects, %s of %s used, %" PRIu64 " clients, %" PRIu64 " segments (%" PRIu64
		      " not mounted again yet), hit ratio %.3f, %" PRIu64 " evicted, epoch %" PRIu64 "\n",
		      s->nr_objects, mc_text_size(s->space.used, used), mc_text_size(s->space.lent, lent), s->nr_clients,
		      s->nr_segments, s->nr_suspect, s->nr_get ? (double)s->nr_hit / (double)s->nr_get : 0.0, s->nr_evicted, s->epoch);
}
