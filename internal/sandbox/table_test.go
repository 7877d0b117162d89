package sandbox

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

var update = flag.Bool("update", false, "write "+tablePath+" and the generated programs")

const (
	native    = runtime.GOARCH
	tablePath = "system-calls.md"
)

type systemCall struct {
	name   string
	number int
}

var numberLine = regexp.MustCompile(`(?m)^\s+SYS_(\w+)\s+= (\d+)$`)

// systemCalls returns the calls of an architecture, ordered by number, from the list of
// golang.org/x/sys, which was generated from the kernel's headers.
func systemCalls(t *testing.T, arch string) (calls []systemCall) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(unixSource(t), "zsysnum_linux_"+arch+".go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range numberLine.FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, systemCall{kernelName(m[1]), n})
	}
	if len(calls) < 300 {
		t.Fatalf("%d system calls on %s, want all of them", len(calls), arch)
	}
	return calls
}

// unixSource returns the directory with the source of golang.org/x/sys/unix.
func unixSource(t *testing.T) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Skip("the source of golang.org/x/sys is missing:", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "unix")
}

// kernelName returns the kernel's name of a call of x/sys.
func kernelName(constant string) string {
	switch name := strings.ToLower(constant); name {
	case "fstatat":
		return "newfstatat"
	default:
		return name
	}
}

func highest(t *testing.T, arch string) int {
	calls := systemCalls(t, arch)
	return calls[len(calls)-1].number
}

// tables returns the policies of the table: one with all calls of any emulator, and one with
// all calls of any verb.
func tables(t *testing.T) (emulator, verb Policy) {
	cfg := &config.Config{State: config.State{Location: nv.Location{Kind: nv.Directory, Path: t.TempDir()}}, Interface: config.Interface{Type: config.Socket}, Pcap: config.Pcap{File: "p"}}
	emulator, verb = Plan(cfg, ""), PlanOffline(cfg, true, "")
	file := &config.Config{State: config.State{Location: nv.Location{Kind: nv.File, Path: "/image"}}}
	cluster := &config.Config{State: config.State{Location: nv.Location{Kind: nv.Cluster, Path: "vm1"}}, Pcap: config.Pcap{File: "p"}, Metrics: config.Metrics{File: "m"}}
	for _, cfg := range []*config.Config{file, cluster} {
		emulator.Groups = append(emulator.Groups, Plan(cfg, "/profile").Groups...)
		verb.Groups = append(verb.Groups, PlanOffline(cfg, true, "").Groups...)
	}
	return emulator, verb
}

// classes describes the class of a call in the table.
func (p *Policy) classes(name string) string {
	any, some := false, false
	for _, c := range p.Calls() {
		if c.Name == name {
			any, some = any || len(c.Check) == 0, some || len(c.Check) > 0
		}
	}
	var words []string
	switch {
	case any:
		return "allowed"
	case some:
		words = append(words, "allowed if checked")
	}
	for _, c := range fatal(uint64(unix.Getpid())) {
		if c.Name == name {
			if len(c.Check) == 0 {
				return "fatal"
			}
			words = append(words, "fatal if "+c.why())
		}
	}
	errno := "ENOSYS"
	for _, r := range refused() {
		if r.Name == name {
			errno = unix.ErrnoName(r.Errno)
		}
	}
	return strings.Join(append(words, "refused ("+errno+")"), ", else ")
}

func (c Call) why() string { return "it " + c.Why }

// TestTable checks that the table of all system calls agrees with the policies, and that each
// number has a class.
func TestTable(t *testing.T) {
	numbers := map[string][2]int{}
	var names []string
	for i, arch := range []string{"amd64", "arm64"} {
		for _, c := range systemCalls(t, arch) {
			n, found := numbers[c.name]
			if !found {
				n = [2]int{-1, -1}
				names = append(names, c.name)
			}
			n[i] = c.number
			numbers[c.name] = n
		}
	}
	slices.Sort(names)
	emulator, verb := tables(t)
	var b strings.Builder
	b.WriteString(tableHead)
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, numeral(numbers[name][0]), numeral(numbers[name][1]), emulator.classes(name), verb.classes(name))
	}
	if *update {
		if err := os.WriteFile(tablePath, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(tablePath)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s does not agree with the policies (%v): go generate ./internal/sandbox", tablePath, err)
	}
	checkNames(t, numbers, emulator, verb)
}

func numeral(n int) string {
	if n < 0 {
		return "–"
	}
	return strconv.Itoa(n)
}

// elsewhere are calls of the lists that exist on other architectures only.
var elsewhere = []string{"umount"}

// checkNames reports names in the lists that are not system calls, and calls with a shared
// number that is not in sharedCalls.
func checkNames(t *testing.T, numbers map[string][2]int, policies ...Policy) {
	for _, p := range policies {
		calls := slices.Concat(p.Calls(), fatal(uint64(unix.Getpid())))
		for _, r := range refused() {
			calls = append(calls, r.Call)
		}
		for _, c := range calls {
			n, found := numbers[c.Name]
			if !found && !slices.Contains(elsewhere, c.Name) {
				t.Errorf("%s is not a system call", c.Name)
			}
			if listed, ok := laterNumber(c.Name); n[1] >= firstShared && (!ok || listed != n[1]) {
				t.Errorf("%s has number %d: add it to numbers_test.go", c.Name, n[1])
			}
		}
	}
}

const tableHead = `# System calls and their classes

Generated by ` + "`go generate ./internal/sandbox`" + ` from the lists in calls.go, arguments.go and fatal.go.
TestTable compares this table with the lists, and TestFilter compares the filter in the kernel with the lists. A number
that is not in this table is refused with ENOSYS.

* **allowed**: a TPM needs the call. *If checked*: only with arguments that are listed in arguments.go. The column for the
  emulator is the sum of all configurations; each emulator has fewer calls.
* **refused**: the call fails with this errno, and the kernel logs it. libc, OpenSSL and Go then use another call.
* **fatal**: only an attacker makes the call. ` + "`--seccomp action=`" + ` selects the action: kill (the default), log or none.

| system call | amd64 | arm64 | emulator | swtpm state |
| --- | --- | --- | --- | --- |
`
