package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// firstNV is the first handle of an NV index.
const firstNV = 0x01000000

// known reports whether the content of the entry is known, so that its type and data are written.
// An entry with unknown content has the type CompactHash and no data.
func (e *Entry) known() bool { return e.Type != CompactHash || len(e.Data) > 0 }

// CELJSON returns the entries as a Canonical Event Log in JSON. Unknown content is left
// out.
//
// Source: TCG Canonical Event Log Format 1.0, 4.3.
func CELJSON(entries []Entry) ([]byte, error) {
	all := make([]record, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		number := uint64(i)
		c := record{Number: &number}
		if e.Index >= firstNV {
			c.NV = &e.Index
		} else {
			c.PCR = &e.Index
		}
		for _, d := range e.Digests {
			c.Digests = append(c.Digests, jsonDigest{d.Alg.String(), hex.EncodeToString(d.Value)})
		}
		if e.known() {
			c.ContentType = "pcclient_std"
			c.Content = json.RawMessage(fmt.Sprintf(`{"event_type":%q,"event_data":%q}`, e.Type, hex.EncodeToString(e.Data)))
		}
		all = append(all, c)
	}
	return json.MarshalIndent(all, "", "  ")
}

// Types of a Canonical Event Log in TLV form.
//
// Source: TCG Canonical Event Log Format 1.0, 4.1.
const (
	celNumber    = 0
	celPCR       = 1
	celNV        = 2
	celDigests   = 3
	celPCClient  = 5
	celEventType = 0
	celEventData = 1
)

// AppendCELTLV appends the entries as a Canonical Event Log in TLV form: u8 type, u32
// length, value, all big-endian. Unknown content is an empty pcclient_std.
func AppendCELTLV(b []byte, entries []Entry) []byte {
	for i, e := range entries {
		b = appendTLV(b, celNumber, binary.BigEndian.AppendUint64(nil, uint64(i)))
		if e.Index >= firstNV {
			b = appendTLV(b, celNV, binary.BigEndian.AppendUint32(nil, e.Index))
		} else {
			b = appendTLV(b, celPCR, []byte{byte(e.Index)})
		}
		var digests, content []byte
		for _, d := range e.Digests {
			digests = appendTLV(digests, byte(d.Alg), d.Value)
		}
		if e.known() {
			content = appendTLV(nil, celEventType, binary.BigEndian.AppendUint32(nil, uint32(e.Type)))
			content = appendTLV(content, celEventData, e.Data)
		}
		b = appendTLV(appendTLV(b, celDigests, digests), celPCClient, content)
	}
	return b
}

func appendTLV(b []byte, t byte, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(b, t), uint32(len(value))), value...)
}

// PlainEntry returns an entry whose content is unknown.
func PlainEntry(index uint32, digests []ledger.Digest) Entry {
	return Entry{Index: index, Type: CompactHash, Digests: digests}
}
