package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// library looks whether the loaded libtpms has the TPM's version.
func (x *exam) library() {
	x.engine.Lock()
	defer x.engine.Unlock()
	if err := x.engine.Choose(x.cfg.TPM); err != nil {
		x.noState = true
		x.add(Error, "libtpms "+x.engine.Version, "install one that has it, or choose the other version", "has no TPM %s: %v", x.cfg.TPM, err)
	}
}

// blobs are the parts that the state of this TPM may have.
func (x *exam) blobs() []tpm.Blob {
	if x.cfg.TPM == tpm.V12 {
		return []tpm.Blob{tpm.Permanent, tpm.Volatile, tpm.Savestate}
	}
	return []tpm.Blob{tpm.Permanent, tpm.Volatile}
}

// prefix is what the names of the state's items begin with.
func (x *exam) prefix() string { return x.cfg.TPM.FilePrefix() }

// open opens the state to look at it.
func (x *exam) open(version tpm.Version, lock bool, warn func(format string, args ...any)) (nv.Backend, error) {
	s := x.cfg.State
	o := s.Storage()
	o.Lock, o.Prefix, o.DryRun, o.Warn = lock, version.FilePrefix(), true, warn
	return backend.Open(s.Location, o)
}

// algorithms reads the algorithm profile, unless it comes through a descriptor, which
// can be read only once.
func (x *exam) algorithms() {
	p := x.cfg.Profile
	if x.cfg.Manufacture.Given { // swtpm-setup reads it
		return
	}
	switch p.Source {
	case config.NoProfile:
		return
	case config.ProfileFD:
		if x.descriptor(p.FD) {
			x.add(Note, fmt.Sprintf("descriptor %d", p.FD), "", "the algorithm profile comes through something that is left alone, and is not looked at")
		}
		return
	}
	var err error
	if x.profile, err = x.engine.Profile(x.cfg); err == nil {
		return
	}
	where, what := "", err.Error()
	var errno unix.Errno
	if p.Source == config.ProfileFile {
		if where = p.Text; errors.As(err, &errno) {
			what = "cannot be read: " + reason(where, errno)
		}
	}
	x.add(Error, where, remedy(err), "%s", what)
}

// lock looks who has the lock of the state.
func (x *exam) lock() {
	if x.noState || x.emptyState || !x.cfg.State.Lock {
		return
	}
	b, err := x.open(x.cfg.TPM, true, nil)
	if err != nil {
		return // state tells
	}
	defer b.Close()
	path := x.cfg.State.Location.Path
	d, tells := b.(nv.HolderBackend)
	if !tells {
		if err := b.Lock(); err != nil {
			n := x.inUse(path)
			x.complete(n, func() string { return x.holder(path) })
		}
		return
	}
	h, err := d.Holder()
	file := filepath.Join(path, ".lock")
	switch {
	case errors.Is(err, safefile.ErrNoLocks):
		x.add(Error, path, emul.Advice(err), "%v", err)
	case err != nil:
		x.add(Error, file, "remove it, or correct its owner and mode; nothing is ever in it", "cannot be locked: %s", reasonOf(file, err))
	case h.Held:
		n := x.inUse(path)
		x.complete(n, func() string {
			if h.PID > 0 {
				return x.named(h.PID)
			}
			return x.holder(file)
		})
	}
}

// inUse adds that the state is, and returns the number of the finding, which wants
// a name behind it.
func (x *exam) inUse(path string) int {
	if x.cfg.Migration.Incoming {
		return x.add(Note, path, "", "a guest is to come with its state, which until then is in use by ")
	}
	return x.add(Error, path, "stop it, or wait for its end", "the state is in use by ")
}

// reasonOf is reason for an error with more to say than a system call's.
func reasonOf(path string, err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) && (errno == unix.EACCES || errno == unix.EROFS) {
		return reason(path, errno)
	}
	return err.Error()
}

// state looks at each part of the state: that it can be read and is a plain file,
// that the key is the right one, that it is whole.
func (x *exam) state() {
	if x.noState || x.emptyState {
		return
	}
	b, err := x.open(x.cfg.TPM, false, func(format string, args ...any) { x.add(Warning, "", "", format, args...) })
	if err != nil {
		x.noState = true
		x.add(Error, x.cfg.State.Location.String(), emul.Advice(err), "%v", err)
		return
	}
	defer b.Close()
	if err := b.Lock(); err != nil { // takes nothing, but sees what a start would finish first
		x.add(Error, x.cfg.State.Location.String(), emul.Advice(err), "%v", err)
		return
	}
	there := map[tpm.Blob]bool{}
	for _, blob := range x.blobs() {
		there[blob] = x.part(b, blob)
	}
	x.leftovers(b)
	if there[tpm.Permanent] || x.failed("state") {
		return
	}
	x.emptyState = true
	for _, blob := range x.blobs() {
		if there[blob] {
			x.emptyState = false
			x.add(Error, x.at(x.prefix()+blob.Name()), "restore the missing file from a backup, or remove what is left for a new TPM",
				"is there, but %s is missing: this is what is left of a TPM", x.prefix()+nv.Permanent)
		}
	}
	if x.emptyState {
		x.newTPM()
	}
}

// leftovers tells of files that were left by a process which died.
func (x *exam) leftovers(b nv.Backend) {
	l, ok := b.(nv.ListBackend)
	if !ok {
		return
	}
	entries, err := l.List()
	if err != nil {
		return
	}
	for _, e := range entries {
		switch e.Role {
		case nv.RoleTemporary:
			x.add(Note, x.at(e.Name), "", "left over by a write that was cut short; it is no state")
		case nv.RoleUnfinished:
			x.add(Note, x.at(e.Name), "", "a change of several files was cut short; the start finishes it first")
		}
	}
}

// newTPM tells that there is no state.
func (x *exam) newTPM() {
	other := map[tpm.Version]tpm.Version{tpm.V12: tpm.V20, tpm.V20: tpm.V12}[x.cfg.TPM]
	if b, err := x.open(other, false, nil); err == nil {
		defer b.Close()
		blob, err := b.Load(other.FilePrefix() + nv.Permanent)
		clear(blob)
		if err == nil {
			x.add(Warning, x.cfg.State.Location.String(), fmt.Sprintf("if that is the TPM you mean, set tpm = %q, or %s --tpm2", other,
				map[tpm.Version]string{tpm.V12: "leave out", tpm.V20: "give"}[other]),
				"there is a TPM %s, and none of version %s: a new one will be made beside it", other, x.cfg.TPM)
			return
		}
	}
	x.add(Note, x.cfg.State.Location.String(), "if there should be a TPM, restore its state", "there is no state; a new TPM %s will be made", x.cfg.TPM)
}

// part looks at one part of the state and tells whether it is there.
func (x *exam) part(b nv.Backend, blob tpm.Blob) bool {
	name := x.prefix() + blob.Name()
	raw, err := b.Load(name)
	defer clear(raw)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = x.content(blob, raw)
	}
	if err == nil {
		return true
	}
	advice := emul.Advice(err)
	if blob != tpm.Permanent {
		advice = "restore it from a backup, or remove it to start the TPM without it, as after a loss of power"
	} else if better := x.backup(b); better != "" {
		advice = better
	}
	what := err.Error()
	var errno unix.Errno
	if errors.As(err, &errno) {
		what = "cannot be used: " + reasonOf(x.at(name), err)
		advice = remedy(errno)
	} else if why, how := x.keyTrouble(raw, err); why != "" {
		what, advice = why, how
	}
	x.bad = append(x.bad, x.add(Error, x.at(name), advice, "%s", what))
	return true
}

// content proves the sealed part of a state as a start does.
func (x *exam) content(blob tpm.Blob, raw []byte) error {
	if !x.keysKnown {
		_, err := seal.Inspect(raw)
		return err
	}
	p, err := seal.Open(raw, x.keys.File)
	defer clear(p)
	if err != nil {
		return err
	}
	return payload.Check(x.cfg.TPM, blob, p)
}

// keyTrouble says what err has to do with the key, and what to do; "" if nothing.
func (x *exam) keyTrouble(raw []byte, err error) (what, advice string) {
	i, bad := seal.Inspect(raw)
	if bad != nil || !x.keysKnown {
		return "", ""
	}
	encrypted := i.Flags&seal.FlagEncrypted != 0
	bits := 128
	if i.Flags&seal.FlagKey256 != 0 {
		bits = 256
	}
	switch k := x.keys.File; {
	case errors.Is(err, seal.ErrVersion1):
		return "encrypted, in a container of version 1, which has no MAC", "if the file is known to be this TPM's own, convert it once with swtpm state rekey --accept-version-1"
	case encrypted && k == nil:
		return fmt.Sprintf("encrypted with a key of %d bits, and no key is configured", bits), "give the key that it was written with: [key] or --key"
	case !encrypted && k != nil && i.Version > 1:
		return "not encrypted, and a key is configured", "take the key away, or encrypt the state with swtpm state rekey"
	case errors.Is(err, seal.ErrKeySize):
		return fmt.Sprintf("encrypted with a key of %d bits, and the one that is configured has %d", bits, k.Bits()),
			fmt.Sprintf("give the right key, with mode = \"aes-%d-cbc\"", bits)
	case errors.Is(err, seal.ErrMAC):
		return "the key is not the one that it was written with, or the file is damaged", "give the right key; if it is the right one, restore the file from a backup"
	}
	return "", ""
}

// backup says what the previous permanent state is good for; "" if there is none.
func (x *exam) backup(b nv.Backend) string {
	bak := x.prefix() + nv.Backup
	raw, err := b.Load(bak)
	defer clear(raw)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err == nil && x.content(tpm.Permanent, raw) == nil:
		return fmt.Sprintf("the previous state, %s, is good: set [tpmstate] backup = true to start from it, or go back to it with swtpm state rollback", bak)
	}
	return fmt.Sprintf("the previous state, %s, is bad too: restore one of them from a backup", bak)
}
