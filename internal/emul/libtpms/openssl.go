package libtpms

/*
#include "openssl.h"
#include <stdlib.h>
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/algprofile"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// refuses returns 1 if OpenSSL refuses an operation, 0 if it does not, and -1 for an unknown operation.
func refuses(op algprofile.Operation) C.int {
	switch op {
	case algprofile.Camellia128:
		return cipher("CAMELLIA-128-CBC")
	case algprofile.Camellia256:
		return cipher("CAMELLIA-256-CBC")
	case algprofile.TripleDES:
		return max(cipher("DES-EDE-CBC"), cipher("DES-EDE3-CBC"))
	case algprofile.RSAES:
		return C.swtpm_refuses_rsa_encrypt(2048, 1)
	case algprofile.NISTP192:
		return named("P-192", func(s *C.char) C.int { return C.swtpm_refuses_curve(s) })
	case algprofile.RSA1024:
		return sign(1024, "SHA256", 1)
	case algprofile.SHA1Signing, algprofile.RSA2048SignPSS:
		return sign(2048, "SHA1", 1)
	case algprofile.SHA1Verification:
		return named("SHA1", func(s *C.char) C.int { return C.swtpm_refuses_rsa_verify(2048, s) })
	case algprofile.UnpaddedEncrypt:
		return C.swtpm_refuses_rsa_encrypt(2048, 0)
	case algprofile.SHA1HMAC:
		return named("SHA1", func(s *C.char) C.int { return C.swtpm_refuses_hmac(s) })
	case algprofile.RSA1024SignPSS:
		return sign(1024, "SHA1", 1)
	case algprofile.RSA1024SignPKCS1:
		return sign(1024, "SHA1", 0)
	case algprofile.RSA2048SignPKCS1:
		return sign(2048, "SHA1", 0)
	default:
		return -1
	}
}

func named(name string, f func(*C.char) C.int) C.int {
	s := C.CString(name)
	defer C.free(unsafe.Pointer(s))
	return f(s)
}

func cipher(name string) C.int {
	return named(name, func(s *C.char) C.int { return C.swtpm_refuses_cipher(s) })
}

func sign(bits C.int, digest string, pss C.int) C.int {
	return named(digest, func(s *C.char) C.int { return C.swtpm_refuses_rsa_sign(bits, s, pss) })
}

// Refuses reports whether this host's OpenSSL refuses an operation, because of its configuration or
// in FIPS mode. A libtpms without OpenSSL 3 refuses nothing. The engine's lock must be held if
// another goroutine may use the engine.
func Refuses(op algprofile.Operation) bool { return refuses(op) > 0 }

// CheckEntropy fails if OpenSSL has no source of random numbers, as it may in a
// chroot without devices.
func CheckEntropy() error {
	if C.swtpm_entropy() == 0 {
		return errors.New("OpenSSL has no source of entropy: the kernel lacks getrandom, and /dev/urandom is missing")
	}
	return nil
}

// LoadOpenSSL makes OpenSSL read its configuration, and load the providers and modules that are named
// there, because the sandbox will not permit to open these files.
//
// Random numbers come from the kernel, except in FIPS mode.
func LoadOpenSSL() {
	if !kernelRandom() {
		C.swtpm_entropy()
	}
}

// kernelRandom makes OpenSSL take its random numbers from the kernel, and reports
// whether it does.
func kernelRandom() bool { return C.swtpm_kernel_random() == 1 }

// random fills b with random numbers of OpenSSL, and reports whether it could.
func random(b []byte) bool {
	return C.swtpm_random((*C.uchar)(&b[0]), C.int(len(b))) == 1
}

// fitOpenSSL makes OpenSSL permit the algorithms of the TPM that has just started. It fails if that
// is impossible: a TPM must not lose an algorithm that its keys need because the host's policy has
// changed. libtpms lists the algorithms of a TPM 2.0 since version 0.10.
//
// Source: swtpm 0.10, after TPMLIB_MainInit.
func (e *engine) fitOpenSSL() error {
	if e.version == tpm.V12 {
		if C.swtpm_fips() == 1 {
			return e.fipsOff("a TPM 1.2 needs algorithms that FIPS mode forbids")
		}
		return nil
	}
	needed, err := e.needed()
	if err != nil {
		return err
	}
	missing := refusedOf(needed)
	if slices.ContainsFunc(missing, isSHA1Signature) {
		e.host.Warnf("OpenSSL refuses signatures with SHA-1, which this TPM may make: Setting OPENSSL_ENABLE_SHA1_SIGNATURES=1")
		C.swtpm_allow_sha1()
		missing = refusedOf(needed)
	}
	if len(missing) > 0 && C.swtpm_fips() == 1 {
		if err := e.fipsOff(fmt.Sprintf("it forbids algorithms that this TPM has enabled: %s", list(missing))); err != nil {
			return err
		}
		missing = refusedOf(needed)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s: %w", errRefused, list(missing), tpm.Fail)
	}
	return nil
}

// errRefused means that the host's OpenSSL rejects an algorithm that the TPM has enabled.
//
// Compat: C-224: the words in the middle are the same as in swtpm 0.10.
var errRefused = errors.New("need to start with modified OpenSSL config file to enable all needed algorithms; refused are")

// needed returns the operations of OpenSSL that the running TPM needs.
func (e *engine) needed() ([]algprofile.Operation, error) {
	const infoAlgorithms, infoAttributes = 0x08, 0x80 // TPMLIB_INFO_RUNTIME_*
	text, err := e.Info(infoAlgorithms | infoAttributes)
	if err != nil {
		return nil, err
	}
	algorithms, attributes, err := enabledLists(text)
	if err != nil {
		return nil, fmt.Errorf("libtpms: TPMLIB_GetInfo: %w: %w", err, tpm.Fail)
	}
	if algorithms == "" {
		return nil, nil // libtpms before 0.10
	}
	return algprofile.Needed(algorithms, attributes), nil
}

// enabledLists returns the algorithms and the attributes that the TPM has enabled; info is the
// information that libtpms returned. Package json is used only if the text is not written as libtpms 0.10
// writes it, because a decoder costs each TPM memory.
func enabledLists(info string) (algorithms, attributes string, err error) {
	if algorithms, attributes, ok := writtenLists(info); ok || info == "{}" {
		return algorithms, attributes, nil
	}
	var v struct{ RuntimeAlgorithms, RuntimeAttributes struct{ Enabled string } }
	err = json.Unmarshal([]byte(info), &v)
	return v.RuntimeAlgorithms.Enabled, v.RuntimeAttributes.Enabled, err
}

// writtenLists returns the lists of a text that libtpms 0.10 wrote: two objects whose members are strings, without
// blanks between them and without escapes. ok is false for all other texts.
//
// Source: libtpms 0.10, src/tpm2/RuntimeAlgorithm.c and RuntimeAttributes.c.
func writtenLists(info string) (algorithms, attributes string, ok bool) {
	object, begins := strings.CutPrefix(info, `{"RuntimeAlgorithms":{"`)
	object, ends := strings.CutSuffix(object, `"}}`)
	first, second, both := strings.Cut(object, `"},"RuntimeAttributes":{"`)
	if !begins || !ends || !both || strings.ContainsFunc(object, isEscape) {
		return "", "", false
	}
	algorithms, found := enabledList(first)
	attributes, foundToo := enabledList(second)
	if !found || !foundToo {
		return "", "", false
	}
	return algorithms, attributes, true
}

// isEscape reports whether the decoder may replace or refuse c in a string.
func isEscape(c rune) bool { return c < ' ' || c > '~' || c == '\\' }

// enabledList returns the member Enabled of object, which is the text between the first and the last quote of
// an object. found is false if a member is no string, and if Enabled is missing or exists twice.
func enabledList(object string) (list string, found bool) {
	for more := true; more; {
		var member string
		member, object, more = strings.Cut(object, `","`)
		name, value, isString := strings.Cut(member, `":"`)
		if !isString || strings.Contains(name, `"`) || strings.Contains(value, `"`) {
			return "", false
		}
		if !strings.EqualFold(name, "Enabled") { // the decoder ignores case
			continue
		}
		if found {
			return "", false
		}
		list, found = value, true
	}
	return list, found
}

// fipsOff turns OpenSSL's FIPS mode off for this process, and logs that.
func (e *engine) fipsOff(why string) error {
	e.host.Warnf("turning OpenSSL's FIPS mode off for this TPM: %s", why)
	if C.swtpm_fips_off() != 1 {
		return fmt.Errorf("could not turn OpenSSL's FIPS mode off: %w", tpm.Fail)
	}
	return nil
}

func refusedOf(ops []algprofile.Operation) (out []algprofile.Operation) {
	for _, op := range ops {
		if Refuses(op) {
			out = append(out, op)
		}
	}
	return out
}

func isSHA1Signature(op algprofile.Operation) bool {
	return slices.Contains(algprofile.SHA1Signatures, op)
}

func list(ops []algprofile.Operation) string {
	words := make([]string, len(ops))
	for i, op := range ops {
		words[i] = string(op)
	}
	return strings.Join(words, ", ")
}
