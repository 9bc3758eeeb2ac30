package snapshot

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/tree"
)

// Restore makes the workspace equal to a stored tree: what is not in it goes,
// also what Scan skips. Files and directories get the permissions of new ones and
// no file is another's hard link, whatever a step left; Reset says what of the tree
// had others. It looks at what is there first, so that only what
// differs is fetched; bytes are verified as they arrive, and only verified small
// content ever reaches the directory. After an error the directory is neither
// the old nor the new tree; another Restore repairs it.
//
// A file whose content was purged is left out, wherever it was before, and Purged names it.
// Other content that is
// missing is fault.Gone (object-gone), content that is not what it should be fault.Conflict
// (object-corrupt).
func (w *Workspace) Restore(ctx context.Context, want tree.Digest) error {
	if err := w.restore(ctx, want); err != nil {
		return fmt.Errorf("restore %s: %w", want, err)
	}
	return nil
}

func (w *Workspace) restore(ctx context.Context, want tree.Digest) error {
	if err := os.MkdirAll(w.path, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(w.path, permOf(tree.Directory)); err != nil {
		return err
	}
	root, err := os.OpenRoot(w.path)
	if err != nil {
		return err
	}
	defer root.Close()

	r := &restorer{w: w, root: root, files: map[tree.Digest][]target{}}
	now, err := r.look(ctx)
	if err != nil {
		return err
	}
	w.Reset, w.Purged, w.seen, w.stored = nil, nil, nil, nil // from here on the directory is in between, and what is stored may be lost
	then, err := r.compare(ctx, now, want)
	if err != nil {
		return err
	}
	if err := r.apply(ctx, now, then); err != nil {
		return err
	}
	if len(w.Purged) == 0 { // else the directory is not that tree
		w.seen, w.stored = then, then
	}
	for _, m := range r.modes {
		if then.has(m.Path) {
			w.Reset = append(w.Reset, m)
		}
	}
	return nil
}

// restorer is one restore on its way: first the differences, then the work.
type restorer struct {
	w     *Workspace
	root  *os.Root
	gone  []string // what has to go, with what is below it
	made  []string // directories to make, a parent before what is below
	perms []target // files that only change their mode
	modes Modes    // that are there
	files map[tree.Digest][]target
}

// target is a file or link to be made: entry i of dir.
type target struct {
	dir  *dir
	i    int
	path string
}

func (t target) entry() *tree.Entry { return &t.dir.entries[t.i] }

// look scans the directory as it is, whatever the limits, and puts permissions
// right. What cannot be read is emptied: nothing in it is worth more than a restore
// that works.
func (r *restorer) look(ctx context.Context) (*dir, error) {
	s := &scanner{ctx: ctx, now: r.w.now()}
	err := s.run(r.w.path, r.w.seen)
	for i := 0; err == nil && i < len(s.odd); i++ {
		err = r.chmod(s.odd[i])
	}
	if err == nil {
		for _, sk := range s.skipped {
			r.gone = append(r.gone, sk.Path)
		}
		r.modes = s.modes
		return s.root, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		r.gone = append(r.gone, e.Name())
	}
	return &dir{digest: tree.Empty}, nil
}

// pair is a directory that differs: as it is, or nil, and as it shall be.
type pair struct {
	at  string
	now *dir
	new *dir // without its entries yet
}

// compare walks both trees level by level, so that the nodes of a level are read
// together, and leaves out what is equal.
func (r *restorer) compare(ctx context.Context, now *dir, want tree.Digest) (*dir, error) {
	if now.digest == want {
		return now, nil
	}
	top := &dir{digest: want}
	entries := 0
	for depth, level := 0, []pair{{"", now, top}}; len(level) > 0; depth++ {
		if depth > design.depth {
			return nil, blob.Corrupt(fmt.Errorf("the tree is deeper than %d directories", design.depth))
		}
		digests := make([]tree.Digest, len(level))
		for i := range level {
			digests[i] = level[i].new.digest
		}
		nodes, err := r.w.store.src.Nodes(ctx, r.w.tenant, digests)
		if err != nil {
			return nil, err
		}
		var next []pair
		for _, p := range level {
			node := nodes[p.new.digest]
			if entries += len(node); entries > design.entries {
				return nil, blob.Corrupt(fmt.Errorf("the tree has more than %d entries", design.entries))
			}
			next = append(next, r.differ(p, node)...)
		}
		level = next
	}
	return top, nil
}

// differ puts down what makes p.now a directory of these entries, and returns
// the directories below that differ in turn.
func (r *restorer) differ(p pair, entries []tree.Entry) (below []pair) {
	for i, e := range entries {
		was, have := p.now.find(e.Name)
		p.new.add(e, stat{}, nil)
		t := target{p.new, i, join(p.at, e.Name)}
		switch {
		case e.Mode == tree.Directory:
			sub := p.now.sub(e.Name)
			if sub == nil {
				if have {
					r.gone = append(r.gone, t.path)
				}
				r.made = append(r.made, t.path)
			}
			if sub != nil && sub.digest == e.Digest {
				p.new.dirs[i] = sub
				continue
			}
			p.new.dirs[i] = &dir{digest: e.Digest, size: e.Size}
			below = append(below, pair{t.path, sub, p.new.dirs[i]})
		case have && p.now.entries[was] == e:
			p.new.stats[i] = p.now.stats[was]
		case have && p.now.entries[was].Digest == e.Digest && isFile(p.now.entries[was].Mode) && isFile(e.Mode):
			r.perms = append(r.perms, t)
		default:
			if have {
				r.gone = append(r.gone, t.path)
			}
			r.files[e.Digest] = append(r.files[e.Digest], t)
		}
	}
	if p.now != nil {
		for _, e := range p.now.entries {
			if _, ok := p.new.find(e.Name); !ok {
				r.gone = append(r.gone, join(p.at, e.Name))
			}
		}
	}
	return below
}

func isFile(m tree.Mode) bool { return m == tree.File || m == tree.Executable }

func (r *restorer) apply(ctx context.Context, now, then *dir) error {
	for _, p := range r.gone {
		if err := removeAll(r.root, p); err != nil {
			return err
		}
	}
	for _, p := range r.made {
		if err := r.root.Mkdir(p, permOf(tree.Directory)); err != nil {
			return err
		}
		if err := r.root.Chmod(p, permOf(tree.Directory)); err != nil { // whatever the umask
			return err
		}
	}
	if now.digest != tree.Empty { // what is fetched shows by itself whether it was purged
		if err := r.leaveOut(ctx, then); err != nil {
			return err
		}
	}
	for _, t := range r.perms {
		if err := r.chmod(t); err != nil {
			return err
		}
	}
	for {
		digests := slices.Collect(maps.Keys(r.files))
		err := r.w.store.src.Each(ctx, r.w.tenant, digests, r.write)
		if !blob.IsPurged(err) {
			return err
		}
		if err := r.leaveOut(ctx, then); err != nil {
			return err
		}
		if len(r.files) == len(digests) {
			return err
		}
	}
}

// leaveOut removes files of purged content from the directory, and from what is to be done to
// make it then. Purged names them.
func (r *restorer) leaveOut(ctx context.Context, then *dir) error {
	purged, err := r.w.store.cfg.Index.Tombstones(ctx, r.w.tenant)
	if err != nil {
		return err
	}
	r.w.Purged = then.paths("", purged)
	slices.Sort(r.w.Purged)
	for _, p := range r.w.Purged {
		if err := removeAll(r.root, p); err != nil {
			return err
		}
	}
	r.perms = slices.DeleteFunc(r.perms, func(t target) bool { return purged[t.entry().Digest] })
	maps.DeleteFunc(r.files, func(d tree.Digest, _ []target) bool { return purged[d] })
	return nil
}
