package codehost_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/reviewer"
)

// failOn fails one operation, each time.
func failOn(op string, r codehosttest.Refusal) func(string) *codehosttest.Refusal {
	return func(at string) *codehosttest.Refusal {
		if at != op {
			return nil
		}
		return &r
	}
}

// once fails one operation, the first time.
func once(op string, r codehosttest.Refusal) func(string) *codehosttest.Refusal {
	done := false
	return func(at string) *codehosttest.Refusal {
		if at != op || done {
			return nil
		}
		done = true
		return &r
	}
}

func TestGitHubFaults(t *testing.T) {
	change := func(ctx context.Context, g *codehost.GitHub) error {
		_, err := g.Change(ctx)
		return err
	}
	diff := func(ctx context.Context, g *codehost.GitHub) error {
		_, err := g.Diff(ctx)
		return err
	}
	threads := func(ctx context.Context, g *codehost.GitHub) error {
		_, err := g.Threads(ctx)
		return err
	}
	limited := codehosttest.Refusal{Status: 403, Message: "You have exceeded a secondary rate limit.", Header: http.Header{"Retry-After": {"30"}}}
	tests := []struct {
		name string
		op   string
		with codehosttest.Refusal
		call func(ctx context.Context, g *codehost.GitHub) error
		kind fault.Kind
		code string
	}{
		{"diff of 400 files", "diff", codehosttest.Refusal{Status: 406, Message: "Sorry, the diff exceeded the maximum number of files (300)."}, diff, fault.Invalid, reviewer.CodeTooLarge},
		{"secondary limit", "get", limited, change, fault.RateLimited, "rate-limited"},
		{"secondary limit of GraphQL", "threads", limited, threads, fault.RateLimited, "rate-limited"},
		{"bad gateway", "get", codehosttest.Refusal{Status: 502, Message: "Bad Gateway"}, change, fault.Unavailable, "forge-error"},
		{"not found", "get", codehosttest.Refusal{Status: 404, Message: "Not Found"}, change, fault.NotFound, "not-found"},
		{"no permission", "get", codehosttest.Refusal{Status: 403, Message: "Resource not accessible by integration"}, change, fault.Forbidden, "forbidden"},
		{"bad credential", "get", codehosttest.Refusal{Status: 401, Message: "Bad credentials"}, change, fault.Unauthenticated, "unauthenticated"},
	}
	each(t, func(t *testing.T, s server) {
		f := codehosttest.NewForge(t)
		for _, tt := range tests {
			g := s.open(t, f, nil) // a server remembers limits
			f.Fail(failOn(tt.op, tt.with))
			err := tt.call(t.Context(), g)
			f.Fail(nil)
			e, ok := errors.AsType[*fault.Error](err)
			if !ok || e.Kind != tt.kind || e.Code != tt.code {
				t.Errorf("%s: error %v, want %s %s", tt.name, err, tt.kind, tt.code)
				continue
			}
			if tt.name == "secondary limit" && (e.RetryAfter < 20*time.Second || e.RetryAfter > 30*time.Second) {
				t.Errorf("%s: RetryAfter = %s, want about 30 s", tt.name, e.RetryAfter)
			}
			if strings.Contains(err.Error(), codehosttest.Token) {
				t.Errorf("%s: the error has the token: %v", tt.name, err)
			}
			g.Close()
		}
	})
}

func TestGitHubPostsInSpite(t *testing.T) {
	offDiff := func(c reviewer.Comment) bool { return c.Line == 50 }
	lost := codehosttest.Refusal{Status: 502, Message: "Bad Gateway", Done: true}
	one := []string{"COMMENTED by nofx-bot"}
	tests := []struct {
		name    string
		set     func(f *codehosttest.Forge, p *reviewer.Plan)
		kind    fault.Kind // of the first try, which is followed by another
		state   reviewer.PostState
		threads []string
		reviews []string
		status  string
	}{
		{"our draft is left over", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.AddDraft("x " + reviewer.Marker(fpA)) }, "", reviewer.PostDone, posted, one, "success"},
		{"an empty draft is left over", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.AddDraft() }, "", reviewer.PostDone, posted, one, "success"},
		{"a person's draft is open", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.AddDraft("x "+reviewer.Marker(fpA), "Mine.") }, "",
			reviewer.PostBlocked, []string{"main.go:11 RIGHT by nofx-bot, 1", "main.go:11 RIGHT by nofx-bot, 1"}, []string{"PENDING by nofx-bot"}, "error"},
		{"the head has moved", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.MoveHead() }, "", reviewer.PostSuperseded, nil, nil, ""},
		{"the head moves", func(f *codehosttest.Forge, _ *reviewer.Plan) {
			f.Fail(func(op string) *codehosttest.Refusal {
				if op == "add" {
					f.MoveHead()
				}
				return nil
			})
		}, "", reviewer.PostSuperseded, nil, nil, ""},
		{"a line is not in the diff", func(_ *codehosttest.Forge, p *reviewer.Plan) { p.Comments[0].Line = 50 }, "", reviewer.PostDone,
			append([]string{"main.go by nofx-bot, 1"}, posted[1:]...), one, "success"},
		{"a range is in two hunks", func(_ *codehosttest.Forge, p *reviewer.Plan) { p.Comments[1].Line = 30 }, "", reviewer.PostDone,
			[]string{posted[0], "main.go by nofx-bot, 1", posted[2], posted[3]}, one, "success"},
		{"a file is not in the diff", func(_ *codehosttest.Forge, p *reviewer.Plan) { p.Comments[0].Path = "other.go" }, "", reviewer.PostDone, posted[1:], one, "success"},
		{"a comment is taken and lost", func(f *codehosttest.Forge, p *reviewer.Plan) {
			p.Comments[0].Line = 50
			f.Lose(offDiff)
		}, "", reviewer.PostDone, append(slices.Clone(posted[1:]), "main.go by nofx-bot, 1"), append(one, one...), "success"},
		{"the answer to create is lost", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.Fail(once("create", lost)) }, fault.Unavailable, reviewer.PostDone, posted, one, "success"},
		{"the answer to a comment is lost", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.Fail(once("add", lost)) }, fault.Unavailable, reviewer.PostDone, posted, one, "success"},
		{"the answer to submit is lost", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.Fail(once("submit", lost)) }, "", reviewer.PostDone, posted, one, "success"},
		{"the answer to the status is lost", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.Fail(once("status", lost)) }, fault.Unavailable, reviewer.PostDone, posted, one, "success"},
		{"a limit is reached between comments", func(f *codehosttest.Forge, _ *reviewer.Plan) {
			f.Fail(once("add", codehosttest.Refusal{Status: 403, Message: "You have exceeded a secondary rate limit.", Header: http.Header{"Retry-After": {"1"}}}))
		}, fault.RateLimited, reviewer.PostDone, posted, one, "success"},
		{"the account may not comment", func(f *codehosttest.Forge, _ *reviewer.Plan) {
			f.Fail(once("create", codehosttest.Refusal{Status: 403, Message: "Resource not accessible by integration"}))
		}, fault.Forbidden, reviewer.PostDone, posted, one, "success"},
		{"comments are on the wrong side", func(f *codehosttest.Forge, _ *reviewer.Plan) { f.SwapSides() }, "", reviewer.PostPartial, posted, one, "error"},
		{"changes are requested of our own pull request", func(f *codehosttest.Forge, p *reviewer.Plan) {
			p.RequestChanges = true
			f.SetAuthor(codehosttest.Me)
		}, "", reviewer.PostDone, posted, one, "success"},
		{"changes are requested", func(_ *codehosttest.Forge, p *reviewer.Plan) { p.RequestChanges = true }, "", reviewer.PostDone, posted, []string{"CHANGES_REQUESTED by nofx-bot"}, "success"},
	}
	oneEach(t, func(t *testing.T, s server) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				f := codehosttest.NewForge(t)
				g, p := s.open(t, f, nil), plan(f)
				tt.set(f, &p)
				got, err := reviewer.Post(t.Context(), g, p, posting())
				if tt.kind != "" {
					if fault.KindOf(err) != tt.kind {
						t.Fatalf("Post() = %+v, %v, want %s", got, err, tt.kind)
					}
					g.Close()
					got, err = reviewer.Post(t.Context(), s.open(t, f, nil), p, posting())
				}
				if err != nil || got.State != tt.state {
					t.Fatalf("Post() = %+v, %v, want %s\n%v", got, err, tt.state, f.Ops())
				}
				threads, reviews := tt.threads, tt.reviews
				if s.legacy && tt.name == "a comment is taken and lost" {
					threads = posted[1:] // it gets into the summary of a review in one go
				}
				holds(t, f, threads, reviews, tt.status)
				if tt.state == reviewer.PostDone && len(got.Comments) != 4 {
					t.Errorf("Post() = %+v, want four comments", got)
				}
			})
		}
	})
}

// TestGitHubSubmitsOnceInSilence has no answer to the submission at all.
func TestGitHubSubmitsOnceInSilence(t *testing.T) {
	t.Parallel()
	for _, s := range gitHubServers()[:4] { // of doubles
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := codehosttest.NewForge(t)
			g := s.open(t, f, func(c *codehost.Config) { c.CallLimit = 10 * time.Second })
			f.Fail(once("submit", codehosttest.Refusal{Done: true, Silent: true}))
			got, err := reviewer.Post(t.Context(), g, plan(f), posting())
			if err != nil || got.State != reviewer.PostDone {
				t.Errorf("Post() = %+v, %v, want it posted", got, err)
			}
			holds(t, f, posted, []string{"COMMENTED by nofx-bot"}, "success")
		})
	}
}

// TestGitHubSurvivesAKill ends a posting before and after each operation of the forge, then
// posts with a new connector.
func TestGitHubSurvivesAKill(t *testing.T) {
	oneEach(t, func(t *testing.T, s server) {
		kills := 0
		for _, after := range []bool{false, true} {
			for n, more := 0, true; more; n++ {
				f := codehosttest.NewForge(t)
				id := f.AddThread(codehosttest.Me, "Old.\n\n"+reviewer.Marker(fpOld))
				p := plan(f)
				p.Comments = p.Comments[:2]
				p.Resolutions = []reviewer.Resolution{{Fingerprint: fpOld, ThreadID: id, Reply: "Fixed by 123."}}
				ctx, cancel := context.WithCancel(t.Context())
				at := 0
				g := s.open(t, f, nil)
				f.Fail(func(op string) *codehosttest.Refusal {
					writes := slices.Contains([]string{"create", "add", "submit", "delete", "delete by REST", "at once", "reply", "resolve", "status"}, op)
					if !writes && (strings.HasPrefix(s.name, "real") || after) {
						return nil // to end before a read, or after it, is to end before the next write
					}
					if at++; at != n+1 {
						return nil
					}
					cancel()
					return &codehosttest.Refusal{Status: 502, Message: "killed", Done: after}
				})
				_, _ = reviewer.Post(ctx, g, p, posting()) // ended
				f.Fail(nil)
				cancel()
				if !strings.HasPrefix(s.name, "real") { // whose start takes long
					g.Close()
					g = s.open(t, f, nil)
				}
				if more = at > n; !more {
					break
				}
				kills++
				got, err := reviewer.Post(t.Context(), g, p, posting())
				g.Close()
				if err != nil || got.State != reviewer.PostDone {
					t.Fatalf("ended at %d (after %t), then Post() = %+v, %v\n%v", n, after, got, err, f.Ops())
				}
				holds(t, f, []string{"main.go:11 RIGHT resolved by nofx-bot, 2", posted[0], posted[1]}, []string{"COMMENTED by nofx-bot", "COMMENTED by nofx-bot"}, "success")
				if t.Failed() {
					t.Fatalf("ended at %d (after %t): %v", n, after, f.Ops())
				}
			}
		}
		t.Logf("ended at %d points, each time one review and no duplicate", kills)
	})
}

// TestGitHubTakesWhatGitShows posts a comment on each line of the change that git shows.
func TestGitHubTakesWhatGitShows(t *testing.T) {
	t.Parallel()
	f := codehosttest.NewForge(t)
	g := gitHubServers()[2].open(t, f, nil)
	p := plan(f)
	p.Comments = nil
	for line := 8; line <= 15; line++ {
		p.Comments = append(p.Comments, reviewer.Comment{Fingerprint: "fp1.line" + string(rune('a'+line)), Path: codehosttest.Main, Side: review.Right, Line: line, Body: "x"})
	}
	got, err := reviewer.Post(t.Context(), g, p, posting())
	if err != nil || got.State != reviewer.PostDone {
		t.Fatalf("Post() = %+v, %v", got, err)
	}
	for _, c := range got.Comments {
		if c.Place != reviewer.OnLine {
			t.Errorf("Post() put %+v, want it on its line", c)
		}
	}
}

// TestGitHubNamesake has a person whose name is that of our app, and who forges markers.
func TestGitHubNamesake(t *testing.T) {
	t.Parallel()
	f := codehosttest.NewForge(t)
	f.AddThread(codehosttest.Me, reviewer.Marker(fpA))
	g := gitHubServers()[2].open(t, f, func(c *codehost.Config) { c.Account = codehosttest.Me + "[bot]" })
	threads, err := g.Threads(t.Context())
	if err != nil || len(threads) != 1 || threads[0].Remarks[0].Ours {
		t.Errorf("Threads() = %+v, %v, want one that is not ours", threads, err)
	}
	if reviews, err := g.Summaries(t.Context()); err != nil || len(reviews) != 0 {
		t.Errorf("Summaries() = %+v, %v, want none", reviews, err)
	}
}
