package config

import (
	"strings"
	"testing"
)

// TestWarnings checks for which settings a TPM is reported as unusable.
func TestWarnings(t *testing.T) {
	const power, reach, scheme = "no client can power this TPM on", "no client can reach this TPM", "unsupported storage"
	for _, tt := range []struct {
		iface, args string
		want        []string
	}{
		{"socket", "--tpmstate dir=s --ctrl type=unixio,path=c", nil},
		{"socket", "--tpmstate dir=s --ctrl type=tcp,port=0 --port 0", nil},
		{"socket", "--tpmstate dir=s --port 2321", []string{power}},
		{"socket", "--tpmstate dir=s --server type=unixio,path=d", []string{power}},
		{"socket", "--tpmstate dir=s --server type=unixio,path=d --flags not-need-init", nil},
		{"socket", "--tpmstate dir=s --server type=unixio,path=d --flags startup-clear", nil},
		{"socket", "--tpmstate dir=s --server type=unixio,path=d --flags startup-none", []string{power}},
		{"socket", "--tpmstate dir=s", []string{reach}},
		{"socket", "--tpmstate dir=s --flags not-need-init", []string{reach}},
		{"chardev", "--tpmstate dir=s --chardev /dev/null", []string{power}},
		{"chardev", "--tpmstate dir=s --chardev /dev/null --ctrl type=unixio,path=c", nil},
		{"chardev", "--tpmstate dir=s --vtpm-proxy", nil},
		{"cuse", "--tpmstate dir=s --name vtpm0", nil},
		{"socket", "--tpmstate backend-uri=rbd:pool/x --ctrl type=unixio,path=c", []string{scheme}},
		{"socket", "--tpmstate backend-uri=iscsi://host/x --ctrl type=unixio,path=c", []string{scheme}},
		{"socket", "--tpmstate backend-uri=/var/lib/x --port 1", []string{power, scheme}},
		{"socket", "--tpmstate backend-uri=file:///x --ctrl type=unixio,path=c", nil},
	} {
		c, err := ClassicElsewhere(tt.iface, strings.Fields(tt.args), noEnv)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		got := c.Warnings()
		ok := len(got) == len(tt.want)
		for i := range min(len(got), len(tt.want)) {
			ok = ok && strings.Contains(got[i], tt.want[i])
		}
		if !ok {
			t.Errorf("swtpm %s %s: %q, want %q", tt.iface, tt.args, got, tt.want)
		}
	}
}
