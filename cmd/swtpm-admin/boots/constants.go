package boots

import (
	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
)

// Beginnings of names, by which other names are found.
const (
	versionText     = "version of the firmware"
	sectionText     = "name of section "
	commandLineText = "kernel command line"
)

// actions are texts that firmware measures without any header.
//
// Source: TCG PC Client Platform Firmware Profile 1.06, 10.4.4; SeaBIOS, src/tcgbios.c;
// EDK2, SecurityPkg.
var actions = map[string]pcrMask{
	"Calling EFI Application from Boot Option":        pcrs(4),
	"Returning from EFI Application from Boot Option": pcrs(4),
	"Exit Boot Services Invocation":                   pcrs(5),
	"Exit Boot Services Returned with Success":        pcrs(5),
	"Exit Boot Services Returned with Failure":        pcrs(5),
	"Calling INT 19h":                                 pcrs(4),
	"Returned INT 19h":                                pcrs(4),
	"Returned via INT 18h":                            pcrs(4),
	"Start Option ROM Scan":                           pcrs(2),
	"DMA Protection Disabled":                         pcrs(7),
	"UEFI Debug Mode":                                 pcrs(7),
}

// sections are the sections of a unified kernel image whose names and contents systemd-stub
// measures in PCR 11.
//
// Source: systemd, src/fundamental/uki.c.
var sections = []string{
	".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto", ".hwids", ".uname", ".sbat", ".pcrpkey", ".profile", ".efifw",
}

// phases are what systemd-pcrphase measures in PCR 11.
//
// Source: systemd-pcrphase.service(8).
var phases = []string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}

// addConstants adds the measurements that have the same digest on every machine.
func (d *Dictionary) addConstants() {
	constant := func(in pcrMask, data []byte, kind eventlog.Type, text string) {
		d.addData(in, data, eventName{Text: text, Source: fromConstant, data: data, kind: kind})
	}
	early := pcrs(0, 1, 2, 3, 4, 5, 6, 7)
	constant(early|pcrs(8, 9, 10, 11, 12, 13, 14, 15), make([]byte, 4), eventlog.Separator, "separator")
	constant(early, []byte{0xff, 0xff, 0xff, 0xff}, eventlog.Separator, "separator")
	constant(early, []byte{1, 0, 0, 0}, eventlog.Separator, "separator after an error")
	for text, in := range actions {
		constant(in, []byte(text), eventlog.EFIAction, `"`+text+`"`)
	}
	constant(pcrs(0), []byte{0, 0}, eventlog.CRTMVersion, versionText+": empty")
	for _, s := range sections {
		d.addData(pcrs(11), append([]byte(s), 0), eventName{Text: sectionText + s, Source: fromConstant})
	}
	for _, s := range phases {
		d.addData(pcrs(11), []byte(s), eventName{Text: "systemd's boot phase " + s, Source: fromConstant})
	}
	for i, text := range []string{"off", "on"} {
		v := eventlog.Variable{Name: "SecureBoot", Vendor: eventlog.GlobalVariable, Data: []byte{byte(i)}}
		constant(pcrs(7), v.Measured(), eventlog.VariableConfig, "Secure Boot "+text)
	}
	for _, name := range append([]string{"dbt", "dbr"}, secureBoot[1:]...) {
		v := eventlog.Variable{Name: name, Vendor: vendorOf(name)}
		constant(pcrs(7), v.Measured(), eventlog.VariableConfig, "Secure Boot variable "+name+": empty")
	}
	constant(pcrs(14), []byte{1}, 0, "a setting of shim that is on, such as MokListTrusted")
	d.addData(anyPCR, nil, eventName{Text: "empty event", Source: fromConstant})
}

// vendorOf returns the namespace of a Secure Boot variable.
func vendorOf(name string) eventlog.GUID {
	if name == "PK" || name == "KEK" || name == "SecureBoot" {
		return eventlog.GlobalVariable
	}
	return eventlog.SecurityDatabase
}
