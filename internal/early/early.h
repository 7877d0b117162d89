// See early.c.
#pragma once
#include <stdbool.h>

// What the launcher of a daemon has left to it: the end of a pipe that takes the byte
// "ready", and /dev/null. -1 where there is no launcher.
extern int early_ready, early_null;

// early_daemon reports whether a classic command line asks for a daemon. argv[0] is
// the word of its interface.
bool early_daemon(int argc, char **argv);

// See limits.c and threads.c.
void early_limits(void);
int early_refused(int tries);
void early_serve(void);

// early_event makes an eventfd(2), early_catch has a signal counted there.
int early_event(void);
int early_catch(int sig, int event);
