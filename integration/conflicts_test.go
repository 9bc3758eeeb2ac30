package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestTooManyConflicts merges runs that disagree on 10,001 keys of the state, or on that many
// keys and files together: the merge ends with a code and leaves nothing. 10,000 are listed,
// and can be decided in one request.
func TestTooManyConflicts(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	const most = 10_000
	// keys returns an object of 10,001 keys of which the first n have a value of their own.
	keys := func(n, value int) json.RawMessage {
		var b strings.Builder
		for i := range most + 1 {
			v := 0
			if i < n {
				v = value
			}
			fmt.Fprintf(&b, `,"k%d":%d`, i, v)
		}
		return json.RawMessage("{" + b.String()[1:] + "}")
	}
	vars := func(op string, n, value int) []map[string]any {
		return []map[string]any{{"op": op, "path": "/vars/x", "value": keys(n, value)}}
	}
	script := func(text string) []map[string]any {
		return []map[string]any{{"op": "replace", "path": "/steps/1/inputs/script", "value": text}}
	}
	first := s.await(t, s.create(t, bash("a", "seq 101 | split -l 1 -a 5 - f"), bash("b", "true", "a")).Run.ID, api.RunStatusSucceeded)
	root := s.branch(t, first.Run.ID, checkpointOf(t, s, first.Run.ID, named(t, first, "a").ID, api.CheckpointKindPost).ID, map[string]any{"state_patch": vars("add", 0, 0)})
	edit := items[api.Checkpoint](t, s.client, "/api/runs/"+root.Run.ID+"/checkpoints", "50")[0]
	made := decode[api.CreatedBranches](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+root.Run.ID+"/branches", map[string]any{
		"checkpoint_id": edit.ID, "variants": []map[string]any{
			{"name": "ones", "state_patch": vars("replace", most+1, 1)},
			{"name": "twos", "state_patch": vars("replace", most+1, 2)},
			{"name": "fewer", "state_patch": vars("replace", most, 2)},
			{"name": "files 1", "state_patch": vars("replace", most-100, 1), "plan_patch": script("echo x | tee f* > log")},
			{"name": "files 2", "state_patch": vars("replace", most-100, 2), "plan_patch": script("echo y | tee f* > /dev/null")},
		},
	})).Runs
	ids := map[string]string{}
	for _, r := range made {
		ids[deref(r.Name)] = s.await(t, r.ID, api.RunStatusSucceeded).Run.ID
	}
	for _, tt := range []struct {
		target, source string
		conflicts      int // 0: too many
	}{
		{"ones", "fewer", most}, {"ones", "twos", 0}, {"files 1", "files 2", 0},
	} {
		t.Run(tt.target+" and "+tt.source, func(t *testing.T) {
			target := ids[tt.target]
			const ofTarget = `SELECT concat_ws(' ', r.state, r.head_checkpoint_id, r.start_checkpoint_id, (SELECT count(*) FROM nofx.checkpoint), (SELECT count(*) FROM nofx.blob),
				(SELECT string_agg(s::text, ' ' ORDER BY s.idx) FROM nofx.step s WHERE s.run_id = r.id)) FROM nofx.run r WHERE r.id = $1`
			before := one[string](t, s, ofTarget, uuidOf(target))
			request := map[string]any{"source_run_id": ids[tt.source]}
			m := decode[api.MergeAnswer](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+target+"/merges", request)).Merge
			s.await(t, deref(m.MergeRunID), api.RunStatusSucceeded)
			m = get[api.MergeAnswer](t, s.client, "/api/merges/"+m.ID).Merge
			rows := one[int](t, s, "SELECT count(*)::int FROM nofx.merge_conflict WHERE merge_id = $1", uuidOf(m.ID))
			if m.ConflictCount != tt.conflicts || rows != tt.conflicts {
				t.Errorf("conflicts = %d with %d rows, want %d", m.ConflictCount, rows, tt.conflicts)
			}
			if after := one[string](t, s, ofTarget, uuidOf(target)); after != before {
				t.Errorf("the target is\n%s\nwant it as it was\n%s", after, before)
			}
			if tt.conflicts > 0 {
				if m.Status != api.MergeStatusConflicted {
					t.Errorf("merge = %s, want it conflicted", m.Status)
				}
				var all []map[string]any
				for i := range most - 1 { // with the last one a worker would store the result
					all = append(all, map[string]any{"pointer": fmt.Sprintf("/vars/x/k%d", i), "take": "theirs"})
				}
				m = decode[api.MergeAnswer](t, s.do(t, http.StatusOK, http.MethodPut, "/api/merges/"+m.ID+"/resolutions", map[string]any{"resolutions": all})).Merge
				if m.UnresolvedCount != 1 {
					t.Errorf("conflicts open = %d, want 1", m.UnresolvedCount)
				}
				return
			}
			if m.Status != api.MergeStatusAbandoned || deref(m.FailureCode) != "too-many-conflicts" || m.Preview != nil || !strings.Contains(deref(m.Reason), "10000") {
				t.Errorf("merge = %s, %s: %s, want it abandoned with too-many-conflicts and the number", m.Status, deref(m.FailureCode), deref(m.Reason))
			}
			for _, path := range []string{"/api/runs/" + target + "/merges", "/api/merges/" + m.ID + "/commit"} {
				var body any
				if strings.HasSuffix(path, "/merges") {
					body = request
				}
				if code := codeOf(t, s.do(t, http.StatusConflict, http.MethodPost, path, body)); code != "too-many-conflicts" {
					t.Errorf("POST %s = %s, want too-many-conflicts", path, code)
				}
			}
		})
	}
}
