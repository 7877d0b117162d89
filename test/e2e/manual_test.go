package e2e_test

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

var (
	helpOption = regexp.MustCompile(`(?:^|[^\w-])(--[a-z][a-z0-9_-]*)`)
	helpVerb   = regexp.MustCompile(`(?m)^ *(?:swtpm|state) ([a-z][a-z-]*)(?: |$)`)
	manualTag  = regexp.MustCompile(`(?m)^\.T[PQ]\n(.*)$`)
)

// manual returns a manual page without its examples and the marks of its fonts.
func manual(t *testing.T, page string) string {
	t.Helper()
	text, _, _ := strings.Cut(harness.Read(t, "../../man/"+page), ".SH EXAMPLES")
	return strings.NewReplacer(`\-`, "-", `\fB`, "", `\fI`, "", `\fR`, "", `\fP`, "", `\~`, " ").Replace(text)
}

// longOptions returns the long options that text contains.
func longOptions(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range helpOption.FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}

// helps returns the help of each program and verb, by the manual page that describes it. The help
// of swtpm itself names the verbs; a verb without a page of its own is described in swtpm.8.
func helps(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	add := func(page, program string, args ...string) string {
		_, stdout, stderr := runCmd(t, exec.Command(ours(program), args...))
		out[page] += stdout + stderr
		return stdout + stderr
	}
	for page, program := range map[string]string{
		"swtpm-cert.8": "swtpm_cert", "swtpm-localca.8": "swtpm_localca", "swtpm_setup.8": "swtpm_setup",
		"swtpm_ioctl.8": "swtpm_ioctl", "swtpm-store.8": "swtpm-store",
	} {
		add(page, program, "--help")
	}
	add("swtpm_bios.8", "swtpm_bios", "-h")
	for _, iface := range []string{"socket", "chardev", "cuse"} {
		add("swtpm.8", "swtpm", iface, "--help")
	}
	for _, verb := range helpVerb.FindAllStringSubmatch(add("swtpm.8", "swtpm", "--help"), -1) {
		page := "swtpm-" + verb[1] + ".8"
		if _, err := os.Stat("../../man/" + page); err != nil {
			page = "swtpm.8"
		}
		help := add(page, "swtpm", verb[1], "--help")
		if verb[1] != "state" {
			continue
		}
		for _, verb := range helpVerb.FindAllStringSubmatch(help, -1) {
			page := "swtpm-state.8"
			if verb[1] == "pull" {
				page = "swtpm-store.8" // it runs swtpm-store
			}
			add(page, "swtpm", "state", verb[1], "--help")
		}
	}
	return out
}

// TestManualPages checks that the manual page of each program and verb describes the long options
// that the help names, and that some help names each option that a page describes.
func TestManualPages(t *testing.T) {
	t.Parallel()
	all := helps(t)
	if len(all) < 12 {
		t.Fatalf("the help belongs to the pages %q, want 12 pages or more", slices.Sorted(maps.Keys(all)))
	}
	everywhere := longOptions(strings.Join(slices.Collect(maps.Values(all)), "\n"))
	for page, help := range all {
		text, named := manual(t, page), longOptions(help)
		if len(named) == 0 {
			t.Errorf("%s: the help names no option:\n%s", page, help)
		}
		in := longOptions(text)
		for o := range named {
			if !in[o] && o != "--help" {
				t.Errorf("%s does not have %s, which the help names", page, o)
			}
		}
		for _, tag := range manualTag.FindAllStringSubmatch(text, -1) {
			for o := range longOptions(tag[1]) {
				if !everywhere[o] {
					t.Errorf("%s describes %s, which no help names", page, o)
				}
			}
		}
	}
}

// TestVerbsInManual checks that each verb of swtpm has an entry in swtpm.8, and each verb of swtpm
// state in swtpm-state.8.
func TestVerbsInManual(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args  []string
		page  string
		entry string // in front of the name of a verb
	}{
		{[]string{"--help"}, "swtpm.8", `\.(?:TP|TQ)\n\.\w+ (?:[a-z]+ ", " )*`},
		{[]string{"state", "--help"}, "swtpm-state.8", `\.SS `},
	} {
		_, help, _ := run(t, tt.args...)
		verbs := helpVerb.FindAllStringSubmatch(help, -1)
		if len(verbs) < 8 {
			t.Fatalf("swtpm %s names %d verbs, want 8 or more:\n%s", tt.args, len(verbs), help)
		}
		text := manual(t, tt.page)
		for _, v := range verbs {
			if v[1] != "help" && !regexp.MustCompile(`(?m)^`+tt.entry+v[1]+`\b`).MatchString(text) {
				t.Errorf("%s has no entry for %s", tt.page, v[1])
			}
		}
	}
}
