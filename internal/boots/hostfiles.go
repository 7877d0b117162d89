package boots

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/boots/uefi"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Bounds of the files of a host.
const (
	maxVars     = 16 << 20
	maxFirmware = 64 << 20
	maxImage    = 512 << 20
	maxLog      = 64 << 20
	maxImages   = 1024 // files in a directory of images
)

// HostFile is a file of the host that gave names.
type HostFile struct {
	Path     string
	Modified time.Time
	What     string // such as "variable store"
}

// Files are the files that name measurements.
type Files struct {
	*Dictionary
	Host []HostFile
}

// read reads a file and remembers when it was modified.
func (f *Files) read(path, what string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	b, err := safefile.ReadInput(path, limit)
	if err == nil {
		f.Host = append(f.Host, HostFile{path, info.ModTime(), what})
	}
	return b, err
}

// AddVariables names the measurements of the variables in a store such as OVMF_VARS.fd.
func (f *Files) AddVariables(path string) error {
	b, err := f.read(path, "variable store", maxVars)
	if err != nil {
		return err
	}
	all, err := uefi.ParseVariables(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	origin := path
	for _, v := range all {
		text, in := variableText(v)
		n := Name{Text: text, Source: FromFile, Origin: origin, data: v.Measured(), kind: eventlog.VariableConfig}
		f.addData(in, v.Measured(), n)
		// EDK2 measures only the content of a variable that is about booting.
		n.data, n.kind = nil, 0
		f.addData(in&^pcrs(7), v.Data, n)
		if v.Name == "db" && v.Vendor == uefi.SecurityDatabase {
			f.addAuthorities(v, origin)
		}
	}
	return nil
}

// variableText describes a variable, and returns the PCRs that it is measured in.
func variableText(v uefi.Variable) (string, pcrMask) {
	switch {
	case v.Vendor == uefi.SecurityDatabase || v.Vendor == uefi.GlobalVariable && (v.Name == "PK" || v.Name == "KEK"):
		return fmt.Sprintf("Secure Boot variable %s: %s", v.Name, signatureText(v.Data)), pcrs(7)
	case v.Vendor == uefi.GlobalVariable && v.Name == "BootOrder":
		var order []string
		for b := v.Data; len(b) >= 2 && len(order) < 32; b = b[2:] {
			order = append(order, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(b)))
		}
		return "boot order " + strings.Join(order, ", "), pcrs(1)
	case v.Vendor == uefi.GlobalVariable && strings.HasPrefix(v.Name, "Boot") && len(v.Data) > 6:
		return fmt.Sprintf("boot entry %s %q", v.Name, uefi.DecodeUTF16(v.Data[6:])), pcrs(1)
	}
	return fmt.Sprintf("variable %s", v.Name), pcrs(1, 5, 7, 14)
}

// signatureText lists what is in a signature database.
func signatureText(b []byte) string {
	all := uefi.ParseSignatures(b)
	var certificates []string
	digests := 0
	for _, s := range all {
		switch {
		case s.Subject == "":
			digests++
		case len(certificates) < 8:
			certificates = append(certificates, s.Subject)
		}
	}
	text := strings.Join(certificates, ", ")
	if digests > 0 || text == "" {
		if text != "" {
			text += " and "
		}
		text += count(digests, "digest")
	}
	return text
}

// count returns a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// addAuthorities names the measurement of each entry of db that firmware makes when it
// allows an image because of that entry.
func (f *Files) addAuthorities(db uefi.Variable, origin string) {
	for _, s := range uefi.ParseSignatures(db.Data) {
		v := uefi.Variable{Name: db.Name, Vendor: db.Vendor, Data: s.Measured()}
		text := "image allowed by a digest in db"
		if s.Subject != "" {
			text = "image allowed by the certificate " + s.Subject + " in db"
		}
		f.addData(pcrs(7), v.Measured(), Name{Text: text, Source: FromFile, Origin: origin, data: v.Measured(), kind: eventlog.VariableAuthority})
	}
}

// AddFirmware names the measurements of the volumes in an image such as OVMF_CODE.fd.
func (f *Files) AddFirmware(path string) error {
	b, err := f.read(path, "firmware", maxFirmware)
	if err != nil {
		return err
	}
	all, err := uefi.ParseFirmware(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, v := range all {
		text := fmt.Sprintf("firmware volume at %s, %d bytes", v.Path, len(v.Data))
		f.addData(pcrs(0), v.Data, Name{Text: text, Source: FromFile, Origin: path})
	}
	return nil
}

// AddImages names the measurements of boot loaders, kernels and initrds: a file, or all
// files below a directory, such as a mounted EFI system partition.
func (f *Files) AddImages(path string) error {
	n := 0
	return filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if e.Type()&^fs.ModeSymlink != 0 {
			return nil
		}
		if n++; n > maxImages {
			return fmt.Errorf("%s: more than %d files", path, maxImages)
		}
		return f.addImage(path)
	})
}

func (f *Files) addImage(path string) error {
	b, err := f.read(path, "boot image", maxImage)
	if err != nil {
		return err
	}
	origin := filepath.Base(path)
	f.addData(pcrs(8, 9, 11, 12, 13), b, Name{Text: "content of " + origin, Source: FromFile, Origin: path})
	m, err := uefi.ParseImage(b)
	if errors.Is(err, uefi.ErrFormat) {
		return nil // a configuration, an initrd
	}
	f.addAuthenticode(m, "image "+origin, path)
	for _, s := range m.Sections {
		f.addSection(s, origin, path)
	}
	return nil
}

func (f *Files) addAuthenticode(m *uefi.Image, text, origin string) {
	for _, alg := range banks {
		f.addDigest(pcrs(2, 4), ledger.Digest{Alg: alg, Value: m.Authenticode(eventlog.NewHash(alg))}, Name{Text: text, Source: FromFile, Origin: origin})
	}
}

// addSection names what a section of a unified kernel image is measured as.
func (f *Files) addSection(s uefi.Section, image, origin string) {
	if !strings.HasPrefix(s.Name, ".") || len(s.Data) == 0 {
		return
	}
	content := s.Memory()
	f.addData(pcrs(11), content, Name{Text: fmt.Sprintf("content of section %s of %s", s.Name, image), Source: FromFile, Origin: origin})
	switch s.Name {
	case ".cmdline":
		text, _, _ := strings.Cut(string(content), "\x00")
		f.addCommandLine(strings.TrimRight(text, "\n"), origin)
	case ".initrd":
		f.addData(pcrs(9), content, Name{Text: "initrd in " + image, Source: FromFile, Origin: origin})
	case ".linux":
		if m, err := uefi.ParseImage(content); err == nil {
			f.addAuthenticode(m, "kernel in "+image, origin)
		}
	}
}

// AddCommandLine names the measurements of a kernel command line.
func (f *Files) AddCommandLine(text string) { f.addCommandLine(text, "--cmdline") }

func (f *Files) addCommandLine(text, origin string) {
	n := Name{Text: fmt.Sprintf("%s %q", commandLineText, text), Source: FromFile, Origin: origin}
	in := pcrs(8, 9, 11, 12)
	wide := uefi.EncodeUTF16(text)
	for _, data := range [][]byte{append(wide, 0, 0), wide, append([]byte(text), 0), []byte(text), []byte("kernel_cmdline: " + text), append([]byte("kernel_cmdline: "+text), 0)} {
		f.addData(in, data, n)
	}
}

// AddPcrlock names measurements from a dictionary of systemd-pcrlock, or from all of them
// below a directory.
func (f *Files) AddPcrlock(path string) error {
	n := 0
	return filepath.WalkDir(path, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || file != path && !strings.HasSuffix(file, ".pcrlock") {
			return err
		}
		if n++; n > maxImages {
			return fmt.Errorf("%s: more than %d files", path, maxImages)
		}
		b, err := safefile.ReadInput(file, maxLog)
		if err != nil {
			return err
		}
		entries, err := eventlog.ParsePcrlock(b)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for i := range entries {
			text := strings.TrimSuffix(filepath.Base(file), ".pcrlock")
			if entries[i].Text != "" {
				text += ": " + entries[i].Text
			}
			for _, digest := range entries[i].Digests {
				f.addDigest(pcrs(int(entries[i].Index)), digest, Name{Text: text, Source: FromDictionary, Origin: file})
			}
		}
		return nil
	})
}
