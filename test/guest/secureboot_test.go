package guest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// Parts of Debian's signed boot chain, in the directory that fetch.sh has filled.
const (
	shim     = "signed/shimx64.efi"
	grub     = "signed/grubx64.efi"
	kernelRT = "signed/vmlinuz-rt"
)

// enforcing is the variable store with Microsoft's keys and Secure Boot.
const enforcing = ovmf + "OVMF_VARS_4M.ms.fd"

// sealedOver are the selections of the secrets that tpm2-tools seals in the guest. Each has a
// persistent handle in this order.
var sealedOver = []string{"7", "4+7", "0", "1", "8", "9"}

const (
	firstSecret = 0x81000100
	tcti        = "TPM2TOOLS_TCTI=device:/dev/tpmrm0 tpm2 "
)

// secureBootCases are the boots after the one in which the secrets were sealed with Secure Boot.
var secureBootCases = []bootCase{
	{"an update of dbx", func(t *testing.T, w *workshop, m *uefiMachine) { m.vars = w.changeDBX(t, m.vars) }, []expected{
		{"7", 7, 5, "Secure Boot variable dbx: ", nil, nil},
		{"4+7", 7, 5, "Secure Boot variable dbx: ", []int{4}, nil},
	}},
	{"another kernel", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.signedDisk(t, filepath.Join(os.Getenv(dirVar), kernelRT), grubConfig(commandLine))}
	}, []expected{
		{"4+7", 4, 5, "image vmlinuz", []int{7}, nil},
		{"9", 9, 2, "content of vmlinuz", nil, nil},
	}},
	{"another command line", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.signedDisk(t, w.kernel, grubConfig(commandLine+" panic=1"))}
	}, []expected{
		{"8", 8, 5, "GRUB command: linux /vmlinuz " + commandLine + " panic=1", nil, nil},
		{"9", 9, 1, "content of grub.cfg", nil, nil},
	}},
	{"another boot entry", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.signedDisk(t, w.kernel, grubConfig(commandLine+" rescue")), m.disks[0]}
	}, []expected{
		{"1", 1, 1, "boot order ", nil, nil},
		{"8", 8, 5, "GRUB command: linux /vmlinuz " + commandLine + " rescue", nil, nil},
		{"9", 9, 1, "content of grub.cfg", nil, nil},
	}},
	{"another firmware", func(_ *testing.T, _ *workshop, m *uefiMachine) { m.code = ovmf + "OVMF_CODE_4M.fd" }, []expected{
		{"0", 0, 2, "firmware volume 1 of the firmware", nil, nil},
	}},
}

// enforce is the boot in which Secure Boot is switched on, after one without keys. GRUB asks shim
// for the kernel only then.
var enforce = bootCase{"Secure Boot", func(_ *testing.T, _ *workshop, m *uefiMachine) { m.vars = enforcing }, []expected{
	{"7", 7, 1, "Secure Boot on", nil, nil},
	{"4+7", 7, 1, "Secure Boot on", nil, []int{4, 5}},
	{"0", 0, 2, "firmware volume 1 of the firmware", nil, nil}, // of OVMF for SMM: other with keys
}}

// signedWorkshop returns a workshop whose initial file system has tpm2-tools.
func signedWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{dir: harness.TempDir(t), kernel: filepath.Join(filepath.Dir(kernel), "vmlinuz")}
	tools := programs(t, need(t, "tpm2", "tpm2-tools"), libs+"libtss2-tcti-device.so.0")
	w.initrd = w.write(t, "initrd", compressed(t, archive(append(tools,
		archived{"init", 0o100755, initProgram}, archived{"secret", 0o100600, []byte("disk key")}))))
	return w
}

// signedDisk returns a directory with shim, GRUB, a kernel, and a configuration of GRUB.
func (w *workshop) signedDisk(t *testing.T, kernel, config string) string {
	t.Helper()
	dir := w.path("esp")
	for to, from := range map[string]string{
		"EFI/BOOT/BOOTX64.EFI": filepath.Join(os.Getenv(dirVar), shim), "EFI/BOOT/grubx64.efi": filepath.Join(os.Getenv(dirVar), grub),
		"vmlinuz": kernel, "initrd": w.initrd, "EFI/debian/grub.cfg": w.write(t, "grub.cfg", []byte(config)),
	} {
		path := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(harness.Read(t, from)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// grubConfig returns a configuration that starts the kernel with a command line.
func grubConfig(cmdline string) string {
	return "linux /vmlinuz " + cmdline + "\ninitrd /initrd\nboot\n"
}

// does runs a program in the guest that must succeed.
func (v *machine) does(t *testing.T, command string) {
	t.Helper()
	if status, out := v.runs(t, command); status != 0 {
		t.Fatalf("%s: status %d: %s", command, status, out)
	}
}

// sealAll seals a secret over each selection with tpm2-tools, instead of the former secrets.
func (v *machine) sealAll(t *testing.T, all []string, again bool) {
	t.Helper()
	v.does(t, tcti+"createprimary -Q -C o -c /primary")
	for i, selection := range all {
		if again {
			v.does(t, tcti+fmt.Sprintf("evictcontrol -Q -C o -c %#x", firstSecret+i))
		}
		v.does(t, tcti+"createpolicy -Q --policy-pcr -l sha256:"+strings.ReplaceAll(selection, "+", ",")+" -L /policy")
		v.does(t, tcti+"create -Q -C /primary -L /policy -i /secret -u /public -r /private")
		v.does(t, tcti+"load -Q -C /primary -u /public -r /private -c /key")
		v.does(t, tcti+fmt.Sprintf("evictcontrol -Q -C o -c /key %#x", firstSecret+i))
		if !v.unseals(t, i, selection) {
			t.Fatalf("the secret over %s does not open", selection)
		}
	}
}

// unseals reports whether tpm2-tools unseal secret i, which is sealed over a selection.
func (v *machine) unseals(t *testing.T, i int, selection string) bool {
	t.Helper()
	status, out := v.runs(t, tcti+fmt.Sprintf("unseal -c %#x -p pcr:sha256:%s", firstSecret+i, strings.ReplaceAll(selection, "+", ",")))
	if status == 0 != strings.Contains(out, "disk key") {
		t.Errorf("secret over %s: status %d: %s", selection, status, out)
	}
	return status == 0
}

// awaitText waits for a line of the serial port that contains text.
func (v *machine) awaitText(t *testing.T, text string) {
	t.Helper()
	for late := time.After(patience); ; {
		select {
		case line, ok := <-v.lines:
			if v.said = append(v.said, line); strings.Contains(line, text) {
				return
			}
			if !ok {
				t.Fatalf("the serial port is closed; waited for %q", text)
			}
		case <-late:
			t.Fatalf("no line with %q", text)
		}
	}
}

// enforced checks that Secure Boot is enforced: the kernel is locked down.
func (v *machine) enforced(t *testing.T) {
	t.Helper()
	if text := v.ask(t, "read /sys/kernel/security/lockdown"); !strings.Contains(text, "[integrity]") {
		t.Fatalf("lockdown of the kernel: %s; Secure Boot is not enforced", text)
	}
}

// secureMachine is a machine whose boots one TPM records.
type secureMachine struct {
	uefiMachine
	w          *workshop
	state      string
	selections []string
	files      []string // options of swtpm boots explain
}

// boot boots the machine and keeps what names its measurements.
func (s *secureMachine) boot(t *testing.T, program string) (v *machine, e *emulator) {
	t.Helper()
	e = startEmulator(t, program, true, s.state)
	var vars string
	v, vars = s.uefiMachine.boot(t, s.w, e)
	for _, d := range s.disks {
		s.files = append(s.files, "--images", d)
	}
	s.files = append(s.files, "--vars", vars, "--firmware", s.code)
	return v, e
}

// try boots the changed machine, tries the secrets, and returns the number of changes that
// explain names.
func (c bootCase) try(t *testing.T, s secureMachine, program string) (named int, after secureMachine, v *machine, e *emulator) {
	t.Helper()
	c.change(t, s.w, &s.uefiMachine)
	v, e = s.boot(t, program)
	v.enforced(t)
	for i, selection := range s.selections {
		if opens := v.unseals(t, i, selection); opens && c.fails(selection) {
			t.Errorf("%s: the secret over %s opens", c.name, selection)
		}
	}
	harness.Await(t, "the last policy in the ledger", func() bool {
		return strings.Contains(askBoots(t, "--tpmstate", "dir="+s.state), "over PCR "+strings.ReplaceAll(s.selections[len(s.selections)-1], "+", ", "))
	})
	args := append([]string{"explain", "--tpmstate", "dir=" + s.state}, s.files...)
	t.Logf("%s:\n%s", c.name, askBoots(t, args...))
	keep(t, c.name, s.state, s.files)
	var x explanation
	if err := json.Unmarshal([]byte(askBoots(t, append(args, "--json")...)), &x); err != nil {
		t.Fatal(err)
	}
	for _, want := range c.want {
		if slices.Contains(s.selections, want.selection) && want.check(t, x, nil) {
			named++
		}
	}
	return named, s, v, e
}

// TestSecureBoot checks swtpm boots explain on machines whose firmware enforces Secure Boot with
// Microsoft's keys and starts Debian's signed shim, GRUB and kernel. tpm2-tools seal the secrets.
func TestSecureBoot(t *testing.T) {
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	cases, over := secureBootCases, sealedOver
	if os.Getenv(allBootsVar) == "" {
		cases, over = nil, over[:2]
	}
	w := signedWorkshop(t)
	s := secureMachine{w: w, state: harness.TempDir(t), selections: over, uefiMachine: uefiMachine{
		code: ovmf + "OVMF_CODE_4M.secboot.fd", vars: ovmf + "OVMF_VARS_4M.fd",
		disks: []string{w.signedDisk(t, w.kernel, grubConfig(commandLine))},
	}}
	oneBank(t, s.state)
	program := recording(t)
	v, e := s.boot(t, program)
	v.sealAll(t, over, false)
	v.quit(t, e)

	named, s, v, e := enforce.try(t, s, program)
	v.sealAll(t, over, true)
	v.quit(t, e)
	all := len(enforce.want)
	if len(cases) == 0 {
		all-- // PCR 0
	}
	for _, c := range cases {
		copied := s
		copied.state = copyState(t, s.state)
		n, _, v, e := c.try(t, copied, program)
		v.quit(t, e)
		named, all = named+n, all+len(c.want)
	}
	t.Logf("%d of %d changes named", named, all)
	s.refused(t, program)
}

// The keys of Debian's snakeoil variable store, whose private key is in package ovmf.
const (
	ownKeys        = ovmf + "OVMF_VARS_4M.snakeoil.fd"
	ownCertificate = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
	ownKey         = "/usr/share/ovmf/PkKek-1-snakeoil.key"
)

// ownDisk returns a directory with a unified kernel image that is signed with the snakeoil key.
func (w *workshop) ownDisk(t *testing.T, cmdline string) string {
	t.Helper()
	dir, key := w.disk(t, w.kernel, cmdline), w.path("key")
	image := filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI")
	for _, cmd := range []*exec.Cmd{
		exec.Command(need(t, "openssl", "openssl"), "rsa", "-in", ownKey, "-passin", "pass:snakeoil", "-out", key),
		exec.Command(need(t, "sbsign", "sbsigntool"), "--key", key, "--cert", ownCertificate, "--output", image, image),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	return dir
}

// TestSignedImage checks the same as TestSecureBoot for a unified kernel image that the owner of
// the machine has signed: systemd-stub measures it in PCR 11.
func TestSignedImage(t *testing.T) {
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	w := signedWorkshop(t)
	s := secureMachine{w: w, state: harness.TempDir(t), selections: []string{"7", "4+7", "11"}, uefiMachine: uefiMachine{
		code: ovmf + "OVMF_CODE_4M.secboot.fd", vars: ownKeys, disks: []string{w.ownDisk(t, commandLine)},
	}}
	oneBank(t, s.state)
	program := recording(t)
	v, e := s.boot(t, program)
	v.enforced(t)
	v.sealAll(t, s.selections, false)
	v.quit(t, e)
	c := bootCase{"another command line", func(t *testing.T, w *workshop, m *uefiMachine) {
		m.disks = []string{w.ownDisk(t, commandLine+" panic=1")}
	}, []expected{
		{"4+7", 4, 3, "image BOOTX64.EFI", []int{7}, nil},
		{"11", 11, 6, "content of section .cmdline of BOOTX64.EFI", nil, nil},
	}}
	named, _, v, e := c.try(t, s, program)
	v.quit(t, e)
	t.Logf("%d of %d changes named", named, len(c.want))
}

// refused checks that the firmware does not start an unsigned image, and what explain says then.
func (s secureMachine) refused(t *testing.T, program string) {
	t.Helper()
	s.disks = []string{s.w.disk(t, s.w.kernel, commandLine)}
	e := startEmulator(t, program, true, s.state)
	v := s.start(t, e, s.w.write(t, "VARS.fd", []byte(harness.Read(t, s.uefiMachine.vars))))
	v.awaitText(t, "Access Denied")
	v.quit(t, e)
	text := askBoots(t, append([]string{"explain", "--tpmstate", "dir=" + s.state}, s.files...)...)
	t.Logf("an unsigned image:\n%s", text)
	if !strings.Contains(text, "tried no secret over PCRs") {
		t.Error("explain does not say that the guest got not as far as its secrets")
	}
}
