package setup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/setup/manufacture"
)

// certifier is a manufacture.Certifier. If the configuration names the swtpm-localca of this
// project, it asks package ca for certificates. Otherwise it runs the program as swtpm_setup does.
type certifier struct {
	path            string // of the program; "" if none is configured
	inProcess       bool   // the program is our swtpm-localca
	authority       *ca.CA // used with inProcess; nil before the first certificate
	prefix          string // of its messages
	config, options string // files; "" for none
	logFile         string
	vmid            string
	tpm2            bool
	expected        int    // number of certificates
	dir             string // temporary, for the program's output; "" before it is created
	tpm             manufacture.TPM
	log             manufacture.Log
}

// newCertifier finds the program that c names. If prefix is true, its messages begin with the name
// of the program.
func newCertifier(c settings, prefix bool) (*certifier, error) {
	t := &certifier{config: c.value("create_certs_tool_config", ""), options: c.value("create_certs_tool_options", "")}
	name := c.value("create_certs_tool", "")
	if name == "" {
		return t, nil
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, cli.Complain("Could not find %s in PATH.", name)
	}
	t.path, t.inProcess = path, isOurs(path)
	if prefix {
		t.prefix = filepath.Base(path) + ": "
	}
	return t, nil
}

// isOurs reports whether the program at path is the swtpm-localca of this project, in the same
// version as this program.
func isOurs(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == "github.com/swtpm-go/swtpm/cmd/swtpm-localca" && info.Main.Version == ourVersion()
}

// ourVersion returns the version of the module that this program was built from.
func ourVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// close closes the CA and removes the temporary directory.
func (t *certifier) close() {
	if t.authority != nil {
		_ = t.authority.Close() // fails only for a key in a token, which the program uses, not this process
	}
	if t.dir != "" {
		_ = os.RemoveAll(t.dir) // files that remain in TMPDIR do no harm
	}
}

// Issue implements manufacture.Certifier.
func (t *certifier) Issue(ctx context.Context, r ca.Request) ([]byte, error) {
	r.TPM2, r.VMID = t.tpm2, t.vmid
	var err error
	if r.Spec, r.Product, err = describeTPM(ctx, t.tpm); err != nil {
		return nil, err
	}
	if t.inProcess {
		if err := t.open(r); err != nil {
			return nil, err
		}
	}
	if t.inProcess {
		return t.issueInProcess(ctx, r)
	}
	return t.issueByProgram(ctx, r)
}

// open opens the CA for the first certificate. If the key of the CA is in a token, open only
// chooses the program, because a PKCS #11 module needs environment variables of its own.
func (t *certifier) open(r ca.Request) (err error) {
	if t.authority != nil {
		return nil
	}
	if t.authority, err = ca.Open(t.config, t.options, prefixed{t.log, t.prefix}); err != nil {
		t.logCall(r)
		return err
	}
	t.inProcess = !t.authority.InToken()
	t.authority.Expect(t.expected)
	return nil
}

// issueInProcess issues the certificate in this process. It logs the same
// messages as the program.
func (t *certifier) issueInProcess(ctx context.Context, r ca.Request) ([]byte, error) {
	t.logCall(r)
	crt, err := t.authority.Issue(ctx, r)
	if err != nil {
		return nil, err
	}
	t.log.Infof("%sSuccessfully created %s certificate locally.", t.prefix, r.Label())
	return crt, nil
}

// issueByProgram runs the program and returns the certificate that it writes.
func (t *certifier) issueByProgram(ctx context.Context, r ca.Request) ([]byte, error) {
	if t.dir == "" {
		var err error
		if t.dir, err = os.MkdirTemp("", "swtpm_setup.certs."); err != nil {
			return nil, cli.Complain("Could not create temporary directory for certs: %s", cli.Strerror(err))
		}
	}
	t.logCall(r)
	if err := t.run(ctx, t.args(r)); err != nil {
		return nil, err
	}
	path := filepath.Join(t.dir, r.Type.String()+".cert")
	crt, err := safefile.ReadInput(path, maxCertificate)
	if err != nil {
		return nil, cli.Complain("%s has left no certificate: %v", t.path, err)
	}
	return crt, os.Remove(path)
}

// maxCertificate is the size limit of a certificate file in bytes.
const maxCertificate = 1 << 20

// logCall logs the command line of the program for r.
func (t *certifier) logCall(r ca.Request) {
	t.log.Infof("  Invoking %s %s", t.path, strings.Join(t.args(r), " "))
}

// prefixed is a log whose messages begin with a prefix.
type prefixed struct {
	log    manufacture.Log
	prefix string
}

func (p prefixed) Infof(format string, args ...any) {
	p.log.Infof("%s%s", p.prefix, fmt.Sprintf(format, args...))
}
func (p prefixed) Errorf(format string, args ...any) {
	p.log.Errorf("%s%s", p.prefix, fmt.Sprintf(format, args...))
}

// args returns the arguments of the program, in the reference's order.
func (t *certifier) args(r ca.Request) []string {
	option := "--ek"
	if r.Type == cert.IAK || r.Type == cert.IDevID {
		option = "--key"
	}
	args := []string{"--type", r.Type.String(), option, keyText(r.Key)}
	if t.dir != "" {
		args = append(args, "--dir", t.dir)
	}
	if r.Signing {
		args = append(args, "--allow-signing")
		if r.Decryption {
			args = append(args, "--decryption")
		}
	}
	optional := func(name, value string) {
		if value != "" {
			args = append(args, name, value)
		}
	}
	optional("--logfile", t.logFile)
	optional("--vmid", r.VMID)
	args = append(args,
		"--tpm-spec-family", r.Spec.Family, "--tpm-spec-level", fmt.Sprint(r.Spec.Level), "--tpm-spec-revision", fmt.Sprint(r.Spec.Revision),
		"--tpm-manufacturer", r.Product.Manufacturer, "--tpm-model", r.Product.Model, "--tpm-version", r.Product.Version)
	if r.TPM2 {
		args = append(args, "--tpm2")
	}
	optional("--configfile", t.config)
	optional("--optsfile", t.options)
	optional("--tpm-serial-num", r.TPMSerial)
	return args
}

// describeTPM returns the specification and the product name of a TPM.
func describeTPM(ctx context.Context, t manufacture.TPM) (cert.Spec, cert.Attributes, error) {
	text, err := t.Info(ctx, infoSpec)
	if err != nil {
		return cert.Spec{}, cert.Attributes{}, err
	}
	var info struct {
		TPMSpecification *cert.Spec
		TPMAttributes    *cert.Attributes
	}
	err = json.Unmarshal([]byte(text), &info)
	if err != nil || info.TPMSpecification == nil || info.TPMAttributes == nil {
		return cert.Spec{}, cert.Attributes{}, cli.Complain("Could not get the TPM spec and attribute parameters.")
	}
	return *info.TPMSpecification, *info.TPMAttributes, nil
}

// keyText returns a public key in the syntax of certificate tools: the modulus in hex
// digits, or x=HEX,y=HEX,id=CURVE.
func keyText(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return hex.EncodeToString(k.N.Bytes())
	case *ecdsa.PublicKey:
		b, err := k.Bytes()
		if err != nil {
			break
		}
		x, y := b[1:1+len(b)/2], b[1+len(b)/2:]
		return fmt.Sprintf("x=%x,y=%x,id=secp%dr1", x, y, k.Params().BitSize)
	}
	return "" // package manufacture checks its keys, so the program would report this
}

// run runs the program and logs its output.
func (t *certifier) run(ctx context.Context, args []string) error {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.WaitDelay = orphanWait
	var stdout, stderr bytes.Buffer
	if t.logFile == "" {
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
	}
	err := cmd.Run()
	for line := range strings.Lines(stdout.String()) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			t.log.Infof("%s%s", t.prefix, line)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	reason := strings.TrimRight(stderr.String(), "\n")
	if reason == "" && t.logFile != "" {
		reason = "see " + t.logFile
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return cli.Complain("%s exit with status %d: %s", filepath.Base(t.path), exit.ExitCode(), reason)
	}
	return cli.Complain("An error occurred running %s: %v %s", filepath.Base(t.path), err, reason)
}
