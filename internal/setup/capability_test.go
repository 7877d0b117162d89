package setup

import (
	"context"
	"reflect"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestPrintCapabilities compares the whole line, because libvirt and others parse it.
func TestPrintCapabilities(t *testing.T) {
	const head, tail = `{ "type": "swtpm_setup", "features": [ `, `"version": "0.11.0" }` + "\n"
	const both = `"tpm-1.2", "tpm-2.0", "cmdarg-keyfile-fd", "cmdarg-pwdfile-fd", "tpm12-not-need-root", "cmdarg-write-ek-cert-files", "cmdarg-create-config-files", "cmdarg-reconfigure-pcr-banks", `
	const algorithms = `"cmdarg-ek1keyalgo", "cmdarg-ek2keyalgo", "cmdarg-iakkeyalgo", "cmdarg-idevidkeyalgo" ], `
	for _, tt := range []struct {
		caps capabilities
		want string
	}{
		{capabilities{versions: []tpm.Version{tpm.V12, tpm.V20}, rsaSizes: []string{"2048", "3072"}, profiles: []string{"default-v1", "null"}},
			head + both + `"tpm2-rsa-keysize-2048", "tpm2-rsa-keysize-3072", "cmdarg-profile", "cmdarg-profile-remove-disabled", ` + algorithms + `"profiles": [ "default-v1", "null" ], ` + tail},
		{capabilities{versions: []tpm.Version{tpm.V12, tpm.V20}}, head + both + algorithms + `"profiles": [], ` + tail},
		{capabilities{versions: []tpm.Version{tpm.V20}}, head + both[len(`"tpm-1.2", `):] + algorithms + `"profiles": [], ` + tail},
	} {
		f := newFixture(t)
		f.caps = tt.caps
		if err := f.printCapabilities(); err != nil || f.stdout.String() != tt.want {
			t.Errorf("%+v\n%q, %v, want\n%q", tt.caps, &f.stdout, err, tt.want)
		}
	}
}

// TestProgramCapabilities checks the capabilities that the output of an emulator gives.
func TestProgramCapabilities(t *testing.T) {
	for _, tt := range []struct {
		script string
		want   capabilities
		err    string
	}{
		{`echo '{"type":"swtpm","features":["tpm-1.2","tpm-2.0","rsa-keysize-1024","rsa-keysize-3072","cmdarg-profile","x"],"profiles":{"names":["null"]}}'`,
			capabilities{versions: []tpm.Version{tpm.V12, tpm.V20}, rsaSizes: []string{"3072"}, profiles: []string{"null"}}, ""},
		{`echo '{"features":["tpm-2.0"]}'`, capabilities{versions: []tpm.Version{tpm.V20}}, ""},
		{`echo nonsense`, capabilities{}, "Could not read the capabilities of "},
		{`exit 3`, capabilities{}, "Could not get the capabilities of "},
		{`[ "$1 $2 $3" = "socket --print-capabilities --tpm2" ] && echo '{}'`, capabilities{}, ""},
	} {
		got, err := programCapabilities(t.Context(), []string{script(t, tt.script), "socket"}, true)
		wantError(t, tt.script, err, tt.err)
		if err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.script, got, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := programCapabilities(ctx, []string{script(t, "exit 0")}, false)
	wantError(t, "interrupted", err, "Interrupted; nothing was done.")
}

// TestProgramProfiles checks the profiles that the output of an emulator gives.
func TestProgramProfiles(t *testing.T) {
	for text, want := range map[string]string{
		`echo '{"AvailableProfiles":[{"Name":"null"}]}'`: `[{"Name":"null"}]`,
		`echo '{}'`:     "",
		`echo nonsense`: "",
		`exit 1`:        "",
	} {
		if got := programProfiles(t.Context(), []string{script(t, text)}); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestCheckProgram checks the errors about an emulator that cannot be run.
func TestCheckProgram(t *testing.T) {
	wantError(t, "none", checkProgram(nil), "Default TPM 'swtpm' could not be found")
	wantError(t, "missing", checkProgram([]string{"/nonexistent/swtpm"}), "swtpm at /nonexistent/swtpm is not an executable.")
	wantError(t, "script", checkProgram([]string{script(t, "exit 0")}), "")
}
