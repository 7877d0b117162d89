package sandbox

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// PlanOffline returns the policy of a verb that works on cfg.State, the state of a TPM that is
// off, after the verb has opened and locked the state and read keys, archives and
// passphrases. The verb decodes the state, which may be hostile, loads it into libtpms, and
// changes it if write is true. out is an open output file, which the verb removes if it
// fails; "" for none.
//
// PlanOffline opens no file, but reads the owner of the state.
func PlanOffline(cfg *config.Config, write bool, out string) Policy {
	p := newPolicy(cfg, descriptorCalls, runtimeCalls, portabilityCalls)
	p.Rights = readOthers
	dir, inDirectory := cfg.State.Location.Dir()
	if write {
		p.Rights = giveOthers
	}
	switch {
	case inDirectory && write:
		p.Groups = append(p.Groups, dirCalls, owned(dir))
		p.allowFile(dir, wholeDir, "the state")
	case inDirectory:
		p.Groups = append(p.Groups, lockCalls)
		p.allowFile(dir, readFile|readDir, "the state")
	case cfg.State.Location.Kind == nv.Cluster:
		p.Groups = append(p.Groups, clientCalls, clusterCalls)
	case write: // the file is open already
		p.Groups = append(p.Groups, fileCalls)
	}
	if marks := cfg.Host.Rollback.Marks; write && marks != "" && unix.Access(marks, unix.W_OK|unix.X_OK) == nil {
		p.allowFile(marks, readFile, "remembers the newest state of the TPM")
	}
	p.allowFile(taskDir, readFile|readDir, threadsReason)
	if out != "" {
		p.Rights |= writeOthers
		p.allowRemoval(out, "removes an incomplete output file", nil)
	}
	return p
}

// owned returns the call that gives new state to the owner and group of its directory only.
func owned(dir string) []Call {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return nil
	}
	return []Call{{"fchown", "gives new state to the owner of its directory", []Check{masked(1, word, uint64(st.Uid)), masked(2, word, uint64(st.Gid))}}}
}
