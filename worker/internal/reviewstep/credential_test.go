package reviewstep_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/tool"
)

// A token is a file of its tenant, as secrets are mounted, and nothing else is read.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const secret = "c4n4ry-token"
	tenant, other := uuid.New(), uuid.New()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	mine, theirs := run.TenantID.Format(tenant)+"/", run.TenantID.Format(other)+"/"
	write("outside", secret)
	write(theirs+"deploy", secret)
	write(mine+"..2026_01/mounted", secret+"\n")
	link("..2026_01", mine+"..data")
	link("..data/mounted", mine+"mounted")
	link("../outside", mine+"out")
	link("../"+theirs+"deploy", mine+"theirs")
	link(filepath.Join(dir, "outside"), mine+"absolute")
	link("loop", mine+"loop")
	write(mine+"plain", secret)
	write(mine+"crlf", secret+"\r\n\n")
	write(mine+"empty", "\n")
	write(mine+"lines", secret+"\n"+secret)
	write(mine+"header", secret+"\x00")
	write(mine+"spaced", secret+" x")
	write(mine+"long", strings.Repeat("c4n4ry-t", 2<<10))
	write(mine+"longer", strings.Repeat("c4n4ry-t", 2<<10)+"x")
	write(mine+"Upper", secret)
	write(mine+"folder/x", secret)
	tokens := reviewstep.Credentials(dir)
	for name, want := range map[string]string{ // a token, or why there is none
		"plain": secret, "crlf": secret, "mounted": secret, "long": strings.Repeat("c4n4ry-t", 2<<10),
		"deploy": "no file " + mine + "deploy", "absent": "no file", "empty": "not one line", "lines": "not one line", "header": "not one line", "spaced": "not one line",
		"longer": "more than 16384 bytes", "out": "escapes", "theirs": "escapes", "absolute": "escapes", "loop": "cannot be read", "folder": "not a regular file",
		"Upper": "cannot be the name", "../outside": "cannot be the name", "..data": "cannot be the name", "folder/x": "cannot be the name", "": "cannot be the name",
	} {
		got, err := tokens.Read(tenant, name)
		if err == nil {
			if got != want {
				t.Errorf("Read(%q) = %.20q, want %.20q", name, got, want)
			}
			continue
		}
		f, ok := errors.AsType[*tool.Failure](err)
		if !ok || f.Class != run.ClassPolicy || !strings.Contains(f.Reason, want) || !strings.Contains(f.Reason, `"`+name+`"`) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("Read(%q) = %v, want a refusal by policy that names it: %s", name, err, want)
		}
	}
	if _, err := reviewstep.Credentials("").Read(tenant, "plain"); err == nil || !strings.Contains(err.Error(), "NOFX_FORGE_TOKENS_DIR") {
		t.Errorf("Read() without a folder = %v, want the setting's name", err)
	}
	write(mine+"plain", "another")
	if got, err := tokens.Read(tenant, "plain"); got != "another" {
		t.Errorf("Read() after the file changed = %q, %v, want what it has now", got, err)
	}
}
