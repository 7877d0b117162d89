package setup

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestProfileText checks the algorithm profile that options and configuration select.
func TestProfileText(t *testing.T) {
	dir := t.TempDir()
	local := writeTo(t, dir, "mine.json", `{"Name":"custom:mine"}`, 0o600)
	for _, tt := range []struct {
		o         options
		conf      string
		want, err string
	}{
		{want: ""},
		{o: options{Reconfigure: true}, conf: `profile = {"Name":"null"}`, want: ""},
		{conf: `profile = {"Name":"null"}`, want: `{"Name":"null"}`},
		{conf: `profile = nonsense`, err: "Could not parse JSON 'nonsense'"},
		{conf: "profile_file = " + local, want: `{"Name":"custom:mine"}`},
		{conf: "profile_file = " + dir + "/missing", err: "Could not open profile file '" + dir + "/missing'"},
		{o: options{Profile: `{"Name":"null"}`}, want: `{"Name":"null"}`},
		{o: options{Profile: `{"Name":"bogus"}`}, err: "swtpm does not support a profile with name 'bogus'"},
		{o: options{Profile: `{"Name":"custom:any"}`}, want: `{"Name":"custom:any"}`},
		{o: options{Profile: `{}`}, err: "Missing 'Name' field in '{}'"},
		{o: options{Profile: `{"Name":null}`}, err: "Failed to get 'Name' from profile"},
		{o: options{Profile: `{"Name":"` + strings.Repeat("x", 33) + `"}`}, err: "Profile name must not exceed 32 characters."},
		{o: options{ProfileName: "mine"}, conf: "local_profiles_dir = " + dir, want: `{"Name":"custom:mine"}`},
		{o: options{ProfileName: "local:mine"}, conf: "local_profiles_dir = " + dir, want: `{"Name":"custom:mine"}`},
		{o: options{ProfileName: "local:other"}, conf: "local_profiles_dir = " + dir, err: "Could not find or access profile 'local:other'."},
		{o: options{ProfileName: "distro:mine"}, conf: "local_profiles_dir = " + dir, err: "Could not find or access profile 'distro:mine'."},
		{o: options{ProfileName: "builtin:null"}, want: `{"Name":"null"}`},
		{o: options{ProfileName: "null"}, want: `{"Name":"null"}`},
		{o: options{ProfileName: "../x"}, err: "contains unacceptable characters."},
		{o: options{ProfileFile: local}, want: `{"Name":"custom:mine"}`},
		{o: options{ProfileFD: "x"}, err: "Invalid file descriptor 'x'"},
	} {
		f := newFixture(t)
		f.o = &tt.o
		if tt.o.Profile+tt.o.ProfileName+tt.o.ProfileFile+tt.o.ProfileFD != "" {
			f.o.profileOptions = []string{"x"}
		}
		got, err := f.profileText(configured(tt.conf))
		wantError(t, tt.o.Profile+tt.o.ProfileName+tt.conf, err, tt.err)
		if err == nil && got != tt.want {
			t.Errorf("%+v with %q: %q, want %q", tt.o, tt.conf, got, tt.want)
		}
	}
}

// TestNoProfiles checks a library without profiles: it ignores the profile of the
// configuration, which the shipped file has, and rejects the one of an option.
func TestNoProfiles(t *testing.T) {
	f := newFixture(t)
	f.caps.profiles, f.lib.Version = nil, "0.9.2"
	if got, err := f.profileText(configured(`profile = {"Name":"default-v1"}`)); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got := f.stdout.String(); got != "Ignoring the profile of the configuration file: libtpms 0.9.2 does not support profiles.\n" {
		t.Errorf("%q", got)
	}
	for _, o := range []options{{Profile: "{}"}, {ProfileName: "builtin:null"}} {
		f.o = &o
		f.o.profileOptions = []string{"x"}
		_, err := f.profileText(configured(""))
		wantError(t, "option", err, "libtpms 0.9.2 does not support profiles;")
	}
}

// TestProfileFromDescriptor checks an algorithm profile from an inherited descriptor.
func TestProfileFromDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString(`{"Name":"null"}`); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	f := newFixture(t)
	f.o.ProfileFD, f.o.profileOptions = numberOf(r), []string{"x"}
	if got, err := f.profileText(configured("")); got != `{"Name":"null"}` || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPrintProfiles checks that local profiles are printed with the names of their files, and that
// broken ones are left out.
func TestPrintProfiles(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	writeTo(t, dir, "mine.json", `{"Algorithms":"rsa", "Name":"x","n":1.50}`, 0o600)
	writeTo(t, dir, "noname.json", `{}`, 0o600)
	writeTo(t, dir, "broken.json", `{`, 0o600)
	writeTo(t, dir, "other.txt", `{"Name":"x"}`, 0o600)
	if err := f.printProfiles(t.Context(), configured("local_profiles_dir = "+dir)); err != nil {
		t.Fatal(err)
	}
	want := `{"local":[{"Algorithms":"rsa","Name":"mine","n":1.50}],"distro":[],"builtin":[{"Name":"default-v1"}]}` + "\n"
	if got := f.stdout.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	f.stdout.Reset()
	f.argv, f.distroProfiles = []string{script(t, `echo '{"AvailableProfiles":[]}'`)}, "/nonexistent"
	if err := f.printProfiles(t.Context(), configured("")); err != nil || f.stdout.String() != `{"builtin":[]}`+"\n" {
		t.Errorf("another emulator: %s, %v", &f.stdout, err)
	}
	f.stdout.Reset()
	f.o.TPM2 = false
	if err := f.printProfiles(t.Context(), configured("")); err != nil || f.stdout.String() != "{}\n" {
		t.Errorf("TPM 1.2: %s, %v", &f.stdout, err)
	}
}

// numberOf returns the number of a descriptor.
func numberOf(f *os.File) string { return fmt.Sprint(f.Fd()) }
