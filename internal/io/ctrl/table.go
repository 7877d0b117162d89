package ctrl

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// request is one request as its handler sees it.
type request struct {
	body   []byte // what came with the code; in session.buf
	fd     int    // the descriptor that came along, or -1
	client int    // the client's socket
	unread int    // bytes of the body that were not received
	last   bool   // nothing can follow: the body was cut short, or the process ends
	after  func() // runs once the reply is out
}

// decode fills the fields of q, a pointer to a wire struct, from the start of
// the body. A short body is a bad parameter.
func (r *request) decode(q any) error {
	if _, err := binary.Decode(r.body, binary.BigEndian, q); err != nil {
		return tpm.BadParameter
	}
	return nil
}

// when says in which state of the TPM a request is taken.
type when uint8

const (
	always when = iota
	whenOn
	whenOff
)

// command is one row of the protocol. The checks are made in the order of the
// fields: state, then exact length of the body if that is not negative, then
// what do does.
//
// The reply is a wire struct or bytes; nil stands for the result alone, which is
// also what a client gets for an error without a reply.
type command struct {
	name   string
	when   when
	exact  int
	engine bool // do may have to wait for the engine or the disk
	do     func(s *Server, r *request) (reply any, err error)
	stream func(c *session) // in place of do: receives a body of any length
}

// Where a request is executed.
const (
	here     = false
	inEngine = true
)

var commands = map[Code]command{
	GetCapability:       {"GET_CAPABILITY", always, -1, here, (*Server).getCapability, nil},
	Init:                {"INIT", always, 4, inEngine, (*Server).init, nil},
	Shutdown:            {"SHUTDOWN", always, 0, inEngine, (*Server).shutdown, nil},
	GetTPMEstablished:   {"GET_TPMESTABLISHED", whenOn, 0, here, (*Server).getEstablished, nil},
	SetLocality:         {"SET_LOCALITY", always, -1, here, (*Server).setLocality, nil},
	HashStart:           {"HASH_START", whenOn, 0, inEngine, simple(TPM.HashStart), nil},
	HashData:            {"HASH_DATA", whenOn, -1, inEngine, nil, (*session).hashData},
	HashEnd:             {"HASH_END", whenOn, 0, inEngine, simple(TPM.HashEnd), nil},
	CancelTPMCmd:        {"CANCEL_TPM_CMD", whenOn, 0, here, simple(TPM.Cancel), nil},
	StoreVolatile:       {"STORE_VOLATILE", whenOn, 0, inEngine, simple(TPM.StoreVolatile), nil},
	ResetTPMEstablished: {"RESET_TPMESTABLISHED", whenOn, -1, inEngine, (*Server).resetEstablished, nil},
	GetStateBlob:        {"GET_STATEBLOB", whenOn, -1, inEngine, (*Server).getState, nil},
	SetStateBlob:        {"SET_STATEBLOB", whenOff, -1, inEngine, nil, (*session).setState},
	Stop:                {"STOP", always, 0, inEngine, simple(TPM.Stop), nil},
	GetConfig:           {"GET_CONFIG", always, 0, here, (*Server).getConfig, nil},
	SetDataFD:           {"SET_DATAFD", always, -1, here, (*Server).setDataFD, nil},
	SetBufferSize:       {"SET_BUFFERSIZE", always, -1, inEngine, nil, (*session).setBufferSize},
	GetInfo:             {"GET_INFO", always, -1, inEngine, (*Server).getInfo, nil},
	LockStorage:         {"LOCK_STORAGE", always, -1, inEngine, (*Server).lockStorage, nil},
}

// powersOff are the requests that power the TPM off: they end the wait of a command for
// a full disk, which holds the engine.
var powersOff = map[Code]bool{Init: true, Shutdown: true, Stop: true}

// encode returns the bytes of a reply, or of the result alone.
func encode(reply any, err error) []byte {
	if b, ok := reply.([]byte); ok {
		return b
	}
	if reply == nil {
		reply = tpm.ResultOf(err)
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.BigEndian, reply) // wire structs have fixed size
	return b.Bytes()
}

// refusal is the reply of the result TPM_FAIL to a request whose handler is not
// there to say more. It is as long as that of success: a client that reads so much
// whatever the result is, as QEMU before 9 does, must not wait for ever.
func refusal(code Code) []byte {
	var long any
	switch code {
	case GetCapability:
		long = CapabilityRep{Result: tpm.Fail}
	case GetTPMEstablished:
		long = EstablishedRep{Result: tpm.Fail}
	case GetStateBlob:
		long = GetStateRep{Result: tpm.Fail}
	case GetConfig:
		long = ConfigRep{Result: tpm.Fail}
	case SetBufferSize:
		long = BufferSizeRep{Result: tpm.Fail}
	case GetInfo:
		long = InfoRep{Result: tpm.Fail}
	}
	return encode(long, tpm.Fail)
}

// simple is a request without body whose reply is the result.
func simple(f func(TPM) error) func(*Server, *request) (any, error) {
	return func(s *Server, _ *request) (any, error) { return nil, f(s.tpm) }
}

func (s *Server) getCapability(*request) (any, error) {
	if s.tpm.Version() == tpm.V12 {
		return CapabilityRep{Caps: Capabilities12}, nil
	}
	return CapabilityRep{Caps: Capabilities20}, nil
}

func (s *Server) init(r *request) (any, error) {
	var q InitReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	return nil, s.tpm.Init(q.Flags&InitDeleteVolatile != 0)
}

func (s *Server) shutdown(r *request) (any, error) {
	r.after, r.last = s.opt.Shutdown, true
	return nil, s.tpm.Stop()
}

func (s *Server) getEstablished(*request) (any, error) {
	bit, err := s.tpm.Established()
	rep := EstablishedRep{Result: tpm.ResultOf(err)}
	if bit {
		rep.Bit = 1
	}
	return rep, nil
}

func (s *Server) setLocality(r *request) (any, error) {
	var q LocalityReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	return nil, s.tpm.SetLocality(q.Locality)
}

func (s *Server) resetEstablished(r *request) (any, error) {
	var q LocalityReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	return nil, s.tpm.ResetEstablished(q.Locality)
}

// hashData takes a length and that many bytes, however many.
func (c *session) hashData() {
	if len(c.req.body) < 4 {
		c.finish(nil, tpm.BadParameter)
		return
	}
	left, chunk := int(binary.BigEndian.Uint32(c.req.body)), c.req.body[4:]
	if len(chunk) > left {
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.body.left = left
	c.hash(chunk)
}

// hash hashes a chunk of the body.
func (c *session) hash(chunk []byte) {
	c.engine(func() (any, error) { return nil, c.s.tpm.HashData(chunk) }, func(_ any, err error) {
		c.body.left -= len(chunk)
		c.req.unread = c.body.left
		if err != nil || c.body.left == 0 {
			c.finish(nil, err)
			return
		}
		c.receive(hashing, c.buf[:min(c.body.left, len(c.buf))], bodyWait)
	})
}

// hashMore hashes the next n bytes.
func (c *session) hashMore(n int, err error) {
	if err != nil {
		c.req.unread, c.req.last = 0, true
		c.finish(nil, tpm.IOError)
		return
	}
	c.hash(c.into[:n])
}

// getState sends the blob from the offset to its end. A client asks for the
// savestate last, before the guest goes on elsewhere: the storage lock is given
// away then, before the client has its reply and can tell the other side.
func (s *Server) getState(r *request) (any, error) {
	var q GetStateReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	blob, encrypted, err := s.tpm.State(q.Type, q.Flags&Decrypted != 0)
	defer clear(blob)
	if q.Type == tpm.Savestate {
		s.tpm.ReleaseStorage()
	}
	blob = blob[min(uint64(q.Offset), uint64(len(blob))):]
	rep := GetStateRep{Result: tpm.ResultOf(err), Total: uint32(len(blob)), Length: uint32(len(blob))}
	if encrypted {
		rep.Flags = Encrypted
	}
	return append(encode(rep, nil), blob...), err
}

// setState collects a blob before it asks for the engine, so that a slow sender
// holds up nobody.
func (c *session) setState() {
	c.engine(func() (any, error) { return nil, c.s.tpm.PrepareSetState() }, func(_ any, err error) {
		if err != nil {
			c.req.after = func() { c.s.opt.Fail(err) }
			c.finish(nil, tpm.IOError)
			return
		}
		c.prepared()
	})
}

// prepared begins to collect the blob.
func (c *session) prepared() {
	q := &c.body.set
	if err := c.req.decode(q); err != nil {
		c.finish(nil, err)
		return
	}
	switch size := binary.Size(q); {
	case q.Length > MaxBlob:
		c.finish(nil, tpm.Fail)
	case len(c.req.body)-size > int(q.Length):
		c.finish(nil, tpm.BadParameter)
	default:
		c.body.blob = append(make([]byte, 0, q.Length), c.req.body[size:]...)
		c.collect()
	}
}

// collect waits for the rest of a blob, or hands it to the TPM.
func (c *session) collect() {
	b := &c.body
	if n := len(b.blob); n < int(b.set.Length) {
		c.receive(collecting, b.blob[n:b.set.Length], bodyWait)
		return
	}
	c.req.unread = 0
	if b.set.Type.Name() == "" {
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.engine(func() (any, error) {
		return nil, c.s.tpm.SetState(b.set.Type, b.set.Flags&Encrypted != 0, b.blob)
	}, c.finish)
}

// collectMore adds n bytes to the blob.
func (c *session) collectMore(n int, err error) {
	if err != nil {
		c.req.unread, c.req.last = 0, true
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.body.blob = c.body.blob[:len(c.body.blob)+n]
	c.collect()
}

func (s *Server) getConfig(*request) (any, error) {
	var rep ConfigRep
	file, migration := s.tpm.Keys()
	if file {
		rep.Flags |= HasFileKey
	}
	if migration {
		rep.Flags |= HasMigrationKey
	}
	return rep, nil
}

func (s *Server) setDataFD(r *request) (any, error) {
	switch {
	case s.opt.DataBusy():
		return nil, fmt.Errorf("there is a data channel already: %w", tpm.IOError)
	case r.fd < 0:
		return nil, noDescriptor(r.client)
	}
	if err := s.opt.DataFD(r.fd); err != nil {
		return nil, fmt.Errorf("%w: %w", err, tpm.IOError)
	}
	r.fd = -1 // the data channel owns it now
	return nil, nil
}

// noDescriptor returns why no descriptor came with a request on the socket fd.
func noDescriptor(fd int) error {
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family != unix.AF_UNIX {
		return fmt.Errorf("no descriptor came with it: a control channel over TCP cannot carry one; "+
			"use a Unix socket for the control channel (--ctrl type=unixio,path=...) or open a data channel with --server: %w", tpm.BadParameter)
	}
	return fmt.Errorf("no descriptor came with it: %w", tpm.BadParameter)
}

// setBufferSize answers a query at once. A change has to wait for the engine.
func (c *session) setBufferSize() {
	var q BufferSizeReq
	if err := c.req.decode(&q); err != nil {
		c.finish(nil, err)
		return
	}
	set := func() (any, error) {
		size, low, high, err := c.s.tpm.BufferSize(q.Size)
		if err != nil {
			return nil, err
		}
		return BufferSizeRep{Size: size, Min: low, Max: high}, nil
	}
	if q.Size == 0 {
		c.finish(set())
		return
	}
	c.engine(set, c.finish)
}

// getInfo sends a part of the text; the last part ends in a NUL.
func (s *Server) getInfo(r *request) (any, error) {
	var q InfoReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	text, err := s.tpm.Info(q.Flags)
	if err != nil {
		return nil, err
	}
	if uint64(q.Offset) >= uint64(len(text)) {
		return nil, tpm.BadParameter
	}
	b := append([]byte(text), 0)
	part := b[q.Offset:min(len(b), int(q.Offset)+MaxInfo)]
	rep := InfoRep{Total: uint32(len(b)), Length: uint32(len(part))}
	return append(encode(rep, nil), part...), nil
}

func (s *Server) lockStorage(r *request) (any, error) {
	var q LockStorageReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	return nil, s.tpm.LockStorage(q.Retries)
}
