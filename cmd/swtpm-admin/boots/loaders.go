package boots

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
)

// shimSection is the section of shim with its built-in keys.
const shimSection = ".vendor_cert"

// addShim names the measurements of the keys that are built into shim: in PCR 14 the lists of
// allowed and denied keys, and in PCR 7 the key that allowed the next boot loader.
//
// Source: shim, cert.S (the section: u32 size of the allowed keys, u32 size of the denied ones, u32
// offset of each in the section), mok.c, shim.c.
func (f *Files) addShim(section []byte, image, path string) error {
	const fixed = 16
	part := func(i int) []byte {
		size, at := uint64(binary.LittleEndian.Uint32(section[4*i:])), uint64(binary.LittleEndian.Uint32(section[8+4*i:]))
		if at+size > uint64(len(section)) {
			return nil
		}
		return section[at : at+size]
	}
	if len(section) < fixed {
		return nil
	}
	if err := f.spend(path, 4*len(section)); err != nil {
		return err
	}
	name := func(format string, args ...any) eventName {
		return eventName{Text: fmt.Sprintf(format, args...), Source: fromFile, Origin: path}
	}
	allowed, denied := part(0), part(1)
	keys := eventlog.ParseSignatures(allowed)
	if len(keys) == 0 && len(allowed) > 0 { // one certificate, which shim puts in a list
		allowed = eventlog.AppendCertificate(nil, eventlog.ShimLock, allowed)
		keys = eventlog.ParseSignatures(allowed)
	}
	if len(allowed) > 0 {
		f.addData(pcrs(14), allowed, name("shim's list MokList as %s has it: %s", image, signatureText(allowed)))
	}
	if len(denied) > 0 {
		f.addData(pcrs(14), denied, name("shim's list MokListX as %s has it: %s", image, signatureText(denied)))
	}
	for _, s := range keys {
		n := name("image allowed by the certificate %s in %s", s.Subject, image)
		if s.Subject == "" {
			n.Text = "image allowed by a digest in " + image
		}
		v := eventlog.Variable{Name: "MokListRT", Vendor: eventlog.ShimLock, Data: s.Measured()}
		n.data, n.kind = v.Measured(), eventlog.VariableAuthority
		f.addData(pcrs(7), v.Measured(), n)
	}
	return nil
}

// Bounds of a configuration of GRUB.
const (
	maxConfig = 1 << 20
	maxLines  = 10000
)

// addGRUB names the commands of a configuration of GRUB and the command line of a kernel, which
// GRUB measures in PCR 8. GRUB's log has a prefix before each command, which is not measured. GRUB
// measures a line after it has replaced variables and quotes, so a line with them gets no name.
//
// Source: GRUB, grub-core/commands/tpm.c.
func (f *Files) addGRUB(b []byte, path string) {
	if !strings.HasSuffix(path, ".cfg") || len(b) > maxConfig {
		return
	}
	lines := 0
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if lines++; lines > maxLines {
			return
		}
		if len(words) == 0 || words[0][0] == '#' || strings.ContainsAny(line, "$\"'\\{};|&<>") {
			continue
		}
		text := strings.Join(words, " ")
		f.addData(pcrs(8), []byte(text), eventName{Text: "GRUB command: " + text, Source: fromFile, Origin: path})
		if words[0] == "linux" || words[0] == "linuxefi" {
			text = strings.Join(words[1:], " ")
			f.addData(pcrs(8), []byte(text), eventName{Text: fmt.Sprintf("%s of GRUB: %q", commandLineText, text), Source: fromFile, Origin: path})
		}
	}
}
