/* Sizes as upstream prints them: "1.5 KiB". */
#pragma once

#include <stdint.h>

void size_print(int64_t bytes, char ret[static 32]);
