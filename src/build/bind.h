/* Making places in the builder's root and putting the host's files there. The working directory is the
 * new root, and no name below it is trusted: a configured path may lie in another one that earlier
 * builds could write to, or that others write to right now. */
#pragma once

#include <stdbool.h>

#include "build/supervisor.h"

/* "/a/b" -> "a/b"; "" for "/". */
const char *bind_rel(const char *path);
/* Is `path` the directory `dir` or something in it? Both without symlinks. */
bool bind_lies_in(const char *path, const char *dir);
/* Makes the directory `path`, and those above it. 0 or -errno. */
int bind_make_dirs(const char *path);
/* Shows `source` at `target`, both absolute or relative; a symlink is recreated. The mount gives no
 * privilege, and no device but where devices are asked for; it has the attributes `more` besides. */
int bind_path(const struct build *b, const char *source, const char *target, bool optional,
	      uint64_t more, struct err *e);
