package algprofile

import "slices"

// SHA1Signatures are the signatures that a TPM 2.0 makes unless its attributes
// forbid them.
var SHA1Signatures = []Operation{RSA1024SignPSS, RSA1024SignPKCS1, RSA2048SignPSS, RSA2048SignPKCS1}

// Needed returns the operations that a running TPM 2.0 needs and that OpenSSL may refuse.
// The arguments are the enabled algorithms and attributes as libtpms reports them, words
// with commas between them.
//
// Source: swtpm 0.10, its checks after TPMLIB_MainInit.
func Needed(algorithms, attributes string) []Operation {
	var ops []Operation
	words := split(algorithms)
	if slices.Contains(words, "camellia") {
		ops = append(ops, Camellia128, Camellia256)
	}
	if slices.Contains(words, "tdes") {
		ops = append(ops, TripleDES)
	}
	not := split(attributes)
	if slices.Contains(not, "fips-host") || slices.Contains(not, "no-sha1-signing") && slices.Contains(not, "no-sha1-verification") {
		return ops
	}
	return append(ops, SHA1Signatures...)
}
