package system

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/tool"
)

// archive packs the workspace of a checkpoint as tar.gz, an artifact of the system run.
// The archive is written to a file first: storage wants its size, and its digest is its
// key.
func archive(ctx context.Context, cfg Config, c Call, in run.ArchiveInputs) (tool.Result, error) {
	subject, id, err := ids(in.RunID, in.CheckpointID)
	if err != nil {
		return tool.Result{}, err
	}
	tenant := c.Claim.TenantID
	ck, err := cfg.DB.Checkpoint(ctx, tenant, subject, id)
	if err != nil {
		return tool.Result{}, gone(err)
	}
	root, err := tree.ParseDigest(ck.TreeDigest)
	if err != nil {
		return tool.Result{}, err
	}
	space, err := cfg.Workspaces.Take(tenant, c.Claim.RunID)
	if err != nil {
		return tool.Result{}, err
	}
	defer func() {
		space.Clear()
		cfg.Workspaces.Give(c.Claim.RunID, space)
	}()
	file, err := os.Create(filepath.Join(space.Scratch, "archive"))
	if err != nil {
		return tool.Result{}, err
	}
	defer file.Close()
	sum := sha256.New()
	source := &tree.Source{Blobs: cfg.Blobs, Locator: cfg.DB}
	files, purged, err := writeArchive(ctx, io.MultiWriter(file, sum), source, tenant, root, ck.CreatedAt)
	if err != nil {
		if key, _ := blob.Lost(err); key != "" {
			return tool.Result{}, tool.Failuref(run.ClassInvalid, "content of the checkpoint is lost: %w", err)
		}
		return tool.Result{}, err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return tool.Result{}, err
	}
	if err := c.Fresh(ctx); err != nil {
		return tool.Result{}, err
	}
	digest := [sha256.Size]byte(sum.Sum(nil))
	key := blob.CopyKey(tenant, digest, blob.NewCopy())
	if err := cfg.Blobs.Put(ctx, key, file, size, blob.PutOptions{ContentType: "application/gzip", SHA256: &digest}); err != nil {
		return tool.Result{}, err
	}
	fmt.Fprintf(c.Log, "packed %s into %s\n", fault.Count(files, "file"), fault.Count(size, "byte"))
	if len(purged) > 0 {
		fmt.Fprintf(c.Log, "purged by an administrator, and left out: %q\n", purged)
	}
	a := run.Artifact{
		ID: run.NewID(), Name: fmt.Sprintf("%s-%d.tar.gz", in.RunID, ck.Seq), Key: key, MediaType: "application/gzip", Size: size, SHA256: digest[:],
	}
	return tool.Result{
		Artifacts: []run.Artifact{a},
		Outputs:   map[string]any{"artifact_id": run.ArtifactID.Format(a.ID), "files": files, "size_bytes": size},
	}, nil
}

// Limits of what is read at once for an archive. Content of tree.Small bytes and more is
// copied from storage as it comes.
const (
	archiveFiles = 1000
	archiveBytes = 8 << 20
)

// writeArchive writes a tree as tar.gz, every entry with the given time, and returns the
// number of files, and the paths of those that are left out, since they were purged.
func writeArchive(ctx context.Context, w io.Writer, source *tree.Source, tenant uuid.UUID, root tree.Digest, at time.Time) (files int, purged []string, err error) {
	zipped := gzip.NewWriter(w)
	p := &packer{tar: tar.NewWriter(zipped), source: source, tenant: tenant, at: at.UTC().Truncate(time.Second)}
	err = source.Tree(tenant, root).Walk(ctx, "", "", func(path string, e tree.Entry) error { return p.add(ctx, path, e) })
	if err == nil {
		err = p.flush(ctx)
	}
	if err != nil {
		return 0, nil, err
	}
	if err := p.tar.Close(); err != nil {
		return 0, nil, err
	}
	return p.files - len(p.purged), p.purged, zipped.Close()
}

// packer writes entries in their order, and reads the content of small files together.
type packer struct {
	tar    *tar.Writer
	source *tree.Source
	tenant uuid.UUID
	at     time.Time
	files  int
	purged []string // paths that are left out, since their content was purged

	paths   []string
	entries []tree.Entry // to be written, by paths
	bytes   int64        // of small ones among them
}

func (p *packer) add(ctx context.Context, path string, e tree.Entry) error {
	p.paths, p.entries = append(p.paths, path), append(p.entries, e)
	if small(e) {
		p.bytes += e.Size
	}
	if e.Mode != tree.Directory {
		p.files++
	}
	if len(p.entries) < archiveFiles && p.bytes < archiveBytes {
		return nil
	}
	return p.flush(ctx)
}

// small reports whether the content of e is read together with that of others.
func small(e tree.Entry) bool { return e.Mode != tree.Directory && e.Size < tree.Small }

func (p *packer) flush(ctx context.Context) error {
	purged, err := p.whichPurged(ctx)
	if err != nil {
		return err
	}
	var wanted []tree.Digest
	for _, e := range p.entries {
		if small(e) && !purged[e.Digest] && tree.NeedsObject(e.Digest) {
			wanted = append(wanted, e.Digest)
		}
	}
	contents := make(map[tree.Digest][]byte, len(wanted))
	var mu sync.Mutex
	if err := p.source.Each(ctx, p.tenant, wanted, func(d tree.Digest, content io.Reader) error {
		b, err := io.ReadAll(content)
		mu.Lock()
		contents[d] = b
		mu.Unlock()
		return err
	}); err != nil {
		return err
	}
	for i, e := range p.entries {
		if purged[e.Digest] {
			p.purged = append(p.purged, p.paths[i])
			continue
		}
		if err := p.write(ctx, p.paths[i], e, contents[e.Digest]); err != nil {
			return fmt.Errorf("%s: %w", p.paths[i], err)
		}
	}
	p.paths, p.entries, p.bytes = p.paths[:0], p.entries[:0], 0
	return nil
}

// whichPurged returns which contents of files to be written were purged.
func (p *packer) whichPurged(ctx context.Context) (map[tree.Digest]bool, error) {
	var digests []tree.Digest
	for _, e := range p.entries {
		if e.Mode != tree.Directory && tree.NeedsObject(e.Digest) {
			digests = append(digests, e.Digest)
		}
	}
	at, err := p.source.Locator.LocateBlobs(ctx, p.tenant, digests)
	purged := map[tree.Digest]bool{}
	for d, l := range at {
		if l.Purged {
			purged[d] = true
		}
	}
	return purged, err
}

// write writes one entry; content is that of a small file.
func (p *packer) write(ctx context.Context, path string, e tree.Entry, content []byte) error {
	h := &tar.Header{Name: path, Size: e.Size, Mode: 0o644, ModTime: p.at, Typeflag: tar.TypeReg}
	switch e.Mode {
	case tree.Directory:
		h.Name, h.Size, h.Mode, h.Typeflag = path+"/", 0, 0o755, tar.TypeDir
	case tree.Symlink:
		h.Linkname, h.Size, h.Mode, h.Typeflag = string(content), 0, 0o777, tar.TypeSymlink
	case tree.Executable:
		h.Mode = 0o755
	}
	if err := p.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	if small(e) {
		_, err := p.tar.Write(content)
		return err
	}
	r, err := p.source.Open(ctx, p.tenant, e.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(p.tar, r)
	return err
}
