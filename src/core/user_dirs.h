/* Directories that clients up to 2.13 expect to find made for them:
 * <state>/profiles/per-user/<user> and <state>/gcroots/per-user/<user>. */
#pragma once

struct core;
struct peer;

/* Makes those that are missing. The daemon cannot give a directory away, so the user gets an entry
 * in its access list instead; nobody but the daemon can make names in the directory above, so
 * nobody can plant another's. What another account may write to is not this user's, whatever its
 * name: it is set aside. Failure costs old clients their default profile, and is logged. */
void user_dirs_make(struct core *core, const struct peer *peer);
