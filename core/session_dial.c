/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the active side of a session reaches its peer: first by one dial of all
 * addresses; when an answer is missing, by one dial per address in parallel,
 * under the same session id.  If each address refuses, or another generation
 * answers, the peer is gone at once; otherwise dialling goes on, with a back-off
 * of at most a second, until the session layer has heard nothing for too long.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "session_impl.h"
#include "stream.h"
#include "core/util/check.h"

#define BACKOFF_MIN_NS (100 * MC_MSEC)
#define BACKOFF_MAX_NS MC_SEC

static void settled(struct mc_session_impl *i)
{
	if (i->s.state == MC_SESSION_GONE || i->pending || (i->conn && !i->expect_ns))
		return;
	if (i->nr_other == 0 && i->nr_stale > 0)
		mc_session_gone(i, -ESTALE, "it was restarted: another generation answers");
	else if (i->nr_other == 0 && i->nr_refused > 0)
		mc_session_gone(i, -EHOSTDOWN, "its process is gone: its addresses refuse connections");
	else
		mc_sessions_arm(i->ss);
}

static void dialled(void *arg, int fd, const char *why)
{
	struct mc_session_impl *i = arg;
	bool connecting = i->s.state == MC_SESSION_CONNECTING;

	i->nr_dials--;
	if (fd >= 0 && (i->s.state == MC_SESSION_GONE || i->pending || (i->conn && !i->expect_ns))) {
		close(fd); /* another one was faster, or the old one lives */
	} else if (fd >= 0) {
		int r = mc_conn_new(i->ss, fd, i, i->s.id, i->to_generation, NULL);

		if (r < 0)
			mc_session_conn_lost(i, r, strerror(-r));
	} else if (connecting) {
		mc_session_gone(i, fd, why);
	} else if (fd == -ECONNREFUSED) {
		i->nr_refused++;
	} else if (fd == -ESTALE) {
		i->nr_stale++;
	} else if (fd != -ENETUNREACH) {
		i->nr_other++;
	}
	if (i->nr_dials == 0 && !connecting)
		settled(i);
	mc_session_unref(&i->s);
}

static void dial_some(struct mc_session_impl *i, const char *const *addresses, uint64_t deadline_ns)
{
	struct mc_stream_hello hello = {.kind = MC_STREAM_CONTROL,
					.session_id = i->s.id,
					.from_generation = i->ss->engine->generation,
					.to_generation = i->to_generation};
	int r;

	snprintf(hello.from, sizeof hello.from, "%s", i->ss->engine->name);
	mc_session_ref(&i->s);
	i->nr_dials++;
	r = mc_stream_dial(i->ss->engine, addresses, NULL, &hello, deadline_ns, dialled, i);
	if (r < 0) {
		i->nr_dials--;
		i->nr_other++;
		if (i->s.state == MC_SESSION_CONNECTING)
			mc_session_gone(i, r, strerror(-r));
		mc_session_unref(&i->s);
	}
}

void mc_session_dial(struct mc_session_impl *i, bool parallel)
{
	uint64_t now = mc_boot_ns();

	i->nr_refused = i->nr_stale = i->nr_other = 0;
	i->backoff_ns = MC_MIN(MC_MAX(2 * i->backoff_ns, BACKOFF_MIN_NS), BACKOFF_MAX_NS);
	i->redial_ns = now + i->backoff_ns;
	if (parallel)
		mc_debug("session %016llx with '%s': no answer for %llu ms, dialling its addresses anew",
			 (unsigned long long)i->s.id, i->info.name,
			 (unsigned long long)(i->expect_ns ? (now - i->expect_ns) / MC_MSEC : 0));
	if (!parallel) {
		dial_some(i, (const char *const *)i->addresses, i->connect_deadline_ns);
		return;
	}
	for (char **at = i->addresses; *at; at++) {
		const char *one[] = {*at, NULL};

		dial_some(i, one, mc_now_ns() + (uint64_t)i->ss->engine->set->peer_timeout / 2);
	}
}

void mc_session_conn_lost(struct mc_session_impl *i, int status, const char *why)
{
	uint64_t now = mc_boot_ns();

	if (i->s.state == MC_SESSION_GONE)
		return;
	if (i->s.state == MC_SESSION_CONNECTING) {
		mc_session_gone(i, status, why);
		return;
	}
	if (!i->s.active || i->conn)
		return; /* the initiator comes back, or another connection carries on */
	if (!i->expect_ns)
		i->expect_ns = now;
	if (i->nr_dials == 0 && !i->pending && now >= i->redial_ns)
		mc_session_dial(i, true);
	else
		mc_sessions_arm(i->ss);
}
