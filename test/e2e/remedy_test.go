package e2e_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// mistake is a command line with a mistake of an administrator. In its words, and in want, $D is a directory of the test with
// a running TPM in state and sockets d and c, a TPM that is off in off, a file, an empty directory in empty, and, with root, a
// full file system in full and a read-only one in ro.
type mistake struct {
	command string
	code    int
	want    string // of the last line but what rest says
}

// mistakes are the command lines of TestRemedies: the line names the cause, the place and the remedy.
var mistakes = []mistake{
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --log fd=99", 1, `log: fd 99: bad file descriptor; let the program that starts this one pass an open descriptor, or name a file`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --log file=$D/empty", 1, `log: open $D/empty: is a directory; name a file in it`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --pid file=$D/none/p", 1, `pid file: open $D/none/p: no such file or directory; create its directory, or correct the path`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --pcap file=$D/none/p", 1, `pcap: open $D/none/p: no such file or directory; create its directory, or correct the path`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --pcap fd=99", 1, `pcap: fd 99: bad file descriptor; let the program`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --ctrl type=unixio,path=$D/x --key fd=99", 1, `--key: seal: key fd 99: read: bad file descriptor; let the program`},
	{"swtpm socket --tpm2 --tpmstate dir=$D/empty --server type=tcp,port=99999", 1, `TCP socket port outside valid range; 99999 is not between 0 and 65535`},
	{"swtpm socket --tpm2 --tpmstate dir= -p 5", 1, `Unknown option 'dir='; dir needs a value`},
	{"swtpm socket --tpm2 --tpmstate backend-uri=file://$D/empty --flags startup-clear --ctrl type=unixio,path=$D/x", 1, `"$D/empty" is neither a regular file nor a block device.*; name one of these, or a directory with dir://`},
	{"swtpm chardev --tpm2 --tpmstate dir=$D/empty --chardev $D/none", 1, `Cannot open $D/none: no such file or directory; create it, or correct the path`},

	{"swtpm state snapshot --ctrl $D/c $D/none/s", 1, `open $D/none: no such file or directory; create it, or correct the path`},
	{"swtpm state snapshot --ctrl $D/c $D/file/s", 1, `open $D/file: not a directory; correct the path`},
	{"swtpm state snapshot --ctrl $D/c $D/ro/s", 1, `open $D/ro/s: read-only file system; choose a directory that can be written to`},
	{"swtpm state snapshot --ctrl $D/c $D/full/s", 1, `write $D/full/s: no space left on device; free space on that file system`},
	{"swtpm state snapshot --ctrl $D/c --passphrase-file $D/none $D/s", 1, `passphrase file "$D/none": open: no such file or directory; correct the path`},
	{"swtpm state export --tpmstate dir=$D/off $D/none/s", 1, `open $D/none: no such file or directory; create it, or correct the path`},
	{"swtpm state import --tpmstate dir=$D/empty $D/none", 1, `open $D/none: no such file or directory; correct the path`},
	{"swtpm state import --tpmstate dir=$D/empty $D/file", 1, `$D/file: archive: not an archive of a TPM's state; name a file that`},
	{"swtpm state inspect --tpmstate dir=$D/empty", 1, `dir://$D/empty: no state of a TPM; correct --tpmstate, or create the TPM`},
	{"swtpm state accept --tpmstate dir=$D/sealed", 1, `no key is configured; give the key that the state was written with, --key`},
	{"swtpm state reset-lockout --tpmstate dir=$D/sealed", 1, `no key is configured; give the key that the state was written with, --key`},
	{"swtpm state inspect --ek --tpmstate dir=$D/sealed", 1, `no key is configured; give the key that the state was written with, --key`},
	{"swtpm state export --tpmstate dir=$D/sealed --key pwdfile=$D/file,mode=aes-256-cbc --plain $D/s1", 1, `; check that --key names the key that the state was written with`},

	{"swtpm_setup --tpm2 --tpmstate $D/state --overwrite", 1, `Could not lock access to lockfile: Resource temporarily unavailable: directory "$D/state": locked by another process; stop the other process that uses this state`},
	{"swtpm_setup --tpm2 --tpmstate $D/state --reconfigure --pcr-banks sha256", 1, `locked by another process; stop the other process that uses this state`},
	{"swtpm_setup --tpm2 --tpmstate $D/full", 1, `no space left on device; free space on that file system`},
	{"swtpm_setup --tpm2 --tpmstate $D/state --logfile $D/full/log", 1, `(?s)Error writing to the log file $D/full/log: No space left on device\nFound existing TPM state`},
	{"swtpm_setup --tpm2 --tpmstate $D/empty --clone dir://$D/none", 1, `state directory: open $D/none: no such file or directory; create it, or correct the path`},
	{"swtpm_setup --tpm2 --tpmstate $D/empty --clone dir://$D/sealed --clone-key pwdfile=$D/file,mode=aes-256-cbc --plain", 1, `wrong key or damaged ciphertext; check the key and its mode: swtpm state clone --key`},

	{"swtpm_bios --tpm-device $D/file", 255, `Unable to open device '$D/file'. It is not the character device of a TPM.`},
	{"swtpm-store --config $D/none", 1, `configuration: open $D/none: no such file or directory; name a readable file with --config`},
}

// TestRemedies checks the messages about mistakes of an administrator.
func TestRemedies(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts a small tmpfs")
	dir := harness.TempDir(t)
	for _, name := range []string{"state", "off", "sealed", "empty", "full", "ro"} {
		mkdir(t, filepath.Join(dir, name))
	}
	write(t, filepath.Join(dir, "file"), []byte("contents of the file"))
	write(t, filepath.Join(dir, "pass"), []byte("a passphrase of this test"))
	mountAt(t, "tmpfs", filepath.Join(dir, "full"), "tmpfs", "size=4k,mode=700")
	write(t, filepath.Join(dir, "full", "filler"), make([]byte, 4096))
	mountAt(t, "tmpfs", filepath.Join(dir, "ro"), "tmpfs", "size=4k")
	if err := unix.Mount("", filepath.Join(dir, "ro"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ours("swtpm_setup"), "--tpm2", "--tpmstate", filepath.Join(dir, "off"))
	mustRun(t, ours("swtpm_setup"), "--tpm2", "--tpmstate", filepath.Join(dir, "sealed"), "--pwdfile", filepath.Join(dir, "pass"), "--cipher", "aes-256-cbc")
	e := start(t, setup{tpm: v20, state: filepath.Join(dir, "state"), args: []string{"--flags", "startup-clear"}})
	for _, m := range mistakes {
		text := strings.NewReplacer("$D/c ", e.ctrl+" ", "$D", dir).Replace(m.command)
		words := strings.Fields(text)
		code, stdout, stderr := runCmd(t, exec.Command(ours(words[0]), words[1:]...))
		want := regexp.MustCompile(strings.ReplaceAll(m.want, "$D", regexp.QuoteMeta(dir)))
		if code != m.code || !want.MatchString(stderr+stdout) || strings.Contains(stderr, "goroutine") {
			t.Errorf("%s: exit code %d, %s%s\nwant %d and %q", text, code, stdout, stderr, m.code, want)
		}
	}
	if got := harness.Read(t, filepath.Join(dir, "file")); got != "contents of the file" {
		t.Errorf("a mistake has changed a file: %q", got)
	}
}
