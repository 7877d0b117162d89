package seal

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Source is the source and the format of a key.
type Source struct {
	Path       string // file; has precedence over FD
	FD         int    // descriptor, used if Path is ""; closed after reading
	Passphrase bool   // a passphrase, from which KDF derives the key; otherwise the key itself
	Hex        bool   // the key in hex digits; else its raw bytes
	KDF        string // "pbkdf2" or "sha512"
	Bits       int    // 128 or 256
	Remove     bool   // remove the file after reading
}

const (
	// maxKey is the largest number of bytes that are read of a key: "0x", 64
	// digits, newline.
	maxKey = 67

	// maxPassphrase is the size in bytes of the longest passphrase. The
	// reference has no limit; ours bounds the memory that is locked.
	maxPassphrase = 64 << 10

	// shortPassphrase is the largest size of a passphrase that causes a warning.
	shortPassphrase = 6
)

// The parameters of pbkdf2, fixed by the format of the state.
//
// Source: swtpm, src/swtpm/key.c, key_load_pwd.
const (
	pbkdf2Salt       = "swtpm"
	pbkdf2Iterations = 1000
)

// ReadKey reads a key, or a passphrase from which it derives the key. It reads into locked
// memory, which it overwrites before it returns. It reads a descriptor to its end, however
// slow the writer of a pipe is, and closes it. Key.Warnings has warnings for the user.
//
// A file must be a regular one, because opening a FIFO may block for ever, as it does in the
// reference; a pipe is passed with FD. A link to a file is followed, because the user who names
// the key file owns the configuration, and secret stores create links.
//
// The bytes are interpreted as by the reference:
//
//   - hex: at most 67 bytes; "0x" or not; digits up to a blank, NUL or the end;
//     32 digits for 128 bits, 64 for 256.
//   - raw: at most 67 bytes, as many as the key has. 16 bytes are a key of 128
//     bits even if Bits is 256.
//   - passphrase: all bytes, including a newline at the end.
func ReadKey(src Source) (*Key, error) {
	k, err := readKey(src)
	if err != nil {
		return nil, fmt.Errorf("seal: %s: %w", src.name(), err)
	}
	return k, nil
}

func readKey(src Source) (k *Key, err error) {
	if err := src.check(); err != nil {
		return nil, err
	}
	fd, size, err := src.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	in, err := newPage(size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	n, err := readFull(fd, in.b)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	out, err := newPage(src.Bits / 8)
	if err != nil {
		return nil, err
	}
	if err := src.decode(out, in.b[:n]); err != nil {
		return nil, errors.Join(err, out.close())
	}
	k = &Key{page: out, warnings: out.warnings}
	if src.Passphrase && n <= shortPassphrase {
		k.warnings = append(k.warnings, fmt.Sprintf("%s: the passphrase is short: %d bytes", src.name(), n))
	}
	if src.Remove && src.Path != "" {
		if err := unix.Unlink(src.Path); err != nil {
			k.warnings = append(k.warnings, fmt.Sprintf("%s: could not be removed: %v", src.name(), err))
		}
	}
	return k, nil
}

// name returns the description of the source for messages.
func (src Source) name() string {
	what := "key"
	if src.Passphrase {
		what = "passphrase"
	}
	if src.Path != "" {
		return fmt.Sprintf("%s file %q", what, src.Path)
	}
	return fmt.Sprintf("%s fd %d", what, src.FD)
}

// check checks the parameters before anything is read.
func (src Source) check() error {
	switch {
	case src.Bits != 128 && src.Bits != 256:
		return fmt.Errorf("a key of %d bits; AES takes 128 or 256", src.Bits)
	case src.Passphrase && src.KDF != "pbkdf2" && src.KDF != "sha512":
		return fmt.Errorf("kdf %q is neither pbkdf2 nor sha512", src.KDF)
	}
	return nil
}

// open returns the descriptor to read from, and the largest number of bytes to read: for a
// passphrase one more than allowed.
func (src Source) open() (fd, size int, err error) {
	size = maxKey
	if src.Passphrase {
		size = maxPassphrase + 1
	}
	if src.Path == "" {
		return src.FD, size, nil
	}
	// Without O_NONBLOCK the open of a FIFO would block.
	fd, err = unix.Open(src.Path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("open: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, 0, errors.New("not a regular file; pass a pipe as a descriptor, with fd= or pwdfd=")
	}
	return fd, size, nil
}

// readFull reads from fd until b is full or at the end, and returns the number of bytes. It
// waits for a descriptor that does not block.
func readFull(fd int, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
				return n, err
			}
		case err != nil:
			return n, err
		case m == 0:
			return n, nil
		default:
			n += m
		}
	}
	return n, nil
}

// decode writes the key that b contains, or that is derived from it, into out, which it
// shortens to the key's size.
func (src Source) decode(out *page, b []byte) error {
	switch {
	case src.Passphrase && len(b) > maxPassphrase:
		return fmt.Errorf("a passphrase of more than %d bytes", maxPassphrase)
	case src.Passphrase:
		erase(func() { derive(out.b, b, src.KDF) })
		return nil
	case src.Hex:
		return decodeHex(out.b, b)
	}
	switch {
	case len(b) == len(out.b):
	case len(b) == 16:
		// Compat: C-245: swtpm takes these 16 bytes for a key of 128 bits.
		out.b = out.b[:16:16]
	default:
		return fmt.Errorf("a key of %d bytes, aes-%d-cbc takes %d", len(b), 8*len(out.b), len(out.b))
	}
	copy(out.b, b)
	return nil
}

// decodeHex decodes the hex digits in b into key. Its errors contain no digit, because that
// would be part of a secret.
func decodeHex(key, b []byte) error {
	b = b[:min(len(b), maxKey)]
	if len(b) >= 2 && b[0] == '0' && b[1] == 'x' {
		b = b[2:]
	}
	n := 0
	for n < len(b) && !isEnd(b[n]) {
		n++
	}
	switch {
	case n != 32 && n != 64:
		return fmt.Errorf("%d hex digits; a key has 32 for aes-128-cbc or 64 for aes-256-cbc", n)
	case n != 2*len(key):
		return fmt.Errorf("%d hex digits are not a key for aes-%d-cbc; choose the cipher aes-%d-cbc or another key", n, 8*len(key), 4*n)
	}
	if _, err := hex.Decode(key, b[:n]); err != nil {
		return errors.New("invalid hex digit")
	}
	return nil
}

// isEnd reports whether c ends a sequence of hex digits: NUL, or a blank as in C.
func isEnd(c byte) bool {
	return c == 0 || c == ' ' || c >= '\t' && c <= '\r'
}

// derive derives key from pass with kdf. It does not copy the passphrase: crypto/pbkdf2
// needs a string, which cannot be wiped.
func derive(key, pass []byte, kdf string) {
	var sum [sha512.Size]byte
	defer Wipe(sum[:])
	if kdf == "sha512" {
		sum = sha512.Sum512(pass)
		copy(key, sum[:])
		_ = sha512.Sum512(make([]byte, len(pass))) // overwrite the remains of the first on the stack
		return
	}
	// RFC 8018, 5.2: one block is enough, because no key is longer than a hash.
	m := newMAC(sha512.New) // one for all iterations: each allocation would cost a page fault now and then
	defer m.forget()
	m.into(sum[:], pass, []byte(pbkdf2Salt), []byte{0, 0, 0, 1})
	copy(key, sum[:])
	for range pbkdf2Iterations - 1 {
		m.into(sum[:], pass, sum[:])
		for i := range key {
			key[i] ^= sum[i]
		}
	}
}
