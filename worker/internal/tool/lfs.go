package tool

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/egress"
)

// pointer stands in the place of a file that Git LFS keeps elsewhere.
type pointer struct {
	path, oid string
	size      int64
}

const maxPointer = 1024 // bytes

var (
	pointerVersion = []byte("version https://git-lfs.github.com/spec/v1\n")
	pointerLines   = regexp.MustCompile(`(?m)^oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})$`)
)

// pointers returns the files of the checkout that Git LFS has elsewhere.
func (g *git) pointers(ctx context.Context) (all []pointer, err error) {
	list, err := g.run(ctx, g.call.Log, "ls-files", "-z", "--", ":(attr:filter=lfs)")
	if err != nil || list == "" {
		return nil, err
	}
	root, err := os.OpenRoot(g.dir)
	if err != nil {
		return nil, Failuref(run.ClassInfrastructure, "open checkout: %w", err)
	}
	defer root.Close()
	for path := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if info, err := root.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxPointer {
			continue
		}
		text, err := readSmall(root, path)
		if err != nil {
			return nil, broken("read "+path, err)
		}
		m := pointerLines.FindSubmatch(text)
		if m == nil || !bytes.HasPrefix(text, pointerVersion) {
			continue
		}
		size, _ := strconv.ParseInt(string(m[2]), 10, 64)
		all = append(all, pointer{path, string(m[1]), size})
	}
	return all, nil
}

func readSmall(root *os.Root, path string) ([]byte, error) {
	f, err := edit.Open(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPointer))
}

// Limits of what is asked for, and of an answer.
const (
	lfsBatch       = 100
	lfsAnswerBytes = 4 << 20
	lfsMedia       = "application/vnd.git-lfs+json"
)

// fetchLFS puts the files in the place of their pointers. They come from where the
// repository is, or from another host that NOFX_GIT_ALLOW names; each is verified
// before it is in its place.
func (g *git) fetchLFS(ctx context.Context, files []pointer) error {
	var total int64
	byOID := map[string][]pointer{}
	var wanted []pointer // one of each
	for _, f := range files {
		if total += f.size; f.size > designLimits.file || total > designLimits.bytes {
			return Failuref(run.ClassInvalid, "the files of Git LFS are too large, with %q", f.path)
		}
		if byOID[f.oid] == nil {
			wanted = append(wanted, f)
		}
		byOID[f.oid] = append(byOID[f.oid], f)
	}
	root, err := os.OpenRoot(g.dir)
	if err != nil {
		return Failuref(run.ClassInfrastructure, "open checkout: %w", err)
	}
	defer root.Close()
	client, err := g.lfsClient()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(wanted, lfsBatch) {
		places, err := g.lfsPlaces(ctx, client, some)
		if err != nil {
			return err
		}
		for _, f := range some {
			for _, same := range byOID[f.oid] {
				if err := g.putLFS(ctx, client, root, same, places[f.oid]); err != nil {
					return err
				}
			}
		}
	}
	fmt.Fprintf(g.call.Log, "fetched %s of Git LFS, %s\n", fault.Count(len(files), "file"), fault.Count(total, "byte"))
	return nil
}

// lfsPlace is where a server has a file.
type lfsPlace struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header"`
}

// lfsPlaces asks the server where it has files; a local repository has them in a folder.
func (g *git) lfsPlaces(ctx context.Context, client *http.Client, files []pointer) (map[string]lfsPlace, error) {
	if g.from.folder != "" {
		return nil, nil
	}
	type object struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}
	objects := make([]object, len(files))
	for i, f := range files {
		objects[i] = object{f.oid, f.size}
	}
	body, err := json.Marshal(map[string]any{"operation": "download", "transfers": []string{"basic"}, "objects": objects})
	if err != nil {
		return nil, err
	}
	address := strings.TrimSuffix(strings.TrimSuffix(g.from.url, "/"), ".git") + ".git/info/lfs/objects/batch"
	resp, err := g.lfsRequest(ctx, client, http.MethodPost, address, map[string]string{"Accept": lfsMedia, "Content-Type": lfsMedia}, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Objects []struct {
			object
			Actions struct {
				Download *lfsPlace `json:"download"`
			} `json:"actions"`
			Error *struct {
				Message string `json:"message"`
			} `json:"error"`
		} `json:"objects"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, lfsAnswerBytes)).Decode(&answer); err != nil {
		return nil, Failuref(run.ClassTool, "the Git LFS server's answer cannot be read: %w", err)
	}
	places := map[string]lfsPlace{}
	for _, o := range answer.Objects {
		if o.Error == nil && o.Actions.Download != nil {
			places[o.OID] = *o.Actions.Download
		}
	}
	for _, f := range files {
		if _, ok := places[f.oid]; !ok {
			return nil, missingLFS(f)
		}
	}
	return places, nil
}

func missingLFS(f pointer) error {
	return Failuref(run.ClassTool, "the Git LFS server does not have %q (sha256 %s)", f.path, f.oid)
}

// putLFS replaces a pointer by its file.
func (g *git) putLFS(ctx context.Context, client *http.Client, root *os.Root, f pointer, from lfsPlace) (err error) {
	content, err := g.openLFS(ctx, client, f, from)
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := root.Lstat(f.path)
	if err != nil {
		return broken("write "+f.path, err)
	}
	draft := path.Join(path.Dir(f.path), ".nofx-"+rand.Text())
	defer func() {
		if err != nil {
			_ = root.Remove(draft)
		}
	}()
	sum := sha256.New()
	exact := &counted{r: io.TeeReader(io.LimitReader(content, f.size+1), sum)}
	if err := fill(root, draft, info.Mode().Perm(), exact); err != nil {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return broken("write "+f.path, err)
	}
	if exact.n != f.size || hex.EncodeToString(sum.Sum(nil)) != f.oid {
		return Failuref(run.ClassTool, "what Git LFS has for %q is not what its pointer says", f.path)
	}
	if err := root.Rename(draft, f.path); err != nil {
		return broken("write "+f.path, err)
	}
	return nil
}

func (g *git) openLFS(ctx context.Context, client *http.Client, f pointer, from lfsPlace) (io.ReadCloser, error) {
	if g.from.folder != "" {
		return g.openLocalLFS(f)
	}
	resp, err := g.lfsRequest(ctx, client, http.MethodGet, from.Href, from.Header, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// openLocalLFS opens a file that a local repository has fetched or been given.
func (g *git) openLocalLFS(f pointer) (io.ReadCloser, error) {
	root, err := os.OpenRoot(g.from.folder)
	if err != nil {
		return nil, Failuref(run.ClassTool, "open the repository: %w", err)
	}
	defer root.Close()
	for _, in := range []string{".git/lfs/objects", "lfs/objects"} {
		file, err := edit.Open(root, path.Join(in, f.oid[:2], f.oid[2:4], f.oid))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, Failuref(run.ClassTool, "what Git LFS has for %q: %w", f.path, err)
		}
		return file, nil
	}
	return nil, missingLFS(f)
}

// lfsClient trusts whom git is told to trust.
func (g *git) lfsClient() (*http.Client, error) {
	var roots *x509.CertPool
	for _, variable := range g.env {
		file, ok := strings.CutPrefix(variable, "GIT_SSL_CAINFO=")
		if !ok {
			continue
		}
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, Failuref(run.ClassInfrastructure, "read GIT_SSL_CAINFO: %w", err)
		}
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
	}
	return egress.NewListedClient(roots), nil
}

// lfsRequest returns an answer of status 200.
func (g *git) lfsRequest(ctx context.Context, client *http.Client, method, address string, header map[string]string, body []byte) (*http.Response, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || !g.box.hostAllowed(u) {
		host := "an address that cannot be read"
		if err == nil {
			host = cmp.Or(u.Scheme, "?") + "://" + u.Host
		}
		return nil, Failuref(run.ClassPolicy, "the files of Git LFS are at %s, which is not allowed here (NOFX_GIT_ALLOW)", host)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, Failuref(run.ClassTool, "ask %s for files of Git LFS: %w", u.Host, err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return nil, ended(ctx)
	case err != nil:
		return nil, Failuref(run.ClassTool, "ask %s for files of Git LFS: %w", u.Host, errors.Unwrap(err))
	case resp.StatusCode != http.StatusOK:
		resp.Body.Close()
		return nil, Failuref(run.ClassTool, "%s answered with status %d when asked for files of Git LFS", u.Host, resp.StatusCode)
	}
	return resp, nil
}
