package main

import (
	"bytes"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/shared/seal"
)

// What the command prints is what a process takes, whatever the path has in it.
func TestKEK(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a key, 100%")
	var out, problems bytes.Buffer
	if err := kek([]string{"create", path}, &out, &problems); err != nil {
		t.Fatalf("kek create = %v", err)
	}
	uri, ok := strings.CutPrefix(strings.TrimSpace(out.String()), "NOFX_KEK=")
	if u, err := url.Parse(uri); !ok || err != nil || u.Path != path {
		t.Errorf("kek create prints %q, want a URI of %s", out.String(), path)
	}
	key, err := settings{}.keys()
	if key != nil || err != nil {
		t.Errorf("keys() without NOFX_KEK = %v, %v, want none", key, err)
	}
	if key, err = seal.New(uri, true); err != nil || key.Ready() != nil {
		t.Errorf("seal.New(%s) = %v, Ready() = %v, want a key", uri, err, key.Ready())
	}
	if err := kek([]string{"create", path}, &out, &problems); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("kek create again = %v, want that it exists", err)
	}
	for _, args := range [][]string{nil, {"create"}, {"create", ""}, {"create", "--x"}, {"create", "a", "b"}, {"make", "a"}} {
		if err := kek(args, &out, &problems); !errors.Is(err, errUsage) {
			t.Errorf("kek %q = %v, want a wrong usage", args, err)
		}
	}
	var s settings
	s.KEK = "vault:x"
	if err := s.check(); err == nil || !strings.Contains(err.Error(), "NOFX_KEK") {
		t.Errorf("check() of another kind of key = %v, want NOFX_KEK named", err)
	}
}
