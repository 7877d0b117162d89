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

// readKeyFile reads the file at path. It must be regular, and only its owner and group may
// read it. It warns if the group may, as in the files that swtpm_localca creates.
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
		return nil, fmt.Errorf("it has %d bytes, a key has less", info.Size())
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o027 != 0:
		return nil, fmt.Errorf("its mode is %#o, so others than its owner may use or change the key: chmod 0600 %s", mode, path)
	case mode&0o040 != 0 && warn != nil:
		warn(fmt.Sprintf("The signing key %s may be read by its group, its mode is %#o; chmod 0600 would keep it to its owner.", path, mode))
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
