package ca

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// anEK are the options of a whole EK certificate, but for its issuer's.
const anEK = "--tpm2 --subject CN=x --tpm-manufacturer id:00001014 --tpm-model swtpm --tpm-version id:1 " +
	"--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183 --pubkey pub-p256.pem "

// issuedBy are the options of an issuer.
const issuedBy = "--signkey ca-p256.key.pem --issuercert ca-p256.cert.pem "

var messagesWhole = anEK + issuedBy

var messagesEncrypted = anEK + "--signkey ca-rsa2048-enc.key.pem --issuercert ca-rsa2048.cert.pem "

// messagesCases are the cases of TestMessages.
var messagesCases = []struct{ args, want string }{
	{messagesWhole, ""},
	{messagesWhole + "an operand", ""},
	{messagesWhole + "--SERIAL", "swtpm_cert: unrecognized option '--SERIAL'"},
	{messagesWhole + "--serial", "swtpm_cert: option '--serial' requires an argument"},
	{messagesWhole + "--tpm-spec", "swtpm_cert: option '--tpm-spec' is ambiguous; possibilities: '--tpm-spec-family' '--tpm-spec-level' '--tpm-spec-revision'"},
	{messagesWhole + "-ser=3 -da 7 --pe", ""},
	{messagesWhole + "--type EK", ""},
	{messagesWhole + "--type none", "Unknown certificate type 'none'."},

	{messagesWhole + "--serial +7", ""},
	{messagesWhole + "--serial -7", ""},
	{messagesWhole + "--serial " + strings.Repeat("0", 100) + "7", ""},
	{messagesWhole + "--serial 0x7", "Serial number is invalid."},
	{messagesWhole + "--serial --7", "Serial number is invalid."},
	{messagesWhole + "--serial -", "Serial number is invalid."},
	{messagesWhole + "--serial " + strings.Repeat("9", 1000), "Serial number is too large."},
	{messagesWhole + "--days 2147483647", ""},
	{messagesWhole + "--days 2147483648", "Days value of '2147483648' is outside valid range."},
	{messagesWhole + "--days 1d", "Days value of '1d' is outside valid range."},
	{messagesWhole + "--tpm-spec-level 010", ""},
	{messagesWhole + "--tpm-spec-level 08", "--tpm-spec-level must pass a positive number."},
	{messagesWhole + "--tpm-spec-level 0xffffffff", ""},
	{messagesWhole + "--tpm-spec-level 0x100000000", "--tpm-spec-level must pass a positive number."},
	{messagesWhole + "--tpm-spec-revision -1", "--tpm-spec-revision must pass a positive number."},
	{messagesWhole + "--tpm-spec-revision 0b1", "--tpm-spec-revision must pass a positive number."},
	{messagesWhole + "--tpm-spec-revision 1_0", "--tpm-spec-revision must pass a positive number."},

	{"--exponent 0", "Exponent is wrong and cannot be 0."},
	{"--exponent 3x", "Exponent is wrong and cannot be 0."},
	{"--exponent 0x100000000", "Exponent must fit into 32bits."},
	{"--exponent -1", "Exponent must fit into 32bits."},
	{"--exponent 3", "No parameters for a public key were given."},
	{"--modulus abz1", "Illegal hex character 'z'."},
	{"--modulus " + strings.Repeat("ab", 5121), "Got 10242 hex digits, 10240 are the most."},
	{"--modulus= ", "No parameters for a public key were given."},
	{"--ecc-x ab --ecc-curveid secp256r1", "ECC x and y parameters must both be given."},
	{messagesWhole + "--modulus ab", "Already found options for 'PEM' key; cannot switch to 'RSA'."},
	{"--ecc-x ab --public cd", "Already found options for 'EC' key; cannot switch to 'ML-KEM/ML-DSA'."},
	{"--public ab", "--public and --keyalgo must both be provided."},
	{"--keyalgo ml-kem-768", "--public and --keyalgo must both be provided."},
	{"--keyalgo sike", "Unsupported key algorithm: sike"},
	{"--public ab --keyalgo ml-kem-768 " + issuedBy + strings.Replace(anEK, "--pubkey pub-p256.pem", "", 1),
		"Could not make the ML-KEM/ML-DSA public key: a public key of 1 bytes, those of ml-kem-768 have 1184."},
	{"--ecc-x ab --ecc-y cd " + issuedBy + strings.Replace(anEK, "--pubkey pub-p256.pem", "", 1),
		"Could not make the EC public key: the point is not on secp256r1."},

	{messagesWhole + "--pubkey none", "Could not open file for EK public key: none: No such file or directory"},
	{messagesWhole + "--pubkey ca-p256.cert.pem", "Could not read EK public key from ca-p256.cert.pem: no public key in PEM format."},
	{messagesWhole + "--issuercert none", "Could not read issuer certificate from none. No such file or directory."},
	{messagesWhole + "--issuercert pub-p256.pem", "Could not read issuer certificate from pub-p256.pem. No certificate in PEM format."},
	{messagesWhole + "--signkey none", "Could not read PEM signing key from none. No such file or directory."},
	{messagesWhole + "--signkey pub-p256.pem", "Could not read PEM signing key from pub-p256.pem. No private key in PEM format."},
	{messagesWhole + "--signkey ca-p384.key.pem", "Could not create the certificate. The signing key does not belong to the issuer's certificate."},
	{messagesWhole + "--signkey tpmkey:uuid=1", "Could not read TPM signing key from tpmkey:uuid=1. Keys of a TPM 1.2, tpmkey:…, are not supported; swtpm dropped them after 0.10."},
	{messagesWhole + "--subject C=x", `Could not create the certificate. Ek certificate: subject "C=x": C="x": a country has two letters.`},
	{messagesWhole + "--out-cert none/out", "Could not open none/out for writing the certificate: No such file or directory"},
	{messagesWhole + "--out-cert link", "Could not open link for writing the certificate: Too many levels of symbolic links"},
	{messagesWhole + "--out-cert /dev/full", "Could not write certificate into file /dev/full: No space left on device"},

	{messagesEncrypted, "Could not read PEM signing key from ca-rsa2048-enc.key.pem. Wrong password."},
	{messagesEncrypted + "--signkey-password password", ""},
	{messagesEncrypted + "--signkey-pwd pass:password", ""},
	{messagesEncrypted + "--signkey-pwd password", ""},
	{messagesEncrypted + "--signkey-pwd env:CA_PASSWORD", ""},
	{messagesEncrypted + "--signkey-pwd env:NO_PASSWORD", "Could not get password from environment variable NO_PASSWORD"},
	{messagesEncrypted + "--signkey-pwd file:none", "Could not open password file none for reading: No such file or directory"},
	{messagesEncrypted + "--signkey-pwd file:long.pwd", "Could not read PEM signing key from ca-rsa2048-enc.key.pem. Wrong password."},
	{messagesEncrypted + "--signkey-pwd fd:x", "Bad file descriptor for password."},
	{messagesEncrypted + "--signkey-pwd fd:-1", "Bad file descriptor for password."},
	{messagesEncrypted + "--signkey-pwd fd:9999", "Could not read password: Bad file descriptor"},
	{messagesEncrypted + "--signkey-password file:none", "Could not read PEM signing key from ca-rsa2048-enc.key.pem. Wrong password."},

	{"--type platform " + messagesWhole, "--platform-manufacturer and --platform-model and --platform-version must all be provided."},
	{"--type idevid " + messagesWhole, "--tpm-serial-num must be provided"},
	{messagesWhole + "--tpm-model=", "--tpm-manufacturer and --tpm-model and --tpm-version must all be provided."},
	{messagesWhole + "--tpm-spec-family=", "--tpm-spec-family and --tpm-spec-level and --tpm-spec-revision must all be provided."},
}

// TestMessages checks the messages and exit codes of swtpm_cert.
func TestMessages(t *testing.T) {
	t.Chdir(testFiles(t))
	if err := os.WriteFile("long.pwd", []byte(strings.Repeat("x", 255)+"password"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CA_PASSWORD", "password")
	if err := os.Symlink("elsewhere", "link"); err != nil {
		t.Fatal(err)
	}

	for _, tt := range messagesCases {
		r := run(strings.Fields(tt.args)...)
		if got := r.message(); got != tt.want || r.stderr != "" {
			t.Errorf("%s: error %q, stderr %q, want %q", tt.args, got, r.stderr, tt.want)
		}
		usage := strings.Contains(r.stdout, "\nUsage: swtpm_cert [options]\n")
		if usage != strings.HasPrefix(tt.want, "swtpm_cert: ") {
			t.Errorf("%s: stdout %q", tt.args, r.stdout)
		}
	}
	if _, err := os.Lstat("elsewhere"); err == nil {
		t.Error("the link's target was written")
	}
}

// TestPasswordDescriptor checks that a password is read from a pipe.
func TestPasswordDescriptor(t *testing.T) {
	t.Chdir(testFiles(t))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("password"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(r.Fd())) // the program closes it
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got := run(strings.Fields(anEK + "--signkey ca-rsa2048-enc.key.pem --issuercert ca-rsa2048.cert.pem --signkey-pwd fd:" + strconv.Itoa(fd))...)
	if got.err != nil {
		t.Error(got.err)
	}
}

// TestWhereItGoes checks the output to stdout, to existing files, and to none.
func TestWhereItGoes(t *testing.T) {
	t.Chdir(testFiles(t))
	if err := os.WriteFile("old", []byte(strings.Repeat("old", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, file, mode string
		stdout, pem      bool
		header           bool
	}{
		{args: ""},
		{args: "--add-header"},
		{args: "--pem", stdout: true},
		{args: "--pem --add-header", stdout: true},
		{args: "--out-cert new", file: "new", mode: "-rw-------"},
		{args: "--out-cert old", file: "old", mode: "-rw-r--r--"},
		{args: "--out-cert new --pem", file: "new", mode: "-rw-------", pem: true},
		{args: "--out-cert new --pem --add-header", file: "new", mode: "-rw-------", pem: true, header: true},
		{args: "--out-cert new --add-header", file: "new", mode: "-rw-------", header: true},
	} {
		r := run(strings.Fields(anEK + issuedBy + tt.args)...)
		if block, _ := pem.Decode([]byte(r.stdout)); r.err != nil || (block != nil) != tt.stdout || !tt.stdout && r.stdout != "" {
			t.Errorf("%s: %v, stdout %q", tt.args, r.err, r.stdout)
		}
		if tt.file == "" {
			continue
		}
		b, err := os.ReadFile(tt.file)
		info, err2 := os.Stat(tt.file)
		if err != nil || err2 != nil || info.Mode().String() != tt.mode {
			t.Fatalf("%s: %v, %v, %v", tt.args, info, err, err2)
		}
		if tt.header {
			if n := int(b[3])<<8 | int(b[4]); n != len(b)-5 {
				t.Errorf("%s: the header says %d, want %d", tt.args, n, len(b)-5)
			}
			b = b[7:]
		}
		if block, rest := pem.Decode(b); (block != nil) != tt.pem || len(rest) > 0 && tt.pem {
			t.Errorf("%s: PEM %t", tt.args, block != nil)
		}
		if !tt.pem && (len(b) < 4 || int(b[2])<<8|int(b[3]) != len(b)-4) {
			t.Errorf("%s: %x is not DER to its end", tt.args, b)
		}
		os.Remove("new")
	}
}

// TestLooseKey checks that a key that its group may read is reported, and used.
func TestLooseKey(t *testing.T) {
	t.Chdir(testFiles(t))
	if err := os.Chmod("ca-p256.key.pem", 0o640); err != nil {
		t.Fatal(err)
	}
	r := run(strings.Fields(anEK + issuedBy)...)
	want := "The mode of the signing key ca-p256.key.pem is 0640, so its group can read the key; chmod 0600 prevents that.\n"
	if r.err != nil || r.stderr != want {
		t.Errorf("error %v, stderr %q, want %q", r.err, r.stderr, want)
	}
	if err := os.Chmod("ca-p256.key.pem", 0o604); err != nil {
		t.Fatal(err)
	}
	r = run(strings.Fields(anEK + issuedBy)...)
	if want := "Could not read PEM signing key from ca-p256.key.pem. Its mode is 0604, so users other than the owner can use or change the key: " +
		"chmod 0600 ca-p256.key.pem."; r.message() != want {
		t.Errorf("error %q, want %q", r.message(), want)
	}
}

// TestImmediateOptions checks the options that print something and ignore the rest of the command
// line.
func TestImmediateOptions(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--print-capabilities --bogus", `{ "type": "swtpm_cert", "features": [ "cmdarg-signkey-pwd", "cmdarg-tpm-serial-num", "supports-iak-idevid", "cmdarg-public", "cmdarg-keyalgo" ], "version": "0.11.0" }` + "\n"},
		{"--version --bogus", "TPM certificate tool version 0.11.0, Copyright (c) 2026 the swtpm-go authors\n"},
	} {
		if r := run(strings.Fields(tt.args)...); r.err != nil || r.stdout != tt.want || r.stderr != "" {
			t.Errorf("%s: %+v, want %q", tt.args, r, tt.want)
		}
	}
	help := run("--help", "--bogus")
	if help.err != nil || !strings.Contains(help.stdout, "--issuercert <file>") {
		t.Errorf("--help: %+v", help)
	}
	for _, line := range strings.Split(help.stdout, "\n") {
		if len(line) > 80 {
			t.Errorf("--help: %q is longer than a line", line)
		}
	}
	if r := run("--completion", "bash"); r.err != nil || !strings.Contains(r.stdout, "swtpm-cert") {
		t.Errorf("--completion bash: %+v", r)
	}
}

// TestOpenSSLVerifies checks that OpenSSL verifies a certificate of each type by each issuer.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") == "1" {
			t.Fatal("openssl is not installed: install the package openssl")
		}
		t.Skip("openssl is not installed: install the package openssl")
	}
	t.Chdir(testFiles(t))
	cas, err := filepath.Glob("ca-*.cert.pem")
	if err != nil || len(cas) == 0 {
		t.Fatal(cas, err)
	}
	for _, ca := range cas {
		if ca == "ca-noski.cert.pem" {
			continue
		}
		for _, typ := range []string{"ek", "platform", "iak", "idevid"} {
			r := run(strings.Fields(anEK + "--platform-manufacturer a --platform-model b --platform-version c --tpm-serial-num 1 --out-cert out --pem " +
				"--type " + typ + " --issuercert " + ca + " --signkey " + strings.Replace(ca, "cert", "key", 1))...)
			if r.err != nil {
				t.Errorf("%s by %s: %v", typ, ca, r.err)
				continue
			}
			// The clock is that of run; OpenSSL does not know the critical name.
			out, err := exec.Command(openssl, "verify", "-attime", "1900000000", "-ignore_critical", "-partial_chain", "-trusted", ca, "out").CombinedOutput()
			if err != nil || string(out) != "out: OK\n" {
				t.Errorf("%s by %s: %v\n%s", typ, ca, err, out)
			}
		}
	}
}

// FuzzHex checks that decoded hex is the original, in upper and lower case.
func FuzzHex(f *testing.F) {
	f.Add("00ff")
	f.Add("AbC")
	f.Add("zz")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := parseHex(s)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("parseHex(%q) fails without a word", s)
			}
			return
		}
		const digits = "0123456789abcdef"
		for i, c := range []byte(strings.ToLower(s)) {
			if half := b[i/2] >> (4 * (1 - i%2)) & 15; digits[half] != c {
				t.Fatalf("parseHex(%q) = %x", s, b)
			}
		}
		if len(b)*2 != len(s) {
			t.Errorf("parseHex(%q) = %x", s, b)
		}
	})
}
