package tpm

import (
	"errors"
	"fmt"
)

// Result is a TPM_RESULT: 0 for success, otherwise the reason for a failure. A nonzero Result
// is an error.
//
// Source: libtpms/tpm_error.h.
type Result uint32

// The results that the emulator itself returns or checks.
const (
	Success         Result = 0x00
	BadParameter    Result = 0x03
	Fail            Result = 0x09
	BadOrdinal      Result = 0x0A
	KeyNotFound     Result = 0x0D
	Size            Result = 0x17
	BadParamSize    Result = 0x19
	IOError         Result = 0x1F
	EncryptError    Result = 0x20
	DecryptError    Result = 0x21
	InvalidPostInit Result = 0x26
	BadKeyProperty  Result = 0x28
	BadDataSize     Result = 0x2B
	BadVersion      Result = 0x2E
	BadType         Result = 0x34
	BadLocality     Result = 0x3D
	Retry           Result = 0x800

	// TPM 2.0 response codes.
	RCInsufficient Result = 0x9A
	RCInitialize   Result = 0x100
	RCFailure      Result = 0x101
	RCLocality     Result = 0x107

	// RCNVUnavailable is a warning: the command needs the NV memory, which
	// cannot be written now. The TPM is as if the command had not been sent.
	RCNVUnavailable Result = 0x923
	RCRetry         Result = 0x922 // the TPM cannot run the command now; the same command may succeed later
	RCNVRate        Result = 0x920 // too many writes of NV memory; the same command may succeed later
)

var resultNames = [...]struct {
	result Result
	name   string
}{
	{BadParameter, "TPM_BAD_PARAMETER"},
	{Fail, "TPM_FAIL"},
	{BadOrdinal, "TPM_BAD_ORDINAL"},
	{KeyNotFound, "TPM_KEYNOTFOUND"},
	{Size, "TPM_SIZE"},
	{BadParamSize, "TPM_BAD_PARAM_SIZE"},
	{IOError, "TPM_IOERROR"},
	{EncryptError, "TPM_ENCRYPT_ERROR"},
	{DecryptError, "TPM_DECRYPT_ERROR"},
	{InvalidPostInit, "TPM_INVALID_POSTINIT"},
	{BadKeyProperty, "TPM_BAD_KEY_PROPERTY"},
	{BadDataSize, "TPM_BAD_DATASIZE"},
	{BadVersion, "TPM_BAD_VERSION"},
	{BadType, "TPM_BAD_TYPE"},
	{BadLocality, "TPM_BAD_LOCALITY"},
	{Retry, "TPM_RETRY"},
	{RCInsufficient, "TPM_RC_INSUFFICIENT"},
	{RCInitialize, "TPM_RC_INITIALIZE"},
	{RCFailure, "TPM_RC_FAILURE"},
	{RCLocality, "TPM_RC_LOCALITY"},
	{RCNVUnavailable, "TPM_RC_NV_UNAVAILABLE"},
	{RCNVRate, "TPM_RC_NV_RATE"},
	{RCRetry, "TPM_RC_RETRY"},
}

// Error returns the name of the result: "TPM_RESULT 0x9 (TPM_FAIL)".
func (r Result) Error() string {
	for _, n := range resultNames {
		if n.result == r {
			return fmt.Sprintf("TPM_RESULT 0x%x (%s)", uint32(r), n.name)
		}
	}
	return fmt.Sprintf("TPM_RESULT 0x%x", uint32(r))
}

// Err returns r as an error, nil for Success.
func (r Result) Err() error {
	if r == Success {
		return nil
	}
	return r
}

// ResultOf returns the Result that a client gets for err: Success for nil, the Result in
// the chain of err if it has one, otherwise Fail.
func ResultOf(err error) Result {
	if err == nil {
		return Success
	}
	if r, ok := errors.AsType[Result](err); ok {
		return r
	}
	return Fail
}
