package fleet

import (
	"context"
	"encoding/binary"
	"encoding/hex"
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

// sample is what a TPM answers before and after a restart.
type sample struct {
	On       bool   `json:"on"`
	Locality int    `json:"locality"`
	Commands uint64 `json:"commands"`

	asked bool // the control channel answered
	pcr   registers
}

// registers are the PCRs, as far as a TPM shows them.
type registers struct {
	read    bool
	counter uint32 // TPM 2.0: number of changes of PCRs
	values  map[string]string
	result  tpm.Result // of the command, if it was not success
}

// probeTime is how long a TPM may take to answer. A command of another client, such as the
// generation of a key, comes first.
const probeTime = 30 * time.Second

// take asks a TPM. Its error means that the TPM does not answer. A channel whose last client
// ends the TPM is left alone.
func take(ctx context.Context, t *TPM) (s sample, err error) {
	if t.cfg == nil {
		return s, nil
	}
	var control *ctrl.Client
	if path := controlPath(t); path != "" {
		c, err := dial(ctx, t, path)
		if err != nil {
			return s, fmt.Errorf("control channel: %w", err)
		}
		defer c.Close()
		control = ctrl.NewClient(c)
		control.Timeout = probeTime
		if err := s.status(control); err != nil {
			return s, fmt.Errorf("control channel: %w", err)
		}
	}
	open := dataChannel(ctx, t, control)
	if open == nil {
		return s, nil
	}
	s.pcr, err = readRegisters(open, t.Version == tpm.V20.String())
	if err != nil {
		err = fmt.Errorf("data channel: %w", err)
	}
	return s, err
}

// controlPath returns the path of the control channel, "" if connecting is not harmless.
func controlPath(t *TPM) string {
	if t.cfg.Control.Terminate {
		return ""
	}
	return endpointPath(t, t.cfg.Control.Listen, "ctrl")
}

// endpointPath returns the path of a Unix socket, "" if the endpoint is another kind.
func endpointPath(t *TPM, e config.Endpoint, name string) string {
	switch e.Kind {
	case config.Unix:
		return e.Path
	case config.Systemd:
		return "/run/swtpm/" + t.Name + "/" + name + ".sock"
	}
	return ""
}

// dial connects to a socket of a TPM. The listener must be the TPM's process, or process 1,
// which creates the sockets of units.
func dial(ctx context.Context, t *TPM, path string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
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

// owns reports whether a listener of the process pid can be the TPM's. After a restart the
// listener is the one that the unit's first process created: systemd stored it.
func (t *TPM) owns(pid int) bool {
	if pid == t.PID || pid == 1 || pid == 0 {
		return true
	}
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return errors.Is(err, os.ErrNotExist) && t.Unit != ""
}

// status asks for the status.
func (s *sample) status(c *ctrl.Client) error {
	text, err := c.Info(tpm.InfoStatus)
	if err != nil {
		return err
	}
	var answer struct{ Status *sample }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("GET_INFO: %w", err)
	}
	if answer.Status != nil { // older versions answer {}
		s.On, s.Locality, s.Commands, s.asked = answer.Status.On, answer.Status.Locality, answer.Status.Commands, true
	}
	return nil
}

// dataChannel returns a function that opens a data channel, nil if that is not harmless.
func dataChannel(ctx context.Context, t *TPM, control *ctrl.Client) func() (net.Conn, error) {
	i := t.cfg.Interface
	if i.Type != config.Socket || i.Terminate {
		return nil
	}
	if path := endpointPath(t, i.Server, "data"); path != "" {
		return func() (net.Conn, error) { return dial(ctx, t, path) }
	}
	if i.Server.Kind != config.None || control == nil {
		return nil
	}
	return func() (net.Conn, error) { return passSocket(control) }
}

// passSocket gives the TPM one end of a socket pair as one more client of its data channel,
// and returns the other end.
func passSocket(control *ctrl.Client) (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs, ours := os.NewFile(uintptr(pair[0]), "data"), os.NewFile(uintptr(pair[1]), "data")
	defer theirs.Close()
	defer ours.Close()
	if err := control.SetDataFD(pair[0]); err != nil {
		return nil, err
	}
	return net.FileConn(ours)
}

// readRegisters reads all PCRs.
func readRegisters(open func() (net.Conn, error), version2 bool) (r registers, err error) {
	c, err := open()
	if err != nil {
		return r, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(probeTime))
	r = registers{read: true, values: map[string]string{}}
	for _, cmd := range pcrCommands(version2) {
		rsp, err := exchange(c, cmd)
		if err != nil {
			return r, err
		}
		if result := tpm.Result(binary.BigEndian.Uint32(rsp[6:])); result != tpm.Success {
			r.result = result
			return r, nil
		}
		rest := rsp[10:]
		if version2 {
			if len(rest) < 4 {
				return r, errors.New("short response")
			}
			r.counter = binary.BigEndian.Uint32(rest)
			rest = rest[4:]
		}
		r.values[hex.EncodeToString(cmd[10:])] = hex.EncodeToString(rest)
	}
	return r, nil
}

// pcrCommands returns the commands that read all PCRs: TPM2_PCR_Read returns eight of one
// bank at a time, TPM_PCRRead one.
func pcrCommands(version2 bool) (cmds [][]byte) {
	be := binary.BigEndian
	if !version2 {
		for i := range uint32(24) {
			cmds = append(cmds, be.AppendUint32([]byte{0, 0xc1, 0, 0, 0, 14, 0, 0, 0, 0x15}, i))
		}
		return cmds
	}
	const sha1, sha256, sha384, sha512 = 0x4, 0xb, 0xc, 0xd
	for _, bank := range []uint16{sha1, sha256, sha384, sha512} {
		for part := range 3 {
			cmd := []byte{0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1}
			selection := [3]byte{}
			selection[part] = 0xff
			cmd = append(be.AppendUint16(cmd, bank), 3)
			cmds = append(cmds, append(cmd, selection[:]...))
		}
	}
	return cmds
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
