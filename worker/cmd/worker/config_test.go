package main

import (
	"slices"
	"strings"
	"testing"

	"nofx.dev/shared/config"
)

func TestSettingsAreKnownToOtherProcesses(t *testing.T) {
	t.Parallel()
	common := config.Settings[config.Common]()
	for _, s := range config.Settings[settings]() {
		if !slices.Contains(common, s) && !slices.Contains(config.Names, s.Name) {
			t.Errorf("config.Names lacks %s, want every setting of this process in it", s.Name)
		}
	}
}

func TestStepSecrets(t *testing.T) {
	t.Parallel()
	env, err := stepEnv("CI=true\nN=1\n\nPATH=/usr/local/bin:/usr/bin\nLANG=en_GB.UTF-8\nSHORT=1234567\nTOKEN=12345678\r\nDSN=user=a password=b\n")
	if err != nil {
		t.Fatalf("stepEnv() = %v, want nil", err)
	}
	got := stepSecrets(env)
	slices.Sort(got)
	if want := "12345678|user=a password=b"; strings.Join(got, "|") != want {
		t.Errorf("stepSecrets() = %q, want %s", got, want)
	}
}

// Settings that cannot mean anything are refused, and not shown.
func TestMeaninglessSettings(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]string{
		"":                        "",
		"PATH=/bin\n\nCI=\n":      "",
		"CI":                      "line 1 is not NAME=value",
		"PATH=/bin\nexport A=tok": "line 2 does not begin with the name of a variable",
		"1A=tok":                  "line 1 does not begin with the name of a variable",
		"=tok":                    "line 1 does not begin with the name of a variable",
		"NOFX_RUN_ID=tok":         "line 1: steps get no variable whose name begins with NOFX_",
	} {
		_, err := stepEnv(lines)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "tok")) {
			t.Errorf("stepEnv(%q) = %v, want %q in it and no value", lines, err, want)
		}
	}
}

// All that keeps a worker from starting is said at once.
func TestAllThatIsWrong(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := serve(t.Context(), t.Context(), []string{"NOFX_S3_ENDPONT=http://s3", "NOFX_LEASE_TTL=0", "NOFX_STEP_ENV=CI", "NOFX_EGRESS_ALLOW=nowhere",
		"NOFX_GIT_ALLOW=http://x/y", "NOFX_LLM_PROVIDER=openai", "NOFX_LLM_PRICES=m=cheap", "NOFX_WORKER_QUEUES=steps"}, &out)
	for _, want := range []string{"DATABASE_URL is not set", "NOFX_S3_ENDPOINT is not set", "NOFX_S3_ACCESS_KEY is not set", "NOFX_LEASE_TTL is less than 1s",
		"NOFX_STEP_ENV: line 1", "NOFX_EGRESS_ALLOW: ", "NOFX_GIT_ALLOW: ", "NOFX_LLM_MODEL: ", "NOFX_LLM_API_KEY: ", "NOFX_LLM_PRICES: ", `no queue "steps"`,
		"NOFX_S3_ENDPONT is not a setting; did you mean NOFX_S3_ENDPOINT?"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("serve() = %v\nwant %q in it", err, want)
		}
	}
}
