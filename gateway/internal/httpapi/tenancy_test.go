package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
)

// Tenants' requests take turns on the one connection that a transaction pooler has for two
// gateways: 10,000 of them (NOFX_TEST_REQUESTS), some given up by their clients, and none
// answers with anything of another tenant. Outside the store's opener the connection shows no
// row, whoever has just used it.
func TestS09_ManyTenantsOneConnection(t *testing.T) {
	const tenants, clients = 5, 16
	requests := 10_000
	if n, err := strconv.Atoi(os.Getenv("NOFX_TEST_REQUESTS")); err == nil {
		requests = n
	}
	g := newGateway(t)
	pooled := g.pg.PooledBy(t, 1)
	servers := [2]string{}
	var stores [2]*postgres.DB
	for i := range servers {
		cfg := g.cfg
		stores[i] = pooled.Open(t, postgres.Config{MaxConns: 8, Pooled: true, Role: postgres.GatewayRole})
		cfg.Store = stores[i]
		cfg.Identity = identity.New(identity.Config{Store: cfg.Store, DevKeys: true})
		server, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		listening := httptest.NewServer(server)
		t.Cleanup(listening.Close)
		servers[i] = listening.URL
	}
	keys, runs := [tenants]string{}, [tenants]string{}
	for i := range tenants {
		keys[i] = g.newKey(g.pg.Tenant(t), api.RoleAdmin)
		r := g.do(http.MethodPost, "/api/runs", oneStep, header{"Authorization": "Bearer " + keys[i]})
		g.want(r, http.StatusCreated, "")
		runs[i] = decodeAs[api.CreatedRun](t, r).Run.ID
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	ask := func(ctx context.Context, n, tenant int, path string) (status int, body string, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, servers[n%2]+path, nil)
		if err != nil {
			return 0, "", err
		}
		req.Header.Set("Authorization", "Bearer "+keys[tenant])
		resp, err := client.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw), err
	}
	one := func(n int) error {
		mine, other := n%tenants, (n+1+n/tenants%(tenants-1))%tenants
		path, want, status := "/api/runs", runs[mine], http.StatusOK
		switch n % 7 {
		case 1:
			path = "/api/runs/" + runs[mine]
		case 2:
			path, want, status = "/api/runs/"+runs[other], "not-found", http.StatusNotFound
		case 3:
			path = "/api/runs/" + runs[mine] + "/events"
		case 4:
			path, want, status = "/api/runs/"+runs[other]+"/events", "not-found", http.StatusNotFound
		case 5:
			path, want = "/api/audit", "key.create"
		case 6:
			hasty, cancel := context.WithTimeout(ctx, time.Duration(n%5)*time.Millisecond)
			defer cancel()
			if _, body, err := ask(hasty, n, mine, path); err == nil && strings.Contains(body, runs[other]) {
				return fmt.Errorf("GET %s of tenant %d shows a run of tenant %d", path, mine, other)
			}
			return nil
		}
		got, body, err := ask(ctx, n, mine, path)
		if err != nil || got != status || !strings.Contains(body, want) {
			return fmt.Errorf("GET %s of tenant %d = %d %s, %v, want %d with %s", path, mine, got, body, err, status, want)
		}
		for i, r := range runs {
			if i != mine && status == http.StatusOK && strings.Contains(body, r) {
				return fmt.Errorf("GET %s of tenant %d shows a run of tenant %d", path, mine, i)
			}
		}
		if n%50 == 0 {
			var rows int
			if err := stores[n%2].Pool().QueryRow(ctx, "SELECT count(*) FROM nofx.run").Scan(&rows); err != nil || rows != 0 {
				return fmt.Errorf("runs outside a tenant = %d, %v, want none", rows, err)
			}
		}
		return nil
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for !t.Failed() {
				n := int(next.Add(1))
				if n > requests {
					return
				}
				if err := one(n); err != nil {
					t.Errorf("request %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	var pids [2]int
	for i, db := range stores {
		if err := db.Pool().QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	if pids[0] != pids[1] {
		t.Errorf("the gateways have connections to processes %v of the database, want one: the test looks at nothing", pids)
	}
	t.Logf("%d requests of %d tenants in %s over one connection", requests, tenants, time.Since(began).Round(time.Millisecond))
}
