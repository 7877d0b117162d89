package config

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestReference checks that reference.toml has every key, with its default.
func TestReference(t *testing.T) {
	src, err := os.ReadFile(examples + "/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	note := func(list *[]string, table, key string) {
		if s := "[" + table + "] " + key; !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, tb := range defaults().tables() {
		for _, k := range tb.keys.known(profile) {
			note(&want, tb.name, k.name)
		}
	}
	table := ""
	for line := range strings.Lines(string(src)) {
		line = strings.TrimPrefix(line, "# ")
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "["), "]"); ok && line[0] == '[' {
			table = name
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if key = strings.TrimSpace(key); ok && table != "" && !strings.Contains(key, " ") {
			note(&got, table, key)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys of reference.toml: -want +got\n%s", diff)
	}

	c, err := LoadProfile(examples+"/reference.toml", "vm1")
	if err != nil {
		t.Fatal(err)
	}
	def := defaults()
	def.TPM = tpm.V20
	def.Interface.Server.Kind, def.Interface.Server.Path = Unix, "/run/swtpm/vm1/data.sock"
	def.Control.Listen.Kind, def.Control.Listen.Path = Unix, "/run/swtpm/vm1/ctrl.sock"
	def.State.Location = nv.Location{Kind: nv.Directory, Path: "/var/lib/swtpm/vm1"}
	def.Log.Given = true
	def.Flags.Startup = "none"
	if diff := cmp.Diff(def, c); diff != "" {
		t.Errorf("reference.toml says other than the default: -default +got\n%s", diff)
	}
}

// TestReferenceUncommented checks that the commented keys of reference.toml load, too.
func TestReferenceUncommented(t *testing.T) {
	src, err := os.ReadFile(examples + "/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	table, seen := "", 0
	for line := range strings.Lines(string(src)) {
		body := strings.TrimPrefix(line, "# ")
		if body[0] == '[' {
			table = body[:strings.IndexByte(body, ']')+1]
		}
		if body == line || table == "" || body[0] == '[' || !strings.Contains(body, " = ") {
			continue
		}
		seen++
		full := uncommented(table, line, body)
		c, err := parseProfile("reference", full, "/", "vm1")
		if err != nil {
			t.Errorf("%v\n%s", err, full)
			continue
		}
		again(t, table+" "+body, c)
	}
	if seen < 25 {
		t.Errorf("%d lines behind a #, want more", seen)
	}
}

// uncommented returns a profile with the setting of a line, and with those that it needs.
func uncommented(table, line, body string) (full string) {
	const base = "[control]\nlisten = \"unix:/c\"\n[tpmstate]\ndir = \"/s\"\n"
	top, head := "", table+"\n"
	switch key, _, _ := strings.Cut(body, " "); {
	case table == "[tpmstate]":
		head = ""
	case table == "[control]":
		head = "[tpmstate]\ndir = \"/s\"\n[control]\nlisten = \"unix:/c\"\n"
	case table == "[interface]" && (key == "name" || key == "major" || key == "minor"):
		full = "[tpmstate]\ndir = \"/s\"\n[interface]\ntype = \"cuse\"\nname = \"x\"\n" + body
		if key == "name" {
			full = "[tpmstate]\ndir = \"/s\"\n[interface]\ntype = \"cuse\"\n" + body
		}
		return full
	case table == "[interface]" && key == "device":
		head += "type = \"chardev\"\n"
	case table == "[interface]" && key != "server":
		head += "server = \"unix:/d\"\n"
	case strings.HasSuffix(table, "key]") && (key == "format" || key == "mode" || key == "remove"):
		head += "file = \"/k\"\n"
	case table == "[ledger]" && key == "boots":
		head += "keep = \"boots\"\n"
	case table == "[profile]" && key == "remove-disabled":
		head += "name = \"custom\"\n"
	case strings.HasSuffix(table, "key]") && key == "kdf":
		head += "pwdfile = \"/k\"\n"
	case table == "[pcap]" && key != "file" && key != "fd":
		head += "file = \"/k\"\n"
	case table == "[metrics]" && key == "interval":
		head += "file = \"/m\"\n"
	case table == "[metrics]" && key != "file" && key != "listen":
		head += "listen = \"unix:/m\"\n"
	case key == "iak" || key == "idevid" || key == "decryption":
		head += "ek-cert = true\nallow-signing = true\n"
	case strings.Contains(line, " # 1.2: "):
		top = "tpm = \"1.2\"\n"
		if key != "take-ownership" {
			head += "take-ownership = true\n"
		}
	}
	full = top + base + head + body
	switch {
	case table == "[control]":
		full = head + body
	case strings.HasPrefix(body, "allow-plain ") && table == "[tpmstate]":
		full = strings.Replace(base, "dir = \"/s\"\n", "", 1) + "store = \"s\"\n" + strings.Replace(body, "false", "true", 1)
	case strings.HasPrefix(body, "store ") && table == "[tpmstate]": // instead of dir
		full = strings.Replace(base, "dir = \"/s\"\n", "", 1) + body + "\nallow-plain = true\n"
	case strings.HasPrefix(body, "file ") && table == "[tpmstate]": // instead of dir
		full = strings.Replace(base, "dir = \"/s\"\n", "", 1) + body
	}
	return full
}
