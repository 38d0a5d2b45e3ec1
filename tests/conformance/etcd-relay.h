/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A relay in front of an etcd server, for tests of outages: it passes bytes on,
 * and can be cut, stalled, or told to swallow answers, while the server itself
 * goes on for others.
 */
#ifndef MC_TESTS_ETCD_RELAY_H
#define MC_TESTS_ETCD_RELAY_H

enum relay_mode {
	RELAY_PASS,
	RELAY_CUT,     /* connections are closed, new ones refused */
	RELAY_STALL,   /* nothing is passed any more, either way; new connections are taken */
	RELAY_SWALLOW, /* requests are passed on, what answers them is not: the connection ends */
};

struct relay;

/* In front of 127.0.0.1:port; NULL: it could not be started. */
struct relay *relay_new(int port);
int relay_port(const struct relay *r);
/* From the return on. */
void relay_set(struct relay *r, enum relay_mode mode);
/* Connections that were ever taken. */
unsigned relay_taken(const struct relay *r);
void relay_free(struct relay *r);

#endif
