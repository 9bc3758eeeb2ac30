package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/audit"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

const (
	alice = "key:0198c0de7a2b7c3d8e4f0000000000a1"
	bob   = "key:0198c0de7a2b7c3d8e4f0000000000b0"
)

func id(prefix string, n int) string { return fmt.Sprintf("%s_0198c0de7a2b7c3d8e4f%012x", prefix, n) }

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func ago(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }

func step(n int, name, tool string, status api.StepStatus) api.Step {
	return api.Step{ID: id("step", n), RunID: id("run", 1), Idx: n - 1, Name: name, Tool: tool, Queue: "step", Status: status,
		Version: 3, MaxAttempts: 1, DependsOn: []string{}}
}

// detail returns a run whose build is done, whose unit gate is running for the
// second time, and whose deployment waits for a person.
func detail() api.RunDetail {
	build := step(1, "build", "bash", api.StepStatusSucceeded)
	build.Attempt, build.Attempts, build.StartedAt, build.FinishedAt = 1, 1, ptr(ago(60)), ptr(ago(52))
	unit := step(2, "unit", "gate:unit", api.StepStatusRunning)
	unit.Attempt, unit.Attempts, unit.MaxAttempts, unit.StartedAt = 2, 2, 3, ptr(ago(50))
	ship := step(3, "ship", "manual:deploy", api.StepStatusWaiting)
	ship.Attempt, ship.Attempts, ship.StartedAt = 1, 1, ptr(ago(50))
	last := step(4, "announce", "bash", api.StepStatusPending)
	return api.RunDetail{
		Run: api.Run{ID: id("run", 1), Kind: api.RunKindPlan, Project: "default", Goal: "ship the fix", Status: api.RunStatusRunning, Version: 4,
			Labels: api.Labels{"team": "core"}, PlanDigest: digest(1), TraceID: testTrace, RootRunID: id("run", 1),
			Deadline: ptr(now.Add(time.Hour)), CreatedBy: alice, CreatedByName: ptr("alice"), CreatedAt: ago(61), StartedAt: ptr(ago(60))},
		Steps: []api.Step{build, unit, ship, last},
		Gates: []api.Gate{shipGate()},

		StreamCursor: "7",
	}
}

// timeline returns the timeline of that run.
func timeline() api.Timeline { return timelineOf(detail()) }

func timelineOf(d api.RunDetail) api.Timeline {
	t := api.Timeline{Run: d.Run, At: now}
	spans := func(of ...any) (list []api.TimelineSpan) { // status, and seconds ago when it began
		for i := 0; i < len(of); i += 2 {
			s := api.TimelineSpan{Status: of[i].(api.StepStatus), StartedAt: ago(of[i+1].(int))}
			if i > 0 {
				list[len(list)-1].EndedAt = &s.StartedAt
			}
			if list = append(list, s); s.Status == api.StepStatusSucceeded {
				list = list[:len(list)-1]
			}
		}
		return list
	}
	const ready, running, retrying, waiting, succeeded = api.StepStatusReady, api.StepStatusRunning, api.StepStatusRetrying, api.StepStatusWaiting, api.StepStatusSucceeded
	t.Items = []api.TimelineItem{
		{Step: d.Steps[0], WaitMs: 1000, RunMs: 8000, Spans: spans(ready, 61, running, 60, succeeded, 52)},
		{Step: d.Steps[1], WaitMs: 2000, RunMs: 30_000, Spans: spans(ready, 52, running, 50, retrying, 40, ready, 20, running, 20)},
		{Step: d.Steps[2], WaitMs: 2000, RunMs: 12, Spans: spans(ready, 52, running, 50, waiting, 50)},
		{Step: d.Steps[3], Spans: []api.TimelineSpan{}},
	}
	for i := range t.Items {
		t.Items[i].Attempts = []api.TimelineAttempt{}
	}
	return t
}

func pausedQueue() api.Queue {
	return api.Queue{Name: "review", Paused: true, PausedAt: ptr(ago(60)), PausedBy: ptr(alice), PausedByName: ptr("alice"), Reason: ptr("moving"), Depth: api.QueueDepth{Ready: 3, Retrying: 2}, OldestAgeMs: 61_000}
}

func shipGate() api.Gate {
	return api.Gate{ID: id("gate", 1), RunID: id("run", 1), StepID: id("step", 3), StepName: "ship", Round: 1, Name: "deploy", Kind: api.GateKindManual,
		Status: api.GateStatusPending, Version: 1, Message: ptr("Deploy\x1b[31m?"), CreatedAt: ago(50), AgeS: 50,
		ExpiresAt: ptr(now.Add(24 * time.Hour)), ShownCheckpointID: ptr(id("ckpt", 1)), ShownDigest: ptr(digest(2))}
}

// expiredGate returns a gate that nobody decided in time.
func expiredGate() api.Gate {
	g := shipGate()
	g.ID, g.Status, g.DecidedBy, g.DecidedAt, g.ExpiresAt = id("gate", 4), api.GateStatusExpired, ptr("vm/5b57cacb"), ptr(ago(1)), ptr(ago(2))
	return g
}

// waitingDetail returns a run that waits in every way there is: for a person, a signal
// and a time, and for a worker while its queue is paused; and a step will be retried.
func waitingDetail() api.RunDetail {
	d := detail()
	d.Steps[1].Status, d.Steps[1].ReadyAt, d.Steps[1].Reason = api.StepStatusRetrying, ptr(now.Add(8*time.Second)), ptr("exit code 1")
	d.Steps[3].Status = api.StepStatusReady
	news := step(5, "news", "signal", api.StepStatusWaiting)
	news.SignalKey, news.WaitUntil = ptr("it's live"), ptr(now.Add(time.Hour))
	nap := step(6, "nap", "sleep", api.StepStatusWaiting)
	nap.WaitUntil = ptr(now.Add(time.Minute))
	d.Steps = append(d.Steps, news, nap)
	return d
}

// failedDetail returns the same run at its end: unit failed, the rest never ran.
func failedDetail() api.RunDetail {
	d := detail()
	d.Run.Status, d.Run.FinishedAt = api.RunStatusFailed, ptr(ago(10))
	d.Run.FailureClass, d.Run.Reason = ptr(api.FailureClassGateFailed), ptr("step unit failed")
	d.Steps[1].Status, d.Steps[1].FinishedAt = api.StepStatusFailed, ptr(ago(10))
	d.Steps[1].FailureClass, d.Steps[1].Reason = ptr(api.FailureClassGateFailed), ptr("exit code 1")
	d.Steps[2].Status, d.Steps[2].FinishedAt = api.StepStatusCancelled, ptr(ago(10))
	d.Steps[3].Status, d.Steps[3].FinishedAt = api.StepStatusSkipped, ptr(ago(10))
	withdrawn := shipGate()
	withdrawn.Status = api.GateStatusExpired
	unit := api.Gate{ID: id("gate", 2), RunID: id("run", 1), StepID: id("step", 2), StepName: "unit", Round: 1, Name: "unit", Kind: api.GateKindCommand,
		Status: api.GateStatusFailed, Version: 2, Evidence: json.RawMessage(`{"exit_code":1}`), CreatedAt: ago(50), AgeS: 50}
	d.Gates = []api.Gate{withdrawn, unit}
	d.StreamCursor = "13"
	return d
}

func ptr[T any](v T) *T { return &v }

// event returns one event of the run; stepNo 0 is none.
func event(seq int64, stepNo int, kind, data string) api.Event {
	e := api.Event{ID: fmt.Sprintf("%s.%d", id("run", 1), seq), Seq: seq, Type: kind, RunID: id("run", 1), TenantID: id("ten", 1),
		At: ago(40 - int(seq)), Actor: "worker-1", TraceID: testTrace, Schema: 1, Data: json.RawMessage(data)}
	if stepNo > 0 {
		e.StepID = ptr(id("step", stepNo))
	}
	return e
}

// block returns one frame of a stream.
func block(id, event, data string) string {
	var s strings.Builder
	for _, line := range [][2]string{{"id", id}, {"event", event}, {"data", data}} {
		if line[1] != "" {
			s.WriteString(line[0] + ": " + line[1] + "\n")
		}
	}
	return s.String() + "\n"
}

func eventBlock(e api.Event) string {
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return block(fmt.Sprint(e.Seq), e.Type, string(raw))
}

// conflictedMerge is a merge with a conflict of each form.
func conflictedMerge() api.Merge {
	side := func(text string) *api.MergeSide {
		return &api.MergeSide{Sha256: ptr(digest(8)[7:]), SizeBytes: ptr(int64(len(text))), Mode: ptr("100644"), Excerpt: &text}
	}
	value := func(v string) *api.MergeSide {
		return &api.MergeSide{SizeBytes: ptr(int64(len(v))), Value: json.RawMessage(v)}
	}
	file := func(n int64) *api.MergeSide {
		return &api.MergeSide{Sha256: ptr(digest(9)[7:]), SizeBytes: &n, Mode: ptr("100755")}
	}
	takes := []api.MergeTake{api.MergeTakeOurs, api.MergeTakeTheirs, api.MergeTakeBase, api.MergeTakeValue}
	return api.Merge{
		ID: id("mrg", 1), TargetRunID: id("run", 1), SourceRunID: id("run", 2), TargetHeadCheckpointID: id("ckpt", 1), SourceHeadCheckpointID: id("ckpt", 2), BaseCheckpointID: id("ckpt", 3),
		Status: api.MergeStatusConflicted, Version: 2, Strategy: api.MergeStrategyManual, Mode: api.MergeModeNormal, Outcome: ptr(api.MergeOutcomeConflicted),
		ConflictCount: 4, UnresolvedCount: 3, CreatedBy: alice, CreatedAt: ago(60), UpdatedAt: ago(50), TargetMoved: true,
		Preview: &api.MergePreview{Added: 1, Modified: 1, State: true, Files: []api.MergeChange{{Path: "new.go", Status: api.MergeChangeStatusAdded}, {Path: "go.mod\x1b[2J", Status: api.MergeChangeStatusModified}}},
		Conflicts: []api.MergeConflict{
			{Path: ptr("a.go"), Kind: api.MergeConflictKindContent, Line: ptr(12), Takes: append(takes, api.MergeTakeBoth), Base: side("x := 1\n"), Ours: side("x := 2\ny := 2\n"), Theirs: side("x := 3\x1b[31m\n")},
			{Path: ptr("b.sh"), Kind: api.MergeConflictKindDeleted, RenamedTo: ptr("tools/b.sh"), Takes: takes, Base: file(120), Theirs: &api.MergeSide{Sha256: ptr(digest(9)[7:]), Kind: ptr(api.MergeSideKindRedacted)},
				Reason: ptr("content that the decision was about was purged by an administrator")},
			{Path: ptr("c.go"), Kind: api.MergeConflictKindAdded, Takes: takes, Ours: file(1), Theirs: file(2), Resolution: ptr(api.MergeTakeOurs)},
			{Pointer: ptr("/vars/x"), Kind: api.MergeConflictKindType, Takes: takes, Base: value("1"), Ours: value(`"one"`), Theirs: &api.MergeSide{SizeBytes: ptr(int64(9000))}},
		},
	}
}

// collectedGarbage answers a collection that has ended.
func collectedGarbage(w http.ResponseWriter, r *http.Request) {
	var in api.GCRequest
	_ = json.NewDecoder(r.Body).Decode(&in)
	dry := in.DryRun != nil && *in.DryRun
	answer(http.StatusOK, api.GCAnswer{GcRunID: id("run", 9), Collection: &api.GCReport{
		DryRun: dry, Checkpoints: 40, Named: api.Count{N: 1200, Bytes: 34_000_000}, Condemned: api.Count{N: 2, Bytes: 4096}, Deleted: api.Count{N: 1, Bytes: 512},
		Objects: api.Count{N: 1, Bytes: 70_000}, Lost: 1,
		Items: []api.StorageItem{
			{Kind: api.StorageItemKindContent, ID: strings.Repeat("ef", 32), What: "lost"},
			{Kind: api.StorageItemKindBlob, ID: strings.Repeat("ab", 32), Bytes: 2048, What: "condemned"},
			{Kind: api.StorageItemKindObject, ID: "t/1/pack/ab/abcd", Bytes: 70_000, What: "deleted"},
		},
		ItemsTruncated: true,
	}})(w, r)
}

// auditLog is a log of two rows, the newest first, with their real hashes.
func auditLog() api.AuditPage {
	first := api.AuditRow{Seq: 1, At: ago(90_000), Actor: "gateway tenant create", Via: "administrator", Act: "key.create", Object: id("key", 1),
		After: json.RawMessage(`{"name":"ci","role":"admin"}`), PrevHash: strings.Repeat("0", 64)}
	second := api.AuditRow{Seq: 2, At: ago(60), Actor: alice, ActorName: ptr("alice"), Via: "api-key", Act: "gate.approve", Object: id("gate", 1), Reason: ptr("looks\x1b[31m good"),
		Before: json.RawMessage(`{"status":"pending","version":1}`), After: json.RawMessage(`{"status":"passed","version":2}`), TraceID: ptr(testTrace)}
	tenant := id("ten", 1)
	for _, r := range []*api.AuditRow{&first, &second} {
		if r.PrevHash == "" {
			r.PrevHash = first.Hash
		}
		var err error
		if r.Hash, err = audit.Hash(tenant, *r); err != nil {
			panic(err)
		}
	}
	return api.AuditPage{TenantID: tenant, Items: []api.AuditRow{second, first}}
}
