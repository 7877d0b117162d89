package ctrl

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"golang.org/x/sys/unix"
)

// Limits of what a server is believed, in bytes. The text of GET_INFO is some
// kilobytes; a state blob is at most MaxBlob for a server that takes it
// back, but an old one may have more.
const (
	maxInfoText = 16 << 20
	maxState    = 64 << 20
)

// Capability asks which requests the server takes.
func (c *Client) Capability() (Capability, error) {
	var rep CapabilityRep
	err := c.do(clientRequest{"GET_CAPABILITY", GetCapability, nil}, &rep)
	return rep.Caps, err
}

// Init powers the TPM on, off and on if it is on.
func (c *Client) Init(flags InitFlags) error {
	return c.simple(clientRequest{"INIT", Init, InitReq{Flags: flags}})
}

// Shutdown powers the TPM off and ends the emulator.
func (c *Client) Shutdown() error {
	return c.simple(clientRequest{"SHUTDOWN", Shutdown, nil})
}

// Stop powers the TPM off.
func (c *Client) Stop() error {
	return c.simple(clientRequest{"STOP", Stop, nil})
}

// Established asks for the tpmEstablished bit.
func (c *Client) Established() (bool, error) {
	var rep EstablishedRep
	err := c.do(clientRequest{"GET_TPMESTABLISHED", GetTPMEstablished, nil}, &rep)
	return rep.Bit != 0, err
}

// ResetEstablished clears the tpmEstablished bit; localities 3 and 4 may.
func (c *Client) ResetEstablished(l tpm.Locality) error {
	return c.simple(clientRequest{"RESET_TPMESTABLISHED", ResetTPMEstablished, LocalityReq{Locality: l}})
}

// SetLocality sets the locality of the commands that follow.
func (c *Client) SetLocality(l tpm.Locality) error {
	return c.simple(clientRequest{"SET_LOCALITY", SetLocality, LocalityReq{Locality: l}})
}

// HashStart begins a measurement of locality 4, as TPM_HASH_START does.
func (c *Client) HashStart() error {
	return c.simple(clientRequest{"HASH_START", HashStart, nil})
}

// HashData adds b to the measurement. swtpm reads pieces of at most 4096 bytes
// at once; longer ones are fine but slower.
func (c *Client) HashData(b []byte) error {
	return c.simple(clientRequest{"HASH_DATA", HashData, hashReq(b)})
}

// hashReq returns the body of HASH_DATA: u32 length, bytes.
func hashReq(b []byte) []byte {
	n := uint32(len(b))
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, b...)
}

// HashEnd ends the measurement and extends PCR 17.
func (c *Client) HashEnd() error {
	return c.simple(clientRequest{"HASH_END", HashEnd, nil})
}

// Cancel cancels the command that the TPM works on.
func (c *Client) Cancel() error {
	return c.simple(clientRequest{"CANCEL_TPM_CMD", CancelTPMCmd, nil})
}

// StoreVolatile makes the server store the volatile state.
func (c *Client) StoreVolatile() error {
	return c.simple(clientRequest{"STORE_VOLATILE", StoreVolatile, nil})
}

// State asks for a state blob, without the server's encryption if decrypted is
// true. A blob that does not exist is an error with bit 0x800 in its
// tpm.Result. flags tells whether the blob is encrypted with the file key.
func (c *Client) State(b tpm.Blob, decrypted bool) (blob []byte, flags StateFlags, err error) {
	body := GetStateReq{Type: b}
	if decrypted {
		body.Flags = Decrypted
	}
	q := clientRequest{"GET_STATEBLOB", GetStateBlob, body}
	if err := c.send(q, nil); err != nil {
		return nil, 0, q.wrap(err)
	}
	var rep GetStateRep
	rest, err := c.receive(&rep)
	if err != nil {
		return nil, 0, q.wrap(err)
	}
	switch {
	case rep.Length != rep.Total:
		err = fmt.Errorf("%w: %d of %d bytes announced, want all", ErrReply, rep.Length, rep.Total)
	case rep.Total > maxState:
		err = fmt.Errorf("%w: %d bytes announced, want at most %d", ErrReply, rep.Total, maxState)
	case uint32(len(rest)) > rep.Total:
		err = fmt.Errorf("%w: %d bytes too many", ErrReply, uint32(len(rest))-rep.Total)
	}
	if err != nil {
		return nil, 0, q.wrap(err)
	}
	blob, err = c.readRest(rest, int(rep.Total))
	return blob, rep.Flags, q.wrap(err)
}

// readRest reads behind rest until there are n bytes. It does not reserve room
// for more than came. Each piece has its own time.
func (c *Client) readRest(rest []byte, n int) ([]byte, error) {
	b := bytes.NewBuffer(rest)
	for b.Len() < n {
		if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
			return nil, err
		}
		_, err := io.CopyN(b, c.conn, int64(min(n-b.Len(), 64<<10)))
		switch {
		case err == io.EOF:
			return nil, fmt.Errorf("%w: the server closed the connection after %d of %d bytes", ErrReply, b.Len(), n)
		case err != nil:
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// SetState hands a state blob to a TPM that is off; flags may say that it is
// encrypted with the file key, which the blob itself says as well. The header
// and the blob are written one after the other, as QEMU does. After an error
// the connection is of no use any more if the blob was not read.
func (c *Client) SetState(b tpm.Blob, flags StateFlags, blob []byte) error {
	q := clientRequest{"SET_STATEBLOB", SetStateBlob, SetStateReq{Flags: flags, Type: b, Length: uint32(len(blob))}}
	if err := c.send(q, nil); err != nil {
		return q.wrap(err)
	}
	// A server that refuses the blob by its header may never read it, so the
	// reply is awaited while the blob is written.
	sent := make(chan error, 1)
	go func() {
		var err error
		if len(blob) > 0 { // an empty datagram would be a request
			_, err = c.conn.Write(blob)
		}
		sent <- err
	}()
	var r tpm.Result
	err := c.receiveAll(&r)
	if err != nil {
		c.conn.SetWriteDeadline(time.Now()) // nobody wants the rest
		<-sent
		return q.wrap(err)
	}
	return q.wrap(<-sent)
}

// Config asks which keys the server has.
func (c *Client) Config() (ConfigFlags, error) {
	var rep ConfigRep
	err := c.do(clientRequest{"GET_CONFIG", GetConfig, nil}, &rep)
	return rep.Flags, err
}

// SetDataFD hands over fd, a connected socket, as the data channel. fd stays
// open with the caller. It needs a Unix socket.
func (c *Client) SetDataFD(fd int) error {
	q := clientRequest{"SET_DATAFD", SetDataFD, nil}
	if err := c.send(q, unix.UnixRights(fd)); err != nil {
		return q.wrap(err)
	}
	var r tpm.Result
	return q.wrap(c.receiveAll(&r))
}

// BufferSize asks for a buffer of n bytes, or with 0 just asks; rep tells the
// size in force and its limits.
func (c *Client) BufferSize(n uint32) (rep BufferSizeRep, err error) {
	err = c.do(clientRequest{"SET_BUFFERSIZE", SetBufferSize, BufferSizeReq{Size: n}}, &rep)
	return rep, err
}

// Info asks for the text that describes the TPM; flags are libtpms's
// TPMLIB_INFO_*. It comes in as many pieces as it takes.
func (c *Client) Info(flags uint64) (string, error) {
	var text []byte
	for {
		q := clientRequest{"GET_INFO", GetInfo, InfoReq{Flags: flags, Offset: uint32(len(text))}}
		rep, piece, err := c.infoPiece(q)
		if err != nil {
			return "", q.wrap(err)
		}
		text = append(text, piece...)
		switch have := uint32(len(text)); {
		case rep.Total > maxInfoText || have > rep.Total || len(piece) == 0:
			return "", q.wrap(fmt.Errorf("%w: %d bytes of %d after a piece of %d", ErrReply, have, rep.Total, len(piece)))
		case have == rep.Total:
			return string(bytes.TrimSuffix(text, []byte{0})), nil
		}
	}
}

// infoPiece sends q and reads a piece of the text.
func (c *Client) infoPiece(q clientRequest) (rep InfoRep, piece []byte, err error) {
	if err := c.send(q, nil); err != nil {
		return rep, nil, err
	}
	rest, err := c.receive(&rep)
	if err != nil {
		return rep, nil, err
	}
	if rep.Length > MaxInfo || uint32(len(rest)) > rep.Length {
		return rep, nil, fmt.Errorf("%w: a piece of %d bytes announced, want %d to %d", ErrReply, rep.Length, len(rest), MaxInfo)
	}
	piece, err = c.readRest(rest, int(rep.Length))
	return rep, piece, err
}

// LockStorage makes the server lock its state, trying n times more, 10 ms
// apart, if somebody else has it.
func (c *Client) LockStorage(n uint32) error {
	defer func(t time.Duration) { c.Timeout = t }(c.Timeout)
	c.Timeout += time.Duration(n) * 10 * time.Millisecond
	return c.simple(clientRequest{"LOCK_STORAGE", LockStorage, LockStorageReq{Retries: n}})
}
