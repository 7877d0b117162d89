package sandbox

import "golang.org/x/sys/unix"

// Class is the decision of the filter about a system call.
type Class int

// The classes. A call that a policy does not name is Refused with ENOSYS, so that libc, OpenSSL
// and Go use another call, as on an older kernel.
const (
	Refused Class = iota
	Allowed
	Fatal
)

func (c Class) String() string {
	switch c {
	case Allowed:
		return "allowed"
	case Fatal:
		return "fatal"
	}
	return "refused"
}

// Class returns the class of a call with these arguments, and the errno of a refused call. The
// tests compare it with the filter. Only Class and tests need the lists of refused and fatal
// calls, which every policy shares; a Policy does not contain them, because each start would
// build them.
func (p *Policy) Class(name string, args [6]uint64) (Class, unix.Errno) {
	return p.classifier()(name, args)
}

// classifier returns Class for many calls.
func (p *Policy) classifier() func(name string, args [6]uint64) (Class, unix.Errno) {
	fatal, refused, allowed := fatal(uint64(unix.Getpid())), refused(), p.Calls()
	return func(name string, args [6]uint64) (Class, unix.Errno) {
		for _, c := range fatal {
			if c.matches(name, args) {
				return Fatal, 0
			}
		}
		for _, r := range refused {
			if r.matches(name, args) {
				return Refused, r.Errno
			}
		}
		for _, c := range allowed {
			if c.matches(name, args) {
				return Allowed, 0
			}
		}
		return Refused, unix.ENOSYS
	}
}

func (c Call) matches(name string, args [6]uint64) bool {
	if c.Name != name {
		return false
	}
	for _, k := range c.Check {
		if (args[k.Arg]&k.Mask == k.Want) == k.Not {
			return false
		}
	}
	return true
}
