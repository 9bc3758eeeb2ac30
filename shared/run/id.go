package run

import (
	"encoding/hex"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// Prefix names the noun that a public id belongs to.
type Prefix string

// The prefixes of public ids: <prefix>_<uuid as 32 hex digits>.
const (
	RunID        Prefix = "run"
	StepID       Prefix = "step"
	CheckpointID Prefix = "ckpt"
	GateID       Prefix = "gate"
	ArtifactID   Prefix = "art"
	KeyID        Prefix = "key"
	TenantID     Prefix = "ten"
	SignalID     Prefix = "sig"
	MergeID      Prefix = "mrg"
	ReviewID     Prefix = "rev"
	FindingID    Prefix = "find"
	RepositoryID Prefix = "repo"
	TrustID      Prefix = "trust"
	AlertID      Prefix = "alert"
	MessageID    Prefix = "msg"
)

// NewID makes a UUIDv7, so that rows of one kind sort by creation.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// Format returns the public form of id.
func (p Prefix) Format(id uuid.UUID) string { return string(p) + "_" + hex.EncodeToString(id[:]) }

// Parse reads a public id of p's noun. Any other text, including an id of another noun, is
// fault.NotFound: for the caller the thing does not exist.
func (p Prefix) Parse(s string) (uuid.UUID, error) {
	digits, ok := strings.CutPrefix(s, string(p)+"_")
	var id uuid.UUID
	if !ok || len(digits) != 2*len(id) || strings.ToLower(digits) != digits {
		return uuid.Nil, notFound(p)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return uuid.Nil, notFound(p)
	}
	return id, nil
}

func notFound(p Prefix) error {
	noun := map[Prefix]string{
		RunID: "run", StepID: "step", CheckpointID: "checkpoint", GateID: "gate",
		ArtifactID: "artifact", KeyID: "API key", TenantID: "tenant", MergeID: "merge", ReviewID: "review", FindingID: "finding", RepositoryID: "repository", TrustID: "OIDC trust",
		AlertID: "alert endpoint", MessageID: "delivery",
	}[p]
	return fault.New(fault.NotFound, "not-found", "no such %s", noun)
}
