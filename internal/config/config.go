// Package config turns a profile (a TOML file) or a classic command line into
// one Config. A key of the file and an option of the command line that mean the
// same fill the same field, through the tables of keys.go. It opens nothing but
// the profile itself. It checks with fstat that an inherited descriptor has the
// kind that the command line requires.
package config

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Config describes one TPM and its channels. Classic and LoadProfile make it; it is not
// changed afterwards.
type Config struct {
	TPM          tpm.Version
	Interface    Interface
	Control      Control
	State        State
	Key          Key
	MigrationKey Key
	Flags        Flags
	Locality     Locality
	Migration    Migration
	Profile      AlgorithmProfile
	Log          Log
	PID          PID
	Pcap         Pcap
	Metrics      Metrics
	Ledger       Ledger
	Sandbox      Sandbox
	Service      Service
	Manufacture  Manufacture
	Daemon       bool   // --daemon, and swtpm cuse; never in a profile, because systemd needs a foreground process
	Ignored      string // errors of the option parser that do not stop swtpm cuse, a line each; for stderr
	Host         Host   // of all TPMs of this host; never in a profile

	// These print something on stdout instead of running a TPM; the first one counts. Never in a profile. For PrintCapabilities only TPM, Log and
	// Sandbox are filled, for PrintStates also Interface, Control and State,
	// for PrintProfiles Interface and Control: the reference reads no more.
	PrintCapabilities bool
	PrintStates       bool
	PrintProfiles     bool
	PrintInfo         uint32 // TPMLIB_INFO_* of libtpms; 0 for none
}

// Printing returns the name of the option that prints something, "" if the TPM is to run.
func (c *Config) Printing() string {
	switch {
	case c.PrintCapabilities:
		return "--print-capabilities"
	case c.PrintStates:
		return "--print-states"
	case c.PrintProfiles:
		return "--print-profiles"
	case c.PrintInfo != 0:
		return "--print-info"
	}
	return ""
}

// EndpointKind is the kind of an Endpoint.
type EndpointKind uint8

// The kinds of endpoint.
const (
	None     EndpointKind = iota // no endpoint
	Unix                         // a Unix socket that we bind and listen on
	TCP                          // a TCP socket that we bind and listen on
	ListenFD                     // an inherited listening socket
	ConnFD                       // an inherited descriptor that is already connected
	Systemd                      // a listening socket that systemd passes under a name
)

// Endpoint is an address at which clients reach a channel.
type Endpoint struct {
	Kind EndpointKind

	Path string      // Unix
	Mode fs.FileMode // Unix: permission bits of the socket, exact; default 0770
	UID  int         // Unix: owner of the socket; -1 leaves it
	GID  int         // Unix: group of the socket; -1 leaves it

	// Unix: names to be looked up in the new root, which may have other users;
	// "" if UID and GID are set instead. See Owner.
	User, Group string

	Addr   string // TCP: literal IPv4 or IPv6 address
	Port   int    // TCP: 0 lets the kernel choose
	IfName string // TCP: interface, for an IPv6 link-local address

	FD int // ListenFD, ConnFD; -1 otherwise

	Name string // Systemd: its FileDescriptorName=
}

// Interface is the data channel: --server, --port, --fd, --chardev, --vtpm-proxy,
// [interface].
type Interface struct {
	Type       InterfaceKind
	Server     Endpoint // of a socket; of a chardev only ConnFD, or none with Device
	Device     string   // of a chardev: the character device to open; "" with Server
	Name       string   // of cuse: the device is /dev/NAME
	Major      int      // of cuse: the number of the device, up to 65535; with Major 0 the kernel chooses
	Minor      int
	Disconnect bool // close the connection after each response
	Terminate  bool // --terminate: end when the data connection is lost; always true for a device
}

// choose sets the kind of the data channel, and the fields that depend on it.
//
// Compat: C-228: a TPM with a proxy device is powered on at once, and the kernel's
// driver may choose localities.
func (c *Config) choose(iface InterfaceKind) {
	c.Interface.Type = iface
	c.Interface.Terminate = iface == Chardev || iface == VTPMProxy
	if iface == VTPMProxy {
		c.Flags.start(StartupClear)
		c.Locality.AllowSetLocality = true
	}
}

// Control is the control channel: --ctrl, [control].
type Control struct {
	Listen    Endpoint
	Terminate bool // end when the control connection is lost
}

// State says where the state is stored: --tpmstate, [tpmstate].
type State struct {
	Location     nv.Location
	Mode         fs.FileMode // permission bits of state files; 0640
	ModeExplicit bool        // Mode was configured: it is exact, independent of the umask
	Lock         bool        // exclude a second instance; default true, but false for a file
	Backup       bool        // keep the previous permanent state as .bak; not with a file
	Relaxed      bool        // durability = "relaxed": no fsync, as the reference does it
	Create       bool        // make the directory if it is missing; only from a profile
	Plain        bool        // a state in a cluster store need not be encrypted

	OnFull    OnFull        // what a TPM command does when the disk is full
	WaitLimit time.Duration // how long it waits at most; 0 for no limit
	MaxStores int           // stores of the state per minute, in the long run; 0 for no limit
}

// Storage returns the options with which the backend opens s. The caller adds what
// is not configured: Prefix, Warn, and how it uses the storage.
func (s *State) Storage() nv.Options {
	return nv.Options{Mode: s.Mode, ModeExplicit: s.ModeExplicit, Lock: s.Lock, Backup: s.Backup, Relaxed: s.Relaxed}
}

// defaultWaitLimit is how long a TPM command waits for space on a full disk. It is a little
// less than the 120 s after which Linux cancels a command that may write, so that Linux gets
// a response with the cause. QEMU, which waits for the command when the guest is reset, saved
// or migrated, is not delayed longer.
const defaultWaitLimit = 100 * time.Second

// defaultMaxStores is how often per minute the state may be stored in the long run. A
// TPM whose NV memory is full then writes at most 65 GB a day, which a disk endures for
// years. Installing or starting a guest takes about a hundred stores.
const defaultMaxStores = 300

// Service is how the TPM lives under systemd: [service].
type Service struct {
	// KeepSession says whether the process leaves a handover to the next one: its clients and
	// the volatile state, in systemd's descriptor store. It is "yes", "no", or "auto", which
	// means yes if systemd stores descriptors for the unit; "" is "auto". Only here and in the
	// key does the word session mean that; elsewhere it is an authorization session of the TPM.
	KeepSession KeepSession
}

// Key is the source of an AES key: --key, [key]. The zero Key is no key.
type Key struct {
	Source KeySource
	Path   string // KeyFile, PassFile
	FD     int    // KeyFD, PassFD
	Name   string // KeyCredential: of systemd's credential
	Hex    bool   // KeyFile, KeyFD, KeyCredential: hex digits rather than raw bytes
	KDF    string // PassFile, PassFD: "pbkdf2" or "sha512"
	Bits   int    // 128 or 256
	Remove bool   // unlink the file once it is read
}

// Argument returns the argument of --key that names k, for a remedy. It returns "" for no key, and
// the placeholder KEY if another process cannot read the key from its source.
func (k *Key) Argument() string {
	mode := fmt.Sprintf(",mode=aes-%d-cbc", k.Bits)
	switch k.Source {
	case NoKey:
		return ""
	case KeyFile:
		format := ",format=binary"
		if k.Hex {
			format = ",format=hex"
		}
		return "file=" + k.Path + format + mode
	case PassFile:
		return "pwdfile=" + k.Path + ",kdf=" + k.KDF + mode
	}
	return "KEY"
}

// KeySource is the kind of source that Key names.
type KeySource uint8

// The kinds of key source.
const (
	NoKey KeySource = iota
	KeyFile
	KeyFD
	PassFile
	PassFD
	KeyCredential
)

// Flags is how the TPM starts and stops: --flags, [flags].
type Flags struct {
	NotNeedInit         bool    // power on at process start
	Startup             Startup // all but NoStartup and StartupNone imply NotNeedInit
	DisableAutoShutdown bool
}

// Locality is what clients may do with localities: --locality, [locality].
type Locality struct {
	RejectLocality4  bool
	AllowSetLocality bool
}

// Migration says which process owns the state while the guest moves between hosts that
// share it: --migration, [migration].
type Migration struct {
	Incoming            bool // the state belongs to another process until the first blob, LOCK_STORAGE or command
	ReleaseLockOutgoing bool // the storage lock is released when the savestate blob is fetched; default true
	EncryptedOnly       bool // blobs that are not encrypted with the migration key are refused
}

// AlgorithmProfile names the source of the algorithm profile, which selects the commands
// and algorithms of a new TPM 2.0: --profile, [profile]. Without one, libtpms chooses.
type AlgorithmProfile struct {
	Source         ProfileSource
	Text           string // ProfileText: JSON; ProfileName: a name; ProfileFile: a path
	FD             int    // ProfileFD; -1 otherwise
	RemoveDisabled string // removes what OpenSSL refuses: "check" here, "fips-host" on a FIPS host; "" removes nothing
}

// ProfileSource is the kind of source that AlgorithmProfile names.
type ProfileSource uint8

// The kinds of profile source.
const (
	NoProfile ProfileSource = iota
	ProfileText
	ProfileName
	ProfileFile
	ProfileFD
)

// Log is where messages go: --log, [log].
type Log struct {
	Given    bool   // --log or [log] was given; then Prefix replaces defaultPrefix, even if empty
	File     string // "-" discards messages
	FD       int    // -1 if none; has precedence over File
	Level    int    // 1 or more
	Prefix   string
	Truncate bool
}

// defaultPrefix begins every log line unless --log or [log] is given.
const defaultPrefix = "swtpm: "

// PID is where the process id is written: --pid, [pid].
type PID struct {
	File string
	FD   int // -1 if none; then File counts
}

// Pcap is where the traffic of the data channel is recorded: --pcap, [pcap].
type Pcap struct {
	File      string
	FD        int         // -1 if none; then File counts
	Mode      fs.FileMode // permission bits of the file, exact; 0640
	Truncate  bool
	Checksums bool // fill the checksums of the simulated IP and TCP headers
	Redact    bool // replace secrets by zero bytes
}

// Metrics is where metrics of the TPM are published: [metrics]. It has no option.
type Metrics struct {
	Listen   Endpoint // Unix or Systemd; or None
	File     string   // "" for none
	Interval int      // seconds between two writes of File; 15
}

// Ledger configures the boot ledger, which records the boots of the guest: [ledger]. It has no option.
type Ledger struct {
	Keep  LedgerKeep
	Boots int // number of boots that are kept; 16
}

// Sandbox is how the process limits itself: --runas, --chroot, --seccomp, [sandbox].
type Sandbox struct {
	User     string        // name or number; "" keeps the current one
	Chroot   string        // new root directory, in which all other paths and names are looked up; "" keeps the current one
	Seccomp  SeccompAction // what happens at a system call that a running TPM does not need
	Landlock LandlockMode  // whether Landlock denies access to files that it does not need
}

// defaults returns the Config of an empty command line.
func defaults() *Config {
	none := Endpoint{Mode: 0o770, UID: -1, GID: -1, FD: -1}
	return &Config{
		TPM:       tpm.V12,
		Interface: Interface{Type: Socket, Server: none},
		Control:   Control{Listen: none},
		State:     State{Mode: 0o640, Lock: true, OnFull: FullWait, WaitLimit: defaultWaitLimit, MaxStores: defaultMaxStores},
		Migration: Migration{ReleaseLockOutgoing: true},
		Profile:   AlgorithmProfile{FD: -1},
		Log:       Log{FD: -1, Level: 1},
		PID:       PID{FD: -1},
		Pcap:      Pcap{FD: -1, Mode: 0o640},
		Metrics:   Metrics{Listen: none, Interval: 15},
		Ledger:    Ledger{Keep: KeepBoots, Boots: 16},
		Sandbox:   Sandbox{Seccomp: SeccompKill, Landlock: LandlockBestEffort},
		Host:      defaultHost(),
	}
}

// Absolute returns a copy of c in which relative paths are joined to dir. Paths that are used
// inside a new root directory are joined to "/", which is the working directory of the process there.
func (c *Config) Absolute(dir string) *Config {
	a := *c
	inside := dir
	if a.Sandbox.Chroot != "" {
		inside = "/"
	}
	for _, t := range a.tables() {
		for _, k := range t.keys.known(profile) {
			switch v := k.value; {
			case v.rebase == nil:
			case v.outside:
				v.rebase(dir)
			default:
				v.rebase(inside)
			}
		}
	}
	return &a
}

// Absolute returns the URI of the state with an absolute path, "" if that is unknown.
func (s *State) Absolute() string {
	l := s.Location
	if l.Kind != nv.Directory && l.Kind != nv.File {
		return l.String()
	}
	path, err := filepath.Abs(l.Path)
	if err != nil {
		return ""
	}
	l.Path = path
	return l.String()
}

// beneath returns path, joined to dir if it is relative; "" stays "".
func beneath(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
