package e2e_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// goldenCerts has issuers and public keys.
const goldenCerts = "../../internal/ca/testdata"

// certFiles copies them into a directory, the keys as keys must be.
func certFiles(t *testing.T) string {
	t.Helper()
	dir := harness.TempDir(t)
	names, err := filepath.Glob(filepath.Join(goldenCerts, "*.pem"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		write(t, filepath.Join(dir, filepath.Base(name)), []byte(harness.Read(t, name)))
	}
	return dir
}

// certOptions are the options of a whole certificate except type, key and issuer.
const certOptions = "--tpm-manufacturer id:00001014 --tpm-model swtpm --tpm-version id:20240125 " +
	"--platform-manufacturer Fedora --platform-model QEMU --platform-version 2.1 " +
	"--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183 --tpm-serial-num 1 "

// makeCert runs a swtpm_cert in dir and returns its certificate.
func makeCert(t *testing.T, program, dir string, env []string, args string) []byte {
	t.Helper()
	out := filepath.Join(dir, filepath.Base(program)+".out")
	cmd := exec.Command(program, append(strings.Fields(args), "--out-cert", out)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if code, stdout, stderr := runCmd(t, cmd); code != 0 || stdout+stderr != "" {
		t.Fatalf("%v: exit code %d\n%s%s", cmd, code, stdout, stderr)
	}
	return []byte(harness.Read(t, out))
}

// TestCertBesideReference checks that Debian's swtpm_cert and ours make the same certificates,
// field by field. The differences of 0.7.1 from the reference's head, and so from ours, are
// excluded: it puts the extended key usage first, writes other types of strings into a subject,
// and uses SHA-256 for each RSA issuer.
func TestCertBesideReference(t *testing.T) {
	t.Parallel()
	theirs := harness.Need(t, "swtpm_cert", "swtpm-tools")
	dir := certFiles(t)
	const x, y = "b3d9661bcf61c8d9dd120eb0899a7643c6c00b4839442d6583a81ff3ac51009f", "d8b4b365436385414a46de842c1deb6cf0b0ebff2eed332aa5cd74496fe6f054"
	issuer := "--signkey ca-rsa2048.key.pem --issuercert ca-rsa2048.cert.pem "
	for _, args := range []string{
		"--tpm2 --subject CN=vm:1 --pubkey pub-rsa2048.pem --days -1 --serial 2147483647",
		"--tpm2 --subject CN=vm:1 --pubkey pub-p384.pem",
		"--tpm2 --subject C=US,ST=NY,L=Town --modulus ab" + strings.Repeat("cd", 255) + " --exponent 0x10001 --days 10",
		"--tpm2 --ecc-x " + x + " --ecc-y " + y,
		"--tpm2 --ecc-x " + x + " --ecc-y " + y + " --allow-signing",
		"--tpm2 --ecc-x " + x + " --ecc-y " + y + " --allow-signing --decryption",
		"--tpm2 --pubkey pub-rsa2048.pem --decryption",
		"--tpm2 --pubkey pub-rsa2048.pem --allow-signing --decryption",
		"--tpm2 --type platform --subject CN=vm --pubkey pub-rsa2048.pem",
		"--tpm2 --type platform --ecc-x " + x + " --ecc-y " + y,
		"--pubkey pub-rsa2048.pem --subject CN=unused",
		"--pubkey pub-rsa2048.pem --add-header --days -1",
		"--type platform --pubkey pub-rsa2048.pem --add-header",
	} {
		got := makeCert(t, ours("swtpm_cert"), dir, nil, certOptions+issuer+args)
		want := makeCert(t, theirs, dir, nil, strings.ReplaceAll(certOptions, "--tpm-serial-num 1 ", "")+issuer+args)
		if strings.Contains(args, "--add-header") {
			for i, b := range [][]byte{got, want} {
				if len(b) < 7 || string(b[:3]) != "\x10\x01\x00" || int(b[3])<<8|int(b[4]) != len(b)-5 || string(b[5:7]) != "\x10\x02" {
					t.Fatalf("%s: %d begins with %x", args, i, b[:min(len(b), 7)])
				}
			}
			got, want = got[7:], want[7:]
		}
		sameCert(t, args, got, want)
	}
}

// sameCert compares two certificates.
func sameCert(t *testing.T, what string, gotDER, wantDER []byte) {
	t.Helper()
	got, err := x509.ParseCertificate(gotDER)
	if err != nil {
		t.Fatalf("%s: %v in %x", what, err, gotDER)
	}
	want, err := x509.ParseCertificate(wantDER)
	if err != nil {
		t.Fatalf("%s: %v in %x", what, err, wantDER)
	}
	lines := func(c *x509.Certificate) (s []string) {
		s = append(s, fmt.Sprintf("version %d, serial %v, %v by %v", c.Version, c.SerialNumber, c.SignatureAlgorithm, c.Issuer),
			fmt.Sprintf("issuer %x", c.RawIssuer), "subject "+c.Subject.String(), fmt.Sprintf("key %x", c.RawSubjectPublicKeyInfo),
			fmt.Sprintf("lasts %v", c.NotAfter.Sub(c.NotBefore).Round(time.Minute)))
		for _, e := range c.Extensions {
			s = append(s, fmt.Sprintf("extension %v critical %t %x", e.Id, e.Critical, e.Value))
		}
		slices.Sort(s)
		return s
	}
	if strings.Contains(what, "--days -1") {
		for _, c := range []*x509.Certificate{got, want} {
			if c.NotAfter.Format(time.RFC3339) != "9999-12-31T23:59:59Z" {
				t.Errorf("%s: ends %v", what, c.NotAfter)
			}
			c.NotAfter = c.NotBefore
		}
	}
	g, w := lines(got), lines(want)
	if !slices.Equal(g, w) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
}

// TestCertText checks a certificate in the form that OpenSSL prints.
func TestCertText(t *testing.T) {
	t.Parallel()
	openssl := harness.Need(t, "openssl", "openssl")
	dir := certFiles(t)
	makeCert(t, ours("swtpm_cert"), dir, nil, certOptions+"--tpm2 --subject CN=vm:1 --pubkey pub-p256.pem --signkey ca-rsa3072.key.pem "+
		"--issuercert ca-rsa3072.cert.pem --days -1 --serial 255")
	text := mustRun(t, openssl, "x509", "-in", filepath.Join(dir, "swtpm_cert.out"), "-inform", "DER", "-noout", "-text")
	squeeze := strings.NewReplacer(" ", "", "\n", "") // releases differ in white space
	// OpenSSL 3.5, of Debian 13, knows TCG's object identifiers by name.
	names := strings.NewReplacer("tcg-at-tpmManufacturer", "2.23.133.2.1", "tcg-at-tpmModel", "2.23.133.2.2", "tcg-at-tpmVersion", "2.23.133.2.3",
		"Endorsement Key Certificate", "2.23.133.8.1")
	text = squeeze.Replace(names.Replace(text))
	for _, want := range []string{
		"Version: 3 (0x2)", "Serial Number: 255 (0xff)", "Signature Algorithm: sha384WithRSAEncryption", "Issuer: CN = swtpm-localca",
		"Not After : Dec 31 23:59:59 9999 GMT", "Subject: CN = vm:1",
		"X509v3 Subject Alternative Name: critical\n                DirName:/2.23.133.2.1=id:00001014/2.23.133.2.2=swtpm/2.23.133.2.3=id:20240125\n",
		"X509v3 Basic Constraints: critical\n                CA:FALSE\n", "X509v3 Key Usage: critical\n                Key Encipherment\n",
		"X509v3 Extended Key Usage: \n                2.23.133.8.1\n",
	} {
		if !strings.Contains(text, squeeze.Replace(want)) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// TestCertEd448 checks that OpenSSL verifies the signature of an Ed448 issuer, which Go's library
// does not support.
func TestCertEd448(t *testing.T) {
	t.Parallel()
	openssl := harness.Need(t, "openssl", "openssl")
	dir := certFiles(t)
	key, ca := filepath.Join(dir, "ed448.key"), filepath.Join(dir, "ed448.pem")
	mustRun(t, openssl, "req", "-x509", "-newkey", "ed448", "-nodes", "-keyout", key, "-out", ca, "-subj", "/CN=ca", "-days", "100")
	makeCert(t, ours("swtpm-cert"), dir, nil, certOptions+"--tpm2 --pem --type iak --pubkey pub-p384.pem --signkey ed448.key --issuercert ed448.pem")
	mustRun(t, openssl, "verify", "-CAfile", ca, filepath.Join(dir, "swtpm-cert.out"))
}

// TestCertToken checks signatures with RSA, EC and Ed25519 keys in a token of SoftHSM, with the
// machine's configured modules and with a module that the URI names.
func TestCertToken(t *testing.T) {
	t.Parallel()
	softhsm := harness.Need(t, "softhsm2-util", "softhsm2")
	openssl := harness.Need(t, "openssl", "openssl")
	dir := certFiles(t)
	mkdir(t, filepath.Join(dir, "tokens"))
	conf := filepath.Join(dir, "softhsm2.conf")
	write(t, conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\n"))
	hsm := func(args ...string) {
		cmd := exec.Command(softhsm, args...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
		if code, stdout, stderr := runCmd(t, cmd); code != 0 {
			t.Fatalf("%v: exit code %d\n%s%s", cmd, code, stdout, stderr)
		}
	}
	hsm("--init-token", "--free", "--label", "my ca", "--pin", "1234", "--so-pin", "5678")
	for i, name := range []string{"rsa3072", "p256", "p384", "ed25519"} {
		hsm("--import", filepath.Join(dir, "ca-"+name+".key.pem"), "--token", "my ca", "--label", name, "--id", fmt.Sprintf("0%d", i+1), "--pin", "1234")
	}
	env := []string{"SOFTHSM2_CONF=" + conf, "SWTPM_PKCS11_PIN=1234"}
	write(t, filepath.Join(dir, "pin"), []byte("1234\n"))
	for _, tt := range []struct{ ca, uri string }{
		{"rsa3072", "pkcs11:token=my%20ca;object=rsa3072;type=private"},
		{"rsa3072", "pkcs11:token=my%20ca;id=%01"},
		{"p256", "pkcs11:token=my%20ca;object=p256?module-name=softhsm2"},
		{"p384", "pkcs11:token=my%20ca;object=p384?module-name=softhsm2&pin-source=file:" + dir + "/pin"},
		{"ed25519", "pkcs11:token=my%20ca;object=ed25519?module-name=softhsm2"},
	} {
		makeCert(t, ours("swtpm_cert"), dir, env, certOptions+"--tpm2 --pem --pubkey pub-p384.pem --issuercert ca-"+tt.ca+".cert.pem --signkey "+tt.uri)
		// The issuers are of 2030.
		mustRun(t, openssl, "verify", "-no_check_time", "-ignore_critical", "-partial_chain", "-trusted", filepath.Join(dir, "ca-"+tt.ca+".cert.pem"),
			filepath.Join(dir, "swtpm_cert.out"))
	}
	for _, tt := range []struct{ uri, pin, want string }{
		{"pkcs11:token=my%20ca;object=p256?module-name=softhsm2&pin-value=9999", "1234", "&pin-value=…. PKCS#11 module"},
		{"pkcs11:token=my%20ca;object=p256?module-name=softhsm2&pin-value=9999", "1234", "the PIN is wrong"},
		{"pkcs11:token=my%20ca;object=p256?module-name=softhsm2", "", "or it is visible only with a PIN"},
		{"pkcs11:token=my%20ca;object=p255?module-name=softhsm2", "1234", "there is no such private key"},
		{"pkcs11:token=other;object=p256?module-name=softhsm2", "1234", `the URI's token was not found among the tokens "my ca"`},
		{"pkcs11:token=my%20ca;object=p384?module-name=softhsm2", "1234", "does not belong to the issuer's certificate"},
		{"pkcs11:token=my%20ca;object=p256?module-path=/none.so", "1234", "no PKCS#11 module can be loaded, looked for /none.so"},
	} {
		cmd := exec.Command(ours("swtpm_cert"), append(strings.Fields(certOptions+"--tpm2 --pubkey pub-p384.pem --issuercert ca-p256.cert.pem"), "--signkey", tt.uri)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "SOFTHSM2_CONF="+conf, "SWTPM_PKCS11_PIN="+tt.pin)
		if code, _, stderr := runCmd(t, cmd); code != 1 || !strings.Contains(strings.ToLower(stderr), strings.ToLower(tt.want)) || strings.Count(stderr, "\n") != 1 ||
			strings.Contains(stderr, "9999") {
			t.Errorf("%s: exit code %d, %q, want %q in one line", tt.uri, code, stderr, tt.want)
		}
	}
}

// tpmAuthority makes two keys in a TPM, one that stays at a handle and one in a
// file, and a certificate for each: handle.pem, file.pem.
const tpmAuthority = `set -eu
flush() { tpm2_flushcontext -t -Q; tpm2_flushcontext -l -Q; tpm2_flushcontext -s -Q; }
tpm2_createprimary -Q -C o -c primary; flush
tpm2_create -Q -C primary -G rsa2048:rsassa:null -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign' -p secret -u pub -r priv; flush
tpm2_load -Q -C primary -u pub -r priv -c key; flush
tpm2_evictcontrol -Q -C o -c key 0x81000005; flush
tpm2_readpublic -Q -c 0x81000005 -f pem -o handle.pub; flush
openssl genpkey -provider tpm2 -provider base -algorithm EC -pkeyopt group:P-256 -out file.key 2>/dev/null
openssl pkey -provider tpm2 -provider base -in file.key -pubout -out file.pub; flush
chmod 600 file.key
openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -subj /CN=root -days 100 2>/dev/null
openssl req -new -key root.key -subj /CN=ca -out csr
printf 'basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n' >extensions
for k in handle file; do
	openssl x509 -req -in csr -CA root.pem -CAkey root.key -force_pubkey $k.pub -extfile extensions -out $k.pem -days 99 2>/dev/null
done
`

// TestCertTPM checks signatures with keys in a TPM 2.0, which is our emulator.
func TestCertTPM(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tpm2_create", "tpm2-tools")
	openssl := harness.Need(t, "openssl", "openssl")
	// MODULESDIR: "/usr/lib/…/ossl-modules"
	_, modules, _ := strings.Cut(mustRun(t, openssl, "version", "-m"), " ")
	if _, err := os.Stat(filepath.Join(strings.Trim(modules, "\"\n"), "tpm2.so")); err != nil {
		harness.Missing(t, "OpenSSL's provider tpm2 is not installed: install the package tpm2-openssl: %v", err)
	}
	dir := certFiles(t)
	port := harness.FreePort(t)
	e := launch(t, setup{tpm: v20, nodata: true, args: []string{
		"--flags", "startup-clear", "--server", fmt.Sprintf("type=tcp,port=%d", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1),
	}})
	e.awaitTCP(t, port)
	tcti := fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port)
	env := []string{"TPM2TOOLS_TCTI=" + tcti, "TPM2OPENSSL_TCTI=" + tcti}
	cmd := exec.Command("sh", "-c", tpmAuthority)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if code, stdout, stderr := runCmd(t, cmd); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	options := certOptions + "--tpm2 --pem --pubkey pub-p384.pem "
	for _, tt := range []struct {
		ca, signkey string
		env         []string
	}{
		{"handle", "tpm2:handle=0x81000005 --signkey-password secret", env},
		{"handle", "tpm2:handle=0x81000005;tcti=" + tcti + " --signkey-pwd pass:secret", nil},
		{"file", "file.key", env},
		{"file", "file.key", env}, // once more: the TPM has room for three keys that are loaded
		{"file", "file.key", env},
		{"file", "tpm2:file=file.key;tcti=" + tcti, nil},
	} {
		makeCert(t, ours("swtpm_cert"), dir, tt.env, options+"--issuercert "+tt.ca+".pem --signkey "+tt.signkey)
		mustRun(t, openssl, "verify", "-ignore_critical", "-CAfile", filepath.Join(dir, "root.pem"), "-untrusted", filepath.Join(dir, tt.ca+".pem"),
			filepath.Join(dir, "swtpm_cert.out"))
	}
	// The local CA, whose key is in the TPM.
	write(t, filepath.Join(dir, "ca.conf"), []byte("statedir = "+dir+"/state\nsigningkey = tpm2:handle=0x81000005\\;tcti="+tcti+
		"\nsigningkey_password = secret\nissuercert = "+dir+"/handle.pem\n"))
	write(t, filepath.Join(dir, "ca.options"), nil)
	mustRun(t, ours("swtpm_localca"), strings.Fields("--type ek --ek "+strings.Repeat("ab", 256)+" --dir "+dir+" --tpm2 --vmid vm --tpm-manufacturer a --tpm-model b "+
		"--tpm-version c --tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183 --configfile "+dir+"/ca.conf --optsfile "+dir+"/ca.options")...)
	mustRun(t, openssl, "verify", "-ignore_critical", "-CAfile", filepath.Join(dir, "root.pem"), "-untrusted", filepath.Join(dir, "handle.pem"),
		filepath.Join(dir, "ek.cert"))
	refuseCertTPM(t, dir, options, env)
	e.terminate(t)
}

// refuseCertTPM checks the messages about unsuitable keys.
func refuseCertTPM(t *testing.T, dir, options string, env []string) {
	t.Helper()
	for args, want := range map[string]string{
		"--issuercert handle.pem --signkey tpm2:handle=0x81000005 --signkey-password wrong": "wrong password: the TPM says TPM_RC_",
		"--issuercert handle.pem --signkey tpm2:handle=0x81000006":                          "the TPM has no key at 0x81000006: TPM_RC_HANDLE",
		"--issuercert file.pem --signkey tpm2:handle=0x81000005 --signkey-password secret":  "does not belong to the issuer's certificate",
	} {
		cmd := exec.Command(ours("swtpm_cert"), strings.Fields(options+args)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if code, _, stderr := runCmd(t, cmd); code != 1 || !strings.Contains(strings.ToLower(stderr), strings.ToLower(want)) {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, stderr, want)
		}
	}
}

// TestCertNames checks that the program has both names, and that an unknown option gives exit
// code 1 with either.
func TestCertNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"swtpm_cert", "swtpm-cert"} {
		if got := mustRun(t, ours(name), "--print-capabilities"); !strings.HasPrefix(got, `{ "type": "swtpm_cert", "features": [ "cmdarg-signkey-pwd", `) {
			t.Errorf("%s --print-capabilities: %q", name, got)
		}
		code, stdout, stderr := runCmd(t, exec.Command(ours(name), "--bogus"))
		if code != 1 || !strings.Contains(stdout, "Usage: swtpm_cert [options]") || stderr != ours(name)+": unrecognized option '--bogus'\n" {
			t.Errorf("%s --bogus: exit code %d, %q, %q", name, code, stdout, stderr)
		}
	}
}

// TestCertInterrupted checks that a signal ends a run that waits for a password.
func TestCertInterrupted(t *testing.T) {
	t.Parallel()
	dir := certFiles(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	cmd := exec.Command(ours("swtpm_cert"), strings.Fields(certOptions+"--tpm2 --signkey-pwd fd:0")...)
	cmd.Dir, cmd.Stdin = dir, r
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	p := harness.Start(t, cmd)
	// It waits for the rest of the input.
	if _, err := w.WriteString("half a pass"); err != nil {
		t.Fatal(err)
	}
	if err := harness.Until(func() bool { n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ); return err != nil || n == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.Wait(t); code != 1 || stderr.String() != "swtpm_cert: interrupted\n" {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}
