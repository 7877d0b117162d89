package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/store"
)

// Remedies returns remedies: what a user can do about an error. The value of the type is the form in
// which the user has configured the TPM, and remedies name settings in this form.
type Remedies uint8

// The forms of settings. The packages that return the errors do not depend on the form.
const (
	CommandLine Remedies = iota // options, such as --key
	Profile                     // keys of a profile, such as [key]
)

// entry is the remedy for an error. A setting is a word in braces; names has its spellings.
type entry struct {
	err  error
	text string
}

// names returns the replacements for the settings in texts.
func (s Remedies) names() *strings.Replacer {
	if s == Profile {
		return strings.NewReplacer("{key}", "[key]", "{profile}", "[profile]", "{mode}", "[tpmstate] mode", "{state}", "[tpmstate]", "{target}", "PROFILE",
			"{dir}", "[tpmstate] dir", "{file}", "[tpmstate] file",
			"{lock=false}", "[tpmstate] lock = false", "{durability=relaxed}", `[tpmstate] durability = "relaxed"`)
	}
	return strings.NewReplacer("{key}", "--key", "{profile}", "--profile", "{mode}", "mode= of --tpmstate", "{state}", "--tpmstate", "{target}", "--tpmstate backend-uri=store://NAME --key file=KEY",
		"{dir}", "--tpmstate dir=", "{file}", "--tpmstate backend-uri=file://",
		"{lock=false}", "--tpmstate lock=false", "{durability=relaxed}", "--tpmstate durability=relaxed")
}

// find returns the remedy of the first entry that fits, "" if none does.
func (s Remedies) find(table []entry, err error) string {
	for _, e := range table {
		if errors.Is(err, e.err) {
			return s.names().Replace(e.text)
		}
	}
	return ""
}

// AppendRemedy returns err with a remedy, which may be "".
func AppendRemedy(err error, text string) error {
	if err == nil || text == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, text)
}

// storeBusy is the remedy for a broker that refuses a connection. A TPM needs one connection.
const storeBusy = "stop programs of this user that are connected to the broker: swtpm list shows the TPMs, ss -xp all connections"

// isBusy reports whether the broker refuses a connection because there are too many.
func isBusy(err error) bool {
	return errors.Is(err, store.ErrUnreachable) && strings.Contains(err.Error(), store.TooManyConnections)
}

// storeQuota is the remedy for a cluster store that is full.
const storeQuota = "compact and defragment the cluster store, or raise its quota, then clear the alarm (etcdctl alarm list, etcdctl alarm disarm)"

// ofState returns the remedies for errors of a stored state and of its start. A variable with errors of other
// packages would be filled at each start.
func ofState() []entry {
	return []entry{
		{emul.ErrReplaced, "start this process again: its sandbox lets it use only what existed at the start"},
		{emul.ErrMissing, "mount the file system of the state, or, for a new TPM, stop the service and start it"},
		{nv.ErrRunning, "stop the other one, or make this one a TPM of its own: swtpm state clone --new-identity"},
		{nv.ErrLocked, "stop the other process that uses this state, which swtpm doctor names"},
		{seal.ErrMAC, "check that {key} names the key that the state was written with; if it does, restore the file from a backup"},
		{seal.ErrNotEncrypted, "leave out {key}, or encrypt the state with swtpm state rekey"},
		{seal.ErrEncrypted, "give the key that the state was written with, {key}"},
		{seal.ErrKeySize, "correct the mode of {key}"},
		{seal.ErrNoKey, "name the key that the state was written with, {key}"},
		{seal.ErrVersion1, "if the file is known to belong to this TPM, convert it once with swtpm state rekey --accept-version-1"},
		{seal.ErrVersion, "use a newer version of this program"},
		{seal.ErrChecksum, "restore the file from a backup"},
		{seal.ErrContent, "restore the file from a backup"},
		{seal.ErrLength, "restore the file from a backup"},
		{seal.ErrHeader, "restore the file from a backup"},
		{emul.ErrProfile, "see swtpm socket --tpm2 --print-profiles"},
		{emul.ErrNotCreated, "see swtpm socket --tpm2 --print-profiles"},
		{emul.ErrNotNew, "leave out {profile}, or remove the state for a new TPM"},
		{emul.ErrNotManufactured, "create it with swtpm-setup and the name of the profile, whose [manufacture] asks for that; if swtpm-manufacture@.service should have created it, see its status"},
		{emul.ErrIncomplete, "restore the missing file from a backup, or remove the other files for a new TPM"},
		{payload.ErrDamaged, "restore the file from a backup"},
		{store.ErrDamaged, "see what can be restored: swtpm state rollback --list {target}"},
		{nv.ErrDamaged, "restore the file from a backup"},
		{safefile.ErrNoLocks, "the file system has no locks: set {lock=false}, and make sure that no other process uses this state"},
		{safefile.ErrNoSync, "the file system has no fsync: set {durability=relaxed}; a power cut may then lose what the TPM has acknowledged"},
		{safefile.ErrLinks, "make the copy with: cp -p FILE FILE.new && mv FILE.new FILE"},
		{safefile.ErrType, "restore the regular file from a backup, or correct {state}"},
		{safefile.ErrOwner, "correct the owner of the file with chown, or run the TPM as the owner of the file; NFS with root_squash changes the owner of root's files, there make that user the owner of the directory"},
		{safefile.ErrMode, "the file system stores no modes: leave out {mode}"},
		{nv.ErrRemoved, "stop the TPM, restore the directory from a backup, and start the TPM: it uses only the directory that existed at its start"},
		{fs.ErrPermission, "check the owner and the mode of the directory and the files in it"},
		{fs.ErrNotExist, "create the directory, or correct {state}"},
		{syscall.ENOTDIR, "name the directory with {dir}; a state in one file is {file}"},
		{store.ErrQuota, storeQuota},
		{syscall.ENOSPC, "free space on that file system"},
		{syscall.EDQUOT, "give the user more space on that file system"},
		{syscall.EROFS, "mount it writable, in a unit add ReadWritePaths=, or correct {state}"},
		{syscall.EIO, "check the disk or the file server; the kernel's log says more (dmesg)"},
		{syscall.ESTALE, "the file server has replaced the directory: mount it again"},
		{syscall.EMFILE, "let the process open more files, in a unit with LimitNOFILE="},
		{syscall.ENFILE, "let this machine open more files, with sysctl fs.file-max"},
		{syscall.EFBIG, "let the process write larger files (ulimit -f, in a unit LimitFSIZE=)"},
		{syscall.ENAMETOOLONG, "choose a shorter path for the state"},
		{syscall.ELOOP, "name the file or directory itself, not a link to it"},
		{syscall.ENOSYS, allowCall},
	}
}

// allowCall is the remedy for a system call that the kernel lacks, or that a filter refuses.
const allowCall = "allow the call in the filter of the service or container: SystemCallFilter=, or the seccomp profile"

// takenOver is the remedy for a running TPM whose state another process has locked.
const takenOver = "if no migration has moved the TPM to that process, stop it; swtpm doctor names it"

// badState is the remedy for a state that the engine has read and rejected.
const badState = "restore the state from a backup, or use the libtpms that wrote it"

// State returns the remedy for an error of a stored state or of its start, "" if none is
// known.
func (s Remedies) State(err error) string {
	if e, ok := errors.AsType[*emul.TooNewError](err); ok {
		return "use " + e.Needs
	}
	if isBusy(err) {
		return storeBusy
	}
	if errors.Is(err, emul.ErrStorage) && errors.Is(err, nv.ErrLocked) {
		return takenOver
	}
	if text := s.find(ofState(), err); text != "" {
		return text
	}
	if _, ok := errors.AsType[syscall.Errno](err); !ok && errors.Is(err, emul.ErrStart) { // a TPM 1.2 stores its state while it starts
		return badState
	}
	return ""
}

// passFD is the remedy for a descriptor that was not passed, or not open in the right way.
const passFD = "let the program that starts this one pass an open descriptor, or name a file"

// ofOutput returns the remedies for a file that is written: the log, the pid file, a recording or an archive.
func ofOutput() []entry {
	return []entry{
		{fs.ErrNotExist, "create its directory, or correct the path"},
		{fs.ErrPermission, "let this user write to it and its directory, or choose another"},
		{syscall.EROFS, "choose a directory that can be written to, or add it to the unit with ReadWritePaths="},
		{syscall.EISDIR, "name a file in it"},
		{syscall.ENOTDIR, "correct the path"},
		{syscall.ENAMETOOLONG, "choose a shorter path"},
		{syscall.ENOSPC, "free space on that file system, or choose another"},
		{syscall.EDQUOT, "give the user more space on that file system, or choose another"},
		{syscall.EFBIG, "let the process write larger files (ulimit -f, in a unit LimitFSIZE=)"},
		{syscall.EIO, "check the disk or the file server; the kernel's log says more (dmesg)"},
		{syscall.EBADF, passFD},
		{syscall.ENOSYS, allowCall},
	}
}

// Output returns the remedy for a file that cannot be opened or written, "" if none is known.
func Output(err error) string { return CommandLine.find(ofOutput(), err) }

// The remedies for an address that cannot be used.
var (
	unixSockets = []entry{
		{syscall.ENOENT, "create the directory of the socket, or correct the path"},
		{syscall.EACCES, "let this user write to the directory of the socket, or choose another"},
		{syscall.EROFS, "choose a directory that can be written to, or add it to the unit with ReadWritePaths="},
		{syscall.EADDRINUSE, "remove the socket that a previous process left, or choose another path"},
		{syscall.ENAMETOOLONG, "choose a shorter path"},
		{syscall.ENOTDIR, "correct the path"},
		{syscall.ENOSPC, "free space on that file system, or choose another"},
		{syscall.EPERM, allowCall},
		{syscall.ENOSYS, allowCall},
	}
	tcpSockets = []entry{
		{syscall.EACCES, "choose a port from 1024 on"},
		{syscall.EADDRINUSE, "stop the process that listens there, or choose another port"},
		{syscall.EAFNOSUPPORT, "give the unit the network with tcp.conf, or take the port from a .socket unit, \"systemd:ctrl\""},
		{syscall.EADDRNOTAVAIL, "correct the address, which this machine does not have"},
		{syscall.EPERM, allowCall},
		{syscall.ENOSYS, allowCall},
	}
)

// Socket returns the remedy for a socket that cannot be opened, "" if none is known.
func Socket(e config.Endpoint, err error) string {
	switch e.Kind {
	case config.Unix:
		return CommandLine.find(unixSockets, err)
	case config.TCP:
		return CommandLine.find(tcpSockets, err)
	default:
		return ""
	}
}

// ofKeys returns the remedies for a key file that cannot be opened.
func ofKeys() []entry {
	return []entry{
		{fs.ErrNotExist, "correct the path, or restore the file"},
		{fs.ErrPermission, "let this user read the file, or, in a unit, pass it with LoadCredential= and [key] credential"},
		{syscall.EBADF, passFD},
	}
}

// ofInput returns the remedies for another file that cannot be read.
func ofInput() []entry {
	return []entry{
		{fs.ErrNotExist, "correct the path"},
		{fs.ErrPermission, "let this user read the file and enter its directory (chown, chmod, setfacl)"},
		{syscall.EISDIR, "name a file in it"},
		{syscall.ENOTDIR, "correct the path"},
		{syscall.EIO, "check the disk or the file server; the kernel's log says more (dmesg)"},
		{syscall.EBADF, passFD},
		{syscall.ENOSYS, allowCall},
	}
}

// Input returns the remedy for a file that cannot be read, "" if none is known.
func Input(err error) string { return CommandLine.find(ofInput(), err) }

// Key returns the remedy for a key file that cannot be opened, "" if none is known.
func Key(err error) string { return CommandLine.find(ofKeys(), err) }

// moreRights is the remedy for a missing permission.
const moreRights = "grant that user access (chown, chmod, setfacl), or choose another location"

// ofPaths returns the remedies for any file or directory.
func ofPaths() []entry {
	return []entry{
		{syscall.EROFS, "mount it writable, or choose another location"},
		{syscall.EACCES, moreRights},
		{syscall.EPERM, moreRights},
		{fs.ErrNotExist, "create it, or correct the path"},
		{syscall.ENOTDIR, "correct the path"},
		{syscall.EISDIR, "correct the path"},
	}
}

// Path returns the remedy for any file or directory, "" if none is known.
func Path(err error) string { return CommandLine.find(ofPaths(), err) }
