/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a peer's addresses, as text, to what a dial (stream_dial.c) can connect to.
 * Numeric ones are only read; names are a pass of their own, which may block and
 * thus is a helper's.  Nothing is kept here: each thread works on its own targets.
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "addr.h"
#include "stream_port.h"

void mc_targets_add(struct mc_targets *t, const void *sa, socklen_t len)
{
	if (t->nr == MC_TARGETS_MAX || len > sizeof t->at[0].ss)
		return;
	memcpy(&t->at[t->nr].ss, sa, len);
	t->at[t->nr].len = len;
	t->nr++;
}

static void bad_target(struct mc_targets *t, const char *address, int status, const char *why)
{
	size_t at = strlen(t->why);

	t->status = status;
	snprintf(t->why + at, sizeof t->why - at, "%s%s: %s", at ? "; " : "", address, why);
}

void mc_targets_fill(char *const *addresses, bool names, struct mc_targets *t)
{
	memset(t, 0, sizeof *t);
	for (; *addresses; addresses++) {
		struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai, *i;
		struct sockaddr_storage ss;
		struct mc_addr addr;
		char port[8];
		int len, r;

		if (mc_addr_parse(*addresses, &addr) < 0 || !addr.port) {
			if (!names)
				bad_target(t, *addresses, -EINVAL, "not an address with a port");
			continue;
		}
		len = mc_addr_numeric(&addr, &ss);
		if (len > 0 && !names)
			mc_targets_add(t, &ss, (socklen_t)len);
		if (len > 0)
			continue;
		t->named = true;
		if (!names)
			continue;
		snprintf(port, sizeof port, "%u", addr.port);
		r = getaddrinfo(addr.host, port, &hints, &ai);
		if (r != 0) {
			bad_target(t, *addresses, -EHOSTUNREACH, gai_strerror(r));
			continue;
		}
		for (i = ai; i; i = i->ai_next)
			mc_targets_add(t, i->ai_addr, i->ai_addrlen);
		freeaddrinfo(ai);
	}
}
