package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// child is a TPM in another emulator, which runs as a child process and stores its state in a
// temporary directory. This process then stores that state in the location of the TPM.
type child struct {
	cmd    *exec.Cmd
	data   net.Conn
	ctrl   *ctrl.Client
	dir    string // temporary state directory
	prefix string
	done   chan struct{} // closed when the process has ended and err is set
	err    error
}

const (
	// startWait is the time limit for the start of an emulator, until it has written
	// its process ID. stopWait is the time limit for its end.
	startWait = 5 * time.Second
	stopWait  = 5 * time.Second

	// commandWait is the time limit of a command, such as the creation of an RSA key
	// of 4096 bits on a slow machine.
	commandWait = 5 * time.Minute
)

// startProgram starts the emulator of --tpm with a new TPM, or with a copy of the TPM to
// change.
func (p *program) startProgram(ctx context.Context, loc *location, plan *plan) (_ emulator, err error) {
	c := &child{prefix: loc.version.FilePrefix(), done: make(chan struct{})}
	if c.dir, err = stagingDir(loc); err != nil {
		return nil, err
	}
	if p.o.Reconfigure {
		if err := c.copyFrom(loc.b); err != nil {
			return nil, errors.Join(err, c.remove())
		}
	}
	if err := c.start(p, plan); err != nil {
		return nil, errors.Join(err, c.close())
	}
	if err := c.awaitStart(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	p.log.Infof("TPM is listening on Unix socket.")
	return c, nil
}

// stagingDir creates a private directory for the emulator. If possible, it is in the state
// directory, because the emulator may be confined to that, and because no secret should be stored
// elsewhere. The emulator opens it by its path, so it must not be in a directory where another
// user could replace it by a symbolic link and redirect the writes of root.
func stagingDir(loc *location) (string, error) {
	if loc.isDir() && !othersMayChange(loc.path) {
		return os.MkdirTemp(loc.path, stagingName)
	}
	return os.MkdirTemp("", stagingName)
}

// othersMayChange reports whether this process runs as root and other users may rename
// files in the directory.
func othersMayChange(dir string) bool {
	var st unix.Stat_t
	return os.Geteuid() == 0 && (unix.Stat(dir, &st) != nil || st.Uid != 0 || st.Mode&0o022 != 0)
}

// copyFrom copies the permanent state into the temporary directory.
func (c *child) copyFrom(b nv.Backend) error {
	sealed, err := b.Load(c.prefix + nv.Permanent)
	if err != nil {
		return err
	}
	defer clear(sealed)
	return os.WriteFile(filepath.Join(c.dir, c.prefix+nv.Permanent), sealed, 0o600)
}

// args returns the arguments of the emulator, in the reference's order. data and ctrl
// are its descriptors.
func (c *child) args(p *program, plan *plan, data, ctrl int) []string {
	args := slices.Concat(p.argv[1:], []string{
		"--flags", "not-need-init,startup-clear", "--tpmstate", "dir=" + c.dir, "--pid", "file=" + c.pidFile(),
	})
	if p.o.TPM2 {
		args = append(args, "--tpm2")
	}
	if plan.source != nil {
		args = append(args, "--key", keyArg(plan.source, p.o.Cipher))
	}
	if plan.profile != "" {
		profile := "profile=" + plan.profile
		if p.o.RemoveDisable != "" {
			profile += ",remove-disabled=" + p.o.RemoveDisable
		}
		args = append(args, "--profile", profile)
	}
	if p.o.LogFile != "" {
		args = append(args, "--log", "file="+p.o.LogFile)
	}
	return append(args, "--server", fmt.Sprintf("type=tcp,fd=%d", data), "--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", ctrl))
}

// keyArg returns the argument of --key.
func keyArg(s *seal.Source, cipher string) string {
	if cipher == "" {
		cipher = "aes-128-cbc"
	}
	arg := "file=" + s.Path
	switch {
	case s.Passphrase && s.Path != "":
		arg = "pwdfile=" + s.Path
	case s.Passphrase:
		arg = fmt.Sprintf("pwdfd=%d", s.FD)
	case s.Path == "":
		arg = fmt.Sprintf("fd=%d", s.FD)
	}
	return arg + ",mode=" + cipher
}

func (c *child) pidFile() string { return filepath.Join(c.dir, ".pid") }

// start starts the emulator and connects to it with two pairs of sockets. A descriptor from which
// the emulator reads the key has the same number there as here.
func (c *child) start(p *program, plan *plan) error {
	data, theirData, err := pair()
	if err != nil {
		return err
	}
	defer theirData.Close()
	c.data = data
	control, theirCtrl, err := pair()
	if err != nil {
		return err
	}
	defer theirCtrl.Close()
	c.ctrl = ctrl.NewClient(control)

	// ExtraFiles become the descriptors 3, 4 and so on; nil stands for a closed descriptor.
	extra := []*os.File{theirData, theirCtrl}
	dataFD, ctrlFD := 3, 4
	if plan.source != nil && plan.source.Path == "" {
		key := os.NewFile(uintptr(plan.source.FD), "key")
		defer key.Close()
		if plan.source.FD <= 2 {
			return fmt.Errorf("cannot pass the key in descriptor %d to another emulator", plan.source.FD)
		}
		extra = nil
		for fd := 3; fd < plan.source.FD; fd++ {
			extra = append(extra, nil)
		}
		extra = append(extra, key, theirData, theirCtrl)
		dataFD, ctrlFD = plan.source.FD+1, plan.source.FD+2
	}
	c.cmd = exec.Command(p.argv[0], c.args(p, plan, dataFD, ctrlFD)...)
	c.cmd.ExtraFiles = extra
	c.cmd.Stderr = p.Stderr
	if p.o.LogFile != "" {
		c.cmd.Stderr = nil
	}
	// Without a process group of its own, Ctrl-C would also end the emulator.
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.cmd = nil
		return fmt.Errorf("could not start swtpm '%s': %w", strings.Join(p.argv, " "), err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return nil
}

// pair returns two connected stream sockets: one for this process, and one for the emulator.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("could not create socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "emulator socket")
	defer ours.Close() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// awaitStart waits until the emulator has written its process ID.
func (c *child) awaitStart(ctx context.Context) error {
	deadline := time.Now().Add(startWait)
	for {
		if st, err := os.Stat(c.pidFile()); err == nil && st.Size() > 0 {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("swtpm process terminated unexpectedly: %v", c.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("swtpm has not written its process id within %v", startWait)
		}
	}
}

// Execute implements manufacture.TPM.
func (c *child) Execute(ctx context.Context, cmd []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.data.SetDeadline(time.Now().Add(commandWait)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.data.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	rsp, err := exchange(c.data, cmd)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return rsp, err
}

// exchange sends a command and reads the response.
func exchange(conn io.ReadWriter, cmd []byte) ([]byte, error) {
	if _, err := conn.Write(cmd); err != nil {
		return nil, err
	}
	head := make([]byte, tpm.HeaderSize)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	h, _ := tpm.ParseHeader(head)
	if h.Size < tpm.HeaderSize || h.Size > tpm.LargestCommand {
		return nil, fmt.Errorf("invalid size %d in the header of the response", h.Size)
	}
	rsp := append(head, make([]byte, h.Size-tpm.HeaderSize)...)
	if _, err := io.ReadFull(conn, rsp[tpm.HeaderSize:]); err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	return rsp, nil
}

// Info implements manufacture.TPM.
func (c *child) Info(_ context.Context, flags uint64) (string, error) {
	text, err := c.ctrl.Info(flags)
	if err != nil && flags == infoActive {
		return "{}", nil // the emulator does not support profiles
	}
	return text, err
}

// maxState is the size limit of the state of a TPM in bytes.
const maxState = 1 << 20

// finish implements emulator.
func (c *child) finish() ([]byte, error) {
	if err := c.stop(); err != nil {
		return nil, err
	}
	dir, err := safefile.Open(c.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	sealed, _, err := dir.Read(c.prefix+nv.Permanent, maxState)
	if err != nil {
		return nil, fmt.Errorf("missing state after the end of the emulator: %w", err)
	}
	// The payload may be encrypted with a key that only the emulator has read, so only the
	// container is checked.
	if _, err := seal.DescribeFile(sealed); err != nil {
		return nil, fmt.Errorf("damaged state after the end of the emulator: %w", err)
	}
	return sealed, nil
}

// stop stops the emulator by CMD_SHUTDOWN and kills it if it does not end.
func (c *child) stop() error {
	if c.cmd == nil {
		return nil
	}
	c.ctrl.Timeout = stopWait
	err := c.ctrl.Shutdown()
	select {
	case <-c.done:
		if c.err != nil {
			err = errors.Join(err, fmt.Errorf("the emulator failed: %w", c.err))
		}
	case <-time.After(stopWait):
		c.kill()
		err = errors.Join(err, fmt.Errorf("the emulator did not end within %v after CMD_SHUTDOWN", stopWait))
	}
	c.cmd = nil
	return err
}

// kill kills the emulator and its child processes: the emulator may be started by a script.
func (c *child) kill() {
	select {
	case <-c.done: // another process may have its process ID by now
	default:
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
		<-c.done
	}
}

// close kills the emulator if it still runs and removes the temporary directory.
func (c *child) close() error {
	if c.cmd != nil {
		c.kill()
		c.cmd = nil
	}
	if c.data != nil {
		_ = c.data.Close()
	}
	if c.ctrl != nil {
		_ = c.ctrl.Close()
	}
	return c.remove()
}

func (c *child) remove() error { return os.RemoveAll(c.dir) }
