/* SPDX-License-Identifier: Apache-2.0 */
/* Cases with the other end in another process: it works, it is killed, it is frozen and thaws. */
#include "cases.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- another process ---------------------------------------------------------------------- */

/* What runs in the other process; never returns. */
struct serve {
	void (*run)(struct serve *s);
	struct ctx *c;
	int fd; /* of the link */
	struct fake_world *w;
	struct fake_inst *inst;
	struct fake_buf *buf;
	struct thaw *thaw;
};

static void serve_plainly(struct serve *s)
{
	fake_run(s->w, never, NULL, 60 * MC_SEC);
	_exit(0);
}

static void serve(struct serve *s)
{
	struct fake_link *link;
	struct mc_error err = {0};

	alarm(60);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	s->w = world_open(s->c, 0);
	if (open_one(s->c, s->w, &s->inst, &err) < 0 ||
	    fake_buf_new(s->inst, (uint64_t)DEEP * PIECE, 0, NULL, MC_ACCESS_ALL, &s->buf, &err) <
		    0 ||
	    fake_link_fd(s->inst, s->fd, &link) < 0)
		_exit(1);
	s->run(s);
	_exit(1);
}

static int process_open(struct ctx *c, struct serve *s, struct pair *p, struct bufs *b,
			pid_t *ret_pid)
{
	struct mc_error err = {0};
	int fds[2], r;

	memset(p, 0, sizeof *p);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0,
	      "no socketpair");
	CHECK(fake_kv_share() == 0, "no memory to share");
	*ret_pid = fork();
	CHECK(*ret_pid >= 0, "no process");
	if (*ret_pid == 0) {
		close(fds[0]);
		s->c = c;
		s->fd = fds[1];
		serve(s);
	}
	close(fds[1]);
	p->w = world_open(c, 0);
	r = open_one(c, p->w, &p->a, &err);
	CHECK(r == 0, "open: %d %s", r, err.text);
	r = fake_link_fd(p->a, fds[0], &p->la);
	CHECK(r == 0, "no link: %d", r);
	r = pair_connect(c, p);
	if (r != PASS)
		return r;
	CHECK(p->peer->remotes, "the other process tells no buffer");
	b->remote = p->peer->remotes;
	r = fake_buf_new(p->a, (uint64_t)DEEP * PIECE, 0, NULL, MC_ACCESS_LOCAL, &b->local, &err);
	CHECK(r == 0, "registering: %d %s", r, err.text);
	return PASS;
}

static int case_process(struct ctx *c)
{
	struct pair p;
	struct bufs b = {NULL};
	pid_t pid;
	struct serve s = {.run = serve_plainly};
	int r = process_open(c, &s, &p, &b, &pid);

	for (uint64_t i = 1; i < 8 && r == PASS; i++) {
		uint64_t len = align_up(&p, UINT64_C(1) << (2 * i));

		fake_buf_fill(b.local, 0, len, i);
		CHECK(transfer(&p, MC_OP_WRITE, b.local, 0, b.remote, 8192, len, NULL) == 0,
		      "a write fails");
		fake_buf_fill(b.local, 0, len, 0);
		CHECK(transfer(&p, MC_OP_READ, b.local, 0, b.remote, 8192, len, NULL) == 0,
		      "a read fails");
		CHECK(c->no_data || fake_buf_check(b.local, 0, len, i) < 0,
		      "what was written is not what is read");
	}
	if (r == PASS)
		r = pair_close(c, &p);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return r;
}

struct dead {
	struct deep *d;
	struct fake_peer *peer;
};

/* The plugin noticed by itself, or the control channel did. */
static bool noticed(void *ctx)
{
	struct dead *x = ctx;

	return deep_over(x->d) || x->peer->gone || !x->peer->ready;
}

static int case_killed(struct ctx *c)
{
	struct pair p;
	struct bufs b = {NULL};
	struct deep d = {.nr = 0};
	struct dead x = {&d, NULL};
	uint64_t t;
	pid_t pid;
	struct serve s = {.run = serve_plainly};
	int r = process_open(c, &s, &p, &b, &pid);

	if (r != PASS)
		return r;
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED); /* all of its threads have stopped */
	r = deep_submit(c, &p, &b, MC_OP_WRITE, &d);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (r != PASS)
		return r;
	t = fake_real_ns();
	x.peer = p.peer;
	r = fake_run_on(p.a, noticed, &x, 5500 * MC_MSEC);
	CHECK(r == 0, "the death of the other process is not noticed within 5.5 s");
	r = fake_peer_fence(p.peer, BOUND);
	CHECK(r == 0, "fence towards a dead process does not end");
	CHECK(deep_over(&d), "slices to a dead process stay in flight");
	CHECK(fake_real_ns() - t < 5500 * MC_MSEC, "it takes longer than 5.5 s");
	for (unsigned i = 0; i < d.nr; i++)
		CHECK(d.s[i]->status == 0 || d.s[i]->scope == MC_SCOPE_PEER,
		      "a slice to a dead process ended with %d, scope %d", d.s[i]->status,
		      d.s[i]->scope);
	deep_free(&d);
	return pair_close(c, &p);
}

/* ---- frozen
 * ------------------------------------------------------------------------------------------------------
 */

/* What the two processes of the case tell each other. */
struct thaw {
	int stand; /* the parent's: stop calling the plugin, the process is about to be stopped */
	int stands; /* the child's */
	int go; /* the parent's: it has been stopped and continued */
	int over; /* the child's: 1 = nothing was touched, else what */
};
enum { THAW_CLEAN = 1, THAW_BYTES, THAW_GUARDS, THAW_FENCE };
#define THAW_WATCH (2 * MC_SEC) /* how long nothing may be touched for */

static int look(const int *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static void set(int *flag, int value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

static bool is_set(void *flag)
{
	return look(flag);
}

/* No descriptor tells of the flag: the loops look at it now and then. */
static bool run_until(struct fake_world *w, int *flag, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	while (!look(flag) && fake_real_ns() < until)
		fake_run(w, is_set, flag, 10 * MC_MSEC);
	return look(flag);
}

static bool set_within(const int *flag, uint64_t bound_ns)
{
	uint64_t until = fake_real_ns() + bound_ns;

	while (!look(flag) && fake_real_ns() < until)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return look(flag);
}

/* The frozen end.  As the core does when it finds that it was frozen, it fences before the plugin
 * gets to read a byte; from then on nothing that was sent before may arrive. */
static void serve_frozen(struct serve *s)
{
	struct thaw *t = s->thaw;
	int over = THAW_CLEAN;

	run_until(s->w, &t->stand, 60 * MC_SEC);
	set(&t->stands, 1);
	set_within(&t->go, 30 * MC_SEC);
	if (fake_peers_fence(s->inst, BOUND) < 0)
		over = THAW_FENCE;
	fake_buf_fill(s->buf, 0, s->buf->len, 5);
	fake_run(s->w, never, NULL, THAW_WATCH);
	if (over == THAW_CLEAN && fake_buf_check(s->buf, 0, s->buf->len, 5) >= 0)
		over = THAW_BYTES;
	if (over == THAW_CLEAN && !fake_buf_guards_ok(s->buf))
		over = THAW_GUARDS;
	set(&t->over, over);
	fake_run(s->w, never, NULL, 60 * MC_SEC);
	_exit(0);
}

static int ended_by_fence(struct ctx *c, const struct deep *d)
{
	for (unsigned i = 0; i < d->nr; i++)
		CHECK(d->s[i]->status == 0 || d->s[i]->scope == MC_SCOPE_PEER,
		      "a slice to a frozen process ended with %d, scope %d", d->s[i]->status,
		      d->s[i]->scope);
	return PASS;
}

/* The initiator's side: slices both ways to a process that stands still; their deadline passes. */
static int freeze_and_fence(struct ctx *c, struct pair *p, struct bufs *b, struct bufs *in,
			    pid_t pid)
{
	struct deep out = {.nr = 0}, back = {.nr = 0};
	int r;

	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	r = deep_submit(c, p, b, MC_OP_WRITE, &out);
	if (r == PASS)
		r = deep_submit(c, p, in, MC_OP_READ, &back);
	if (r != PASS)
		return r;
	fake_run(p->w, never, NULL, 200 * MC_MSEC);
	p->peer->gone = true; /* it is silent: its own end kills the connection when it wakes up */
	r = fake_peer_fence(p->peer, BOUND);
	CHECK(r == 0, "fence towards a frozen process does not end: %d", r);
	CHECK(deep_over(&out) && deep_over(&back), "fenced came before every slice had completed");
	r = ended_by_fence(c, &out);
	if (r == PASS)
		r = ended_by_fence(c, &back);
	deep_free(&out);
	deep_free(&back);
	return r;
}

static int untouched(struct ctx *c, struct pair *p, struct bufs *b, struct bufs *in, struct thaw *t)
{
	static const char *const what[] = {
		[THAW_BYTES] =
			"bytes arrive at the target after it was frozen and its end was fenced",
		[THAW_GUARDS] = "bytes beside the target's buffer change after it was frozen",
		[THAW_FENCE] = "the fence at the end that was frozen does not end",
	};
	int over;

	CHECK(run_until(p->w, &t->over, THAW_WATCH + 3 * BOUND), "the thawed process does not get on");
	over = look(&t->over);
	CHECK(over == THAW_CLEAN, "%s (P2)", what[over]);
	CHECK(fake_buf_check(in->local, 0, in->local->len, 3) < 0,
	      "bytes arrive at the initiator after its reads had ended: the peer was frozen "
	      "meanwhile (P2)");
	CHECK(fake_buf_check(b->local, 0, b->local->len, 4) < 0,
	      "bytes of a write's source change (P2)");
	CHECK(fake_buf_guards_ok(in->local) && fake_buf_guards_ok(b->local),
	      "bytes beside the buffers change (P2)");
	return PASS;
}

static int case_frozen(struct ctx *c)
{
	struct thaw *t =
		mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct serve s = {.run = serve_frozen, .thaw = t};
	struct pair p;
	struct bufs b = {NULL}, in;
	struct mc_error err = {0};
	pid_t pid;
	int r;

	CHECK(t != MAP_FAILED, "no memory to share");
	r = process_open(c, &s, &p, &b, &pid);
	if (r == PASS && (p.a->caps.flags & MC_CAP_SYNC)) {
		kill(pid, SIGKILL);
		return skip(c, "nothing is ever in flight (MC_CAP_SYNC)");
	}
	if (r != PASS)
		return r;
	in = b;
	CHECK(fake_buf_new(p.a, (uint64_t)DEEP * PIECE, 0, NULL, MC_ACCESS_LOCAL, &in.local,
			   &err) == 0,
	      "registering: %s", err.text);
	set(&t->stand, 1);
	CHECK(set_within(&t->stands, BOUND), "the other process does not answer");
	r = freeze_and_fence(c, &p, &b, &in, pid);
	if (r == PASS) {
		fake_buf_fill(in.local, 0, in.local->len, 3);
		fake_buf_fill(b.local, 0, b.local->len, 4);
		set(&t->go, 1);
		kill(pid, SIGCONT);
		r = untouched(c, &p, &b, &in, t);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(t, sizeof *t);
	return r == PASS ? pair_close(c, &p) : r;
}

const struct test_case process_cases[] = {
	{MOVES, "process", case_process, 6},
	{BEHAVES, "killed", case_killed, 6},
	{BEHAVES, "frozen", case_frozen, 6},
	{.run = NULL},
};
