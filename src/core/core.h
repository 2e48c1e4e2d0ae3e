/* What the rooms of the core share: where things lie, the settings, and the one writer of the
 * store. Requests flow one way: listen -> sessions -> (add | roots | goals) -> place -> db. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "conf/conf.h"
#include "core/loop.h"
#include "store/db.h"

struct spool;
struct trash;
struct place;
struct goals;
struct sessions;
struct listener;
struct durable;
struct jail;
struct keyring;
struct cgroups;
struct gc;
struct beside;
struct gc_auto;
struct used;
struct optimiser;
struct roots_finder;

/* Which directories the open store is: compared at each accept (store_open.c). */
struct store_identity {
	dev_t dev[3];
	ino_t ino[3];
};

struct core {
	struct loop *loop;
	struct settings settings;
	/* Absolute paths. */
	char *store_dir; /* NIX_STORE_DIR, logical and real */
	char *state_dir; /* NIX_STATE_DIR */
	char *log_dir;	 /* NIX_LOG_DIR */
	char *conf_dir;	 /* NIX_CONF_DIR */
	char *socket_path;
	char *libexec_dir; /* where airplant-session and airplant-build are */
	uid_t uid;
	gid_t gid;
	/* The store that is open now. `generation` rises when the directories under the daemon were
	 * deleted and made anew (store_open.c); what was learnt from an older one is void. */
	uint64_t generation;
	int lock_fd;	    /* held: nobody else serves this state directory */
	bool owns_store;    /* store_dir itself is the daemon's */
	bool served_others; /* see tracer_note_client */
	int store_fd;	    /* O_PATH-free directory fd of store_dir */
	struct db *db;	    /* the writer */
	struct spool *spool;
	struct trash *trash; /* opened and closed with the spool */
	struct place *place;
	struct goals *goals;
	struct sessions *sessions;
	struct listener *listener;
	struct durable *durable;
	struct jail *jail;
	struct gc *gc;
	struct beside *beside; /* opened and closed with the store */
	struct used *used; /* NULL: nothing is noted */
	struct gc_auto *gc_auto;
	struct optimiser *optimiser;
	struct roots_finder *finder; /* roots.c */
	struct keyring *keyring;
	struct cgroups *cgroups; /* NULL: builds have none of their own */
	struct store_identity identity;
};
