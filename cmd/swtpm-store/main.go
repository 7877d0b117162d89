// Swtpm-store is the broker between the TPMs of this host and a cluster store, such as etcd. It
// owns their states there, so that each of them runs only once at a time, and writes what the TPMs
// store. It receives only ciphertext.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
	"github.com/swtpm-go/swtpm/internal/program"
)

func main() { program.Main("swtpm-store", run) }

// run is the life of the broker: configure, connect, listen, serve.
func run(ctx context.Context, args []string) error {
	c, err := parse(args)
	if err != nil || c == nil {
		return err
	}
	if c.pull != nil {
		return c.pull.run(ctx, c.config)
	}
	damaged := func(err error) { stderr{}.Errorf("run swtpm-store --check: %v", err) }
	if c.check { // which verifies all states
		damaged = nil
	}
	cfg, d, err := connect(c.config, damaged)
	if c.check && errors.Is(err, driver.ErrDenied) { // a password is checked at once
		say([]driver.Finding{{Problem: driver.Denied, Text: err.Error()}})
		return errFaulty
	}
	if err != nil {
		return delayed(err)
	}
	defer d.Close()
	switch {
	case c.check:
		return examine(ctx, d, cfg.Mark, cfg.Prefix)
	case c.acceptRollback:
		return acceptRollback(ctx, d, cfg.Mark)
	}
	return serve(ctx, cfg, d)
}

// connect reads the configuration and opens the store. damaged is called for each damaged value that
// the store finds in a list or at an acquisition.
func connect(file string, damaged func(error)) (*config, *etcd.Store, error) {
	cfg, err := load(file)
	if err != nil {
		return nil, nil, err
	}
	options, err := cfg.etcd()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	options.Damaged = damaged
	d, err := etcd.Open(options)
	return cfg, d, err
}

// retryPause is how long a service waits before it ends because of its configuration. TPMs that
// wait at its socket make systemd start it again at once, and systemd removes the socket after 20
// starts within two seconds.
const retryPause = 2 * time.Second

// delayed makes a service wait before it ends with err.
func delayed(err error) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return err
	}
	_, _ = daemon.SdNotify(false, "STATUS="+program.PrintableLine(err.Error()))
	return &program.ExitError{Code: 1, Err: err, Delay: retryPause}
}

// serve serves TPMs until ctx ends.
func serve(ctx context.Context, cfg *config, d *etcd.Store) error {
	l, again, err := listeners(cfg.Socket)
	if err != nil {
		return err
	}
	host, boot, err := identity(cfg.Host)
	if err != nil {
		return err
	}
	b := broker.New(broker.Options{
		Driver: d, Host: host, Boot: boot, TTL: cfg.Lease.TTL.Duration, Margin: cfg.Lease.Margin.Duration, Wait: cfg.Lease.Wait.Duration,
		GiveUp: cfg.Lease.GiveUp.Duration, Keep: cfg.Generations, LeaseFile: leaseFile(), MarkFile: cfg.Mark,
		Allow: cfg.allowed, Refusal: cfg.refusal, AllowUser: cfg.knows, Observe: cfg.observes, Log: stderr{},
	})
	var tasks sync.WaitGroup
	tasks.Go(func() { b.Run(ctx) })
	if again != nil {
		tasks.Go(func() {
			if err := b.ServeReconnects(ctx, again); err != nil {
				stderr{}.Errorf("TPMs cannot connect again after a restart of the broker: %v", err)
			}
		})
	}
	stderr{}.Infof("serving TPMs on %s as host %q; the store is %s", l.Addr(), host, strings.Join(cfg.Endpoints, ", "))
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	err = b.Serve(ctx, l)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	tasks.Wait()
	return err
}

// listeners returns the sockets that systemd passed, or opens the configured ones: one for
// connections, and one for TPMs that connect again.
func listeners(path string) (l *net.UnixListener, again *net.UnixConn, err error) {
	passed := activation.Files(true)
	if len(passed) == 0 {
		if l, err = listen(path); err != nil {
			return nil, nil, err
		}
		again, err = listenAgain(filepath.Join(filepath.Dir(path), "reconnect"))
		return l, again, err
	}
	for _, f := range passed {
		kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case err != nil:
		case kind == unix.SOCK_DGRAM:
			if conn, err := net.FilePacketConn(f); err == nil {
				again, _ = conn.(*net.UnixConn)
			}
		default:
			if all, err := net.FileListener(f); err == nil {
				l, _ = all.(*net.UnixListener)
			}
		}
		_ = f.Close()
	}
	if l == nil {
		return nil, nil, errors.New("systemd passed no Unix stream socket; use ListenStream=PATH in swtpm-store.socket")
	}
	return l, again, nil
}

// listen opens the socket at path.
func listen(path string) (*net.UnixListener, error) {
	// A socket that is left over from a previous run refuses connections.
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another broker serves this socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove the old socket: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// The configuration decides who may use which state, not the mode of the socket.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// listenAgain opens the datagram socket at path.
func listenAgain(path string) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove the old socket: %w", path, err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return c, os.Chmod(path, 0o666)
}

// identity returns the name of this host and its boot ID.
func identity(configured string) (host, boot string, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", fmt.Errorf("read the boot ID of this host: %w", err)
	}
	if configured != "" {
		return configured, strings.TrimSpace(string(text)), nil
	}
	host, err = os.Hostname()
	return host, strings.TrimSpace(string(text)), err
}

// leaseFile returns the path of the file with the lease, which survives a restart of the broker:
// it is in the unit's runtime directory, which a reboot empties. Without a unit it is "".
func leaseFile() string {
	if dir := os.Getenv("RUNTIME_DIRECTORY"); dir != "" {
		return dir + "/lease"
	}
	return ""
}

// stderr is the log: one line on standard error, with the level that the journal knows.
type stderr struct{}

// Infof logs what happens in normal operation.
func (stderr) Infof(format string, args ...any) { logLine("6", format, args...) }

// Errorf logs what needs an administrator.
func (stderr) Errorf(format string, args ...any) { logLine("3", format, args...) }

func logLine(level, format string, args ...any) {
	line := program.PrintableLine(fmt.Sprintf(format, args...))
	if os.Getenv("JOURNAL_STREAM") != "" {
		line = "<" + level + ">" + line
	}
	fmt.Fprintln(os.Stderr, line)
}
