package pgserver

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"nofx.dev/shared/servertest/datadir"
)

// Each way of not being root serves the same data, also below a folder that
// only this user may enter, and whichever way came before.
func TestAccounts(t *testing.T) {
	t.Parallel()
	bin, err := programs(t.Context(), "", func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	best, err := unprivileged(filepath.Join(bin, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	ways := []*syscall.SysProcAttr{best}
	if os.Geteuid() == 0 {
		uid, gid, err := account()
		if err != nil {
			t.Fatal(err)
		}
		ways = append(ways, credential(uid, gid, capDACOverride), namespace(uid, gid))
	}
	home := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := datadir.Open(t.Context(), filepath.Join(home, "pg"), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := &cluster{dir: dir, data: filepath.Join(dir.Path, "data"), bin: bin, log: &tail{next: t.Output()}}
	if c.password, err = dir.Secret("password"); err != nil {
		t.Fatal(err)
	}
	for i, way := range ways {
		c.account = way
		if err := c.init(t.Context(), func(string) {}); err != nil {
			t.Fatalf("way %d: init() = %v, want nil", i, err)
		}
		p, admin, err := c.run(t.Context())
		if err != nil {
			t.Fatalf("way %d: run() = %v, want nil", i, err)
		}
		if i == 0 {
			exec1(t, admin, `CREATE TABLE kept ()`)
		}
		exec1(t, admin, `SELECT FROM kept`)
		p.Stop(syscall.SIGINT, 10*time.Second)
	}
}
