package diff

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"nofx.dev/shared/tree"
)

// memory is a Source of trees that tests have made.
type memory struct {
	nodes map[tree.Digest][]tree.Entry
	files map[tree.Digest][]byte
	read  int // directories
}

func newMemory() *memory {
	return &memory{nodes: map[tree.Digest][]tree.Entry{}, files: map[tree.Digest][]byte{}}
}

func (m *memory) source() Source {
	return Source{
		Nodes: func(_ context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
			found := map[tree.Digest][]tree.Entry{}
			for _, d := range digests {
				entries, ok := m.nodes[d]
				if !ok {
					return nil, fmt.Errorf("no directory %s", d)
				}
				found[d] = entries
			}
			m.read += len(found)
			return found, nil
		},
		Files: func(_ context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
			found := map[tree.Digest][]byte{}
			for _, d := range digests {
				if content, ok := m.files[d]; ok {
					found[d] = content
				}
			}
			return found, nil
		},
	}
}

// item is a file, a link or an empty directory of a workspace.
type item struct {
	mode    tree.Mode
	content string
}

// workspace is what a tree holds, by path.
type workspace map[string]item

func file(content string) item { return item{tree.File, content} }

// of returns a workspace of files.
func filesOf(contents map[string]string) workspace {
	w := workspace{}
	for p, c := range contents {
		w[p] = file(c)
	}
	return w
}

// add stores a workspace and returns its tree.
func (m *memory) add(w workspace) tree.Digest {
	return m.dir(w, "")
}

func (m *memory) dir(w workspace, at string) tree.Digest {
	below := map[string]workspace{}
	var entries []tree.Entry
	for p, it := range w {
		name, _, deeper := strings.Cut(strings.TrimPrefix(p, at), "/")
		switch {
		case deeper:
			if below[name] == nil {
				below[name] = workspace{}
			}
			below[name][p] = it
		case it.mode == tree.Directory:
			entries = append(entries, tree.Entry{Name: name, Mode: tree.Directory, Digest: tree.Empty})
		default:
			d := tree.Sum([]byte(it.content))
			m.files[d] = []byte(it.content)
			entries = append(entries, tree.Entry{Name: name, Mode: it.mode, Digest: d, Size: int64(len(it.content))})
		}
	}
	for name, w := range below {
		entries = append(entries, tree.Entry{Name: name, Mode: tree.Directory, Digest: m.dir(w, at+name+"/")})
	}
	slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	d := tree.Sum(tree.Encode(entries))
	m.nodes[d] = entries
	return d
}

// compute returns the diff of two workspaces.
func compute(t testing.TB, from, to workspace, opts Options) *Document {
	t.Helper()
	m := newMemory()
	f, o := Checkpoint{ID: "ckpt_1", Tree: m.add(from)}, Checkpoint{ID: "ckpt_2", Tree: m.add(to)}
	doc, err := Compute(t.Context(), m.source(), f, o, opts)
	if err != nil {
		t.Fatalf("Compute(%v, %v) = %v", from, to, err)
	}
	return doc
}

// applied returns what a diff makes of a workspace: contents come from all, by their
// digests.
func applied(from workspace, doc *Document, all map[string]string) workspace {
	w := maps.Clone(from)
	for _, f := range doc.Files {
		if f.From != nil {
			p := f.Path
			if f.Status == Renamed {
				p = f.From.Path
			}
			delete(w, p)
		}
	}
	for _, f := range doc.Files {
		if f.To == nil {
			continue
		}
		var mode uint32
		_, _ = fmt.Sscanf(f.To.Mode, "%o", &mode)
		it := item{mode: tree.Mode(mode)}
		if it.mode != tree.Directory {
			it.content = all[f.To.Sha256]
		}
		w[f.Path] = it
	}
	for p := range w { // a directory that has something in it is no item
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			delete(w, dir)
		}
	}
	return w
}
