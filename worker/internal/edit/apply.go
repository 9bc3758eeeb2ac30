package edit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
)

// Apply makes the changes, all of them or, where one fails, none: first everything
// is written beside its place, then it is moved there, what was there being kept
// until the last of them is in its place.
func Apply(root *os.Root, changes []Change) (err error) {
	moves := make([]move, len(changes))
	defer func() {
		for i := len(moves) - 1; i >= 0; i-- {
			if undoErr := moves[i].end(root, err != nil); undoErr != nil && err != nil {
				err = errors.Join(err, undoErr)
			}
		}
	}()
	for i, c := range changes {
		moves[i].path = c.Path
		if c.Content == nil {
			continue
		}
		dir := path.Dir(c.Path)
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("write %s: %w", c.Path, err)
		}
		moves[i].draft = path.Join(dir, ".nofx-"+rand.Text())
		if err := root.WriteFile(moves[i].draft, c.Content, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", c.Path, err)
		}
		if err := root.Chmod(moves[i].draft, c.mode); err != nil {
			return fmt.Errorf("write %s: %w", c.Path, err)
		}
	}
	for i := range moves {
		if err := moves[i].do(root); err != nil {
			return fmt.Errorf("change %s: %w", moves[i].path, err)
		}
	}
	return nil
}

// move puts a draft in its place, or takes away what is there.
type move struct {
	path  string
	draft string // what is to come; "" once it is there, and of a deletion
	old   string // where that is what was there, if there was anything
	done  bool
}

func (m *move) do(root *os.Root) error {
	aside := path.Join(path.Dir(m.path), ".nofx-"+rand.Text())
	switch err := root.Rename(m.path, aside); {
	case err == nil:
		m.old = aside
	case !isMissing(err):
		return err
	}
	if m.draft != "" {
		if err := root.Rename(m.draft, m.path); err != nil {
			return err
		}
		m.draft = ""
		m.done = true
	}
	return nil
}

// end removes what is left over, after putting things back where undo says so.
func (m *move) end(root *os.Root, undo bool) error {
	if m.draft != "" {
		_ = root.Remove(m.draft) // it may not have been written
	}
	switch {
	case undo && m.old != "":
		return root.Rename(m.old, m.path)
	case undo && m.done:
		return root.Remove(m.path)
	case m.old != "":
		return root.Remove(m.old)
	}
	return nil
}
