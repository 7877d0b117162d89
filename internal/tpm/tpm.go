// Package tpm defines the types that the other packages share: versions, localities,
// results, state blobs and the few command codes that a front end must know. It does no
// I/O and does not use libtpms.
package tpm

import "fmt"

// Version is the version of the TPM specification ("family") that a TPM implements.
type Version uint8

// The two versions. The zero Version is neither.
const (
	V12 Version = 1
	V20 Version = 2
)

// String returns the version as TCG writes it, "1.2" or "2.0".
func (v Version) String() string {
	switch v {
	case V12:
		return "1.2"
	case V20:
		return "2.0"
	}
	return fmt.Sprintf("Version(%d)", uint8(v))
}

// UnmarshalText sets v to the version that text names: "1.2" or "2.0".
func (v *Version) UnmarshalText(text []byte) error {
	for _, known := range []Version{V12, V20} {
		if string(text) == known.String() {
			*v = known
			return nil
		}
	}
	return fmt.Errorf("unknown TPM version %q; want 1.2 or 2.0", text)
}

// FilePrefix returns the prefix of the names of a TPM's state files.
//
// Source: libtpms, tpm_nvfile.c; swtpm, src/swtpm/swtpm_nvstore.h. The number of
// the TPM is always 00.
func (v Version) FilePrefix() string {
	if v == V12 {
		return "tpm-00."
	}
	return "tpm2-00."
}

// Locality is the locality of a command, 0 to 4.
//
// Source: TCG PC Client Platform TPM Profile, "Locality".
type Locality uint8

// MaxLocality is the highest locality.
const MaxLocality Locality = 4

// CommandsFile is the name of the memory file of an emulator whose offset is the number of
// commands since its start. swtpm list finds it in /proc.
const CommandsFile = "swtpm-commands"

// InfoStatus is a flag of GET_INFO of our own: whether the TPM is on, its locality, its
// number of commands and its PCRs. libtpms has no flag in these bits.
const InfoStatus uint64 = 1 << 62

// Blob is a state blob as the control channel numbers it. libtpms numbers the
// same blobs differently; emul/libtpms translates.
type Blob uint32

// The three state blobs.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_BLOB_TYPE_*.
const (
	Permanent Blob = 1
	Volatile  Blob = 2
	Savestate Blob = 3
)

// Blobs lists the state blobs in the order in which they must be restored.
var Blobs = []Blob{Permanent, Volatile, Savestate}

// Name returns the name that libtpms and the state files use for b: "permall",
// "volatilestate" or "savestate"; "" if b is none of the three.
//
// Source: libtpms/tpm_nvfilename.h.
func (b Blob) Name() string {
	switch b {
	case Permanent:
		return "permall"
	case Volatile:
		return "volatilestate"
	case Savestate:
		return "savestate"
	}
	return ""
}

// String returns Name, or the number of a blob without a name.
func (b Blob) String() string {
	if s := b.Name(); s != "" {
		return s
	}
	return fmt.Sprintf("Blob(%d)", uint32(b))
}
