package daemon

import "golang.org/x/sys/unix"

// launcher is the process that waits until its child, a daemon, is ready.
type launcher struct {
	pipe int // takes the byte "ready"
	null int // /dev/null, which may be out of reach by then
}

// Launched says that this process is a daemon, whose launcher waits for a byte from
// pipe. null is a descriptor of /dev/null. Ready closes both.
func (n *Notifier) Launched(pipe, null int) { n.launcher = &launcher{pipe, null} }

// release ends the launcher. The daemon's stdout and stderr lead to /dev/null from here
// on, so that a reader sees their end.
func (l *launcher) release() {
	unix.Dup3(l.null, unix.Stdout, 0)
	unix.Dup3(l.null, unix.Stderr, 0)
	unix.Write(l.pipe, []byte{1})
	unix.Close(l.pipe)
	unix.Close(l.null)
}
