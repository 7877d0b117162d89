package signer

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// defaultTCTI is the TPM of the host, with the resource manager of the kernel.
const defaultTCTI = "device:/dev/tpmrm0"

// dialTPM connects to a TPM 2.0:
//
//	device:PATH                    a character device
//	swtpm:path=PATH                the data channel of an emulator, Unix
//	swtpm:host=HOST,port=PORT      the same, TCP; by default 127.0.0.1 and 2321
//
// "" means defaultTCTI, and a path without a prefix means a device.
func dialTPM(tcti string) (transport.TPMCloser, error) {
	if tcti == "" {
		tcti = defaultTCTI
	}
	network, address, err := parseTCTI(tcti)
	if err != nil {
		return nil, err
	}
	if network == "" {
		f, err := os.OpenFile(address, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, fmt.Errorf("TPM %q: %w", tcti, err)
		}
		return &tpmConn{f}, nil
	}
	c, err := net.Dial(network, address)
	if err != nil {
		return nil, fmt.Errorf("TPM %q: %w", tcti, err)
	}
	return &tpmConn{c}, nil
}

// parseTCTI returns the network and the address of a TPM for net.Dial. If network is "", the
// address is the path of a device.
func parseTCTI(tcti string) (network, address string, err error) {
	if strings.HasPrefix(tcti, "/") {
		return "", tcti, nil
	}
	name, conf, _ := strings.Cut(tcti, ":")
	switch {
	case name == "device" && conf == "":
		return "", "/dev/tpmrm0", nil
	case name == "device":
		return "", conf, nil
	case name != "swtpm":
		return "", "", fmt.Errorf("TPM %q is neither device:PATH nor swtpm:…", tcti)
	}
	host, port := "127.0.0.1", "2321"
	for _, word := range strings.FieldsFunc(conf, func(r rune) bool { return r == ',' }) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "path":
			return "unix", value, nil
		case "host":
			host = value
		case "port":
			port = value
		default:
			return "", "", fmt.Errorf("TPM %q: %q is not known", tcti, word)
		}
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

// tpmConn is a connection to a TPM.
type tpmConn struct{ io.ReadWriteCloser }

// maxResponse is the size limit of a response in bytes.
const maxResponse = 4096

// Send implements transport.TPM. A response begins with a tag of 2 bytes and its size in 4
// bytes.
func (c *tpmConn) Send(cmd []byte) ([]byte, error) {
	if _, err := c.Write(cmd); err != nil {
		return nil, err
	}
	rsp := make([]byte, maxResponse)
	for n := 0; ; {
		m, err := c.Read(rsp[n:])
		n += m
		if n >= 6 {
			size := int(binary.BigEndian.Uint32(rsp[2:]))
			if size < 10 || size > maxResponse || n > size {
				return nil, fmt.Errorf("a response of %d bytes whose header says %d", n, size)
			}
			if n == size {
				return rsp[:n], nil
			}
		}
		if err == io.EOF || m == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
	}
}
