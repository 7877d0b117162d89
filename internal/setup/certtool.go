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

	"github.com/swtpm-go/swtpm/internal/ca/cmdlocalca"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/setup/job"
)

// certTool is a job.Certifier: the program that the configuration names, called
// as swtpm_setup does.
type certTool struct {
	path            string // "" if none is configured
	inside          bool   // it is our swtpm-localca: no process is needed
	prefix          string // of its messages
	config, options string // files; "" for none
	logFile         string
	vmid            string
	tpm2            bool
	dir             string // where it leaves certificates, ours alone
	tpm             job.TPM
	log             job.Log
}

// newCertTool finds the program that c names. With prefix what it says is told
// with its name before it.
func newCertTool(c settings, prefix bool) (*certTool, error) {
	t := &certTool{config: c.value("create_certs_tool_config", ""), options: c.value("create_certs_tool_options", "")}
	name := c.value("create_certs_tool", "")
	if name == "" {
		return t, nil
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, cli.Complain("Could not find %s in PATH.", name)
	}
	t.path, t.inside = path, isOurs(path)
	if prefix {
		t.prefix = filepath.Base(path) + ": "
	}
	return t, nil
}

// isOurs tells whether the program at path is our swtpm-localca, whose work this
// process can do as well.
func isOurs(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == "github.com/swtpm-go/swtpm/cmd/swtpm-localca" && info.Main.Version == ourVersion()
}

// ourVersion is the version that this program was built from.
func ourVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// close removes the directory.
func (t *certTool) close() {
	if t.dir != "" {
		_ = os.RemoveAll(t.dir) // has been told to be temporary
	}
}

// Issue implements job.Certifier.
func (t *certTool) Issue(ctx context.Context, r job.Request) ([]byte, error) {
	if t.path == "" {
		return nil, cli.Complain("There is no program for certificates: create_certs_tool is missing in the configuration file.")
	}
	if t.inside {
		cert, err := t.issueInside(ctx, r)
		if !errors.Is(err, cmdlocalca.ErrToken) {
			return cert, err
		}
		t.inside = false
	}
	if t.dir == "" {
		var err error
		if t.dir, err = os.MkdirTemp("", "swtpm_setup.certs."); err != nil {
			return nil, cli.Complain("Could not create temporary directory for certs: %s", cli.Strerror(err))
		}
	}
	args, err := t.args(ctx, r)
	if err != nil {
		return nil, err
	}
	t.log.Infof("  Invoking %s %s", t.path, strings.Join(args, " "))
	if err := t.run(ctx, args); err != nil {
		return nil, err
	}
	path := filepath.Join(t.dir, string(r.Type)+".cert")
	cert, err := safefile.ReadInput(path, maxCertificate)
	if err != nil {
		return nil, cli.Complain("%s has left no certificate: %v", t.path, err)
	}
	return cert, os.Remove(path)
}

// maxCertificate is more than any certificate has, in bytes.
const maxCertificate = 1 << 20

// issueInside has the local CA issue the certificate in this process. Its messages
// are those of the program.
func (t *certTool) issueInside(ctx context.Context, r job.Request) ([]byte, error) {
	args, err := t.args(ctx, r)
	if err != nil {
		return nil, err
	}
	t.log.Infof("  Invoking %s %s", t.path, strings.Join(args, " "))
	cert, err := cmdlocalca.Certificate(ctx, prefixed{t.log, t.prefix}, args)
	if err != nil {
		return nil, err
	}
	what := string(r.Type)
	if r.Type == job.EK {
		what = "EK"
	}
	t.log.Infof("%sSuccessfully created %s certificate locally.", t.prefix, what)
	return cert, nil
}

// prefixed is a log whose messages begin with a word.
type prefixed struct {
	log    job.Log
	prefix string
}

func (p prefixed) Infof(format string, args ...any) {
	p.log.Infof("%s%s", p.prefix, fmt.Sprintf(format, args...))
}
func (p prefixed) Errorf(format string, args ...any) {
	p.log.Errorf("%s%s", p.prefix, fmt.Sprintf(format, args...))
}

// args are the arguments of the program, in the reference's order.
func (t *certTool) args(ctx context.Context, r job.Request) ([]string, error) {
	key, err := keyText(r.Key)
	if err != nil {
		return nil, err
	}
	option := "--ek"
	if r.Type == job.IAK || r.Type == job.IDevID {
		option = "--key"
	}
	args := []string{"--type", string(r.Type), option, key}
	if t.dir != "" {
		args = append(args, "--dir", t.dir)
	}
	if r.Signing {
		args = append(args, "--allow-signing")
		if r.Decryption {
			args = append(args, "--decryption")
		}
	}
	if t.logFile != "" {
		args = append(args, "--logfile", t.logFile)
	}
	if t.vmid != "" {
		args = append(args, "--vmid", t.vmid)
	}
	spec, err := specArgs(ctx, t.tpm)
	if err != nil {
		return nil, err
	}
	args = append(args, spec...)
	if t.tpm2 {
		args = append(args, "--tpm2")
	}
	if t.config != "" {
		args = append(args, "--configfile", t.config)
	}
	if t.options != "" {
		args = append(args, "--optsfile", t.options)
	}
	if r.Serial != "" {
		args = append(args, "--tpm-serial-num", r.Serial)
	}
	return args, nil
}

// specArgs are the arguments that tell which TPM it is.
func specArgs(ctx context.Context, t job.TPM) ([]string, error) {
	text, err := t.Info(ctx, infoSpec)
	if err != nil {
		return nil, err
	}
	var i struct {
		TPMSpecification *struct {
			Family          string
			Level, Revision int
		}
		TPMAttributes *struct{ Manufacturer, Model, Version string }
	}
	err = json.Unmarshal([]byte(text), &i)
	if err != nil || i.TPMSpecification == nil || i.TPMAttributes == nil {
		return nil, cli.Complain("Could not get the TPM spec and attribute parameters.")
	}
	s, a := i.TPMSpecification, i.TPMAttributes
	return []string{
		"--tpm-spec-family", s.Family, "--tpm-spec-level", fmt.Sprint(s.Level), "--tpm-spec-revision", fmt.Sprint(s.Revision),
		"--tpm-manufacturer", a.Manufacturer, "--tpm-model", a.Model, "--tpm-version", a.Version,
	}, nil
}

// keyText is a public key as certificate tools take it: the modulus in hex digits,
// or x=HEX,y=HEX,id=CURVE.
func keyText(key crypto.PublicKey) (string, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return hex.EncodeToString(k.N.Bytes()), nil
	case *ecdsa.PublicKey:
		b, err := k.Bytes()
		if err != nil {
			return "", fmt.Errorf("the public key of the TPM: %w", err)
		}
		x, y := b[1:1+len(b)/2], b[1+len(b)/2:]
		return fmt.Sprintf("x=%x,y=%x,id=secp%dr1", x, y, k.Params().BitSize), nil
	}
	return "", fmt.Errorf("a public key of type %T has no certificate", key)
}

// run runs the program. What it prints goes into our messages.
func (t *certTool) run(ctx context.Context, args []string) error {
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
	why := strings.TrimRight(stderr.String(), "\n")
	if why == "" && t.logFile != "" {
		why = "see " + t.logFile
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return cli.Complain("%s exit with status %d: %s", filepath.Base(t.path), exit.ExitCode(), why)
	}
	return cli.Complain("An error occurred running %s: %v %s", filepath.Base(t.path), err, why)
}
