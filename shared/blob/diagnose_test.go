package blob

import (
	"strings"
	"testing"
)

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
