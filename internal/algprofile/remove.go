package algprofile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Operation is something that a host's OpenSSL may refuse.
type Operation string

// The operations that RemoveDisabled asks about, and those that Needed returns.
const (
	Camellia128      Operation = "camellia-128"
	Camellia256      Operation = "camellia-256"
	TripleDES        Operation = "tdes"
	RSAES            Operation = "rsaes"          // RSA encryption with PKCS#1 padding
	NISTP192         Operation = "ecc-nist-p192"  // a key on that curve
	RSA1024          Operation = "rsa-1024"       // a signature by a key of this size
	SHA1Signing      Operation = "sha1-signing"   // by RSA-PSS with 2048 bits
	SHA1Verification Operation = "sha1-verifying" // the same
	UnpaddedEncrypt  Operation = "unpadded-rsa"   // RSA encryption without padding
	SHA1HMAC         Operation = "sha1-hmac"      // HMAC with SHA-1
	RSA1024SignPSS   Operation = "RSA-1024-sign(SHA1, pkcs1-pss)"
	RSA1024SignPKCS1 Operation = "RSA-1024-sign(SHA1, pkcs1)"
	RSA2048SignPSS   Operation = "RSA-2048-sign(SHA1, pkcs1-pss)"
	RSA2048SignPKCS1 Operation = "RSA-2048-sign(SHA1, pkcs1)"
)

// removable are the words that are removed from the algorithms if one of the
// operations is refused. A word that ends in = stands for all that begin with it.
var removable = []struct {
	word string
	ops  []Operation
}{
	{"camellia", []Operation{Camellia128, Camellia256}},
	{"camellia-min-size=", []Operation{Camellia128, Camellia256}},
	{"tdes", []Operation{TripleDES}},
	{"tdes-min-size=", []Operation{TripleDES}},
	{"rsaes", []Operation{RSAES}},
	{"ecc-nist-p192", []Operation{NISTP192}},
}

// minSizes are the sizes in bits below which keys are refused if RSA1024 is.
var minSizes = []struct {
	word string
	bits int
}{{"ecc-min-size=", 224}, {"rsa-min-size=", 2048}}

// forbidding are the attributes that forbid a TPM an operation.
var forbidding = []struct {
	word string
	op   Operation
}{
	{"no-sha1-signing", SHA1Signing},
	{"no-sha1-verification", SHA1Verification},
	{"no-unpadded-encryption", UnpaddedEncrypt},
}

// RemoveDisabled removes from a profile what OpenSSL refuses. It changes only a profile
// whose name is "custom" or begins with "custom:". custom is the list of algorithms of a
// custom profile that has none of its own; refused reports whether OpenSSL refuses an
// operation, and nil stands for a host in FIPS mode.
//
// The error is about a member of the profile. A profile that is not JSON is returned
// unchanged, because libtpms refuses it.
//
// Source: swtpm 0.10, --profile remove-disabled.
func RemoveDisabled(profile, custom string, refused func(Operation) bool) (string, error) {
	o, err := parseObject(profile)
	if err != nil {
		return profile, nil
	}
	name, _, err := o.text("Name")
	if err != nil || name != "custom" && !strings.HasPrefix(name, "custom:") {
		return profile, nil
	}
	list, given, err := o.text("Algorithms")
	if err != nil {
		return "", err
	}
	if !given {
		list = custom
	}
	list, err = reduceAlgorithms(list, orAll(refused))
	if err != nil {
		return "", err
	}
	o.setText("Algorithms", list)
	attributes, _, err := o.text("Attributes")
	if err != nil {
		return "", err
	}
	if more := addAttributes(attributes, refused); more != attributes {
		o.setText("Attributes", more)
	}
	return o.String(), nil
}

// orAll returns refused, or a function that refuses everything if refused is nil.
func orAll(refused func(Operation) bool) func(Operation) bool {
	if refused == nil {
		return func(Operation) bool { return true }
	}
	return refused
}

// reduceAlgorithms returns list, words with commas between them, without those that are
// refused.
func reduceAlgorithms(list string, refused func(Operation) bool) (string, error) {
	words := split(list)
	for _, r := range removable {
		match := func(w string) bool {
			return w == r.word || strings.HasSuffix(r.word, "=") && strings.HasPrefix(w, r.word)
		}
		if slices.ContainsFunc(words, match) && slices.ContainsFunc(r.ops, refused) {
			words = slices.DeleteFunc(words, match)
		}
	}
	words = dropEarlier(words)
	if !refused(RSA1024) {
		return strings.Join(words, ","), nil
	}
	for _, m := range minSizes {
		want := m.word + strconv.Itoa(m.bits)
		i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, m.word) })
		if i < 0 {
			words = append(words, want)
			continue
		}
		size := words[i][len(m.word):]
		bits, err := strconv.ParseUint(size, 10, 32)
		if err != nil {
			return "", fmt.Errorf("the algorithm profile has %q, and %q is no number of bits", words[i], size)
		}
		if bits < uint64(m.bits) {
			words[i] = want
		}
	}
	return strings.Join(words, ","), nil
}

// dropEarlier removes words that occur again later. Two words that differ only after a =
// are the same.
//
// Compat: C-240: the word after a removed one is not checked.
func dropEarlier(words []string) []string {
	same := func(a, b string) bool {
		a, _, x := strings.Cut(a, "=")
		b, _, y := strings.Cut(b, "=")
		return a == b && x == y
	}
	for i := 0; i < len(words); i++ {
		if slices.ContainsFunc(words[i+1:], func(w string) bool { return same(w, words[i]) }) {
			words = slices.Delete(words, i, i+1)
		}
	}
	return words
}

// addAttributes returns list with the attributes that forbid the refused operations.
func addAttributes(list string, refused func(Operation) bool) string {
	words := split(list)
	if slices.Contains(words, "fips-host") {
		return list
	}
	var missing, all []string
	for _, f := range forbidding {
		all = append(all, f.word)
		if !slices.Contains(words, f.word) && (refused == nil || refused(f.op)) {
			missing = append(missing, f.word)
		}
	}
	if refused == nil && len(missing) > 0 {
		missing = all // Compat: C-241: also those that it already has
	}
	words = append(words, missing...)
	if len(words) == 0 && refused(SHA1HMAC) { // nil has added something
		words = append(words, "no-sha1-hmac")
	}
	return strings.Join(words, ",")
}

// split returns the words of a list; "" has none.
func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}
