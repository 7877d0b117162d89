package e2e_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestHelpAgrees checks that swtpm --help has the synopsis and the summary of each verb as
// the verb's own help has them, and that each verb is suggested for a mistyped one.
func TestHelpAgrees(t *testing.T) {
	t.Parallel()
	usages := regexp.MustCompile(`(?m)^(?:Usage:|      ) swtpm (([a-z]+)(?: .*|))\n {11}(.*)$`)
	var seen []string
	for _, m := range usages.FindAllStringSubmatch(mustRun(t, ours("swtpm"), "--help"), -1) {
		synopsis, verb, summary := m[1], m[2], m[3]
		if strings.Contains(synopsis, "|chardev|") {
			continue // the classic interfaces
		}
		seen = append(seen, verb)
		help := mustRun(t, ours("swtpm"), verb, "--help")
		if !strings.HasPrefix(help, "Usage: swtpm "+synopsis+"\n"+summary+"\n") {
			t.Errorf("swtpm --help has\n%s\n%s\nand swtpm %s --help\n%s", synopsis, summary, verb, help)
		}
		if strings.Contains(help, "true|false") || !strings.HasSuffix(help, "\n") {
			t.Errorf("swtpm %s --help: %q", verb, help)
		}
		code, _, errs := run(t, verb[:len(verb)-1])
		if want := `unknown verb "` + verb[:len(verb)-1] + `"; did you mean "` + verb + `"?`; code != 1 || !strings.Contains(errs, want) {
			t.Errorf("swtpm %s: exit code %d, no %s in %s", verb[:len(verb)-1], code, want, errs)
		}
	}
	for _, verb := range []string{"run", "check", "doctor", "state", "list", "upgrade", "metrics", "selftest", "anchor", "boots"} {
		if !slices.Contains(seen, verb) {
			t.Errorf("swtpm --help has no %s: %q", verb, seen)
		}
	}
	admin := mustRun(t, ours("swtpm-admin"), "--help")
	for _, verb := range []string{"list", "upgrade", "metrics", "selftest", "anchor", "boots"} {
		if !strings.Contains(admin, "Usage: swtpm "+verb) {
			t.Errorf("swtpm-admin --help has no %s: %s", verb, admin)
		}
	}
}
