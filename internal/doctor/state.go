package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/store"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// library checks that the loaded libtpms supports the TPM's version.
func (x *examination) library() {
	x.engine.Lock()
	defer x.engine.Unlock()
	if err := x.engine.Choose(x.cfg.TPM); err != nil {
		x.noState = true
		x.add(Error, "libtpms "+x.engine.Version, "install a libtpms with it, or choose the other version", "does not support TPM %s: %v", x.cfg.TPM, err)
	}
}

// blobs returns the parts that the state of this TPM may have.
func (x *examination) blobs() []tpm.Blob {
	if x.cfg.TPM == tpm.V12 {
		return []tpm.Blob{tpm.Permanent, tpm.Volatile, tpm.Savestate}
	}
	return []tpm.Blob{tpm.Permanent, tpm.Volatile}
}

// prefix returns the prefix of the names of the state's items.
func (x *examination) prefix() string { return x.cfg.TPM.FilePrefix() }

// open opens the state without changing it.
func (x *examination) open(version tpm.Version, lock bool, warn func(format string, args ...any)) (nv.Backend, error) {
	s := x.cfg.State
	o := s.Storage()
	o.Lock, o.Prefix, o.DryRun, o.Warn = lock, version.FilePrefix(), true, warn
	return backend.Open(s.Location, o)
}

// algorithms reads the algorithm profile, except from a descriptor, which can be read only
// once.
func (x *examination) algorithms() {
	p := x.cfg.Profile
	if x.cfg.Manufacture.Given { // swtpm-setup reads it
		return
	}
	switch p.Source {
	case config.NoProfile:
		return
	case config.ProfileFD:
		if x.descriptor(p.FD) {
			x.add(Note, fmt.Sprintf("descriptor %d", p.FD), "", "algorithm profile not checked: the descriptor can be read only once")
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
	x.add(Error, where, Path(err), "%s", what)
}

// lock checks whether another process holds the lock of the state.
func (x *examination) lock() {
	if x.noState || x.emptyState || !x.cfg.State.Lock {
		return
	}
	b, err := x.open(x.cfg.TPM, true, nil)
	if err != nil {
		return // state reports it
	}
	defer b.Close()
	path := x.cfg.State.Location.Path
	d, ok := b.(nv.HolderBackend)
	if !ok {
		if err := b.Lock(); err != nil {
			n := x.addInUse(path)
			x.complete(n, func() string { return x.holder(path) })
		}
		return
	}
	h, err := d.Holder()
	file := filepath.Join(path, ".lock")
	switch {
	case errors.Is(err, safefile.ErrNoLocks):
		x.add(Error, path, x.settings.State(err), "%v", err)
	case err != nil:
		x.add(Error, file, "remove it, or correct its owner and mode; it is always empty", "cannot be locked: %s", reasonOf(file, err))
	case h.Owner != "":
		level := Error
		if x.cfg.Migration.Incoming {
			level = Note
		}
		x.add(level, x.cfg.State.Location.String(), "stop the TPM there; after a failure of that host wait until its lease expires", "owned by %s", h.Owner)
	case h.Held:
		n := x.addInUse(path)
		x.complete(n, func() string {
			if h.PID > 0 {
				return x.processName(h.PID)
			}
			return x.holder(file)
		})
	}
}

// addInUse adds a finding that the state is in use, and returns its index. The caller appends
// the name of the process.
func (x *examination) addInUse(path string) int {
	if x.cfg.Migration.Incoming {
		return x.add(Note, path, "", "incoming migration: until the guest arrives, the state is in use by ")
	}
	return x.add(Error, path, "stop it, or wait until it ends", "the state is in use by ")
}

// reasonOf explains err as reason does, but only EACCES and EROFS: the text of other errors is more
// detailed than the errno.
func reasonOf(path string, err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) && (errno == unix.EACCES || errno == unix.EROFS) {
		return reason(path, errno)
	}
	return err.Error()
}

// state checks each part of the state: whether it is a regular file that can be read, whether
// the key is right, and whether it is complete.
func (x *examination) state() {
	if x.noState || x.emptyState {
		return
	}
	b, err := x.open(x.cfg.TPM, false, func(format string, args ...any) { x.add(Warning, "", "", format, args...) })
	if err != nil {
		x.noState = true
		x.add(Error, x.cfg.State.Location.String(), x.settings.State(err), "%v", err)
		return
	}
	defer b.Close()
	if err := b.Lock(); err != nil { // a dry run: it reports changes that a start would complete first
		x.add(Error, x.cfg.State.Location.String(), x.settings.State(err), "%v", err)
		return
	}
	found := map[tpm.Blob]bool{}
	for _, blob := range x.blobs() {
		found[blob] = x.part(b, blob)
	}
	x.leftovers(b)
	if found[tpm.Permanent] || x.failed("state") {
		return
	}
	x.emptyState = true
	for _, blob := range x.blobs() {
		if found[blob] {
			x.emptyState = false
			x.add(Error, x.itemName(x.prefix()+blob.Name()), "restore the missing file from a backup, or remove the other files for a new TPM",
				"exists, but %s is missing: the state is incomplete", x.prefix()+nv.Permanent)
		}
	}
	if x.emptyState {
		x.missingState()
	}
}

// leftovers reports files of a process that was killed.
func (x *examination) leftovers(b nv.Backend) {
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
			x.add(Note, x.itemName(e.Name), "", "a temporary file of an interrupted write; not part of the state")
		case nv.RoleUnfinished:
			x.add(Note, x.itemName(e.Name), "", "an interrupted change of several files; the start completes it first")
		}
	}
}

// missingState reports that no state exists.
func (x *examination) missingState() {
	other := map[tpm.Version]tpm.Version{tpm.V12: tpm.V20, tpm.V20: tpm.V12}[x.cfg.TPM]
	if b, err := x.open(other, false, nil); err == nil {
		defer b.Close()
		blob, err := b.Load(other.FilePrefix() + nv.Permanent)
		clear(blob)
		if err == nil {
			x.add(Warning, x.cfg.State.Location.String(), fmt.Sprintf("to use that TPM, set tpm = %q, or %s --tpm2", other,
				map[tpm.Version]string{tpm.V12: "omit", tpm.V20: "add"}[other]),
				"the state is of a TPM %s; a new TPM %s will be created next to it", other, x.cfg.TPM)
			return
		}
	}
	x.add(Note, x.cfg.State.Location.String(), "if a TPM should exist, restore its state", "no state; a new TPM %s will be created", x.cfg.TPM)
}

// part checks one part of the state, and reports whether it exists.
func (x *examination) part(b nv.Backend, blob tpm.Blob) bool {
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
	advice := x.settings.State(err)
	if errors.Is(err, store.ErrDamaged) { // the whole state, which one line reports
		if blob == tpm.Permanent {
			x.bad = append(x.bad, x.add(Error, x.cfg.State.Location.String(), advice, "%v", err))
		}
		return blob == tpm.Permanent
	}
	if blob != tpm.Permanent {
		advice = "restore it from a backup, or remove it to start the TPM as after a power failure"
	} else if better := x.backup(b); better != "" {
		advice = better
	}
	what := err.Error()
	var errno unix.Errno
	if errors.As(err, &errno) {
		what = "cannot be used: " + reasonOf(x.itemName(name), err)
		advice = Path(errno)
	} else if why, how := x.keyProblem(raw, err); why != "" {
		what, advice = why, how
	}
	x.bad = append(x.bad, x.add(Error, x.itemName(name), advice, "%s", what))
	return true
}

// content checks a sealed part of the state in the same way as a start.
func (x *examination) content(blob tpm.Blob, raw []byte) error {
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

// keyProblem returns a description and advice if the key is the cause of err, otherwise "".
func (x *examination) keyProblem(raw []byte, err error) (what, advice string) {
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
		return "encrypted in format version 1, which has no MAC", "if you trust the file, convert it with swtpm state rekey --accept-version-1"
	case encrypted && k == nil:
		return fmt.Sprintf("encrypted with a key of %d bits, but no key is configured", bits), "configure the key: [key] or --key"
	case !encrypted && k != nil && i.Version > 1:
		return "not encrypted, but a key is configured", "remove the key, or encrypt the state with swtpm state rekey"
	case errors.Is(err, seal.ErrKeySize):
		return fmt.Sprintf("encrypted with a key of %d bits, but the configured key has %d bits", bits, k.Bits()),
			fmt.Sprintf("configure the right key, with mode = \"aes-%d-cbc\"", bits)
	case errors.Is(err, seal.ErrMAC):
		return "wrong key, or the file is damaged", "configure the right key; if the key is right, restore the file from a backup"
	}
	return "", ""
}

// backup returns advice about the previous permanent state; "" if none exists.
func (x *examination) backup(b nv.Backend) string {
	bak := x.prefix() + nv.Backup
	raw, err := b.Load(bak)
	defer clear(raw)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err == nil && x.content(tpm.Permanent, raw) == nil:
		return fmt.Sprintf("the previous state, %s, is valid: set [tpmstate] backup = true to start from it, or restore it with swtpm state rollback", bak)
	}
	return fmt.Sprintf("the previous state, %s, is invalid, too: restore one of them from a backup", bak)
}
