package codehost_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/reviewer"
)

// eachBitbucket runs a test on the double and the real server.
func eachBitbucket(t *testing.T, run func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket)) {
	t.Helper()
	t.Parallel()
	for _, real := range []bool{false, true} {
		name := "double stdio"
		if real {
			name = "real 5.0.6 stdio"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := codehosttest.NewBitbucket(codehosttest.NewForge(t))
			c := codehost.Config{
				Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token,
				API: b.API(), HTTP: egress.NewListedClient(nil), Pace: -1, Report: true,
			}
			c.Server.Dir = t.TempDir()
			if real {
				c.Server.Command = codehosttest.RealBitbucket(t)
			} else {
				c.Server.Command, c.Server.Env = b.Double(c.API).Stdio("")
			}
			var all []*codehost.Bitbucket
			run(t, b, func() *codehost.Bitbucket {
				t.Helper()
				h, err := codehost.OpenBitbucket(t.Context(), c)
				if err != nil {
					t.Fatalf("OpenBitbucket() = %v", err)
				}
				t.Cleanup(h.Close)
				all = append(all, h)
				return h
			})
			// Left alone, the real server writes its credential to its log when a request fails.
			noToken(t, c.Server.Dir)
			for _, h := range all {
				h.Close()
			}
			if left, err := os.ReadDir(c.Server.Dir); err != nil || len(left) > 0 {
				t.Errorf("servers have left %v, %v, want nothing", left, err)
			}
		})
	}
}

// noToken searches what servers have written.
func noToken(t *testing.T, dir string) {
	t.Helper()
	files := os.DirFS(dir)
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, path)
		if strings.Contains(string(text), codehosttest.Token) {
			t.Errorf("%s has the token", path)
		}
		return err
	})
	if err != nil {
		t.Errorf("search %s: %v", dir, err)
	}
}

var bitbucketPosted = []string{
	"main.go:11 RIGHT by nofx-bot", "main.go:12 RIGHT by nofx-bot", "main.go:30 LEFT by nofx-bot", "pkg/a new name.go by nofx-bot", "summary by nofx-bot",
}

func holdsComments(t *testing.T, b *codehosttest.Bitbucket, want []string, status string) {
	t.Helper()
	got, gotStatus := b.State()
	if diff := cmp.Diff(want, got); diff != "" || gotStatus != status {
		t.Errorf("forge has status %q, want %q, and other comments (-want +got):\n%s", gotStatus, status, diff)
	}
}

func TestBitbucketReads(t *testing.T) {
	eachBitbucket(t, func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket) {
		b.AddComment(codehosttest.Somebody, "Hello.", false)
		h := open()
		pr, err := h.Change(t.Context())
		if err != nil || !reviewer.SameCommit(pr.HeadSHA, b.Head()) || !reviewer.SameCommit(pr.BaseSHA, b.Base()) || pr.State != "open" {
			t.Errorf("Change() = %+v, %v, want head %s", pr, err, b.Head())
		}
		if diff, err := h.Diff(t.Context()); err != nil || diff != b.GitDiff() {
			t.Errorf("Diff() = %q, %v, want git's", diff, err)
		}
		if files, err := h.Files(t.Context()); err != nil || len(files) != 6 {
			t.Errorf("Files() = %+v, %v, want 6", files, err)
		}
		if policy, err := h.File(t.Context(), codehosttest.Policy, pr.BaseSHA); err != nil || string(policy) != "version: 1\n" {
			t.Errorf("File(policy, base) = %q, %v, want the base's", policy, err)
		}
		if got, err := h.File(t.Context(), "absent.go", pr.BaseSHA); fault.KindOf(err) != fault.NotFound {
			t.Errorf("File(absent.go) = %q, %v, want NotFound", got, err)
		}
		threads, err := h.Threads(t.Context())
		if err != nil || len(threads) != 1 || threads[0].Line != 11 || threads[0].Remarks[0].Ours {
			t.Errorf("Threads() = %+v, %v, want one on line 11, not ours", threads, err)
		}
		b.Fail(failOn("get", codehosttest.Refusal{Status: 429, Message: "slow down"}))
		if _, err := h.Change(t.Context()); fault.KindOf(err) != fault.RateLimited || strings.Contains(err.Error(), codehosttest.Token) {
			t.Errorf("Change() at a limit = %v, want RateLimited without the token", err)
		}
	})
}

func TestBitbucketPosts(t *testing.T) {
	eachBitbucket(t, func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket) {
		h := open()
		id := b.AddComment(codehosttest.Me, "Old.\n\n"+reviewer.Marker(fpOld), false)
		p := plan(b.Forge)
		p.Resolutions = []reviewer.Resolution{{Fingerprint: fpOld, ThreadID: id, Reply: "Fixed by 123."}}
		want := append([]string{"main.go:11 RIGHT by nofx-bot", "main.go:11 RIGHT resolved by nofx-bot"}, bitbucketPosted[1:]...)
		for range 2 { // the second time posts nothing
			got, err := reviewer.Post(t.Context(), h, p, posting())
			if err != nil || got.State != reviewer.PostDone || len(got.Comments) != 4 || len(got.Resolved) != 1 || got.SummaryURL == "" {
				t.Fatalf("Post() = %+v, %v, want all posted", got, err)
			}
			holdsComments(t, b, want, "success")
		}
	})
}

// TestBitbucketReport posts a report of Code Insights with more annotations than one request
// takes, then one with fewer.
func TestBitbucketReport(t *testing.T) {
	t.Parallel()
	b := codehosttest.NewBitbucket(codehosttest.NewForge(t))
	c := codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token,
		API: b.API(), HTTP: egress.NewListedClient(nil), Pace: -1, Report: true,
	}
	c.Server.Command, c.Server.Env = b.Double(c.API).Stdio("")
	h, err := codehost.OpenBitbucket(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	r := reviewer.Report{Title: "Review", Details: strings.Repeat("é", 3000), Rows: []reviewer.Row{{Title: "Files reviewed", Value: 3}}}
	severities := []review.Severity{review.Critical, review.High, review.Medium, review.Low, review.Info}
	categories := []review.Category{review.Security, review.Correctness, review.Style}
	for i := range 1200 {
		r.Annotations = append(r.Annotations, reviewer.Annotation{
			Fingerprint: fmt.Sprintf("fp1.%012d", i), Path: codehosttest.Main, Line: i % 3, Severity: severities[i%5], Category: categories[i%3],
			Title: strings.Repeat("ü", 600), Body: strings.Repeat("ß", 2500),
		})
	}
	for range 2 {
		if err := h.Report(t.Context(), b.Head()[:12], reviewer.Status{State: "failure", URL: "https://nofx.example/reviews/rev_1"}, r); err != nil {
			t.Fatalf("Report() = %v", err)
		}
		got, _ := b.Report()
		if got.Result != "FAILED" || len(got.Annotated) != 1000 || got.Link == "" || got.Data[0].Value != false || got.Data[1].Value != 3.0 {
			t.Errorf("Code Insights = %s with %d annotations, link %s and %v, want FAILED with 1,000", got.Result, len(got.Annotated), got.Link, got.Data)
		}
	}
	r.Details, r.Annotations = "fine", r.Annotations[:5]
	if err := h.Report(t.Context(), b.Head(), reviewer.Status{State: "success"}, r); err != nil {
		t.Fatalf("Report() = %v", err)
	}
	got, _ := b.Report()
	var shown []string
	for _, a := range got.Annotated {
		shown = append(shown, fmt.Sprintf("%s %s %s %d", a.ExternalID, a.Severity, a.Type, a.Line))
	}
	want := []string{
		"fp1.000000000000 CRITICAL VULNERABILITY 0", "fp1.000000000001 HIGH BUG 1", "fp1.000000000002 MEDIUM CODE_SMELL 2",
		"fp1.000000000003 LOW VULNERABILITY 0", "fp1.000000000004 LOW BUG 1",
	}
	if diff := cmp.Diff(want, shown); got.Result != "PASSED" || diff != "" {
		t.Errorf("Code Insights = %s, want PASSED, and other annotations (-want +got):\n%s", got.Result, diff)
	}
	b.Fail(failOn("report", codehosttest.Refusal{Status: 403, Message: "Your credentials lack one or more required privilege scopes."}))
	if err := h.Report(t.Context(), b.Head(), reviewer.Status{State: "success"}, r); fault.KindOf(err) != fault.Forbidden || strings.Contains(err.Error(), codehosttest.Token) {
		t.Errorf("Report() without the scope = %v, want Forbidden without the token", err)
	}
}

// TestBitbucketRequestsChanges requests changes and takes that back, more than once each.
func TestBitbucketRequestsChanges(t *testing.T) {
	eachBitbucket(t, func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket) {
		h := open()
		p := plan(b.Forge)
		p.Comments, p.Summary = nil, "Failed."
		for _, step := range []struct{ ask, back, want bool }{{true, false, true}, {true, false, true}, {false, false, true}, {false, true, false}, {false, true, false}} {
			p.RequestChanges, p.TakeBack = step.ask, step.back
			got, err := reviewer.Post(t.Context(), h, p, posting())
			if _, requested := b.Report(); err != nil || requested != step.want || len(got.Warnings) > 0 {
				t.Errorf("Post() with %+v = %v %v and changes requested %t", step, got.Warnings, err, requested)
			}
		}
		b.SetAuthor(codehosttest.Me)
		p.RequestChanges, p.TakeBack = true, false
		got, err := reviewer.Post(t.Context(), h, p, posting())
		if _, requested := b.Report(); err != nil || requested || len(got.Warnings) > 0 {
			t.Errorf("Post() on our own pull request = %v %v and changes requested %t, want nothing of it", got.Warnings, err, requested)
		}
	})
}

// TestBitbucketPassesDraftsBy has drafts that must not be published.
func TestBitbucketPassesDraftsBy(t *testing.T) {
	eachBitbucket(t, func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket) {
		h := open()
		b.AddComment(codehosttest.Me, "Mine.", true)
		p := plan(b.Forge)
		p.Comments[1].Line = 50 // refused there
		got, err := reviewer.Post(t.Context(), h, p, posting())
		if err != nil || got.State != reviewer.PostDone || got.Route != reviewer.RouteAtOnce {
			t.Fatalf("Post() = %+v, %v, want it posted at once", got, err)
		}
		want := []string{
			"main.go by nofx-bot", "main.go:11 RIGHT by nofx-bot", "main.go:11 RIGHT draft by nofx-bot", "main.go:30 LEFT by nofx-bot",
			"pkg/a new name.go by nofx-bot", "summary by nofx-bot", "summary by nofx-bot",
		}
		holdsComments(t, b, want, "success")
	})
}

// TestBitbucketSurvivesAKill ends a posting before and after each write, then posts anew.
func TestBitbucketSurvivesAKill(t *testing.T) {
	eachBitbucket(t, func(t *testing.T, b *codehosttest.Bitbucket, open func() *codehost.Bitbucket) {
		// One connector does for all, since its sessions outlast a call that is given up.
		h, kills := open(), 0
		for _, after := range []bool{false, true} {
			for n, more := 0, true; more; n++ {
				b.Reset()
				p := plan(b.Forge)
				ctx, cancel := context.WithCancel(t.Context())
				at := 0
				b.Fail(func(op string) *codehosttest.Refusal {
					if op != "add" && op != "publish" && op != "status" {
						return nil
					}
					if at++; at != n+1 {
						return nil
					}
					cancel()
					return &codehosttest.Refusal{Status: 502, Message: "killed", Done: after}
				})
				_, _ = reviewer.Post(ctx, h, p, posting()) // ended
				b.Fail(nil)
				cancel()
				if more = at > n; !more {
					break
				}
				kills++
				got, err := reviewer.Post(t.Context(), h, p, posting())
				if err != nil || got.State != reviewer.PostDone {
					t.Fatalf("ended at %d (after %t), then Post() = %+v, %v\n%v", n, after, got, err, b.Ops())
				}
				holdsComments(t, b, bitbucketPosted, "success")
				if t.Failed() {
					t.Fatalf("ended at %d (after %t): %v", n, after, b.Ops())
				}
			}
		}
		t.Logf("ended at %d points, each time one summary and no duplicate", kills)
	})
}
