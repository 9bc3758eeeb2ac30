package blob

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
)

// Strangers are told what is wrong with storage, and not where it is.
func TestPingSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hangs.Close)
	ill := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(ill.Close)
	for want, edit := range map[string]func(*Config){
		"there is no such bucket; see NOFX_S3_BUCKET": func(c *Config) { c.Bucket = "elsewhere" },
		"it refuses the access key, or access to the bucket; see NOFX_S3_ACCESS_KEY, NOFX_S3_SECRET_KEY and NOFX_S3_BUCKET": func(c *Config) { c.SecretKey = "guessed" },
		"nothing answers there; see NOFX_S3_ENDPOINT": func(c *Config) { c.Endpoint = "http://127.0.0.1:1" },
		"it does not answer in time":                  func(c *Config) { c.Endpoint = hangs.URL },
		"it answers with the status 502":              func(c *Config) { c.Endpoint = ill.URL },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), pingTimeout) // as that of who asks for readiness
		err := open(t, edit).Ping(ctx)
		cancel()
		e, ok := errors.AsType[*fault.Error](err)
		if want = "object storage is not available: " + want; !ok || e.Detail != want || !IsUnavailable(err) {
			t.Errorf("Ping() = %v, want the detail %q", err, want)
		}
	}
}

// Whoever sets storage up is told which setting does not fit, in words.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	if err := open(t, nil).Diagnose(t.Context()); err != nil {
		t.Errorf("Diagnose() = %v, want nil", err)
	}
	for want, edit := range map[string]func(*Config){
		"there is no bucket elsewhere":       func(c *Config) { c.Bucket = "elsewhere" },
		"see NOFX_S3_ACCESS_KEY":             func(c *Config) { c.AccessKey = "somebody" },
		"see NOFX_S3_SECRET_KEY":             func(c *Config) { c.SecretKey = "guessed" },
		"set NOFX_S3_REGION":                 func(c *Config) { c.Region = "mars-1" },
		"no S3 service answers at http://12": func(c *Config) { c.Endpoint = "http://127.0.0.1:1" },
	} {
		err := open(t, edit).Diagnose(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "dial") || strings.Contains(err.Error(), "400") {
			t.Errorf("Diagnose() = %v, want %q in it and nothing of the protocol", err, want)
		}
	}
}
