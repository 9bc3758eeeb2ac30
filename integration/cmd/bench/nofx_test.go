package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func TestNOFXSubmit(t *testing.T) {
	t.Parallel()
	const tenant = "ten_0198c0de0000700080000000000000aa"
	var mu sync.Mutex
	keys, full := map[string]bool{}, false
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("Authorization = %q, want the key", got)
		}
		if r.URL.Path == "/api/whoami" {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"principal": {"tenant_id": "`+tenant+`"}}`)
			return
		}
		var body struct {
			Plan struct{ Steps []struct{ Tool string } }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method+r.URL.Path != "POST/api/runs" || len(body.Plan.Steps) != 3 || body.Plan.Steps[2].Tool != "sleep" {
			t.Errorf("%s %s with %+v, %v; want a plan of three steps", r.Method, r.URL.Path, body, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if full {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		keys[r.Header.Get("Idempotency-Key")] = true
		w.WriteHeader(http.StatusCreated)
	}))
	defer gateway.Close()
	n, err := newNOFX(t.Context(), gateway.URL, "secret", server.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	for range 2 {
		if err := n.submit(t.Context(), 3); err != nil {
			t.Errorf("submit = %v, want nil", err)
		}
	}
	if len(keys) != 2 || keys[""] {
		t.Errorf("two runs carried the keys %v, want one each", keys)
	}
	mu.Lock()
	full = true
	mu.Unlock()
	if err := n.submit(t.Context(), 3); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("submit, refused = %v, want the status", err)
	}
	var of string
	if err := n.db.QueryRow(t.Context(), `SELECT current_setting('nofx.tenant_id')`).Scan(&of); err != nil || of != "0198c0de-0000-7000-8000-0000000000aa" {
		t.Errorf("the tenant of the connection = %q, %v, want that of %s", of, err, tenant)
	}
}
