// Package snapshot turns a run's workspace into a stored tree and back: the
// bytes of a checkpoint.
//
// A [Workspace] is one run's directory on this worker. Scan says what it holds,
// as a tree digest, and hashes only what its cache does not know; Save uploads
// what storage does not have yet, small content together in one pack; Restore
// makes the directory equal to a stored tree and fetches only what differs. Nodes and
// SaveContents are for merges of stored trees. The form of trees, and how they are read, is
// in nofx.dev/shared/tree.
//
// Bytes first, row second: Save and SaveContents return the rows that the transaction
// which finishes the step has to insert, and write none themselves. A crash
// before it leaves objects without a row, which the collector finds, and never a
// row without its object.
//
// Start reading at Workspace.Scan (scan.go), then save.go and restore.go.
package snapshot

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/tree"
)

// Index knows what a tenant has stored, that is, which blob rows there are.
type Index interface {
	tree.Locator
	// KnownBlobs reports which of digests are stored and will stay: it counts as use
	// of them, so that the collector does not take what a checkpoint is about to
	// name. One that is condemned already is not known and is uploaded again.
	KnownBlobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error)
	// Tombstones returns all contents of the tenant that were purged.
	Tombstones(ctx context.Context, tenant uuid.UUID) (map[tree.Digest]bool, error)
}

// Saved is what was uploaded. Its rows belong into the transaction that inserts
// the checkpoint; one that is there already (two steps stored the same) stays,
// unless it is condemned.
type Saved struct {
	Blobs   []tree.Blob
	Objects []tree.Object
	Bytes   int64 // of the objects: what the checkpoint cost
}

// Config is what a Store works with.
type Config struct {
	Blobs   *blob.Store
	Index   Index
	TempDir string // for packs being written; os.TempDir when empty
}

// Store saves and restores workspaces. It is safe for concurrent use.
type Store struct {
	cfg    Config
	src    *tree.Source
	limits limits
}

// New makes a Store.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, src: &tree.Source{Blobs: cfg.Blobs, Locator: cfg.Index}, limits: design}
}

// Workspace is the directory of one run on this worker, and what is known of it.
// Keep it while the worker may get another step of the run: the cache makes the
// next scan and the next restore cheap. It is for one goroutine at a time.
type Workspace struct {
	store  *Store
	tenant uuid.UUID
	path   string
	now    func() time.Time

	// Reset is what the last Restore found with a mode that is not kept.
	Reset Modes

	// Purged are the paths that the last Restore left out, since an administrator has
	// purged their content.
	Purged []string

	seen   *dir // what the directory held when last looked at; nil: never
	stored *dir // a tree whose rows are committed
}

// Workspace returns the workspace of a tenant's run in the directory at path, which
// Restore makes if need be.
func (s *Store) Workspace(tenant uuid.UUID, path string) *Workspace {
	return &Workspace{store: s, tenant: tenant, path: path, now: time.Now}
}

// Committed notes that the rows of scan's Save are in the database. It spares
// later saves the question for what scan holds; without it they ask again.
func (w *Workspace) Committed(scan *Scan) { w.stored = scan.root }

// dir is a directory in memory: its entries, in the order of the node, and by
// the same index what is known of each. It does not change once it is sealed.
type dir struct {
	entries []tree.Entry
	stats   []stat // of files and links: what they looked like when hashed
	dirs    []*dir // of directories
	digest  tree.Digest
	size    int64 // of the node
}

func (d *dir) add(e tree.Entry, st stat, sub *dir) {
	d.entries, d.stats, d.dirs = append(d.entries, e), append(d.stats, st), append(d.dirs, sub)
}

// seal computes the digests of d and all below it. was is an earlier sealed
// state; where nothing differs from it, its digest is taken over.
func (d *dir) seal(was *dir) {
	for i, sub := range d.dirs {
		if sub != nil {
			sub.seal(was.sub(d.entries[i].Name))
			d.entries[i].Digest, d.entries[i].Size = sub.digest, sub.size
		}
	}
	if was != nil && slices.Equal(d.entries, was.entries) {
		d.digest, d.size = was.digest, was.size
		return
	}
	node := tree.Encode(d.entries)
	d.digest, d.size = tree.Sum(node), int64(len(node))
}

// find returns the index of name in d, which may be nil.
func (d *dir) find(name string) (int, bool) {
	if d == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(d.entries, name, func(e tree.Entry, name string) int { return strings.Compare(e.Name, name) })
}

// sub returns the directory of that name in d, or nil.
func (d *dir) sub(name string) *dir {
	if i, ok := d.find(name); ok {
		return d.dirs[i]
	}
	return nil
}

// has reports whether there is something at path.
func (d *dir) has(path string) bool {
	name, below, deeper := strings.Cut(path, "/")
	if deeper {
		return d.sub(name).has(below)
	}
	_, ok := d.find(name)
	return ok
}

// paths returns the paths of the files and links in d, which is at a path, whose content is
// one of digests.
func (d *dir) paths(at string, digests map[tree.Digest]bool) (list []string) {
	if len(digests) == 0 {
		return nil
	}
	for i, e := range d.entries {
		if d.dirs[i] != nil {
			list = append(list, d.dirs[i].paths(join(at, e.Name), digests)...)
		} else if digests[e.Digest] {
			list = append(list, join(at, e.Name))
		}
	}
	return list
}

// join makes a path of a directory's path and a name.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
