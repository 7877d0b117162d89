package config

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// optionOf names the option of a table.
var optionOf = map[string]string{
	"interface": "server", "control": "ctrl", "tpmstate": "tpmstate", "key": "key", "migration-key": "migration-key",
	"flags": "flags", "locality": "locality", "migration": "migration", "log": "log", "pid": "pid", "pcap": "pcap", "profile": "profile",
}

// sameFieldsCases are the cases of TestSameFields.
var sameFieldsCases = map[string][2]string{
	"interface":     {"type=unixio,path=/p", `server = "unix:/p"`},
	"control":       {"type=unixio,path=/p", `listen = "unix:/p"`},
	"tpmstate":      {"dir=/p", `dir = "/p"`},
	"key":           {"file=/p", `file = "/p"`},
	"migration-key": {"file=/p", `file = "/p"`},
	"profile":       {"name=/p", `name = "/p"`},
	"log":           {"fd=-1", ""},
	"pid":           {"file=/p", `file = "/p"`},
	"pcap":          {"file=/p", `file = "/p"`},
}

// TestSameFields checks that a key of both dialects sets the same fields to the same
// values in both, and that it changes something.
func TestSameFields(t *testing.T) {
	reg, err := os.Create(t.TempDir() + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	fd := strconv.Itoa(int(reg.Fd()))
	// The text that a key needs before it, as an option and in a profile.
	base := sameFieldsCases
	tested := 0
	for i, tb := range defaults().tables() {
		for j, k := range tb.keys {
			if k.in != both {
				continue
			}
			b := base[tb.name]
			switch k.name {
			case "dir", "file", "fd", "pwdfile", "pwdfd", "name", "profile":
				b = [2]string{}
			case "kdf":
				b = [2]string{"pwdfile=/p", `pwdfile = "/p"`}
			}
			without := tableOnly(t, fmt.Sprintf("[%s]\n%s\n", tb.name, b[1]))
			sample := sampleOf(without.tables()[i].keys[j], fd)
			sub := k.name + "=" + sample[0]
			if b[0] != "" {
				sub = b[0] + "," + sub
			}
			var also []string // what the key cannot be without
			alsoTable := ""
			if k.name == "encrypted-only" {
				also, alsoTable = []string{"--migration-key", "file=/p"}, "[migration-key]\nfile = \"/p\"\n"
			}
			byOption, err := Classic("socket", append(also, "--"+optionOf[tb.name], sub), noEnv)
			if err != nil {
				t.Errorf("--%s %s: %v", optionOf[tb.name], sub, err)
				continue
			}
			byKey := tableOnly(t, alsoTable+fmt.Sprintf("[%s]\n%s\n%s = %s\n", tb.name, b[1], k.name, sample[1]))
			byKey.TPM = byOption.TPM // the one default that differs
			if diff := cmp.Diff(byOption, byKey); diff != "" {
				t.Errorf("[%s] %s: -option +key\n%s", tb.name, k.name, diff)
			}
			without = tableOnly(t, alsoTable+fmt.Sprintf("[%s]\n%s\n", tb.name, b[1]))
			without.TPM = byOption.TPM
			if k.name != "file" && k.name != "fd" && cmp.Equal(without, byKey) {
				t.Errorf("[%s] %s = %s changes nothing", tb.name, k.name, sample[1])
			}
			tested++
		}
	}
	if tested < 40 {
		t.Errorf("%d keys tested, want more", tested)
	}
}

// sampleOf returns a value of k that is not its default, as an option and as a profile
// has it. fd is a descriptor of a file.
func sampleOf(k key, fd string) [2]string {
	shown, _ := k.value.toTOML()
	if on, ok := shown.(bool); ok {
		s := strconv.FormatBool(!on)
		return [2]string{s, s}
	}
	sample := map[string]string{"N": fd, "OCTAL": "0611", "USER": "7", "GROUP": "8", "TIME": "5m", "JSON": `{"a":1}`}[k.value.arg]
	words := quoted(k.value.want)
	switch {
	case k.value.arg == "TIME":
	case len(words) > 0 && sample == "":
		sample = words[len(words)-1]
		if sample == shown {
			sample = words[0]
		}
	case sample == "":
		sample = "/q"
	}
	if k.value.arg == "N" {
		return [2]string{sample, sample}
	}
	return [2]string{sample, "'" + sample + "'"}
}

// tableOnly returns the defaults with one table applied, possible or not.
func tableOnly(t *testing.T, src string) *Config {
	t.Helper()
	p := &loader{file: "f", cfg: defaults(), at: locate(src), given: map[string]bool{}}
	p.tables, p.top = p.cfg.tables(), p.cfg.top()
	tree := decode(t, src)
	p.load(tree)
	for _, err := range p.errs {
		t.Errorf("%s: %v", src, err)
	}
	return p.cfg
}

// TestStartup checks that startup in a profile equals the flags of the command line.
func TestStartup(t *testing.T) {
	for _, word := range []string{"clear", "state", "deactivated", "none"} {
		byOption, err := Classic("socket", []string{"--flags", "startup-" + word}, noEnv)
		if err != nil {
			t.Fatal(err)
		}
		if byKey := tableOnly(t, "[flags]\nstartup = \""+word+"\""); !cmp.Equal(byOption, byKey) {
			t.Errorf("startup = %q: %s", word, cmp.Diff(byOption, byKey))
		}
	}
}

// TestAddresses checks that an address of a profile and its suboptions are the same
// endpoint, and that String returns the address.
func TestAddresses(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd := strconv.Itoa(pair[0])
	for _, tt := range []struct{ address, args string }{
		{"unix:/a:b", "--ctrl type=unixio,path=/a:b"},
		{"tcp:127.0.0.1:5", "--ctrl type=tcp,port=5"},
		{"tcp:[::1]:0", "--ctrl type=tcp,port=0,bindaddr=::1"},
		{"tcp:[fe80::1%eth0]:5", "--ctrl type=tcp,port=5,bindaddr=fe80::1,ifname=eth0"},
		{"fd:" + fd, "--ctrl type=unixio,fd=" + fd},
		{"fd:" + fd, "--ctrl type=tcp,fd=" + fd},
		{"clientfd:" + fd, "--ctrl type=unixio,clientfd=" + fd},
	} {
		c, err := Classic("socket", strings.Fields(tt.args), noEnv)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		e := defaults().Control.Listen
		if err := e.setAddress(tt.address); err != nil || e != c.Control.Listen || e.String() != tt.address {
			t.Errorf("%s = %+v, %v, want %+v", tt.address, e, err, c.Control.Listen)
		}
	}
	var e Endpoint
	for _, s := range []string{"", "tcp", "tcp:", "tcp::1", "tcp:1.2.3.4:", "tcp:1.2.3.4:-1", "tcp:1.2.3.4:+1", "tcp:[1.2.3.4]:1",
		"tcp:[::1:5", "tcp:[::1%]:5", "tcp:1.2.3.4%lo:5", "fd:", "fd:x", "fd:2147483648", "clientfd:", "http:x", "UNIX:/x"} {
		if err := e.setAddress(s); err == nil {
			t.Errorf("address %q is taken as %+v", s, e)
		}
	}
}

// consumers are the command lines of programs that run swtpm. N is a listening
// or connected socket, M a descriptor to read from.
var consumers = []struct{ who, args string }{
	{"libvirt", "--print-capabilities"},
	{"libvirt", "--ctrl|type=unixio,path=/run/libvirt/qemu/swtpm/1-vm-swtpm.sock,mode=0600|--tpmstate|dir=/var/lib/libvirt/swtpm/u/tpm2,mode=0600|--log|file=/var/log/swtpm/libvirt/qemu/vm-swtpm.log|--terminate|--tpm2"},
	{"libvirt, lock, debug", "--ctrl|type=unixio,path=/s,mode=0600|--tpmstate|dir=/st,mode=0600,lock|--log|file=/l,level=5|--terminate|--tpm2"},
	{"libvirt, encrypted", "--ctrl|type=unixio,path=/s,mode=0600|--tpmstate|dir=/st,mode=0600|--log|file=/l|--terminate|--tpm2|--key|pwdfd=33,mode=aes-256-cbc|--migration-key|pwdfd=34,mode=aes-256-cbc"},
	{"libvirt, shared storage", "--ctrl|type=unixio,path=/s,mode=0600|--tpmstate|dir=/st,mode=0600,lock|--log|file=/l|--terminate|--tpm2|--migration|release-lock-outgoing,incoming"},
	{"libvirt 8", "--daemon|--ctrl|type=unixio,path=/s,mode=0600|--tpmstate|dir=/st,mode=0600|--log|file=/l|--pid|file=/p"},
	{"QEMU's tests", "--help"},
	{"QEMU's tests", "--tpm2|--tpmstate|dir=/d|--ctrl|type=unixio,path=/d/sock"},
	{"Proxmox", "--tpmstate|backend-uri=file:///dev/pve/vm-1-disk-0,mode=0600|--ctrl|type=unixio,path=/var/run/qemu-server/1.swtpm,mode=0600|--pid|file=/var/run/qemu-server/1.swtpm.pid|--terminate|--daemon|--log|file=/run/qemu-server/1-swtpm.log,level=1,prefix=[id=1700000000] |--tpm2"},
	{"Proxmox, dir", "--tpmstate|backend-uri=dir:///st,mode=0600|--ctrl|type=unixio,path=/var/run/qemu-server/1.swtpm,mode=0600|--pid|file=/var/run/qemu-server/1.swtpm.pid|--terminate|--daemon|--log|file=/run/qemu-server/1-swtpm.log,level=1,prefix=[id=1700000000] |--tpm2"},
	{"Incus", "--tpm2|--tpmstate|dir=/st/tpm.vtpm|--ctrl|type=unixio,path=devices/swtpm-vtpm.sock"},
	{"Incus, on the other host", "--tpm2|--tpmstate|dir=/st/tpm.vtpm|--ctrl|type=unixio,path=devices/swtpm-vtpm.sock|--migration|release-lock-outgoing,incoming"},
	{"LXD, systemd, mkosi", "--tpm2|--tpmstate|dir=/st|--ctrl|type=unixio,fd=N"},
	{"quickemu", "--ctrl|type=unixio,path=/s|--terminate|--tpmstate|dir=/st|--tpm2"},
	{"swtpm_setup", "--tpm2|--tpmstate|dir=/st|--server|type=tcp,fd=N|--flags|not-need-init"},
	{"systemd's initrd, as socket", "--tpm2|--flags=startup-clear,disable-auto-shutdown|--ctrl=type=unixio,path=/s|--key=file=/k,format=hex,mode=aes-cbc,remove=true|--tpmstate=dir=/st,mode=0600"},
	{"tpm2-tools users", "--tpm2|--tpmstate|dir=/st|--server|type=tcp,port=2321|--ctrl|type=tcp,port=2322|--flags|not-need-init,startup-clear"},
	{"TPM 1.2", "-t|-p|2321|--tpmstate|dir=/st|--locality|reject-locality-4,allow-set-locality|--flags|startup-deactivated|-r|tss"},
	{"clientfd", "--tpm2|--tpmstate|dir=/st|--ctrl|type=unixio,clientfd=N|--pid|file=/p"},
	{"percent signs", "--tpmstate|dir=/a%i/%%b%|--ctrl|type=unixio,path=/%i|--log|file=/%%,prefix=%i \"\\\t"},
	{"pcap", "--tpmstate|dir=/a|--ctrl|type=unixio,path=/c|--pcap|file=f,truncate,mode=0600,checksums,redact"},
	{"group and user", "--tpmstate|dir=/a|--ctrl|type=unixio,path=/c,uid=root,gid=root|--server|type=unixio,path=/d,uid=7,mode=0,disconnect"},
}

// TestConsumers checks that they parse, and that import preserves their meaning.
func TestConsumers(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for _, tt := range consumers {
		args := strings.Split(strings.ReplaceAll(tt.args, "fd=N", "fd="+strconv.Itoa(pair[0])), "|")
		c, err := Classic("socket", args, noEnv)
		if slices.Contains(args, "--help") {
			if _, ok := err.(*HelpRequested); !ok {
				t.Errorf("%s: %v, want help", tt.who, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.who, err)
			continue
		}
		out, err := Convert("socket", args, noEnv, "/w")
		if c.Printing() != "" {
			if err == nil {
				t.Errorf("%s: imported as\n%s", tt.who, out)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: convert: %v", tt.who, err)
			continue
		}
		got, err := parseProfile(tt.who, out, "/elsewhere", "other")
		if err != nil {
			t.Errorf("convert: %v\n%s", err, out)
			continue
		}
		c.Daemon = false
		if diff := cmp.Diff(c.Absolute("/w"), got); diff != "" {
			t.Errorf("%s: convert: -want +got\n%s\n%s", tt.who, diff, out)
		}
		again(t, tt.who, got)
	}
}

// TestImportDescriptors checks that import does not need the descriptors of the line.
func TestImportDescriptors(t *testing.T) {
	for args, want := range map[string]string{
		"--ctrl|type=unixio,fd=2000000000":                          `listen    = "fd:2000000000"`,
		"--ctrl|type=unixio,clientfd=2000000000":                    `listen    = "clientfd:2000000000"`,
		"--ctrl|type=tcp,port=1|--server|type=unixio,fd=2000000000": `server     = "fd:2000000000"`,
		"--ctrl|type=tcp,port=1|--server|fd=2000000000":             `server     = "clientfd:2000000000"`,
		"--ctrl|type=tcp,port=1|--fd|2000000000":                    `server     = "clientfd:2000000000"`,
		"--ctrl|type=tcp,port=1|--pid|fd=2000000000":                `fd = 2000000000`,
	} {
		out, err := Convert("socket", strings.Split("--tpmstate|dir=s|"+args, "|"), noEnv, "/w")
		if err != nil || !strings.Contains(out, want+"\n") {
			t.Errorf("Convert(%q) = %v\n%s, want %s", args, err, out, want)
		}
	}
}

// TestConvertRefuses checks the errors about command lines that no profile can express.
func TestConvertRefuses(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--print-c", "convert: --print-capabilities describes no TPM; leave it out"},
		{"--print-s|--tpmstate|dir=s", "convert: --print-states describes no TPM; leave it out"},
		{"--print-p", "convert: --print-profiles describes no TPM; leave it out"},
		{"--print-i|1", "convert: --print-info describes no TPM; leave it out"},
		{"--bogus", "socket: unrecognized option '--bogus'"},
		{"--ctrl|type=unixio,path=c", `convert: no profile can express this: config: [tpmstate]: missing; write dir = "PATH", file = "PATH" or store = "NAME"`},
		{"--tpm2|--tpmstate|dir=s|-p|5|--flags|startup-deactivated", `convert: no profile can express this: config: [flags] startup: a TPM 2.0 cannot start deactivated; write "clear", "state" or "none"`},
		{"--tpmstate|backend-uri=foo://s|--ctrl|type=unixio,path=c", `convert: no profile can express this: config: [tpmstate] dir: unsupported URI "foo://s"; write dir://PATH, file://PATH or store://NAME`},
		{"--tpmstate|backend-uri=file://|--ctrl|type=unixio,path=c", `convert: no profile can express this: config: [tpmstate] dir: unsupported URI "file://"; write dir://PATH, file://PATH or store://NAME`},
		{"--tpmstate|backend-uri=file://s,backup|--ctrl|type=unixio,path=c", `convert: no profile can express this: config: [tpmstate] backup: valid only with dir; a file has no backup`},
		{"--tpmstate|dir=\xff|--ctrl|type=unixio,path=c", `convert: no profile can express this: config: [tpmstate] dir: "/w/\xff" is not UTF-8 or contains a NUL byte`},
	} {
		if _, err := Convert("socket", strings.Split(tt.args, "|"), noEnv, "/w"); errText(err) != tt.want {
			t.Errorf("Convert(%q) = %v, want %s", tt.args, err, tt.want)
		}
	}
}

// shownTOML and shownJSON are the configuration of TestShow.
const shownTOML = `tpm = "2.0"

[interface]
type       = "socket"
disconnect = false
terminate  = false

[control]
listen    = "unix:/c"
mode      = "0600"
terminate = false

[tpmstate]
dir                   = "/s"
create                = false
# mode                  = "0640"
lock                  = true
backup                = false
durability            = "full"
on-full               = "wait"
wait-limit            = "100s"
max-stores-per-minute = 300

[key]
pwdfd = 5
mode  = "aes-128-cbc"
kdf   = "pbkdf2"

# no [migration-key]: state leaves through the control channel as it is

[flags]
not-need-init         = false
# startup               = "none"
disable-auto-shutdown = false

[locality]
reject-locality-4  = false
allow-set-locality = false

[migration]
incoming              = false
release-lock-outgoing = true
encrypted-only        = false

# no [profile]: a new TPM 2.0 gets the algorithms that libtpms gives it

[sandbox]
seccomp  = "kill"
landlock = "best-effort"

[service]
# keep-session = "auto"

[log]
level    = 2
prefix   = "\"\u007F"
truncate = false

# no [pid]: no file with the process id

# no [pcap]: the traffic is not recorded

# no [metrics]: nothing is counted

[ledger]
keep  = "boots"
boots = 16

# no [manufacture]: a new TPM has neither keys nor certificates
`

const shownJSON = `{"tpm":"2.0","interface":{"type":"socket","disconnect":false,"terminate":false},` +
	`"control":{"listen":"unix:/c","mode":"0600","terminate":false},` +
	`"tpmstate":{"dir":"/s","create":false,"mode":"0640","lock":true,"backup":false,"durability":"full","on-full":"wait","wait-limit":"100s","max-stores-per-minute":300},` +
	`"key":{"pwdfd":5,"mode":"aes-128-cbc","kdf":"pbkdf2"},` +
	`"flags":{"not-need-init":false,"startup":"none","disable-auto-shutdown":false},` +
	`"locality":{"reject-locality-4":false,"allow-set-locality":false},` +
	`"migration":{"incoming":false,"release-lock-outgoing":true,"encrypted-only":false},` +
	`"sandbox":{"seccomp":"kill","landlock":"best-effort"},` +
	`"service":{"keep-session":"auto"},` +
	`"log":{"level":2,"prefix":"\"\u007F","truncate":false},"ledger":{"keep":"boots","boots":16}}` + "\n"

// TestShow checks the output of swtpm show, as TOML and as JSON.
func TestShow(t *testing.T) {
	c, err := Classic("socket", strings.Split("--tpm2|--tpmstate|dir=/s|--ctrl|type=unixio,path=/c,mode=0600|--log|prefix=\"\x7f,level=2|--key|pwdfd=5", "|"), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shownTOML, c.TOML()); diff != "" {
		t.Errorf("TOML: -want +got\n%s", diff)
	}
	if diff := cmp.Diff(shownJSON, c.JSON()); diff != "" {
		t.Errorf("JSON: -want +got\n%s", diff)
	}
}

func decode(t *testing.T, src string) map[string]any {
	t.Helper()
	var tree map[string]any
	if _, err := toml.Decode(src, &tree); err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return tree
}
