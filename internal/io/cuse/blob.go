package cuse

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// maxPiece is the most of a state blob that one ioctl carries, in bytes.
const maxPiece = 3072

// blobOut is a state blob that is fetched: the first piece by an ioctl, those behind
// it by ioctls with an offset or by read. The device's mu is held.
type blobOut struct {
	blob      []byte
	kind      tpm.Blob
	flags     ctrl.StateFlags // asked for
	encrypted bool
	reading   bool // read gives what is behind next
	next      int
}

// end forgets the blob.
func (o *blobOut) end() {
	clear(o.blob)
	*o = blobOut{}
}

// read gives up to n bytes. A read that gives less ends it.
func (o *blobOut) read(n int) []byte {
	part := append([]byte(nil), o.blob[o.next:min(len(o.blob), o.next+n)]...)
	o.next += len(part)
	if len(part) < n {
		o.end()
	}
	return part
}

// blobIn is a state blob that is set: in pieces of maxPiece by ioctls, of which one
// that is not full is the last, or by write between two empty ones. The device's mu
// is held.
type blobIn struct {
	blob    []byte
	kind    tpm.Blob
	flags   ctrl.StateFlags
	begun   bool
	writing bool // write adds to it
}

// end forgets the blob.
func (i *blobIn) end() {
	clear(i.blob)
	*i = blobIn{}
}

// add takes a piece. Nothing that came before is left behind in memory.
func (i *blobIn) add(b []byte) error {
	if len(i.blob)+len(b) > ctrl.MaxBlob {
		i.end()
		return unix.EFBIG
	}
	grown := make([]byte, len(i.blob)+len(b))
	copy(grown[copy(grown, i.blob):], b)
	clear(i.blob)
	i.blob = grown
	return nil
}

// getState is PTM_GET_STATEBLOB. With offset 0 it is a blob of this moment; with
// another it goes on with the one that it was.
func (d *Device) getState(arg []byte) ([]byte, error) {
	var q ctrl.GetStateReq
	if _, err := decode(arg, &q); err != nil {
		return nil, err
	}
	d.mu.Lock()
	o := &d.file.out
	again := q.Offset > 0 && o.blob != nil && o.kind == q.Type && o.flags == q.Flags
	if !again {
		o.end()
	}
	d.mu.Unlock()
	if !again {
		if err := d.fetch(q); err != nil {
			return encode(ctrl.GetStateRep{Result: tpm.ResultOf(err)}, nil), err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	begin := int(min(uint64(q.Offset), uint64(len(o.blob))))
	piece := o.blob[begin:min(len(o.blob), begin+maxPiece)]
	rep := ctrl.GetStateRep{Total: uint32(len(o.blob)), Length: uint32(len(piece))}
	if o.encrypted {
		rep.Flags = ctrl.Encrypted
	}
	out := encode(rep, piece)
	if o.next = begin + len(piece); o.next < len(o.blob) {
		o.reading = true
	} else {
		o.end()
	}
	return out, nil
}

// fetch takes a blob from the TPM. With the savestate the lock of the state is given
// away, as on a socket.
func (d *Device) fetch(q ctrl.GetStateReq) error {
	if q.Type.Name() == "" {
		return tpm.BadParameter
	}
	blob, encrypted, err := d.tpm.State(q.Type, q.Flags&ctrl.Decrypted != 0)
	if q.Type == tpm.Savestate {
		d.tpm.ReleaseStorage()
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file.out.end()
	d.file.out = blobOut{blob: blob, kind: q.Type, flags: q.Flags, encrypted: encrypted}
	return nil
}

// setState is PTM_SET_STATEBLOB.
func (d *Device) setState(arg []byte) ([]byte, func(), error) {
	if err := d.tpm.PrepareSetState(); err != nil {
		return nil, func() { d.opt.Fail(err) }, unix.EIO
	}
	var q ctrl.SetStateReq
	piece, err := decode(arg, &q)
	if err == nil && uint64(q.Length) > uint64(min(len(piece), maxPiece)) || q.Type.Name() == "" {
		err = tpm.BadParameter
	}
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	i := &d.file.in
	if i.begun && i.kind != q.Type {
		i.end()
	}
	first := !i.begun
	i.begun, i.kind = true, q.Type
	if first {
		i.flags = q.Flags
	}
	err = i.add(piece[:q.Length])
	switch {
	case err != nil:
		d.mu.Unlock()
		return nil, nil, tpm.Fail
	case first && q.Length == 0:
		i.writing = true
		d.mu.Unlock()
		return nil, nil, nil
	case q.Length == maxPiece:
		d.mu.Unlock()
		return nil, nil, nil
	}
	whole := *i
	d.file.in = blobIn{}
	d.mu.Unlock()
	defer whole.end()
	return nil, nil, d.tpm.SetState(whole.kind, whole.flags&ctrl.Encrypted != 0, whole.blob)
}
