package signer

import (
	"fmt"
	"io"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// maxFile is the size limit of a file with a key or a certificate in bytes.
const maxFile = 1 << 20

// openFile returns the key in the PEM file of s.
func openFile(s Source) (*Key, error) {
	text, err := readKeyFile(s.Key, s.Warn)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	if der := tssBlock(text); der != nil {
		return openTSS(s, der)
	}
	key, err := ParsePEM(text, s.Password)
	if err != nil {
		return nil, err
	}
	return &Key{Signer: key}, nil
}

// readKeyFile reads the file at path. It must be a regular file that only its owner and group may
// read. If the group may read it, as the files that swtpm_localca creates, readKeyFile warns.
func readKeyFile(path string, warn func(string)) ([]byte, error) {
	f, info, err := safefile.OpenInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch {
	case !info.Mode().IsRegular():
		return nil, safefile.ErrType
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%d bytes are too many for a key", info.Size())
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o027 != 0:
		return nil, fmt.Errorf("its mode is %#o, so users other than the owner can use or change the key: chmod 0600 %s", mode, path)
	case mode&0o040 != 0 && warn != nil:
		warn(fmt.Sprintf("The mode of the signing key %s is %#o, so its group can read the key; chmod 0600 prevents that.", path, mode))
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
