package httpapi

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
)

func TestHealth(t *testing.T) {
	g := newGateway(t)
	nobody := header{"Authorization": ""}
	g.want(g.get("/healthz", nobody), http.StatusOK, "")
	r := g.get("/readyz", nobody)
	g.want(r, http.StatusOK, "")
	if got := decodeAs[api.Readiness](t, r).Checks; strings.Join(got, " ") != "database migrations storage" {
		t.Errorf("checks = %v, want database, migrations, storage", got)
	}
	contract := g.get("/api/openapi.yaml", nobody)
	if !bytes.Equal(contract.body, api.Contract) || contract.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("contract = %d bytes of %s, want the embedded %d", len(contract.body), contract.header.Get("Content-Type"), len(api.Contract))
	}
	g.server.Drain()
	down := g.get("/readyz", nobody)
	g.want(down, http.StatusServiceUnavailable, "unavailable")
	if p := decodeAs[api.Problem](t, down); len(p.Errors) != 1 || p.Errors[0].Pointer != "/process" {
		t.Errorf("draining = %s, want it to say so", down.body)
	}
	g.want(g.get("/healthz", nobody), http.StatusOK, "")
	g.want(g.get("/api/runs"), http.StatusOK, "")
}

// TestStorageDown checks that the gateway names a storage that is gone, and goes
// on with what needs none.
func TestStorageDown(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		var err error
		if c.Blobs, err = blob.Open(blob.Config{Endpoint: "http://127.0.0.1:1", Bucket: "none", AccessKey: "x", SecretKey: "x"}); err != nil {
			t.Fatal(err)
		}
	})
	r := g.get("/readyz")
	g.want(r, http.StatusOK, "")
	if got := decodeAs[api.Readiness](t, r).Checks; len(got) != 3 || !strings.HasPrefix(got[2], "storage: ") {
		t.Errorf("checks = %v, want the storage with its reason", got)
	}
	g.create(oneStep)
}

// TestDatabaseDown checks that without a database everything is refused quickly
// and readiness says why.
func TestDatabaseDown(t *testing.T) {
	g := newGateway(t)
	g.want(g.get("/api/runs"), http.StatusOK, "")
	g.db.Close() // as good as gone
	g.server.health.at = time.Time{}
	down := g.get("/readyz", header{"Authorization": ""})
	g.want(down, http.StatusServiceUnavailable, "unavailable")
	if p := decodeAs[api.Problem](t, down); len(p.Errors) != 1 || p.Errors[0].Pointer != "/database" || p.Errors[0].Detail == "" {
		t.Errorf("without a database = %s, want the reason at /database", down.body)
	}
	g.want(g.get("/healthz", header{"Authorization": ""}), http.StatusOK, "")
}
