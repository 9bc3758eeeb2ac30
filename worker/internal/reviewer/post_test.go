package reviewer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// memoryHost is a forge in memory. Each call goes through step, where a test breaks it.
type memoryHost struct {
	can       reviewer.Capabilities
	head      string
	threads   []reviewer.Thread
	summaries []reviewer.Remark
	draft     *[]reviewer.Comment // nil: none is open
	status    reviewer.Status
	requested bool // changes
	report    reviewer.Report

	calls   []string
	before  func(call string) error // refuses a call
	after   func(call string) error // loses the answer of one that is done
	refuses func(c reviewer.Comment) bool
	loses   func(c reviewer.Comment) bool // at submission
	shift   int                           // of the lines of comments
	ids     int
}

func newMemoryHost() *memoryHost {
	return &memoryHost{head: head1, can: reviewer.Capabilities{Ranges: true, Discard: true, Reply: true, FileAt: true, RequestChanges: true, MaxBody: 60000, MaxComments: 25}}
}

const (
	head1 = "1111111111111111111111111111111111111111"
	head2 = "2222222222222222222222222222222222222222"
)

// do runs one call.
func (h *memoryHost) do(ctx context.Context, call string, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.calls = append(h.calls, call)
	if h.before != nil {
		if err := h.before(call); err != nil {
			return err
		}
	}
	if effect != nil {
		if err := effect(); err != nil {
			return err
		}
	}
	if h.after != nil {
		return h.after(call)
	}
	return nil
}

func (h *memoryHost) Account() string                     { return "nofx-bot" }
func (h *memoryHost) Capabilities() reviewer.Capabilities { return h.can }

func (h *memoryHost) Change(ctx context.Context) (reviewer.PullRequest, error) {
	err := h.do(ctx, "change", nil)
	return reviewer.PullRequest{HeadSHA: h.head}, err
}

func (h *memoryHost) Files(context.Context) ([]reviewer.ChangedFile, error) { panic("not asked for") }
func (h *memoryHost) Diff(context.Context) (string, error)                  { panic("not asked for") }
func (h *memoryHost) File(context.Context, string, string) ([]byte, error)  { panic("not asked for") }

// Threads shows the drafts too where they can be discarded, as GitHub does to their author.
func (h *memoryHost) Threads(ctx context.Context) ([]reviewer.Thread, error) {
	all := slices.Clone(h.threads)
	if h.draft != nil && h.can.Discard {
		for _, c := range *h.draft {
			all = append(all, h.threadOf(c))
		}
	}
	return all, h.do(ctx, "threads", nil)
}

func (h *memoryHost) Summaries(ctx context.Context) ([]reviewer.Remark, error) {
	return slices.Clone(h.summaries), h.do(ctx, "summaries", nil)
}

func (h *memoryHost) Drafts(ctx context.Context) (reviewer.Drafts, error) {
	d := reviewer.Drafts{Open: h.draft != nil && (h.can.Discard || len(*h.draft) > 0)}
	if h.draft != nil {
		d.Comments = slices.Clone(*h.draft)
	}
	return d, h.do(ctx, "drafts", nil)
}

func (h *memoryHost) Begin(ctx context.Context, _ string) error {
	return h.do(ctx, "begin", func() error {
		if h.draft != nil && h.can.Discard {
			return fault.New(fault.Conflict, reviewer.CodePending, "one is open")
		}
		if h.draft == nil {
			h.draft = &[]reviewer.Comment{}
		}
		return nil
	})
}

func (h *memoryHost) Add(ctx context.Context, c reviewer.Comment) error {
	return h.do(ctx, "add", func() error {
		if h.refuses != nil && h.refuses(c) {
			return fault.New(fault.Invalid, "refused", "not there")
		}
		if h.draft == nil {
			return fault.New(fault.Conflict, reviewer.CodeNotPending, "none is open")
		}
		*h.draft = append(*h.draft, c)
		return nil
	})
}

func (h *memoryHost) Submit(ctx context.Context, summary string, _ bool) error {
	return h.do(ctx, "submit", func() error {
		if h.draft == nil {
			return fault.New(fault.Conflict, reviewer.CodeNotPending, "none is open")
		}
		h.publish(*h.draft)
		h.draft = nil
		h.summaries = append(h.summaries, reviewer.Remark{Body: summary, Ours: true, URL: "summary"})
		return nil
	})
}

func (h *memoryHost) PostAtOnce(ctx context.Context, r reviewer.AtOnce) error {
	return h.do(ctx, "at once", func() error {
		h.publish(r.Comments)
		h.summaries = append(h.summaries, reviewer.Remark{Body: r.Summary, Ours: true, URL: "summary"})
		return nil
	})
}

func (h *memoryHost) publish(comments []reviewer.Comment) {
	for _, c := range comments {
		if h.loses == nil || !h.loses(c) {
			h.threads = append(h.threads, h.threadOf(c))
		}
	}
}

func (h *memoryHost) threadOf(c reviewer.Comment) reviewer.Thread {
	h.ids++
	line := c.Line
	if line > 0 {
		line += h.shift
	}
	id := fmt.Sprintf("t%d", h.ids)
	return reviewer.Thread{ID: id, Path: c.Path, Line: line, StartLine: c.StartLine, Remarks: []reviewer.Remark{{ID: "c" + id, Body: c.Body, Ours: true}}}
}

func (h *memoryHost) Discard(ctx context.Context) error {
	return h.do(ctx, "discard", func() error { h.draft = nil; return nil })
}

func (h *memoryHost) Reply(ctx context.Context, t reviewer.Thread, body string) error {
	return h.do(ctx, "reply", func() error {
		i := slices.IndexFunc(h.threads, func(at reviewer.Thread) bool { return at.ID == t.ID })
		h.threads[i].Remarks = append(slices.Clone(h.threads[i].Remarks), reviewer.Remark{Body: body, Ours: true})
		return nil
	})
}

func (h *memoryHost) Resolve(ctx context.Context, t reviewer.Thread) error {
	return h.do(ctx, "resolve", func() error {
		i := slices.IndexFunc(h.threads, func(at reviewer.Thread) bool { return at.ID == t.ID })
		h.threads[i].Resolved = true
		return nil
	})
}

func (h *memoryHost) SetStatus(ctx context.Context, _ string, s reviewer.Status) error {
	return h.do(ctx, "status", func() error { h.status = s; return nil })
}

func (h *memoryHost) RequestChanges(ctx context.Context, wanted bool) error {
	return h.do(ctx, "changes", func() error { h.requested = wanted; return nil })
}

func (h *memoryHost) Report(ctx context.Context, _ string, _ reviewer.Status, r reviewer.Report) error {
	return h.do(ctx, "report", func() error { h.report = r; return nil })
}

// old is a thread of an earlier review whose finding the plan resolves.
func old() reviewer.Thread {
	return reviewer.Thread{ID: "old", Path: "a.go", Line: 3, Remarks: []reviewer.Remark{{ID: "1", Body: "Old.\n\n" + reviewer.Marker("fp1.old000000000"), Ours: true}}}
}

func plan() reviewer.Plan {
	return reviewer.Plan{
		ReviewID: "rev_1", HeadSHA: head1, Summary: "Two remarks.",
		Comments: []reviewer.Comment{
			{Fingerprint: "fp1.aaaaaaaaaaaa", Path: "a.go", Side: review.Right, Line: 12, StartLine: 10, Body: "First."},
			{Fingerprint: "fp1.bbbbbbbbbbbb", Path: "b.go", Side: review.Left, Line: 5, Body: "Second."},
		},
		Resolutions: []reviewer.Resolution{{Fingerprint: "fp1.old000000000", ThreadID: "old", Reply: "Fixed by 1111111."}},
		Status:      reviewer.Status{State: "success", Description: "passed"},
	}
}

func posting() reviewer.Posting {
	return reviewer.Posting{
		Fence: func(context.Context) error { return nil },
		Save:  func(context.Context, reviewer.Posted) error { return nil },
	}
}

// places returns where each comment is.
func places(p reviewer.Posted) map[string]string {
	all := map[string]string{}
	for _, c := range p.Comments {
		all[c.Fingerprint] = c.Place
	}
	return all
}

func TestPostPlan(t *testing.T) {
	t.Parallel()
	const a, b = "fp1.aaaaaaaaaaaa", "fp1.bbbbbbbbbbbb"
	both := map[string]string{a: reviewer.OnLine, b: reviewer.OnLine}
	onLine := func(c reviewer.Comment) bool { return c.Path == "b.go" && c.Line > 0 }
	atAll := func(c reviewer.Comment) bool { return c.Path == "b.go" }
	once := func(call string, err error) func(string) error {
		done := false
		return func(at string) error {
			if at != call || done {
				return nil
			}
			done = true
			return err
		}
	}
	lost := fault.New(fault.Unavailable, "timeout", "no answer")
	notPending := fault.New(fault.Conflict, reviewer.CodeNotPending, "is not pending")
	tests := []struct {
		name      string
		set       func(h *memoryHost, p *reviewer.Plan)
		state     reviewer.PostState
		route     reviewer.Route
		places    map[string]string
		missing   []string
		summaries int
		status    string
	}{
		{"all on their lines", func(*memoryHost, *reviewer.Plan) {}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"a line refused", func(h *memoryHost, _ *reviewer.Plan) { h.refuses = onLine }, reviewer.PostDone, reviewer.RouteDraft,
			map[string]string{a: reviewer.OnLine, b: reviewer.OnFile}, nil, 1, "success"},
		{"a file refused", func(h *memoryHost, _ *reviewer.Plan) { h.refuses = atAll }, reviewer.PostDone, reviewer.RouteDraft,
			map[string]string{a: reviewer.OnLine, b: reviewer.InSummary}, nil, 1, "success"},
		{"more than the forge takes", func(h *memoryHost, _ *reviewer.Plan) { h.can.MaxComments = 1 }, reviewer.PostDone, reviewer.RouteDraft,
			map[string]string{a: reviewer.OnLine, b: reviewer.InSummary}, nil, 1, "success"},
		{"a line lost at submission", func(h *memoryHost, _ *reviewer.Plan) { h.loses = onLine }, reviewer.PostDone, reviewer.RouteDraft,
			map[string]string{a: reviewer.OnLine, b: reviewer.OnFile}, nil, 2, "success"},
		{"a file lost too", func(h *memoryHost, _ *reviewer.Plan) { h.loses = atAll }, reviewer.PostPartial, reviewer.RouteDraft,
			map[string]string{a: reviewer.OnLine}, []string{b}, 2, "error"},
		{"lines shifted", func(h *memoryHost, _ *reviewer.Plan) { h.shift = 1 }, reviewer.PostPartial, reviewer.RouteDraft, both, []string{a, b}, 1, "error"},
		{"head moved before", func(h *memoryHost, _ *reviewer.Plan) { h.head = head2 }, reviewer.PostSuperseded, "", nil, nil, 0, ""},
		{"head moved while drafting", func(h *memoryHost, _ *reviewer.Plan) {
			h.after = func(call string) error {
				if call == "add" {
					h.head = head2
				}
				return nil
			}
		}, reviewer.PostSuperseded, reviewer.RouteDraft, nil, nil, 0, ""},
		{"head moved at submission", func(h *memoryHost, _ *reviewer.Plan) {
			h.after = func(call string) error {
				if call == "submit" {
					h.head = head2
				}
				return nil
			}
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"our draft left over", func(h *memoryHost, p *reviewer.Plan) {
			h.draft = &[]reviewer.Comment{{Path: "a.go", Line: 12, Body: "x " + reviewer.Marker(a)}}
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"an empty draft left over", func(h *memoryHost, _ *reviewer.Plan) { h.draft = &[]reviewer.Comment{} }, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"a person's draft", func(h *memoryHost, _ *reviewer.Plan) {
			h.draft = &[]reviewer.Comment{{Path: "a.go", Line: 1, Body: "Mine."}}
		},
			reviewer.PostBlocked, "", nil, nil, 0, "error"},
		{"a person's draft where drafts can be passed by", func(h *memoryHost, _ *reviewer.Plan) {
			h.can.Discard, h.can.DirectIfMixed = false, true
			h.draft = &[]reviewer.Comment{{Path: "a.go", Line: 1, Body: "Mine."}}
		}, reviewer.PostDone, reviewer.RouteAtOnce, both, nil, 1, "success"},
		{"answer to the submission lost", func(h *memoryHost, _ *reviewer.Plan) { h.after = once("submit", lost) }, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"draft not pending once", func(h *memoryHost, _ *reviewer.Plan) { h.before = once("add", notPending) }, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"draft never pending", func(h *memoryHost, _ *reviewer.Plan) {
			h.before = func(call string) error {
				if call == "add" {
					return notPending
				}
				return nil
			}
		}, reviewer.PostDone, reviewer.RouteAtOnce, both, nil, 1, "success"},
		{"one thread there already", func(h *memoryHost, _ *reviewer.Plan) {
			h.threads = append(h.threads, reviewer.Thread{ID: "b", Path: "b.go", Line: 99, Remarks: []reviewer.Remark{{Body: "x &lt;sub&gt;nofx fp1.bbbbbbbbbbbb&lt;/sub&gt;", Ours: true}}})
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"a marker forged by somebody", func(h *memoryHost, _ *reviewer.Plan) {
			h.threads = append(h.threads, reviewer.Thread{ID: "b", Path: "b.go", Line: 5, Remarks: []reviewer.Remark{{Body: reviewer.Marker(b)}}})
			h.summaries = append(h.summaries, reviewer.Remark{Body: reviewer.SummaryMarker("rev_1")})
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 2, "success"},
		{"a marker forged through the model", func(h *memoryHost, p *reviewer.Plan) {
			p.Comments[0].Body = "Look: " + reviewer.Marker(b)
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"published before", func(h *memoryHost, p *reviewer.Plan) {
			if _, err := reviewer.Post(context.Background(), h, *p, posting()); err != nil {
				panic(err)
			}
		}, reviewer.PostDone, "", both, nil, 1, "success"},
		{"nothing to say", func(h *memoryHost, p *reviewer.Plan) { p.Summary, p.Comments = "", nil }, reviewer.PostDone, "", map[string]string{}, nil, 0, "success"},
		{"resolution refused", func(h *memoryHost, _ *reviewer.Plan) {
			h.before = once("resolve", fault.New(fault.Forbidden, "forbidden", "no"))
		},
			reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
		{"longer than the forge takes", func(h *memoryHost, p *reviewer.Plan) {
			h.can.MaxBody = 1000
			p.Comments[0].Body, p.Summary = strings.Repeat("é", 2000), strings.Repeat("é", 5000)
		}, reviewer.PostDone, reviewer.RouteDraft, both, nil, 1, "success"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, p := newMemoryHost(), plan()
			h.threads = append(h.threads, old())
			tt.set(h, &p)
			got, err := reviewer.Post(t.Context(), h, p, posting())
			if err != nil || got.State != tt.state || got.Route != tt.route {
				t.Fatalf("Post() = state %q, route %q, %v, want %q, %q\ncalls %v", got.State, got.Route, err, tt.state, tt.route, h.calls)
			}
			if tt.places == nil {
				tt.places = map[string]string{}
			}
			if diff := cmp.Diff(tt.places, places(got)); diff != "" {
				t.Errorf("Post() has put comments elsewhere (-want +got):\n%s", diff)
			}
			if !slices.Equal(got.Missing, tt.missing) {
				t.Errorf("Post() misses %v, want %v", got.Missing, tt.missing)
			}
			if len(h.summaries) != tt.summaries || h.status.State != tt.status {
				t.Errorf("forge has %d summaries, status %q, want %d, %q", len(h.summaries), h.status.State, tt.summaries, tt.status)
			}
			for _, s := range append(h.summaries, remarksOf(h.threads)...) {
				if n := len([]rune(s.Body)); n > h.can.MaxBody {
					t.Errorf("a text has %d runes, want at most %d", n, h.can.MaxBody)
				}
			}
		})
	}
}

func remarksOf(threads []reviewer.Thread) (all []reviewer.Remark) {
	for _, t := range threads {
		all = append(all, t.Remarks...)
	}
	return all
}

var errKilled = errors.New("killed")

// TestPostSurvivesAKillAtEachCall breaks a posting off before and after each of its calls,
// then posts again.
func TestPostSurvivesAKillAtEachCall(t *testing.T) {
	t.Parallel()
	for _, discard := range []bool{true, false} {
		steps := 0
		for n := 0; ; n++ {
			h := newMemoryHost()
			h.can.Discard, h.can.DirectIfMixed = discard, !discard
			h.threads = append(h.threads, old())
			at := 0
			kill := func(string) error {
				if at++; at == n+1 {
					return errKilled
				}
				return nil
			}
			h.before, h.after = kill, kill
			_, _ = reviewer.Post(t.Context(), h, plan(), posting()) // broken off
			if at <= n {
				break // past the last call
			}
			steps++
			h.before, h.after = nil, nil
			got, err := reviewer.Post(t.Context(), h, plan(), posting())
			if err != nil || got.State != reviewer.PostDone || len(got.Comments) != 2 {
				t.Fatalf("killed at %d (%v), then Post() = %+v, %v, want both comments posted", n, h.calls, got, err)
			}
			if len(h.summaries) != 1 || len(h.threads) != 3 || len(h.threads[0].Remarks) != 2 || !h.threads[0].Resolved {
				t.Errorf("killed at %d (%v): forge has %d reviews, %d threads, first %+v, want 1, 3, and that answered once and resolved", n, h.calls, len(h.summaries), len(h.threads), h.threads[0])
			}
			if h.draft != nil && len(*h.draft) > 0 && discard {
				t.Errorf("killed at %d: a draft is left over", n)
			}
		}
		t.Logf("with Discard %t: killed at %d points, each time one review and no duplicate", discard, steps)
	}
}

// TestPostWhileDraftsAreBeingPublished has an earlier call, given up, that goes on to publish
// drafts one by one between the calls of the posting that follows.
func TestPostWhileDraftsAreBeingPublished(t *testing.T) {
	t.Parallel()
	for n := range 12 {
		h, p := newMemoryHost(), plan()
		h.can.Discard, h.can.DirectIfMixed, h.can.Reply = false, true, false
		h.threads = append(h.threads, old())
		h.draft = &[]reviewer.Comment{}
		for _, c := range p.Comments {
			c.Body += "\n\n" + reviewer.Marker(c.Fingerprint)
			*h.draft = append(*h.draft, c)
		}
		calls := 0
		h.after = func(string) error {
			if calls++; calls > n && h.draft != nil && len(*h.draft) > 0 {
				h.publish((*h.draft)[:1])
				*h.draft = (*h.draft)[1:]
			}
			return nil
		}
		got, err := reviewer.Post(t.Context(), h, p, posting())
		if err != nil || got.State != reviewer.PostDone || len(h.threads) != 3 {
			t.Errorf("published from call %d on: Post() = %+v, %v, with %d threads, want 3\n%v", n, got, err, len(h.threads), h.calls)
		}
	}
}

// TestPostStopsAtALostLease checks that nothing is written once the fence is lost, and
// nothing more after a failed Save.
func TestPostStopsAtALostLease(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		h, asked := newMemoryHost(), 0
		to := posting()
		to.Fence = func(context.Context) error {
			if asked++; asked > n {
				return fault.New(fault.Fenced, "fenced", "the lease is lost")
			}
			return nil
		}
		_, err := reviewer.Post(t.Context(), h, plan(), to)
		last := h.calls[len(h.calls)-1]
		if fault.KindOf(err) != fault.Fenced || slices.Contains(h.calls, "submit") || last == "discard" {
			t.Errorf("fence %d lost: Post() = %v after %v, want Fenced and nothing published", n, err, h.calls)
		}
	}
}

// TestPostBesideTheReview has changes requested and a report set where the forge has these
// apart; one that it refuses is a warning.
func TestPostBesideTheReview(t *testing.T) {
	t.Parallel()
	no := fault.New(fault.Forbidden, "forbidden", "PUT /reports: the account may not do this")
	tests := []struct {
		name      string
		set       func(h *memoryHost, p *reviewer.Plan)
		requested bool
		details   string
		warnings  []review.Reason
	}{
		{"both", func(*memoryHost, *reviewer.Plan) {}, true, "failed", nil},
		{"no policy of it", func(_ *memoryHost, p *reviewer.Plan) { p.RequestChanges = false }, false, "failed", nil},
		{"somebody's word, no policy of it", func(h *memoryHost, p *reviewer.Plan) { p.RequestChanges, h.requested = false, true }, true, "failed", nil},
		{"taken back", func(h *memoryHost, p *reviewer.Plan) { p.RequestChanges, p.TakeBack, h.requested = false, true, true }, false, "failed", nil},
		{"partly posted", func(h *memoryHost, _ *reviewer.Plan) { h.shift = 1 }, true, "2 remarks could not be posted", nil},
		{"report refused", func(h *memoryHost, _ *reviewer.Plan) { h.before = refusing("report", no) }, true, "", []review.Reason{{Code: "report_refused", Detail: no.Detail}}},
		{"changes refused", func(h *memoryHost, _ *reviewer.Plan) { h.before = refusing("changes", no) }, false, "failed", []review.Reason{{Code: "changes_not_requested", Detail: no.Detail}}},
		{"a forge without both", func(h *memoryHost, _ *reviewer.Plan) { h.can.Report, h.can.ChangesApart = false, false }, false, "", nil},
	}
	for _, tt := range tests {
		h, p := newMemoryHost(), plan()
		h.threads = append(h.threads, old())
		h.can.Report, h.can.ChangesApart, h.can.RequestChanges = true, true, false
		p.RequestChanges, p.Status = true, reviewer.Status{State: "failure", Description: "failed"}
		p.Report = &reviewer.Report{Title: "Review", Details: "as planned"}
		tt.set(h, &p)
		got, err := reviewer.Post(t.Context(), h, p, posting())
		if err != nil || h.requested != tt.requested || h.report.Details != tt.details || !slices.Equal(got.Warnings, tt.warnings) {
			t.Errorf("%s: Post() = %+v, %v with changes requested %t and report %q, want %t, %q and warnings %v", tt.name, got, err, h.requested, h.report.Details, tt.requested, tt.details, tt.warnings)
		}
		if last := h.calls[len(h.calls)-1]; last != "status" {
			t.Errorf("%s: the last call is %s, want status: it says that all is there", tt.name, last)
		}
	}
	// One that may be there at the next try is tried again.
	h, p := newMemoryHost(), plan()
	h.threads = append(h.threads, old())
	h.can.Report, p.Report = true, &reviewer.Report{Title: "Review"}
	h.before = refusing("report", fault.New(fault.Unavailable, "no-answer", "no answer"))
	if _, err := reviewer.Post(t.Context(), h, p, posting()); fault.KindOf(err) != fault.Unavailable || h.status.State != "" {
		t.Errorf("Post() with a lost answer to the report = %v and status %q, want Unavailable and none", err, h.status.State)
	}
}

// refusing refuses a call, each time.
func refusing(call string, err error) func(string) error {
	return func(at string) error {
		if at == call {
			return err
		}
		return nil
	}
}
