package llm_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/anthropic"
	"nofx.dev/worker/internal/llm/openai"
)

// hostile are variables that the vendors' libraries read where they are let.
// None may have an effect on a request.
var hostile = []string{
	"OPENAI_BASE_URL=http://127.0.0.1:1/", "OPENAI_API_KEY=sk-env", "OPENAI_ADMIN_KEY=sk-env", "OPENAI_ORG_ID=env", "OPENAI_PROJECT_ID=env",
	"OPENAI_WEBHOOK_SECRET=env", "OPENAI_CUSTOM_HEADERS=X-Env: env",
	"ANTHROPIC_BASE_URL=http://127.0.0.1:1/", "ANTHROPIC_API_KEY=sk-env", "ANTHROPIC_AUTH_TOKEN=sk-env", "ANTHROPIC_PROFILE=env",
	"ANTHROPIC_CUSTOM_HEADERS=X-Env: env", "ANTHROPIC_WEBHOOK_SIGNING_KEY=env", "ANTHROPIC_OPEN_TELEMETRY=true",
	"ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE=content", "ANTHROPIC_OPEN_TELEMETRY_PROPAGATION=true",
}

// TestNothingIsReadFromTheEnvironment runs itself again under hostile variables, since
// others run beside it.
func TestNothingIsReadFromTheEnvironment(t *testing.T) {
	t.Parallel()
	if os.Getenv("NOFX_TEST_HOSTILE") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNothingIsReadFromTheEnvironment$", "-test.v")
		cmd.Env = append(slices.Clone(hostile), "NOFX_TEST_HOSTILE=1", "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("under hostile variables: %v\n%s", err, out)
		}
		return
	}
	for _, v := range vendors {
		var header http.Header
		s := v.serve(t, func(w http.ResponseWriter, r *http.Request) {
			header = r.Header.Clone()
			say(v.answer("fine", llm.End))(w, r)
		})
		ctx, _, resp, err := ask(t, s, 1e6)
		if err != nil || resp.Text != "fine" {
			t.Errorf("%s: Complete() = %+v, %v, want an answer of the configured address", v.name, resp, err)
			continue
		}
		for name, values := range header {
			if strings.Contains(strings.Join(values, " "), "env") || strings.HasPrefix(name, "Openai-") || name == "Traceparent" {
				t.Errorf("%s: the request has the header %s: %v", v.name, name, values)
			}
		}
		list := ours(ctx)
		wantSilence(t, nil, list)
		if len(list) != 1 || len(spans.Ended()) < 2 {
			t.Errorf("%s: %d spans, want the one of the try", v.name, len(list))
		}
		for _, span := range spans.Ended() {
			if strings.Contains(span.Name(), "messages") {
				t.Errorf("%s: the library made the span %s", v.name, span.Name())
			}
		}
	}
}

// A prompt and the key go to the configured address and nowhere else, and the library
// tries once.
func TestGuardFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		for _, status := range []int{301, 302, 303, 307, 308} {
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Errorf("%s: a redirect %d was followed", v.name, status) }))
			s := v.serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, status)
			})
			_, err := v.model(http.DefaultClient, s.url, "m").Complete(t.Context(), question)
			if !errors.Is(err, fault.Invalid) || len(s.asked()) != 1 {
				t.Errorf("%s: Complete(answered with %d) = %v after %d calls, want invalid after one", v.name, status, err, len(s.asked()))
			}
			wantSilence(t, err, nil)
			elsewhere.Close()
		}
		s := v.serve(t, later(503, "0"))
		if _, err := v.model(http.DefaultClient, s.url, "m").Complete(t.Context(), question); !errors.Is(err, fault.Unavailable) || len(s.asked()) != 1 {
			t.Errorf("%s: Complete(503) = %v after %d calls of the library, want unavailable after one", v.name, err, len(s.asked()))
		}
	}
}

// A server of one's own may answer without a content type, or with another.
func TestContentTypeIsNotNeeded(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		for _, contentType := range []string{"", "text/plain; charset=utf-8"} {
			s := v.serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = []string{contentType}
				w.Write([]byte(v.answer("fine", llm.End)))
			})
			if resp, err := v.model(http.DefaultClient, s.url, "m").Complete(t.Context(), question); err != nil || resp.Text != "fine" {
				t.Errorf("%s: Complete(answered as %q) = %+v, %v, want the answer", v.name, contentType, resp, err)
			}
		}
	}
}

// A provider may stand behind a path, which ends with a slash or does not.
func TestBaseURL(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		s := v.serve(t, say(v.answer("fine", llm.End)))
		proxy := httptest.NewServer(http.StripPrefix("/proxy", s))
		t.Cleanup(proxy.Close)
		base := map[string]string{"openai": "/proxy/v1", "anthropic": "/proxy"}[v.name]
		for _, end := range []string{"", "/"} {
			m := openai.New(openai.Config{Client: http.DefaultClient, BaseURL: proxy.URL + base + end, Key: key, Model: "m"})
			if v.name == "anthropic" {
				m = anthropic.New(anthropic.Config{Client: http.DefaultClient, BaseURL: proxy.URL + base + end, Key: key, Model: "m"})
			}
			if resp, err := m.Complete(t.Context(), question); err != nil || resp.Text != "fine" {
				t.Errorf("%s: Complete(at %s) = %+v, %v, want an answer", v.name, base+end, resp, err)
			}
		}
	}
}

// Without a key, as for a server of one's own, no Authorization is sent.
func TestNoKey(t *testing.T) {
	t.Parallel()
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		say(vendors[0].answer("fine", llm.End))(w, r)
	}))
	defer s.Close()
	_, err := openai.New(openai.Config{Client: http.DefaultClient, BaseURL: s.URL, Model: "m"}).Complete(t.Context(), question)
	if err != nil || header.Get("Authorization") != "" {
		t.Errorf("Complete(no key) = %v, Authorization %q, want an answer and none", err, header.Get("Authorization"))
	}
}

// A provider that is not there is unavailable.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		s := httptest.NewServer(http.NotFoundHandler())
		address := s.URL
		s.Close()
		_, err := v.model(http.DefaultClient, address, "m").Complete(t.Context(), question)
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "unavailable" {
			t.Errorf("%s: Complete(nobody there) = %v, want unavailable", v.name, err)
		}
	}
}
