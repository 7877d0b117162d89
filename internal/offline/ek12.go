package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
)

// handle12 is TPM_KH_EK, the handle of the endorsement key of a TPM 1.2.
const handle12 = "0x40000006"

// readEK12 returns the endorsement key of a TPM 1.2 from its permanent state, none if it was
// not created.
func readEK12(permanent []byte) ([]EK, error) {
	found, err := payload.EndorsementOf12(permanent)
	if err != nil {
		return nil, err
	}
	if found.Modulus == nil {
		return []EK{}, nil
	}
	exponent := bytes.TrimLeft(found.Exponent, "\x00")
	if len(exponent) < 4 { // as in a TPMT_PUBLIC
		exponent = padded(exponent, 4)
	}
	k := newEK(fmt.Sprintf("rsa%d", len(found.Modulus)*8), rsaInfo(found.Modulus, exponent))
	k.Handle = handle12
	if found.Stored != nil {
		cert, err := storedCert12(found.Stored)
		if err != nil {
			return nil, fmt.Errorf("the certificate in 0x1000f000: %w", err)
		}
		k.Certificate = pemText("CERTIFICATE", cert)
	}
	return []EK{k}, nil
}

// storedCert12 returns the certificate, DER, in an NV index, which may be longer.
//
//	0  2 0x1001 TCG_TAG_PCCLIENT_STORED_CERT
//	2  1 0      TCG_PCCLIENT_FULL_CERT
//	3  2        number of the following bytes
//	5  2 0x1002 TCG_TAG_PCCLIENT_FULL_CERT
//	7           the certificate
//
// Source: TCG PC Client Specific Implementation Specification 1.21, 7.4.5.
func storedCert12(b []byte) ([]byte, error) {
	const before, inner = 5, 2
	if len(b) < before+inner || !bytes.Equal(b[:3], []byte{0x10, 0x01, 0}) || !bytes.Equal(b[before:before+inner], []byte{0x10, 0x02}) {
		return nil, errors.New("unexpected header of the certificate")
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	if n <= inner || n > len(b)-before {
		return nil, fmt.Errorf("its length is %d, but %d bytes follow", n, len(b)-before)
	}
	return b[before+inner : before+n], nil
}
