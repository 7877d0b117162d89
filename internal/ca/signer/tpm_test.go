package signer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestParseTCTI checks the addresses that a TCTI gives.
func TestParseTCTI(t *testing.T) {
	for tcti, want := range map[string]string{
		"/dev/tpm0":                   " /dev/tpm0",
		"device:":                     " /dev/tpmrm0",
		"device":                      " /dev/tpmrm0",
		"device:/dev/tpm1":            " /dev/tpm1",
		"swtpm:":                      "tcp 127.0.0.1:2321",
		"swtpm:host=::1,port=7":       "tcp [::1]:7",
		"swtpm:path=/run/vm/data":     "unix /run/vm/data",
		"swtpm:port=1,colour=blue":    `TPM "swtpm:port=1,colour=blue": "colour=blue" is not known`,
		"tabrmd:bus_name=com.intel.x": `TPM "tabrmd:bus_name=com.intel.x" is neither device:PATH nor swtpm:…`,
	} {
		network, address, err := parseTCTI(tcti)
		got := network + " " + address
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("parseTCTI(%s) = %s, want %s", tcti, got, want)
		}
	}
}

// TestSend checks responses that arrive in pieces, and wrong ones.
func TestSend(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pieces []string
		want   string
	}{
		{"whole", []string{"8001 0000000a 00000000"}, "8001 0000000a 00000000"},
		{"pieces", []string{"80", "01 0000", "000a 0000", "0000"}, "8001 0000000a 00000000"},
		{"short header", []string{"8001 00000009 00000000"}, "error"},
		{"too much", []string{"8001 0000000a 00000000 00"}, "error"},
		{"larger than any", []string{"8001 00001001 00000000"}, "error"},
		{"end", []string{"8001 0000000b 00000000"}, "error"},
	} {
		here, there := net.Pipe()
		go func() {
			io.ReadFull(there, make([]byte, 4))
			for _, p := range tt.pieces {
				there.Write(harness.Unhex(p))
			}
			there.Close()
		}()
		rsp, err := (&tpmConn{here}).Send([]byte("ping"))
		here.Close()
		want := []byte(nil)
		if tt.want != "error" {
			want = harness.Unhex(tt.want)
		}
		if !bytes.Equal(rsp, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %x, %v, want %s", tt.name, rsp, err, tt.want)
		}
	}
}

// TestParseTSS checks that a key file that OpenSSL made with a TPM is read.
func TestParseTSS(t *testing.T) {
	key, err := parseTSS(tssBlock(readFile(t, "tpm2-p256.pem")))
	if err != nil {
		t.Fatal(err)
	}
	if key.parent != tpm2.TPMRHOwner || key.rsaParent {
		t.Errorf("parent %#x, RSA %t, want that of the owner, ECC", uint32(key.parent), key.rsaParent)
	}
	public, err := key.public.Contents()
	if err != nil {
		t.Fatal(err)
	}
	got, err := goKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(readFile(t, "tpm2-p256.pub"))
	want, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !want.(*ecdsa.PublicKey).Equal(got) {
		t.Errorf("the public key is %v, want %v, %v", got, want, err)
	}
}

// TestGoKeyRefuses checks that keys that cannot sign certificates are refused.
func TestGoKeyRefuses(t *testing.T) {
	key, err := parseTSS(tssBlock(readFile(t, "tpm2-p256.pem")))
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.public.Contents()
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(a *tpm2.TPMAObject){
		"not a signing key": func(a *tpm2.TPMAObject) { a.SignEncrypt = false },
		"restricted":        func(a *tpm2.TPMAObject) { a.Restricted = true },
	} {
		p := *public
		change(&p.ObjectAttributes)
		if _, err := goKey(&p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// FuzzParseTSS checks that a key file that is read can be written again.
func FuzzParseTSS(f *testing.F) {
	f.Add(tssBlock(readFile(f, "tpm2-p256.pem")))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := parseTSS(der)
		if err != nil {
			return
		}
		for _, part := range [][]byte{tpm2.Marshal(*key.public), tpm2.Marshal(*key.private)} {
			if !bytes.Contains(der, part) {
				t.Errorf("parseTSS(%x): %x is not in it", der, part)
			}
		}
		if public, err := key.public.Contents(); err == nil {
			if _, err := goKey(public); errors.Is(err, io.EOF) {
				t.Errorf("parseTSS(%x): %v", der, err)
			}
		}
	})
}
