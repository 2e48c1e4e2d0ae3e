/* The clock that nobody can set: microseconds, for measuring and for timers. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}
