package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Unit is an instance of swtpm@.service.
type Unit struct {
	Name   string // "swtpm@vm1.service"
	State  string // systemd's ActiveState
	PID    int
	Status string // the summary that the TPM reports
	Result string // why it failed
}

// instance returns the name of the TPM.
func (u Unit) instance() string {
	name := strings.TrimSuffix(strings.TrimPrefix(u.Name, "swtpm@"), ".service")
	return unescape(name)
}

// Units is the service manager.
type Units interface {
	// List returns the units whose names match the pattern: a name, or one with a *.
	List(ctx context.Context, pattern string) ([]Unit, error)
	// Stored returns how many descriptors the manager holds for a unit.
	Stored(ctx context.Context, unit string) (int, error)
	// Restart restarts a unit, not its dependencies, and returns when that has ended.
	Restart(ctx context.Context, unit string) error
}

// manager is systemd.
type manager struct{ conn *dbus.Conn }

// Systemd connects to the service manager of the system, or of the calling user unless that is
// root. The caller calls stop at the end.
func Systemd(ctx context.Context) (u Units, stop func(), err error) {
	if os.Geteuid() != 0 {
		return systemd(ctx, dbus.NewUserConnectionContext)
	}
	// If possible, it connects without the message bus, because 200 TPMs need some hundred
	// requests.
	if u, stop, err = systemd(ctx, dbus.NewSystemdConnectionContext); err != nil {
		u, stop, err = systemd(ctx, dbus.NewSystemConnectionContext)
	}
	return u, stop, err
}

// SystemBus connects to the service manager of the system for any user, over the message bus. The
// caller calls stop at the end.
func SystemBus(ctx context.Context) (u Units, stop func(), err error) {
	return systemd(ctx, dbus.NewSystemConnectionContext)
}

func systemd(ctx context.Context, connect func(context.Context) (*dbus.Conn, error)) (u Units, stop func(), err error) {
	// The context of the connection must outlive the time limit of connecting.
	conn, err := within(ctx, func(context.Context) (*dbus.Conn, error) { return connect(ctx) })
	if err != nil {
		return nil, func() {}, fmt.Errorf("systemd: %w", err)
	}
	return manager{conn}, conn.Close, nil
}

func (m manager) List(ctx context.Context, pattern string) ([]Unit, error) {
	list, err := m.find(ctx, pattern)
	if err != nil {
		return nil, err
	}
	units := make([]Unit, len(list))
	each(len(list), func(i int) {
		units[i] = Unit{Name: list[i].Name, State: list[i].ActiveState}
		u := &units[i]
		if u.State == "inactive" {
			return
		}
		m.get(ctx, u.Name, "MainPID", func(v any) { n, _ := v.(uint32); u.PID = int(n) })
		m.get(ctx, u.Name, "StatusText", func(v any) { u.Status, _ = v.(string) })
		if u.State == "failed" {
			m.get(ctx, u.Name, "Result", func(v any) { u.Result, _ = v.(string) })
		}
	})
	return units, nil
}

// find returns the units that match a pattern. The name of a unit may contain a backslash,
// which is special in a pattern.
func (m manager) find(ctx context.Context, pattern string) ([]dbus.UnitStatus, error) {
	if strings.Contains(pattern, "*") {
		return m.conn.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
	}
	return m.conn.ListUnitsByNamesContext(ctx, []string{pattern})
}

// get reads a property of a service and calls use with it.
func (m manager) get(ctx context.Context, unit, name string, use func(any)) {
	if p, err := m.conn.GetUnitTypePropertyContext(ctx, unit, "Service", name); err == nil {
		use(p.Value.Value())
	}
}

func (m manager) Stored(ctx context.Context, unit string) (n int, err error) {
	p, err := m.conn.GetUnitTypePropertyContext(ctx, unit, "Service", "NFileDescriptorStore")
	if err != nil {
		return 0, err
	}
	stored, _ := p.Value.Value().(uint32)
	return int(stored), nil
}

// Restart does not start the dependencies. A running TPM has all of them, except the manufacture,
// which would run between the two processes and more than double the time for which the guest
// waits.
//
// Source: org.freedesktop.systemd1(5), StartUnit.
func (m manager) Restart(ctx context.Context, unit string) error {
	done := make(chan string, 1)
	if _, err := m.conn.RestartUnitContext(ctx, unit, "ignore-dependencies", done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("systemd: restart %s: %s", unit, result)
		}
		return nil
	case <-ctx.Done():
		return errors.New("the restart did not end in time")
	}
}

// unescape replaces the escapes of systemd, such as \x2d, in the instance of a unit's name.
func unescape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		var c byte
		if n, _ := fmt.Sscanf(s, `\x%02x`, &c); n == 1 && len(s) >= 4 {
			b.WriteByte(c)
			s = s[4:]
			continue
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// restartTime is how long a restart may take: systemd stops a unit after 90 s, and a start
// that fails is tried again.
const restartTime = 3 * time.Minute
