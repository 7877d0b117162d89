package setup

import (
	"strings"
	"testing"
)

// TestOrdered checks that a JSON text keeps the order of its members and the
// characters of its strings. The wanted texts are those that swtpm_setup 0.10
// prints for such profiles, except for the numbers, which stay as they are written.
func TestOrdered(t *testing.T) {
	for _, g := range []struct{ in, want string }{
		{`{"z":1,"Name":"x","a":2}`, `{"z":1,"Name":"x","a":2}`},
		{` { "Name" : "a<b>&c" , "list":[ 1, {"b":1,"a":null}, [], {} ] } `, `{"Name":"a<b>&c","list":[1,{"b":1,"a":null},[],{}]}`},
		{`{"d":"\u003cé\/\u00e9\u0001\t\ud83d\ude00"}`, `{"d":"<é/é\u0001\t😀"}`},
		{"{\"d\":\"\x7f\u0085\u2028\\b\\f\\n\\r\\u001f\\\"\\\\\"}", "{\"d\":\"\\u007f\u0085\u2028\\b\\f\\n\\r\\u001f\\\"\\\\\"}"},
		{`{"x":1,"b":true,"x":{"y":1,"y":2},"z":false,"x":5}`, `{"x":5,"b":true,"z":false}`},
		{`{"q\"<":1.50,"big":12345678901234567890,"e":1e3}`, `{"q\"<":1.50,"big":12345678901234567890,"e":1e3}`},
	} {
		o, err := parseObject([]byte(g.in))
		if got := string(appendJSON(nil, o)); err != nil || got != g.want {
			t.Errorf("%s: %s, %v; want %s", g.in, got, err, g.want)
		}
	}
	for _, bad := range []string{"", "[1]", "1", `"a"`, "null", `{"a":1`, `{"a":1}{}`, `{"a":1,}`, "{\"a\":\"\xff\"}",
		strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)} {
		if o, err := parseObject([]byte(bad)); err == nil {
			t.Errorf("%.20q is taken: %v", bad, o)
		}
	}
}

// FuzzOrdered checks that what is printed is read again as the same.
func FuzzOrdered(f *testing.F) {
	f.Add([]byte(`{"Name":"x","a":[1,{"b":null,"b":"\u0001<"}],"t":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseObject(text)
		if err != nil {
			return
		}
		once := appendJSON(nil, o)
		again, err := parseObject(once)
		if err != nil {
			t.Fatalf("%q: %v", once, err)
		}
		if twice := appendJSON(nil, again); string(twice) != string(once) {
			t.Errorf("%q, then %q", once, twice)
		}
	})
}
