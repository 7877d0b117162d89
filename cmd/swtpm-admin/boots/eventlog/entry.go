// Package eventlog reads and writes logs of measurements: the TCG's log of firmware,
// systemd's log, dictionaries of systemd-pcrlock, and the TCG's Canonical Event Log. A
// guest's log is a claim: a caller compares it with the boot ledger.
//
// The package also reads the files of a host that a virtual machine measures when it boots:
// UEFI variable stores, firmware images, and PE images. A file may be malicious: every
// parser bounds what it reads, keeps and unpacks.
package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// maxEntries bounds the entries of a log.
const maxEntries = 65536

// ErrFormat means that a log is malformed.
var ErrFormat = errors.New("malformed log")

// Entry is a measurement in a log.
type Entry struct {
	Index   uint32 // PCR, or handle of an NV index
	Type    Type
	Digests []ledger.Digest
	Data    []byte // what the log says about the measurement
	Text    string // a description of Data for people; may contain unprintable characters
}

// Verified reports whether a digest is the digest of the entry's data, so that Text is more than a
// claim.
func (e *Entry) Verified() bool {
	if len(e.Digests) == 0 {
		return false
	}
	switch e.Type {
	case BootApplication, BootDriver, RuntimeDriver, FirmwareBlob, FirmwareBlob2:
		return false // firmware measures the image or the volume, which is not in the log
	}
	return e.isHash(e.Data) // of a boot variable EDK2 measures the content alone: the name is a claim
}

func (e *Entry) isHash(data []byte) bool {
	for _, d := range e.Digests {
		if sum := Sum(d.Alg, data); sum == nil || !bytes.Equal(sum, d.Value) {
			return false
		}
	}
	return true
}

// Type is the type of an event.
type Type uint32

// The types that this program uses.
//
// Source: TCG PC Client Platform Firmware Profile 1.06, 10.4.1.
const (
	NoAction          Type = 0x3
	Separator         Type = 0x4
	Action            Type = 0x5
	EventTag          Type = 0x6
	CRTMVersion       Type = 0x8
	CompactHash       Type = 0xc
	IPL               Type = 0xd
	VariableConfig    Type = 0x80000001
	VariableBoot      Type = 0x80000002
	BootApplication   Type = 0x80000003
	BootDriver        Type = 0x80000004
	RuntimeDriver     Type = 0x80000005
	GPT               Type = 0x80000006
	EFIAction         Type = 0x80000007
	FirmwareBlob      Type = 0x80000008
	FirmwareBlob2     Type = 0x8000000a
	VariableBoot2     Type = 0x8000000c
	VariableAuthority Type = 0x800000e0
)

var typeNames = map[Type]string{
	0: "EV_PREBOOT_CERT", 1: "EV_POST_CODE", NoAction: "EV_NO_ACTION", Separator: "EV_SEPARATOR", Action: "EV_ACTION", EventTag: "EV_EVENT_TAG",
	7: "EV_S_CRTM_CONTENTS", CRTMVersion: "EV_S_CRTM_VERSION", 9: "EV_CPU_MICROCODE", 10: "EV_PLATFORM_CONFIG_FLAGS", 11: "EV_TABLE_OF_DEVICES",
	CompactHash: "EV_COMPACT_HASH", IPL: "EV_IPL", 14: "EV_IPL_PARTITION_DATA", 15: "EV_NONHOST_CODE", 16: "EV_NONHOST_CONFIG", 17: "EV_NONHOST_INFO",
	18: "EV_OMIT_BOOT_DEVICE_EVENTS", VariableConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", VariableBoot: "EV_EFI_VARIABLE_BOOT",
	BootApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", BootDriver: "EV_EFI_BOOT_SERVICES_DRIVER", RuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	GPT: "EV_EFI_GPT_EVENT", EFIAction: "EV_EFI_ACTION", FirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB", 0x80000009: "EV_EFI_HANDOFF_TABLES",
	FirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", 0x8000000b: "EV_EFI_HANDOFF_TABLES2", VariableBoot2: "EV_EFI_VARIABLE_BOOT2",
	0x80000010: "EV_EFI_HCRTM_EVENT", VariableAuthority: "EV_EFI_VARIABLE_AUTHORITY", 0x800000e1: "EV_EFI_SPDM_FIRMWARE_BLOB",
}

// String returns the TCG's name.
func (t Type) String() string {
	if s := typeNames[t]; s != "" {
		return s
	}
	return fmt.Sprintf("event type %#x", uint32(t))
}

// maxText is the length of a text in characters.
const maxText = 160

// describe sets the text from the type and the data.
func (e *Entry) describe() {
	e.Text = e.Type.String()
	detail := ""
	switch e.Type {
	case VariableConfig, VariableBoot, VariableBoot2, VariableAuthority:
		if v, err := parseMeasured(e.Data); err == nil {
			detail = fmt.Sprintf("%s, %d bytes", v.Name, len(v.Data))
		}
	case FirmwareBlob:
		if len(e.Data) == 16 {
			detail = fmt.Sprintf("firmware volume of %d bytes at %#x", binary.LittleEndian.Uint64(e.Data[8:]), binary.LittleEndian.Uint64(e.Data))
		}
	case EFIAction, Action:
		detail = string(e.Data)
	case IPL:
		detail = plainText(e.Data)
	case EventTag:
		if len(e.Data) > 8 {
			detail = plainText(e.Data[8:])
		}
	case BootApplication, BootDriver, RuntimeDriver:
		if len(e.Data) > 32 {
			detail = filePath(e.Data[32:])
		}
	}
	if detail = clip(detail); detail != "" {
		e.Text += ": " + detail
	}
}

// plainText returns the text in b, which is UTF-16LE or bytes.
func plainText(b []byte) string {
	if len(b) >= 4 && b[1] == 0 && b[3] == 0 && endsUTF16(b) {
		return DecodeUTF16(b)
	}
	return strings.TrimRight(string(b), "\x00") // what follows a zero was measured, too
}

// endsUTF16 reports whether only zeros follow the first zero of a text in UTF-16LE.
func endsUTF16(b []byte) bool {
	for i := 0; i+1 < len(b); i += 2 {
		if b[i] == 0 && b[i+1] == 0 {
			return len(bytes.Trim(b[i:], "\x00")) == 0
		}
	}
	return true
}

func clip(s string) string {
	if r := []rune(s); len(r) > maxText {
		return string(r[:maxText]) + "…"
	}
	return s
}
