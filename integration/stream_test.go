package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"nofx.dev/gateway/api"
)

// follow opens a stream and hands each frame to fn until fn has enough of it or
// the server ends it.
func (c *client) follow(t *testing.T, path, lastEventID string, fn func(api.Frame) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	headers := header{"Accept", "text/event-stream"}
	if lastEventID != "" {
		headers = append(headers, "Last-Event-ID", lastEventID)
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil, headers)
	if err != nil {
		t.Fatalf("GET %s = %v", path, err)
	}
	defer resp.Body.Close()
	if media := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(media, "text/event-stream") {
		t.Fatalf("GET %s = %d %s, want a stream", path, resp.StatusCode, media)
	}
	for frames := api.NewFrameReader(resp.Body); ; {
		f, err := frames.Next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			t.Fatalf("GET %s breaks off: %v", path, err)
		case f.Event != "" && !fn(f):
			return
		}
	}
}

// stream returns all frames until the server ends the stream.
func (c *client) stream(t *testing.T, path, lastEventID string) (frames []api.Frame) {
	t.Helper()
	c.follow(t, path, lastEventID, func(f api.Frame) bool {
		frames = append(frames, f)
		return true
	})
	if len(frames) < 2 {
		t.Fatalf("GET %s = %d frames, want more", path, len(frames))
	}
	return frames
}

// events reads the events of a run page by page.
func (c *client) events(t *testing.T, run, limit string) (all []api.Event) {
	t.Helper()
	for after := "0"; ; {
		p := get[api.EventPage](t, c, "/api/runs/"+run+"/events?limit="+limit+"&after="+after)
		if len(p.Items) == 0 {
			return all
		}
		all = append(all, p.Items...)
		after = p.NextCursor
	}
}

// ofType returns the events of one type.
func ofType(events []api.Event, typ string) (some []api.Event) {
	for _, e := range events {
		if e.Type == typ {
			some = append(some, e)
		}
	}
	return some
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// sameFrame compares id and event as text, the data as JSON.
func sameFrame(t *testing.T, got, want string) bool {
	t.Helper()
	g, w := strings.SplitN(got, " ", 3), strings.SplitN(want, " ", 3)
	return g[0] == w[0] && g[1] == w[1] && cmp.Equal(members(t, json.RawMessage(g[2])), members(t, json.RawMessage(w[2])))
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func escape(s string) string { return url.QueryEscape(s) }

// storageAnswer asks the storage as anybody can who holds a signed URL.
func storageAnswer(t *testing.T, method, signed string) (int, http.Header, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s signed URL = %v", method, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s signed URL breaks off: %v", method, err)
	}
	return resp.StatusCode, resp.Header, content
}

// download gets what is behind a signed URL.
func download(t *testing.T, signed string) []byte {
	t.Helper()
	status, header, content := storageAnswer(t, http.MethodGet, signed)
	if status != http.StatusOK {
		t.Fatalf("GET signed URL = %d %.200s", status, content)
	}
	if d := header.Get("Content-Disposition"); !strings.HasPrefix(d, "attachment") {
		t.Errorf("Content-Disposition of a signed URL = %q, want attachment", d)
	}
	return content
}

// unpack returns the content of one frame of a pack.
func unpack(t *testing.T, raw []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	content, err := io.ReadAll(d)
	if err != nil {
		t.Fatalf("unpack: %v", err)
	}
	return content
}

// logFrame returns the data of a frame of a followed log.
func logFrame(t *testing.T, f api.Frame) (v api.LogFrame) {
	t.Helper()
	if err := json.Unmarshal([]byte(f.Data), &v); err != nil || f.ID != fmt.Sprint(v.Offset+int64(len(v.Text))) {
		t.Fatalf("log frame = %+v, %v, want an id that is the offset after it", f, err)
	}
	return v
}
