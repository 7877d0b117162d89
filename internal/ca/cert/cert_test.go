package cert

import (
	"bytes"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/test/harness"
)

// golden is where the certificates are that the reference made.
const golden = "../testdata"

// TestCreate checks that Create makes the reference's certificates without a command line. Package
// ca checks all of them with one.
func TestCreate(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(golden, "ca-rsa3072.key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.ParsePEM(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := signer.Certificate(filepath.Join(golden, "ca-rsa3072.cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		r    Request
	}{
		{"ek-tpm2-rsa2048", Request{Type: EK, TPM2: true, Subject: "CN=testvm:0c9a3b2e-1111-2222-3333-444455556666",
			TPM: Attributes{"id:00001014", "swtpm", "id:20240125"}, Spec: Spec{"2.0", 0, 183}}},
	} {
		args := arguments(t, tt.name)
		tt.r.Key, err = RSA(harness.Unhex(args["--modulus"]), 0x10001)
		if err != nil {
			t.Fatal(err)
		}
		tt.r.Serial, _ = new(big.Int).SetString(args["--serial"], 10)
		tt.r.Days = Forever
		tt.r.NotBefore = time.Date(2030, 1, 2, 3, 4, 5, 678, time.UTC)
		got, err := Create(&tt.r, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(golden, tt.name+".der"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", tt.name, got, want)
		}
	}
}

// arguments returns the options of a case of the reference that have an argument.
func arguments(t *testing.T, name string) map[string]string {
	b, err := os.ReadFile(filepath.Join(golden, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name string
		Args []string
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	args := make(map[string]string)
	for _, c := range cases {
		for i := 1; c.Name == name && i < len(c.Args); i++ {
			args[c.Args[i-1]] = c.Args[i]
		}
	}
	return args
}
