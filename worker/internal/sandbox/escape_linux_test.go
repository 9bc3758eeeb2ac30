package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// world is what an escape reaches for: things of the machine that are not its own.
type world struct {
	Worker   int    // pid; SECRET is in its environment
	Other    int    // pid of a process of the same user, which holds /dev/null open
	Canary   string // what the files below hold
	Another  string // workspace of another step, with the file canary
	Token    string // file with a credential of the machine, as of a service account
	Port     int    // of a TCP server on 127.0.0.1, such as Postgres, storage or the gateway
	Datagram int    // of a UDP server there
	Socket   string // path of a Unix server
	Abstract string // name of a Unix server without a path
	Own      string // the step's workspace
	Limited  bool   // the sandbox has limits
}

// newWorld sets a world up. received has what came to the UDP server.
func newWorld(t *testing.T) (w world, received <-chan string) {
	t.Helper()
	// Short, as the path of a socket must be.
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	w = world{
		Worker: os.Getpid(), Other: other.Process.Pid, Canary: "canary of " + dir, Another: filepath.Join(dir, "another"),
		Token: filepath.Join(dir, "token"), Socket: filepath.Join(dir, "socket"), Abstract: "@" + dir, Own: filepath.Join(dir, "own"),
	}
	for _, folder := range []string{w.Another, w.Own} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{w.Token, filepath.Join(w.Another, "canary")} {
		if err := os.WriteFile(file, []byte(w.Canary), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", w.Socket}, {"unix", w.Abstract}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			w.Port = tcp.Port
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(w.Canary))
				_ = conn.Close()
			}
		}()
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() })
	w.Datagram = udp.LocalAddr().(*net.UDPAddr).Port
	came := make(chan string, 16)
	go func() {
		buf := make([]byte, 100)
		for {
			n, _, err := udp.ReadFrom(buf)
			if err != nil {
				close(came)
				return
			}
			came <- string(buf[:n])
		}
	}()
	return w, came
}

// attempt runs an escape in a sandbox and reports whether it got out.
func attempt(t *testing.T, s *sandbox.Sandbox, number int, limited bool, proxy string) (out bool, said string) {
	t.Helper()
	w, received := newWorld(t)
	w.Limited = limited
	raw, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	exit, err := s.Exec(ctx, sandbox.Command{
		Argv: []string{self}, Dir: w.Own, Writable: []string{w.Own}, Readable: []string{self}, Proxy: proxy, Stdout: &output, Stderr: &output,
		Env: []string{testPath, "TMPDIR=" + w.Own, "GORACE=atexit_sleep_ms=0", fmt.Sprintf("ESCAPE=%d", number), "WORLD=" + string(raw)},
	})
	said = fmt.Sprintf("%+v, %v: %s", exit, err, strings.TrimSpace(output.String()))
	if err == nil && exit.Over == "" && exit.Code != 0 && exit.Code != heldCode {
		t.Errorf("E%d ended with %s, want exit code 0 or %d", number, said, heldCode)
	}
	if exit.Code != 0 || exit.Over != "" {
		return false, said
	}
	if number == 16 { // only the server knows whether it came through
		select {
		case got := <-received:
			return got == w.Canary, said
		case <-time.After(5 * time.Second):
			return false, said + "; nothing came"
		}
	}
	return true, said
}

// TestS31_Escapes tries all escapes in each tier: in tier 0, without limits, each works on this
// machine, so that they are known to bite; in tier 2 none does; in tier 1 none but those
// listed.
func TestS31_Escapes(t *testing.T) {
	t.Parallel()
	limits := sandbox.Limits{Memory: 256 << 20, Processes: 64, Disk: 64 << 20, Files: 5000}
	for tier := range 3 {
		t.Run(fmt.Sprintf("tier %d", tier), func(t *testing.T) {
			t.Parallel()
			cfg := sandbox.Config{MaxTier: tier, Limits: limits}
			if tier == 0 {
				cfg.Limits = sandbox.Limits{}
			}
			s := sandboxtest.Open(t, cfg)
			held, tried := 0, 0
			for _, e := range escapes {
				out, said := attempt(t, s, e.number, tier > 0, "")
				if e.number <= 40 {
					tried++
				}
				if e.number <= 40 && !out {
					held++
				}
				switch want := tier == 0 || slices.Contains(e.open, tier); {
				case out && !want:
					t.Errorf("E%d (%s) got out of tier %d: %s", e.number, e.name, tier, said)
				case !out && want:
					t.Errorf("E%d (%s) did not get out of tier %d: %s", e.number, e.name, tier, said)
				}
			}
			t.Logf("tier %d: %d of %d escapes held", tier, held, tried)
			if tier == 1 && held*100 < tried*95 {
				t.Errorf("tier 1 holds %d of %d escapes, want 95 %%", held, tried)
			}
		})
	}
}

// TestS31_EscapesWithProxy tries all escapes in tier 2 from a command that has a proxy: none
// works, as without one.
func TestS31_EscapesWithProxy(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 2, Limits: sandbox.Limits{Memory: 256 << 20, Processes: 64, Disk: 64 << 20, Files: 5000}})
	p := newEchoProxy(t)
	for _, e := range escapes {
		if out, said := attempt(t, s, e.number, true, p.path); out {
			t.Errorf("E%d (%s) got out of tier 2 with a proxy: %s", e.number, e.name, said)
		}
	}
}

// TestEscapesAreComplete checks that E1 to E40 are each tried here, or held in every tier by
// what another test shows.
func TestEscapesAreComplete(t *testing.T) {
	t.Parallel()
	have := map[int]string{}
	for _, e := range escapes {
		have[e.number] = e.name
	}
	for n := 1; n <= 40; n++ {
		_, here := have[n]
		if _, elsewhere := heldEverywhere[n]; here == elsewhere {
			t.Errorf("E%d is tried here: %v, and held everywhere: %v; want one of both", n, here, elsewhere)
		}
	}
}
