package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A database that is away is told of in one line, and in one when it is back; what is
// not for that reason, or within a trace, stays.
func TestOutage(t *testing.T) {
	t.Parallel()
	away := errors.New("no answer")
	var out bytes.Buffer
	outage, log := NewOutage("the database", func(err error) bool { return errors.Is(err, away) }, NewLogger(&out, slog.LevelInfo, nil))
	traced, _ := WithTraceparent(context.Background(), parent)
	try := func(ctx context.Context) {
		log.WarnContext(ctx, "renewal", "error", away)
		log.With("queue", "step").ErrorContext(ctx, "fetch", slog.String("err", "connection refused"))
		log.ErrorContext(ctx, "listen", "err", context.DeadlineExceeded)
		log.InfoContext(ctx, "serving")
	}
	outage.Over()
	log.Error("of River", slog.String("err", "before"))
	for range 100 {
		try(context.Background())
	}
	try(traced)
	log.Warn("storage", "error", errors.New("no bucket"))
	log.Warn("no error")
	outage.Over()
	outage.Over()
	log.Warn("renewal", "error", away)
	outage.Over() // nothing was left out

	var got []string
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, "serving") {
			got = append(got, regexp.MustCompile(`.*"msg":"([^"]*)".*?("lines_left_out":\d+)?}\n`).ReplaceAllString(line, "$1 $2"))
		}
	}
	want := []string{"of River ", "renewal ", "renewal ", "fetch ", "listen ", "storage ", "no error ", `the database answers again "lines_left_out":299`, "renewal "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}
