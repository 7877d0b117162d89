package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// keeping is a kind of storage of the state. Its place is a directory that has a file with the
// permanent state; with a store it is the directory of the host and the name of a state.
type keeping struct {
	kind string
	host *clusterHost // of a store
}

var (
	inDir  = keeping{kind: "dir"}  // a file for each item
	inFile = keeping{kind: "file"} // one file for all
)

// keepings is for tests of both kinds of files: of owners, modes, links, mounts and traps in a
// directory, and of bytes that were changed in a file. Through the broker a TPM meets none of
// these. TestNonsense (test/store) damages what a cluster store holds.
var keepings = []keeping{inDir, inFile}

// everyKeeping is keepings and a cluster store of one member, with a broker.
func everyKeeping(t testing.TB) []keeping {
	t.Helper()
	return []keeping{inDir, inFile, newClusterHost(t).keeping()}
}

// keeping is the keeping in the store of the host.
func (h *clusterHost) keeping() keeping { return keeping{"store", h} }

// String returns the kind.
func (k keeping) String() string { return k.kind }

// place returns a new place.
func (k keeping) place(t testing.TB) string {
	t.Helper()
	dir := harness.TempDir(t)
	if k.host != nil {
		return k.host.path(filepath.Base(dir))
	}
	return dir
}

// file is the path of the file with the permanent state in place.
func (k keeping) file(v version, place string) string {
	if k == inFile {
		return filepath.Join(place, "image")
	}
	return filepath.Join(place, v.file())
}

// uri names the state in place.
func (k keeping) uri(v version, place string) string {
	switch {
	case k.host != nil:
		return "store://" + filepath.Base(place)
	case k == inFile:
		return "file://" + k.file(v, place)
	}
	return "dir://" + place
}

// at is the setup of an emulator with its state in place.
func (k keeping) at(v version, place string, args ...string) setup {
	switch {
	case k.host != nil:
		return setup{tpm: v, store: k.uri(v, place) + ",allow-plain", socket: k.host.path("socket"), args: args}
	case k == inFile:
		return setup{tpm: v, file: k.file(v, place), args: args}
	}
	return setup{tpm: v, state: place, args: args}
}

// awaitBoot waits until the boot ledger has the beginning of a boot. Later the ledger writes nothing
// but measurements and policies, so that the system calls on files are those of stores.
func (k keeping) awaitBoot(t testing.TB, v version, place string) {
	t.Helper()
	prefix := v.prefix()
	switch {
	case k.host != nil:
		return // it has no ledger
	case k == inFile:
		prefix = filepath.Base(k.file(v, place))
	}
	harness.Await(t, "the boot ledger", func() bool { b := lastBootOf(place, prefix); return b != nil && len(b.Records) > 0 })
}

// mustRun runs a program, which finds the broker of a store and must end well, and returns its output.
func (k keeping) mustRun(t testing.TB, words ...string) string {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	if k.host != nil {
		cmd.Env = append(os.Environ(), k.host.env()...)
	}
	code, stdout, stderr := runCmd(t, cmd)
	if code != 0 {
		t.Fatalf("%q: exit code %d\n%s%s", words, code, stdout, stderr)
	}
	return stdout
}

// read returns the permanent state in place; with a file, the file.
func (k keeping) read(t testing.TB, v version, place string) []byte {
	t.Helper()
	if k.host == nil {
		return []byte(harness.Read(t, k.file(v, place)))
	}
	c := storeClient(t, k.host.path("socket"), filepath.Base(place))
	defer c.Close()
	b, err := c.Get(v.file())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes b, which read returned, the permanent state in place.
func (k keeping) write(t testing.TB, v version, place string, b []byte) {
	t.Helper()
	if k.host == nil {
		write(t, k.file(v, place), b)
		return
	}
	storeItem(t, k.host.path("socket"), filepath.Base(place), v.file(), b)
}

// makeState returns the permanent state of a TPM with a number in its NV index,
// as our emulator writes it with the options args.
func makeState(t testing.TB, v version, args ...string) []byte {
	t.Helper()
	return inDir.makeState(t, v, args...)
}

func (k keeping) makeState(t testing.TB, v version, args ...string) []byte {
	t.Helper()
	place := k.place(t)
	e := start(t, k.at(v, place, args...))
	e.power(t, v).define(t)
	e.terminate(t)
	b := k.read(t, v, place)
	if len(b) == 0 {
		t.Fatal("no state was written")
	}
	return b
}
