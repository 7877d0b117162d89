package manufacture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// exchange is a command and its response.
type exchange struct{ cmd, rsp []byte }

// golden returns the reference's manufacture of a TPM.
func golden(t testing.TB) (all []exchange) {
	t.Helper()
	f, err := os.Open("testdata/tpm12/full.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		dir, text, _ := strings.Cut(lines.Text(), " ")
		b, err := hex.DecodeString(text)
		switch {
		case err != nil:
			t.Fatal(err)
		case dir == ">":
			all = append(all, exchange{cmd: b})
		default:
			all[len(all)-1].rsp = b
		}
	}
	if err := lines.Err(); err != nil || len(all) != 12 {
		t.Fatalf("%d exchanges, %v; want 12", len(all), err)
	}
	return all
}

// player is a TPM that gives the responses it was given, and keeps the commands.
type player struct {
	rsps [][]byte
	cmds [][]byte
}

func (p *player) Execute(_ context.Context, cmd []byte) ([]byte, error) {
	if len(p.cmds) == len(p.rsps) {
		return nil, errors.New("a command too many")
	}
	p.cmds = append(p.cmds, cmd)
	return bytes.Clone(p.rsps[len(p.cmds)-1]), nil
}

func (p *player) Info(context.Context, uint64) (string, error) { return "{}", nil }

// surroundings are the log and the progress of a manufacture, one line each.
type surroundings struct{ lines []string }

func (s *surroundings) Infof(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}
func (s *surroundings) Errorf(format string, args ...any) { s.Infof("error: "+format, args...) }
func (s *surroundings) Begin(what string) func() {
	s.Infof("begin %s", what)
	return func() { s.Infof("end %s", what) }
}

// issuer has certificates ready.
type issuer struct {
	certs    map[cert.Type][]byte
	requests []ca.Request
	err      error
}

func (i *issuer) Issue(_ context.Context, r ca.Request) ([]byte, error) {
	i.requests = append(i.requests, r)
	return i.certs[r.Type], i.err
}

// goldenCerts are the certificates of the reference's TPM, each with its header.
func goldenCerts(t testing.TB) *issuer {
	all := golden(t)
	const params = 22 // header, nvIndex, offset, dataSize
	return &issuer{certs: map[cert.Type][]byte{
		cert.EK:       all[8].cmd[params:],
		cert.Platform: all[10].cmd[params:],
	}}
}

// newJob12 returns a manufacture in which nothing is missing.
func newJob12(t testing.TB, to TPM) (*Job, *surroundings, *issuer) {
	s, certs := &surroundings{}, goldenCerts(t)
	return &Job{TPM: to, Certs: certs, Log: s, Progress: s}, s, certs
}

// full is what the reference's TPM got.
var full = Options12{
	EK: true, Owner: true, EKCert: true, PlatformCert: true, LockNV: true,
	OwnerAuth: Password("ooo"), SRKAuth: Password("sss"),
}

// play manufactures a TPM that gives these responses.
func play(t testing.TB, o Options12, rsps [][]byte) (*Job, *player, error) {
	p := &player{rsps: rsps}
	j, _, _ := newJob12(t, p)
	return j, p, Make12(context.Background(), j, o)
}

func responses(all []exchange) [][]byte {
	var out [][]byte
	for _, x := range all {
		out = append(out, slices.Clone(x.rsp))
	}
	return out
}
