/* The core's event loop: epoll, timers, and work put off to the end of a round. One thread. */
#pragma once

#include <stdint.h>

struct loop;
struct loop_fd;
struct loop_timer;

struct loop *loop_new(void);
void loop_free(struct loop *l);

/* events: EPOLLIN, EPOLLOUT …; errors and hang-ups are always reported. The fd stays the caller's;
 * remove it before closing it. Removing (also from inside any callback) is safe: no callback of
 * that entry runs afterwards. 0 or -errno. */
int loop_add(struct loop *l, int fd, uint32_t events, void (*fn)(void *ctx, uint32_t events),
	     void *ctx, struct loop_fd **ret);
int loop_modify(struct loop_fd *f, uint32_t events);
void loop_remove(struct loop_fd *f); /* NULL is fine */

/* Once, `usec` microseconds from now (CLOCK_MONOTONIC). The callback's timer is freed after it. */
int loop_timer(struct loop *l, uint64_t usec, void (*fn)(void *ctx), void *ctx,
	       struct loop_timer **ret);
void loop_timer_cancel(struct loop_timer *t); /* NULL is fine */

/* Runs `fn` once when all events of this round are handled (group commit lives on this). */
int loop_defer(struct loop *l, void (*fn)(void *ctx), void *ctx);

int loop_run(struct loop *l); /* until loop_quit; 0 or -errno */
void loop_quit(struct loop *l);
