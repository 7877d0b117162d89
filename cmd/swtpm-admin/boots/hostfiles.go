package boots

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
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

	maxTotal    = 4 << 30   // bytes of all files
	minWork     = 256 << 20 // bytes that may be hashed, whatever the size of the files
	workPerByte = 8         // bytes that may be hashed for each byte of a file
)

// Errors of the bounds of all files together.
var (
	errTotal = fmt.Errorf("more than %d bytes in all files", int64(maxTotal))
	errWork  = errors.New("the file describes far more content than it has")
)

// hostFile is a file of the host that gave names.
type hostFile struct {
	Path    string
	Changed time.Time // when the content or the attributes changed: the content of an installed file is older
	What    string    // such as "variable store"
}

// changed returns the later one of the two times of a file.
func changed(info fs.FileInfo) time.Time {
	t := info.ModTime()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if c := time.Unix(st.Ctim.Unix()); c.After(t) {
			return c
		}
	}
	return t
}

// Files are the files that name measurements.
type Files struct {
	*Dictionary
	Host []hostFile

	total int64 // bytes of all files
	work  int64 // bytes that were hashed
}

// read reads a file and remembers when it changed.
func (f *Files) read(path, what string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	b, err := safefile.ReadInput(path, limit)
	if err != nil {
		return nil, err
	}
	if f.total += int64(len(b)); f.total > maxTotal {
		return nil, fmt.Errorf("%s: %w", path, errTotal)
	}
	f.Host = append(f.Host, hostFile{path, changed(info), what})
	return b, nil
}

// spend accounts for n bytes that are to be hashed, and fails if they are too many for the
// files: a hostile file may describe its content many times.
func (f *Files) spend(path string, n int) error {
	if f.work += int64(n); f.work > minWork+workPerByte*f.total {
		return fmt.Errorf("%s: %w", path, errWork)
	}
	return nil
}

// walk calls add for a file, or for all files below a directory, at most maxImages. It does
// not follow symbolic links that lead out of the directory.
func walk(root string, add func(path string) error) error {
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	n := 0
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type()&^fs.ModeSymlink != 0 {
			return err
		}
		if e.Type() == fs.ModeSymlink && path != root {
			to, err := filepath.EvalSymlinks(path)
			if err != nil {
				return err
			}
			if rel, err := filepath.Rel(top, to); err != nil || !filepath.IsLocal(rel) {
				return nil
			}
			if info, err := os.Stat(to); err != nil || !info.Mode().IsRegular() {
				return err
			}
		}
		if n++; n > maxImages {
			return fmt.Errorf("%s: more than %d files", root, maxImages)
		}
		return add(path)
	})
}

// AddVariables names the measurements of the variables in a store such as OVMF_VARS.fd.
func (f *Files) AddVariables(path string) error {
	b, err := f.read(path, "variable store", maxVars)
	if err != nil {
		return err
	}
	all, err := eventlog.ParseVariables(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	origin := path
	for _, v := range all {
		text, in := variableText(v)
		n := eventName{Text: text, Source: fromFile, Origin: origin, data: v.Measured(), kind: eventlog.VariableConfig}
		f.addData(in, v.Measured(), n)
		// EDK2 measures a variable about booting by its content alone, as does shim for its own
		// variables. The content of other variables, often a single byte, is not added,
		// because it would give a wrong name to other measurements.
		n.data, n.kind = nil, 0
		f.addData(in&pcrs(1, 14), v.Data, n)
		if v.Name == "db" && v.Vendor == eventlog.SecurityDatabase {
			f.addAuthorities(v, origin)
		}
	}
	return nil
}

// variableText describes a variable, and returns the PCRs that it is measured in.
func variableText(v eventlog.Variable) (string, pcrMask) {
	switch {
	case v.Vendor == eventlog.SecurityDatabase || v.Vendor == eventlog.GlobalVariable && (v.Name == "PK" || v.Name == "KEK"):
		return fmt.Sprintf("Secure Boot variable %s: %s", v.Name, signatureText(v.Data)), pcrs(7)
	case v.Vendor == eventlog.GlobalVariable && v.Name == "BootOrder":
		var order []string
		for b := v.Data; len(b) >= 2 && len(order) < 32; b = b[2:] {
			order = append(order, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(b)))
		}
		return "boot order " + strings.Join(order, ", "), pcrs(1)
	case v.Vendor == eventlog.GlobalVariable && strings.HasPrefix(v.Name, "Boot") && len(v.Data) > 6:
		return fmt.Sprintf("boot entry %s %q", v.Name, eventlog.DecodeUTF16(v.Data[6:])), pcrs(1)
	}
	if v.Vendor == eventlog.ShimLock {
		return "shim's variable " + v.Name, pcrs(7, 14)
	}
	return fmt.Sprintf("variable %s", v.Name), pcrs(7)
}

// signatureText lists what is in a signature database.
func signatureText(b []byte) string {
	all := eventlog.ParseSignatures(b)
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
func (f *Files) addAuthorities(db eventlog.Variable, origin string) {
	for _, s := range eventlog.ParseSignatures(db.Data) {
		v := eventlog.Variable{Name: db.Name, Vendor: db.Vendor, Data: s.Measured()}
		text := "image allowed by a digest in db"
		if s.Subject != "" {
			text = "image allowed by the certificate " + s.Subject + " in db"
		}
		f.addData(pcrs(7), v.Measured(), eventName{Text: text, Source: fromFile, Origin: origin, data: v.Measured(), kind: eventlog.VariableAuthority})
	}
}

// AddFirmware names the measurements of the volumes in an image such as OVMF_CODE.fd.
func (f *Files) AddFirmware(path string) error {
	b, err := f.read(path, "firmware", maxFirmware)
	if err != nil {
		return err
	}
	all, err := eventlog.ParseFirmware(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, v := range all {
		if err := f.spend(path, len(v.Data)); err != nil {
			return err
		}
		text := fmt.Sprintf("firmware volume at %s, %d bytes", v.Path, len(v.Data))
		f.addData(pcrs(0), v.Data, eventName{Text: text, Source: fromFile, Origin: path})
	}
	return nil
}

// AddImages names the measurements of boot loaders, kernels and initrds: a file, or all
// files below a directory, such as a mounted EFI system partition.
func (f *Files) AddImages(path string) error {
	return walk(path, f.addImage)
}

func (f *Files) addImage(path string) error {
	b, err := f.read(path, "boot image", maxImage)
	if err != nil {
		return err
	}
	origin := filepath.Base(path)
	f.addData(pcrs(8, 9, 11, 12, 13), b, eventName{Text: "content of " + origin, Source: fromFile, Origin: path})
	m, err := eventlog.ParseImage(b)
	if errors.Is(err, eventlog.ErrStructure) {
		f.addGRUB(b, path)
		return nil // a configuration, an initrd
	}
	if err := f.spend(path, 2*len(b)); err != nil { // the content above, and Authenticode
		return err
	}
	f.addAuthenticode(m, "image "+origin, path)
	if s := m.Section(shimSection); s != nil {
		if err := f.addShim(s.Data, origin, path); err != nil {
			return err
		}
	}
	for _, s := range m.Sections {
		if err := f.addSection(s, origin, path); err != nil {
			return err
		}
	}
	return nil
}

func (f *Files) addAuthenticode(m *eventlog.Image, text, origin string) {
	for _, alg := range banks {
		f.addDigest(pcrs(2, 4), ledger.Digest{Alg: alg, Value: m.Authenticode(eventlog.NewHash(alg))}, eventName{Text: text, Source: fromFile, Origin: origin})
	}
}

// addSection names what a section of a unified kernel image is measured as.
func (f *Files) addSection(s eventlog.Section, image, origin string) error {
	if !slices.Contains(sections, s.Name) || len(s.Data) == 0 {
		return nil
	}
	content := s.Memory()
	if err := f.spend(origin, 2*len(content)); err != nil { // an initrd and a kernel twice
		return err
	}
	f.addData(pcrs(11), content, eventName{Text: fmt.Sprintf("content of section %s of %s", s.Name, image), Source: fromFile, Origin: origin})
	switch s.Name {
	case ".cmdline":
		text, _, _ := strings.Cut(string(content), "\x00")
		f.addCommandLine(strings.TrimRight(text, "\n"), origin)
	case ".initrd":
		f.addData(pcrs(9), content, eventName{Text: "initrd in " + image, Source: fromFile, Origin: origin})
	case ".linux":
		if m, err := eventlog.ParseImage(content); err == nil {
			f.addAuthenticode(m, "kernel in "+image, origin)
		}
	}
	return nil
}

// AddCommandLine names the measurements of a kernel command line.
func (f *Files) AddCommandLine(text string) { f.addCommandLine(text, "--cmdline") }

func (f *Files) addCommandLine(text, origin string) {
	n := eventName{Text: fmt.Sprintf("%s %q", commandLineText, text), Source: fromFile, Origin: origin}
	in := pcrs(8, 9, 11, 12)
	wide := eventlog.EncodeUTF16(text)
	for _, data := range [][]byte{append(wide, 0, 0), wide, append([]byte(text), 0), []byte(text), []byte("kernel_cmdline: " + text), append([]byte("kernel_cmdline: "+text), 0)} {
		f.addData(in, data, n)
	}
}

// AddPcrlock names measurements from a dictionary of systemd-pcrlock, or from all of them
// below a directory.
func (f *Files) AddPcrlock(path string) error {
	return walk(path, func(file string) error {
		if file != path && !strings.HasSuffix(file, ".pcrlock") {
			return nil
		}
		b, err := safefile.ReadInput(file, maxLog)
		if err != nil {
			return err
		}
		if f.total += int64(len(b)); f.total > maxTotal {
			return fmt.Errorf("%s: %w", file, errTotal)
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
				f.addDigest(pcrs(int(entries[i].Index)), digest, eventName{Text: text, Source: fromDictionary, Origin: file})
			}
		}
		return nil
	})
}
