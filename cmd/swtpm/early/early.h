// See early.c.
#pragma once
#include <stdbool.h>

// Descriptors that a daemon has from its launcher: a pipe, into which it writes a byte when
// it is ready, and /dev/null. -1 without a launcher.
extern int early_ready, early_null;

// early_daemon reports whether a classic command line asks for a daemon. argv[0] names the
// interface.
bool early_daemon(int argc, char **argv);

// See limits.c and calls.c.
void early_limits(void);
void early_calls(void);
int early_forbidden(int why);
void early_serve(void);

// early_fail ends a start that cannot succeed, after its message. See fail.c.
void early_remember(void);
_Noreturn void early_fail(void);

// The remedy for a system call that is refused.
#define ALLOW_CALL "allow it in the filter of the service or container: SystemCallFilter=, or the seccomp profile"

// early_event creates an eventfd(2). early_catch makes a signal increment it.
int early_event(void);
int early_catch(int sig, int event);
