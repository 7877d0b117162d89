package manufacture

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// transcript is the traffic between swtpm_setup 0.11 and its TPM.
type transcript struct {
	Args      []string `json:"args"`
	Exchanges []struct {
		Kind, Hex string
	} `json:"exchanges"`
}

// recorded is a TPM that accepts only the commands of a transcript and returns the
// responses of the transcript.
type recorded struct {
	t        *testing.T
	commands [][]byte
	answers  [][]byte
	certs    map[uint32][]byte // what was written into each index
}

func readTranscript(t *testing.T, name string) (*recorded, []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/tpm20", name))
	if err != nil {
		t.Fatal(err)
	}
	var tr transcript
	if err := json.Unmarshal(b, &tr); err != nil {
		t.Fatal(err)
	}
	r := &recorded{t: t, certs: map[uint32][]byte{}}
	for _, x := range tr.Exchanges {
		b, err := hex.DecodeString(x.Hex)
		if err != nil {
			t.Fatal(err)
		}
		switch x.Kind {
		case "tpm-req":
			r.commands = append(r.commands, b)
			if code := binary.BigEndian.Uint32(b[6:]); code == 0x137 { // TPM2_NV_Write
				index := binary.BigEndian.Uint32(b[14:])
				r.certs[index] = append(r.certs[index], b[33:len(b)-2]...)
			}
		case "tpm-rsp":
			r.answers = append(r.answers, b)
		}
	}
	return r, tr.Args
}

func (r *recorded) Execute(_ context.Context, cmd []byte) ([]byte, error) {
	if len(r.commands) == 0 {
		return nil, fmt.Errorf("command %x after the last one", cmd)
	}
	want, rsp := r.commands[0], r.answers[0]
	if !bytes.Equal(cmd, want) {
		r.t.Errorf("command\n%x, want\n%x", cmd, want)
		return nil, errors.New("another command")
	}
	r.commands, r.answers = r.commands[1:], r.answers[1:]
	return rsp, nil
}

func (r *recorded) Info(context.Context, uint64) (string, error) { return "{}", nil }

// Issue returns the certificate of the transcript.
func (r *recorded) Issue(_ context.Context, q ca.Request) ([]byte, error) {
	index := map[cert.Type]uint32{cert.Platform: uint32(platformCert), cert.IAK: uint32(iakCert), cert.IDevID: uint32(idevidCert)}[q.Type]
	if q.Type == cert.EK {
		for _, i := range []uint32{0x01C00002, 0x01C00016} {
			if cert, ok := r.certs[i]; ok {
				delete(r.certs, i)
				return cert, nil
			}
		}
	}
	if cert, ok := r.certs[index]; ok {
		return cert, nil
	}
	return nil, fmt.Errorf("no certificate %s was issued", q.Type)
}

type quiet struct{}

func (quiet) Infof(string, ...any)     {}
func (quiet) Errorf(string, ...any)    {}
func (quiet) Begin(string) func()      { return func() {} }
func newJob(r *recorded) *Job          { return &Job{TPM: r, Certs: r, Log: quiet{}, Progress: quiet{}} }
func sha256Only(o Options20) Options20 { o.Banks = []string{"sha256"}; return o }
func handles(j *Job) (h []uint32) {
	for _, m := range j.Keys {
		h = append(h, m.Handle)
	}
	return h
}

// TestTranscripts compares every byte of every command with the reference's.
func TestTranscripts(t *testing.T) {
	for _, c := range []struct {
		file    string
		o       Options20
		handles []uint32
	}{
		{"tpm2-libvirt.json", sha256Only(Options20{EK1: RSA2048, EK2: P384, EKCert: true, PlatformCert: true, Lock: true}), []uint32{0x81010001, 0x81010016}},
		{"tpm2-ek-p256-p521.json", sha256Only(Options20{EK1: P256, EK2: P521}), []uint32{0x8101000a, 0x81010018}},
		{"tpm2-ek-rsa3072-rsa4096.json", sha256Only(Options20{EK1: RSA3072, EK2: RSA4096}), []uint32{0x8101001c, 0x8101001e}},
		{"tpm2-iak-idevid-p384.json", sha256Only(Options20{EK1: RSA2048, EK2: P384, EKCert: true, IAK: P384, IDevID: P384}), []uint32{0x81010001, 0x81010016, 0x81020001, 0x81020000}},
		{"tpm2-iak-idevid-rsa2048.json", sha256Only(Options20{EK1: RSA2048, EK2: P384, EKCert: true, IAK: RSA2048, IDevID: RSA2048}), []uint32{0x81010001, 0x81010016, 0x81020001, 0x81020000}},
		{"tpm2-spk-ecc.json", sha256Only(Options20{SPK: true, SPKECC: true}), nil},
		{"tpm2-spk-rsa-ecc-allow-signing.json", Options20{SPK: true, EK1: RSA2048, EK2: P384, Signing: true}, []uint32{0x81010001, 0x81010016}},
	} {
		t.Run(c.file, func(t *testing.T) {
			r, args := readTranscript(t, c.file)
			j := newJob(r)
			if err := Make20(t.Context(), j, c.o); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			if len(r.commands) > 0 {
				t.Errorf("%d commands were not sent, the first is %x", len(r.commands), r.commands[0])
			}
			if got := handles(j); !slices.Equal(got, c.handles) {
				t.Errorf("made %x, want %x", got, c.handles)
			}
		})
	}
}

// TestRefused20 checks that Make20 returns an error and sends no other command after any
// response is an error or too short.
func TestRefused20(t *testing.T) {
	o := sha256Only(Options20{EK1: RSA2048, EK2: P384, EKCert: true, IAK: P384, IDevID: P384})
	r, _ := readTranscript(t, "tpm2-iak-idevid-p384.json")
	total := len(r.answers)
	for n := range total {
		for what, bad := range map[string][]byte{
			"refused": tpm.ErrorResponse(tpm.V20, 0x101), "short": r.answers[n][:9],
		} {
			r, _ := readTranscript(t, "tpm2-iak-idevid-p384.json")
			r.answers[n] = bad
			if err := Make20(t.Context(), newJob(r), o); err == nil {
				t.Errorf("command %d %s: no error", n, what)
			}
			if got := len(r.commands); got != total-n-1 {
				t.Errorf("command %d %s: %d commands are left, want %d", n, what, got, total-n-1)
			}
		}
	}
}

// FuzzResponses20 checks that no response of a TPM, in the place of a right one, makes the
// manufacture panic.
func FuzzResponses20(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(0), []byte("\x80\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x01"))
	f.Add(uint8(5), []byte("\x00\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00\x01\x05IBM\x00"))
	f.Add(uint8(7), []byte("\x00\x00\x00\x00\x05\xff\xff\xff\xff\x00\x04\x03\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		r, _ := readTranscript(t, "tpm2-iak-idevid-p384.json")
		i := int(n) % len(r.answers)
		good := r.answers[i]
		bad := append([]byte{0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0}, body...)
		binary.BigEndian.PutUint32(bad[2:], uint32(len(bad)))
		if bytes.Equal(good[10:], body) {
			return
		}
		r.answers[i] = bad
		r.t = nil
		lenient := &lenient{recorded: r}
		j := &Job{TPM: lenient, Certs: r, Log: quiet{}, Progress: quiet{}}
		// The property: it ends, with or without an error, and every command that
		// it sends has the size in its header.
		_ = Make20(context.Background(), j, sha256Only(Options20{EK1: RSA2048, EK2: P384, EKCert: true, IAK: P384, IDevID: P384}))
		for _, cmd := range lenient.got {
			if h, ok := tpm.ParseHeader(cmd); !ok || int(h.Size) != len(cmd) {
				t.Errorf("command %x says it has %d bytes", cmd, h.Size)
			}
		}
	})
}

// lenient accepts any command.
type lenient struct {
	*recorded
	got [][]byte
}

func (l *lenient) Execute(_ context.Context, cmd []byte) ([]byte, error) {
	if len(l.answers) == 0 {
		return nil, errors.New("no more answers")
	}
	rsp := l.answers[0]
	l.answers = l.answers[1:]
	l.got = append(l.got, bytes.Clone(cmd))
	return rsp, nil
}

// TestTemplates compares every template with the bytes of the hand-written encoder that
// the transcripts of swtpm_setup had verified.
func TestTemplates(t *testing.T) {
	b, err := os.ReadFile("testdata/tpm20/templates.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 32 {
		t.Fatalf("%d templates, want 32", len(lines))
	}
	for _, line := range lines {
		f := strings.Fields(line)
		a, ok := ParseAlgorithm(f[1])
		if !ok {
			t.Fatalf("unknown algorithm %q", f[1])
		}
		template := map[string]func() tpm2.TPMTPublic{
			"ek":              func() tpm2.TPMTPublic { return ekTemplate(a, false, false) },
			"ek-sign":         func() tpm2.TPMTPublic { return ekTemplate(a, true, false) },
			"ek-sign-decrypt": func() tpm2.TPMTPublic { return ekTemplate(a, true, true) },
			"iak":             func() tpm2.TPMTPublic { return iakTemplate(a) },
			"idevid":          func() tpm2.TPMTPublic { return idevidTemplate(a) },
			"spk":             func() tpm2.TPMTPublic { return spkTemplate(a == P384) },
		}[f[0]]
		if got := hex.EncodeToString(tpm2.Marshal(template())); got != f[2] {
			t.Errorf("%s of %s\n%s, want\n%s", f[0], f[1], got, f[2])
		}
	}
}
