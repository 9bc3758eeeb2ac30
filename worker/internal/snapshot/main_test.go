package snapshot

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/servertest/s3server"
	"nofx.dev/shared/tree"
)

var blobs *blob.Store

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	ctx := context.Background()
	server, err := s3server.Start(ctx, s3server.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	defer server.Stop()
	if err := server.MakeBucket(ctx, "nofx-snapshot"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	blobs, err = blob.Open(blob.Config{Endpoint: server.Endpoint, Bucket: "nofx-snapshot", Region: server.Region,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// fataler is what *testing.T, *testing.B and *rapid.T share of failing.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// memoryIndex holds blob rows in memory, of one tenant.
type memoryIndex struct {
	tenant uuid.UUID

	mu    sync.Mutex
	rows  map[tree.Digest]tree.Blob
	asked int // digests that KnownBlobs and LocateBlobs were asked for
}

func (x *memoryIndex) KnownBlobs(_ context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked += len(digests)
	known := map[tree.Digest]bool{}
	for _, d := range digests {
		if _, ok := x.rows[d]; ok && tenant == x.tenant {
			known[d] = true
		}
	}
	return known, nil
}

func (x *memoryIndex) CondemnObject(context.Context, uuid.UUID, string) error { return nil }

func (x *memoryIndex) LocateBlobs(_ context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]tree.Location, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked += len(digests)
	found := map[tree.Digest]tree.Location{}
	for _, d := range digests {
		if b, ok := x.rows[d]; ok && tenant == x.tenant {
			found[d] = b.Location
		}
	}
	return found, nil
}

func (x *memoryIndex) Tombstones(_ context.Context, tenant uuid.UUID) (map[tree.Digest]bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	purged := map[tree.Digest]bool{}
	for d, b := range x.rows {
		if b.Purged && tenant == x.tenant {
			purged[d] = true
		}
	}
	return purged, nil
}

// purge replaces contents by tombstones.
func (x *memoryIndex) purge(contents ...string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range contents {
		d := tree.Sum([]byte(c))
		x.rows[d] = tree.Blob{SHA256: d, Location: tree.Location{Purged: true}}
	}
}

// commit inserts rows, as the transaction that ends a step does.
func (x *memoryIndex) commit(s Saved) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range s.Blobs {
		if _, ok := x.rows[b.SHA256]; !ok {
			x.rows[b.SHA256] = b
		}
	}
}

// questions returns how many digests the index was asked for since the last call.
func (x *memoryIndex) questions() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer func() { x.asked = 0 }()
	return x.asked
}

func newStore() (*Store, *memoryIndex) {
	x := &memoryIndex{tenant: uuid.New(), rows: map[tree.Digest]tree.Blob{}}
	return New(Config{Blobs: blobs, Index: x}), x
}

// files is a workspace in short: by path, "link:" and a target, "exec:" and
// content, or content; a path that ends in a slash is a directory.
type files map[string]string

func (f files) write(t fataler, dir string) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(f)) {
		full := filepath.Join(dir, p)
		parent := filepath.Dir(full)
		if strings.HasSuffix(p, "/") {
			parent = full
		}
		err := os.MkdirAll(parent, 0o755)
		if err == nil && parent != full {
			if target, ok := strings.CutPrefix(f[p], "link:"); ok {
				err = os.Symlink(target, full)
			} else if content, ok := strings.CutPrefix(f[p], "exec:"); ok {
				err = os.WriteFile(full, []byte(content), 0o755)
			} else {
				err = os.WriteFile(full, []byte(f[p]), 0o644)
			}
		}
		if err != nil {
			t.Fatalf("write %q: %v", p, err)
		}
	}
}

// readFiles returns the workspace in dir, with every directory and exact permissions
// where they are not what a restore makes.
func readFiles(t fataler, dir string) files {
	t.Helper()
	got := files{}
	err := filepath.WalkDir(dir, func(full string, e fs.DirEntry, err error) error {
		if err != nil || full == dir {
			return err
		}
		p := strings.TrimPrefix(full, dir+"/")
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode(); {
		case e.IsDir():
			got[p+"/"] = ""
		case mode.Type() == fs.ModeSymlink:
			target, err := os.Readlink(full)
			got[p] = "link:" + target
			return err
		case mode == 0o755 || mode == 0o644:
			b, err := os.ReadFile(full)
			if got[p] = string(b); mode == 0o755 {
				got[p] = "exec:" + string(b)
			}
			return err
		default:
			got[p] = mode.String()
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read %s: %v", dir, err)
	}
	return got
}

// withParents returns f with the directories its paths imply.
func (f files) withParents() files {
	all := maps.Clone(f)
	for p := range f {
		for d := filepath.Dir(strings.TrimSuffix(p, "/")); d != "."; d = filepath.Dir(d) {
			all[d+"/"] = ""
		}
	}
	return all
}

// checkpoint scans, saves and commits, and returns the tree and what it cost.
func checkpoint(ctx context.Context, t fataler, w *Workspace, x *memoryIndex) (*Scan, Saved) {
	t.Helper()
	scan, err := w.Scan(ctx, nil)
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	saved, err := w.Save(ctx, scan)
	if err != nil {
		t.Fatalf("Save: %v", err)
	}
	x.commit(saved)
	w.Committed(scan)
	return scan, saved
}

func restore(ctx context.Context, t fataler, w *Workspace, d tree.Digest) {
	t.Helper()
	if err := w.Restore(ctx, d); err != nil {
		t.Fatalf("Restore(%s): %v", d, err)
	}
}
