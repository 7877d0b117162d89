package config

// The types of this file have one word for each value, which is also the text of an
// option and of a profile. The tables of keys.go are their only parser.

// InterfaceKind is the kind of the data channel.
type InterfaceKind string

// The kinds of data channel.
const (
	Socket    InterfaceKind = "socket"
	Chardev   InterfaceKind = "chardev"
	VTPMProxy InterfaceKind = "vtpm-proxy"
	CUSE      InterfaceKind = "cuse"
)

// OnFull is what a TPM command does when the disk is full.
type OnFull string

// The ways to handle a full disk.
const (
	FullWait OnFull = "wait" // wait for space, at most State.WaitLimit
	FullFail OnFull = "fail" // fail at once
)

// Startup is the TPM2_Startup or TPM_Startup that a TPM gets at power-on.
type Startup string

// The kinds of startup.
const (
	NoStartup          Startup = "" // not configured: none
	StartupNone        Startup = "none"
	StartupClear       Startup = "clear"
	StartupState       Startup = "state"
	StartupDeactivated Startup = "deactivated" // TPM 1.2 only
)

// LedgerKeep says what the boot ledger keeps.
type LedgerKeep string

// The boots that the boot ledger keeps.
const (
	KeepBoots LedgerKeep = "boots" // the last boots, and those in which a policy last succeeded
	KeepNone  LedgerKeep = "none"  // nothing is recorded

	// KeepAsProfile is for a host: each TPM does what its profile says.
	KeepAsProfile LedgerKeep = "profile"
)

// KeepSession says whether the process leaves a handover to the next one; see Service.
type KeepSession string

// The values of KeepSession. "" means SessionAuto.
const (
	SessionAuto KeepSession = "auto" // yes if systemd stores descriptors for the unit
	SessionYes  KeepSession = "yes"
	SessionNo   KeepSession = "no"
)

// SeccompAction is what happens at a system call that a running TPM does not need.
type SeccompAction string

// The actions of seccomp.
const (
	SeccompKill SeccompAction = "kill" // the process ends
	SeccompLog  SeccompAction = "log"  // the kernel logs the call and allows it
	SeccompNone SeccompAction = "none" // there is no filter
)

// LandlockMode says whether Landlock denies access to files that a running TPM does not need.
type LandlockMode string

// The modes of Landlock.
const (
	LandlockBestEffort LandlockMode = "best-effort" // as far as the kernel supports it
	LandlockRequire    LandlockMode = "require"     // the TPM does not start without it
	LandlockOff        LandlockMode = "off"
)
