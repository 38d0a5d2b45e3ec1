/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm transport: who is at the other end.  The kernel tells the process that holds the socket; boot,
 * PID namespace and start time must agree with what it says of itself, and the initiator reads some
 * bytes of its memory, which also shows whether the ptrace policy lets us.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shm.h"

/* [worker] The target's end has taken its slot. */
int shm_hello_send(struct shm_peer *p)
{
	const struct shm *x = p->shm;
	struct shm_msg m = {.type = SHM_HELLO};
	struct shm_hello *h = &m.hello;

	h->pid = x->self.pid;
	memcpy(h->boot, x->self.boot, sizeof h->boot);
	h->pid_ns = x->self.pid_ns;
	h->start = x->self.start;
	h->probe_addr = (uintptr_t)x->probe;
	memcpy(h->probe, x->probe, sizeof h->probe);
	if (p->passive) {
		h->slot = p->slot;
		h->key = p->key;
	}
	return shm_send(p, &m, p->passive ? x->dev->table_fd : x->flag_fd);
}

static int refuse(struct shm_peer *p, int status, const char *why)
{
	snprintf(p->why, sizeof p->why, "%s", why);
	return status;
}

/* The kernel's word against its own. */
static int check_identity(struct shm_peer *p, const struct shm_hello *h, const struct ucred *cred)
{
	const struct shm_self *self = &p->shm->self;
	uint64_t start;

	if (memcmp(h->boot, self->boot, sizeof h->boot) != 0)
		return refuse(p, -EHOSTUNREACH, "the other end runs under another kernel: shm takes one host");
	if (h->pid_ns == self->pid_ns && (uint32_t)cred->pid != h->pid) {
		snprintf(p->why, sizeof p->why, "process %d holds the socket, but it says that it is process %u",
			 (int)cred->pid, h->pid);
		return -EPERM;
	}
	/* Start times of another time name space are shifted; a /proc of another PID name space tells of others. */
	if (cred->pid > 0 && self->proc && h->pid_ns >> 32 == self->pid_ns >> 32 &&
	    shm_start_of(cred->pid, &start) == 0 && start != h->start) {
		snprintf(p->why, sizeof p->why, "process %d is not the one that says hello: it began at another time",
			 (int)cred->pid);
		return -ESTALE;
	}
	return 0;
}

/* Read the bytes that it told: 0, or an errno (> 0) of why we cannot.  unwatched: why there is no pidfd. */
static int probe(const struct shm_peer *p, const struct shm_hello *h, int unwatched, uint8_t ret_bytes[SHM_PROBE])
{
	struct iovec near = {ret_bytes, SHM_PROBE}, far = {(void *)(uintptr_t)h->probe_addr, SHM_PROBE};
	ssize_t n;

	if (!p->pid)
		return ESRCH;
	if (p->life.fd < 0)
		return unwatched;
	n = process_vm_readv(p->pid, &near, 1, &far, 1, 0);
	return n == SHM_PROBE ? 0 : n < 0 ? errno : EFAULT;
}

/* Initiator: may we reach its memory?  Where we may not, what is mapped has to do. */
static int check_attach(struct shm_peer *p, const struct shm_hello *h, int unwatched)
{
	struct shm *x = p->shm;
	uint8_t bytes[SHM_PROBE];
	char remedy[200];
	int error;

	if (x->mode == SHM_MAP)
		return 0;
	error = probe(p, h, unwatched, bytes);
	if (!error && memcmp(bytes, h->probe, sizeof bytes) != 0)
		return refuse(p, -ESTALE, "the process that holds the socket is not the one that says hello");
	p->attach = !error;
	if (!error)
		return 0;
	shm_attach_remedy(error, p->pid, p->uid, remedy, sizeof remedy);
	if (x->mode == SHM_ATTACH) {
		snprintf(p->why, sizeof p->why, "cross-memory attach is refused: %s", remedy);
		return -EPERM;
	}
	x->host->log(x->host, MC_LOG_WARN,
		     "peer '%s': cross-memory attach is refused: %s; only memory of mc_memory_alloc goes "
		     "by shm, what else it has takes the next tier", p->name, remedy);
	return 0;
}

#define LOST "there was no descriptor left for one that it sent: raise the limit of descriptors (ulimit -n)"

static int take_table(struct shm_peer *p, const struct shm_hello *h, int fd)
{
	const void *table = fd < 0 || !h->key ? NULL : shm_map_words(fd, SHM_TABLE_SIZE);

	if (!table && p->in_lost)
		return refuse(p, -EMFILE, LOST);
	if (!table)
		return refuse(p, -EPROTO, "the other end sent no table of what may be touched");
	p->table = table;
	p->slot = h->slot;
	p->key = h->key;
	return 0;
}

static int take_flag(struct shm_peer *p, int fd)
{
	p->watcher = fd < 0 ? NULL : shm_watcher_new(p->shm->dev, fd);
	if (!p->watcher && p->in_lost)
		return refuse(p, -EMFILE, LOST);
	return p->watcher ? 0 : refuse(p, -EPROTO, "the other end sent no flag to wait for");
}

/* [worker] */
int shm_hello_check(struct shm_peer *p, const struct shm_hello *h, int fd)
{
	struct ucred cred = {.pid = 0};
	socklen_t len = sizeof cred;
	int r = 0, unwatched = 0;

	if (getsockopt(p->watch.fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.uid == (uid_t)-1)
		r = refuse(p, -EPROTONOSUPPORT, "the stream is no Unix socket: the core at this end is too old for shm");
	/* First the descriptor, then the look at what it stands for. */
	p->pid = cred.pid;
	p->uid = cred.uid;
	if (r == 0 && p->pid > 0)
		unwatched = -shm_life_watch(p);
	if (r == 0)
		r = check_identity(p, h, &cred);
	if (r == 0)
		r = p->passive ? take_flag(p, fd) : take_table(p, h, fd);
	if (r == 0 && !p->passive)
		r = check_attach(p, h, unwatched);
	if (fd >= 0)
		close(fd);
	return r;
}
