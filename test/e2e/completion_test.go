package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/test/harness"
)

// completionScripts writes the scripts of all programs for a shell and returns
// their paths.
func completionScripts(t *testing.T, dir, shell string) []string {
	t.Helper()
	var paths []string
	for program, args := range map[string][]string{
		"swtpm": {"completion", shell}, "swtpm_ioctl": {"--completion", shell}, "swtpm_bios": {"--completion", shell}, "swtpm_setup": {"--completion", shell},
		"swtpm_cert": {"--completion", shell}, "swtpm_localca": {"--completion", shell},
	} {
		path := filepath.Join(dir, program+"."+shell)
		if shell == "zsh" && program == "swtpm_bios" {
			path = filepath.Join(dir, "_"+program) // to be found, not sourced
		}
		write(t, path, []byte(mustRun(t, ours(program), args...)))
		paths = append(paths, path)
	}
	return paths
}

// complete lets a shell complete each line, with the driver in testdata, and
// returns what it prints. The shell is in a directory with the files of the
// arguments, and knows the profile "mine".
func complete(t *testing.T, shell, driver string, lines []string) string {
	t.Helper()
	dir := harness.TempDir(t)
	scripts := completionScripts(t, dir, shell)
	driver, err := filepath.Abs(filepath.Join("testdata", "completion", driver))
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	for _, d := range []string{"work/folder", "config/swtpm"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(work, "fo.txt"), nil)
	write(t, filepath.Join(dir, "config/swtpm/mine.toml"), nil)
	flags := map[string][]string{"bash": {"--norc"}, "zsh": {"-f"}, "fish": {"--no-config"}}[shell]
	ctx, cancel := context.WithTimeout(t.Context(), 3*harness.EventTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.Need(t, shell, shell), append(append(flags, driver), scripts...)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "HOME="+dir, "TERM=dumb", "LC_ALL=C")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var errs harness.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.String() != "" {
		t.Fatalf("%v: %v\n%s%s", cmd, err, out, errs.String())
	}
	return string(out)
}

// query is a command line and some of its candidates; without candidates it must have none. A
// candidate is the text after the last blank.
type query struct {
	line string
	want string
}

// queries are for bash and fish.
var queries = []query{
	{"swtpm ", "socket run check show convert completion version help"},
	{"swtpm -", "--help --version -h -v"},
	{"swtpm soc", "socket"},
	{"swtpm socket --tpms", "--tpmstate"},
	{"swtpm socket --tpmstate d", "dir= durability="},
	{"swtpm socket --tpmstate dir=fo", "dir=folder"},
	{"swtpm socket --tpmstate dir=folder,mo", "dir=folder,mode="},
	{"swtpm socket --tpmstate dir=folder,lock,durability=", "dir=folder,lock,durability=full dir=folder,lock,durability=relaxed"},
	{"swtpm socket --tpmstate=dir=folder,loc", "--tpmstate=dir=folder,lock"},
	{"swtpm socket --tpmstate lock,loc", ""},
	{"swtpm socket --log file=fo", "file=fo.txt file=folder"},
	{"swtpm socket --key file=fo.txt,format=", "file=fo.txt,format=hex file=fo.txt,format=binary"},
	{"swtpm socket -p 1 --fla", "--flags"},
	{"swtpm socket --ctrl type=u", "type=unixio"},
	{"swtpm socket --runas roo", "root"},
	{"swtpm socket --port ", ""},
	{"swtpm run mi", "mine"},
	{"swtpm check mine mi", "mine"},
	{"swtpm show --js", "--json"},
	{"swtpm run fo", "fo.txt folder"},
	{"swtpm completion ", "bash zsh fish"},
	{"swtpm convert ", "--"},
	{"swtpm convert -- ", "socket chardev cuse"},
	{"swtpm doctor ", "-- mine folder"},
	{"swtpm_ioctl --sto", "--stop"},
	{"swtpm_setup --create-e", "--create-ek-cert"},
	{"swtpm-setup --iakkeyalgo secp2", "secp256r1"},
	{"swtpm-ioctl --save ", "permanent volatile savestate"},
	{"swtpm_ioctl --save permanent fo.", "fo.txt"},
	{"swtpm_ioctl --unix fo.", "fo.txt"},
	{"swtpm_bios --tpm", "--tpm-device --tpm2"},
	{"swtpm_cert --signkey fo.", "fo.txt"},
	{"swtpm-cert --type id", "idevid"},
	{"swtpm_cert --keyalgo ml-dsa-", "ml-dsa-44 ml-dsa-65 ml-dsa-87"},
	{"swtpm_localca --type ", "ek platform iak idevid"},
	{"swtpm-localca --config", "--configfile"},
	{"swtpm_localca --e", "--ek"},
	{"swtpm_localca --optsfile fo.", "fo.txt"},
	{"swtpm_localca --dir fo", "folder"},
	{"swtpm_cert --ecc-", "--ecc-x --ecc-y --ecc-curveid"},
	{"swtpm-bios --tcp : --tpm", "--tpm-device --tpm2"},
}

// everyWord returns a query for each verb with each of its flags, for each option
// of swtpm socket and for each name in its list, from the help and the tables.
func everyWord(t *testing.T) (out []query) {
	t.Helper()
	for _, iface := range []string{"chardev", "cuse"} {
		for _, o := range config.Options(iface) {
			out = append(out, query{"swtpm " + iface + " --" + o.Name, "--" + o.Name})
		}
	}
	for _, o := range config.Options("socket") {
		name := "--" + o.Name
		out = append(out, query{"swtpm socket " + name, name})
		if o.Sub == nil {
			continue
		}
		for _, s := range o.Sub() {
			want := s.Name
			if s.Arg != "" {
				want += "="
			}
			out = append(out, query{"swtpm socket " + name + " " + s.Name, want})
		}
	}
	_, help, _ := run(t, "--help")
	verbs := regexp.MustCompile(`(?m)^(?:Usage:|      ) swtpm ([a-z]+)(?: VERB)?`).FindAllStringSubmatch(help, -1)
	if len(verbs) < 5 {
		t.Fatalf("the help names %d verbs: %q", len(verbs), verbs)
	}
	for _, v := range verbs {
		out = append(out, query{"swtpm " + v[1], v[1]})
		_, help, _ := run(t, v[1], "--help")
		for _, flag := range regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
			out = append(out, query{"swtpm " + v[1] + " " + flag[1], flag[1]})
		}
	}
	return out
}

// checkCompletion compares the answers of a shell, groups of lines, with the queries. With cut,
// the candidates are bash's, without the text up to the last = or colon.
func checkCompletion(t *testing.T, out string, queries []query, cut bool) {
	t.Helper()
	answers := 0
	for line := range strings.Lines(out) {
		if line == "\n" {
			answers++
		}
	}
	if answers != len(queries) {
		t.Fatalf("%d answers, want %d:\n%s", answers, len(queries), out)
	}
	rest := out
	for _, q := range queries {
		var got []string
		for line := ""; rest != ""; {
			line, rest, _ = strings.Cut(rest, "\n")
			if line == "" {
				break
			}
			got = append(got, strings.TrimSuffix(line, "/"))
		}
		for _, w := range strings.Fields(q.want) {
			if typed := q.line[strings.LastIndexByte(q.line, ' ')+1:]; cut {
				w = strings.TrimPrefix(w, typed[:strings.LastIndexAny(typed, "=:")+1])
			}
			if !slices.Contains(got, w) {
				t.Errorf("%q becomes %q, want %q among them", q.line, got, w)
			}
		}
		if q.want == "" && len(got) > 0 {
			t.Errorf("%q becomes %q, want nothing", q.line, got)
		}
	}
}

func lines(queries []query) (out []string) {
	for _, q := range queries {
		out = append(out, q.line)
	}
	return out
}

// TestCompletionBash checks the completion of bash.
func TestCompletionBash(t *testing.T) {
	t.Parallel()
	all := append(everyWord(t), queries...)
	all = append(all, query{"swtpm convert -- socket --tpmstate dir=x,lo", "dir=x,lock"}, query{"swtpm_ioctl -unix fo.", "fo.txt"})
	checkCompletion(t, complete(t, "bash", "bash.sh", lines(all)), all, true)
}

// TestCompletionFish checks the completion of fish.
func TestCompletionFish(t *testing.T) {
	t.Parallel()
	all := append(everyWord(t), queries...)
	checkCompletion(t, complete(t, "fish", "fish.fish", lines(all)), all, false)
}

// TestCompletionZsh checks the completion of an interactive zsh after Tab.
func TestCompletionZsh(t *testing.T) {
	t.Parallel()
	queries := []query{
		{"swtpm soc", "swtpm socket "},
		{"swtpm --vers", "swtpm --version "},
		{"swtpm socket --tpms", "swtpm socket --tpmstate="},
		{"swtpm socket --daem", "swtpm socket --daemon "},
		{"swtpm socket --tpmstate dir=fol", "swtpm socket --tpmstate dir=folder/"},
		{"swtpm socket --tpmstate dir=/x,mo", "swtpm socket --tpmstate dir=/x,mode="},
		{"swtpm socket --tpmstate dir=/x,lock,durability=r", "swtpm socket --tpmstate dir=/x,lock,durability=relaxed,"},
		{"swtpm socket --tpmstate=dir=/x,loc", "swtpm socket --tpmstate=dir=/x,lock,"},
		{"swtpm socket --log file=fo.", "swtpm socket --log file=fo.txt "},
		{"swtpm socket -p 1 --fla", "swtpm socket -p 1 --flags="},
		{"swtpm socket --runas roo", "swtpm socket --runas root "},
		{"swtpm run mi", "swtpm run mine "},
		{"swtpm run fo.", "swtpm run fo.txt "},
		{"swtpm run --in", "swtpm run --instance="},
		{"swtpm show --js", "swtpm show --json "},
		{"swtpm version --js", "swtpm version --json "},
		{"swtpm completion z", "swtpm completion zsh "},
		{"swtpm convert ", "swtpm convert -- "},
		{"swtpm convert -- soc", "swtpm convert -- socket "},
		{"swtpm convert -- socket --tpms", "swtpm convert -- socket --tpmstate="},
		{"swtpm doctor mi", "swtpm doctor mine "},
		{"swtpm doctor --js", "swtpm doctor --json "},
		{"swtpm doctor -- socket --tpms", "swtpm doctor -- socket --tpmstate="},
		{"swtpm_ioctl --save perm", "swtpm_ioctl --save permanent "},
		{"swtpm-ioctl --save permanent fo.", "swtpm-ioctl --save permanent fo.txt "},
		{"swtpm_bios --tpm-", "swtpm_bios --tpm-device="},
		{"swtpm_cert --out-cert fo.", "swtpm_cert --out-cert fo.txt "},
		{"swtpm-cert --type pl", "swtpm-cert --type platform "},
		{"swtpm-bios -e", "swtpm-bios -ea "},
	}
	got := strings.Split(complete(t, "zsh", "zsh.zsh", lines(queries)), "\n")
	for i, q := range queries {
		if i >= len(got) || got[i] != q.want {
			t.Errorf("%q becomes %q, want %q", q.line, got[min(i, len(got)-1)], q.want)
		}
	}
	// The script must contain each option and each name.
	script := mustRun(t, ours("swtpm"), "completion", "zsh")
	for _, q := range everyWord(t) {
		word := strings.TrimSuffix(q.want, "=")
		if !regexp.MustCompile(`['\)]` + regexp.QuoteMeta(word) + `['=:\[]`).MatchString(script) {
			t.Errorf("the zsh script lacks %q", word)
		}
	}
}
