package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"golang.org/x/sys/unix"
)

// conn is a connection to a TPM. If no response arrives before the deadline, Read returns an error
// that wraps os.ErrDeadlineExceeded.
type conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// open opens the target: the device is preferred, then TCP.
func open(ctx context.Context, t cli.Target) (conn, error) {
	switch {
	case t.Device != nil:
		return openDevice(*t.Device)
	case t.TCP != nil:
		return openTCP(ctx, *t.TCP)
	default:
		return openUnix(ctx, *t.Unix)
	}
}

func openTCP(ctx context.Context, a cli.Address) (conn, error) {
	if err := cli.CheckPort(a.Port); err != nil { // from the environment
		return nil, err
	}
	if a.Host == "" { // likewise; package net would connect to this host
		return nil, cli.ResolveError("", &net.DNSError{IsNotFound: true})
	}
	c, err := ctrl.Connect(ctx, "tcp", net.JoinHostPort(a.Host, a.Port), 0)
	if unknown := cli.ResolveError(a.Host, err); unknown != nil {
		return nil, unknown
	}
	if err != nil {
		return nil, cli.Complain("Could not connect using TCP socket.")
	}
	return c, nil
}

func openUnix(ctx context.Context, path string) (conn, error) {
	if err := cli.CheckPath(path); err != nil {
		return nil, err
	}
	c, err := ctrl.Connect(ctx, "unix", path, timeout)
	if err != nil {
		return nil, cli.Complain("Could not connect using UnixIO socket.")
	}
	return c, nil
}

// exchange sends cmd over a new connection and returns the response, for which it waits at most
// timeout. It has checked the size in the header of the response.
//
// Compat: C-253: each command has its own connection.
func exchange(ctx context.Context, t cli.Target, cmd []byte, timeout time.Duration) ([]byte, error) {
	c, err := open(ctx, t)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	_, err = c.Write(cmd)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, cli.Complain("Write to file descriptor failed.")
	}
	var rsp []byte
	if err == nil {
		rsp, err = readResponse(c)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, cli.Complain("TPM did not respond after %d seconds.", timeout/time.Second)
	}
	return rsp, err
}

// readResponse reads until the size in the header of the response is reached. TCP may deliver
// the response in pieces; a device returns it at once.
func readResponse(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, tpm.LargestCommand+1)
	want := tpm.HeaderSize
	for len(b) < want {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if len(b) >= tpm.HeaderSize {
			size := binary.BigEndian.Uint32(b[2:])
			if size < uint32(len(b)) || size > tpm.LargestCommand {
				return nil, cli.Complain("Malformed response.")
			}
			want = int(size)
		}
		switch {
		case len(b) == want:
		case err == io.EOF && len(b) < tpm.HeaderSize:
			return nil, cli.Complain("Returned packet is too short.")
		case err == io.EOF:
			return nil, cli.Complain("Malformed response.")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case err != nil:
			return nil, cli.Complain("Read from file descriptor failed.")
		}
	}
	return b, nil
}

// device is the character device of a TPM, such as /dev/tpm0. It is opened without O_NONBLOCK,
// because otherwise a read before the response would return end of file.
type device struct {
	fd       int
	deadline time.Time
}

// openDevice refuses files and disks: the command would be written over their contents.
func openDevice(path string) (conn, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, cli.Complain("Unable to open device '%s'.", path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFBLK {
		_ = unix.Close(fd)
		return nil, cli.Complain("Unable to open device '%s'. It is not the character device of a TPM.", path)
	}
	return &device{fd: fd}, nil
}

func (d *device) Close() error                  { return unix.Close(d.fd) }
func (d *device) SetDeadline(t time.Time) error { d.deadline = t; return nil }

// Write writes a command in one call of write(2), as the kernel requires.
func (d *device) Write(b []byte) (int, error) {
	n, err := retry(func() (int, error) { return unix.Write(d.fd, b) })
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// Read waits for the response and reads it.
func (d *device) Read(b []byte) (int, error) {
	for {
		left := time.Until(d.deadline)
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		switch {
		case err == unix.EINTR || err == nil && n == 0:
			continue
		case err != nil:
			return 0, err
		}
		n, err = retry(func() (int, error) { return unix.Read(d.fd, b) })
		if n == 0 && err == nil {
			err = io.EOF
		}
		return max(n, 0), err
	}
}

// retry calls f until no signal interrupts it.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
