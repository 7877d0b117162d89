package setup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// createConfigFiles writes the configuration of a local CA for this user. flags are words
// separated by commas or blanks. bindir is the directory of the programs.
func createConfigFiles(stdout io.Writer, flags, bindir string) error {
	has := map[string]bool{}
	for _, f := range strings.FieldsFunc(flags, func(r rune) bool { return r == ',' || r == ' ' }) {
		has[f] = true
	}
	if has["overwrite"] && has["skip-if-exist"] {
		return cli.Complain("Error: overwrite and skip-if-exist cannot both be used")
	}
	if os.Getuid() == 0 && !has["root"] {
		return cli.Complain("Requiring the 'root' flag since the configuration files will shadow those in %s.", cli.SystemDir)
	}
	dir := cli.UserDir()
	if dir == "" {
		return cli.Complain("This user has no home directory; set XDG_CONFIG_HOME.")
	}
	files := configFiles(dir, bindir)
	for _, f := range files {
		if _, err := os.Lstat(f.path); err != nil {
			continue
		}
		if has["skip-if-exist"] {
			return nil
		}
		if !has["overwrite"] {
			return cli.Complain("File %s already exists. Refusing to overwrite.", f.path)
		}
	}
	if err := os.MkdirAll(caDir(dir), 0o775); err != nil {
		return cli.Complain("Could not create %s: %s", caDir(dir), cli.Strerror(err))
	}
	for _, f := range files {
		fmt.Fprintf(stdout, "Writing %s.\n", f.path)
		if err := writeFile(f.path, []byte(f.content), 0o666); err != nil {
			return cli.Complain("Could not write to %s: %s", f.path, cli.Strerror(err))
		}
	}
	return nil
}

func caDir(dir string) string { return filepath.Join(dir, "var/lib/swtpm-localca") }

type configFile struct{ path, content string }

// configFiles returns the configuration files.
//
// Source: swtpm 0.11, --create-config-files.
func configFiles(dir, bindir string) []configFile {
	path := func(name string) string { return filepath.Join(dir, name) }
	ca := caDir(dir)
	system, version := uname()
	return []configFile{
		{path("swtpm_setup.conf"), fmt.Sprintf(`create_certs_tool = %s
create_certs_tool_config = %s
create_certs_tool_options = %s
# Comma-separated list (no spaces) of PCR banks to activate by default
active_pcr_banks = %s
profile = {"Name":"default-v1"}
# profile_file =
local_profiles_dir = %s/
`, filepath.Join(bindir, "swtpm_localca"), path("swtpm-localca.conf"), path("swtpm-localca.options"), defaultBanks, path("etc/swtpm/profiles"))},
		{path("swtpm-localca.conf"), fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca)},
		{path("swtpm-localca.options"), fmt.Sprintf("--platform-manufacturer %s\n--platform-version %s\n--platform-model %s\n", system, version, system)},
	}
}

// uname returns the name and the version of the operating system. Blanks become
// underscores because the options file has no quotes.
func uname() (system, version string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "Linux", "unknown"
	}
	clean := func(b []byte) string {
		return strings.ReplaceAll(unix.ByteSliceToString(b), " ", "_")
	}
	return clean(u.Sysname[:]), clean(u.Version[:])
}

// writeFile creates or replaces the file at path in one step. The umask applies to mode.
func writeFile(path string, content []byte, mode os.FileMode) error {
	dir, err := safefile.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(path)
	return dir.Write(name, fmt.Sprintf(".new.%s.%d", name, os.Getpid()), content, mode, true)
}
