package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/cuse"
	"github.com/swtpm-go/swtpm/internal/io/listen"
	"github.com/swtpm-go/swtpm/internal/program"
)

// device is what is opened before the privileges and the old root directory go, for
// only root may, or the device is there.
type device struct {
	fd   int          // a device that is the data channel; -1 if none is
	cuse *cuse.Device // a device that is both channels; nil if none is
}

// openDevice opens it. Nothing is opened for what only prints.
func openDevice(cfg *config.Config) (d device, err error) {
	d.fd = -1
	switch i := cfg.Interface; {
	case cfg.Printing() != "":
	case i.Type == "vtpm-proxy":
		d.fd, err = newProxy(cfg)
	case i.Type == "cuse":
		d.cuse, err = openCUSE(i)
	case i.Device != "":
		d.fd, err = openCharacter(i.Device)
	}
	return d, err
}

// appear makes the device of CUSE appear, and then writes the pid file: who waits for
// the file waits for the device.
func appear(cfg *config.Config, d *cuse.Device, pid *pidFile) error {
	if err := d.Create(uint32(cfg.Interface.Major), uint32(cfg.Interface.Minor)); err != nil {
		return err
	}
	if err := pid.write(cfg.PID); err != nil {
		return exitCode(cusePID, err)
	}
	return nil
}

// newProxy makes a device of the kernel's and tells which, in one write and before
// anything else is told: who waits for the line reads it from the start.
func newProxy(cfg *config.Config) (int, error) {
	d, err := listen.OpenProxy(cfg.TPM)
	if err != nil {
		return -1, err
	}
	if _, err := fmt.Println(d); err != nil {
		fmt.Fprintf(os.Stderr, "swtpm: stdout: %v\n", err) // the device is there all the same
	}
	return d.FD, nil
}

// openCharacter opens the device at path, which must be one to talk to.
func openCharacter(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("Cannot open %s: %w", path, err) //lint:ignore ST1005 the words of the reference
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR {
		err = errors.New("not a character device; name the device of a TPM's driver")
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("Cannot open %s: %w", path, err) //lint:ignore ST1005 the words of the reference
	}
	return fd, nil
}

// The exit codes of swtpm cuse; config has those of its command line.
const (
	cuseStart   = 255 // -1: the device is there already, the TPM does not start
	cuseKey     = 253 // -3: a key or a profile cannot be read
	cuseNotRoot = 252 // -4
	cuseNoUser  = 251 // -5
	cusePID     = 243 // -13: the pid file, once the device is there
	cuseSandbox = 242 // -14: the sandbox
)

// openCUSE opens what makes the device.
func openCUSE(i config.Interface) (*cuse.Device, error) {
	path := "/dev/" + i.Name
	if err := cuse.CheckName(i.Name); err != nil {
		return nil, exitCode(cuseStart, err)
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, exitCode(cuseStart, fmt.Errorf("%s already exists; choose another name, or stop the process that has the device", path))
	}
	d, err := cuse.Open(i.Name)
	if errors.Is(err, os.ErrPermission) {
		err = exitCode(cuseNotRoot, fmt.Errorf("%w; start as root", err))
	}
	return d, err
}

// exitCode has the process end with code for err.
func exitCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &program.ExitError{Code: code, Err: err, Silent: isSilent(err)}
}

// cuseCode is exitCode for swtpm cuse alone.
func cuseCode(cfg *config.Config, code int, err error) error {
	if cfg.Interface.Type != "cuse" {
		return err
	}
	return exitCode(code, err)
}
