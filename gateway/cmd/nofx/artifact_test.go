package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// bucket is a storage that fails the first few requests.
type bucket struct {
	t        *testing.T
	content  string
	failures int // requests still to fail: a PUT by 503, a GET half-way
	requests []string
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		b.t.Errorf("%s with the key of the gateway", r.Method)
	}
	b.requests = append(b.requests, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
	fails := b.failures > 0
	b.failures--
	if r.Method == http.MethodPut {
		body, _ := io.ReadAll(r.Body)
		if fails {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		b.content = string(body)
		return
	}
	from, status := 0, http.StatusOK
	if spec := r.Header.Get("Range"); spec != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(spec, "bytes="), "-"))
		status = http.StatusPartialContent
	}
	rest := b.content[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	w.WriteHeader(status)
	if fails {
		rest = rest[:len(rest)/2] // less than was said: the connection is cut
	}
	_, _ = io.WriteString(w, rest)
}

func newBucket(t *testing.T, content string, failures int) (*bucket, string) {
	b := &bucket{t: t, content: content, failures: failures}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return b, server.URL + "/signed"
}

func TestArtifactUpload(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("bytes of a file\n", 1000)
	b, url := newBucket(t, "", 1)
	made := api.Artifact{ID: id("art", 1), Name: "tree.tar.gz", MediaType: "application/gzip", SizeBytes: int64(len(content)), Sha256: sumOf(content), CreatedAt: now}
	keys := map[string]bool{}
	_, server := newGateway(t, map[string]http.HandlerFunc{
		"createArtifact": func(w http.ResponseWriter, r *http.Request) {
			var in api.ArtifactRequest
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Sha256 != made.Sha256 || in.SizeBytes != made.SizeBytes || in.Name != made.Name {
				t.Errorf("announced %+v, %v, want %+v", in, err, made)
			}
			keys[r.Header.Get("Idempotency-Key")] = true
			answer(http.StatusCreated, api.CreatedArtifact{Artifact: made, Upload: &api.Upload{
				Method: api.UploadMethodPUT, URL: url, ExpiresAt: now, Headers: map[string]string{"Content-Length": strconv.Itoa(len(content))}}})(w, r)
		},
		"completeArtifact": func(w http.ResponseWriter, r *http.Request) {
			if b.content != content {
				t.Errorf("completed with %d bytes in storage, want the file", len(b.content))
			}
			answer(http.StatusOK, api.ArtifactAnswer{Artifact: made})(w, r)
		},
	})
	c := newCLI(t, server.URL)
	file := filepath.Join(c.dir, "tree.tar.gz")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got := c.transcript(t.Context(), "artifact", "upload", file, "--media-type", "application/gzip")
	golden(t, "artifact-upload", strings.ReplaceAll(got, c.dir+"/", ""))
	if len(b.requests) != 2 || len(keys) != 1 || keys[""] {
		t.Errorf("uploads = %v, keys %v, want one repeated, for one artifact", b.requests, keys)
	}
}

// Having an upload verified may be asked again: connections break while it takes
// its time, and gateways restart. Who is left without a verdict is told how to go on.
func TestArtifactUploadIsVerified(t *testing.T) {
	t.Parallel()
	const content = "bytes"
	made := api.Artifact{ID: id("art", 1), Name: "f", MediaType: "text/plain", SizeBytes: int64(len(content)), Sha256: sumOf(content), CreatedAt: now}
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	refuses := func(status int, code api.ProblemCode) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { problem(w, r, status, api.Problem{Code: code}) }
	}
	verifying := answer(http.StatusAccepted, api.ArtifactAnswer{Artifact: made, VerifyRunID: ptr(id("run", 2))})
	down := refuses(http.StatusServiceUnavailable, api.ProblemCodeUnavailable)
	for name, tt := range map[string]struct {
		answers []http.HandlerFunc // to tries in turn; the last one stays
		flags   []string
		exit    int
		tries   int
		told    bool
	}{
		"at once":                    {[]http.HandlerFunc{answer(http.StatusOK, api.ArtifactAnswer{Artifact: made})}, nil, exitOK, 1, false},
		"when a worker has verified": {[]http.HandlerFunc{verifying, breaks, verifying, answer(http.StatusOK, api.ArtifactAnswer{Artifact: made})}, nil, exitOK, 4, false},
		"in the end":                 {[]http.HandlerFunc{breaks, down, down, down, breaks, answer(http.StatusOK, api.ArtifactAnswer{Artifact: made})}, nil, exitOK, 6, false},
		"never":                      {[]http.HandlerFunc{down}, nil, exitFailed, patientTries, true},
		"never, for a script":        {[]http.HandlerFunc{down}, []string{"--json"}, exitFailed, patientTries, false},
		"connections always break":   {[]http.HandlerFunc{breaks}, []string{"--json"}, exitFailed, patientTries, true},
		"the gateway has a mistake":  {[]http.HandlerFunc{refuses(http.StatusInternalServerError, api.ProblemCodeInternal)}, nil, exitFailed, 1, true},
		"the bytes are others":       {[]http.HandlerFunc{refuses(http.StatusConflict, api.ProblemCodeObjectCorrupt)}, nil, exitRefused, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBucket(t, "", 0)
			var tries atomic.Int32
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"createArtifact": answer(http.StatusCreated, api.CreatedArtifact{Artifact: made, Upload: &api.Upload{
					Method: api.UploadMethodPUT, URL: url, ExpiresAt: now, Headers: map[string]string{}}}),
				"completeArtifact": func(w http.ResponseWriter, r *http.Request) {
					tt.answers[min(int(tries.Add(1)), len(tt.answers))-1](w, r)
				},
			})
			c := newCLI(t, server.URL)
			file := filepath.Join(c.dir, "f")
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := execute(t.Context(), c.app, append([]string{"artifact", "upload", file}, tt.flags...)); got != tt.exit || int(tries.Load()) != tt.tries {
				t.Errorf("artifact upload = exit %d after %d tries, want %d after %d: %s", got, tries.Load(), tt.exit, tt.tries, &c.errOut)
			}
			if got := strings.Contains(c.errOut.String(), "to continue: nofx artifact complete "+made.ID); got != tt.told {
				t.Errorf("artifact upload tells how to go on = %v, want %v: %s", got, tt.told, &c.errOut)
			}
			if len(b.requests) != 1 {
				t.Errorf("uploads = %v, want one", b.requests)
			}
			for _, d := range c.pauses {
				if d > maxBackoff {
					t.Errorf("paused %v, want at most %v", d, maxBackoff)
				}
			}
		})
	}
}

func downloads(t *testing.T, content, url string) *cli {
	_, server := newGateway(t, map[string]http.HandlerFunc{
		"getArtifact": answer(http.StatusOK, api.ArtifactAnswer{Artifact: api.Artifact{ID: id("art", 1), Name: "../report.txt", MediaType: "text/plain",
			SizeBytes: int64(len(content)), Sha256: sumOf(content), CreatedAt: now, URL: &url, ExpiresAt: ptr(now)}}),
	})
	return newCLI(t, server.URL)
}

func TestArtifactDownload(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789", 100)
	b, url := newBucket(t, content, 2)
	c := downloads(t, content, url)
	var terminal bytes.Buffer
	c.app.errOut = &terminal
	c.screen = func() (int, int) { return 80, 24 }
	file := filepath.Join(c.dir, "report.txt")
	got := c.transcript(t.Context(), "artifact", "download", id("art", 1), "-o", file)
	golden(t, "artifact-download", strings.ReplaceAll(got, c.dir+"/", ""))
	if left, err := os.ReadFile(file); err != nil || string(left) != content {
		t.Errorf("file = %d bytes, %v, want %d", len(left), err, len(content))
	}
	if want := "GET, GET bytes=500-, GET bytes=750-"; strings.Join(b.requests, ", ") != want {
		t.Errorf("requests = %v, want %s", b.requests, want)
	}
	if s := terminal.String(); !strings.Contains(s, "down 1000 B of 1000 B, 100 %") {
		t.Errorf("the terminal shows %q, want how far it is", s)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// The file that is there is the one; another is not replaced.
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file}); code != exitOK || len(b.requests) != 3 {
		t.Errorf("again = exit %d after %d requests, want 0 and none", code, len(b.requests))
	}
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file}); code != exitUsage {
		t.Errorf("over another file = exit %d, want %d", code, exitUsage)
	}
	if left, _ := os.ReadFile(file); string(left) != "mine" {
		t.Errorf("the other file = %q, want it as it was", left)
	}
}

// A storage that hangs is named, and not waited for again and again.
func TestStorageHangs(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789", 10)
	for name, sent := range map[string]int{"before its answer": -1, "within its answer": 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				if r.Method == http.MethodGet && sent >= 0 {
					w.Header().Set("Content-Length", strconv.Itoa(len(content)))
					_, _ = io.WriteString(w, content[:sent])
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}))
			t.Cleanup(hangs.Close)
			url := hangs.URL + "/signed"
			made := api.Artifact{ID: id("art", 1), Name: "f", MediaType: "text/plain", SizeBytes: int64(len(content)), Sha256: sumOf(content), CreatedAt: now, URL: &url, ExpiresAt: ptr(now)}
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"getArtifact":    answer(http.StatusOK, api.ArtifactAnswer{Artifact: made}),
				"createArtifact": answer(http.StatusCreated, api.CreatedArtifact{Artifact: made, Upload: &api.Upload{Method: api.UploadMethodPUT, URL: url, ExpiresAt: now, Headers: map[string]string{}}}),
			})
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"download", id("art", 1), "-o", file + "2"}, {"upload", file}} {
				c := newCLI(t, server.URL)
				c.stall = 300 * time.Millisecond
				requests.Store(0)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				code := execute(ctx, c.app, append([]string{"artifact"}, args...))
				want := args[0] + ": the storage at " + strings.TrimPrefix(hangs.URL, "http://") + " does not respond"
				if code != exitFailed || !strings.Contains(c.errOut.String(), want) || requests.Load() != 1 {
					t.Errorf("%v = exit %d after %d requests, %q; want %d after 1, %q", args, code, requests.Load(), &c.errOut, exitFailed, want)
				}
			}
		})
	}
}

// Bytes that are others do not get the name.
func TestArtifactDownloadVerifies(t *testing.T) {
	t.Parallel()
	_, url := newBucket(t, strings.Repeat("x", 100), 0)
	c := downloads(t, strings.Repeat("y", 100), url)
	file := filepath.Join(c.dir, "f")
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file}); code != exitFailed {
		t.Errorf("download of other bytes = exit %d, want %d", code, exitFailed)
	}
	if !strings.Contains(c.app.errOut.(*bytes.Buffer).String(), "it was discarded") {
		t.Errorf("it says %s, want that it was discarded", c.app.errOut)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Somebody else may have put a link where the download is kept until it is whole.
func TestDownloadFollowsNoLink(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("y", 100)
	_, url := newBucket(t, content, 0)
	for name, make := range map[string]func(dir, part string) error{
		"to a file":    func(dir, part string) error { return os.Symlink(filepath.Join(dir, "mine"), part) },
		"to no file":   func(dir, part string) error { return os.Symlink(filepath.Join(dir, "none"), part) },
		"not, a place": func(_, part string) error { return os.Mkdir(part, 0o700) },
		"a hard one":   func(dir, part string) error { return os.Link(filepath.Join(dir, "mine"), part) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := downloads(t, content, url)
			mine, file := filepath.Join(c.dir, "mine"), filepath.Join(c.dir, "f")
			if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := make(c.dir, partOf(file, content)); err != nil {
				t.Fatal(err)
			}
			code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file})
			if code != exitUsage || !strings.Contains(c.errOut.String(), filepath.Base(partOf(file, content))) {
				t.Errorf("download = exit %d, %q; want %d, and what is in the way", code, &c.errOut, exitUsage)
			}
			if left, _ := os.ReadFile(mine); string(left) != "mine" {
				t.Errorf("the file behind the link = %q, want it as it was", left)
			}
			if _, err := os.Stat(filepath.Join(c.dir, "none")); err == nil {
				t.Error("a file was made behind the link")
			}
		})
	}
}

func TestDownloadGoesOnFromItsPart(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789", 10)
	b, url := newBucket(t, content, 0)
	c := downloads(t, content, url)
	file := filepath.Join(c.dir, "f")
	if err := os.WriteFile(partOf(file, content), []byte(content[:40]), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file}); code != exitOK || strings.Join(b.requests, ", ") != "GET bytes=40-" {
		t.Errorf("download = exit %d by %v, want 0 by the rest alone: %s", code, b.requests, &c.errOut)
	}
	if got, err := os.ReadFile(file); string(got) != content {
		t.Errorf("file = %q, %v, want %q", got, err, content)
	}
}

// partOf returns where what arrived of a download is kept.
func partOf(file, content string) string { return file + "." + sumOf(content)[:16] + ".part" }

// A file that only looks like the part of a download is somebody's: it stays.
func TestDownloadLeavesOthersParts(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("y", 100)
	_, url := newBucket(t, content, 0)
	c := downloads(t, content, url)
	file := filepath.Join(c.dir, "f")
	for _, name := range []string{file + ".part", partOf(file, "another")} {
		if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", file}); code != exitOK {
		t.Errorf("download = exit %d, %s; want 0", code, &c.errOut)
	}
	for _, name := range []string{file + ".part", partOf(file, "another")} {
		if left, err := os.ReadFile(name); string(left) != "mine" {
			t.Errorf("%s = %q, %v; want it as it was", name, left, err)
		}
	}
}

// What is no regular file is neither read, which may never end, nor replaced.
func TestDownloadOverNoFile(t *testing.T) {
	t.Parallel()
	_, url := newBucket(t, "x", 0)
	for _, name := range []string{"/dev/zero", "/dev/full", "/dev/null", "/dev/stdout", "folder"} {
		c := downloads(t, "x", url)
		if name == "folder" {
			name = c.dir
		}
		if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1), "-o", name}); code != exitUsage || !strings.Contains(c.errOut.String(), "not a regular file") {
			t.Errorf("download -o %s = exit %d, %q; want %d and that it is not a regular file", name, code, &c.errOut, exitUsage)
		}
	}
}

// A name that the gateway proposes is not taken where it could surprise.
func TestLocalName(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"a.txt": true, "unit-evidence.json": true, "ü b.tar.gz": true, "a..b": true, "console.log": true,
		"": false, ".": false, "..": false, ".bashrc": false, ".ssh/authorized_keys": false, "../x": false, "/etc/passwd": false, "a/b": false,
		`C:\x\y.zip`: false, `a\b`: false, "c:x": false, "-rf": false, "a\x1bb": false, "a\nb": false, "a\u202eb": false, "a\x80b": false,
		"CON": false, "nul.txt": false, "com1": false, "a.": false, "a ": false, " a": false, strings.Repeat("x", 300): false,
	} {
		if got, err := localName(name); (err == nil) != good || good && got != name {
			t.Errorf("localName(%q) = %q, %v; want it taken: %v", name, got, err, good)
		}
	}
	_, url := newBucket(t, "x", 0)
	_, server := newGateway(t, map[string]http.HandlerFunc{"getArtifact": answer(http.StatusOK, api.ArtifactAnswer{Artifact: api.Artifact{
		ID: id("art", 1), Name: ".bashrc", MediaType: "text/plain", SizeBytes: 1, Sha256: sumOf("x"), CreatedAt: now, URL: &url, ExpiresAt: ptr(now)}})})
	c := newCLI(t, server.URL)
	if code := execute(t.Context(), c.app, []string{"artifact", "download", id("art", 1)}); code != exitUsage || !strings.Contains(c.errOut.String(), `".bashrc"`) || !strings.Contains(c.errOut.String(), "-o") {
		t.Errorf("download of .bashrc = exit %d, %q; want %d, and to be asked for -o", code, &c.errOut, exitUsage)
	}
	if _, err := os.Lstat(".bashrc"); err == nil {
		t.Error(".bashrc was made here")
	}
}

// TestDownloadToOutput writes what -o - asks for to standard output, verified and nothing
// else with it.
func TestDownloadToOutput(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("\x1f\x8b0123456\n", 100)
	for name, tt := range map[string]struct {
		stored, args string
		terminal     bool
		exit         int
		out, errOut  string
	}{
		"artifact": {content, "artifact download " + id("art", 1) + " -o -", false, exitOK, content, "../report.txt, 1000 B, SHA-256 verified\n"},
		"archive":  {content, "checkpoint archive " + id("run", 1) + " " + id("ckpt", 1) + " -o -", false, exitOK, content, "../report.txt, 1000 B, SHA-256 verified\n"},
		"terminal": {content, "artifact download " + id("art", 1) + " -o -", true, exitOK, strings.ReplaceAll(content, "\x1f\x8b", "^_\ufffd"), "../report.txt, 1000 B, SHA-256 verified\n"},
		"corrupt":  {strings.Repeat("x", 1000), "artifact download " + id("art", 1) + " --output=-", false, exitFailed, "", "it was discarded"},
		"json":     {content, "artifact download " + id("art", 1) + " -o - --json", false, exitUsage, "", "error: both -o - and --json write to standard output"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, url := newBucket(t, tt.stored, 1)
			made := api.Artifact{ID: id("art", 1), Name: "../report.txt", MediaType: "text/plain", SizeBytes: int64(len(content)), Sha256: sumOf(content), CreatedAt: now, URL: &url, ExpiresAt: ptr(now)}
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"getArtifact":       answer(http.StatusOK, api.ArtifactAnswer{Artifact: made}),
				"archiveCheckpoint": answer(http.StatusOK, api.CheckpointArchive{ArchiveRunID: id("run", 9), Artifact: &made}),
			})
			c := newCLI(t, server.URL)
			c.terminal = tt.terminal
			if got := execute(t.Context(), c.app, strings.Fields(tt.args)); got != tt.exit {
				t.Errorf("%s = exit %d, want %d", tt.args, got, tt.exit)
			}
			if got := c.out.String(); got != tt.out {
				t.Errorf("standard output = %.80q… of %d bytes, want %.80q… of %d", got, len(got), tt.out, len(tt.out))
			}
			if got := c.errOut.String(); !strings.Contains(got, tt.errOut) {
				t.Errorf("error output = %q, want %q in it", got, tt.errOut)
			}
			if _, err := os.Lstat("-"); err == nil {
				t.Error(`there is a file named "-"`)
			}
		})
	}
}
