package algprofile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRead checks each source of a profile, and the errors.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "profile")
	if err := os.WriteFile(file, []byte("\n \t{\"Name\":\"null\"} \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nul := filepath.Join(dir, "nul")
	if err := os.WriteFile(nul, []byte("{}\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat(" ", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s         Source
		want, err string
	}{
		{Source{JSON: " {} "}, "{}", ""},
		{Source{Name: "custom:a b"}, `{"Name":"custom:a b"}`, ""},
		{Source{Name: `q"`}, `{"Name":"q""}`, ""},
		{Source{Path: file}, `{"Name":"null"}`, ""},
		{Source{Path: os.DevNull}, "", ""},
		{Source{Path: filepath.Join(dir, "none")}, "", "none: no such file"},
		{Source{Path: dir}, "", "is a directory"},
		{Source{Path: nul}, "", "NUL"},
		{Source{Path: big}, "", "larger than"},
		{Source{FD: 1 << 20}, "", "descriptor 1048576: bad file descriptor"},
	} {
		got, err := Read(c.s)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Read(%+v) = %q, %v, want %q, %s", c.s, got, err, c.want, c.err)
		}
	}
}

// TestReadDescriptor checks that one read counts, whatever the writer does next,
// and that the descriptor is closed.
func TestReadDescriptor(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{" {} \n", "{}"},
		{"x" + strings.Repeat(" ", 20000), "x"},
		{strings.Repeat("x", 20000), strings.Repeat("x", 10239)},
	} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(p[1], []byte(c.in)); err != nil {
			t.Fatal(err)
		}
		got, err := Read(Source{FD: p[0]})
		if err != nil || got != c.want {
			t.Errorf("Read of %.20q = %.20q (%d bytes), %v, want %.20q", c.in, got, len(got), err, c.want)
		}
		if _, err := unix.Write(p[1], []byte("more")); err != unix.EPIPE {
			t.Errorf("the descriptor is still open: write = %v", err)
		}
		unix.Close(p[1])
	}
}

const (
	removeDisabledLacking = `"Attributes":"no-sha1-signing,no-sha1-verification,no-unpadded-encryption"`
	removeDisabledList    = `{"Name":"custom","Algorithms":"`
)

const removeDisabledMessy = removeDisabledList + `rsa-min-size=1024,foo,rsa-min-size=3072,tdes,tdes-min-size=128,foo,ecc-min-size=521,camellia-min-size=256,rsaes,ecc-nist-p192,bar"}`

var removeDisabledAll = func(Operation) bool { return true }

var removeDisabledNone = func(Operation) bool { return false }

var removeDisabledOnly = func(ops ...Operation) func(Operation) bool {
	return func(op Operation) bool { return slices.Contains(ops, op) }
}

// removeDisabledCases are the cases of TestRemoveDisabled.
var removeDisabledCases = []struct {
	in      string
	refused func(Operation) bool
	want    string
}{
	{removeDisabledMessy, nil, removeDisabledList + `foo,rsa-min-size=3072,foo,ecc-min-size=521,bar",` + removeDisabledLacking + `}`},
	{removeDisabledMessy, removeDisabledAll, removeDisabledList + `foo,rsa-min-size=3072,foo,ecc-min-size=521,bar",` + removeDisabledLacking + `}`},
	{removeDisabledList + `rsa-min-size=1024,foo"}`, nil, removeDisabledList + `rsa-min-size=2048,foo,ecc-min-size=224",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,rsa-min-size=3072,rsa-min-size=1024"}`, nil, removeDisabledList + `foo,rsa-min-size=2048,ecc-min-size=224",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,ecc-min-size=512,bar"}`, nil, removeDisabledList + `foo,ecc-min-size=512,bar,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,ecc-min-size=192,bar,bar,foo"}`, nil, removeDisabledList + `ecc-min-size=224,bar,foo,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo, tdes ,camellia"}`, nil, removeDisabledList + `foo, tdes ,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `,foo,,bar,"}`, nil, removeDisabledList + `foo,bar,,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,foo=1,foo=2"}`, nil, removeDisabledList + `foo,foo=2,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `a,b,a,c,b"}`, nil, removeDisabledList + `b,a,c,b,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,tdes-min-size=1,camellia-min-size=1,camellia-min-size,tdesx"}`, nil, removeDisabledList + `foo,camellia-min-size,tdesx,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `"}`, nil, removeDisabledList + `ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo,rsa-min-size=1024"}`, removeDisabledNone, removeDisabledList + `foo,rsa-min-size=1024"}`},
	{removeDisabledList + `tdes,,rsaes, x,foo,foo"}`, removeDisabledNone, removeDisabledList + `tdes,,rsaes, x,foo"}`},
	{removeDisabledList + `foo,rsa-min-size=x"}`, removeDisabledNone, removeDisabledList + `foo,rsa-min-size=x"}`},

	// one operation alone
	{removeDisabledList + `camellia,camellia-min-size=128,tdes,rsaes"}`, removeDisabledOnly(Camellia256), removeDisabledList + `tdes,rsaes"}`},
	{removeDisabledList + `camellia,tdes,tdes-min-size=128,rsaes"}`, removeDisabledOnly(TripleDES), removeDisabledList + `camellia,rsaes"}`},
	{removeDisabledList + `camellia,rsaes,ecc-nist-p192"}`, removeDisabledOnly(RSAES), removeDisabledList + `camellia,ecc-nist-p192"}`},
	{removeDisabledList + `camellia,rsaes,ecc-nist-p192"}`, removeDisabledOnly(NISTP192), removeDisabledList + `camellia,rsaes"}`},
	{removeDisabledList + `foo"}`, removeDisabledOnly(RSA1024), removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048"}`},
	{removeDisabledList + `foo"}`, removeDisabledOnly(SHA1Signing), removeDisabledList + `foo","Attributes":"no-sha1-signing"}`},
	{removeDisabledList + `foo"}`, removeDisabledOnly(SHA1Verification, SHA1HMAC), removeDisabledList + `foo","Attributes":"no-sha1-verification"}`},
	{removeDisabledList + `foo"}`, removeDisabledOnly(UnpaddedEncrypt), removeDisabledList + `foo","Attributes":"no-unpadded-encryption"}`},
	{removeDisabledList + `foo"}`, removeDisabledOnly(SHA1HMAC), removeDisabledList + `foo","Attributes":"no-sha1-hmac"}`},
	{removeDisabledList + `foo","Attributes":"x"}`, removeDisabledOnly(SHA1HMAC), removeDisabledList + `foo","Attributes":"x"}`},

	// attributes that the profile already has
	{removeDisabledList + `foo","Attributes":"x"}`, removeDisabledAll, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048","Attributes":"x,no-sha1-signing,no-sha1-verification,no-unpadded-encryption"}`},
	{removeDisabledList + `foo","Attributes":""}`, removeDisabledAll, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo","Attributes":"no-sha1-signing"}`, removeDisabledAll, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{removeDisabledList + `foo","Attributes":"no-sha1-verification,x"}`, nil, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048","Attributes":"no-sha1-verification,x,no-sha1-signing,no-sha1-verification,no-unpadded-encryption"}`},
	{removeDisabledList + `foo","Attributes":"no-sha1-verification,no-unpadded-encryption,no-sha1-signing"}`, nil, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048","Attributes":"no-sha1-verification,no-unpadded-encryption,no-sha1-signing"}`},
	{removeDisabledList + `foo","Attributes":"fips-host,no-sha1-signing"}`, nil, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048","Attributes":"fips-host,no-sha1-signing"}`},
	{removeDisabledList + `foo","Attributes":"fips-host"}`, removeDisabledAll, removeDisabledList + `foo,ecc-min-size=224,rsa-min-size=2048","Attributes":"fips-host"}`},

	// the other members, and names
	{`{ "Description":"x<&" , "Name" : "custom" , "Foo": [1,2 , {"a":1.5}], "Algorithms":"foo", "n":null }`, removeDisabledNone,
		`{"Description":"x<&","Name":"custom","Foo":[1,2,{"a":1.5}],"Algorithms":"foo","n":null}`},
	{`{"Name":"custom"}`, removeDisabledNone, removeDisabledList + `of,custom"}`},
	{`{"Name":"custom:x","Commands":"1"}`, nil, `{"Name":"custom:x","Commands":"1","Algorithms":"of,custom,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{`{"Name":"custom","Algorithms":"foo","Algorithms":"tdes,bar"}`, nil, removeDisabledList + `bar,ecc-min-size=224,rsa-min-size=2048",` + removeDisabledLacking + `}`},
	{`{"Name":"custom","Name":"null","Algorithms":"tdes"}`, nil, `{"Name":"custom","Name":"null","Algorithms":"tdes"}`},
	{`{"Name":"customx"}`, nil, `{"Name":"customx"}`},
	{`{"Name":"default-v1"}`, nil, `{"Name":"default-v1"}`},
	{`{"Name":1}`, nil, `{"Name":1}`},
	{`{"Name":null}`, nil, `{"Name":null}`},
	{`{"name":"custom"}`, nil, `{"name":"custom"}`},
	{`{}`, nil, `{}`},
	{`{bad}`, nil, `{bad}`},
	{`{"Name":"custom",}`, nil, `{"Name":"custom",}`},
	{`{"Name":"custom"} x`, nil, `{"Name":"custom"} x`},
	{`["custom"]`, nil, `["custom"]`},
	{``, nil, ``},
}

// TestRemoveDisabled checks that the results are the same as with swtpm 0.10.2, which its message
// "Could not set profile" contains.
func TestRemoveDisabled(t *testing.T) {

	for _, c := range removeDisabledCases {
		got, err := RemoveDisabled(c.in, "of,custom", c.refused)
		if err != nil || got != c.want {
			t.Errorf("RemoveDisabled(%s) = %v\n got %s\nwant %s", c.in, err, got, c.want)
		}
	}
}

// TestRemoveDisabledErrors checks the messages about profiles with invalid values.
func TestRemoveDisabledErrors(t *testing.T) {
	for in, want := range map[string]string{
		`{"Name":"custom","Algorithms":1}`:                  "'Algorithms' in JSON map is not a string: 1",
		`{"Name":"custom","Algorithms":null}`:               "'Algorithms' in JSON map is not a string: null",
		`{"Name":"custom","Attributes":["x"]}`:              "'Attributes' in JSON map is not a string: ",
		`{"Name":"custom","Algorithms":"rsa-min-size=x"}`:   `"x" is no number of bits`,
		`{"Name":"custom","Algorithms":"a,ecc-min-size=-"}`: `"-" is no number of bits`,
	} {
		if got, err := RemoveDisabled(in, "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("RemoveDisabled(%s) = %s, %v, want %s", in, got, err, want)
		}
	}
}

// TestNeeded checks which operations of OpenSSL a profile needs.
func TestNeeded(t *testing.T) {
	sha1 := SHA1Signatures
	for _, c := range []struct {
		algorithms, attributes string
		want                   []Operation
	}{
		{"rsa,aes", "", sha1},
		{"", "", sha1},
		{"rsa,camellia,camellia-min-size=256", "", append([]Operation{Camellia128, Camellia256}, sha1...)},
		{"rsa,tdes", "no-sha1-signing", append([]Operation{TripleDES}, sha1...)},
		{"tdesx,xcamellia", "no-sha1-verification", sha1},
		{"tdes,camellia", "no-sha1-signing,no-sha1-verification", []Operation{Camellia128, Camellia256, TripleDES}},
		{"rsa", "fips-host", nil},
	} {
		if got := Needed(c.algorithms, c.attributes); !slices.Equal(got, c.want) {
			t.Errorf("Needed(%q, %q) = %q, want %q", c.algorithms, c.attributes, got, c.want)
		}
	}
}

// FuzzRemoveDisabled checks that a changed profile is one JSON object with the same name
// and without the removed words.
func FuzzRemoveDisabled(f *testing.F) {
	for _, s := range []string{
		`{"Name":"custom"}`, `{"Name":"custom:x","Algorithms":"a,b=1,a,b=2,rsa-min-size=1","Attributes":"x"}`,
		`{"Name":"custom","Algorithms":"rsa-min-size=99999999999"}`, `{"Name":"custom","\u00e4":"\ud800"}`, `{"Name":"null"}`, `[`, `{"a`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := RemoveDisabled(in, "rsa,tdes", nil)
		if err != nil || out == in {
			return
		}
		a, err1 := parseObject(in)
		b, err2 := parseObject(out)
		if err1 != nil || err2 != nil {
			t.Fatalf("%q became %q: %v, %v", in, out, err1, err2)
		}
		before, _, _ := a.text("Name")
		after, _, _ := b.text("Name")
		if before != after {
			t.Errorf("%q became %q: the name has changed", in, out)
		}
		list, _, err := b.text("Algorithms")
		if err != nil || slices.Contains(strings.Split(list, ","), "tdes") {
			t.Errorf("%q became %q, %v", in, out, err)
		}
	})
}
