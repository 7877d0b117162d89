package emul

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// advice is what a person can do about an error that keeps the TPM off. The
// first that fits is given.
var advice = []struct {
	err  error
	text string
}{
	{ErrReplaced, "start this process again: its sandbox lets it use only what was there at the start"},
	{errMissing, "mount the file system of the state, or, for a new TPM, stop the service and start it"},
	{nv.ErrLocked, "stop the other process that uses this state"},
	{seal.ErrMAC, "check that --key names the key that the state was written with; if it does, restore the file from a backup"},
	{seal.ErrKeySize, "check the mode of --key"},
	{seal.ErrNoKey, "give the key that the state was written with, --key"},
	{seal.ErrVersion1, "if the file is known to be this TPM's own, convert it once with swtpm state rekey --accept-version-1"},
	{seal.ErrVersion, "use a newer version of this program"},
	{seal.ErrChecksum, "restore the file from a backup"},
	{seal.ErrContent, "if a key is missing or one too many, correct --key, else restore the file from a backup"},
	{seal.ErrLength, "restore the file from a backup"},
	{seal.ErrHeader, "restore the file from a backup"},
	{errProfile, "see swtpm socket --tpm2 --print-profiles"},
	{errNotMade, "see swtpm socket --tpm2 --print-profiles"},
	{errNotNew, "leave out --profile, or remove the state for a new TPM"},
	{errNotYet, "make it with swtpm-setup and the name of the profile, whose [manufacture] asks for that; if swtpm-manufacture@.service was to make it, its status says why it did not"},
	{errIncomplete, "restore the missing file from a backup, or remove what is left for a new TPM"},
	{payload.ErrDamaged, "restore the file from a backup"},
	{nv.ErrDamaged, "restore the file from a backup"},
	{safefile.ErrNoLocks, "the file system has no locks: set lock=false in --tpmstate, or [tpmstate] lock = false in the profile, and make sure that no other process uses this state"},
	{safefile.ErrNoSync, "the file system has no fsync: set durability=relaxed in --tpmstate, or [tpmstate] durability = \"relaxed\" in the profile; a power cut may then lose what the TPM has acknowledged"},
	{safefile.ErrLinks, "replace the file with a copy of its own: cp -p FILE FILE.new && mv FILE.new FILE"},
	{safefile.ErrOwner, "correct the owner of the file with chown, or run the TPM as the owner of the file; NFS with root_squash changes the owner of root's files, there make that user the owner of the directory"},
	{safefile.ErrMode, "the file system keeps no modes: leave out mode= of --tpmstate, or [tpmstate] mode of the profile"},
	{fs.ErrPermission, "check the owner and the mode of the directory and the files in it"},
	{fs.ErrNotExist, "create the directory, or correct --tpmstate"},
	{syscall.ENOTDIR, "name the directory with --tpmstate dir=; a state in one file is backend-uri=file://"},
	{syscall.ENOSPC, "make room on that file system"},
	{syscall.EDQUOT, "give the user more room on that file system"},
	{syscall.EROFS, "mount it writable, in a unit add ReadWritePaths=, or correct --tpmstate"},
	{syscall.EIO, "check the disk or the file server; the kernel's log says more (dmesg)"},
	{syscall.ESTALE, "the file server has replaced the directory: mount it again"},
	{syscall.EMFILE, "let the process open more files, in a unit with LimitNOFILE="},
	{syscall.ENFILE, "let this machine open more files, with sysctl fs.file-max"},
	{syscall.EFBIG, "let the process write larger files (ulimit -f, in a unit LimitFSIZE=)"},
	{syscall.ENAMETOOLONG, "choose a shorter path for the state"},
	{syscall.ELOOP, "name the file or directory itself, not a link to it"},
	{errStart, "restore the state from a backup, or use the libtpms that wrote it"},
}

// explain puts what failed, where, why and what to do into one line.
func (t *TPM) explain(err error) string {
	where := t.opt.Where
	if where == "" {
		where = "nowhere"
	}
	s := fmt.Sprintf("TPM %s with its state in %s: %v", t.opt.Version, where, err)
	if a := Advice(err); a != "" {
		s += "; " + a
	}
	return s
}

// Advice is what a person can do about an error of Init, "" if nothing is known.
func Advice(err error) string {
	if e, ok := errors.AsType[*tooNewError](err); ok {
		return "use " + e.needs
	}
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return a.text
		}
	}
	return ""
}

// tooNewError is an error of libtpms with a state that it is too old for. Its text is
// that of the error; Advice adds what is needed.
type tooNewError struct {
	error
	needs string
}

// Unwrap returns the error of libtpms.
func (e *tooNewError) Unwrap() error { return e.error }

// blame returns err, which libtpms gave for the permanent state p, as a *tooNewError if
// libtpms is too old for p.
func (t *TPM) blame(err error, p []byte) error {
	if err == nil || len(p) == 0 {
		return err
	}
	if needs := payload.Needs(t.opt.Version, p, t.opt.Library); needs != "" {
		return &tooNewError{err, needs}
	}
	return err
}
