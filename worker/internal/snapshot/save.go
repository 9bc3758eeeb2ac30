package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

const (
	askAtOnce = 10_000 // digests per question to the Index
	uploads   = 2      // objects sent side by side
)

// content is something a checkpoint names that may have to be uploaded.
type content struct {
	digest tree.Digest
	size   int64
	bytes  []byte // or else it is the file at path
	path   string
	stat   stat
}

// Save uploads what of scan is not in storage yet, and of docs, the documents
// that come with it. scan may be nil. An unchanged workspace
// uploads nothing and returns no rows. A file that is no longer what was scanned
// is fault.Conflict (content-changed), and no row names what was stored of it.
func (w *Workspace) Save(ctx context.Context, scan *Scan, docs ...[]byte) (Saved, error) {
	var wanted []content
	var root *os.Root
	if scan != nil {
		var c changes
		c.add("", scan.root, w.stored)
		wanted = c.all()
		var err error
		if root, err = os.OpenRoot(w.path); err != nil {
			return Saved{}, fmt.Errorf("save workspace: %w", err)
		}
		defer root.Close()
	}
	for _, b := range docs {
		wanted = append(wanted, content{digest: tree.Sum(b), size: int64(len(b)), bytes: b})
	}
	saved, err := w.store.save(ctx, w.tenant, root, wanted)
	if err != nil {
		return Saved{}, fmt.Errorf("save workspace: %w", err)
	}
	return saved, nil
}

// changes is what a directory holds and an earlier state of it did not.
type changes struct{ files, nodes []content }

// all returns the files in the order of their paths and then the nodes, each after those
// of what is in it: in a pack the nodes are neighbours, so that one read brings all of them
// and none of the files.
func (c *changes) all() []content { return append(c.files, c.nodes...) }

func (c *changes) add(at string, d, was *dir) {
	if was != nil && d.digest == was.digest {
		return
	}
	for i, e := range d.entries {
		p := join(at, e.Name)
		if d.dirs[i] != nil {
			c.add(p, d.dirs[i], was.sub(e.Name))
		} else if j, ok := was.find(e.Name); !ok || was.entries[j].Digest != e.Digest {
			c.files = append(c.files, content{digest: e.Digest, size: e.Size, path: p, stat: d.stats[i]})
		}
	}
	c.nodes = append(c.nodes, content{digest: d.digest, size: d.size, bytes: tree.Encode(d.entries)})
}

// save uploads those of wanted that are not known: large ones as they are, small
// ones in one pack. Files among them are in dir.
func (s *Store) save(ctx context.Context, tenant uuid.UUID, dir *os.Root, wanted []content) (Saved, error) {
	missing, err := s.missing(ctx, tenant, wanted)
	if err != nil || len(missing) == 0 {
		return Saved{}, err
	}
	var saved Saved
	var small, large []content
	for _, c := range missing {
		if c.size < tree.Small {
			small = append(small, c)
			continue
		}
		large = append(large, c)
		b := tree.Blob{SHA256: c.digest, Location: tree.Location{Size: c.size, Len: c.size, Copy: blob.NewCopy()}}
		saved.add(tree.Object{Key: b.Key(tenant, c.digest), SHA256: c.digest, Bytes: c.size, Kind: "blob"}, b)
	}
	g, putting := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for i, c := range large {
		g.Go(func() error { return s.putLarge(putting, saved.Objects[i].Key, dir, c) })
	}
	if err := g.Wait(); err != nil {
		return Saved{}, err
	}
	if len(small) > 0 {
		object, blobs, err := s.putPack(ctx, tenant, dir, small)
		if err != nil {
			return Saved{}, err
		}
		saved.add(object, blobs...)
	}
	return saved, nil
}

func (s *Saved) add(o tree.Object, blobs ...tree.Blob) {
	s.Objects = append(s.Objects, o)
	s.Blobs = append(s.Blobs, blobs...)
	s.Bytes += o.Bytes
}

// missing returns what of wanted has to be uploaded, each digest once.
func (s *Store) missing(ctx context.Context, tenant uuid.UUID, wanted []content) ([]content, error) {
	seen := make(map[tree.Digest]bool, len(wanted))
	wanted = slices.DeleteFunc(wanted, func(c content) bool {
		again := seen[c.digest] || !tree.NeedsObject(c.digest)
		seen[c.digest] = true
		return again
	})
	var missing []content
	for some := range slices.Chunk(wanted, askAtOnce) {
		digests := make([]tree.Digest, len(some))
		for i := range some {
			digests[i] = some[i].digest
		}
		known, err := s.cfg.Index.KnownBlobs(ctx, tenant, digests)
		if err != nil {
			return nil, fmt.Errorf("ask for %d digests: %w", len(digests), err)
		}
		for _, c := range some {
			if !known[c.digest] {
				missing = append(missing, c)
			}
		}
	}
	return missing, nil
}

func (s *Store) putLarge(ctx context.Context, key string, dir *os.Root, c content) error {
	r, err := c.open(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := [32]byte(c.digest)
	return s.cfg.Blobs.Put(ctx, key, r, c.size, blob.PutOptions{SHA256: &sum})
}

// open reads c from its beginning.
func (c *content) open(dir *os.Root) (io.ReadCloser, error) {
	switch {
	case c.bytes != nil:
		return io.NopCloser(bytes.NewReader(c.bytes)), nil
	case c.stat.mode == tree.Symlink:
		target, err := dir.Readlink(c.path)
		return io.NopCloser(strings.NewReader(target)), err
	default:
		return openListed(dir, c.path, c.stat)
	}
}

// read returns the whole of small content.
func (c *content) read(dir *os.Root) ([]byte, error) {
	r, err := c.open(dir)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, c.size+1) // one more, to notice a file that has grown
	n, err := io.ReadFull(r, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	if b = b[:n]; tree.Sum(b) != c.digest {
		return nil, fault.New(fault.Conflict, "content-changed", "the workspace changed while it was being saved").
			Because(fmt.Errorf("%s is no longer %s", c.path, c.digest))
	}
	return b, nil
}
