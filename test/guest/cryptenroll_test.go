package guest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// enrolled are the selections of the tokens that systemd-cryptenroll adds to the encrypted volume,
// in the order of their numbers.
var enrolled = []string{"7", "4+7", "11"}

// volumeSize is the size of the volume, and of the memory that the machine shares with the host.
const volumeSize = 1 << 20

// libs is the directory of Debian's libraries.
const libs = "/usr/lib/x86_64-linux-gnu/"

// newWorkshop returns a workshop whose initial file system has cryptsetup.
func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{dir: harness.TempDir(t), kernel: filepath.Join(filepath.Dir(kernel), "vmlinuz")}
	w.initrd = w.write(t, "initrd", compressed(t, archive(append(cryptsetup(t), archived{"init", 0o100755, initProgram}))))
	return w
}

// cryptsetup returns the programs of systemd and cryptsetup for the guest, with what they load at
// run time.
func cryptsetup(t *testing.T) []archived {
	t.Helper()
	return programs(t, need(t, "systemd-cryptenroll", "systemd"), need(t, "cryptsetup", "cryptsetup-bin"),
		libs+"cryptsetup/libcryptsetup-token-systemd-tpm2.so",
		libs+"libtss2-esys.so.0", libs+"libtss2-mu.so.0", libs+"libtss2-rc.so.0", libs+"libtss2-tcti-device.so.0")
}

// volume makes an encrypted volume with a recovery key, which is only a header, and returns its path.
func (w *workshop) volume(t *testing.T) string {
	t.Helper()
	path := w.write(t, "volume", make([]byte, volumeSize))
	cmd := exec.Command(need(t, "cryptsetup", "cryptsetup-bin"), "luksFormat", "--batch-mode", "--type", "luks2",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--cipher", "aes-xts-plain64", "--key-size", "256",
		"--luks2-metadata-size", "16k", "--luks2-keyslots-size", "983040", path, "-")
	cmd.Stdin = strings.NewReader("recovery")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// shareArgs are QEMU's arguments for memory that is the volume.
func shareArgs(volume string) []string {
	return []string{
		"-object", "memory-backend-file,id=volume,share=on,mem-path=" + volume + ",size=" + strconv.Itoa(volumeSize),
		"-device", "ivshmem-plain,memdev=volume",
	}
}

// runs runs a program in the guest and returns its status and output.
func (v *machine) runs(t *testing.T, command string) (status int, out string) {
	t.Helper()
	word, out, _ := strings.Cut(v.ask(t, "run "+command), " ")
	status, err := strconv.Atoi(word)
	if err != nil {
		t.Fatalf("%s: %q %s", command, word, out)
	}
	return status, out
}

// enroll seals keys of the volume to the present values of PCRs, and stores the volume.
func (v *machine) enroll(t *testing.T) {
	t.Helper()
	v.ask(t, "take /volume")
	for _, pcrs := range enrolled {
		if status, out := v.runs(t, "PASSWORD=recovery systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs="+pcrs+" /volume"); status != 0 {
			t.Fatalf("systemd-cryptenroll: status %d: %s", status, out)
		}
	}
	for n, pcrs := range enrolled {
		if !v.unlocks(t, n) {
			t.Fatalf("the token over %s does not open the volume", pcrs)
		}
	}
	v.ask(t, "give /volume")
}

// unlocks reports whether token n opens the volume.
func (v *machine) unlocks(t *testing.T, n int) bool {
	t.Helper()
	status, out := v.runs(t, "cryptsetup open --test-passphrase --token-only --token-id "+strconv.Itoa(n)+" /volume")
	t.Logf("token %d: status %d %s", n, status, out)
	return status == 0
}

// copyVolume returns a copy of the volume.
func (w *workshop) copyVolume(t *testing.T, volume string) string {
	t.Helper()
	b, err := os.ReadFile(volume)
	if err != nil {
		t.Fatal(err)
	}
	return w.write(t, filepath.Base(volume), b)
}
