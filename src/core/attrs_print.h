/* See attrs_print.c. */
#pragma once

#include <jansson.h>

#include "base/buf.h"

/* 0, or the error of the buffer. */
int attrs_put_json(struct buf *b, const json_t *v);
/* One declare line per attribute that the shell can hold. */
int attrs_put_shell(struct buf *b, const json_t *top);
