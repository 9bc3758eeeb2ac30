package postgres_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// The candidates of a bisection are the first checkpoints with each workspace; without a
// good one they begin where there are files, unless nothing changed them after that.
func TestCandidates(t *testing.T) {
	t.Parallel()
	s := setup(t)
	trees := map[byte]string{'-': tree.Empty.String()}
	for _, c := range "abc" {
		trees[byte(c)] = tree.Sum([]byte{byte(c)}).String()
	}
	for _, tt := range []struct{ line, good, want string }{
		{"--aabbb", "", "24"},
		{"--aabbb", "0", "024"},
		{"--aabbb", "3", "34"},
		{"aab-c", "", "0234"},
		{"--a", "", "02"},
		{"a--", "", "01"},
		{"---", "", "0"},
	} {
		r, _ := s.create(t, "a:")
		var ids []uuid.UUID
		for i := range len(tt.line) {
			id := run.NewID()
			s.exec(t, `INSERT INTO nofx.checkpoint (tenant_id, id, run_id, seq, kind, generation, digest, manifest, state_digest, tree_digest, bytes_new)
				VALUES ($1, $2, $3, $4, 'post', $5, '', '', '', $6, 0)`, s.tenant, id, r.ID, 1000+i, i+1, trees[tt.line[i]])
			if i > 0 {
				s.exec(t, `INSERT INTO nofx.checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id) VALUES ($1, $2, 1, $3)`, s.tenant, id, ids[i-1])
			}
			ids = append(ids, id)
		}
		var good *uuid.UUID
		if tt.good != "" {
			good = &ids[tt.good[0]-'0']
		}
		list, err := s.Candidates(s.ctx, s.tenant, good, ids[len(ids)-1])
		var got strings.Builder
		for _, c := range list {
			for i, id := range ids {
				if id == c.ID {
					got.WriteByte(byte('0' + i))
				}
			}
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("Candidates(%s, good %q) = %s, %v, want %s", tt.line, tt.good, got.String(), err, tt.want)
		}
	}
}
