package fleet

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// sample contains the replies of a TPM before or after a restart.
type sample struct {
	On       bool     `json:"on"`
	Locality int      `json:"locality"`
	PCRs     tpm.PCRs `json:"pcrs"`

	status bool // the TPM reported its status
	pcrs   bool // the PCRs were read
}

// probeTime is how long a TPM may take to answer. It may execute a command of another client
// first, such as the generation of a key.
const probeTime = 30 * time.Second

// take asks a TPM, which must answer within the time most. An error means that the TPM does not
// answer. take does not connect to a channel if the TPM ends with its last client.
func take(ctx context.Context, t *TPM, most time.Duration) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", most)
		}
	}()
	if t.cfg == nil {
		return s, nil
	}
	if path := controlPath(t); path != "" {
		if err := s.ask(ctx, t, path); err != nil {
			return s, fmt.Errorf("control channel: %w", err)
		}
	}
	if path := dataPath(t); path != "" && !s.pcrs {
		if err := s.read(ctx, t, path); err != nil {
			return s, fmt.Errorf("data channel: %w", err)
		}
	}
	return s, nil
}

// ask asks for the status on the control channel.
func (s *sample) ask(ctx context.Context, t *TPM, path string) error {
	c, err := dial(ctx, t, path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // also if it answers byte by byte
	client := ctrl.NewClient(c)
	client.Timeout = probeTime
	text, err := client.Info(tpm.InfoStatus)
	if err != nil {
		return err
	}
	var answer struct{ Status *sample }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("GET_INFO: %w", err)
	}
	if answer.Status != nil { // older versions answer {}
		*s = *answer.Status
		s.status, s.pcrs = true, true
	}
	return nil
}

// read reads the PCRs on the data channel.
func (s *sample) read(ctx context.Context, t *TPM, path string) error {
	c, err := dial(ctx, t, path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // also if it answers byte by byte
	s.PCRs, err = tpm.ReadPCRs(t.cfg.TPM, func(cmd []byte) ([]byte, error) { return exchange(c, cmd) })
	s.pcrs = err == nil
	return err
}

// controlPath returns the path of the control channel, "" if a connection could disturb the TPM.
func controlPath(t *TPM) string {
	if t.cfg.Control.Terminate {
		return ""
	}
	return endpointPath(t, t.cfg.Control.Listen, "ctrl")
}

// dataPath returns the path of the data channel, "" if a connection could disturb the TPM.
func dataPath(t *TPM) string {
	if i := t.cfg.Interface; i.Type != config.Socket || i.Terminate || i.Disconnect {
		return ""
	}
	return endpointPath(t, t.cfg.Interface.Server, "data")
}

// endpointPath returns the path of a Unix socket, "" if the endpoint is another kind.
func endpointPath(t *TPM, e config.Endpoint, name string) string {
	switch e.Kind {
	case config.Unix:
		return e.Path
	case config.Systemd:
		return passedPath(t.Name, name, t.listening)
	}
	return ""
}

// dial connects to a socket of a TPM. The process that listens must be the TPM, or process 1, which
// creates the sockets of units.
func dial(ctx context.Context, t *TPM, path string) (*net.UnixConn, error) {
	c, err := ctrl.Connect(ctx, "unix", path, probeTime)
	if err != nil {
		return nil, err
	}
	u := c.(*net.UnixConn)
	raw, err := u.SyscallConn()
	if err == nil {
		var cred *unix.Ucred
		controlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		err = errors.Join(controlErr, err)
		if err == nil && !t.owns(int(cred.Pid)) {
			err = fmt.Errorf("socket %q belongs to process %d, not to the TPM's process %d", path, cred.Pid, t.PID)
		}
	}
	if err != nil {
		_ = u.Close()
		return nil, err
	}
	return u, nil
}

// owns reports whether a listening socket of the process pid can belong to the TPM. After a restart
// the TPM has the socket that the first process of the unit created, which systemd has stored.
func (t *TPM) owns(pid int) bool {
	if pid == t.PID || pid == 1 || pid == 0 {
		return true
	}
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return errors.Is(err, os.ErrNotExist) && t.Unit != ""
}

// exchange sends a command and reads the response.
func exchange(c net.Conn, cmd []byte) ([]byte, error) {
	const header, most = 10, 4096
	if _, err := c.Write(cmd); err != nil {
		return nil, err
	}
	rsp := make([]byte, header, most)
	if _, err := io.ReadFull(c, rsp); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(rsp[2:])
	if n < header || n > most {
		return nil, fmt.Errorf("response of %d bytes", n)
	}
	rsp = rsp[:n]
	_, err := io.ReadFull(c, rsp[header:])
	return rsp, err
}
