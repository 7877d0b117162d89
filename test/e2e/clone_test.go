package e2e_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/test/harness"
)

// cloneSecret is sealed under the storage root key of the template.
const cloneSecret = "the key of a disk"

// template is a TPM that is cloned.
type template struct {
	dir, state, conf string
	created          *tpm2.CreateResponse // a sealed object
	credential       []byte               // for an attestation key and the EK of the template
	encrypted        []byte
}

// makeTemplate manufactures a TPM with certificates, a sealed secret and an NV counter.
func makeTemplate(t *testing.T, args ...string) *template {
	t.Helper()
	m := &template{dir: harness.TempDir(t)}
	m.conf, m.state = makeCA(t, m.dir, ours("swtpm_localca")), filepath.Join(m.dir, "template")
	write(t, filepath.Join(m.dir, "localca.options"), []byte("--platform-manufacturer Debian --platform-version 2.1 --platform-model QEMU\n"+verifierOptions))
	mkdir(t, m.state)
	mustRun(t, ours("swtpm-setup"), append([]string{"--tpm2", "--tpm-state", m.state, "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--config", m.conf, "--vmid", "template"}, args...)...)
	e := start(t, setup{tpm: v20, state: m.state})
	conn := e.power(t, v20)
	conn.define(t)
	dev := transport.FromReadWriter(conn)
	srk := primary(t, dev, tpm2.ECCSRKTemplate)
	var err error
	m.created, err = tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte(cloneSecret)})}},
		InPublic:     tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true}}),
	}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	ak := primary(t, dev, akTemplate)
	public, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010001)}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := public.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	kem, err := tpm2.ImportEncapsulationKey(contents)
	if err != nil {
		t.Fatal(err)
	}
	if m.credential, m.encrypted, err = tpm2.CreateCredential(rand.Reader, kem, ak.Name.Buffer, []byte("credential")); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	e.terminate(t)
	return m
}

// primary creates a primary key of the owner hierarchy.
func primary(t *testing.T, dev transport.TPM, template tpm2.TPMTPublic) *tpm2.CreatePrimaryResponse {
	t.Helper()
	k, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// clone clones the template with swtpm state clone and returns the state.
func (m *template) clone(t *testing.T, name, how string, more ...string) (state string) {
	t.Helper()
	state = filepath.Join(m.dir, name)
	mkdir(t, state)
	args := []string{"clone", how, "dir://" + m.state, "dir://" + state, "--", "--config", m.conf, "--vmid", name, "--write-ek-cert-files", state, "--inventory", filepath.Join(m.dir, "inventory")}
	mustState(t, append(args, more...)...)
	return state
}

// found is the result of probe: the abilities of the template that its clone has.
type found struct{ unseals, activates, counts bool }

// probe starts a clone and tries the abilities of its template.
func (m *template) probe(t *testing.T, state string) (f found) {
	t.Helper()
	e := start(t, setup{tpm: v20, state: state})
	conn := e.power(t, v20)
	if rsp, err := conn.transmit(read20); err == nil && result(rsp) == 0 {
		f.counts = conn.number(t) == 1
	}
	dev := transport.FromReadWriter(conn)
	srk := primary(t, dev, tpm2.ECCSRKTemplate)
	loaded, err := tpm2.Load{ParentHandle: tpm2.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate: m.created.OutPrivate, InPublic: m.created.OutPublic}.Execute(dev)
	if err == nil {
		opened, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)}}.Execute(dev)
		f.unseals = err == nil && string(opened.OutData.Buffer) == cloneSecret
		flush(t, dev, loaded.ObjectHandle)
	}
	flush(t, dev, srk.ObjectHandle) // a TPM has room for three keys
	secret, err := activate(dev, primary(t, dev, akTemplate), m.credential, m.encrypted)
	f.activates = err == nil && string(secret) == "credential"
	_ = conn.Close()
	e.terminate(t)
	return f
}

// flush removes a transient key.
func flush(t *testing.T, dev transport.TPM, h tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(dev); err != nil {
		t.Fatal(err)
	}
}

// TestClones checks many clones of one template: each has EKs and an identity of its own, is in
// the inventory, has certificates that verify, and opens the sealed secret. A credential for the
// template fails.
func TestClones(t *testing.T) {
	t.Parallel()
	n := 20
	if s := os.Getenv("SWTPM_TEST_CLONES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("SWTPM_TEST_CLONES=%q", s)
		}
	}
	m := makeTemplate(t, "--iakkeyalgo", "rsa2048", "--idevidkeyalgo", "secp384r1")
	before := treeSum(t, m.state)
	begun := time.Now()
	for i := range n {
		m.clone(t, fmt.Sprint("vm", i), "--new-identity")
	}
	t.Logf("%d clones with 5 certificates each take %v", n, time.Since(begun))
	if treeSum(t, m.state) != before {
		t.Error("the template has changed")
	}
	roots := verifierRoots(t, mustRun(t, ours("swtpm-setup"), "--print-trust-bundle", "--config", m.conf))
	inventory, ids := harness.Read(t, filepath.Join(m.dir, "inventory")), map[string]bool{identityOf(t, m.state): true}
	keys := map[string]bool{}
	for i := range n {
		state := filepath.Join(m.dir, fmt.Sprint("vm", i))
		for _, name := range []string{"ek-rsa2048", "ek-secp384r1", "iak-rsa2048", "idevid-secp384r1"} {
			crt, err := x509.ParseCertificate([]byte(harness.Read(t, filepath.Join(state, name+".crt"))))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(crt.RawSubjectPublicKeyInfo)
			if key := hex.EncodeToString(sum[:]); keys[key] || strings.Count(inventory, key) != 1 {
				t.Errorf("%s of clone %d: known %t, in the inventory %d times", name, i, keys[key], strings.Count(inventory, key))
			} else {
				keys[key] = true
			}
			if _, err := crt.Verify(roots); err != nil {
				t.Errorf("%s of clone %d: %v", name, i, err)
			}
		}
		if id := identityOf(t, state); ids[id] {
			t.Errorf("clone %d has the identity %s, which is known", i, id)
		} else {
			ids[id] = true
		}
		if got, want := m.probe(t, state), (found{unseals: true, counts: true}); got != want {
			t.Errorf("clone %d: %+v, want %+v", i, got, want)
		}
		crt, err := x509.ParseCertificate([]byte(harness.Read(t, filepath.Join(state, "ek-rsa2048.crt"))))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			attest(t, state, crt)
		}
	}
}

// TestCloneKinds checks what --keep-identity and --reset keep.
func TestCloneKinds(t *testing.T) {
	t.Parallel()
	m := makeTemplate(t)
	for how, want := range map[string]found{
		"--keep-identity": {unseals: true, activates: true, counts: true},
		"--reset":         {},
	} {
		state := m.clone(t, "vm"+how, how)
		if got := m.probe(t, state); got != want {
			t.Errorf("%s: %+v, want %+v", how, got, want)
		}
		if same := identityOf(t, state) == identityOf(t, m.state); same != (how == "--keep-identity") {
			t.Errorf("%s: the identity is the same: %t", how, same)
		}
	}
}

// TestCloneEncrypted checks that an encrypted state is cloned to a file with another key, by
// profiles.
func TestCloneEncrypted(t *testing.T) {
	t.Parallel()
	m := makeTemplate(t)
	mustState(t, "rekey", "--tpmstate", "dir="+m.state, "--new-key", "file=testdata/key128.hex")
	key, err := filepath.Abs("testdata/key128.hex")
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(m.dir, "src.toml")
	write(t, src, fmt.Appendf(nil, "tpm = \"2.0\"\n[tpmstate]\ndir = %q\n[key]\nfile = %q\n[control]\nlisten = \"unix:/run/x\"\n", m.state, key))
	image := filepath.Join(m.dir, "image")
	dst := filepath.Join(m.dir, "dst.toml")
	write(t, dst, fmt.Appendf(nil, "tpm = \"2.0\"\n[tpmstate]\nfile = %q\n[control]\nlisten = \"unix:/run/y\"\n", image))
	for _, to := range [][]string{{"file://" + image}, {"dir://" + image}, {dst}, {"--keep-identity", dst}, {"--reset", dst}} {
		args := append(append([]string{"state", "clone", src}, to...), "--", "--config", m.conf)
		if to[len(to)-1] == dst {
			args = args[:len(args)-3] // the options of profiles are other ones
		}
		code, _, stderr := run(t, args...)
		if _, err := os.Stat(image); code == 0 || !strings.Contains(stderr, "give a key for the copy") || err == nil {
			t.Errorf("%q: exit code %d, image %v, %s", to, code, err, stderr)
		}
	}
	mustState(t, "clone", "--plain", "--keep-identity", src, dst)
	if out := mustState(t, "inspect", dst); !strings.Contains(out, "; plain;") {
		t.Error(out)
	}
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	mustState(t, "clone", src, "file://"+filepath.Join(m.dir, "image"), "--", "--config", m.conf, "--keyfile", "testdata/key256.hex", "--cipher", "aes-256-cbc")
	out := mustState(t, "verify", "--tpmstate", "backend-uri=file://"+filepath.Join(m.dir, "image"), "--key", "file=testdata/key256.hex,mode=aes-256-cbc")
	if !strings.Contains(out, "TPM 2.0: ok") {
		t.Error(out)
	}
}

// TestCloneRefused checks the errors, and that the destination does not change.
func TestCloneRefused(t *testing.T) {
	t.Parallel()
	m := makeTemplate(t)
	old, used, empty := harness.TempDir(t), m.clone(t, "used", "--keep-identity"), harness.TempDir(t)
	mustRun(t, ours("swtpm-setup"), "--tpm-state", old)
	refused := func(what, want string, args ...string) {
		t.Helper()
		code, stdout, stderr := run(t, append([]string{"state", "clone"}, args...)...)
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d\n%s%s", what, code, stdout, stderr)
		}
		if all, _ := filepath.Glob(filepath.Join(empty, "*")); len(all) > 0 {
			t.Errorf("%s: %q is left", what, all)
		}
	}
	refused("TPM 1.2", "TPM 1.2 cannot get a new identity", "dir://"+old, "dir://"+empty)
	refused("existing TPM", "Found existing TPM state 'permall' in dir://"+used+"; to replace it, give --overwrite", "dir://"+m.state, "dir://"+used)
	refused("directory as DST", "write dir://"+empty+";", "dir://"+m.state, empty)
	refused("directory to create as DST", "write dir://"+empty+"/new;", "dir://"+m.state, empty+"/new")
	refused("directory as SRC", "write dir://"+m.state+";", m.state, "dir://"+empty)
	refused("two kinds", "give one of", "--reset", "--keep-identity", "dir://"+m.state, "dir://"+empty)
	refused("keys of its own", "takes keys and certificates from the source", "dir://"+m.state, "dir://"+empty, "--", "--create-ek-cert")
	e := start(t, setup{tpm: v20, state: m.state})
	_ = e.power(t, v20)
	refused("running source", "in use by process", "dir://"+m.state, "dir://"+empty)
}

// identityOf returns the identity of a stored TPM.
func identityOf(t *testing.T, state string) string {
	t.Helper()
	var r struct {
		Items []struct{ History struct{ Identity string } }
	}
	if err := json.Unmarshal([]byte(stateVerb(t, "inspect", state, "--json")), &r); err != nil || len(r.Items) == 0 {
		t.Fatalf("%s: %v", state, err)
	}
	return r.Items[0].History.Identity
}

// treeSum returns a digest of the files of a directory: names, content and times.
func treeSum(t *testing.T, dir string) [sha256.Size]byte {
	t.Helper()
	var all bytes.Buffer
	for _, path := range globAll(t, dir) {
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, path, fi.Mode(), fi.Size(), fi.ModTime())
		if fi.Mode().IsRegular() {
			all.WriteString(harness.Read(t, path))
		}
	}
	return sha256.Sum256(all.Bytes())
}

// TestCloneOwner checks that a TPM whose owner has a password can be cloned only with it, because
// keys cannot be made persistent without it.
func TestCloneOwner(t *testing.T) {
	t.Parallel()
	m := makeTemplate(t)
	e := start(t, setup{tpm: v20, state: m.state})
	ch := e.power(t, v20)
	ch.ok(t, strings.Replace(changeAuth("", "616263"), "4000000b", "40000001", 1))
	_ = ch.Close()
	e.terminate(t)
	state := harness.TempDir(t)
	args := []string{"state", "clone", "dir://" + m.state, "dir://" + state, "--", "--config", m.conf}
	if code, _, stderr := run(t, args...); code == 0 || !strings.Contains(stderr, "--ownerpass") || stateExists(state) {
		t.Errorf("without the password: exit code %d, state %t, %s", code, stateExists(state), stderr)
	}
	mustRun(t, ours("swtpm"), append(args, "--ownerpass", "abc")...)
	if !stateExists(state) {
		t.Error("with the password: no state")
	}
}

// stateExists reports whether a directory contains a TPM 2.0.
func stateExists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, v20.file()))
	return err == nil
}
