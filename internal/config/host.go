package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// HostFile has the settings for all TPMs of a host, also for those whose command line
// another program writes.
const HostFile = "/etc/swtpm/host.toml"

// Host is what the administrator has set for all TPMs of a host.
type Host struct {
	Rollback Rollback
	Metrics  HostMetrics
	Ledger   HostLedger
	Minimum  Minimum
	Upgrade  Upgrade
}

// Rollback says how old and mixed states are found, and what happens to them.
type Rollback struct {
	Policy RollbackPolicy
	Marks  string // directory of the marks
}

// RollbackPolicy says what happens to an old or mixed state.
type RollbackPolicy string

// The policies.
const (
	RollbackWarn   RollbackPolicy = "warn"
	RollbackRefuse RollbackPolicy = "refuse"
	RollbackOff    RollbackPolicy = "off"
)

// HostMetrics says where TPMs whose profiles have no [metrics] write their metrics.
type HostMetrics struct {
	Directory string // of files NAME.prom; "" for none
}

// Upgrade says what the package does after libtpms or libcrypto was replaced.
type Upgrade struct {
	Automatic bool // restart the TPMs that can be restarted under their guests
}

// HostLedger says whether TPMs record the boots of their guests, whatever their profiles say.
type HostLedger struct {
	Keep LedgerKeep
}

// Minimum has the weakest settings that a TPM of the host may use; weaker ones are raised.
type Minimum struct {
	Durability bool // "full": no TPM is relaxed
	Seccomp    SeccompAction
	Landlock   LandlockMode
}

func defaultHost() Host {
	return Host{
		Rollback: Rollback{Policy: RollbackWarn, Marks: "/var/lib/swtpm/marks"},
		Ledger:   HostLedger{Keep: KeepAsProfile},
		Minimum:  Minimum{Seccomp: SeccompNone, Landlock: LandlockOff},
	}
}

// tables returns the tables of HostFile, bound to the fields of h.
func (h *Host) tables() []table {
	return []table{
		{name: "rollback", keys: keys{
			{name: "policy", in: profile, value: choice(&h.Rollback.Policy, "", words(RollbackWarn, RollbackRefuse, RollbackOff))},
			{name: "marks", in: profile, value: directory(&h.Rollback.Marks)},
		}},
		{name: "metrics", keys: keys{{name: "directory", in: profile, value: directory(&h.Metrics.Directory)}}},
		{name: "ledger", keys: keys{{name: "keep", in: profile, value: choice(&h.Ledger.Keep, "", words(KeepAsProfile, KeepBoots, KeepNone))}}},
		{name: "minimum", keys: keys{
			{name: "durability", in: profile, value: choice(&h.Minimum.Durability, "", []word[bool]{{"full", true}, {"relaxed", false}})},
			{name: "seccomp", in: profile, value: choice(&h.Minimum.Seccomp, "", words(seccompOrder...))},
			{name: "landlock", in: profile, value: choice(&h.Minimum.Landlock, "", words(landlockOrder...))},
		}},
		{name: "upgrade", keys: keys{{name: "automatic", in: profile, value: truth(&h.Upgrade.Automatic)}}},
	}
}

// The weakest comes first.
var (
	seccompOrder  = []SeccompAction{SeccompNone, SeccompLog, SeccompKill}
	landlockOrder = []LandlockMode{LandlockOff, LandlockBestEffort, LandlockRequire}
)

// LoadHost reads the settings of a host. If the file is missing, or with an error, it returns the
// defaults, which change no TPM.
func LoadHost(file string) (Host, error) {
	src, err := safefile.ReadInput(file, maxProfile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return defaultHost(), nil
	case err != nil:
		return defaultHost(), fmt.Errorf("host policy: %w", err)
	}
	return parseHost(file, string(src))
}

func parseHost(file, src string) (Host, error) {
	tree, err := parseTOML(file, src)
	if err != nil {
		return defaultHost(), err
	}
	h := defaultHost()
	p := &loader{file: file, at: locate(src), given: map[string]bool{}, tables: h.tables()}
	p.load(tree)
	for _, d := range []struct{ table, key, dir string }{
		{"rollback", "marks", h.Rollback.Marks}, {"metrics", "directory", h.Metrics.Directory},
	} {
		if d.dir != "" && !filepath.IsAbs(d.dir) {
			p.fail(p.at[path(d.table, d.key)].value, "["+d.table+"] "+d.key, "invalid value %q; must be an absolute path", d.dir)
		}
	}
	if len(p.errs) > 0 {
		return defaultHost(), p.err()
	}
	return h, nil
}

// TOML returns h as a file with every default filled in.
func (h Host) TOML() string {
	var b strings.Builder
	for i, t := range h.tables() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "[%s]\n", t.name)
		writeKeys(&b, t.keys)
	}
	return b.String()
}

// JSON returns h as an object with its tables.
func (h Host) JSON() string {
	var objects []string
	for _, t := range h.tables() {
		var b strings.Builder
		writeJSON(&b, t.keys, "")
		objects = append(objects, fmt.Sprintf("%q:{%s}", t.name, b.String()))
	}
	return "{" + strings.Join(objects, ",") + "}"
}

// ApplyHost stores h as the settings of the host, applies them to c, and returns one line for each
// changed setting. name is the name of the metrics file without its suffix; a slash in it becomes "-".
func (c *Config) ApplyHost(h Host, name string) (changed []string) {
	c.Host = h
	set := func(format string, args ...any) { changed = append(changed, fmt.Sprintf(format, args...)) }
	if h.Minimum.Durability && c.State.Relaxed {
		c.State.Relaxed = false
		set(`durability raised to "full"`)
	}
	if least := h.Minimum.Seccomp; slices.Index(seccompOrder, c.Sandbox.Seccomp) < slices.Index(seccompOrder, least) {
		c.Sandbox.Seccomp = least
		set("seccomp raised to %q", least)
	}
	if least := h.Minimum.Landlock; slices.Index(landlockOrder, c.Sandbox.Landlock) < slices.Index(landlockOrder, least) {
		c.Sandbox.Landlock = least
		set("landlock raised to %q", least)
	}
	if keep := h.Ledger.Keep; keep != KeepAsProfile && c.Ledger.Keep != keep {
		c.Ledger.Keep = keep
		set("boot ledger: keep = %q", keep)
	}
	if dir := h.Metrics.Directory; dir != "" && name != "" && c.Metrics.File == "" && c.Metrics.Listen.Kind == None {
		c.Metrics.File = filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+".prom")
		set("metrics written to %s", c.Metrics.File)
	}
	return changed
}
