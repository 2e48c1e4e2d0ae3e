/* Safety against power loss without making anyone wait: contents are flushed in the background,
 * and a watermark on disk says up to which registration everything is safe. After an unclean stop
 * in an earlier boot the paths above the watermark are hashed again before they count.
 *
 *   <state>/airplant/watermark:  "1 <boot id> <max row id> <clean|running>\n" */
#pragma once

#include "base/err.h"

struct core;
struct durable;

/* Checks what an unclean stop may have left, then starts to keep the watermark. */
int durable_open(struct core *core, struct durable **ret, struct err *e);
/* Registrations were committed. */
void durable_note(struct durable *d);
/* Flushes and says that all is well (clean shutdown). */
void durable_close(struct durable *d);
/* Forgets it without a word on disk (the store is gone). NULL is fine, also for the others. */
void durable_abandon(struct durable *d);
/* Before a commit, where settings.durable asks for it: flushes now. 0 or -errno. */
int durable_before_commit(struct core *core);
/* For tests: another file than the kernel's to read the boot id from. NULL: the kernel's. */
void durable_set_boot_id_file(const char *path);
