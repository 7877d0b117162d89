package e2e_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// fapiScript provisions a TPM with FAPI of tpm2-tss. It prints the messages of FAPI without and
// with the fingerprint of the EK, and uses the TPM.
//
// Source: tpm2-tss, src/tss2-fapi/api/Fapi_Provision.c: a fingerprint replaces the check of the
// certificate.
const fapiScript = `
provision() {
	rm -rf user system
	mkdir -p user system log
	cat >fapi.json <<EOF
{"profile_name": "P_RSA2048SHA256", "profile_dir": "/etc/tpm2-tss/fapi-profiles/", "user_dir": "$PWD/user", "system_dir": "$PWD/system",
 "log_dir": "$PWD/log", "tcti": "$TPM2TOOLS_TCTI", "system_pcrs": []$1}
EOF
	tss2_provision 2>&1
}
export TSS2_FAPICONF=$PWD/fapi.json
echo "certificate:"
! provision '' || exit 1
key=$(openssl x509 -inform DER -in state/ek-rsa2048.crt -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum | cut -d' ' -f1)
echo "another fingerprint:"
! provision ", \"ek_fingerprint\": {\"hashAlg\": \"sha256\", \"digest\": \"$(echo "$key" | tr 0-9a-f 1-9a-f0)\"}" || exit 1
echo "fingerprint:"
provision ", \"ek_fingerprint\": {\"hashAlg\": \"sha256\", \"digest\": \"$key\"}"
tss2_createkey --path=HS/SRK/key --type=sign --authValue=
echo text | openssl dgst -sha256 -binary >digest
tss2_sign --keyPath=HS/SRK/key --digest=digest --signature=signature --publicKey=public.pem --padding=RSA_PSS
tss2_verifysignature --keyPath=HS/SRK/key --digest=digest --signature=signature
echo verified
`

// caServer serves the certificate and the revocation list of a local CA, and notes the
// requests.
type caServer struct {
	mu       sync.Mutex
	files    map[string][]byte
	requests []string
}

func (s *caServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.URL.Path)
	_, _ = w.Write(s.files[r.URL.Path])
}

// TestFAPI provisions a TPM with FAPI of tpm2-tss. FAPI reads the certificate, its issuer and the
// revocation list, and then refuses every private CA, because it knows only the compiled-in roots
// of vendors. With the fingerprint of the EK from our certificate it accepts the TPM, and with
// another one it does not.
func TestFAPI(t *testing.T) {
	t.Parallel()
	harness.Need(t, "tss2_provision", "tpm2-tools")
	dir := harness.TempDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &caServer{files: map[string][]byte{}}
	go func() { _ = http.Serve(l, s) }()
	t.Cleanup(func() { _ = l.Close() })

	conf := makeCA(t, dir, ours("swtpm_localca"))
	url := "http://" + l.Addr().String()
	write(t, filepath.Join(dir, "localca.options"), []byte("--platform-manufacturer Debian\n--platform-version 2.1\n--platform-model QEMU\n"+
		"--non-critical-san\n--ca-issuers-url "+url+"/issuer.cer\n--crl-url "+url+"/issuer.crl\n"))
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	mustRun(t, ours("swtpm-setup"), "--tpm2", "--tpm-state", state, "--create-ek-cert", "--config", conf, "--write-ek-cert-files", state)
	crl := filepath.Join(dir, "crl")
	mustRun(t, ours("swtpm_localca"), "--crl", crl, "--configfile", filepath.Join(dir, "localca.conf"))
	mustRun(t, "openssl", "x509", "-in", filepath.Join(dir, "ca", "issuercert.pem"), "-outform", "DER", "-out", filepath.Join(dir, "issuer"))
	s.mu.Lock()
	for path, file := range map[string]string{"/issuer.cer": filepath.Join(dir, "issuer"), "/issuer.crl": crl} {
		if s.files[path], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Unlock()

	out := withTools(t, ours("swtpm"), state, dir, fapiScript)
	refused, rest, _ := strings.Cut(out, "another fingerprint:")
	other, accepted, _ := strings.Cut(rest, "\nfingerprint:")
	for _, w := range []struct{ text, want string }{
		{refused, "verify_ek_cert() unable to get local issuer certificate"}, {other, "Fingerprint of EK not equal"}, {accepted, "verified"},
	} {
		if !strings.Contains(w.text, w.want) {
			t.Errorf("FAPI says %s\nwant %q", w.text, w.want)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range []string{"/issuer.cer", "/issuer.crl"} {
		if !slices.Contains(s.requests, path) {
			t.Errorf("FAPI has not read %s: %q", path, s.requests)
		}
	}
}
