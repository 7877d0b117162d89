package config

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestChardev checks each way to name a device, and each wrong one.
func TestChardev(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	device := func(path string) *Config {
		return with(func(c *Config) { c.choose("chardev"); c.Interface.Device = path })
	}
	open := with(func(c *Config) {
		c.choose("chardev")
		c.Interface.Server.Kind, c.Interface.Server.FD = ConnFD, fd
	})
	proxy := with(func(c *Config) { c.choose("vtpm-proxy") })
	number := strconv.Itoa(fd)
	for _, tt := range []struct {
		args string
		want any // *Config or the error
	}{
		{"-c /dev/x", device("/dev/x")},
		{"--chardev=/dev/x -c /dev/y -f zz", device("/dev/x")},
		{"-f " + number + " -c /dev/y -f zz", open},
		{"--fd " + number, open},
		{"--vtpm-proxy", proxy},
		{"--vt --flags not-need-init --locality allow-set-locality=false", proxy},
		{"--print-info 1", with(func(c *Config) { c.choose("chardev"); c.PrintInfo = 1 })},
		{"", "swtpm: Error: Missing character device or file descriptor; write --chardev PATH, --fd NUMBER or --vtpm-proxy"},
		{"-f x", "swtpm: Cannot parse character device file descriptor. 'x' is not the number of a descriptor."},
		{"-f 1", "swtpm: Given file descriptor type is not supported."},
		{"--vtpm-proxy -c /dev/x", "swtpm: Cannot use vTPM proxy with a provided device."},
		{"--vtpm-proxy -f " + number, "swtpm: Cannot use vTPM proxy with a provided device."},
		{"-c /dev/x --locality foo --tpmstate bar", "swtpm: Error parsing locality options: Unknown option 'foo'"},
		{"--p", "chardev: option '--p' is ambiguous; possibilities: '--pid' '--profile' '--pcap' '--print-capabilities' '--print-states' '--print-profiles' '--print-info'"},
		{"--c", "chardev: option '--c' is ambiguous; possibilities: '--chardev' '--chroot' '--ctrl'"},
		{"--terminate", "chardev: unrecognized option '--terminate'"},
	} {
		if strings.HasPrefix(tt.args, "-f 1") { // what it is depends on who runs the test
			r, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			tt.args = "-f " + strconv.Itoa(int(r.Fd()))
		}
		got, err := Classic("chardev", strings.Fields(tt.args), noEnv)
		if want, ok := tt.want.(string); ok {
			if errText(err) != want {
				t.Errorf("chardev %s: %v, want %s", tt.args, err, want)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("chardev %s: %v, -want +got\n%s", tt.args, err, diff)
		}
	}
}

// TestProxyStartup checks that flags override the default of the proxy.
func TestProxyStartup(t *testing.T) {
	for flags, want := range map[string]Startup{
		"": "clear", "--flags startup-state": "state", "--flags startup-none": "none", "--flags disable-auto-shutdown": "clear",
	} {
		c, err := Classic("chardev", strings.Fields("--vtpm-proxy "+flags), noEnv)
		if err != nil || c.Flags.Startup != want || !c.Flags.NotNeedInit || !c.Locality.AllowSetLocality {
			t.Errorf("%s: startup %q, powered %v, locality %v, %v; want %q, true, true", flags, c.Flags.Startup, c.Flags.NotNeedInit, c.Locality.AllowSetLocality, err, want)
		}
	}
}

// TestDeviceProfiles checks profiles of devices, in any order of their tables, and the
// mistakes in them.
func TestDeviceProfiles(t *testing.T) {
	const state = "[tpmstate]\ndir = \"/s\"\n"
	for src, want := range map[string]string{
		"[interface]\ntype = \"vtpm-proxy\"\n":                                                                    "",
		"[flags]\nstartup = \"none\"\n[interface]\ntype = \"vtpm-proxy\"\n":                                       "",
		"[interface]\ntype = \"chardev\"\ndevice = \"/dev/x\"\n[flags]\nstartup = \"clear\"\n":                    "",
		"[interface]\ntype = \"chardev\"\nserver = \"clientfd:7\"\n[flags]\nstartup = \"clear\"\n":                "",
		"[interface]\ntype = \"chardev\"\n[flags]\nstartup = \"clear\"\n":                                         `f:2:1: [interface] type: missing device; write device = "PATH" or server = "clientfd:N"`,
		"[interface]\ntype = \"chardev\"\nserver = \"unix:/d\"\n[flags]\nstartup = \"clear\"\n":                   `f:3:1: [interface] server: unix:/d is not an open device; write server = "clientfd:N" or device = "PATH"`,
		"[interface]\ntype = \"vtpm-proxy\"\nserver = \"unix:/d\"\n":                                              `f:3:1: [interface] server: valid only with type = "socket" or "chardev"`,
		"[interface]\ntype = \"vtpm-proxy\"\ndevice = \"/d\"\n":                                                   `f:3:1: [interface] device: valid only with type = "chardev"`,
		"[interface]\ntype = \"vtpm-proxy\"\nterminate = true\n":                                                  `f:3:1: [interface] terminate: valid only with type = "socket"`,
		"[interface]\ntype = \"chardev\"\ndevice = \"/dev/x\"\n":                                                  `f: [flags] startup: no client could power on this TPM; write startup = "clear" or [control] listen`,
		"[interface]\ntype = \"chardev\"\ndevice=\"/x\"\nserver = \"clientfd:7\"\n[flags]\nstartup = \"clear\"\n": `f:4:1: [interface] server: conflicts with device; write only one of device, server`,
	} {
		c, err := parseProfile("f", src+state, "/", "vm1")
		if errText(err) != want {
			t.Errorf("%q: %v, want %q", src, err, want)
			continue
		}
		if err != nil {
			continue
		}
		again, err := parseProfile("f", c.TOML(), "/", "vm1")
		if diff := cmp.Diff(c, again); diff != "" || err != nil {
			t.Errorf("%q: what it shows is another profile: %v\n%s\n%s", src, err, diff, c.TOML())
		}
		if c.Interface.Type == "vtpm-proxy" && strings.Contains(src, "none") != (c.Flags.Startup == "none") {
			t.Errorf("%q: startup %q", src, c.Flags.Startup)
		}
	}
}
