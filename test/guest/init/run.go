package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// run runs a program of the initial file system and returns its exit status and its output. Words
// with "=" before the program are for its environment.
func run(args []string) (string, error) {
	env := []string{"PATH=/usr/bin:/usr/sbin", "HOME=/"}
	for len(args) > 1 && strings.Contains(args[0], "=") {
		env, args = append(env, args[0]), args[1:]
	}
	for _, dir := range []string{"/run", "/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	program, err := exec.LookPath("/usr/bin/" + args[0])
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return fmt.Sprintf("%d %s", cmd.ProcessState.ExitCode(), out), nil
}

// start starts a program whose output goes to the serial port.
func start(args []string) error {
	f, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	return cmd.Start()
}

// module loads a module of the kernel; one that is loaded already is no error.
func module(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// shared maps the memory of QEMU's device ivshmem-plain: its second BAR, for which no driver is
// needed.
func shared() ([]byte, error) {
	devices, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		vendor, _ := os.ReadFile(d + "/vendor")
		device, _ := os.ReadFile(d + "/device")
		if strings.TrimSpace(string(vendor)) != "0x1af4" || strings.TrimSpace(string(device)) != "0x1110" {
			continue
		}
		if err := os.WriteFile(d+"/enable", []byte("1"), 0); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(d+"/resource2", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	return nil, errors.New("no memory is shared with the host")
}

func take(path string) error {
	m, err := shared()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(m) }()
	return os.WriteFile(path, m, 0o600)
}

func give(path string) error {
	m, err := shared()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(m) }()
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(b) > len(m) {
		return fmt.Errorf("%s: %d bytes; %d are shared", path, len(b), len(m))
	}
	copy(m, b)
	return nil
}
