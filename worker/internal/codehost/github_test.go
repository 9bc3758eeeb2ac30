package codehost_test

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/reviewer"
)

// server is an MCP server that the suite runs on.
type server struct {
	name   string
	legacy bool // before 2.0
	// start sets how a connector reaches it.
	start func(t *testing.T, f *codehosttest.Forge, c *codehost.Config)
}

func gitHubServers() []server {
	double := func(p codehosttest.Profile, stdio bool) func(*testing.T, *codehosttest.Forge, *codehost.Config) {
		return func(t *testing.T, f *codehosttest.Forge, c *codehost.Config) {
			d := &codehosttest.Double{Forge: f, Profile: p}
			if stdio {
				c.Server.Command, c.Server.Env = d.Stdio("")
			} else {
				c.Server.URL = d.URL() + "/mcp"
			}
		}
	}
	return []server{
		{"double 1.10 http", true, double(codehosttest.GitHub110, false)},
		{"double 1.10 stdio", true, double(codehosttest.GitHub110, true)},
		{"double 2.0 http", false, double(codehosttest.GitHub20, false)},
		{"double 2.0 stdio", false, double(codehosttest.GitHub20, true)},
		{"real 2.0.2 stdio", false, func(t *testing.T, _ *codehosttest.Forge, c *codehost.Config) {
			c.Server.Command = []string{codehosttest.RealGitHub(t)}
		}},
		{"real 2.0.2 http", false, realOverHTTP},
	}
}

// realOverHTTP starts the real server as one for HTTP.
func realOverHTTP(t *testing.T, _ *codehosttest.Forge, c *codehost.Config) {
	bin := codehosttest.RealGitHub(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close() // for the server
	cmd := exec.CommandContext(t.Context(), bin, "http", "--listen-host", "127.0.0.1", "--port", fmt.Sprint(port), "--gh-host", strings.TrimSuffix(c.API, "/api/v3"))
	cmd.Env = []string{"HOME=" + t.TempDir()}
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not listen: %v\n%s", err, &out)
		}
	}
	c.Server.URL = "http://" + address + "/"
}

// open connects to a server over a forge.
func (s server) open(t *testing.T, f *codehosttest.Forge, change func(c *codehost.Config)) *codehost.GitHub {
	t.Helper()
	c := codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token,
		API: f.API(), HTTP: egress.NewListedClient(nil), Pace: -1,
	}
	s.start(t, f, &c)
	if change != nil {
		change(&c)
	}
	g, err := codehost.OpenGitHub(t.Context(), c)
	if err != nil {
		t.Fatalf("OpenGitHub() = %v", err)
	}
	t.Cleanup(g.Close)
	return g
}

// each runs a test on all servers.
func each(t *testing.T, run func(t *testing.T, s server)) {
	on(t, gitHubServers(), run)
}

// oneEach runs a test of many cases on one server of each kind, however it is reached.
func oneEach(t *testing.T, run func(t *testing.T, s server)) {
	all := gitHubServers()
	on(t, []server{all[0], all[2], all[4]}, run)
}

func on(t *testing.T, servers []server, run func(t *testing.T, s server)) {
	t.Parallel()
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			run(t, s)
		})
	}
}

const (
	fpA, fpB, fpC, fpD = "fp1.aaaaaaaaaaaa", "fp1.bbbbbbbbbbbb", "fp1.cccccccccccc", "fp1.dddddddddddd"
	fpOld              = "fp1.oldoldoldold"
)

// plan is what is posted: a line, a range, a deleted line and a file.
func plan(f *codehosttest.Forge) reviewer.Plan {
	return reviewer.Plan{
		ReviewID: "rev_1", HeadSHA: f.Head(), Summary: "Four remarks <b>here</b> & there.",
		Comments: []reviewer.Comment{
			{Fingerprint: fpA, Path: codehosttest.Main, Side: review.Right, Line: 11, Body: "One line <x> & é."},
			{Fingerprint: fpB, Path: codehosttest.Main, Side: review.Right, StartLine: 11, Line: 12, Body: "A range."},
			{Fingerprint: fpC, Path: codehosttest.Main, Side: review.Left, Line: 30, Body: "A deleted line."},
			{Fingerprint: fpD, Path: codehosttest.Renamed, Body: "A file."},
		},
		Status: reviewer.Status{State: "success", Description: "passed", URL: "https://nofx.example/reviews/rev_1"},
	}
}

// posted is the state of the forge once the plan is posted.
var posted = []string{
	"main.go:11 RIGHT by nofx-bot, 1", "main.go:11-12 RIGHT by nofx-bot, 1", "main.go:30 LEFT by nofx-bot, 1", "pkg/a new name.go by nofx-bot, 1",
}

// holds compares what is on the forge.
func holds(t *testing.T, f *codehosttest.Forge, threads, reviews []string, status string) {
	t.Helper()
	gotThreads, gotReviews, gotStatus := f.State()
	if diff := cmp.Diff(threads, gotThreads); diff != "" {
		t.Errorf("forge has other threads (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(reviews, gotReviews); diff != "" {
		t.Errorf("forge has other reviews (-want +got):\n%s", diff)
	}
	if gotStatus != status {
		t.Errorf("forge has status %q, want %q", gotStatus, status)
	}
}

func TestGitHubReads(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		f := codehosttest.NewForge(t)
		id := f.AddThread(codehosttest.Somebody, "Hello.")
		g := s.open(t, f, nil)
		pr, err := g.Change(t.Context())
		if err != nil || pr.HeadSHA != f.Head() || pr.BaseSHA != f.Base() || pr.Author != codehosttest.Somebody || pr.State != "open" || !strings.Contains(pr.Title, "lines") {
			t.Errorf("Change() = %+v, %v, want head %s and base %s", pr, err, f.Head(), f.Base())
		}
		if g.Account() != codehosttest.Me {
			t.Errorf("Account() = %q, want %q", g.Account(), codehosttest.Me)
		}
		diff, err := g.Diff(t.Context())
		if err != nil || diff != f.GitDiff() {
			t.Errorf("Diff() = %q, %v, want %q", diff, err, f.GitDiff())
		}
		files, err := g.Files(t.Context())
		if err != nil || len(files) != 6 {
			t.Errorf("Files() = %+v, %v, want 6", files, err)
		}
		for _, c := range files {
			if c.Path == codehosttest.Renamed && (c.OldPath != "pkg/old.go" || c.Status != "renamed" || !strings.HasPrefix(c.Patch, "@@ ")) {
				t.Errorf("Files() has %+v, want the rename of pkg/old.go with its hunks", c)
			}
		}
		policy, err := g.File(t.Context(), codehosttest.Policy, f.Base())
		if err != nil || string(policy) != "version: 1\n" {
			t.Errorf("File(policy, base) = %q, %v, want the base's", policy, err)
		}
		binary, err := g.File(t.Context(), "image.bin", f.Base())
		if err != nil || string(binary) != "\x00\x01\x02" {
			t.Errorf("File(image.bin) = %q, %v, want its three bytes", binary, err)
		}
		for _, path := range []string{"review.yaml", "absent.go"} { // the first ends another path
			if got, err := g.File(t.Context(), path, f.Base()); fault.KindOf(err) != fault.NotFound {
				t.Errorf("File(%s) = %q, %v, want NotFound", path, got, err)
			}
		}
		threads, err := g.Threads(t.Context())
		if err != nil || len(threads) != 1 || threads[0].ID != id || threads[0].Line != 11 || threads[0].Remarks[0].Ours || threads[0].Remarks[0].ID == "" {
			t.Errorf("Threads() = %+v, %v, want %s on line 11, not ours", threads, err, id)
		}
	})
}

func TestGitHubPosts(t *testing.T) {
	each(t, func(t *testing.T, s server) {
		f := codehosttest.NewForge(t)
		id := f.AddThread(codehosttest.Me, "Old.\n\n"+reviewer.Marker(fpOld))
		f.AddThread(codehosttest.Somebody, "I forge a marker: "+reviewer.Marker(fpA))
		g := s.open(t, f, nil)
		p := plan(f)
		p.Resolutions = []reviewer.Resolution{{Fingerprint: fpOld, ThreadID: id, Reply: "Fixed by 123."}}
		want := append([]string{"main.go:11 RIGHT resolved by nofx-bot, 2", "main.go:11 RIGHT by mallory, 1"}, posted...)
		route := reviewer.RouteDraft
		if s.legacy { // the account has another review, which it takes for the pending one
			route, want = reviewer.RouteAtOnce, want[:5]
		}
		for range 2 { // the second time posts nothing
			to := posting()
			to.Route = route
			got, err := reviewer.Post(t.Context(), g, p, to)
			if err != nil || got.State != reviewer.PostDone || got.Route != route || len(got.Comments) != 4 || got.SummaryURL == "" || len(got.Resolved) != 1 {
				t.Fatalf("Post() = %+v, %v, want all posted", got, err)
			}
			for _, c := range got.Comments {
				if c.Place == reviewer.InSummary {
					continue
				}
				if c.ThreadID == "" || c.CommentID == "" || !strings.Contains(c.URL, c.CommentID) {
					t.Errorf("Post() returned %+v, want its thread, comment and address", c)
				}
			}
			holds(t, f, want, []string{"COMMENTED by nofx-bot", "COMMENTED by mallory", "COMMENTED by nofx-bot"}, "success")
		}
		bodies := f.Bodies(codehosttest.Me)
		for _, text := range []string{"Four remarks <b>here</b> & there.", "One line <x> & é.", reviewer.Marker(fpA), reviewer.SummaryMarker("rev_1"), "Fixed by 123."} {
			if strings.Count(bodies, text) != 1 {
				t.Errorf("forge has %q %d times, want once", text, strings.Count(bodies, text))
			}
		}
	})
}
