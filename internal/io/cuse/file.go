package cuse

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// file is the state of the open device. The mu of the device is held.
type file struct {
	open    bool
	rsp     []byte        // the response
	off     int           // bytes of it that were read
	running chan struct{} // closed when the running command has ended; nil if none runs
	watch   []uint64      // polls that are to be notified

	out blobOut
	in  blobIn
}

// open allows one open file at a time.
//
// Compat: C-262: a second open fails with EBUSY.
func (d *Device) open() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file.open {
		return nil, unix.EBUSY
	}
	d.file.open = true
	return encode(openOut{Flags: directIO | nonSeekable}, nil), nil
}

// release allows the next open. A response that was not read stays, as in swtpm.
func (d *Device) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file.open = false
	d.file.watch = nil
	d.file.out.end()
	d.file.in.end()
}

// isAsynchronous reports whether a command may take long: write returns before it has run, so
// that the user can cancel it.
//
// Source: swtpm, cuse_tpm.c: TPM2_CreatePrimary, TPM2_Create; TPM_TakeOwnership,
// TPM_CreateWrapKey.
func isAsynchronous(v tpm.Version, c tpm.Code) bool {
	if v == tpm.V12 {
		return c == 0x0d || c == 0x1f
	}
	return c == 0x131 || c == 0x153
}

// begin accepts the bytes of a write: a command, which the caller then runs, or, while a
// state blob is set, a piece of it. rep is the answer to the write.
func (d *Device) begin(body []byte) (cmd, rep []byte, err error) {
	var in readIn
	b, err := decode(body, &in)
	if err != nil || int(in.Size) != len(b) {
		return nil, nil, unix.EINVAL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.file.out.reading:
		d.file.out.end()
		return nil, nil, unix.EIO
	case d.file.in.writing:
		err := d.file.in.add(b)
		return nil, encode(writeOut{Size: in.Size}, nil), err
	case d.file.running != nil:
		return nil, nil, unix.EBUSY
	}
	cmd = append([]byte{}, b[:min(len(b), d.tpm.MaxCommand())]...)
	d.file.running = make(chan struct{})
	d.setResponse(nil)
	d.opt.Log.Dump(" SWTPM_IO_Read:", cmd)
	return cmd, encode(writeOut{Size: uint32(len(cmd))}, nil), nil
}

// run runs a command and stores its response for read.
func (d *Device) run(cmd []byte) error {
	rsp, err := d.execute(cmd)
	clear(cmd)
	if err != nil {
		d.opt.Log.Errorf("%v", err)
		rsp, err = nil, unix.EIO
	}
	if rsp != nil {
		d.opt.Log.Dump(" SWTPM_IO_Write:", rsp)
	}
	d.mu.Lock()
	d.setResponse(rsp)
	running := d.file.running
	d.file.running = nil
	watch := d.file.watch
	d.file.watch = nil
	d.mu.Unlock()
	close(running)
	for _, kernel := range watch {
		_, _ = unix.Write(d.fd, message(0, notifyPoll, encode(kernel, nil)))
	}
	return err
}

// execute runs one command. A device accepts no prefix in front of a TPM 2.0 command.
func (d *Device) execute(cmd []byte) ([]byte, error) {
	const badTag = 0x84 // TPM_RC_TAG with parameter 0, as libtpms answers
	v := d.tpm.Version()
	switch {
	case tpm.Prefixed(v, cmd) && d.tpm.On():
		return tpm.ErrorResponse(v, badTag), nil
	case tpm.Prefixed(v, cmd):
		return tpm.ErrorResponse(v, tpm.RCFailure), nil
	}
	return d.tpm.Execute(cmd)
}

func (d *Device) setResponse(rsp []byte) {
	clear(d.file.rsp)
	d.file.rsp, d.file.off = rsp, 0
}

// read returns the next part of the response, after the running command has ended; nothing
// if no part is left. While a state blob is fetched, read returns the blob.
func (d *Device) read(body []byte, stop <-chan struct{}) ([]byte, error) {
	var in readIn
	if _, err := decode(body, &in); err != nil {
		return nil, err
	}
	d.mu.Lock()
	running := d.file.running
	d.mu.Unlock()
	if running != nil {
		if in.OpenFlags&unix.O_NONBLOCK != 0 {
			return nil, unix.EAGAIN
		}
		select {
		case <-running:
		case <-stop:
			return nil, unix.EINTR
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch f := &d.file; {
	case f.in.writing:
		return nil, unix.EIO
	case f.out.reading:
		return f.out.read(int(in.Size)), nil
	default:
		part := append([]byte(nil), f.rsp[f.off:min(len(f.rsp), f.off+int(in.Size))]...)
		f.off += len(part)
		return part, nil
	}
}

// poll reports whether a read would return bytes and a write would be accepted.
func (d *Device) poll(body []byte) ([]byte, error) {
	var in pollIn
	if _, err := decode(body, &in); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out pollOut
	if d.file.running == nil {
		out.Events = unix.POLLOUT
		if d.file.off < len(d.file.rsp) || d.file.out.reading {
			out.Events |= unix.POLLIN
		}
	} else if in.Flags&pollNotify != 0 && !slices.Contains(d.file.watch, in.Kernel) {
		d.file.watch = append(d.file.watch, in.Kernel)
	}
	return encode(out, nil), nil
}
