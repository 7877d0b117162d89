// Package swtpm_test keeps the picture in ARCHITECTURE.md true.
package swtpm_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/swtpm-go/swtpm/"

// arrows lists the packages of this module that a package may import. A package without an
// entry may import none.
var arrows = map[string][]string{
	"cmd/swtpm-admin/anchor":   {"internal/nv/generation", "internal/nv/mark"},
	"internal/ledger":          {"internal/nv/generation", "internal/tpm"},
	"internal/ledger/recorder": {"internal/ledger", "internal/safefile", "internal/tpm"},
	"cmd/swtpm-store/broker":   {"internal/store", "cmd/swtpm-store/driver"},
	"test/harness/conntest":    {"internal/tpm"},
	"test/harness/drivertest":  {"cmd/swtpm-store/driver"},
	"cmd/swtpm-store/etcd":     {"cmd/swtpm-store/driver"},
	"cmd/swtpm-admin/fleet": {"internal/config", "internal/io/ctrl", "internal/nv", "internal/nv/generation", "internal/nv/remote", "internal/program", "internal/safefile", "internal/store",
		"internal/seal", "internal/tpm"},
	"cmd/swtpm-admin/boots":          {"cmd/swtpm-admin/boots/eventlog", "internal/ledger", "internal/safefile", "internal/tpm"},
	"cmd/swtpm-admin/boots/eventlog": {"internal/ledger"},
	"cmd/swtpm-admin/selftest":       {"internal/emul", "internal/nv", "internal/tpm"},
	"internal/nv":                    {"internal/nv/generation", "internal/seal"},
	"internal/nv/mark":               {"internal/nv", "internal/nv/generation", "internal/safefile"},
	"internal/nv/dir":                {"internal/nv", "internal/safefile", "internal/seal"},
	"internal/nv/linear":             {"internal/nv", "internal/safefile"},
	"internal/nv/backend":            {"internal/nv", "internal/nv/dir", "internal/nv/linear", "internal/nv/remote"},
	"internal/nv/remote":             {"internal/nv", "internal/store"},
	"test/harness/nvtest":            {"internal/nv"},
	"test/harness/etcdtest":          {"test/harness"},
	"internal/program":               {"internal/threads"},
	"internal/offline":               {"internal/emul", "internal/emul/payload", "internal/nv", "internal/nv/generation", "internal/seal", "internal/tpm"},
	"internal/emul":                  {"internal/emul/payload", "internal/handover", "internal/ledger", "internal/ledger/recorder", "internal/nv", "internal/nv/generation", "internal/safefile", "internal/seal", "internal/tpm"},
	"internal/emul/payload":          {"internal/tpm"},
	"internal/emul/libtpms":          {"internal/algprofile", "internal/emul", "internal/handover", "internal/tpm"},
	"internal/io/conn":               {"internal/handover"},
	"internal/io/data":               {"internal/handover", "internal/io/conn", "internal/tpm"},
	"internal/io/ctrl":               {"internal/handover", "internal/io/conn", "internal/tpm"},
	"internal/io/listen":             {"internal/config", "internal/tpm"},
	"internal/ca":                    {"internal/ca/cert", "internal/ca/signer", "internal/program", "internal/safefile", "internal/cli"},
	"internal/io/cuse":               {"internal/io/conn", "internal/io/ctrl", "internal/tpm"},
	"internal/daemon":                {"internal/program", "internal/safefile"},
	"internal/config":                {"internal/cli", "internal/cli/completion", "internal/nv", "internal/program", "internal/safefile", "internal/tpm"},
	"internal/algprofile":            {"internal/safefile"},
	"internal/ca/signer":             {"internal/safefile"},
	"internal/sandbox":               {"internal/config", "internal/nv", "internal/threads"},
	"cmd/swtpm/early":                {"internal/threads"},
	"internal/cli":                   {"internal/cli/completion", "internal/program", "internal/safefile"},
	"test/record":                    {"internal/config", "internal/nv", "internal/sandbox"},
	"test/store/lab":                 {"test/harness"},
	"internal/capture":               {"internal/safefile", "internal/tpm"},
	"internal/setup": {"internal/algprofile", "internal/ca", "internal/ca/cert", "internal/config", "internal/doctor", "internal/offline",
		"internal/daemon", "internal/emul", "internal/safefile", "internal/io/ctrl", "internal/nv", "internal/nv/backend", "internal/nv/generation",
		"internal/sandbox", "internal/seal", "internal/setup/manufacture", "internal/cli", "internal/ledger", "internal/tpm", "internal/program"},
	"internal/setup/manufacture": {"internal/ca", "internal/ca/cert", "internal/cli", "internal/tpm"},
	"internal/doctor": {"internal/config", "internal/daemon", "internal/emul", "internal/emul/payload", "internal/io/listen",
		"internal/metrics", "internal/nv", "internal/nv/backend", "internal/nv/dir", "internal/nv/remote", "internal/store", "internal/safefile", "internal/sandbox", "internal/seal", "internal/tpm"},
}

// callsC are the packages that call C: the fence, and what no Go program can do.
var callsC = []string{"internal/emul/libtpms", "cmd/swtpm/early", "internal/threads"}

// TestArrows checks that packages import only what arrows allows.
func TestArrows(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		for _, imp := range words[1:] {
			name, ours := strings.CutPrefix(imp, module)
			switch {
			case imp == "C" && !slices.Contains(callsC, pkg):
				t.Errorf("%s calls C; only %q may", pkg, callsC)
			case !ours || pkg == "test/bench":
			case strings.HasPrefix(name, "cmd/") && program(name) != program(pkg) && !strings.HasPrefix(pkg, "test/"):
				t.Errorf("%s imports %s, which is a part of another program", pkg, name)
			case strings.HasPrefix(name, "test/") && !strings.HasPrefix(pkg, "test/"):
				t.Errorf("%s imports %s, which is for tests", pkg, name)
			case pkg == program(pkg):
			case !slices.Contains(arrows[pkg], name):
				t.Errorf("%s imports %s; ARCHITECTURE.md has no such arrow", pkg, name)
			}
		}
	}
}

// TestFewPackages checks that a reader can survey the packages that several programs share.
func TestFewPackages(t *testing.T) {
	out, err := exec.Command("go", "list", "./internal/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	const most = 40
	if n := strings.Count(string(out), "\n"); n == 0 || n > most {
		t.Errorf("%d packages in internal, want at most %d; one that serves only one program can be below it in cmd", n, most)
	}
}

// program returns the program that a package belongs to, cmd/NAME. A program may import what it
// likes; a package below it that only it uses may not.
func program(pkg string) string {
	if words := strings.SplitN(pkg, "/", 3); words[0] == "cmd" {
		return "cmd/" + words[1]
	}
	return ""
}

// heavy packages cost every virtual machine memory and start-up time.
var heavy = []string{"net/http", "crypto/tls", "crypto/x509", "text/template", "html/template", "regexp", "os/exec"}

// TestDaemonStaysLight checks that the daemon links none of the heavy packages.
func TestDaemonStaysLight(t *testing.T) {
	linksNone(t, "cmd/swtpm", heavy)
}

// services are packages that only a program with a profile or a service needs.
var services = []string{"github.com/BurntSushi/toml", "github.com/sirupsen/logrus", "github.com/coreos/go-systemd/v22/journal",
	module + "internal/config", module + "internal/daemon"}

// TestToolsStayLight checks that the small tools link none of the packages for services.
func TestToolsStayLight(t *testing.T) {
	for _, p := range []string{"cmd/swtpm-bios", "cmd/swtpm-cert", "cmd/swtpm-ioctl", "cmd/swtpm-localca"} {
		linksNone(t, p, services)
	}
}

// linksNone checks that a program links none of the packages.
func linksNone(t *testing.T, program string, packages []string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "./"+program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		if slices.Contains(packages, strings.TrimSpace(pkg)) {
			t.Errorf("%s links %s", program, strings.TrimSpace(pkg))
		}
	}
}

// TestLogrusHidden checks that only package daemon knows what writes the log.
func TestLogrusHidden(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if words[0] != module+"internal/daemon" && slices.Contains(words[1:], "github.com/sirupsen/logrus") {
			t.Errorf("%s imports logrus", words[0])
		}
	}
}

// TestFormatted checks that gofmt would change no source file. A name of another length moves the
// column of a comment, which no compiler notices.
func TestFormatted(t *testing.T) {
	n := 0
	for _, path := range goFiles(t) {
		source, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // removed, but not yet from the index
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		formatted, err := format.Source(source)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(source, formatted) {
			t.Errorf("%s is not formatted: run gofmt -w %[1]s", path)
		}
	}
	if n < 400 {
		t.Errorf("found only %d files", n)
	}
}

// goFiles returns the Go files that git knows.
func goFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// TestSizes checks that functions fit a screen and files have about 400 lines. Generated files are
// excepted.
func TestSizes(t *testing.T) {
	const function, file = 60, 420
	n := 0
	for _, path := range goFiles(t) {
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if errors.Is(err, fs.ErrNotExist) { // removed, but not yet from the index
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(f) {
			continue
		}
		if lines := files.File(f.FileStart).LineCount(); lines > file {
			t.Errorf("%s has %d lines, want at most %d", path, lines, file)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n++
			if lines := files.Position(fn.End()).Line - files.Position(fn.Pos()).Line + 1; lines > function {
				t.Errorf("%s: %s has %d lines, want at most %d", path, fn.Name.Name, lines, function)
			}
		}
	}
	if n < 1000 {
		t.Errorf("found only %d functions", n)
	}
}
