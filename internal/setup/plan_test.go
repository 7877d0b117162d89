package setup

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// parsed returns the options of a command line.
func parsed(t *testing.T, line string) (*options, error) {
	t.Helper()
	o := &options{}
	none := func() error { return cli.ErrStop }
	h := hooks{help: none, version: none, configFiles: func(string) error { return cli.ErrStop }, warn: func(string) {}}
	_, err := cli.Getopt{}.Parse(o.table(h), strings.Fields(line))
	o.imply()
	return o, err
}

// TestOptions checks the options that command lines give.
func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		line string
		want options
	}{
		{"--tpm2 --tpm-state dir:///x --vmid a:b --config=/c --logfile l", options{TPM2: true, State: "dir:///x", VMID: "a:b", Config: "/c", LogFile: "l"}},
		{"--tpmstate x --tpmstate y --runas tss", options{State: "y", RunAs: "tss"}},
		{"--create-ek-cert", options{EKCert: true, CreateEK: true}},
		{"--create-platform-cert", options{PlatformCert: true, CreateEK: true}},
		{"--take-ownership --owner-well-known", options{TakeOwnership: true, CreateEK: true, OwnerKnown: true}},
		{"--createek --ek1keyalgo rsa3072 --ek2keyalgo secp256r1", options{CreateEK: true, EK1: "rsa3072", EK2: "secp256r1"}},
		{"--pcr-banks sha1 --pcr-banks sha256,sha384", options{PCRBanks: "sha1,sha256,sha384", PCRBanksGiven: true}},
		{"--profile-name a --profile-file b", options{ProfileName: "a", ProfileFile: "b", profileOptions: []string{"a", "b"}}},
		{"--profile-remove-disable check", options{RemoveDisable: "check"}}, // libvirt abbreviates it so
		{"--no-iak --display --swtpm_ioctl x --tcsd-system-ps-file y --overw", options{Overwrite: true}},
		{"--keyfile-fd 5 --cipher aes-256-cbc", options{KeyFD: "5", Cipher: "aes-256-cbc"}},
		{"--allow-signing --decryption --ecc --create-spk --lock-nvram --reconfigure", options{AllowSigning: true, Decryption: true, ECC: true, CreateSPK: true, LockNVRAM: true, Reconfigure: true}},
	} {
		o, err := parsed(t, tt.line)
		if err != nil || !reflect.DeepEqual(*o, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", tt.line, *o, err, tt.want)
		}
	}
	if _, err := parsed(t, "--bogus"); err == nil {
		t.Error("--bogus is accepted")
	}
	o, err := parsed(t, "--ownerpass a --srkpass b")
	if err != nil || *o.OwnerPass != "a" || *o.SRKPass != "b" {
		t.Errorf("passwords: %+v, %v", o, err)
	}
}

// TestConflicts checks the messages about options that exclude or require each other.
func TestConflicts(t *testing.T) {
	for line, want := range map[string]string{
		"--take-ownership --tpm2":                       "Taking ownership is not supported for TPM 2.",
		"--take-ownership":                              "",
		"--ecc":                                         "--ecc requires --tpm2.",
		"--create-spk":                                  "--create-spk requires --tpm2.",
		"--reconfigure":                                 "--reconfigure requires --tpm2.",
		"--allow-signing":                               "--allow-signing requires --tpm2.",
		"--decryption":                                  "--decryption requires --tpm2.",
		"--pcr-banks -":                                 "--pcr-banks requires --tpm2.",
		"--profile-name x":                              "There's no --profile support for TPM 1.2",
		"--tpm2 --reconfigure --createek":               "Reconfiguration is not supported with creation of EK or certificates",
		"--tpm2 --reconfigure --profile-name x":         "Reconfiguration does not accept a (new) profile.",
		"--tpm2 --profile-name x --profile-file y":      "Only one of --profile,",
		"--tpm2 --profile-remove-disabled x":            "Unsupported parameter for --profile-remove-disabled: x",
		"--tpm2 --profile-remove-disabled check":        "",
		"--tpm2 --profile-remove-disabled=fips-host":    "",
		"--tpm2 --ecc --create-spk --pcr-banks sha1":    "",
		"--createek --lock-nvram --create-ek-cert --tp": "", // --tp is ambiguous, see below
	} {
		if strings.HasSuffix(line, "--tp") {
			if _, err := parsed(t, line); err == nil {
				t.Error("an ambiguous option is accepted")
			}
			continue
		}
		o, err := parsed(t, line)
		if err != nil {
			t.Fatal(err)
		}
		if err = o.checkVersion(); err == nil {
			err = o.checkConflicts()
		}
		wantError(t, line, err, want)
	}
}

// TestPlan20 checks what is manufactured in a TPM 2.0, by options and configuration.
func TestPlan20(t *testing.T) {
	rsa2048, p384 := manufacture.RSA2048, manufacture.P384
	for _, tt := range []struct {
		line, conf string
		want       manufacture.Options20
		err        string
	}{
		{line: "", want: manufacture.Options20{Banks: []string{"sha256"}}},
		{line: "--createek", want: manufacture.Options20{EK1: rsa2048, EK2: p384, Banks: []string{"sha256"}}},
		{line: "--createek", conf: "rsa_keysize = 3072\nek2keyalgo = secp256r1\nactive_pcr_banks = sha1, sha512\n",
			want: manufacture.Options20{EK1: manufacture.RSA3072, EK2: manufacture.P256, Banks: []string{"sha1", "sha512"}}},
		{line: "--createek --rsa-keysize max --pcr-banks -", want: manufacture.Options20{EK1: manufacture.RSA3072, EK2: p384}},
		{line: "--createek --ek1keyalgo ECC_NIST_P521", want: manufacture.Options20{EK1: manufacture.P521, EK2: p384, Banks: []string{"sha256"}}},
		{line: "--create-ek-cert --create-platform-cert --lock-nvram --iakkeyalgo secp384r1",
			want: manufacture.Options20{EK1: rsa2048, EK2: p384, EKCert: true, PlatformCert: true, Lock: true, IAK: p384, Banks: []string{"sha256"}}},
		{line: "--create-spk --ecc --allow-signing --decryption", want: manufacture.Options20{SPK: true, SPKECC: true, Signing: true, Decryption: true, Banks: []string{"sha256"}}},
		{line: "--reconfigure --lock-nvram --create-spk", conf: "rsa_keysize = 1\n", want: manufacture.Options20{Lock: true, Banks: []string{"sha256"}}},
		{line: "--rsa-keysize 1024", err: "already reported"},
		{line: "--createek --rsa-keysize 4096", err: "4096 bit RSA keys are not supported by libtpms."},
		{line: "--createek --ek1keyalgo rsa1024", err: "Key algorithm rsa1024 is not supported."},
		{line: "--iakkeyalgo secp384r1", err: "When creating IAK and/or IDevID keys,"},
	} {
		f := newFixture(t)
		o, err := parsed(t, "--tpm2 "+tt.line)
		if err != nil {
			t.Fatal(err)
		}
		f.o = o
		got, err := f.plan20(configured(tt.conf))
		wantError(t, tt.line, err, tt.err)
		if err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.line, got, tt.want)
		}
	}
	f := newFixture(t)
	f.o.RSAKeySize, f.caps.rsaSizes = "max", nil
	if size, err := f.rsaKeySize(configured("")); size != "2048" || err != nil {
		t.Errorf("max without sizes = %s, %v", size, err)
	}
}

// TestPlan12 checks what is manufactured in a TPM 1.2, by options.
func TestPlan12(t *testing.T) {
	for line, want := range map[string]manufacture.Options12{
		"":           {OwnerAuth: manufacture.Password("ooo"), SRKAuth: manufacture.Password("sss")},
		"--createek": {EK: true, OwnerAuth: manufacture.Password("ooo"), SRKAuth: manufacture.Password("sss")},
		"--take-ownership --ownerpass x --srk-well-known --lock-nvram": {
			EK: true, Owner: true, LockNV: true, OwnerAuth: manufacture.Password("x"), SRKAuth: manufacture.WellKnown()},
	} {
		o, err := parsed(t, line)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.plan12(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
		if o.version() != tpm.V12 {
			t.Errorf("%q: version %v", line, o.version())
		}
	}
}

// TestKeySource checks the source of the state's key, by options.
func TestKeySource(t *testing.T) {
	dir := t.TempDir()
	key := writeTo(t, dir, "key", "00", 0o600)
	file, err := os.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	for _, tt := range []struct {
		o       options
		want    *seal.Source
		message string
		err     string
	}{
		{options{}, nil, "", ""},
		{options{Cipher: "aes-cbc"}, nil, "", ""},
		{options{KeyFile: key}, &seal.Source{Path: key, Bits: 128, Hex: true, KDF: "pbkdf2"}, "  The TPM's state will be encrypted with a provided key.", ""},
		{options{PwdFile: key, Cipher: "aes-256-cbc"}, &seal.Source{Path: key, Passphrase: true, Bits: 256, Hex: true, KDF: "pbkdf2"}, "  The TPM's state will be encrypted using a key derived from a passphrase.", ""},
		{options{KeyFD: fmt.Sprint(fd)}, &seal.Source{FD: fd, Bits: 128, Hex: true, KDF: "pbkdf2"}, "  The TPM's state will be encrypted with a provided key (fd).", ""},
		{options{PwdFD: fmt.Sprint(fd)}, &seal.Source{FD: fd, Passphrase: true, Bits: 128, Hex: true, KDF: "pbkdf2"}, "  The TPM's state will be encrypted using a key derived from a passphrase (fd).", ""},
		{options{KeyFile: key, PwdFD: "x"}, &seal.Source{Path: key, Bits: 128, Hex: true, KDF: "pbkdf2"}, "  The TPM's state will be encrypted with a provided key.", ""},
		{options{source: &seal.Source{Path: "p", Passphrase: true}}, &seal.Source{Path: "p", Passphrase: true}, "  The TPM's state will be encrypted using a key derived from a passphrase.", ""},
		{options{Cipher: "rot13"}, nil, "", "Unsupported cipher rot13."},
		{options{KeyFile: dir + "/missing"}, nil, "", "cannot read keyfile " + dir + "/missing."},
		{options{PwdFile: dir + "/missing"}, nil, "", "cannot read passphrase file " + dir + "/missing."},
		{options{KeyFD: "abc"}, nil, "", "Invalid file descriptor 'abc'"},
		{options{KeyFD: "2147483647"}, nil, "", "Invalid file descriptor '2147483647'"},
		{options{PwdFD: "1234567"}, nil, "", "Descriptor 1234567 was not passed to this program"},
	} {
		got, message, err := tt.o.keySource()
		wantError(t, fmt.Sprintf("%+v", tt.o), err, tt.err)
		if err == nil && (!reflect.DeepEqual(got, tt.want) || message != tt.message) {
			t.Errorf("%+v: %+v, %q; want %+v, %q", tt.o, got, message, tt.want, tt.message)
		}
	}
}

// TestWordsOfTPM checks how the argument of --tpm is split.
func TestWordsOfTPM(t *testing.T) {
	if got := words("/usr/bin/swtpm  socket --x\t "); !reflect.DeepEqual(got, []string{"/usr/bin/swtpm", "socket", "--x"}) {
		t.Errorf("%q", got)
	}
}
