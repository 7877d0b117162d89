package setup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// maxProfileName is the largest size of the name of an algorithm profile in bytes.
const maxProfileName = 32

// profileNames matches valid arguments of --profile-name.
var profileNames = regexp.MustCompile(`^[A-Za-z0-9.:-]+$`)

// profileText returns the algorithm profile of the new TPM as JSON; "" for the default of
// the library. c is the configuration.
func (p *program) profileText(c settings) (string, error) {
	o := p.o
	if o.Reconfigure || o.Clone.renews() || o.Clone.Reset && o.Profile == "" {
		return "", nil
	}
	text, err := p.requestedProfile(c)
	if err != nil {
		return "", err
	}
	fromConfig := len(o.profileOptions) == 0
	if text == "" && fromConfig {
		if text, err = configuredProfile(c); err != nil {
			return "", err
		}
		if text != "" && !strings.HasPrefix(text, "{") || o.ProfileFile == "" && text != "" {
			if err := p.checkProfile(text); err != nil && p.hasProfiles() {
				return "", err
			}
		}
	}
	switch {
	case text == "":
		return "", nil
	case p.hasProfiles():
	case fromConfig:
		p.log.Infof("Ignoring the profile of the configuration file: libtpms %s does not support profiles.", p.lib.Version)
		return "", nil
	default:
		return "", cli.Complain("libtpms %s does not support profiles; remove the option, or use libtpms 0.10 or later.", p.lib.Version)
	}
	return text, nil
}

// hasProfiles reports whether the emulator supports algorithm profiles.
func (p *program) hasProfiles() bool { return p.caps.profiles != nil }

// requestedProfile returns the profile of the options.
func (p *program) requestedProfile(c settings) (string, error) {
	o := p.o
	switch {
	case o.Profile != "":
		if p.hasProfiles() {
			return o.Profile, p.checkProfile(o.Profile)
		}
		return o.Profile, nil
	case o.ProfileName != "":
		return p.namedProfile(o.ProfileName, c.value("local_profiles_dir", ""))
	case o.ProfileFile != "":
		return readProfileFile(o.ProfileFile)
	case o.ProfileFD != "":
		fd, err := parseFD(o.ProfileFD)
		if err != nil {
			return "", err
		}
		text, err := algprofile.Read(algprofile.Source{FD: fd})
		if err != nil {
			return "", cli.Complain("%v", err)
		}
		return text, nil
	}
	return "", nil
}

// configuredProfile returns the profile of the configuration.
func configuredProfile(c settings) (string, error) {
	if path := c.value("profile_file", ""); path != "" {
		return readProfileFile(path)
	}
	return c.value("profile", ""), nil
}

func readProfileFile(path string) (string, error) {
	text, err := algprofile.Read(algprofile.Source{Path: path})
	if err != nil {
		return "", cli.Complain("Could not open profile file '%s': %s", path, cli.Strerror(err))
	}
	return text, nil
}

// namedProfile returns the profile with a name; local is the directory of the user's
// profiles.
func (p *program) namedProfile(name, local string) (string, error) {
	if !profileNames.MatchString(name) {
		return "", cli.Complain("Profile name '%s' contains unacceptable characters.", name)
	}
	source, rest, ok := strings.Cut(name, ":")
	if !ok || !slices.Contains([]string{"local", "distro", "builtin"}, source) {
		source, rest = "", name
	}
	for _, d := range []struct{ name, dir string }{{"local", local}, {"distro", p.distroProfiles}} {
		if d.dir == "" || source != "" && source != d.name {
			continue
		}
		text, err := algprofile.Read(algprofile.Source{Path: filepath.Join(d.dir, rest+".json")})
		if err == nil && text != "" {
			return text, nil
		}
	}
	if source == "local" || source == "distro" {
		return "", cli.Complain("Could not find or access profile '%s'.", name)
	}
	text := `{"Name":"` + rest + `"}`
	if !p.hasProfiles() {
		return text, nil // the caller reports it
	}
	return text, p.checkProfile(text)
}

// checkProfile checks the name of a profile.
func (p *program) checkProfile(text string) error {
	get := fmt.Sprintf("Failed to get 'Name' from profile '%s'.", text)
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		return cli.Complain("Could not parse JSON '%s': %v\n%s", text, err, get)
	}
	raw, ok := members["Name"]
	if !ok {
		return cli.Complain("Missing 'Name' field in '%s'\n%s", text, get)
	}
	var name *string
	if err := json.Unmarshal(raw, &name); err != nil || name == nil {
		return cli.Complain("%s", get)
	}
	if len(*name) > maxProfileName {
		return cli.Complain("Profile name must not exceed %d characters.", maxProfileName)
	}
	if !slices.Contains(p.caps.profiles, *name) && !strings.HasPrefix(*name, "custom:") {
		return cli.Complain("swtpm does not support a profile with name '%s'", *name)
	}
	return nil
}

// printProfiles prints the known profiles, grouped by their source.
func (p *program) printProfiles(ctx context.Context, c settings) error {
	if !p.o.TPM2 {
		_, err := fmt.Fprintln(p.out, "{}")
		return err
	}
	var all object
	for _, d := range []struct{ name, dir string }{{"local", c.value("local_profiles_dir", "")}, {"distro", p.distroProfiles}} {
		if list, ok := profilesIn(d.dir); ok {
			all.set(d.name, list)
		}
	}
	builtin := p.caps.builtin
	if p.argv != nil {
		builtin = programProfiles(ctx, p.argv)
		if ctx.Err() != nil {
			return cli.Complain("Interrupted; nothing was done.")
		}
	}
	if o, err := parseObject([]byte(`{"builtin":` + builtin + "}")); err == nil && builtin != "" {
		all = append(all, o...)
	}
	_, err := fmt.Fprintf(p.out, "%s\n", appendJSON(nil, all))
	return err
}

// profilesIn returns the profiles in a directory, named after their files. ok is false if
// the directory cannot be read.
func profilesIn(dir string) (list []any, ok bool) {
	if dir == "" {
		return nil, false
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, false
	}
	list = []any{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || name == "" {
			continue
		}
		text, err := algprofile.Read(algprofile.Source{Path: filepath.Join(dir, e.Name())})
		if err != nil {
			continue
		}
		profile, err := parseObject([]byte(text))
		if err != nil {
			continue
		}
		switch profile.get("Name").(type) {
		case nil, object, []any:
			continue
		}
		profile.set("Name", name)
		list = append(list, profile)
	}
	return list, true
}
