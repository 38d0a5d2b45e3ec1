/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin ABI: the one symbol that a plugin exports, its options, and the
 * services that the host gives it.  docs/plugin-abi.md is the contract in prose.
 *
 * A plugin is one shared object that exports one const data symbol,
 * `mc_plugin_desc`, and links no library of ours.  Growth: tables begin with
 * their size and grow at the end only; a new slot raises the minor version, a
 * changed meaning the major one.
 *
 * Threads.  Each operation and service carries a tag:
 *   [worker]   the thread that holds the baton of the instance's worker
 *   [control]  the engine's control loop; must not block
 *   [helper]   an engine helper thread; may block until the given deadline, and
 *              may overlap [worker] operations of the same instance
 *   [any]      any thread, several at a time
 */
#ifndef MOONCAKE_PLUGIN_H
#define MOONCAKE_PLUGIN_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MC_ABI_MAJOR 1
#define MC_ABI_MINOR 5
/* "MCPLUGIN" as a little-endian word. */
#define MC_PLUGIN_MAGIC UINT64_C(0x4e4947554c50434d)

enum mc_kind {
	MC_KIND_TRANSPORT = 1, /* ops: struct mc_transport_ops, transport.h */
	MC_KIND_METADATA = 2,  /* ops: struct mc_metadata_ops, metadata.h */
	MC_KIND_MEMORY = 3,    /* ops: struct mc_memory_ops, memory.h */
	MC_KIND_FILTER = 4,    /* ops: struct mc_filter_ops, transport.h */
	MC_KIND_COUNT
};

/* ---- options --------------------------------------------------------------------------- */

enum mc_option_type {
	MC_OPT_BOOL = 1,     /* value.b */
	MC_OPT_INT = 2,      /* value.i, within [min, max] */
	MC_OPT_SIZE = 3,     /* value.i in bytes; text may end in KiB, MiB, GiB, TiB, KB, MB, GB */
	MC_OPT_DURATION = 4, /* value.i in ns; text ends in ns, us, ms, s, min; bare numbers are seconds */
	MC_OPT_FLOAT = 5,    /* value.d, within [min, max] */
	MC_OPT_STRING = 6,   /* value.s */
	MC_OPT_ENUM = 7,     /* value.s is the word, value.i2 its index in choices */
	MC_OPT_TYPE_COUNT
};

#define MC_OPT_AUTO (1u << 0)       /* the word "auto" is accepted and gives value.i == MC_VALUE_AUTO */
#define MC_OPT_RELOADABLE (1u << 1) /* may change while the instance is open, through `reconfigure` */
#define MC_OPT_REQUIRED (1u << 2)   /* no default: the config must say it */
#define MC_OPT_SECRET (1u << 3)     /* a password: no tool, report or log line shows it; since 1.5 */
#define MC_VALUE_AUTO INT64_MIN

/* One option of a plugin.  The array ends with name == NULL; its stride is desc->option_size. */
struct mc_option {
	const char *name;           /* [a-z0-9_]+ */
	uint32_t type;              /* enum mc_option_type */
	uint32_t flags;             /* MC_OPT_* */
	const char *def;            /* default, as the user would write it; NULL with MC_OPT_REQUIRED */
	int64_t min, max;           /* inclusive; both 0: no limits */
	const char *const *choices; /* MC_OPT_ENUM: words, ends with NULL */
	const char *env;            /* MC_* variable that sets it, or NULL */
	const char *doc;            /* one sentence for --help and docs */
};

/* A parsed option.  Frozen: 16 bytes, so arrays of it may cross the ABI. */
struct mc_value {
	union {
		int64_t i;
		double d;
		const char *s;
		bool b;
	};
	int32_t i2;   /* MC_OPT_ENUM: index in choices */
	uint32_t set; /* 0: the default; else an enum mc_origin of the config that set it */
};

/* ---- the descriptor --------------------------------------------------------------------- */

/* Transports: a host may lack what it drives.  Where a device that the user named cannot be opened,
 * a warning says what is used instead; without this flag the engine does not open. */
#define MC_PLUGIN_OPTIONAL (1u << 0)

struct mc_plugin_desc {
	/* Frozen for ever: magic, versions, kind, size. */
	uint64_t magic;
	uint16_t abi_major, abi_minor;
	uint32_t kind;
	uint64_t size;
	/* ABI 1.0. */
	const char *name;    /* [a-z0-9-]+, the one in the file name: transport-NAME.so */
	const char *version; /* the plugin's own */
	const char *summary; /* one line for people */
	const void *ops;     /* table of the kind, begins with its size */
	const struct mc_option *options; /* may be NULL */
	size_t option_size;              /* sizeof(struct mc_option) when the plugin was built */
	/* What the manifest repeats, so that nobody has to load the plugin to know it. */
	const char *wire;                /* transport: the wire's name; else NULL */
	uint16_t wire_min, wire_max;     /* versions of it that are spoken */
	uint32_t flags;                  /* MC_PLUGIN_* */
	const char *const *memory;       /* transport: kinds reached, e.g. {"cpu", NULL}; memory: its kind */
	const char *const *claims;       /* transport: device globs, "sysfs:class/net/STAR"; ends with NULL */
	const char *const *schemes;      /* metadata: URL schemes, e.g. {"file", NULL} */
};

#define MC_PLUGIN_HEAD(the_kind)                                                               \
	.magic = MC_PLUGIN_MAGIC, .abi_major = MC_ABI_MAJOR, .abi_minor = MC_ABI_MINOR,        \
	.kind = (the_kind), .size = sizeof(struct mc_plugin_desc),                             \
	.option_size = sizeof(struct mc_option)

/* The symbol itself.  Every plugin defines it; nothing else is exported. */
extern MC_EXPORT const struct mc_plugin_desc mc_plugin_desc;
#define MC_PLUGIN_SYMBOL "mc_plugin_desc"

/* Answer of submit and of copy: taken and already finished, no completion will come. */
#define MC_DONE 1

/* ---- what host services need ------------------------------------------------------------ */

struct mc_slice;
struct mc_transport_caps;

/* Where a piece of memory lies and how to reach it. */
struct mc_mem_desc {
	size_t size; /* sizeof(struct mc_mem_desc) of whoever allocated it */
	void *addr;  /* as requests name it; a device pointer for kinds that the CPU cannot touch */
	uint64_t len;
	const char *kind; /* "cpu", "cuda", ...; borrowed, outlives the call */
	int32_t ordinal;  /* N of "cpu:N"; -1: unknown */
	uint32_t access;  /* MC_ACCESS_* */
	int32_t dmabuf_fd; /* -1: none */
	uint32_t reserved;
	uint64_t dmabuf_offset; /* of addr in the dma-buf */
	/* ABI 1.5: a memfd that maps the memory, so that it can be shared with another process, and where
	 * in it addr is.  Borrowed during the call; -1: there is none.  Ask by mc_mem_share_fd. */
	int32_t share_fd;
	uint32_t reserved2;
	uint64_t share_offset;
	/* ABI 1.5. */
	const char *dmabuf_why; /* mem_reg: a sentence why there is no dma-buf; NULL: there is one, or nobody said.
				 * Borrowed during the call */
};

/* The memfd behind the memory, or -1; a host that lacks the field has none. */
static inline int mc_mem_share_fd(const struct mc_mem_desc *d)
{
	return d->size < offsetof(struct mc_mem_desc, share_offset) + sizeof d->share_offset ? -1 : d->share_fd;
}

/* Watch of one descriptor.  The plugin embeds it; it must stay where it is until `unwatch`. */
struct mc_watch {
	size_t size;
	int fd;
	uint32_t events; /* POLLIN | POLLOUT, level-triggered */
	void (*ready)(struct mc_watch *w, uint32_t revents);
	void *user; /* plugin's */
	void *host; /* host's */
};

/* A one-shot timer, embedded by the plugin; deadline_ns 0 means not armed. */
struct mc_timer {
	size_t size;
	uint64_t deadline_ns; /* monotonic; set through timer_set */
	void (*fire)(struct mc_timer *t, uint64_t now_ns);
	void *user; /* plugin's */
	void *host[2]; /* host's */
};

/* Work for another thread; embedded by the plugin, free again when run (or `done`) is called. */
struct mc_work {
	size_t size;
	void (*run)(struct mc_work *w);  /* post: [worker]; run_blocking, run_lazily: [helper] */
	void (*done)(struct mc_work *w); /* not of post: [worker], after run */
	void *user; /* plugin's */
	void *host[2]; /* host's */
};

/* A checked range of this engine's own segment, held against unregistering. */
struct mc_range {
	size_t size;
	void *addr;       /* of the range's first byte */
	void *region;     /* the instance's private area of the registration, or NULL if it has none */
	const char *kind; /* "cpu": the CPU may touch addr; else use mem_copy */
	int32_t ordinal;
	uint32_t reserved;
	void *host; /* host's */
};

/* A copy between memory of some kind and host memory; embedded by whoever asks. */
struct mc_copy {
	size_t size;
	void *mem;        /* address in memory of `kind` */
	void *hostptr;    /* pinned or plain host memory */
	uint64_t len;
	const char *kind;
	int32_t ordinal;
	uint32_t to_host; /* 1: mem to hostptr; 0: hostptr to mem */
	/* Called once if the copy did not finish at once.  [worker] of the asking instance */
	void (*done)(struct mc_copy *c, int status);
	void *user;    /* the asker's */
	void *host[2]; /* host's */
	void *priv[2]; /* the memory plugin's */
};

/* One key of the metadata service. */
struct mc_kv {
	size_t size;
	const char *key;    /* NUL-terminated */
	const void *value;  /* NULL in a watch event: deleted */
	uint64_t len;
	uint64_t revision; /* changes with each write of the key; never 0 for a key that exists */
	uint64_t lease;    /* 0: none */
};

/* A call of a key-value service; embedded by the plugin, free again when done is called. */
enum mc_kv_op { MC_KV_GET = 1, MC_KV_PUT, MC_KV_CAS, MC_KV_DELETE, MC_KV_WATCH, MC_KV_UNWATCH };
struct mc_kv_call {
	size_t size;
	uint32_t op;         /* enum mc_kv_op */
	uint32_t leased;     /* PUT, CAS: 1 = dies with this engine's lease */
	const char *key;     /* below the plugin's own prefix; WATCH: a prefix of keys */
	const void *value;   /* PUT, CAS; borrowed until done */
	uint64_t len;
	uint64_t expect_rev; /* CAS: 0 = must not exist; DELETE: 0 = whatever it is */
	uint64_t deadline_ns;
	/* GET: kv is NULL unless found.  WATCH: called once per event until UNWATCH of the same
	 * struct has called it with status -ECANCELED.  [worker] */
	void (*done)(struct mc_kv_call *c, int status, const struct mc_kv *kv);
	void *user;
	void *host[2];
};

enum mc_device_event { MC_DEVICE_UP = 1, MC_DEVICE_DOWN = 2, MC_DEVICE_GONE = 3 };

/*
 * Host services.  One table per instance; every function takes it first, so the
 * host finds its own state.  A plugin built against a later header looks at size
 * before it uses a later service.  `peer`, `remote`, `region` are private areas
 * that the host handed to the plugin.
 */
struct mc_host {
	size_t size;
	uint32_t abi_major, abi_minor; /* of the host */
	const char *instance;          /* "tcp:eth0", for messages of the plugin's own */

	/* Log one line; adds the plugin's and device's name.  [any] */
	void (*log)(const struct mc_host *h, int level, const char *fmt, ...) MC_PRINTF(3, 4);
	/* Monotonic clock, ns.  Tests drive it.  [any] */
	uint64_t (*now_ns)(const struct mc_host *h);
	/* Unpredictable bytes.  [any] */
	void (*random)(const struct mc_host *h, void *buf, size_t len);
	/* Zeroed page-aligned host memory on the device's NUMA node, or NULL.  Not for the data
	 * path.  [any] */
	void *(*alloc)(const struct mc_host *h, size_t len);
	void (*free)(const struct mc_host *h, void *ptr, size_t len);
	/* A counter of the instance, living as long as it; bump it with mc_counter_add on the
	 * worker.  NULL when there are too many (the plugin goes on without).  [helper] in open */
	uint64_t *(*counter)(const struct mc_host *h, const char *name, const char *doc);

	/* Descriptors and timers of the instance's worker (metadata plugins: the control loop).
	 * watch and rewatch return 0 or -errno.  [worker], and [helper] inside open and close */
	int (*watch)(const struct mc_host *h, struct mc_watch *w);
	int (*rewatch)(const struct mc_host *h, struct mc_watch *w, uint32_t events);
	void (*unwatch)(const struct mc_host *h, struct mc_watch *w);
	void (*timer_set)(const struct mc_host *h, struct mc_timer *t, uint64_t deadline_ns); /* 0: disarm */
	/* Run w->run on the instance's worker soon, never from inside this call.  What was posted
	 * before stop is run before close.  [any] */
	void (*post)(const struct mc_host *h, struct mc_work *w);
	/* Run w->run on a helper thread, then w->done on the worker.  [any] */
	void (*run_blocking)(const struct mc_host *h, struct mc_work *w);

	/* Slice finished: status 0 or -errno, the scope of what broke, bytes done.  Exactly once
	 * for each slice that submit answered with 0, never from inside submit or cancel.  After
	 * it, the slice and both of its ranges are not touched.  [worker] */
	void (*complete)(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			 uint64_t done_len);
	/* The same from any thread.  [any] */
	void (*complete_any)(const struct mc_host *h, struct mc_slice *s, int status, int scope,
			     uint64_t done_len);

	/* Send an opaque handshake message (<= 4 KiB) to the object at the other end of this
	 * peer, in order, over the control channel.  0 or -errno.  [worker] */
	int (*peer_send)(const struct mc_host *h, void *peer, const void *msg, size_t len);
	/* The peer can carry slices (status 0), or cannot be reached (-errno).  caps, if not NULL,
	 * narrow those of open for this peer.  Also later, when a peer that was up broke: the host
	 * then fences it, closes it and opens it anew.  [worker] */
	void (*peer_ready)(const struct mc_host *h, void *peer, int status,
			   const struct mc_transport_caps *caps, const char *why);
	/* submit answered -EAGAIN for this peer; now it has room again.  [worker] */
	void (*peer_writable)(const struct mc_host *h, void *peer);
	/* Nothing of this peer with an epoch <= epoch will touch memory any more, at this end.
	 * Answers `fence`; slices of those epochs were completed before it.  [worker] */
	void (*fenced)(const struct mc_host *h, void *peer, uint32_t epoch);
	/* The device of this instance changed.  [worker] */
	void (*device_event)(const struct mc_host *h, int event, const char *why);
	/* Ask for one more admitted stream to this peer; it arrives through peer_attach, or as
	 * peer_attach with fd -errno.  token comes back at both ends.  [worker] */
	int (*stream_dial)(const struct mc_host *h, void *peer, uint64_t token);
	/* mem_import answered -EINPROGRESS; it is finished now.  [worker] */
	void (*imported)(const struct mc_host *h, void *remote, int status);

	/* Check a range that a peer named, against this engine's own buffers: generation, offset +
	 * len without overflow, access rights.  Fills range (size set by the plugin) and keeps the
	 * buffer from being unregistered until range_put.  0, -ESTALE (generation), -EACCES
	 * (range or rights).  [worker] */
	int (*range_get)(const struct mc_host *h, void *peer, uint64_t generation, uint64_t offset,
			 uint64_t len, uint32_t access, struct mc_range *range);
	void (*range_put)(const struct mc_host *h, struct mc_range *range);
	/* Copy between memory of some kind and host memory, by the kind's own operation.  MC_DONE,
	 * 0 (c->done follows, never from inside this call), -EAGAIN or -errno.  [worker] */
	int (*mem_copy)(const struct mc_host *h, struct mc_copy *c);
	/* Say what kind of memory an address is.  0 or -errno.  [any] */
	int (*mem_identify)(const struct mc_host *h, const void *addr, uint64_t len,
			    struct mc_mem_desc *desc);

	/* Key-value access below mooncake/<cluster>/plugin/<name>/; answers through c->done, never
	 * from inside this call.  0 or -errno (then done is not called).  [worker] */
	int (*kv)(const struct mc_host *h, struct mc_kv_call *c);

	/* For metadata plugins: a watched key changed (kv->value NULL: deleted).  [helper], or
	 * [control] inside a watch or timer callback */
	void (*kv_event)(const struct mc_host *h, void *watch, const struct mc_kv *kv);
	/* For memory plugins: a copy that answered 0 is finished.  [any] */
	void (*copied)(const struct mc_host *h, struct mc_copy *c, int status);

	/* ABI 1.4: as `counter`, for what goes up and down; change it by mc_gauge_add.  [helper] in
	 * open */
	uint64_t *(*gauge)(const struct mc_host *h, const char *name, const char *doc);
	/* ABI 1.4: as `run_blocking`, for what may take long and nobody waits for; ask by
	 * mc_run_lazily.  [any] */
	void (*run_lazily)(const struct mc_host *h, struct mc_work *w);
	/* ABI 1.5: ns until this engine's own lease can have lapsed, counted on our own clock (the one
	 * that also runs while the machine sleeps) from before the last keepalive that succeeded.  0: it
	 * has, or there is none yet; UINT64_MAX: the metadata service has no leases.  Ask by
	 * mc_lease_left.  [any] */
	uint64_t (*lease_left_ns)(const struct mc_host *h);
};

/* What others may believe of us is over when the lease is: who shares memory with others through it
 * asks before each touch.  A host that lacks the service has no leases.  [any] */
static inline uint64_t mc_lease_left(const struct mc_host *h)
{
	if (h->size < offsetof(struct mc_host, lease_left_ns) + sizeof h->lease_left_ns || !h->lease_left_ns)
		return UINT64_MAX;
	return h->lease_left_ns(h);
}

/* Run w->run on a helper thread when nothing else waits for one, and one such work at a time, then
 * w->done on the worker; for clearing up that may take seconds.  A host that lacks the service runs
 * it like any other.  [any] */
static inline void mc_run_lazily(const struct mc_host *h, struct mc_work *w)
{
	if (h->size < offsetof(struct mc_host, run_lazily) + sizeof h->run_lazily || !h->run_lazily)
		h->run_blocking(h, w);
	else
		h->run_lazily(h, w);
}

/* Ask for a gauge; NULL: this host has none, or too many.  [helper] in open */
static inline uint64_t *mc_gauge_new(const struct mc_host *h, const char *name, const char *doc)
{
	if (h->size < offsetof(struct mc_host, gauge) + sizeof h->gauge || !h->gauge)
		return NULL;
	return h->gauge(h, name, doc);
}

/* [any] */
static inline void mc_gauge_add(uint64_t *gauge, int64_t n)
{
	if (gauge) {
#if defined(__GNUC__)
		__atomic_fetch_add(gauge, (uint64_t)n, __ATOMIC_RELAXED);
#else
		*gauge += (uint64_t)n;
#endif
	}
}

/* Bump a counter from the one thread that owns it; readers may look at any time.  [worker] */
static inline void mc_counter_add(uint64_t *counter, uint64_t n)
{
	if (counter) {
#if defined(__GNUC__)
		__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
#else
		*counter += n;
#endif
	}
}

/* Metadata: requests may go through the proxies that the environment names. */
#define MC_OPEN_PROXY (1u << 0)

/* What open is told about the instance, whatever the plugin's kind. */
struct mc_open_args {
	size_t size;
	const char *device;             /* transport: device; metadata: URL; memory: NULL */
	const char *engine;             /* name of this engine's segment */
	uint64_t generation;            /* of this engine */
	const struct mc_value *options; /* in the order of desc->options; borrowed during open */
	uint32_t lane, nr_lanes;        /* transport: this instance's lane of its device */
	void *lane0;                    /* transport: private area of lane 0; NULL in lane 0 itself */
	uint64_t peer_timeout_ns;       /* the bound after which a silent peer is gone (P6) */
	uint64_t deadline_ns;           /* of open itself */
	/* ABI 1.2. */
	uint32_t flags;                 /* MC_OPEN_* */
	uint32_t reserved;
};

#ifdef __cplusplus
}
#endif
#endif
