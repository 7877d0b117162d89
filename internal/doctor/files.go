package doctor

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/metrics"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// log looks at the place of the log.
func (x *exam) log() {
	c := x.cfg.Log
	if c.FD >= 0 && !x.descriptor(c.FD) {
		return
	}
	if err := daemon.LookLog(daemon.LogOptions(c)); err != nil {
		x.file(c.File, err)
		return
	}
	if fi, err := os.Lstat(c.File); err == nil && c.Given && fi.Mode().Type() == os.ModeNamedPipe {
		x.add(Warning, c.File, "see that somebody reads it first", "a fifo: the TPM starts only while somebody reads it")
	}
}

// pid looks at the place of the process id.
func (x *exam) pid() {
	c := x.cfg.PID
	if c.File == "" && (c.FD < 0 || !x.descriptor(c.FD)) {
		return
	}
	if err := daemon.LookPID(c.File, c.FD); err != nil {
		x.file(c.File, err)
	}
}

// pcap looks at the place where the traffic is recorded.
func (x *exam) pcap() {
	c := x.cfg.Pcap
	if c.File == "" {
		if c.FD >= 0 && x.descriptor(c.FD) {
			if flags, err := unix.FcntlInt(uintptr(c.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
				x.add(Error, fmt.Sprintf("descriptor %d", c.FD), "open it for writing", "not open for writing")
			}
		}
		return
	}
	if err := daemon.LookFile(c.File); err != nil {
		x.file(c.File, err)
		return
	}
	var st unix.Stat_t
	if unix.Stat(c.File, &st) == nil && st.Uid != uint32(x.uid) && !dir.HasCap(unix.CAP_FOWNER) {
		x.add(Error, describe(c.File), "remove it, or choose another file", "user %d may not set its permissions", x.uid)
	}
}

// metrics looks at where the numbers are told.
func (x *exam) metrics() {
	c := x.cfg.Metrics
	if c.File == "" {
		x.end(c.Listen)
		return
	}
	if err := metrics.Look(c.File); err != nil {
		x.file(c.File, err)
	}
}

// file adds what keeps a file from being written.
func (x *exam) file(path string, err error) {
	var errno unix.Errno
	if path != "" && errors.As(err, &errno) {
		x.add(Error, path, remedy(err), "cannot be written: %s", reason(path, errno))
		return
	}
	x.add(Error, path, remedy(err), "%v", err)
}

// fileKey and migrationKey read the keys as a start would, but for a pipe, which
// can be read only once.
func (x *exam) fileKey() {
	x.keysKnown = true
	x.keys.File = x.key(x.cfg.Key)
}

func (x *exam) migrationKey() {
	known := x.keysKnown
	x.keys.Migration = x.key(x.cfg.MigrationKey)
	x.keysKnown = known // the state needs only the first
}

// key reads one key; nil if there is none or it is not to be had.
func (x *exam) key(k config.Key) *seal.Key {
	if k.Source == config.NoKey {
		return nil
	}
	src := seal.Source{
		Path: k.Path, FD: k.FD, Passphrase: k.Source == config.PassFile || k.Source == config.PassFD,
		Hex: k.Hex, KDF: k.KDF, Bits: k.Bits,
	}
	where := k.Path
	switch {
	case k.Source == config.KeyCredential:
		where = "credential " + k.Name
		path, err := daemon.Credential(k.Name)
		if err != nil {
			x.keysKnown = false
			x.add(Note, where, "", "the key comes from systemd when the unit starts; it, and the state, are not looked at")
			return nil
		}
		src.Path = path
	case k.Path == "":
		where = fmt.Sprintf("descriptor %d", k.FD)
		back, ok := x.keyDescriptor(&src)
		if !ok {
			x.keysKnown = false
			return nil
		}
		defer back()
	}
	key, err := seal.ReadKey(src)
	if err != nil {
		x.keysKnown = false
		var errno unix.Errno
		if errors.As(err, &errno) && k.Path != "" {
			x.add(Error, where, remedy(err), "the key cannot be read: %s", reason(k.Path, errno))
		} else {
			x.add(Error, where, "give the key in the form that the option says", "%v", err)
		}
		return nil
	}
	for _, w := range key.Warnings() {
		x.add(Warning, where, "", "%s", w)
	}
	if k.Path != "" {
		x.keyFile(k)
	}
	return key
}

// keyDescriptor prepares src to be read from a descriptor without a trace: the
// position is put back. ok is false if that cannot be.
func (x *exam) keyDescriptor(src *seal.Source) (back func(), ok bool) {
	fd := src.FD
	if !x.descriptor(fd) {
		return nil, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		x.add(Note, fmt.Sprintf("descriptor %d", fd), "", "the key comes through something that can be read only once; it, and the state, are not looked at")
		return nil, false
	}
	at, err := unix.Seek(fd, 0, io.SeekCurrent)
	if err == nil {
		src.FD, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // ReadKey closes it
	}
	if err != nil {
		x.add(Note, fmt.Sprintf("descriptor %d", fd), "", "not looked at: %v", err)
		return nil, false
	}
	return func() { _, _ = unix.Seek(fd, at, io.SeekStart) }, true
}

// keyFile looks who else can read or change the file of a key.
func (x *exam) keyFile(k config.Key) {
	var st unix.Stat_t
	if unix.Stat(k.Path, &st) != nil {
		return
	}
	switch mode := st.Mode & 0o777; {
	case mode&0o007 != 0:
		x.add(Warning, describe(k.Path), "chmod 0600, or 0640 with a group of its own", "every user can get at the key")
	case mode&0o020 != 0:
		x.add(Warning, describe(k.Path), "chmod 0600, or 0640", "the group can replace the key")
	}
	if k.Remove {
		if err := mayUnlink(k.Path); err != nil {
			x.add(Warning, k.Path, "remove it yourself, or take remove away", "the key is not removed once it is read: %v", err)
		}
	}
}

// closeKeys clears the keys.
func (x *exam) closeKeys() {
	_ = x.keys.File.Close()
	_ = x.keys.Migration.Close()
	x.keys = seal.Keys{}
}
