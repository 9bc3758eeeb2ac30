package s3server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"

	"nofx.dev/shared/servertest/filelock"
)

// TestMain lets the test binary stand in for a process that starts a server and
// is then killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("BLOBTEST_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Endpoint)
	<-s.Done()
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Start(%+v) = %v, want a server", cfg, err)
	}
	t.Cleanup(s.Stop)
	return s
}

func read(t *testing.T, s *Server, key string) string {
	t.Helper()
	obj, err := s.client.GetObject(t.Context(), "bucket", key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Close()
	b, err := io.ReadAll(obj)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return string(b)
}

func TestTemporaryServer(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	for range 2 { // the second time it is there
		if err := s.MakeBucket(t.Context(), "bucket"); err != nil {
			t.Errorf("MakeBucket(bucket) = %v, want nil", err)
		}
	}
	const body = "some bytes"
	_, err := s.client.PutObject(t.Context(), "bucket", "a/b/c", bytes.NewReader([]byte(body)), int64(len(body)),
		minio.PutObjectOptions{ContentType: "text/x-test", UserMetadata: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatalf("PutObject() = %v, want nil", err)
	}
	info, err := s.client.StatObject(t.Context(), "bucket", "a/b/c", minio.StatObjectOptions{})
	if err != nil || info.ContentType != "text/x-test" || info.UserMetadata["K"] != "v" {
		t.Errorf("StatObject() = %+v, %v, want type text/x-test and k=v", info, err)
	}
	url, err := s.client.PresignedGetObject(t.Context(), "bucket", "a/b/c", time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(url.String())
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || string(got) != body {
		t.Errorf("GET signed URL = %d %q, want 200 %q", resp.StatusCode, got, body)
	}
	url.RawQuery = ""
	if resp, err = http.Get(url.String()); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("GET unsigned = %d, want 403", resp.StatusCode)
	}
	s.Stop()
	if _, err := os.Stat(s.dir.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat(objects after Stop) = %v, want not exist", err)
	}
	if err := syscall.Kill(s.proc.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("Kill(server after Stop, 0) = %v, want ESRCH", err)
	}
}

func TestObjectsAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	if err := s.MakeBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.PutObject(t.Context(), "bucket", "key", bytes.NewReader([]byte("kept")), 4, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Start(ctx, Config{Dir: dir}); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("Start(directory in use) = %v, want ErrHeld", err)
	}
	key := s.SecretKey
	s.proc.Signal(syscall.SIGKILL)
	<-s.Done()
	s.Stop()
	s = start(t, Config{Dir: dir})
	if s.SecretKey != key {
		t.Error("SecretKey is another after a restart, want the same")
	}
	if got := read(t, s, "key"); got != "kept" {
		t.Errorf("object after a restart = %q, want kept", got)
	}
}

func TestKilledParentTakesTheServerAlong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "BLOBTEST_TEST_DIR="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var endpoint string
	if _, err := fmt.Fscan(out, &endpoint); err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	lock, err := filelock.Wait(ctx, filepath.Join(dir, "lock")) // the server inherited it
	if err != nil {
		t.Fatalf("Wait(lock of the server) = %v after its parent was killed, want nil", err)
	}
	lock.Close()
}

func TestBuildKey(t *testing.T) {
	t.Parallel()
	key := func(mod, sum, main string) string {
		dir := t.TempDir()
		for name, content := range map[string]string{"go.mod": mod, "go.sum": sum, "main.go": main} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		k, err := buildKey(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	a := key("module m\n", "x", "m")
	if diff := cmp.Diff(a, key("module m\n", "x", "m")); diff != "" {
		t.Errorf("buildKey of the same files (-first +second):\n%s", diff)
	}
	for name, other := range map[string]string{"go.mod": key("module n\n", "x", "m"), "go.sum": key("module m\n", "y", "m"), "main.go": key("module m\n", "x", "n")} {
		if other == a {
			t.Errorf("buildKey with another %s = the same key, want another", name)
		}
	}
}
