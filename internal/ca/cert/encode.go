package cert

import (
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math"
)

// AddHeader returns der in the format of the NVRAM of a TPM 1.2:
//
//	off len field
//	  0   2 tag       0x1001, TCG_TAG_PCCLIENT_STORED_CERT
//	  2   1 certType  0, TCG_FULL_CERT
//	  3   2 certSize  bytes that follow
//	  5   2 tag       0x1002, TCG_TAG_PCCLIENT_FULL_CERT
//	  7     der
//
// all of it big-endian.
//
// Source: TCG PC Client Specific Implementation Specification for Conventional
// BIOS, 7.3.2.
func AddHeader(der []byte) ([]byte, error) {
	if len(der)+2 > math.MaxUint16 {
		return nil, fmt.Errorf("a certificate of %d bytes does not fit into the NVRAM of a TPM 1.2", len(der))
	}
	b := []byte{0x10, 0x01, 0x00}
	b = binary.BigEndian.AppendUint16(b, uint16(len(der)+2))
	return append(append(b, 0x10, 0x02), der...), nil
}

// PEM returns a certificate in PEM.
func PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ListPEM returns a revocation list in PEM.
func ListPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}
