/* Tells the service manager how we are (sd_notify's protocol); silent where there is none. */
#pragma once

void notify(const char *state);
