// Command init is the only program in the guest of package guest_test: it executes the lines that
// arrive over the serial port, and answers each with one line.
//
//	tpm HEX            sends a command to /dev/tpm0; the response in hex
//	read PATH          the first 4 KiB of a file as text, on one line
//	bytes N PATH       N bytes of a file or device, in hex
//	run [VAR=X] ARGS   runs a program; its status, and its output on one line
//	take PATH          copies the memory that the machine shares with the host to a file
//	give PATH          copies a file to that memory
//	module PATH        loads a module of the kernel
//	start PATH ARGS    starts a program whose lines go to the serial port
//	exit               ends the guest
//
// An answer begins with the number of the question: "N ok …" or "N error …".
package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	serial, err := prepare()
	if err != nil {
		fmt.Println("init:", err) // the kernel's console, if it has one
		os.Exit(1)                // the kernel panics
	}
	answer(serial, "ready")
	for lines := bufio.NewScanner(serial); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		text, err := obey(words[1], words[2:])
		if err != nil {
			answer(serial, words[0]+" error "+err.Error())
			continue
		}
		answer(serial, words[0]+" ok "+text)
	}
}

// prepare makes the file systems that a program expects and opens the serial
// port as a plain stream.
func prepare() (*os.File, error) {
	for _, m := range []struct{ fs, dir string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"securityfs", "/sys/kernel/security"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	f, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Lflag &^= unix.ECHO
	t.Oflag &^= unix.OPOST
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// answer writes one line. The mark distinguishes it from the kernel's messages.
func answer(w io.Writer, s string) {
	_, _ = fmt.Fprintf(w, "\n> %s\n", strings.Join(strings.Fields(s), " "))
}

func obey(what string, args []string) (string, error) {
	switch {
	case what == "tpm" && len(args) == 1:
		return tpm(args[0])
	case what == "read" && len(args) == 1:
		b, err := first(args[0], 4096)
		return string(b), err
	case what == "bytes" && len(args) == 2:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		b, err := first(args[1], n)
		return hex.EncodeToString(b), err
	case what == "run" && len(args) > 0:
		return run(args)
	case what == "take" && len(args) == 1:
		return "", take(args[0])
	case what == "give" && len(args) == 1:
		return "", give(args[0])
	case what == "module" && len(args) == 1:
		return "", module(args[0])
	case what == "start" && len(args) > 0:
		return "", start(args)
	case what == "exit":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return "", fmt.Errorf("unknown: %q %q", what, args)
}

// tpm sends one command through the kernel's driver. The device must block: os
// would open it so that a read may come before the response.
func tpm(cmd string) (string, error) {
	b, err := hex.DecodeString(cmd)
	if err != nil {
		return "", err
	}
	fd, err := unix.Open("/dev/tpm0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, b); err != nil {
		return "", err
	}
	rsp := make([]byte, 4096)
	n, err := unix.Read(fd, rsp)
	return hex.EncodeToString(rsp[:max(n, 0)]), err
}

// first reads up to n bytes, with as few reads as possible.
func first(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, n)
	m, err := io.ReadFull(f, b)
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		err = nil
	}
	return b[:m], err
}
