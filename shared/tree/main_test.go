package tree

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/servertest/s3server"
)

var store *blob.Store

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	server, err := s3server.Start(ctx, s3server.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	defer server.Stop()
	if err := server.MakeBucket(ctx, "nofx-tree"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	store, err = blob.Open(blob.Config{Endpoint: server.Endpoint, Bucket: "nofx-tree", Region: server.Region,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// stored is one tenant's content in the bucket, and its own Locator.
type stored struct {
	t      testing.TB
	tenant uuid.UUID
	src    *Source

	mu    sync.Mutex
	at    map[Digest]Location
	asked int // digests

	condemned []string // keys
}

func newStored(t testing.TB) *stored {
	s := &stored{t: t, tenant: uuid.New(), at: map[Digest]Location{}}
	s.src = &Source{Blobs: store, Locator: s}
	return s
}

func (s *stored) CondemnObject(_ context.Context, _ uuid.UUID, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.condemned = append(s.condemned, key)
	return nil
}

func (s *stored) LocateBlobs(_ context.Context, tenant uuid.UUID, digests []Digest) (map[Digest]Location, error) {
	if tenant != s.tenant {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked += len(digests)
	found := map[Digest]Location{}
	for _, d := range digests {
		if loc, ok := s.at[d]; ok {
			found[d] = loc
		}
	}
	return found, nil
}

func (s *stored) put(key string, b []byte) {
	s.t.Helper()
	if err := store.Put(s.t.Context(), key, bytes.NewReader(b), int64(len(b)), blob.PutOptions{}); err != nil {
		s.t.Fatalf("Put(%s): %v", key, err)
	}
}

// own stores content as an object of its own.
func (s *stored) own(content []byte) Digest {
	d := Sum(content)
	s.put(blob.BlobKey(s.tenant, d), content)
	s.at[d] = Location{Len: int64(len(content)), Size: int64(len(content))}
	return d
}

// pack stores contents in one pack, with gap bytes of filling between them.
func (s *stored) pack(gap int, contents ...[]byte) (pack Digest) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer enc.Close()
	var b []byte
	at := map[Digest]Location{}
	for _, c := range contents {
		off := len(b)
		b = enc.EncodeAll(c, b)
		at[Sum(c)] = Location{Pack: &pack, Off: int64(off), Len: int64(len(b) - off), Size: int64(len(c))}
		b = append(b, make([]byte, gap)...)
	}
	pack = Sum(b)
	s.put(blob.PackKey(s.tenant, pack), b)
	maps.Copy(s.at, at)
	return pack
}

// tree stores a workspace of files by path, all in one pack; a path that ends
// in a slash is an empty directory.
func (s *stored) tree(files map[string]string) Digest {
	var contents [][]byte
	var build func(prefix string) Digest
	build = func(prefix string) Digest {
		var entries []Entry
		for _, p := range slices.Sorted(maps.Keys(files)) {
			rest, ok := strings.CutPrefix(p, prefix)
			name, below, isDir := strings.Cut(rest, "/")
			if !ok || name == "" || slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == name }) {
				continue
			}
			e := Entry{Name: name, Mode: File, Digest: Sum([]byte(files[p])), Size: int64(len(files[p]))}
			if isDir {
				e.Mode, e.Digest = Directory, Empty
				if below != "" {
					e.Digest = build(prefix + name + "/")
				}
			} else {
				contents = append(contents, []byte(files[p]))
			}
			entries = append(entries, e)
		}
		slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		node := Encode(entries)
		contents = append(contents, node)
		return Sum(node)
	}
	root := build("")
	s.pack(0, contents...)
	return root
}
