package integration_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// noise returns n bytes, the same each time.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), n)
}

// TestUploadIsVerifiedByAWorker kills the worker that verifies a large upload (of
// NOFX_TEST_UPLOAD_MIB, 48 if unset). Another verifies it once more, and its bytes never
// pass through the gateway.
func TestUploadIsVerifiedByAWorker(t *testing.T) {
	t.Parallel()
	size := int64(48 << 20)
	if n, err := strconv.ParseInt(os.Getenv("NOFX_TEST_UPLOAD_MIB"), 10, 64); err == nil {
		size = n << 20
	}
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}})
	doomed := s.doomed(t, 1)
	s.arm(t, doomed, "mid_upload")
	awaitDeath := s.deaths(t, doomed)

	sum := sha256.New()
	if _, err := io.Copy(sum, noise(size)); err != nil {
		t.Fatal(err)
	}
	a := decode[api.CreatedArtifact](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/artifacts",
		map[string]any{"name": "noise", "size_bytes": size, "sha256": hex.EncodeToString(sum.Sum(nil))}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, a.Upload.URL, bufio.NewReaderSize(noise(size), 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT = %d, want 200", resp.StatusCode)
	}

	before := gatewayOf(t, s)
	complete := "/api/artifacts/" + a.Artifact.ID + "/complete"
	runID := decode[api.ArtifactAnswer](t, s.do(t, http.StatusAccepted, http.MethodPost, complete+"?wait_s=0", nil)).VerifyRunID
	if runID == nil {
		t.Fatal("complete names no run, want the one that verifies")
	}
	awaitDeath()
	if _, err := s.AddWorker(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := s.await(t, *runID, api.RunStatusSucceeded)
	after := gatewayOf(t, s)
	t.Logf("%d MiB; from the second worker's start to the run's end %v; of the gateway: %d MiB read, peak memory %d to %d MiB",
		size>>20, time.Since(began).Round(time.Millisecond), (after.read-before.read)>>20, before.peak>>20, after.peak>>20)
	if st := d.Steps[0]; d.Run.Kind != api.RunKindSystem || st.Tool != "sys:verify" || st.Attempts != 2 {
		t.Errorf("run = %s, step = %s after %d attempts, want a system run of sys:verify after two", d.Run.Kind, st.Tool, st.Attempts)
	}
	got := decode[api.ArtifactAnswer](t, s.do(t, http.StatusOK, http.MethodPost, complete, nil)).Artifact
	if got.SizeBytes != size {
		t.Errorf("artifact = %d bytes, want %d", got.SizeBytes, size)
	}
	if read := after.read - before.read; read > size/4 {
		t.Errorf("the gateway read %d bytes meanwhile, want far less than the %d of the upload", read, size)
	}
	if list := items[api.Run](t, s.client, "/api/runs", "10"); len(list) != 0 {
		t.Errorf("runs = %d, want no system run among them", len(list))
	}
	if list := items[api.Run](t, s.client, "/api/runs?kind=system", "10"); len(list) != 1 || list[0].ID != *runID {
		t.Errorf("system runs = %+v, want the one", list)
	}
}

// use is what a process has read so far, from files and connections, and the most memory
// that it held.
type use struct{ read, peak int64 }

// gatewayOf returns the use of the gateway, as the kernel counts it.
func gatewayOf(t *testing.T, s *system) use {
	t.Helper()
	number := func(file, name string) int64 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.Gateway.PID(), file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatalf("%s has no %s", file, name)
		return 0
	}
	return use{read: number("io", "rchar"), peak: number("status", "VmHWM") << 10}
}
