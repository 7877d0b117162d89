package ctrl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// request is one request as its handler sees it.
type request struct {
	conn   *conn
	body   []byte // what came with the code; in conn.buf
	fd     int    // the descriptor that came along, or -1
	unread int    // bytes of the body that nobody has read
	last   bool   // nothing can follow: the body was cut short, or the process ends
	after  func() // runs once the reply is out
}

func (r *request) closeFD() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
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
	name  string
	when  when
	exact int
	do    func(s *Server, r *request) (reply any, err error)
}

var commands = map[Code]command{
	GetCapability:       {"GET_CAPABILITY", always, -1, (*Server).getCapability},
	Init:                {"INIT", always, 4, (*Server).init},
	Shutdown:            {"SHUTDOWN", always, 0, (*Server).shutdown},
	GetTPMEstablished:   {"GET_TPMESTABLISHED", whenOn, 0, (*Server).getEstablished},
	SetLocality:         {"SET_LOCALITY", always, -1, (*Server).setLocality},
	HashStart:           {"HASH_START", whenOn, 0, simple(TPM.HashStart)},
	HashData:            {"HASH_DATA", whenOn, -1, (*Server).hashData},
	HashEnd:             {"HASH_END", whenOn, 0, simple(TPM.HashEnd)},
	CancelTPMCmd:        {"CANCEL_TPM_CMD", whenOn, 0, simple(TPM.Cancel)},
	StoreVolatile:       {"STORE_VOLATILE", whenOn, 0, simple(TPM.StoreVolatile)},
	ResetTPMEstablished: {"RESET_TPMESTABLISHED", whenOn, -1, (*Server).resetEstablished},
	GetStateBlob:        {"GET_STATEBLOB", whenOn, -1, (*Server).getState},
	SetStateBlob:        {"SET_STATEBLOB", whenOff, -1, (*Server).setState},
	Stop:                {"STOP", always, 0, simple(TPM.Stop)},
	GetConfig:           {"GET_CONFIG", always, 0, (*Server).getConfig},
	SetDataFD:           {"SET_DATAFD", always, -1, (*Server).setDataFD},
	SetBufferSize:       {"SET_BUFFERSIZE", always, -1, (*Server).setBufferSize},
	GetInfo:             {"GET_INFO", always, -1, (*Server).getInfo},
	LockStorage:         {"LOCK_STORAGE", always, -1, (*Server).lockStorage},
}

// do runs a request and returns the bytes of the reply, and what is to be done
// once they are out.
func (s *Server) do(code Code, r *request) (rep []byte, after func()) {
	r.unread = max(0, need(r.conn.buf[:4+len(r.body)])-4-len(r.body))
	reply, err := s.dispatch(code, r)
	return encode(reply, err), r.after
}

func (s *Server) dispatch(code Code, r *request) (any, error) {
	c, ok := commands[code]
	on := s.tpm.On()
	switch {
	case !ok:
		s.opt.Note("Unknown command: 0x%08x", uint32(code))
		return nil, tpm.BadOrdinal
	case c.when == whenOn && !on, c.when == whenOff && on:
		return nil, tpm.BadOrdinal
	case c.exact >= 0 && len(r.body) != c.exact:
		return nil, tpm.BadParameter
	}
	reply, err := c.do(s, r)
	if _, bare := err.(tpm.Result); err != nil && !bare && code != Init && !errors.Is(err, tpm.Retry) {
		s.opt.Error("%s: %v", c.name, err) // INIT has told already, with advice
	}
	return reply, err
}

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
func (s *Server) hashData(r *request) (any, error) {
	if len(r.body) < 4 {
		return nil, tpm.BadParameter
	}
	left, chunk := int(binary.BigEndian.Uint32(r.body)), r.body[4:]
	if len(chunk) > left {
		return nil, tpm.BadParameter
	}
	for {
		if err := s.tpm.HashData(chunk); err != nil {
			return nil, err
		}
		left -= len(chunk)
		r.unread = left
		if left == 0 {
			return nil, nil
		}
		n, err := r.conn.more(r.conn.buf[:min(left, len(r.conn.buf))])
		if err != nil {
			r.unread, r.last = 0, true
			return nil, tpm.IOError
		}
		chunk = r.conn.buf[:n]
	}
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
func (s *Server) setState(r *request) (any, error) {
	if err := s.tpm.PrepareSetState(); err != nil {
		r.after = func() { s.opt.Fail(err) }
		return nil, tpm.IOError
	}
	var q SetStateReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if q.Length > MaxBlob {
		return nil, tpm.Fail
	}
	blob := append(make([]byte, 0, q.Length), r.body[binary.Size(q):]...)
	if len(blob) > int(q.Length) {
		return nil, tpm.BadParameter
	}
	defer func() { clear(blob[:cap(blob)]) }()
	for len(blob) < int(q.Length) {
		n, err := r.conn.more(blob[len(blob):cap(blob)])
		if err != nil {
			r.unread, r.last = 0, true
			return nil, tpm.BadParameter
		}
		blob = blob[:len(blob)+n]
	}
	r.unread = 0
	if q.Type.Name() == "" {
		return nil, tpm.BadParameter
	}
	return nil, s.tpm.SetState(q.Type, q.Flags&Encrypted != 0, blob)
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
		return nil, tpm.IOError
	case r.fd < 0:
		return nil, tpm.BadParameter
	}
	if err := s.opt.DataFD(r.fd); err != nil {
		return nil, fmt.Errorf("%w: %w", err, tpm.IOError)
	}
	r.fd = -1 // it is the data channel's now
	return nil, nil
}

func (s *Server) setBufferSize(r *request) (any, error) {
	var q BufferSizeReq
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	size, low, high, err := s.tpm.BufferSize(q.Size)
	if err != nil {
		return nil, err
	}
	return BufferSizeRep{Size: size, Min: low, Max: high}, nil
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
