package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"nofx.dev/shared/servertest/child"
)

// forge is a pull request on a strict fake of GitHub and of Bitbucket, in a process of its
// own: a test binary of the worker's, whose fakes this module cannot import.
type forge struct {
	GitHubAPI        string `json:"github_api"`
	GitHubCommand    string `json:"github_command"`
	BitbucketAPI     string `json:"bitbucket_api"`
	BitbucketCommand string `json:"bitbucket_command"`
	Token            string `json:"token"`
	Account          string `json:"account"`
	Repository       string `json:"repository"`
	Number           int    `json:"number"`
	Head             string `json:"head"`
	Next             string `json:"next"`
	Control          string `json:"control"`
}

// forgeState is what everybody sees of the pull request, and what was asked of the forge.
type forgeState struct {
	Threads, Reviews, Ops []string
	Status                string
}

var forgeBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(filepath.Dir(programs.Worker), "forge.test")
	build := exec.Command("go", "test", "-c", "-buildvcs=false", "-o", bin, "nofx.dev/worker/internal/codehost/codehosttest")
	build.Stderr = os.Stderr
	return bin, build.Run()
})

// newForge starts a forge. At the end of the test it must not have taken anything for a fault.
func newForge(t *testing.T) *forge {
	t.Helper()
	bin, err := forgeBinary()
	if err != nil {
		t.Fatalf("build the forge: %v", err)
	}
	cmd := exec.Command(bin, "-test.run", "^TestServe$", "-test.timeout", "30m")
	cmd.Env = append(os.Environ(), "NOFX_TEST_FORGE=1")
	cmd.Dir = t.TempDir()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	cmd.Stdout, cmd.Stderr = w, w
	p, err := child.Start(cmd, syscall.SIGKILL)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	line, err := said.ReadBytes('{')
	if err == nil {
		line, err = said.ReadBytes('\n')
	}
	f := &forge{}
	if err == nil {
		err = json.Unmarshal(append([]byte("{"), line...), f)
	}
	if err != nil {
		t.Fatalf("the forge says %q: %v", line, err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		rest, _ := io.ReadAll(said)
		p.Stop(syscall.SIGTERM, time.Minute)
		if err := p.Err(); err != nil || !bytes.Contains(rest, []byte("PASS")) {
			t.Errorf("the forge ends with %v and has found faults:\n%s", err, rest)
		}
		_ = out.Close()
	})
	return f
}

// tell has the forge do something, and returns what it answers.
func (f *forge) tell(t *testing.T, what string, form url.Values) []byte {
	t.Helper()
	resp, err := http.PostForm(f.Control+"/"+what, form)
	return bodyOf(t, resp, err)
}

func bodyOf(t *testing.T, resp *http.Response, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the forge answers %s %s, %v", resp.Status, body, err)
	}
	return body
}

func (f *forge) state(t *testing.T) (s forgeState) {
	t.Helper()
	resp, err := http.Get(f.Control + "/state")
	if err := json.Unmarshal(bodyOf(t, resp, err), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// stopped waits until the operation arrives that the forge was told to leave without an
// answer, and returns it.
func (f *forge) stopped(t *testing.T) (op string) {
	t.Helper()
	client := &http.Client{Timeout: 2 * time.Minute}
	resp, err := client.Get(f.Control + "/stopped")
	if err := json.Unmarshal(bodyOf(t, resp, err), &op); err != nil {
		t.Fatal(err)
	}
	return op
}
