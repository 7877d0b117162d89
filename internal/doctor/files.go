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

// log checks the log file.
func (x *examination) log() {
	c := x.cfg.Log
	if c.FD >= 0 && !x.descriptor(c.FD) {
		return
	}
	if err := daemon.CheckLog(daemon.LogOptions(c)); err != nil {
		x.file(c.File, err)
		return
	}
	if fi, err := os.Lstat(c.File); err == nil && c.Given && fi.Mode().Type() == os.ModeNamedPipe {
		x.add(Warning, c.File, "start its reader first", "a fifo: the TPM starts only while a process reads it")
	}
}

// pid checks the pid file.
func (x *examination) pid() {
	c := x.cfg.PID
	if c.File == "" && (c.FD < 0 || !x.descriptor(c.FD)) {
		return
	}
	if err := daemon.CheckPID(c.File, c.FD); err != nil {
		x.file(c.File, err)
	}
}

// pcap checks the file for the traffic.
func (x *examination) pcap() {
	c := x.cfg.Pcap
	if c.File == "" {
		if c.FD >= 0 && x.descriptor(c.FD) {
			if flags, err := unix.FcntlInt(uintptr(c.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
				x.add(Error, fmt.Sprintf("descriptor %d", c.FD), "open it for writing", "not open for writing")
			}
		}
		return
	}
	if err := daemon.CheckFile(c.File); err != nil {
		x.file(c.File, err)
		return
	}
	var st unix.Stat_t
	if unix.Stat(c.File, &st) == nil && st.Uid != uint32(x.uid) && !dir.HasCap(unix.CAP_FOWNER) {
		x.add(Error, describe(c.File), "remove it, or choose another file", "user %d may not change its permissions", x.uid)
	}
}

// metrics checks the channel or the file of the metrics.
func (x *examination) metrics() {
	c := x.cfg.Metrics
	if c.File == "" {
		x.channel(c.Listen)
		return
	}
	if err := metrics.Check(c.File); err != nil {
		x.file(c.File, err)
	}
}

// file adds the reason for which a file cannot be written.
func (x *examination) file(path string, err error) {
	var errno unix.Errno
	if path != "" && errors.As(err, &errno) {
		x.add(Error, path, Path(err), "cannot be written: %s", reason(path, errno))
		return
	}
	x.add(Error, path, Path(err), "%v", err)
}

// fileKey and migrationKey read the keys, except from a pipe, which can be read only once.
func (x *examination) fileKey() {
	x.keysKnown = true
	x.keys.File = x.key(x.cfg.Key)
}

func (x *examination) migrationKey() {
	known := x.keysKnown
	x.keys.Migration = x.key(x.cfg.MigrationKey)
	x.keysKnown = known // the state needs only the file key
}

// key reads one key. It returns nil if none is configured, or if it cannot be read.
func (x *examination) key(k config.Key) *seal.Key {
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
			x.add(Note, where, "", "key and state not checked: the key comes from systemd when the unit starts")
			return nil
		}
		src.Path = path
	case k.Path == "":
		where = fmt.Sprintf("descriptor %d", k.FD)
		restore, ok := x.keyDescriptor(&src)
		if !ok {
			x.keysKnown = false
			return nil
		}
		defer restore()
	}
	key, err := seal.ReadKey(src)
	if err != nil {
		x.keysKnown = false
		var errno unix.Errno
		if errors.As(err, &errno) && k.Path != "" {
			x.add(Error, where, Path(err), "the key cannot be read: %s", reason(k.Path, errno))
		} else {
			x.add(Error, where, "correct the key, or its format in the configuration", "%v", err)
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

// keyDescriptor prepares src for reading from a descriptor. restore restores the position of the
// descriptor. ok is false if that is not possible.
func (x *examination) keyDescriptor(src *seal.Source) (restore func(), ok bool) {
	fd := src.FD
	if !x.descriptor(fd) {
		return nil, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		x.add(Note, fmt.Sprintf("descriptor %d", fd), "", "key and state not checked: the descriptor can be read only once")
		return nil, false
	}
	at, err := unix.Seek(fd, 0, io.SeekCurrent)
	if err == nil {
		src.FD, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // ReadKey closes it
	}
	if err != nil {
		x.add(Note, fmt.Sprintf("descriptor %d", fd), "", "not checked: %v", err)
		return nil, false
	}
	return func() { _, _ = unix.Seek(fd, at, io.SeekStart) }, true
}

// keyFile checks which other users can read or change the file of a key.
func (x *examination) keyFile(k config.Key) {
	var st unix.Stat_t
	if unix.Stat(k.Path, &st) != nil {
		return
	}
	switch mode := st.Mode & 0o777; {
	case mode&0o007 != 0:
		x.add(Warning, describe(k.Path), "chmod 0600, or 0640 with a separate group", "accessible to all users")
	case mode&0o020 != 0:
		x.add(Warning, describe(k.Path), "chmod 0600, or 0640", "writable by the group, which can replace the key")
	}
	if k.Remove {
		if err := canUnlink(k.Path); err != nil {
			x.add(Warning, k.Path, "remove the file by hand, or omit remove", "the key cannot be removed after reading: %v", err)
		}
	}
}

// closeKeys clears the keys.
func (x *examination) closeKeys() {
	_ = x.keys.File.Close()
	_ = x.keys.Migration.Close()
	x.keys = seal.Keys{}
}
