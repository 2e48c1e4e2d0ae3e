/* The reserve: a file beside the database whose blocks a collection gives free at its start, so
 * that rows can be deleted when the disk is full (upstream's gc-reserved-space). */
#pragma once

struct core;

void reserve_make(const struct core *core);
void reserve_drop(const struct core *core);
