package daemon

import "golang.org/x/sys/unix"

// launcher is the parent process, which waits until its child, a daemon, is ready.
type launcher struct {
	pipe int // takes the byte "ready"
	null int // /dev/null, which may not be reachable later
}

// Launched records that this process is a daemon whose launcher waits for a byte from pipe.
// null is a descriptor of /dev/null. The Notifier owns both; Ready closes them.
func (n *Notifier) Launched(pipe, null int) { n.launcher = &launcher{pipe, null} }

// release ends the launcher and redirects the daemon's stdout and stderr to /dev/null, so
// that a reader sees their end.
func (l *launcher) release() {
	unix.Dup3(l.null, unix.Stdout, 0)
	unix.Dup3(l.null, unix.Stderr, 0)
	unix.Write(l.pipe, []byte{1})
	unix.Close(l.pipe)
	unix.Close(l.null)
}
