package httpapi

import (
	"bytes"
	"maps"
	"net/http"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
)

// wantReadiness fails unless r says of each check what is wanted, and nothing else.
func wantReadiness(t *testing.T, r reply, status api.ReadinessStatus, checks map[string]string) {
	t.Helper()
	if got := decodeAs[api.Readiness](t, r); got.Status != status || !maps.Equal(got.Checks, checks) {
		t.Errorf("readiness = %s, want %s with %v", r.body, status, checks)
	}
}

func TestHealth(t *testing.T) {
	g := newGateway(t)
	nobody := header{"Authorization": ""}
	g.want(g.get("/healthz", nobody), http.StatusOK, "")
	r := g.get("/readyz", nobody)
	g.want(r, http.StatusOK, "")
	wantReadiness(t, r, api.ReadinessStatusReady, map[string]string{"process": "ok", "database": "ok", "keys": "ok", "storage": "ok"})
	contract := g.get("/api/openapi.yaml", nobody)
	if !bytes.Equal(contract.body, api.Contract) || contract.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("contract = %d bytes of %s, want the embedded %d", len(contract.body), contract.header.Get("Content-Type"), len(api.Contract))
	}
	g.server.Drain()
	down := g.get("/readyz", nobody)
	g.want(down, http.StatusServiceUnavailable, "")
	wantReadiness(t, down, api.ReadinessStatusNotReady, map[string]string{"process": "it is shutting down", "database": "ok", "keys": "ok", "storage": "ok"})
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
	wantReadiness(t, r, api.ReadinessStatusReady, map[string]string{"process": "ok", "database": "ok", "keys": "ok", "storage": "object storage is not available: nothing answers there; see NOFX_S3_ENDPOINT"})
	g.create(oneStep)
}

// TestDatabaseDown checks that without a database everything is refused quickly
// and readiness says why.
func TestDatabaseDown(t *testing.T) {
	g := newGateway(t)
	g.want(g.get("/api/runs"), http.StatusOK, "")
	g.cfg.Store.Close() // as good as gone
	g.server.health.at = time.Time{}
	down := g.get("/readyz", header{"Authorization": ""})
	g.want(down, http.StatusServiceUnavailable, "")
	if got := decodeAs[api.Readiness](t, down); got.Status != api.ReadinessStatusNotReady || got.Checks["database"] != "the database is not available: the connection failed; see DATABASE_URL" {
		t.Errorf("without a database = %s, want the reason as its state", down.body)
	}
	g.want(g.get("/healthz", header{"Authorization": ""}), http.StatusOK, "")
}
