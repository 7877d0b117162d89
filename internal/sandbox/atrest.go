package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// AtRest returns what a verb needs that works on the state of a TPM which is off,
// cfg.State, once that is open and locked, and all is read that has to do with it:
// keys, archives, passphrases. The verb decodes the state, which may be hostile,
// starts libtpms with it, tells what there is, and changes it if write is true. out
// is a file that it has open, and removes if it fails; "" if there is none.
//
// It opens nothing, but looks whom the state belongs to.
func AtRest(cfg *config.Config, write bool, out string) Policy {
	p := newPolicy(cfg, slices.Concat(ofFiles, ofRuntime, ofOthers))
	p.Rights = readOthers
	dir, inDirectory := cfg.State.Location.Dir()
	if write {
		p.Rights = giveOthers
	}
	switch {
	case inDirectory && write:
		p.Calls = slices.Concat(p.Calls, inDir, owned(dir))
		p.place(dir, wholeDir, "the state")
	case inDirectory:
		p.Calls = append(p.Calls, locked)
		p.place(dir, readFile|readDir, "the state")
	case write: // a file is open, and not opened again
		p.Calls = append(p.Calls, inFile...)
	}
	p.place(taskDir, readFile|readDir, whyThreads)
	if out != "" {
		p.Rights |= writeOthers
		p.mayRemove(out, "the file that was begun goes", nil)
	}
	return p
}

// owned is what gives new state to the owner of its directory, and to nobody else.
func owned(dir string) []Call {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return nil
	}
	return []Call{{"fchown", "new state belongs to the owner of its directory", []Check{masked(1, word, uint64(st.Uid)), masked(2, word, uint64(st.Gid))}}}
}
