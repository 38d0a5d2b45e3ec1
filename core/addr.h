/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text: "192.0.2.1:12001", "[::1]:12001", "node1:12001"; and names of segments. */
#ifndef MC_CORE_ADDR_H
#define MC_CORE_ADDR_H

#include <mooncake/types.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define MC_HOST_MAX 255
#define MC_ADDR_TEXT_MAX (MC_HOST_MAX + 9) /* "[" host "]:65535" and NUL */

struct mc_addr {
	char host[MC_HOST_MAX + 1]; /* without brackets */
	uint16_t port;              /* 0: none was given */
};

/* "host", "host:port", "[v6]", "[v6]:port" or a bare v6 address.  -EINVAL.  [any] */
int mc_addr_parse(const char *text, struct mc_addr *ret_addr);
/* The text that mc_addr_parse reads; brackets where they are needed. */
void mc_addr_format(const char *host, uint16_t port, char text[MC_ADDR_TEXT_MAX]);
/* A numeric host as a socket address; its length, or -EINVAL when it is a name. */
int mc_addr_numeric(const struct mc_addr *addr, struct sockaddr_storage *ret_ss);
void mc_addr_of_sock(const struct sockaddr *sa, char text[MC_ADDR_TEXT_MAX]);

/* Addresses of the interfaces that are up, with this port, best first, at most 16: global ones of
 * real interfaces, then those of bridges and tunnels, loopback only if there is nothing else.
 * NULL-terminated; NULL: errno says why. */
char **mc_addr_interfaces(uint16_t port, bool v6);
/* Comma-separated addresses; those without a port get this one. */
int mc_addr_list(const char *text, uint16_t port, char ***ret_list, struct mc_error *err);
void mc_addr_list_free(char **list);
size_t mc_addr_list_nr(char *const *list);

/* Length of the UTF-8 sequence at s, which ends with NUL; 0: it is none. */
size_t mc_utf8_len(const unsigned char *s);
/* Check a segment's name: UTF-8, 1 to 255 bytes, no control characters, '/' or '@'. */
int mc_name_check(const char *name, struct mc_error *err);
/* The port in "name:port" (a single last colon) or "[v6]:port"; 0: none. */
uint16_t mc_name_port(const char *name);
/* -EINVAL: what stands behind that colon is no port. */
int mc_name_port_check(const char *name, struct mc_error *err);

#endif
