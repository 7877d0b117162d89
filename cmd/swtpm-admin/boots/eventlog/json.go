package eventlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// record is a record of the Canonical Event Log in JSON. systemd's log has the same format.
type record struct {
	Number      *uint64         `json:"recnum,omitempty"`
	PCR         *uint32         `json:"pcr,omitempty"`
	NV          *uint32         `json:"nv_index,omitempty"`
	Digests     []jsonDigest    `json:"digests"`
	ContentType string          `json:"content_type,omitempty"`
	Content     json.RawMessage `json:"content,omitempty"`
}

type jsonDigest struct {
	Alg   string `json:"hashAlg"`
	Value string `json:"digest"`
}

// algs are the algorithms by the names in these files.
var algs = map[string]ledger.Alg{"sha1": ledger.SHA1, "sha256": ledger.SHA256, "sha384": ledger.SHA384, "sha512": ledger.SHA512}

// entry returns the measurement of a record. ok is false if the record contains none.
func (c record) entry() (e Entry, ok bool) {
	if c.PCR == nil || *c.PCR >= ledger.PCRs {
		return e, false
	}
	e.Index = *c.PCR
	for _, d := range c.Digests {
		value, err := hex.DecodeString(d.Value)
		alg := algs[strings.ToLower(d.Alg)]
		if err == nil && alg.Size() == len(value) && len(value) > 0 && len(e.Digests) < 8 {
			e.Digests = append(e.Digests, ledger.Digest{Alg: alg, Value: value})
		}
	}
	var content struct {
		Text  string `json:"string"`
		Event string `json:"eventType"`
	}
	_ = json.Unmarshal(c.Content, &content) // unknown content has no text
	e.Text = clip(strings.TrimSpace(c.ContentType + " " + content.Event + " " + content.Text))
	e.Data = []byte(content.Text)
	if e.Verified() { // the types are not part of what was measured
		e.Text = clip(content.Text)
	}
	return e, len(e.Digests) > 0
}

// parseMeasureLog returns the measurements of PCRs in systemd's tpm2-measure.log: JSON
// objects, each of which may begin with a record separator.
func parseMeasureLog(b []byte) ([]Entry, error) {
	var all []Entry
	d := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(b, []byte{0x1e}, []byte{' '})))
	for n := 0; ; n++ {
		var c record
		err := d.Decode(&c)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil || n >= maxEntries {
			return all, fmt.Errorf("%w: record %d", ErrFormat, n+1)
		}
		if e, ok := c.entry(); ok {
			all = append(all, e)
		}
	}
}

// ParsePcrlock returns the measurements in a dictionary of systemd-pcrlock.
func ParsePcrlock(b []byte) ([]Entry, error) {
	var file struct {
		Records []record `json:"records"`
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.Records) > maxEntries {
		return nil, fmt.Errorf("%w: not a .pcrlock file", ErrFormat)
	}
	var all []Entry
	for _, c := range file.Records {
		if e, ok := c.entry(); ok {
			all = append(all, e)
		}
	}
	return all, nil
}

// Parse returns the measurements in a log of firmware or of systemd.
func Parse(b []byte) ([]Entry, error) {
	if start := bytes.TrimLeft(b, " \r\n\t\x1e"); len(start) > 0 && start[0] == '{' {
		return parseMeasureLog(b)
	}
	return ParseTCG(b)
}
