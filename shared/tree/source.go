package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
)

// Small is the size in bytes below which content goes into a pack.
const Small = 256 << 10

// Fetching reads this much at once, that often side by side: together the bound
// of the memory it takes, beside what its caller makes of the content.
const (
	spanLimit = 4 << 20
	spanGap   = 128 << 10 // reading on is cheaper than another request
	parallel  = 4
	askAtOnce = 10_000 // digests per question to the Locator
	nodeLimit = 64 << 20
)

// Location says where the bytes of a digest are: in the pack of that digest at
// Off, as a zstd frame of Len bytes, or without Pack in an object of their own.
type Location struct {
	Pack     *Digest
	Off, Len int64
	Size     int64 // of the content
	Copy     int64 // of an object of its own: which copy of the content it is
	Purged   bool  // its bytes were deleted for good, and it is nowhere
}

// Key returns the key of the object that holds the content of digest d.
func (l Location) Key(tenant uuid.UUID, d Digest) string {
	if l.Pack != nil {
		return blob.PackKey(tenant, *l.Pack)
	}
	return blob.CopyKey(tenant, d, l.Copy)
}

// Blob is stored content: its digest, and where its bytes are.
type Blob struct {
	SHA256 Digest
	Location
}

// Object is an object in storage that holds content.
type Object struct {
	Key    string
	SHA256 Digest
	Bytes  int64
	Kind   string // blob, pack or log
}

// Locator knows where content is.
type Locator interface {
	// LocateBlobs has no key in its result for what is not there. What is condemned may be.
	LocateBlobs(ctx context.Context, tenant uuid.UUID, digests []Digest) (map[Digest]Location, error)
	// CondemnObject notes that the object at key is gone or corrupt, so that what it holds
	// is stored anew with the next checkpoint that names it.
	CondemnObject(ctx context.Context, tenant uuid.UUID, key string) error
}

// Source reads stored content. It is safe for concurrent use.
//
// Its errors are those of package blob: content without a location or object is
// fault.Gone (object-gone); content that is not what its digest and size say is
// fault.Conflict (object-corrupt). An object found so is condemned.
type Source struct {
	Blobs   *blob.Store
	Locator Locator
}

// Each calls fn once for each of the digests that differ, in no order and from
// several goroutines. fn reads content to its end, which is where the last of it
// is verified, and nothing after it returns. The first error ends Each.
func (s *Source) Each(ctx context.Context, tenant uuid.UUID, digests []Digest, fn func(d Digest, content io.Reader) error) error {
	located, err := s.locate(ctx, tenant, digests)
	if err != nil {
		return err
	}
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, sp := range spans(located) {
		if reading.Err() != nil {
			break
		}
		g.Go(func() error { return s.read(reading, tenant, sp, fn) })
	}
	if err := g.Wait(); err != nil {
		return s.condemn(ctx, tenant, err)
	}
	return ctx.Err()
}

// condemn condemns the object that err says is lost, if it does, and returns err.
func (s *Source) condemn(ctx context.Context, tenant uuid.UUID, err error) error {
	if key, _ := blob.Lost(err); key != "" {
		err = errors.Join(err, s.Locator.CondemnObject(ctx, tenant, key))
	}
	return err
}

// Open reads the content of one digest; what it reads is verified at the end.
func (s *Source) Open(ctx context.Context, tenant uuid.UUID, d Digest) (io.ReadCloser, error) {
	located, err := s.locate(ctx, tenant, []Digest{d})
	if err != nil {
		return nil, err
	}
	if loc := located[0]; loc.own() {
		key := loc.Key(tenant, d)
		r, err := s.Blobs.Open(ctx, key, 0, -1)
		if err != nil {
			return nil, s.condemn(ctx, tenant, err)
		}
		failed := func(err error) error { return s.condemn(ctx, tenant, blob.At(key, err)) }
		return &opened{blob.Verify(r, d, loc.Size), r, failed}, nil
	}
	var b []byte
	err = s.read(ctx, tenant, span{items: located}, func(_ Digest, content io.Reader) (err error) {
		b, err = io.ReadAll(content)
		return err
	})
	if err != nil {
		return nil, s.condemn(ctx, tenant, err)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Key returns the key of the object that holds the content of one digest.
func (s *Source) Key(ctx context.Context, tenant uuid.UUID, d Digest) (string, error) {
	located, err := s.locate(ctx, tenant, []Digest{d})
	if err != nil {
		return "", err
	}
	return located[0].Key(tenant, d), nil
}

// opened is an open object whose errors go through failed.
type opened struct {
	content io.Reader
	io.Closer
	failed func(error) error
}

func (o *opened) Read(p []byte) (int, error) {
	n, err := o.content.Read(p)
	if err != nil && err != io.EOF {
		err = o.failed(err)
	}
	return n, err
}

// Nodes reads directories.
func (s *Source) Nodes(ctx context.Context, tenant uuid.UUID, digests []Digest) (map[Digest][]Entry, error) {
	nodes := make(map[Digest][]Entry, len(digests))
	var mu sync.Mutex
	err := s.Each(ctx, tenant, digests, func(d Digest, content io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(content, nodeLimit))
		if err != nil {
			return err
		}
		entries, err := Decode(b)
		if err != nil {
			return blob.Corrupt(fmt.Errorf("%s: %w", d, err))
		}
		mu.Lock()
		defer mu.Unlock()
		nodes[d] = entries
		return nil
	})
	return nodes, err
}

// Files reads contents, each as a whole.
func (s *Source) Files(ctx context.Context, tenant uuid.UUID, digests []Digest) (map[Digest][]byte, error) {
	files := make(map[Digest][]byte, len(digests))
	var mu sync.Mutex
	err := s.Each(ctx, tenant, digests, func(d Digest, content io.Reader) error {
		b, err := io.ReadAll(content)
		mu.Lock()
		defer mu.Unlock()
		files[d] = b
		return err
	})
	return files, err
}

// item is one digest to read, and where it is.
type item struct {
	Digest
	Location
}

// own reports whether the content is an object of its own.
func (i item) own() bool { return i.Pack == nil && NeedsObject(i.Digest) }

func (i item) pack() (d Digest) {
	if i.Pack != nil {
		d = *i.Pack
	}
	return d
}

// sane refuses locations that no pack of ours can have, before they size a buffer.
func (i item) sane() bool {
	const longest = 1 << 40
	return i.Size >= 0 && (i.Pack == nil ||
		i.Size < Small && 0 < i.Len && i.Len <= spanLimit && 0 <= i.Off && i.Off <= longest)
}

// locate finds all of digests, each once.
func (s *Source) locate(ctx context.Context, tenant uuid.UUID, digests []Digest) ([]item, error) {
	digests = slices.Clone(digests)
	slices.SortFunc(digests, func(a, b Digest) int { return bytes.Compare(a[:], b[:]) })
	digests = slices.Compact(digests)

	items := make([]item, 0, len(digests))
	for known := range slices.Chunk(digests, askAtOnce) {
		ask := slices.DeleteFunc(slices.Clone(known), func(d Digest) bool { return !NeedsObject(d) })
		var found map[Digest]Location
		if len(ask) > 0 {
			var err error
			if found, err = s.Locator.LocateBlobs(ctx, tenant, ask); err != nil {
				return nil, fmt.Errorf("locate %d digests: %w", len(ask), err)
			}
		}
		for _, d := range known {
			loc, ok := found[d]
			if !ok && NeedsObject(d) {
				return nil, blob.Gone(fmt.Errorf("no location is known for %s", d))
			}
			if loc.Purged {
				return nil, blob.Purged(fmt.Errorf("%s was purged", d))
			}
			it := item{d, loc}
			if !it.sane() {
				return nil, blob.Corrupt(fmt.Errorf("%s: impossible location %+v", d, loc))
			}
			items = append(items, it)
		}
	}
	return items, nil
}

// span is what one read of storage brings: neighbours in one pack, or one object.
type span struct{ items []item }

// spans puts frames that lie close together in a pack into one read.
func spans(items []item) []span {
	slices.SortFunc(items, func(a, b item) int {
		p, q := a.pack(), b.pack()
		return cmp.Or(bytes.Compare(p[:], q[:]), cmp.Compare(a.Off, b.Off))
	})
	var all []span
	for _, it := range items {
		if n := len(all) - 1; n >= 0 && all[n].reaches(it) {
			all[n].items = append(all[n].items, it)
			continue
		}
		all = append(all, span{items: []item{it}})
	}
	return all
}

func (s span) reaches(next item) bool {
	first, last := s.items[0], s.items[len(s.items)-1]
	return first.Pack != nil && first.pack() == next.pack() &&
		next.Off-(last.Off+last.Len) <= spanGap && next.Off+next.Len-first.Off <= spanLimit
}

func (s *Source) read(ctx context.Context, tenant uuid.UUID, sp span, fn func(Digest, io.Reader) error) error {
	first := sp.items[0]
	if b, ok := wellKnown(first.Digest); ok {
		return fn(first.Digest, bytes.NewReader(b))
	}
	if first.own() {
		key := first.Key(tenant, first.Digest)
		r, err := s.Blobs.Open(ctx, key, 0, -1)
		if err != nil {
			return err
		}
		defer r.Close()
		return blob.At(key, fn(first.Digest, blob.Verify(r, first.Digest, first.Size)))
	}
	key := first.Key(tenant, first.Digest)
	packed, err := s.readPack(ctx, key, sp)
	if err != nil {
		return err
	}
	for _, it := range sp.items {
		content, err := unpack(packed[it.Off-first.Off:][:it.Len], it)
		if err == nil {
			err = fn(it.Digest, bytes.NewReader(content))
		}
		if err != nil {
			return blob.At(key, err)
		}
	}
	return nil
}

func (s *Source) readPack(ctx context.Context, key string, sp span) ([]byte, error) {
	first := sp.items[0]
	var end int64
	for _, it := range sp.items {
		end = max(end, it.Off+it.Len)
	}
	b := make([]byte, end-first.Off)
	r, err := s.Blobs.Open(ctx, key, first.Off, int64(len(b)))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read pack %s: %w", *first.Pack, err)
	}
	return b, nil
}

// decoder is one for all: DecodeAll may be called side by side. What it makes is
// bounded, whatever a broken frame claims.
var decoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(Small), zstd.WithDecoderConcurrency(parallel))
	if err != nil {
		panic(err) // options that never change
	}
	return d
}()

func unpack(frame []byte, it item) ([]byte, error) {
	b, err := decoder.DecodeAll(frame, make([]byte, 0, it.Size))
	if err == nil && int64(len(b)) != it.Size {
		err = fmt.Errorf("%d bytes instead of %d", len(b), it.Size)
	}
	if err == nil && Sum(b) != it.Digest {
		err = fmt.Errorf("digest %s instead", Sum(b))
	}
	if err != nil {
		return nil, blob.Corrupt(fmt.Errorf("%s: %w", it.Digest, err))
	}
	return b, nil
}
