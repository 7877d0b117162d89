// Package config turns a profile (a TOML file) or a classic command line into
// one Config. A key of the file and an option of the command line that mean the
// same fill the same field. It opens nothing but the profile itself.
package config

import "io/fs"

// Config describes one TPM and how it is reached. Load makes it; nobody changes
// it afterwards.
type Config struct {
	TPM          string    `toml:"tpm"` // "1.2" or "2.0"
	Interface    Interface `toml:"interface"`
	Control      Control   `toml:"control"`
	State        State     `toml:"tpmstate"`
	Key          Key       `toml:"key"`
	MigrationKey Key       `toml:"migration-key"`
	Flags        Flags     `toml:"flags"`
	Locality     Locality  `toml:"locality"`
	Log          Log       `toml:"log"`
	PID          PID       `toml:"pid"`
	Sandbox      Sandbox   `toml:"sandbox"`
	Daemon       bool      `toml:"-"` // --daemon; never in a profile: systemd does not want it

	// PrintCapabilities asks for one line on stdout and nothing else.
	PrintCapabilities bool `toml:"-"`
}

// EndpointKind says how an Endpoint comes to be.
type EndpointKind uint8

// The kinds of endpoint.
const (
	None     EndpointKind = iota // no endpoint
	Unix                         // a Unix socket that we bind and listen on
	TCP                          // a TCP socket that we bind and listen on
	ListenFD                     // an inherited listening socket
	ConnFD                       // an inherited descriptor that is already connected
)

// Endpoint is a place where clients reach the data or the control channel.
type Endpoint struct {
	Kind EndpointKind

	Path string      // Unix
	Mode fs.FileMode // Unix: permission bits of the socket, exact; default 0770
	UID  int         // Unix: owner of the socket; -1 leaves it
	GID  int         // Unix: group of the socket; -1 leaves it

	Addr   string // TCP: literal IPv4 or IPv6 address
	Port   int    // TCP: 0 lets the kernel choose
	IfName string // TCP: interface, for an IPv6 link-local address

	FD int // ListenFD, ConnFD
}

// Interface is the data channel: --server, --port, --fd, [interface].
type Interface struct {
	Type       string // "socket"
	Server     Endpoint
	Disconnect bool // close the connection after each response
	Terminate  bool // --terminate: end when the data connection is lost
}

// Control is the control channel: --ctrl, [control].
type Control struct {
	Listen    Endpoint
	Terminate bool // end when the control connection is lost
}

// State says where the TPM keeps its state: --tpmstate, [tpmstate].
type State struct {
	URI          string      // "dir://PATH"; "" if there is none
	Mode         fs.FileMode // permission bits of state files; 0640
	ModeExplicit bool        // Mode was asked for: exact, whatever the umask
	Lock         bool        // exclude a second instance; default true
	Backup       bool        // keep the previous permanent state as .bak
	Relaxed      bool        // durability = "relaxed": no fsync, as the reference does it
}

// Key is where an AES key comes from: --key, [key].
type Key struct {
	Source KeySource
	Path   string // KeyFile, PassFile
	FD     int    // KeyFD, PassFD
	Hex    bool   // KeyFile, KeyFD: hex digits rather than raw bytes
	KDF    string // PassFile, PassFD: "pbkdf2" or "sha512"
	Bits   int    // 128 or 256
	Remove bool   // unlink the file once it is read
}

// KeySource says what kind of place Key names.
type KeySource uint8

// The kinds of key source.
const (
	NoKey KeySource = iota
	KeyFile
	KeyFD
	PassFile
	PassFD
)

// Flags is how the TPM is brought up: --flags, [flags].
type Flags struct {
	NotNeedInit         bool   // power on at process start
	Startup             string // "", "clear", "state", "deactivated" or "none"
	DisableAutoShutdown bool
}

// Locality is what clients may do with localities: --locality, [locality].
type Locality struct {
	RejectLocality4  bool
	AllowSetLocality bool
}

// Log is where messages go: --log, [log].
type Log struct {
	Given    bool   // --log was given; then Prefix replaces the default one, even if empty
	File     string // "-" for silence
	FD       int    // -1 if none; wins over File
	Level    int    // 1 or more
	Prefix   string
	Truncate bool
}

// PID is where the process id is written: --pid, [pid].
type PID struct {
	File string
	FD   int // -1 if none
}

// Sandbox is what the process gives up: --runas, [sandbox].
type Sandbox struct {
	User string // name or number; "" keeps the current one
}
