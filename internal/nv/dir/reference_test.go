package dir

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// referenceLoadsCases are the cases of TestReferenceLoads.
var referenceLoadsCases = []struct {
	vector, prefix, key string
	src                 seal.Source
}{
	{"tpm2-plain", "tpm2-00.", "", seal.Source{}},
	{"tpm2-key128-hex", "tpm2-00.", "keyfile.hex", seal.Source{Hex: true, Bits: 128}},
	{"tpm2-key256-bin", "tpm2-00.", "keyfile.bin", seal.Source{Bits: 256}},
	{"tpm12-plain", "tpm-00.", "", seal.Source{}},
	{"tpm12-key128-hex", "tpm-00.", "keyfile.hex", seal.Source{Hex: true, Bits: 128}},
}

// TestReferenceLoads checks that the installed swtpm starts with what we have
// written, plain and encrypted, and TPM 1.2 and 2.0, and that we load what it
// has made of it.
func TestReferenceLoads(t *testing.T) {
	swtpm := reference(t)
	for _, c := range referenceLoadsCases {
		t.Run(c.vector, func(t *testing.T) {
			vector, err := filepath.Abs(filepath.Join("../../seal/testdata/state", c.vector))
			if err != nil {
				t.Fatal(err)
			}
			var key *seal.Key
			args := []string{"socket"}
			if c.key != "" {
				c.src.Path = filepath.Join(vector, c.key)
				if key, err = seal.ReadKey(c.src); err != nil {
					t.Fatal(err)
				}
				defer key.Close()
				opt := "file=" + c.src.Path
				if !c.src.Hex {
					opt += ",format=binary"
				}
				if c.src.Bits == 256 {
					opt += ",mode=aes-256-cbc"
				}
				args = append(args, "--key", opt)
			}
			if c.prefix == "tpm2-00." {
				args = append(args, "--tpm2")
			}
			blob, err := os.ReadFile(filepath.Join(vector, c.prefix+"permall"))
			if err != nil {
				t.Fatal(err)
			}
			payload, err := seal.Open(blob, key)
			if err != nil {
				t.Fatal(err)
			}
			path := t.TempDir()
			o := options(t)
			o.Prefix = c.prefix
			s := nv.New(open(t, path, o), c.prefix, key)
			if err := s.Store(nv.Permanent, payload); err != nil {
				t.Fatal(err)
			}
			startReference(t, swtpm, path, args)
			got, err := s.Load(nv.Permanent)
			if err != nil {
				t.Fatal(err)
			}
			// Its seeds and keys are in there; counters and clocks may differ.
			if !bytes.Contains(got, payload[20:64]) && !bytes.Equal(got, payload) {
				t.Errorf("after swtpm's start it is another TPM")
			}
		})
	}
}

// startReference starts swtpm on path until it answers, which it does only if
// its state is loaded, and ends it.
func startReference(t *testing.T, swtpm, path string, args []string) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "c")
	args = append(args, "--tpmstate", "dir="+path, "--ctrl", "type=unixio,path="+sock, "--flags", "not-need-init,startup-clear")
	cmd := exec.Command(swtpm, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() {
		cmd.Process.Kill()
	}()
	for range 6000 { // a minute at least
		select {
		case err := <-exited:
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, log.String())
		case <-time.After(10 * time.Millisecond):
		}
		c, err := net.Dial("unix", sock)
		if err != nil {
			continue
		}
		defer c.Close()
		if _, err := c.Write([]byte{0, 0, 0, 3}); err != nil { // SHUTDOWN
			t.Fatal(err)
		}
		var result [4]byte
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := c.Read(result[:]); n != 4 || result != [4]byte{} {
			t.Fatalf("swtpm answers % x, %v: %s", result[:n], err, log.String())
		}
		if err := <-exited; err != nil {
			t.Errorf("swtpm: %v: %s", err, log.String())
		}
		return
	}
	t.Fatalf("swtpm does not come up: %s", log.String())
}
