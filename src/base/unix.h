/* Clients of unix sockets. Linked by the core and the `airplant` command. */
#pragma once

/* Connects a close-on-exec socket of `type` (SOCK_STREAM, SOCK_SEQPACKET; SOCK_NONBLOCK may be or'ed in)
 * to what listens at `path`. The fd; -ENAMETOOLONG for a path longer than sun_path (107 bytes); else the
 * negative errno of socket(2) or connect(2): -ENOENT and -ECONNREFUSED when nobody is there, -EAGAIN when
 * a non-blocking one meets a full queue. */
int unix_connect(const char *path, int type);
