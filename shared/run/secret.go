package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of a secret's value, in bytes. Shorter ones could not be told from ordinary text, and
// so not be masked.
const (
	MinSecretBytes = 8
	MaxSecretBytes = 64 << 10
)

// ownEnv are the variables that the worker sets itself, or that decide what a program runs.
var ownEnv = []string{"PATH", "HOME", "TMPDIR", "LANG", "TRACEPARENT", "BASH_ENV", "ENV", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"}

// BadSecretName returns why a secret cannot have a name, or "". The name is that of the
// variable in which steps get the secret.
func BadSecretName(name string) string {
	switch {
	case !envName.MatchString(name):
		return "of a secret " + envNameForm
	case strings.HasPrefix(name, "NOFX_") || slices.Contains(ownEnv, name):
		return "is that of a variable that steps do not get from plans"
	}
	return ""
}

// BadSecretValue returns why a text cannot be a secret, or "". It shows nothing of it.
func BadSecretValue(value string) string {
	switch n := len(value); {
	case n < MinSecretBytes || len(strings.TrimSpace(value)) < MinSecretBytes:
		return fmt.Sprintf("must have at least %d bytes, white space around it aside: a shorter text cannot be masked where it shows", MinSecretBytes)
	case n > MaxSecretBytes:
		return fmt.Sprintf("%d bytes; at most %d", n, MaxSecretBytes)
	}
	return BadText(value)
}

// SecretsOf returns the names of the secrets that the inputs of a step ask for.
func SecretsOf(inputs json.RawMessage) []string {
	var in struct {
		Secrets []string `json:"secrets"`
	}
	_ = json.Unmarshal(inputs, &in) // they were read strictly when the plan came
	return in.Secrets
}

// stepSecrets checks the secrets that a step of a tool that takes them asks for.
func (c *checker) stepSecrets(at string, s *PlanStep, p *Policy) {
	var in struct {
		Secrets []string       `json:"secrets"`
		Env     map[string]any `json:"env"`
	}
	if json.Unmarshal(s.Inputs, &in) != nil {
		return // which the check of the inputs reports
	}
	for i, name := range in.Secrets {
		at := at + "/inputs/secrets/" + strconv.Itoa(i)
		_, twice := in.Env[name]
		switch {
		case BadSecretName(name) != "":
			c.add(at, "the name "+BadSecretName(name))
		case twice:
			c.add(at, fmt.Sprintf("%q is in env, too", name))
		case (p == nil || !slices.Contains(p.Secrets, name)) && !c.unsure("/plan", "policy") && !c.unsure("/plan/policy", "secrets"):
			c.add(at, fmt.Sprintf("%q is not in the plan's policy.secrets", name))
		}
	}
}
