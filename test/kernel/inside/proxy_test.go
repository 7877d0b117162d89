package inside_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// proxy is an emulator behind a device of the kernel's.
type proxy struct {
	*process
	number int
}

// startProxy starts our emulator as an ordinary user for a new device, and waits
// until the kernel has it. The kernel asks its TPM first, with deadlines of less than
// a second; where everything is busy it gives up, and is asked again.
func startProxy(t *testing.T, state string, args ...string) *proxy {
	t.Helper()
	for range 10 {
		if p := tryProxy(t, state, args...); p != nil {
			return p
		}
	}
	t.Fatal("the kernel gives each device up")
	return nil
}

// tryProxy returns nil if the kernel has given the device up.
func tryProxy(t *testing.T, state string, args ...string) *proxy {
	t.Helper()
	p := &proxy{process: start(t, "swtpm", append([]string{"chardev", "--vtpm-proxy", "--runas", fmt.Sprint(nobody), "--tpmstate", "dir=" + state}, args...)...)}
	until(t, "the line that tells of the device", func() bool { return strings.Contains(p.out.String(), "\n") })
	var major, minor int
	if n, err := fmt.Sscanf(p.out.String(), "New TPM device: /dev/tpm%d (major/minor = %d/%d)\n", &p.number, &major, &minor); n != 3 {
		t.Fatalf("it says %q: %v", p.out.String(), err)
	}
	until(t, p.path(), func() bool { return exists(p.path()) || p.gone() })
	if p.gone() && strings.Contains(p.out.String()+logOf(args), "broken pipe") {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(p.path(), &st); err != nil || int(unix.Major(st.Rdev)) != major || int(unix.Minor(st.Rdev)) != minor {
		t.Errorf("%s is %d/%d, %v; it says %d/%d", p.path(), unix.Major(st.Rdev), unix.Minor(st.Rdev), err, major, minor)
	}
	return p
}

// logOf returns the log of an emulator with these options, "" if it has no log of its own: what
// goes to the log is not on stderr.
func logOf(args []string) string {
	root := ""
	for i, arg := range args {
		switch arg {
		case "--chroot":
			root = args[i+1]
		case "--log":
			_, file, _ := strings.Cut(args[i+1], "file=")
			b, _ := os.ReadFile(root + file)
			return string(b)
		}
	}
	return ""
}

func (p *proxy) path() string    { return fmt.Sprintf("/dev/tpm%d", p.number) }
func (p *proxy) manager() string { return fmt.Sprintf("/dev/tpmrm%d", p.number) }

// tools runs one of tpm2-tools through the kernel's resource manager.
func (p *proxy) tools(t *testing.T, line string) string {
	t.Helper()
	return tools(t, p.manager(), line)
}

// tools runs one of tpm2-tools with a device.
func tools(t *testing.T, device, line string) string {
	t.Helper()
	words := strings.Fields(line)
	for {
		out, err := try(words[0], append([]string{"-T", "device:" + device}, words[1:]...)...)
		if err == nil {
			return out
		}
		if !strings.Contains(err.Error(), "Timer expired") && !strings.Contains(err.Error(), "Operation canceled") {
			t.Fatal(err)
		}
		t.Logf("once more: %v", err) // a deadline of the kernel's
	}
}

// TestProxyTools checks a TPM 2.0 with tpm2-tools through the resource manager: its state survives
// the end of the process and of the device.
func TestProxyTools(t *testing.T) {
	state := stateDir(t)
	p := startProxy(t, state, "--tpm2")
	until(t, p.manager(), func() bool { return exists(p.manager()) || p.gone() })
	t.Chdir(t.TempDir())
	if err := os.WriteFile("secret", []byte("what is sealed"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.tools(t, "tpm2_getrandom --hex 8")
	p.tools(t, "tpm2_createprimary -G ecc -c primary")
	p.tools(t, "tpm2_create -C primary -i secret -u pub -r priv")
	p.tools(t, "tpm2_load -C primary -u pub -r priv -c sealed")
	if got := p.tools(t, "tpm2_unseal -c sealed"); got != "what is sealed" {
		t.Errorf("unsealed %q", got)
	}
	p.tools(t, "tpm2_nvdefine 0x1500001 -s 6 -a ownerread|ownerwrite")
	if err := os.WriteFile("nv", []byte("stored"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.tools(t, "tpm2_nvwrite 0x1500001 -C o -i nv")
	p.tools(t, "tpm2_pcrextend 16:sha256="+strings.Repeat("1f", 32))
	for range 5 { // more objects than the TPM has room for
		p.tools(t, "tpm2_createprimary -G ecc -c primary")
	}
	p.end(t, unix.SIGTERM, 0)
	until(t, "the end of the device", func() bool { return !exists(p.path()) && !exists(p.manager()) })

	p = startProxy(t, state, "--tpm2")
	until(t, p.manager(), func() bool { return exists(p.manager()) || p.gone() })
	if got := p.tools(t, "tpm2_nvread 0x1500001 -C o"); got != "stored" {
		t.Errorf("NV index after a restart: %q", got)
	}
	if got := p.tools(t, "tpm2_pcrread sha256:16"); !strings.Contains(got, "0x"+strings.Repeat("0", 64)) {
		t.Errorf("PCR 16 after a restart: %s", got)
	}
	p.end(t, unix.SIGTERM, 0)
}

// TestProxyTPM12 checks that the kernel recognizes a TPM 1.2 and reads its PCRs.
func TestProxyTPM12(t *testing.T) {
	p := startProxy(t, stateDir(t))
	succeed(t, open(t, p.path()), random12)
	sys := fmt.Sprintf("/sys/class/tpm/tpm%d/", p.number)
	for file, want := range map[string]string{"caps": "TCG version: 1.2", "pcrs": "PCR-23"} {
		until(t, want+" in "+file, func() bool { // the kernel asks the TPM, with deadlines
			b, err := os.ReadFile(sys + file)
			return err == nil && strings.Contains(string(b), want)
		})
	}
	if exists(p.manager()) {
		t.Errorf("a TPM 1.2 has %s", p.manager())
	}
	p.end(t, unix.SIGTERM, 0)
}

// TestProxyTwo checks that two TPMs have two devices.
func TestProxyTwo(t *testing.T) {
	a, b := startProxy(t, stateDir(t), "--tpm2"), startProxy(t, stateDir(t))
	if a.number == b.number {
		t.Fatalf("both are %s", a.path())
	}
	succeed(t, open(t, a.path()), random20)
	fd := open(t, b.path())
	succeed(t, fd, random12)
	a.end(t, unix.SIGTERM, 0)
	succeed(t, fd, random12)
	b.end(t, unix.SIGINT, 0)
}

// TestProxyLocality checks that the driver sets its locality with a command of its own, once,
// before the first command, and that the control channel can set another one later. PCR 20 may be
// reset at localities 2 and 4, PCR 16 at any.
func TestProxyLocality(t *testing.T) {
	log, ctrl := stateDir(t)+"/log", stateDir(t)+"/c"
	p := startProxy(t, stateDir(t), "--tpm2", "--log", "level=2,file="+log, "--ctrl", "type=unixio,path="+ctrl)
	fd := open(t, p.path())
	reset := func(pcr int) string {
		rsp, err := exchange(fd, fmt.Sprintf("8002 0000001b 0000013d %08x 00000009 40000009 0000 00 0000", pcr))
		if err != nil {
			t.Fatal(err)
		}
		return rsp[12:20]
	}
	if got := reset(16); got != "00000000" {
		t.Errorf("reset of PCR 16: %s", got)
	}
	if got := reset(20); got != "00000907" {
		t.Errorf("reset of PCR 20 at the driver's locality: %s, want 00000907", got)
	}
	run(t, "swtpm_ioctl", "--unix", ctrl, "-l", "2")
	if got := reset(20); got != "00000000" {
		t.Errorf("reset of PCR 20 at locality 2: %s", got)
	}
	b, err := os.ReadFile(log)
	asked := regexp.MustCompile(`(?m)SWTPM_IO_Read: length 11\s+80 02 00 00 00 0B 20 00 10 00 00\s+SWTPM_IO_Write: length 10\s+80 01 00 00 00 0A 00 00 00 00`)
	if err != nil || !asked.Match(b) {
		t.Errorf("the log has no SetLocality that succeeds: %v\n%s", err, b)
	}
	p.end(t, unix.SIGTERM, 0)
}

// TestProxyControl checks the control channel next to the device: a client ends the process, and
// the kernel gets an error from a TPM that is powered off.
func TestProxyControl(t *testing.T) {
	ctrl := stateDir(t) + "/c"
	p := startProxy(t, stateDir(t), "--tpm2", "--ctrl", "type=unixio,path="+ctrl)
	fd := open(t, p.path())
	run(t, "swtpm_ioctl", "--unix", ctrl, "--stop")
	if rsp, err := exchange(fd, random20); err == nil && strings.HasSuffix(rsp, "00000000") {
		t.Errorf("a TPM that is off answers %s", rsp)
	}
	run(t, "swtpm_ioctl", "--unix", ctrl, "-i")
	succeed(t, fd, startup20)
	succeed(t, fd, random20)
	run(t, "swtpm_ioctl", "--unix", ctrl, "-s")
	p.wait(t, 0)
	until(t, "the end of the device", func() bool { return !exists(p.path()) })
}

// TestProxySuspend checks that the drivers and the emulator continue after the machine was
// suspended.
func TestProxySuspend(t *testing.T) {
	const test, state = "/sys/power/pm_test", "/sys/power/state"
	if !exists(test) {
		t.Fatalf("this kernel has no %s", test)
	}
	p := startProxy(t, stateDir(t), "--tpm2")
	fd := open(t, p.path())
	succeed(t, fd, random20)
	for _, level := range []string{"freezer", "devices"} {
		if err := os.WriteFile(test, []byte(level), 0); err != nil {
			t.Fatal(err)
		}
		until(t, "suspend, "+level, func() bool { // fails if a process does not freeze in time
			err := os.WriteFile(state, []byte("freeze"), 0)
			if err != nil {
				t.Logf("once more: %v", err)
			}
			return err == nil
		})
		succeed(t, fd, random20)
	}
	_ = os.WriteFile(test, []byte("none"), 0)
	p.end(t, unix.SIGTERM, 0)
}

// TestProxyKilled checks that a process that waits for a response gets an error, that the device
// is removed, and that the state starts, if the emulator is killed while a command runs.
func TestProxyKilled(t *testing.T) {
	state := stateDir(t)
	p := startProxy(t, state, "--tpm2")
	until(t, p.manager(), func() bool { return exists(p.manager()) || p.gone() })
	p.tools(t, "tpm2_nvdefine 0x1500002 -s 4 -a ownerread|ownerwrite")
	fd := open(t, p.path())
	done := make(chan error, 1)
	cpu := p.cpu(t)
	go func() { // a key of 2048 bits takes seconds here, as a rule
		var err error
		for err == nil && !p.gone() {
			_, err = exchange(fd, primary20)
		}
		done <- err
	}()
	until(t, "a command that runs", func() bool { return p.cpu(t) > cpu+20 })
	p.end(t, unix.SIGKILL, -1)
	select {
	case err := <-done:
		if err == nil {
			t.Errorf("the command of a dead emulator was answered")
		}
	case <-after():
		t.Fatal("a process still waits for the response of a dead emulator")
	}
	until(t, "the end of the device", func() bool { return !exists(p.path()) })
	p = startProxy(t, state, "--tpm2")
	until(t, p.manager(), func() bool { return exists(p.manager()) || p.gone() })
	p.tools(t, "tpm2_nvreadpublic 0x1500002")
	p.end(t, unix.SIGTERM, 0)
}

// cpu is the time that the process has run, in hundredths of a second.
func (p *process) cpu(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return user + system
}
