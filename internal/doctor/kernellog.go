package doctor

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

const (
	auditTail  = 256 << 10 // bytes that are read from the end of the audit log
	maxDenials = 5         // number of denials in the report
)

// denial is a refusal of a security module.
type denial struct {
	comm string // name of the process
	name string // file; "" if the record has none
	mask string // requested access
}

// kernelLog reports recent denials of security modules for an emulator. It reads the kernel's
// log and the audit log, if it has permission.
func (x *examination) kernelLog() {
	var found []denial
	for _, line := range append(x.kernelMessages(), x.auditLines()...) {
		if d, ok := parseDenial(line); ok && strings.HasPrefix(d.comm, "swtpm") && !slices.Contains(found, d) {
			found = append(found, d)
		}
	}
	for _, d := range found[max(0, len(found)-maxDenials):] {
		x.add(Note, d.name, "if that happens again, allow it in the policy", "denied to a process %q recently (%s)", d.comm, d.mask)
	}
}

// kernelMessages returns the records in the kernel's log.
func (x *examination) kernelMessages() (lines []string) {
	fd, err := unix.Open(filepath.Join(x.root, "/dev/kmsg"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, 8<<10)
	for range 1 << 16 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EPIPE || err == unix.EINTR: // the kernel has overwritten a record
			continue
		case err != nil || n == 0:
			return lines
		}
		lines = append(lines, strings.Split(string(b[:n]), "\n")...) // a single line, except in tests
	}
	return lines
}

// auditLines returns the last lines of the audit log.
func (x *examination) auditLines() []string {
	f, _, err := safefile.OpenInput(filepath.Join(x.root, "/var/log/audit/audit.log"))
	if err != nil {
		return nil
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > auditTail {
		if _, err := f.Seek(-auditTail, io.SeekEnd); err != nil {
			return nil
		}
	}
	b, _ := io.ReadAll(io.LimitReader(f, auditTail))
	return strings.Split(string(b), "\n")
}

// parseDenial decodes a record of AppArmor or SELinux:
//
//	… apparmor="DENIED" operation="open" profile="swtpm" name="/x" pid=1 comm="swtpm" requested_mask="wc" …
//	… avc:  denied  { write } for  pid=1 comm="swtpm" name="x" dev="vda" … tclass=file …
func parseDenial(line string) (d denial, ok bool) {
	field := func(name string) string {
		_, rest, ok := strings.Cut(line, " "+name+`="`)
		if !ok {
			return ""
		}
		value, _, _ := strings.Cut(rest, `"`)
		return value
	}
	d = denial{comm: field("comm"), name: field("name")}
	if p := field("path"); p != "" {
		d.name = p
	}
	switch {
	case strings.Contains(line, `apparmor="DENIED"`):
		d.mask = fmt.Sprintf("AppArmor: %s %s", field("operation"), field("requested_mask"))
	case strings.Contains(line, "avc:  denied  {"):
		_, mask, _ := strings.Cut(line, "avc:  denied  {")
		mask, _, _ = strings.Cut(mask, "}")
		d.mask = "SELinux: " + strings.TrimSpace(mask)
	default:
		return denial{}, false
	}
	return d, d.comm != ""
}
