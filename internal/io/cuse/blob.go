package cuse

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// blobOut is a state blob that a user fetches: the first piece by an ioctl, the others by
// ioctls with an offset or by read. The mu of the device is held.
type blobOut struct {
	blob      []byte
	kind      tpm.Blob
	flags     ctrl.StateFlags // of the request
	encrypted bool
	reading   bool // read returns the bytes from next on
	next      int
}

// end forgets the blob.
func (o *blobOut) end() {
	clear(o.blob)
	*o = blobOut{}
}

// read returns up to n bytes. A read that returns less ends the transfer.
func (o *blobOut) read(n int) []byte {
	part := append([]byte(nil), o.blob[o.next:min(len(o.blob), o.next+n)]...)
	o.next += len(part)
	if len(part) < n {
		o.end()
	}
	return part
}

// blobIn is a state blob that a user sets: in pieces of ctrl.MaxPiece by ioctls, of which
// the first that is not full is the last, or by write between two empty ones. The mu of
// the device is held.
type blobIn struct {
	blob    []byte
	kind    tpm.Blob
	flags   ctrl.StateFlags
	begun   bool
	writing bool // write appends to blob
}

// end forgets the blob.
func (i *blobIn) end() {
	clear(i.blob)
	*i = blobIn{}
}

// add appends a piece. It leaves no copy of the earlier pieces in memory.
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

// getState handles PTM_GET_STATEBLOB. Offset 0 fetches the current blob; another offset
// continues with the blob that was fetched before.
func (d *Device) getState(arg []byte) ([]byte, error) {
	var q ctrl.GetStateReq
	if _, err := decode(arg, &q); err != nil {
		return nil, tpm.BadParameter
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
	piece := o.blob[begin:min(len(o.blob), begin+ctrl.MaxPiece)]
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

// fetch gets a blob from the TPM. The savestate releases the storage lock, as on a socket.
func (d *Device) fetch(q ctrl.GetStateReq) error {
	if q.Type.Name() == "" && q.Type != tpm.SnapshotBlob { // Compat: C-263: all blobs of one moment
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

// setState handles PTM_SET_STATEBLOB: it collects the pieces, and passes the blob to the
// TPM after the last.
func (d *Device) setState(arg []byte) error {
	var q ctrl.SetStateReq
	piece, err := decode(arg, &q)
	if err != nil || uint64(q.Length) > uint64(min(len(piece), ctrl.MaxPiece)) || q.Type.Name() == "" {
		return tpm.BadParameter
	}
	blob, last, err := d.addPiece(q, piece[:q.Length])
	if err != nil || !last {
		return err
	}
	defer blob.end()
	return d.tpm.SetState(blob.kind, blob.flags&ctrl.Encrypted != 0, blob.blob)
}

// addPiece appends a piece to the blob and returns the blob after the last piece.
func (d *Device) addPiece(q ctrl.SetStateReq, piece []byte) (blob blobIn, last bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := &d.file.in
	if i.begun && i.kind != q.Type {
		i.end()
	}
	first := !i.begun
	i.begun, i.kind = true, q.Type
	if first {
		i.flags = q.Flags
	}
	if i.add(piece) != nil {
		return blob, false, tpm.Fail
	}
	if first && len(piece) == 0 {
		i.writing = true
		return blob, false, nil
	}
	if len(piece) == ctrl.MaxPiece {
		return blob, false, nil
	}
	blob, d.file.in = *i, blobIn{}
	return blob, true, nil
}
