package blob

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

func fetch(t testing.TB, method, url string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s signed URL: %v", method, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s signed URL: %v", method, err)
	}
	return resp.StatusCode, body
}

func TestS15_SignedURL(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	content := []byte("what was stored")
	key, other := put(t, s, content), put(t, s, []byte("what another may read"))
	signed, err := s.SignedURL(t.Context(), key, "größe \"1\".log", time.Minute)
	if err != nil {
		t.Fatalf("SignedURL: %v", err)
	}

	resp, err := http.Get(signed)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(body) != string(content) {
		t.Errorf("GET = %d %q, want 200 %q", resp.StatusCode, body, content)
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
	if err != nil || kind != "attachment" || params["filename"] != `größe "1".log` {
		t.Errorf("Content-Disposition = %q (%v), want an attachment with the name", resp.Header.Get("Content-Disposition"), err)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("Content-Type = %q, want application/octet-stream", got)
	}

	edit := func(f func(u *url.URL, q url.Values)) string {
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		f(u, q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, c := range map[string]struct{ method, url string }{
		"longer life": {"GET", edit(func(_ *url.URL, q url.Values) { q.Set("X-Amz-Expires", "900") })},
		"other time":  {"GET", edit(func(_ *url.URL, q url.Values) { q.Set("X-Amz-Date", q.Get("X-Amz-Date")[:8]+"T000001Z") })},
		"other name":  {"GET", edit(func(_ *url.URL, q url.Values) { q.Set("response-content-disposition", "inline") })},
		"forged":      {"GET", edit(func(_ *url.URL, q url.Values) { q.Set("X-Amz-Signature", strings.Repeat("0", 64)) })},
		"other key":   {"GET", edit(func(u *url.URL, _ url.Values) { u.Path = "/" + s.cfg.Bucket + "/" + other })},
		"HEAD":        {"HEAD", signed},
		"PUT":         {"PUT", signed},
		"DELETE":      {"DELETE", signed},
	} {
		if status, body := fetch(t, c.method, c.url); status != http.StatusForbidden {
			t.Errorf("%s: status = %d %s, want 403", name, status, body)
		}
	}
	if got, err := read(t, s, key, 0, -1); err != nil || string(got) != string(content) {
		t.Errorf("Open afterwards = %q, %v, want %q", got, err, content)
	}
}

// Names that need quoting in a header or a URL arrive as they are.
func TestSignedURLNames(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := put(t, s, []byte("hello"))
	for _, name := range []string{`größe "1"; x.txt`, "a*b'c!.txt", "文件.zip", "%41.txt", "a=b&c+d.txt"} {
		signed, err := s.SignedURL(t.Context(), key, name, time.Minute)
		if err != nil {
			t.Fatalf("SignedURL(%q) = %v", name, err)
		}
		resp, err := http.Get(signed)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
		if resp.StatusCode != http.StatusOK || err != nil || params["filename"] != name {
			t.Errorf("GET of %q = %d, Content-Disposition %q (%v), want its name", name, resp.StatusCode, resp.Header.Get("Content-Disposition"), err)
		}
	}
}

// putSigned PUTs content to a signed URL.
func putSigned(t testing.TB, url, content string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("PUT signed URL: %v", err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestSignedPut(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const content = "exactly these bytes"
	key := UploadKey(uuid.New(), uuid.New())
	url, headers, err := s.SignedPut(t.Context(), key, int64(len(content)), time.Minute)
	if err != nil {
		t.Fatalf("SignedPut: %v", err)
	}
	if got := headers["Content-Length"]; got != strconv.Itoa(len(content)) || len(headers) != 1 {
		t.Errorf("SignedPut headers = %v, want the length alone", headers)
	}
	for name, c := range map[string]struct{ url, content string }{
		"fewer bytes": {url, content[1:]},
		"more bytes":  {url, content + "!"},
		"other key":   {strings.Replace(url, "/upload/", "/blob/", 1), content},
	} {
		if status := putSigned(t, c.url, c.content); status != http.StatusForbidden {
			t.Errorf("PUT of %s = %d, want 403", name, status)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if status, body := fetch(t, method, url); status != http.StatusForbidden {
			t.Errorf("%s = %d %s, want 403", method, status, body)
		}
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, fault.Gone) {
		t.Errorf("Stat after refusals = %v, want nothing there", err)
	}
	if status := putSigned(t, url, content); status != http.StatusOK {
		t.Errorf("PUT = %d, want 200", status)
	}
	if got, err := read(t, s, key, 0, -1); err != nil || string(got) != content {
		t.Errorf("Open = %q, %v, want %q", got, err, content)
	}
}

func TestSignedURLExpires(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	key := put(t, s, []byte("gone in a second"))
	signed, err := s.SignedURL(t.Context(), key, "x", time.Second)
	if err != nil {
		t.Fatalf("SignedURL: %v", err)
	}
	for deadline, tick := time.After(2*time.Minute), time.Tick(200*time.Millisecond); ; {
		if status, _ := fetch(t, http.MethodGet, signed); status == http.StatusForbidden {
			return
		}
		select {
		case <-deadline:
			t.Fatal("GET two minutes after a life of 1 s is still answered")
		case <-tick:
		}
	}
}

func TestS17_SignedURLLife(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *Config) { c.PublicEndpoint = "https://files.example.com" })
	for _, ttl := range []time.Duration{0, -time.Minute, time.Second - 1, 15*time.Minute + 1, time.Hour} {
		if u, err := s.SignedURL(t.Context(), "k", "f", ttl); err == nil {
			t.Errorf("SignedURL(%s) = %q, want an error", ttl, u)
		}
	}
	u, err := s.SignedURL(t.Context(), "k", "f", MaxSignedTTL)
	if want := "https://files.example.com/" + s.cfg.Bucket + "/k?"; err != nil || !strings.HasPrefix(u, want) {
		t.Errorf("SignedURL = %q, %v, want prefix %q", u, err, want)
	}
}

func TestS15_Disposition(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"report.pdf":             `attachment; filename="report.pdf"; filename*=UTF-8''report.pdf`,
		"../../etc/passwd":       `attachment; filename="passwd"; filename*=UTF-8''passwd`,
		`C:\temp\x.txt`:          `attachment; filename="x.txt"; filename*=UTF-8''x.txt`,
		"a\r\nSet-Cookie: b=c":   `attachment; filename="aSet-Cookie: b=c"; filename*=UTF-8''aSet-Cookie%3A%20b%3Dc`,
		`q"; filename="evil.exe`: `attachment; filename="q__ filename=_evil.exe"; filename*=UTF-8''q%22%3B%20filename%3D%22evil.exe`,
		"größe.txt":              `attachment; filename="gr__e.txt"; filename*=UTF-8''gr%C3%B6%C3%9Fe.txt`,
		"":                       `attachment; filename="download"; filename*=UTF-8''download`,
		"..":                     `attachment; filename="download"; filename*=UTF-8''download`,
		"\xff.bin":               `attachment; filename="_.bin"; filename*=UTF-8''_.bin`,
	} {
		if got := disposition(in); got != want {
			t.Errorf("disposition(%q) = %s, want %s", in, got, want)
		}
	}
	if long := disposition(strings.Repeat("ü", 5000) + ".log"); len(long) > 1200 || !strings.HasSuffix(long, ".log") {
		t.Errorf("disposition(5,000 letters) has %d bytes, want at most 1,200 and the extension", len(long))
	}
}
