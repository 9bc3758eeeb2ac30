package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// archiveLimits is what an archive may come to (SECURITY.md S16; CHECKPOINTS.md,
// Limits).
type archiveLimits struct {
	files int   // with directories and links; as many directories may be implied by names
	list  int64 // of a zip's list of entries, which is read as a whole
	bytes int64 // of all files
	file  int64
	ratio int64 // of unpacked to packed bytes, once more than free were unpacked
	free  int64
	depth int // directories above a file
}

var designLimits = archiveLimits{files: 100_000, list: 64 << 20, bytes: workspaceBytes, file: 1 << 30, ratio: 100, free: 64 << 20, depth: 64}

// workspaceBytes is what the files of a workspace may come to.
const workspaceBytes = 4 << 30

// archiveFile is the name of an archive in the scratch folder.
const archiveFile = "archive"

// unpack brings an uploaded archive, tar.gz or zip, into the empty workspace. All
// its bytes are verified before the first file is made. Nothing is ever made
// outside the workspace, and nothing twice: names are relative and without . or
// .. elements, symbolic links lead to somewhere inside, whatever other links they lead
// through, hard links to a file before them, which is copied, and there are no devices.
// What breaks a rule fails the step and names the entry.
//
// Output: files, how many were made.
func (b *Box) unpack(ctx context.Context, c Call, in run.UnpackInputs) (Result, error) {
	f, size, err := fetchArchive(ctx, c, in.ArtifactID)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	root, err := os.OpenRoot(c.Workspace)
	if err != nil {
		return Result{}, Failuref(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, root: root, limits: designLimits, packed: size}
	if err := u.unpack(f, size); err != nil {
		return Result{}, unpackFailure(ctx, err)
	}
	fmt.Fprintf(c.Log, "unpacked %s of %s\n", fault.Count(u.files, "file"), fault.Count(u.bytes, "byte"))
	return Result{Outputs: map[string]any{"files": u.files}}, nil
}

// fetchArchive copies the artifact, verified, to the scratch folder.
func fetchArchive(ctx context.Context, c Call, id string) (*os.File, int64, error) {
	r, size, err := c.Artifact(ctx, id)
	if err != nil {
		return nil, 0, fetching(ctx, "archive", err)
	}
	defer r.Close()
	scratch, err := openScratch(c)
	if err != nil {
		return nil, 0, err
	}
	defer scratch.Close()
	f, err := scratch.OpenFile(archiveFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, Failuref(run.ClassInfrastructure, "keep the archive: %w", err)
	}
	_, err = io.Copy(f, r)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, 0, fetching(ctx, "archive", err)
	}
	return f, size, nil
}

func unpackFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return broken("unpack the archive", err)
}

// unpacker is one archive on its way into root.
type unpacker struct {
	ctx    context.Context
	root   *os.Root
	limits archiveLimits
	packed int64

	files int
	bytes int64
	dirs  map[string]bool // that were made
	links []archiveLink   // made last, so that nothing is written through them
	// linked are the targets of links by their names.
	linked map[string]string
}

type archiveLink struct{ name, target string }

func (u *unpacker) unpack(f io.ReaderAt, size int64) error {
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	var err error
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		err = u.tar(io.NewSectionReader(f, 0, size))
	case bytes.HasPrefix(head, []byte("PK")):
		err = u.zip(f, size)
	default:
		return errors.New("it is neither a tar.gz nor a zip")
	}
	if err != nil {
		return err
	}
	return u.makeLinks()
}

func (u *unpacker) makeLinks() error {
	for _, l := range u.links {
		for dir := path.Dir(l.name); dir != "."; dir = path.Dir(dir) {
			if _, ok := u.linked[dir]; ok {
				return fmt.Errorf("%q lies behind the link %q", l.name, dir)
			}
		}
		if err := u.parent(l.name); err != nil {
			return err
		}
		if err := made(l.name, u.root.Symlink(l.target, l.name)); err != nil {
			return err
		}
	}
	return nil
}

// file makes one file of exactly size bytes.
func (u *unpacker) file(raw string, size int64, mode fs.FileMode, r io.Reader) error {
	name, err := u.entry(raw)
	if err != nil {
		return err
	}
	switch {
	case name == "":
		return errors.New("a file has no name")
	case size < 0 || size > u.limits.file:
		return fmt.Errorf("%q is larger than %d bytes", name, u.limits.file)
	case u.bytes+size > u.most():
		return fmt.Errorf("its files are larger than %d bytes together", u.most())
	}
	u.bytes += size
	if err := u.parent(name); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	exact := &counted{r: io.LimitReader(r, size)}
	if err := fill(u.root, name, perm, exact); err != nil {
		return made(name, err)
	}
	if exact.n != size {
		return fmt.Errorf("%q ends after %d of %s", name, exact.n, fault.Count(size, "byte"))
	}
	return nil
}

// most returns how many bytes may be unpacked: a small archive that swells is a bomb.
func (u *unpacker) most() int64 {
	return min(u.limits.bytes, max(u.limits.free, u.limits.ratio*u.packed))
}

func (u *unpacker) dir(raw string) error {
	name, err := u.entry(raw)
	if err != nil || name == "" {
		return err
	}
	return u.mkdir(name)
}

const maxLink = 1024 // bytes of a link's text

// link notes a link, provided that it leads to somewhere in the workspace.
func (u *unpacker) link(raw, target string) error {
	name, err := u.entry(raw)
	if err != nil {
		return err
	}
	inside := path.Join(path.Dir(name), target)
	switch {
	case name == "" || target == "" || len(target) > maxLink || run.BadText(target) != "":
		return fmt.Errorf("%q is no link that can be made", clipName(raw))
	case path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../"):
		return fmt.Errorf("the link %q leads out of the workspace", name)
	case climbsLate(target):
		return fmt.Errorf("the link %q has a .. behind a name", name)
	}
	if u.linked == nil {
		u.linked = map[string]string{}
	}
	u.links, u.linked[name] = append(u.links, archiveLink{name, target}), target
	return nil
}

// climbsLate reports whether a .. of target stands behind the name of something. If
// that is a link too, the .. goes up from wherever it leads to.
func climbsLate(target string) bool {
	named := false
	for element := range strings.SplitSeq(target, "/") {
		if element == ".." && named {
			return true
		}
		named = named || element != ".." && element != "." && element != ""
	}
	return false
}

// hardLink makes what is a hard link to a file before it a file of its own, as no
// tree holds hard links. One to a symbolic link is that link again.
func (u *unpacker) hardLink(raw, target string) error {
	from, err := u.name(target)
	if err != nil {
		return fmt.Errorf("the hard link %q: %w", clipName(raw), err)
	}
	if target, ok := u.linked[from]; ok {
		return u.link(raw, target)
	}
	info, err := u.root.Lstat(from)
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%q is a hard link to %q, which is no file before it", clipName(raw), from)
	}
	f, err := u.root.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return u.file(raw, info.Size(), info.Mode(), f)
}

// entry counts an entry and returns its name in the workspace; "" is the workspace.
func (u *unpacker) entry(raw string) (string, error) {
	if u.ctx.Err() != nil {
		return "", context.Cause(u.ctx)
	}
	if u.files++; u.files > u.limits.files {
		return "", fmt.Errorf("it has more than %d entries", u.limits.files)
	}
	return u.name(raw)
}

// name returns what raw names in the workspace, if it may.
func (u *unpacker) name(raw string) (string, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(raw, "./"), "/")
	if name == "" || name == "." {
		return "", nil
	}
	if detail := run.BadFile(name); detail != "" {
		return "", fmt.Errorf("the name %q %s", clipName(raw), detail)
	}
	// Where a backslash separates, this would be another path.
	if strings.Contains(name, `\`) {
		return "", fmt.Errorf("the name %q has a backslash", clipName(raw))
	}
	if strings.Count(name, "/") > u.limits.depth {
		return "", fmt.Errorf("%q is deeper than %d directories", clipName(raw), u.limits.depth)
	}
	return name, nil
}

func (u *unpacker) parent(name string) error {
	if dir := path.Dir(name); dir != "." {
		return u.mkdir(dir)
	}
	return nil
}

// mkdir makes a directory and what is missing above it.
func (u *unpacker) mkdir(name string) error {
	if u.dirs == nil {
		u.dirs = map[string]bool{}
	}
	for dir := name; dir != "." && !u.dirs[dir]; dir = path.Dir(dir) {
		if u.dirs[dir] = true; len(u.dirs) > u.limits.files {
			return fmt.Errorf("it has more than %d directories", u.limits.files)
		}
	}
	return made(name, u.root.MkdirAll(name, 0o755))
}

// made returns err, in plain words where it is that a name is in use.
func made(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%q is there twice", name)
	}
	return err
}

func clipName(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
