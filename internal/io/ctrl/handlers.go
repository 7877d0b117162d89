package ctrl

import (
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The handlers of the table are in the order of the codes.

func capabilities(t TPM) (CapabilityRep, error) {
	if t.Version() == tpm.V12 {
		return CapabilityRep{Caps: Capabilities12}, nil
	}
	return CapabilityRep{Caps: Capabilities20}, nil
}

func initialize(t TPM, q InitReq) error { return t.Init(q.Flags&InitDeleteVolatile != 0) }

func established(t TPM) (rep EstablishedRep, err error) {
	bit, err := t.Established()
	if bit {
		rep.Bit = 1
	}
	return rep, err
}

func setLocality(t TPM, q LocalityReq) error { return t.SetLocality(q.Locality) }

func resetEstablished(t TPM, q LocalityReq) error { return t.ResetEstablished(q.Locality) }

// getState returns the blob from the offset to its end. A client requests the savestate
// last, before the guest continues on another host: the storage lock is released before
// the client has its reply and can notify the other side.
func getState(t TPM, q GetStateReq) (rep GetStateRep, data []byte, err error) {
	blob, encrypted, err := t.State(q.Type, q.Flags&Decrypted != 0)
	if q.Type == tpm.Savestate {
		t.ReleaseStorage()
	}
	skip := min(uint64(q.Offset), uint64(len(blob)))
	clear(blob[:skip])
	data = blob[skip:]
	rep.Total, rep.Length = uint32(len(data)), uint32(len(data))
	if encrypted {
		rep.Flags = Encrypted
	}
	return rep, data, err
}

func config(t TPM) (rep ConfigRep, err error) {
	file, migration := t.Keys()
	if file {
		rep.Flags |= HasFileKey
	}
	if migration {
		rep.Flags |= HasMigrationKey
	}
	return rep, nil
}

func bufferSize(t TPM, q BufferSizeReq) (rep BufferSizeRep, _ []byte, err error) {
	rep.Size, rep.Min, rep.Max, err = t.BufferSize(q.Size)
	return rep, nil, err
}

// info returns a part of the text; the last part ends in a NUL.
func info(t TPM, q InfoReq) (rep InfoRep, data []byte, err error) {
	text, err := t.Info(q.Flags)
	if err != nil {
		return rep, nil, err
	}
	if uint64(q.Offset) >= uint64(len(text)) {
		return rep, nil, tpm.BadParameter
	}
	b := append([]byte(text), 0)
	data = b[q.Offset:min(len(b), int(q.Offset)+MaxInfo)]
	return InfoRep{Total: uint32(len(b)), Length: uint32(len(data))}, data, nil
}

func lockStorage(t TPM, q LockStorageReq) error { return t.LockStorage(q.Retries) }
