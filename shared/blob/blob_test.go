package blob

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

func random(t testing.TB, n int) ([]byte, [32]byte) {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	return b, sha256.Sum256(b)
}

func put(t testing.TB, s *Store, b []byte) (key string) {
	t.Helper()
	key = BlobKey(uuid.New(), sha256.Sum256(b))
	if err := s.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), PutOptions{}); err != nil {
		t.Fatalf("Put(%s, %d bytes): %v", key, len(b), err)
	}
	return key
}

func read(t testing.TB, s *Store, key string, off, length int64) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context(), key, off, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestPutOpen(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, size := range []int{0, 1, 255, 1 << 20, partSize, partSize + 1, 2*partSize + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			want, sum := random(t, size)
			key := BlobKey(uuid.New(), sum)
			opts := PutOptions{ContentType: "text/x-test", SHA256: &sum}
			for range 2 { // the same key means the same bytes: again is harmless
				if err := s.Put(t.Context(), key, bytes.NewReader(want), int64(size), opts); err != nil {
					t.Fatalf("Put(%d bytes): %v", size, err)
				}
			}
			r, err := s.Open(t.Context(), key, 0, -1)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			defer r.Close()
			got, err := io.ReadAll(Verify(r, sum, int64(size)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("Open(whole) = %d bytes, %v, want %d equal bytes", len(got), err, size)
			}
			info, err := s.Stat(t.Context(), key)
			if err != nil || info.Size != int64(size) || info.ContentType != "text/x-test" || info.Modified.IsZero() {
				t.Errorf("Stat = %+v, %v, want size %d, type text/x-test and a time", info, err, size)
			}
		})
	}
}

func TestOpenRange(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	b := []byte("0123456789")
	key := put(t, s, b)
	for _, c := range []struct {
		off, length int64
		want        string
		kind        fault.Kind
	}{
		{0, -1, "0123456789", ""},
		{0, 10, "0123456789", ""},
		{0, 1, "0", ""},
		{3, 4, "3456", ""},
		{9, 1, "9", ""},
		{7, -1, "789", ""},
		{4, 0, "", ""},
		{7, 4, "", fault.Conflict}, // shorter than it was: truncated
		{10, 1, "", fault.Conflict},
		{99, 5, "", fault.Conflict},
	} {
		got, err := read(t, s, key, c.off, c.length)
		if string(got) != c.want || fault.KindOf(err) != c.kind {
			t.Errorf("Open(%d, %d) = %q, %v, want %q, kind %q", c.off, c.length, got, err, c.want, c.kind)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := put(t, s, []byte("short-lived"))
	for range 2 { // deleting what is gone is no error
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	_, openErr := read(t, s, key, 0, 5)
	_, statErr := s.Stat(t.Context(), key)
	for name, err := range map[string]error{"Open": openErr, "Stat": statErr} {
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != fault.Gone || e.Code != "object-gone" {
			t.Errorf("%s(deleted) = %v, want Gone, object-gone", name, err)
		}
		if lost, _ := Lost(fmt.Errorf("%s: %w", name, At("another", err))); lost != key {
			t.Errorf("Lost(%s) = %q, want %q", name, lost, key)
		}
		if ok && strings.Contains(e.Detail, key) {
			t.Errorf("%s(deleted) tells the key in its detail: %q", name, e.Detail)
		}
	}
}

func TestPutRefusesOtherContent(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	small, smallSum := random(t, 1000)
	large, largeSum := random(t, partSize+1000)
	broken := errors.New("disk on fire")
	for _, c := range []struct {
		name string
		r    io.Reader
		size int
		sum  [32]byte
		kind fault.Kind
	}{
		{"fewer bytes", bytes.NewReader(small[:900]), 1000, smallSum, fault.Conflict},
		{"more bytes", bytes.NewReader(append(small, 'x')), 1000, smallSum, fault.Conflict},
		{"another digest", bytes.NewReader(small), 1000, largeSum, fault.Conflict},
		{"fewer bytes in parts", bytes.NewReader(large[:partSize+1]), len(large), largeSum, fault.Conflict},
		{"more bytes in parts", bytes.NewReader(append(large, 'x')), len(large), largeSum, fault.Conflict},
		{"another digest in parts", bytes.NewReader(large), len(large), smallSum, fault.Conflict},
		{"unreadable", iotest.ErrReader(broken), 1000, smallSum, ""},
		{"unreadable at its end", io.MultiReader(bytes.NewReader(small), iotest.ErrReader(broken)), 1000, smallSum, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key := BlobKey(uuid.New(), c.sum)
			err := s.Put(t.Context(), key, c.r, int64(c.size), PutOptions{SHA256: &c.sum})
			if err == nil || fault.KindOf(err) != c.kind {
				t.Errorf("Put = %v, want kind %q", err, c.kind)
			}
			if _, err := s.Stat(t.Context(), key); !errors.Is(err, fault.Gone) {
				t.Errorf("Stat after refused Put = %v, want Gone", err)
			}
			left, err := s.core.ListMultipartUploads(t.Context(), s.cfg.Bucket, key, "", "", "", 10)
			if err != nil || len(left.Uploads) != 0 {
				t.Errorf("ListMultipartUploads(%s) = %v, %v, want none", key, left.Uploads, err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	b, sum := random(t, 5000)
	flipped := bytes.Clone(b)
	flipped[2500] ^= 1
	for _, c := range []struct {
		name string
		in   []byte
		kind fault.Kind
	}{
		{"same", b, ""}, {"flipped", flipped, fault.Conflict}, {"truncated", b[:4999], fault.Conflict},
		{"longer", append(bytes.Clone(b), 0), fault.Conflict}, {"empty", nil, fault.Conflict},
	} {
		for how, r := range map[string]io.Reader{
			"whole": bytes.NewReader(c.in), "by byte": iotest.OneByteReader(bytes.NewReader(c.in)),
			"data with EOF": iotest.DataErrReader(bytes.NewReader(c.in)),
		} {
			got, err := io.ReadAll(Verify(r, sum, 5000))
			if fault.KindOf(err) != c.kind || len(got) > 5000 {
				t.Errorf("Verify(%s, %s) = %d bytes, %v, want kind %q", c.name, how, len(got), err, c.kind)
			}
		}
	}
}

func TestLost(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	for _, tt := range []struct {
		err error
		key string
		ok  bool
	}{
		{nil, "", false},
		{cause, "", false},
		{At("k", cause), "", false},
		{At("k", unavailable(cause)), "", false},
		{Gone(cause), "", true},
		{At("k", Gone(cause)), "k", true},
		{fmt.Errorf("wrapped: %w", At("k", fmt.Errorf("wrapped: %w", Corrupt(cause)))), "k", true},
	} {
		if key, ok := Lost(tt.err); key != tt.key || ok != tt.ok {
			t.Errorf("Lost(%v) = %q, %t, want %q, %t", tt.err, key, ok, tt.key, tt.ok)
		}
	}
}

// proxy returns the real server behind a handler that may answer in its place.
func proxy(t *testing.T, before func(w http.ResponseWriter, r *http.Request) (answered bool)) (endpoint string) {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // the signature covers it
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !before(w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Every third request fails and a large upload still arrives whole.
func TestFlakyStorage(t *testing.T) {
	t.Parallel()
	var n, failed atomic.Int64
	endpoint := proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%3 != 0 {
			return false
		}
		failed.Add(1)
		w.WriteHeader([]int{500, 503, 429}[n.Load()/3%3])
		return true
	})
	s := open(t, func(c *Config) { c.Endpoint = endpoint })
	want, _ := random(t, partSize+1)
	got, err := read(t, s, put(t, s, want), 0, -1)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Open after flaky Put = %d bytes, %v, want %d equal bytes", len(got), err, len(want))
	}
	if failed.Load() == 0 {
		t.Error("no request was made to fail")
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + l.Addr().String()
	l.Close()
	release := make(chan struct{})
	silent := proxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", "5000")
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	t.Cleanup(func() { close(release) })
	for _, c := range []struct{ name, endpoint, bucket string }{
		{"refused", refused, ""},
		{"503", proxy(t, func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }), ""},
		{"silent", silent, ""},
		{"no such bucket", "", "there-is-no-such-bucket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, func(cfg *Config) {
				if c.endpoint != "" {
					cfg.Endpoint = c.endpoint
				}
				if c.bucket != "" {
					cfg.Bucket = c.bucket
				}
			})
			s.stall = 300 * time.Millisecond
			_, openErr := read(t, s, "t/x", 0, -1)
			for call, err := range map[string]error{
				"Open": openErr,
				"Put":  s.Put(t.Context(), "t/x", strings.NewReader("abc"), 3, PutOptions{}),
				"Ping": s.Ping(t.Context()),
			} {
				e, ok := errors.AsType[*fault.Error](err)
				if !ok || e.Kind != fault.Unavailable || e.RetryAfter <= 0 {
					t.Errorf("%s = %v, want Unavailable with RetryAfter", call, err)
				}
			}
		})
	}
}

// A storage that lets a request wait is told of, with its host, and the wait grows with
// what was sent.
func TestSilentStorage(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	silent := proxy(t, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	t.Cleanup(func() { close(release) })
	s := open(t, func(cfg *Config) { cfg.Endpoint = silent })
	var log bytes.Buffer
	s.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
	s.stall = 300 * time.Millisecond
	if err := s.Put(t.Context(), "t/x", strings.NewReader("abc"), 3, PutOptions{}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Put() = %v, want it unavailable", err)
	}
	host := strings.TrimPrefix(silent, "http://")
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "host="+host+" doing=put key=t/x try=1") {
		t.Errorf("log = %q, want one line with %s", got, host)
	}
	if small, part := s.patience(148), s.patience(partSize); small < s.stall/3 || small > s.stall/2 || part != s.stall {
		t.Errorf("patience = %s for 148 bytes and %s for a part, want a third of %s and all of it", small, part, s.stall)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	if err := open(t, nil).Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v, want nil", err)
	}
}

// The bucket itself serves as the prefix here, so that the real server checks
// the signature over the whole path.
func TestPathPrefix(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *Config) { c.PathPrefix, c.Bucket = c.Bucket+"/", "below" })
	want, _ := random(t, partSize+10)
	key := put(t, s, want)
	if got, err := read(t, s, key, 0, -1); err != nil || !bytes.Equal(got, want) {
		t.Errorf("Open under a prefix = %d bytes, %v, want %d equal bytes", len(got), err, len(want))
	}
	plain := open(t, nil)
	if info, err := plain.Stat(t.Context(), "below/"+key); err != nil || info.Size != int64(len(want)) {
		t.Errorf("Stat(below the prefix) = %+v, %v, want size %d", info, err, len(want))
	}
	u, err := s.SignedURL(t.Context(), key, "x", time.Minute)
	if err != nil {
		t.Fatalf("SignedURL: %v", err)
	}
	if status, body := fetch(t, http.MethodGet, u); status != 200 || !bytes.Equal(body, want) {
		t.Errorf("GET signed URL under a prefix = %d, %d bytes, want 200, %d equal bytes", status, len(body), len(want))
	}
}

func TestOpenConfig(t *testing.T) {
	t.Parallel()
	good := Config{Endpoint: "https://s3.example.com", Bucket: "b", AccessKey: "a", SecretKey: "s"}
	for name, edit := range map[string]func(*Config){
		"no endpoint": func(c *Config) { c.Endpoint = "" }, "no scheme": func(c *Config) { c.Endpoint = "s3.example.com" },
		"with path": func(c *Config) { c.Endpoint += "/storage" }, "public": func(c *Config) { c.PublicEndpoint = "ftp://x" },
		"no bucket": func(c *Config) { c.Bucket = "" }, "no key": func(c *Config) { c.SecretKey = "" },
	} {
		cfg := good
		edit(&cfg)
		if _, err := Open(cfg); err == nil {
			t.Errorf("Open(%s) = nil error, want one", name)
		}
	}
	if _, err := Open(good); err != nil {
		t.Errorf("Open(good) = %v, want nil", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	tenant := uuid.MustParse("0190A1B2-0000-7000-8000-00000000000A")
	run, step := uuid.MustParse("00000000-0000-0000-0000-0000000000b1"), uuid.MustParse("00000000-0000-0000-0000-0000000000c2")
	sum := sha256.Sum256(nil)
	const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	got := []string{BlobKey(tenant, sum), PackKey(tenant, sum), LogKey(tenant, run, step, 3, 17)}
	want := []string{
		"t/0190a1b200007000800000000000000a/blob/e3/" + hex,
		"t/0190a1b200007000800000000000000a/pack/e3/" + hex,
		"t/0190a1b200007000800000000000000a/log/000000000000000000000000000000b1/000000000000000000000000000000c2/3-17",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
}
