/* The log of one build: a plain file that listeners read while it grows, and the copy that stays
 * in <log-dir>/drvs for "nix log" (feature row E13). Linked by the core. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct build_log_files {
	int plain_fd;	   /* read and write; plain text */
	int compressed_fd; /* write; -1 when there is none */
	bool keep;	   /* settings.keep_build_log */
};

#define BUILD_LOG_FILES_INIT ((struct build_log_files){ .plain_fd = -1, .compressed_fd = -1 })

/* Both files have no name yet. `spool_dir` takes a plain log that is not kept. */
int build_log_open(const char *log_dir, const char *spool_dir, const char *drv_base, bool keep,
		   bool compress, struct build_log_files *ret, struct err *e);
/* Gives the kept file its name, in place of an older log. */
int build_log_publish(const struct build_log_files *f, const char *log_dir, const char *drv_base,
		      struct err *e);
/* The log of a build made elsewhere, as plain text; one that is there already stays. `fd` is a
 * regular file that others may still write to: no more than `max` bytes are taken. */
int build_log_import(int fd, uint64_t max, const char *log_dir, const char *drv_base,
		     struct err *e);
void build_log_close(struct build_log_files *f);
/* A fresh read-only fd on the plain log, or -errno. */
int build_log_reader(const struct build_log_files *f);
