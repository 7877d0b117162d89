package nv

import "testing"

// TestLocation checks the location that each URI gives, and that it is printed as this URI.
func TestLocation(t *testing.T) {
	for uri, want := range map[string]Location{
		"":                {},
		"dir://":          {Directory, ""},
		"dir:///a://b":    {Directory, "/a://b"},
		"dir://a":         {Directory, "a"},
		"file:///dev/sda": {File, "/dev/sda"},
		"dir:/a":          {Unsupported, "dir:/a"},
		"/a":              {Unsupported, "/a"},
		"rbd://p/i":       {Unsupported, "rbd://p/i"},
	} {
		got := ParseLocation(uri)
		dir, isDir := got.Dir()
		if got != want || got.String() != uri || isDir != (want.Kind == Directory) || isDir && dir != want.Path || !isDir && dir != "" {
			t.Errorf("ParseLocation(%q) = %v, URI %q, Dir %q %v, want %v", uri, got, got, dir, isDir, want)
		}
	}
}
