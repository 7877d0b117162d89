package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/io/cuse"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// openDevice returns the channels with the device, if the TPM has one. It is called before
// the process gives up its privileges and the old root directory, because only root may
// open it, or because only the old root contains it. Options that only print open nothing.
func openDevice(cfg *config.Config) (c *channels, err error) {
	c = &channels{dataFD: -1, ctrlFD: -1}
	switch i := cfg.Interface; {
	case cfg.Printing() != "":
	case i.Type == config.VTPMProxy:
		c.dataFD, err = newProxy(cfg)
	case i.Type == config.CUSE:
		c.cuse, err = openCUSE(i)
	case i.Device != "":
		c.dataFD, err = openCharacter(i.Device)
	}
	return c, err
}

// newProxy creates a device of the kernel and prints its name, in one write and before
// any other output, so that a caller reads the line from the start.
func newProxy(cfg *config.Config) (int, error) {
	d, err := listen.OpenProxy(cfg.TPM)
	if err != nil {
		return -1, err
	}
	if _, err := fmt.Println(d); err != nil {
		fmt.Fprintf(os.Stderr, "swtpm: stdout: %v\n", err) // the device exists all the same
	}
	return d.FD, nil
}

// openCharacter opens the device at path, which must be a character device.
func openCharacter(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, doctor.AppendRemedy(fmt.Errorf("Cannot open %s: %w", path, err), doctor.Path(err)) //lint:ignore ST1005 the words of the reference
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

// openCUSE opens the driver that creates the device.
func openCUSE(i config.Interface) (*cuse.Device, error) {
	path := "/dev/" + i.Name
	if err := cuse.CheckName(i.Name); err != nil {
		return nil, withCode(cuseStart, err)
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, withCode(cuseStart, fmt.Errorf("%s already exists; choose another name, or stop the process that uses the device", path))
	}
	d, err := cuse.Open(i.Name)
	if errors.Is(err, os.ErrPermission) {
		err = withCode(cuseNotRoot, fmt.Errorf("%w; start as root", err))
	}
	return d, err
}
