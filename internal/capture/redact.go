package capture

import (
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Redactor is a Filter that blanks the secrets in the messages of one TPM, so that they can
// be shown to others: passwords and other authorisations, keys, data that is sealed,
// encrypted, hashed or stored in NV memory, random numbers.
//
// Two tables list the harmless fields of each command; all other fields become zeros. The
// length of a message never changes, and its header, its handles and its sizes are copied,
// so that programs can still decode it. If a message does not have the layout in its table,
// only the header is copied.
//
// Harmless are handles, algorithms, attributes, policies, names, public keys and
// areas, PCRs and their digests, capabilities and clocks. The sizes of blanked fields are
// copied, too: a reader can see the length of a password.
//
// The layout of a response depends on the last command, so a Redactor must get all messages
// in order. It is not safe for concurrent use.
type Redactor struct {
	version tpm.Version
	last    request
}

// request describes the last command, as far as the layout of its response depends on it.
type request struct {
	known     bool // layout is the command's
	layout    layout
	encrypted bool // the first parameter of the response is encrypted
}

// layout is the layout of a command and its response. The strings are for copier.fields.
type layout struct {
	handles int    // handles before the authorisations, of 4 bytes each
	in      string // parameters of the command
	handle  int    // handles in the response, 0 or 1
	out     string // parameters of the response
}

// NewRedactor returns a Redactor for a TPM of version v.
func NewRedactor(v tpm.Version) *Redactor { return &Redactor{version: v} }

// Command returns a redacted copy of a received command, with or without a prefix.
func (f *Redactor) Command(raw []byte) []byte { return f.command(raw).out }

func (f *Redactor) command(raw []byte) *copier {
	f.last = request{}
	c := newCopier(raw)
	if tpm.Prefixed(f.version, raw) {
		c.copy(tpm.PrefixSize)
	}
	tag, code, ok := c.header()
	switch {
	case !ok:
	case f.version == tpm.V12:
		f.last = c.command12(tag, code)
	default:
		f.last = c.command20(tag, code)
	}
	return c
}

// Response returns a redacted copy of a response to the last command.
func (f *Redactor) Response(rsp []byte) []byte { return f.response(rsp).out }

func (f *Redactor) response(rsp []byte) *copier {
	last := f.last
	f.last = request{}
	c := newCopier(rsp)
	tag, code, ok := c.header()
	switch {
	case !ok || code != 0 || !last.known: // a failure has nothing but a header
	case f.version == tpm.V12:
		c.response12(tag, last)
	default:
		c.response20(tag, last)
	}
	return c
}

// header copies the header of the rest of the message. Without a known tag it is not a
// header, but part of a message. ok is false if its size differs from the size of the
// message: then the layout of the rest is unknown.
func (c *copier) header() (tag uint16, code tpm.Code, ok bool) {
	h, ok := tpm.ParseHeader(c.in[c.pos:])
	if !ok || !slices.Contains(tags, h.Tag) {
		return 0, 0, false
	}
	size := len(c.in) - c.pos
	c.copy(tpm.HeaderSize)
	return h.Tag, h.Code, int64(h.Size) == int64(size)
}

// tags are those of commands and responses of both versions. A TPM 2.0 responds to an
// unknown tag with a tag of TPM 1.2.
var tags = []uint16{
	tpm.TagRqu12, tagRquAuth1, tagRquAuth2,
	tpm.TagRsp12, tagRspAuth1, tagRspAuth2,
	tpm.TagNoSessions, tpm.TagSessions,
}

// command20 copies a TPM 2.0 command after its header: handles, then, with the tag for it,
// a size and as many bytes of authorisations, then parameters.
//
// Source: TPM 2.0 Library, Part 1, 18.
func (c *copier) command20(tag uint16, code tpm.Code) request {
	l, known := commands20()[code]
	if !known || tag != tpm.TagSessions && tag != tpm.TagNoSessions {
		return request{}
	}
	var encrypt bool
	c.rest(func(p *copier) {
		var decrypt bool
		p.copy(4 * l.handles)
		if tag == tpm.TagSessions {
			p.within(p.size(), func(s *copier) { decrypt, encrypt = s.sessions(true) })
		}
		p.rest(func(p *copier) { p.parameters(l.in, decrypt) })
	})
	return request{known: !c.bad, layout: l, encrypted: encrypt}
}

// response20 copies the response to a TPM 2.0 command: a handle, then, with the tag for it,
// the size of the parameters, then these, then authorisations.
func (c *copier) response20(tag uint16, last request) {
	parameters := func(p *copier) { p.parameters(last.layout.out, last.encrypted) }
	c.rest(func(p *copier) {
		p.copy(4 * last.layout.handle)
		if tag != tpm.TagSessions {
			p.rest(parameters)
			return
		}
		p.within(p.size(), parameters)
		p.rest(func(s *copier) { s.sessions(false) })
	})
}

// The bits of TPMA_SESSION for encrypted parameters.
//
// Source: TPM 2.0 Library, Part 2, 8.4.
const (
	sessionDecrypt = 1 << 5 // the command's first parameter is encrypted
	sessionEncrypt = 1 << 6 // the response's first parameter is encrypted
)

// sessions copies all authorisations, up to the end:
//
//	u32 session handle (in commands), u16 size, nonce, u8 attributes,
//	u16 size, password or HMAC
func (c *copier) sessions(command bool) (decrypt, encrypt bool) {
	for c.pos < c.end && !c.bad {
		if command {
			c.copy(4)
		}
		c.fields("b")
		attributes := c.u8()
		decrypt = decrypt || attributes&sessionDecrypt != 0
		encrypt = encrypt || attributes&sessionEncrypt != 0
		c.fields("b")
	}
	return decrypt, encrypt
}

// parameters copies the parameters of a TPM 2.0 command or response. Only a parameter with
// a size can be encrypted, and the size itself is not.
func (c *copier) parameters(layout string, encrypted bool) {
	if encrypted && layout != "" {
		switch layout[0] {
		case 'B', 'b', 'P', 'M':
			layout = "b" + layout[1:]
		default:
			layout = "~"
		}
	}
	c.fields(layout)
}

// Tags of TPM 1.2: one or two authorisations at the end.
//
// Source: TPM Main, Part 2, 6.
const (
	tagRquAuth1 = 0x00C2
	tagRquAuth2 = 0x00C3
	tagRspAuth1 = 0x00C5
	tagRspAuth2 = 0x00C6
)

// Sizes of an authorisation of TPM 1.2: u32 handle (in commands), 20 bytes of
// nonce, u8 continueAuthSession, 20 bytes of HMAC.
const (
	rquAuth = 4 + sha1Size + 1 + sha1Size
	rspAuth = sha1Size + 1 + sha1Size
)

// command12 copies a TPM 1.2 command after its header: handles, parameters, authorisations.
//
// Source: TPM Main, Part 1, 13, and Part 3, 1.
func (c *copier) command12(tag uint16, code tpm.Code) request {
	l, known := commands12()[code]
	n, ok := map[uint16]int{tpm.TagRqu12: 0, tagRquAuth1: 1, tagRquAuth2: 2}[tag]
	if !known || !ok {
		return request{}
	}
	c.rest(func(p *copier) {
		p.within(p.end-p.pos-n*rquAuth, func(p *copier) {
			p.copy(4 * l.handles)
			p.fields(l.in)
		})
		p.fields(strings.Repeat("4x1x", n))
	})
	return request{known: !c.bad, layout: l}
}

// response12 copies the response to a TPM 1.2 command.
func (c *copier) response12(tag uint16, last request) {
	n, ok := map[uint16]int{tpm.TagRsp12: 0, tagRspAuth1: 1, tagRspAuth2: 2}[tag]
	if !ok {
		return
	}
	c.rest(func(p *copier) {
		p.within(p.end-p.pos-n*rspAuth, func(p *copier) {
			p.copy(4 * last.layout.handle)
			p.fields(last.layout.out)
		})
		p.fields(strings.Repeat("x1x", n))
	})
}
