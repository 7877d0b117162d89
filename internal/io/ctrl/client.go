package ctrl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// requestTimeout is how long a request waits for its reply, and Dial for space in the
// queue of a Unix socket.
const requestTimeout = 20 * time.Second

// Limits of the lengths that a client accepts from a server, in bytes. The text of
// GET_INFO has some kilobytes; a state blob has at most MaxBlob if the server accepts it
// back, but may be longer if the server is old.
const (
	maxInfoText = 16 << 20
	maxState    = 64 << 20
)

// ErrReply is in the chain of an error if the reply has the wrong length or contradicts
// itself. The connection cannot be used any more.
var ErrReply = errors.New("unexpected reply")

// Client sends requests to an emulator, this one or swtpm, over a socket or to its device.
// It is not safe for concurrent use, but any goroutine may call Close.
//
// If a request is refused, the error wraps the tpm.Result. If no reply arrives in time, it wraps
// ETIMEDOUT.
type Client struct {
	// Timeout is how long each request on a socket waits; NewClient sets it to 20 seconds.
	Timeout time.Duration

	carrier carrier
}

// carrier carries requests to the emulator.
type carrier interface {
	// do sends a request and decodes the reply. It returns the data that follows
	// the struct of the reply. A result other than success is the error.
	do(x *call) (data []byte, err error)

	// getState and setState move a blob in the pieces of the carrier.
	getState(x *call) (blob []byte, flags StateFlags, err error)
	setState(x *call, blob []byte) error

	Close() error
}

// call is a request and its reply.
type call struct {
	*Request
	wait   time.Duration
	body   any    // the struct that the body starts with; nil if there is no body
	data   []byte // follows it
	rights []byte // control message with descriptors; nil if there are none
	rep    any    // points to the struct that the reply starts with
	limit  int    // the largest number of bytes that may follow the struct
}

// call returns the call of a request.
func (c *Client) call(code Code, body any, data []byte, rep any) *call {
	r := Find(code)
	return &call{Request: r, wait: c.Timeout, body: body, data: data, rep: rep, limit: r.repData}
}

// do sends a request and decodes the reply into rep. It names the request in its error.
func (c *Client) do(code Code, body any, data []byte, rep any) (more []byte, err error) {
	x := c.call(code, body, data, rep)
	more, err = c.carrier.do(x)
	return more, x.wrap(err)
}

// simple sends a request whose reply is the result.
func (c *Client) simple(code Code, body any) error {
	_, err := c.do(code, body, nil, &ResultRep{})
	return err
}

// wrap adds the name of the request to its error.
func (x *call) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no reply in time: %w", unix.ETIMEDOUT)
	}
	return fmt.Errorf("%s: %w", x.Name, err)
}

// Close closes the connection.
func (c *Client) Close() error { return c.carrier.Close() }

// Capability returns the requests that the server accepts.
func (c *Client) Capability() (Capability, error) {
	var rep CapabilityRep
	_, err := c.do(GetCapability, nil, nil, &rep)
	return rep.Caps, err
}

// Init powers the TPM on; if it is on already, off and on.
func (c *Client) Init(flags InitFlags) error { return c.simple(Init, InitReq{flags}) }

// Shutdown powers the TPM off and ends the emulator.
func (c *Client) Shutdown() error { return c.simple(Shutdown, nil) }

// Stop powers the TPM off.
func (c *Client) Stop() error { return c.simple(Stop, nil) }

// Established returns the tpmEstablished bit.
func (c *Client) Established() (bool, error) {
	var rep EstablishedRep
	_, err := c.do(GetTPMEstablished, nil, nil, &rep)
	return rep.Bit != 0, err
}

// ResetEstablished clears the tpmEstablished bit, which localities 3 and 4 may do.
func (c *Client) ResetEstablished(l tpm.Locality) error {
	return c.simple(ResetTPMEstablished, LocalityReq{l})
}

// SetLocality sets the locality of the commands that follow.
func (c *Client) SetLocality(l tpm.Locality) error { return c.simple(SetLocality, LocalityReq{l}) }

// HashStart starts a measurement of locality 4, as TPM_HASH_START does.
func (c *Client) HashStart() error { return c.simple(HashStart, nil) }

// HashData adds b to the measurement. A device accepts at most MaxHash bytes; a socket
// accepts more, but swtpm is slower then.
func (c *Client) HashData(b []byte) error {
	_, err := c.do(HashData, HashReq{uint32(len(b))}, b, &ResultRep{})
	return err
}

// HashEnd ends the measurement and extends PCR 17.
func (c *Client) HashEnd() error { return c.simple(HashEnd, nil) }

// Cancel cancels the command that runs.
func (c *Client) Cancel() error { return c.simple(CancelTPMCmd, nil) }

// StoreVolatile stores the volatile state.
func (c *Client) StoreVolatile() error { return c.simple(StoreVolatile, nil) }

// State returns a state blob, without the server's encryption if decrypted is true. A blob
// that does not exist is an error with bit 0x800 in its tpm.Result. flags has Encrypted if
// the blob is encrypted with the file key.
func (c *Client) State(b tpm.Blob, decrypted bool) (blob []byte, flags StateFlags, err error) {
	q := GetStateReq{Type: b}
	if decrypted {
		q.Flags = Decrypted
	}
	x := c.call(GetStateBlob, q, nil, &GetStateRep{})
	blob, flags, err = c.carrier.getState(x)
	return blob, flags, x.wrap(err)
}

// Snapshot returns all state blobs of a running TPM at one moment, as State returns them.
// An emulator that cannot do so refuses the request, with a tpm.Result.
func (c *Client) Snapshot(decrypted bool) (*tpm.Snapshot, StateFlags, error) {
	b, flags, err := c.State(tpm.SnapshotBlob, decrypted)
	if err != nil {
		return nil, 0, err
	}
	s, err := tpm.DecodeSnapshot(b)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: %w", Find(GetStateBlob), ErrReply, err)
	}
	return s, flags, nil
}

// SetState passes a state blob to a TPM that is off; flags may say that it is encrypted
// with the file key, which the blob's header contains, too. If the server refuses the request before
// it has read the blob, the connection cannot be used any more.
func (c *Client) SetState(b tpm.Blob, flags StateFlags, blob []byte) error {
	x := c.call(SetStateBlob, SetStateReq{Flags: flags, Type: b}, nil, &ResultRep{})
	return x.wrap(c.carrier.setState(x, blob))
}

// Config returns the keys that the server has.
func (c *Client) Config() (ConfigFlags, error) {
	var rep ConfigRep
	_, err := c.do(GetConfig, nil, nil, &rep)
	return rep.Flags, err
}

// SetDataFD passes fd, a connected socket, to the server as the data channel. fd stays open
// here. It requires a Unix socket.
func (c *Client) SetDataFD(fd int) error {
	x := c.call(SetDataFD, nil, nil, &ResultRep{})
	x.rights = unix.UnixRights(fd)
	_, err := c.carrier.do(x)
	return x.wrap(err)
}

// BufferSize sets a buffer size of n bytes, or with 0 queries it.
func (c *Client) BufferSize(n uint32) (rep BufferSizeRep, err error) {
	_, err = c.do(SetBufferSize, BufferSizeReq{n}, nil, &rep)
	return rep, err
}

// Info returns the text that describes the TPM; flags are TPMLIB_INFO_* of libtpms. It
// takes as many requests as the text has pieces.
func (c *Client) Info(flags uint64) (string, error) {
	var text []byte
	for {
		var rep InfoRep
		piece, err := c.do(GetInfo, InfoReq{Flags: flags, Offset: uint32(len(text))}, nil, &rep)
		if err != nil {
			return "", err
		}
		text = append(text, piece...)
		switch have := uint32(len(text)); {
		case rep.Total > maxInfoText || have > rep.Total || len(piece) == 0:
			return "", fmt.Errorf("%s: %w: %d bytes of %d after a piece of %d", Find(GetInfo), ErrReply, have, rep.Total, len(piece))
		case have == rep.Total:
			return string(bytes.TrimSuffix(text, []byte{0})), nil
		}
	}
}

// LockStorage locks the state, with n more tries, 10 ms apart, while another process has
// the lock.
func (c *Client) LockStorage(n uint32) error {
	x := c.call(LockStorage, LockStorageReq{n}, nil, &ResultRep{})
	x.wait += time.Duration(n) * 10 * time.Millisecond
	_, err := c.carrier.do(x)
	return x.wrap(err)
}
