package identity

import "testing"

func TestVia(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]Principal{
		"api-key": {Subject: "key:0198c0de7a2b7c3d8e4f5a6b7c8d9e0f"},
		"jwt":     {Subject: "user:6f1c1b0e"},
		"oidc":    {Subject: "oidc:0198c0de7a2b7c3d8e4f5a6b7c8d9e0f"},
		"ticket":  {Subject: "user:6f1c1b0e", Ticket: true},
	} {
		if got := p.Via(); got != want {
			t.Errorf("Via() of %s = %s, want %s", p.Subject, got, want)
		}
	}
}
