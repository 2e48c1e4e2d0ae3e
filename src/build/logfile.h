/* The log of one build: the plain file, its compressed copy, and the last lines for an error. */
#pragma once

#include "base/buf.h"
#include "base/strv.h"

struct logfile;

/* `fd` gets the bytes as they come, `zfd` (may be -1) the same as a bzip2 stream; both stay the
 * caller's. `tail_lines` lines are kept for an error sentence. */
struct logfile *logfile_new(int fd, int zfd, uint64_t tail_lines);
void logfile_free(struct logfile *l);
/* 0 or the first error of writing, which a build survives: its log is short, no more. */
int logfile_write(struct logfile *l, const void *data, size_t len);
/* Ends the last line and the compressed stream. */
int logfile_finish(struct logfile *l);
uint64_t logfile_size(const struct logfile *l); /* bytes taken so far */
/* Appends "\nLast <n> log lines:\n> …\n" when there are any; then 1, else 0, or -errno. */
int logfile_quote(const struct logfile *l, struct buf *b);
