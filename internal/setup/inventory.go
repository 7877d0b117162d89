package setup

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// inventoryEntry is a line of the inventory, the list of TPM certificates: one JSON object
// per line, in a file to which any number of processes append.
type inventoryEntry struct {
	Time time.Time `json:"time"` // of the entry, UTC
	VM   string    `json:"vm"`   // name of the virtual machine; "" for none
	UUID string    `json:"uuid"` // UUID of the virtual machine; "" for none
	Type string    `json:"type"` // ek, platform, iak or idevid
	Key  string    `json:"key"`  // algorithm of the key: rsa2048, secp384r1 and so on

	// Fingerprint is the SHA-256 of the key's SubjectPublicKeyInfo, in hex.
	Fingerprint string `json:"fingerprint"`

	// Issuer, Serial and Certificate describe the certificate: its issuer in the
	// format of RFC 2253, its serial number in hex, and its SHA-256. They are "" for
	// a key without a certificate.
	Issuer      string `json:"issuer"`
	Serial      string `json:"serial"`
	Certificate string `json:"certificate"`
}

// splitVMID splits the --vmid of libvirt and others, NAME:UUID. Without a UUID at its end,
// all of it is the name.
func splitVMID(vmid string) (name, uuid string) {
	i := strings.LastIndexByte(vmid, ':')
	if isUUID(vmid[i+1:]) {
		return vmid[:max(i, 0)], vmid[i+1:]
	}
	return vmid, ""
}

// isUUID reports whether s has the format of RFC 9562, 4.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}

// describe sets the fields that describe a certificate: DER or, from a TPM 1.2, DER after
// a header of seven bytes.
func (e *inventoryEntry) describe(cert []byte) error {
	if bytes.HasPrefix(cert, []byte{0x10, 0x01, 0x00}) && len(cert) > 7 {
		cert = cert[7:]
	}
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	key, whole := sha256.Sum256(c.RawSubjectPublicKeyInfo), sha256.Sum256(c.Raw)
	e.Fingerprint = hex.EncodeToString(key[:])
	e.Certificate = hex.EncodeToString(whole[:])
	e.Issuer = c.Issuer.String()
	e.Serial = fmt.Sprintf("%02x", c.SerialNumber.Bytes())
	return nil
}

// describeKey sets the fingerprint of a key without a certificate, an *rsa.PublicKey or
// *ecdsa.PublicKey.
func (e *inventoryEntry) describeKey(key any) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	sum := sha256.Sum256(der)
	e.Fingerprint = hex.EncodeToString(sum[:])
	return nil
}

// line returns the entry as a line with a newline.
func (e *inventoryEntry) line() ([]byte, error) {
	b, err := json.Marshal(e)
	return append(b, '\n'), err
}

// appendInventory appends all or none of the entries to the file at path and syncs it. It
// creates a missing file with mode 0640 and the umask. If a power failure or a full disk has left
// an incomplete last line, it ends that line first, so that no other line is damaged.
func appendInventory(path string, entries ...inventoryEntry) error {
	var lines bytes.Buffer
	for _, e := range entries {
		b, err := e.line()
		if err != nil {
			return fmt.Errorf("inventory: %w", err)
		}
		lines.Write(b)
	}
	dir, err := safefile.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	defer dir.Close()
	file, err := dir.OpenOrCreate(filepath.Base(path), 0o640)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	err = appendTo(file.File, lines.Bytes())
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("inventory %q: %w", path, err)
	}
	return dir.Sync()
}

// lockInventory locks the file. It fails after a minute, because other processes hold the lock
// only for one write.
func lockInventory(file *os.File) error {
	limit := time.Now().Add(time.Minute)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return fmt.Errorf("lock: %w", err)
		case time.Now().After(limit):
			return errors.New("lock: another process has held it for a minute")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// appendTo locks the file and appends lines to it.
func appendTo(file *os.File, lines []byte) error {
	if err := lockInventory(file); err != nil {
		return err
	}
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	end := fi.Size()
	if end > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, end-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			lines = append([]byte{'\n'}, lines...)
		}
	}
	if _, err := file.WriteAt(lines, end); err != nil {
		return errors.Join(err, file.Truncate(end)) // remove half a line
	}
	return file.Sync()
}
