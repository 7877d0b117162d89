package metrics

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// askTime is how long a client may take to send an HTTP request.
	askTime = time.Second

	// takeTime is how long a client may take to read the text.
	takeTime = 5 * time.Second

	// places is the number of clients that are served at once. The next client waits until one
	// is disconnected; a slow one is disconnected after askTime and takeTime.
	places = 8

	// maxRequest is the number of bytes of a request that are read.
	maxRequest = 8192
)

// Listener returns connected descriptors until it is closed.
type Listener interface {
	Accept() (fd int, err error)
}

// Serve sends the text to each client of l, a few at once, and returns when l is closed. A
// client that sends "GET ..." gets an HTTP response; other clients get the text alone, after
// they closed their side or sent nothing for a second. A client that waits occupies no
// thread, because its descriptor is in the runtime's poller.
func Serve(l Listener, text func() []byte) {
	taken := make(chan struct{}, places)
	for {
		taken <- struct{}{}
		fd, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { <-taken }()
			f := os.NewFile(uintptr(fd), "metrics")
			c, err := net.FileConn(f)
			_ = f.Close()
			if err == nil {
				answer(c, text)
				_ = c.Close()
			}
		}()
	}
}

// answer serves one client.
func answer(c net.Conn, text func() []byte) {
	_ = c.SetReadDeadline(time.Now().Add(askTime))
	var b []byte
	for len(b) < maxRequest && !bytes.Contains(b, []byte("\r\n\r\n")) {
		part := make([]byte, 1024)
		n, err := c.Read(part)
		b = append(b, part[:n]...)
		if err != nil {
			break
		}
	}
	_ = c.SetWriteDeadline(time.Now().Add(takeTime))
	body := text()
	if bytes.HasPrefix(b, []byte("GET ")) {
		head := fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", ContentType, len(body))
		body = append([]byte(head), body...)
	}
	_, _ = c.Write(body)
}

// Maintain writes the text to path at once and then periodically until ctx ends. Then it removes
// the file, because the numbers are no longer true. It calls warn when a write fails, and
// when the next one succeeds.
func Maintain(ctx context.Context, path string, every time.Duration, text func() []byte, warn func(format string, args ...any)) {
	t := time.NewTicker(every)
	defer t.Stop()
	defer func() { _ = os.Remove(path) }()
	failed := false
	for {
		switch err := Write(path, text()); {
		case err != nil && !failed:
			failed = true
			warn("metrics: %v; trying again", err)
		case err == nil && failed:
			failed = false
			warn("metrics: %q is written again", path)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Write replaces the file at path in one step, so that a reader sees either the old or the
// new text. Every user may read the file.
func Write(path string, text []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	_ = os.Remove(temporary) // left over by a process that was killed
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	_ = f.Chmod(0o644) // independent of the umask; some file systems store no modes
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

// Check returns the error that Write(path) would return, except for a full disk. It changes
// nothing.
func Check(path string) error {
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	if st, err := os.Lstat(path); err == nil && st.IsDir() {
		return fmt.Errorf("%q: %w", path, unix.EISDIR)
	}
	return nil
}
