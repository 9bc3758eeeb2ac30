package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/seal"
)

func newKey(t *testing.T) (*seal.Key, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := seal.Create(path); err != nil {
		t.Fatalf("Create() = %v", err)
	}
	k, err := seal.New("file:"+path, true)
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	return k, path
}

// S18: a sealed text opens where it belongs, and nowhere else.
func TestS18_BoundToItsNames(t *testing.T) {
	t.Parallel()
	k, _ := newKey(t)
	text, names := []byte("canary-value"), []string{"secret", "tenant", "NAME", "7"}
	sealed, err := k.Seal(text, names...)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, names...); err != nil || !bytes.Equal(got, text) {
		t.Errorf("Open() = %q, %v, want %q", got, err, text)
	}
	if bytes.Contains(sealed, text) {
		t.Error("the sealed text shows the text")
	}
	if again, err := k.Seal(text, names...); err != nil || bytes.Equal(again, sealed) {
		t.Errorf("Seal() twice = the same bytes, %v, want others", err)
	}
	for _, other := range [][]string{
		{"secret", "other", "NAME", "7"}, {"secret", "tenant", "OTHER", "7"}, {"secret", "tenant", "NAME", "6"}, {"alert", "tenant", "NAME", "7"},
		{"secret", "tenant", "NAME"}, {"secret", "tenant", "NAME7"}, {"secrettenant", "NAME", "7"}, {"secret", "tenantNAME", "", "7"}, {"secret", "tenant", "NAME", "7", ""}, nil,
	} {
		if got, err := k.Open(sealed, other...); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("Open(%q) = %q, %v, want ErrSealed", other, got, err)
		}
	}
	for i := range sealed {
		changed := slices.Clone(sealed)
		changed[i] ^= 1
		if got, err := k.Open(changed, names...); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("Open() with byte %d changed = %q, %v, want ErrSealed", i, got, err)
		}
		if got, err := k.Open(sealed[:i], names...); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("Open() of the first %d bytes = %q, %v, want ErrSealed", i, got, err)
		}
	}
	if got, err := k.Open(text, names...); !errors.Is(err, seal.ErrSealed) || got != nil {
		t.Errorf("Open() of plain text = %q, %v, want ErrSealed", got, err)
	}
	other, _ := newKey(t)
	if got, err := other.Open(sealed, names...); !errors.Is(err, seal.ErrSealed) || got != nil {
		t.Errorf("Open() with another key = %q, %v, want ErrSealed", got, err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"": "", "file:/etc/nofx/kek": "", "file:///etc/nofx/kek": "",
		"/etc/nofx/kek": "URI", "file:kek": "absolute", "file://host/kek": "absolute", "file:": "absolute", "%": "URI",
		"aws-kms:arn": "aws-kms", "gcp-kms://x": "gcp-kms", "vault:x": "not supported yet",
	} {
		k, err := seal.New(uri, true)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) || (k != nil) != (want == "" && uri != "") {
			t.Errorf("New(%q) = %v, %v, want an error with %q", uri, k, err, want)
		}
	}
}

// S37: a file that is not its owner's alone is refused in production, and whatever is wrong
// with the key keeps texts from being sealed.
func TestS37_KeyFile(t *testing.T) {
	t.Parallel()
	_, path := newKey(t)
	dir := filepath.Dir(path)
	for name, tt := range map[string]struct {
		path    string
		content string
		mode    os.FileMode
		private bool
		want    string
	}{
		"owner's alone":          {"a", "", 0o600, true, ""},
		"group's, development":   {"b", "", 0o640, false, ""},
		"group's, production":    {"c", "", 0o640, true, "others than its owner"},
		"everybody's":            {"d", "", 0o604, true, "others than its owner"},
		"not there":              {"e", "-", 0o600, true, "does not exist"},
		"no key":                 {"f", "hello", 0o600, true, "holds no key"},
		"empty":                  {"g", "\n", 0o600, true, "holds no key"},
		"half of a key":          {"h", "half", 0o600, true, "holds no key"},
		"a folder, of the owner": {".", "-", 0o700, true, "cannot be read"},
	} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch tt.content {
		case "-":
		case "half":
			tt.content = string(raw[:len(raw)/2])
		case "":
			tt.content = string(raw)
		}
		file := filepath.Join(dir, tt.path)
		if tt.content != "-" {
			if err := os.WriteFile(file, []byte(tt.content), tt.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, tt.mode); err != nil { // whatever the umask is
				t.Fatal(err)
			}
		}
		k, err := seal.New("file:"+file, tt.private)
		if err != nil {
			t.Fatal(err)
		}
		_, sealErr := k.Seal([]byte("x"))
		_, openErr := k.Open([]byte("x"))
		for what, err := range map[string]error{"Ready": k.Ready(), "Seal": sealErr} {
			e, isFault := errors.AsType[*fault.Error](err)
			if (err == nil) != (tt.want == "") || err != nil && (!isFault || e.Kind != fault.Unavailable || !strings.Contains(e.Detail, tt.want) || strings.Contains(e.Detail, dir)) {
				t.Errorf("%s: %s() = %v, want unavailable: %q", name, what, err, tt.want)
			}
		}
		if errors.Is(openErr, seal.ErrSealed) != (tt.want == "") {
			t.Errorf("%s: Open() = %v, want ErrSealed with a key alone", name, openErr)
		}
	}
	var none *seal.Key
	if err := none.Ready(); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "NOFX_KEK") {
		t.Errorf("Ready() without a key = %v, want unavailable", err)
	}
	if _, err := none.Seal([]byte("x")); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Seal() without a key = %v, want unavailable", err)
	}
}

// A key is made once, for its owner alone.
func TestCreate(t *testing.T) {
	t.Parallel()
	_, path := newKey(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a new key = %v, %v, want 0600", info.Mode(), err)
	}
	if err := seal.Create(path); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Create() again = %v, want that it exists", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key changed, %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".kek-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
