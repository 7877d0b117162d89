package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/vtpm"
)

// openDevice opens the device that is the data channel, -1 if none is: before the
// privileges and the old root directory go, for only root may, and the device is
// there. Nothing is opened for what only prints.
func openDevice(cfg *config.Config) (fd int, err error) {
	switch i := cfg.Interface; {
	case cfg.Printing() != "":
	case i.Type == "vtpm-proxy":
		return newProxy(cfg)
	case i.Device != "":
		return openCharacter(i.Device)
	}
	return -1, nil
}

// newProxy makes a device of the kernel's and tells which, in one write and before
// anything else is told: who waits for the line reads it from the start.
func newProxy(cfg *config.Config) (int, error) {
	d, err := vtpm.New(version(cfg))
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
		err = fmt.Errorf("it is no character device")
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
