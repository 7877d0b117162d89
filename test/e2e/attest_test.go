package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/test/harness"
)

// verifierOptions are lines of swtpm-localca.options for certificates that ordinary
// verifiers accept.
const verifierOptions = "--non-critical-san\n--ca-issuers-url http://ca.example/issuer.cer\n--crl-url http://ca.example/issuer.crl\n"

// TestAttestation checks that a verifier that uses Go's standard library only accepts our
// certificate of an EK, finds that an attestation key is in the same TPM, and accepts a quote. It
// rejects a certificate in swtpm's form.
func TestAttestation(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	conf := makeCA(t, dir, ours("swtpm_localca"))
	options := filepath.Join(dir, "localca.options")
	for _, tt := range []struct {
		name, options string
		accepted      bool
	}{{"default", "", false}, {"verifiers", verifierOptions, true}} {
		write(t, options, []byte(strings.Join([]string{"--platform-manufacturer Debian --platform-version 2.1 --platform-model QEMU", tt.options}, "\n")))
		state := filepath.Join(dir, tt.name)
		mkdir(t, state)
		mustRun(t, ours("swtpm-setup"), "--tpm2", "--tpm-state", state, "--create-ek-cert", "--config", conf, "--write-ek-cert-files", state, "--vmid", "vm1")
		der := []byte(harness.Read(t, filepath.Join(state, "ek-rsa2048.crt")))
		ek, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ek.Verify(verifierRoots(t, mustRun(t, ours("swtpm-setup"), "--print-trust-bundle", "--config", conf)))
		if (err == nil) != tt.accepted {
			t.Errorf("%s: Verify gives %v, want accepted = %v", tt.name, err, tt.accepted)
		}
		if tt.accepted {
			attest(t, state, ek)
		}
	}
}

// verifierRoots returns how a verifier uses a trust bundle: the first certificate is
// the root.
func verifierRoots(t *testing.T, bundle string) x509.VerifyOptions {
	t.Helper()
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	pool := o.Roots
	for rest := []byte(bundle); ; pool = o.Intermediates {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return o
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		pool.AddCert(c)
	}
}

// attest has the TPM with a state prove that it holds the key in the certificate ek,
// and quote its PCRs with an attestation key.
func attest(t *testing.T, state string, ek *x509.Certificate) {
	t.Helper()
	e := start(t, setup{tpm: v20, state: state})
	conn := e.power(t, v20)
	tpm := transport.FromReadWriter(conn)

	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(akTemplate)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	const ekHandle = tpm2.TPMHandle(0x81010001)
	public, err := tpm2.ReadPublic{ObjectHandle: ekHandle}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}

	// The verifier has the certificate, the attestation key's name and its public part.
	contents, err := public.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	unique, err := contents.Unique.RSA()
	if err != nil {
		t.Fatal(err)
	}
	if n := new(big.Int).SetBytes(unique.Buffer); n.Cmp(ek.PublicKey.(*rsa.PublicKey).N) != 0 {
		t.Fatal("the certificate has another key than the TPM")
	}
	kem, err := tpm2.ImportEncapsulationKey(contents)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("only this TPM opens it")
	blob, encrypted, err := tpm2.CreateCredential(rand.Reader, kem, ak.Name.Buffer, secret)
	if err != nil {
		t.Fatal(err)
	}

	opened, err := activate(tpm, ak, blob, encrypted)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(opened, secret) {
		t.Errorf("ActivateCredential gives %q, want %q", opened, secret)
	}
	quote(t, tpm, ak)
}

// activate sends TPM2_ActivateCredential for an attestation key, with the RSA EK.
func activate(tpm transport.TPM, ak *tpm2.CreatePrimaryResponse, blob, encrypted []byte) ([]byte, error) {
	const ekHandle = tpm2.TPMHandle(0x81010001)
	public, err := tpm2.ReadPublic{ObjectHandle: ekHandle}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	byOwner := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: session, NonceTPM: nonce}.Execute(tpm)
		return err
	})
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ekHandle, Name: public.Name, Auth: byOwner},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	return opened.CertInfo.Buffer, nil
}

// akTemplate is the template of an attestation key on P-256.
var akTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	}),
}

// quote verifies a quote of a PCR with the attestation key.
func quote(t *testing.T, tpm transport.TPM, ak *tpm2.CreatePrimaryResponse) {
	t.Helper()
	nonce := []byte("a number used once")
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(16)}}}
	q, err := tpm2.Quote{SignHandle: tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce}, PCRSelect: selection}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := q.Quoted.Contents()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := q.Signature.Signature.ECDSA()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ak.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	point, err := public.Unique.ECC()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte{4} // uncompressed: SEC 1, 2.3.3
	for _, n := range []tpm2.TPM2BECCParameter{point.X, point.Y} {
		raw = append(raw, new(big.Int).SetBytes(n.Buffer).FillBytes(make([]byte, 32))...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(q.Quoted.Bytes())
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature.SignatureR.Buffer), new(big.Int).SetBytes(signature.SignatureS.Buffer)) {
		t.Error("the signature of the quote is not that of the attestation key")
	}
	about, err := signed.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	zero := sha256.Sum256(make([]byte, sha256.Size)) // of PCR 16, which nothing was extended into
	if !bytes.Equal(signed.ExtraData.Buffer, nonce) || !bytes.Equal(about.PCRDigest.Buffer, zero[:]) {
		t.Errorf("quote over %x with %q, want %x with %q", about.PCRDigest.Buffer, signed.ExtraData.Buffer, zero, nonce)
	}
}

// TestRevocation checks with OpenSSL that a certificate verifies until it is revoked,
// and that other certificates still verify, also after the issuer's certificate was renewed.
func TestRevocation(t *testing.T) {
	t.Parallel()
	openssl := harness.Need(t, "openssl", "openssl")
	dir := newLocalCA(t)
	program := ours("swtpm_localca")
	for _, out := range []string{"a", "b"} {
		mustLocalCA(t, program, dir, out)
	}
	ca := func(args ...string) (code int, stdout, stderr string) {
		return runCmd(t, exec.Command(program, append([]string{"--configfile", dir + "/conf"}, args...)...))
	}
	verify := func(out string) string {
		code, stdout, stderr := runCmd(t, exec.Command(openssl, "verify", "-ignore_critical", "-crl_check", "-CRLfile", dir+"/crl.pem",
			"-CAfile", dir+"/ca/swtpm-localca-rootca-cert.pem", "-untrusted", dir+"/ca/issuercert.pem", filepath.Join(dir, out, "ek.pem")))
		if code == 0 {
			return "good"
		}
		if strings.Contains(stdout+stderr, "certificate revoked") {
			return "revoked"
		}
		return stdout + stderr
	}
	mustCA := func(want string, args ...string) {
		t.Helper()
		if code, stdout, stderr := ca(args...); code != 0 || !strings.Contains(stdout, want) {
			t.Fatalf("%q: exit code %d\n%s%s", args, code, stdout, stderr)
		}
	}
	mustCA("Issued a new certificate", "--crl", dir+"/crl.pem")
	for _, out := range []string{"a", "b"} {
		if got := verify(out); got != "good" {
			t.Errorf("%s before: %s", out, got)
		}
	}
	mustCA("is revoked since", "--revoke", filepath.Join(dir, "a", "ek.cert"), "--crl", dir+"/crl.pem", "--crl-days", "2")
	if a, b := verify("a"), verify("b"); a != "revoked" || b != "good" {
		t.Errorf("after: a %s, b %s", a, b)
	}
	mustCA("", "--crl", dir+"/crl.der")
	if l, err := x509.ParseRevocationList([]byte(harness.Read(t, dir+"/crl.der"))); err != nil || l.Number.Int64() != 3 {
		t.Errorf("list in DER: %v, number %v", err, l)
	}
	mustLocalCA(t, program, dir, "c") // the CA still issues
	refuseRevocations(t, dir, ca)
}

// refuseRevocations checks the messages of calls that the CA refuses.
func refuseRevocations(t *testing.T, dir string, ca func(args ...string) (int, string, string)) {
	t.Helper()
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"was not issued by this CA", []string{"--revoke", dir + "/ca/swtpm-localca-rootca-cert.pem"}},
		{"leave out --type and --ek", []string{"--crl", dir + "/x", "--type", "ek"}},
		{`"0" is not a number from 1 to`, []string{"--crl", dir + "/x", "--crl-days", "0"}},
		{"no such file", []string{"--revoke", dir + "/nothing"}},
		{"no such file", []string{"--crl", dir + "/nowhere/x"}},
	} {
		code, stdout, stderr := ca(tt.args...)
		if code != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: exit code %d\n%s%s, want %s", tt.args, code, stdout, stderr, tt.want)
		}
	}
	if _, err := os.Lstat(dir + "/x"); err == nil {
		t.Error("a refused call has written a list")
	}
}
