package alert_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/alert"
)

// verified reports whether a receiver that has a secret takes a request: whether one of its
// signatures is that of its id, its time and its body, and the time is not long past.
func verified(r received, secret string, now time.Time) bool {
	sent, err := strconv.ParseInt(r.header.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	h := hmac.New(sha256.New, key(secret))
	fmt.Fprintf(h, "%s.%d.%s", r.header.Get("webhook-id"), sent, r.body)
	want := h.Sum(nil)
	for part := range strings.FieldsSeq(r.header.Get("webhook-signature")) {
		version, text, _ := strings.Cut(part, ",")
		if got, err := base64.StdEncoding.DecodeString(text); version == "v1" && err == nil && hmac.Equal(got, want) {
			return true
		}
	}
	return false
}

// S28: a request is signed under the secret of its endpoint, over its id, its time and its
// body; during a rotation under both.
func TestS28_Signed(t *testing.T) {
	b := setup(t)
	address, requests := b.receiver(nil)
	e := b.endpoint(address)
	b.tell(e, 1)
	b.deliver()
	r := b.get(requests)
	d := b.until(e, "delivered", 1)[0]
	if r.header.Get("webhook-id") != run.MessageID.Format(d.ID) || r.header.Get("Content-Type") != "application/json" || r.header.Get("Traceparent") != "" {
		t.Errorf("headers = %v, want the id of the delivery and JSON", r.header)
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(r.body, &body); err != nil || body.Type != "run.failed" || !body.Timestamp.Equal(d.At) || len(body.Data) != 3 || body.Data["status"] != "failed" || body.Data["url"] != "https://nofx.example.com/api/runs/run_7" {
		t.Errorf("body = %s, %v, want type, time and data with a link", r.body, err)
	}
	if now := time.Now(); !verified(r, aSecret, now) || strings.Contains(r.header.Get("webhook-signature"), " ") {
		t.Errorf("signature %s is not that of the request", r.header.Get("webhook-signature"))
	} else if verified(r, aSecret, now.Add(time.Hour)) {
		t.Error("the request is taken after an hour")
	}
	for what, change := range map[string]func(*received){
		"body": func(r *received) { r.body = bytes.Replace(r.body, []byte("failed"), []byte("passed"), 1) },
		"id":   func(r *received) { r.header.Set("webhook-id", "msg_1") },
		"time": func(r *received) { r.header.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix()+7, 10)) },
	} {
		other := received{r.header.Clone(), bytes.Clone(r.body)}
		if change(&other); verified(other, aSecret, time.Now()) {
			t.Errorf("a request with another %s is taken", what)
		}
	}

	const next = "whsec_YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk="
	if _, err := b.db.RotateAlertSecret(t.Context(), b.tenant, e.ID, b.sealed(next)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.RedeliverAlert(t.Context(), b.tenant, e.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	again := b.get(requests)
	if again.header.Get("webhook-id") != r.header.Get("webhook-id") || !bytes.Equal(again.body, r.body) {
		t.Errorf("redelivered = %v %s, want the same id and body", again.header, again.body)
	}
	for _, secret := range []string{aSecret, next} {
		if !verified(again, secret, time.Now()) {
			t.Errorf("during a rotation the signature %s is not taken with the secret %s", again.header.Get("webhook-signature"), secret)
		}
	}
}

// What receivers answer, and what comes of it.
func TestAnswers(t *testing.T) {
	const token = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
	status := func(code int, body string, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	for name, tt := range map[string]struct {
		handle  http.HandlerFunc
		state   string
		code    int
		excerpt string
		reason  string  // in the error
		least   float64 // seconds until the next attempt; 0: there is none
		most    float64
	}{
		"200":                {handle: status(200, "thanks"), state: "delivered", code: 200, excerpt: "thanks"},
		"204":                {handle: status(204, ""), state: "delivered", code: 204},
		"500":                {handle: status(500, "no"), state: "pending", code: 500, excerpt: "no", least: 4, most: 6},
		"a token in it":      {handle: status(400, "bad token "+token+"!"), state: "pending", code: 400, excerpt: "bad token [redacted]!", least: 4, most: 6},
		"no text":            {handle: status(500, "a\x00b\xffc"), state: "pending", code: 500, excerpt: "a\uFFFDb\uFFFDc", least: 4, most: 6},
		"its own secret":     {handle: status(500, "I know "+aSecret), state: "pending", code: 500, excerpt: "I know [redacted]", least: 4, most: 6},
		"Retry-After":        {handle: status(429, "", "Retry-After", "120"), state: "pending", code: 429, least: 120, most: 120},
		"a long Retry-After": {handle: status(503, "", "Retry-After", "99999999"), state: "pending", code: 503, least: 86400, most: 86400},
		"a redirect":         {handle: status(307, "", "Location", "/elsewhere"), state: "pending", code: 307, reason: "redirects", least: 4, most: 6},
		"410":                {handle: status(410, "gone"), state: "failed", code: 410, excerpt: "gone"},
		"a gigabyte": {handle: func(w http.ResponseWriter, r *http.Request) {
			chunk := []byte(strings.Repeat("é", 32<<10))
			for n := 0; n < 1<<30; n += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
			t.Error("somebody read a gigabyte")
		}, state: "delivered", code: 200, excerpt: strings.Repeat("é", 512)},
		"silence": {handle: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, state: "pending", reason: "no response within", least: 4, most: 6},
		"another protocol": {handle: func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: silence\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn) // until the client closes it
		}, state: "pending", reason: "the connection failed", least: 4, most: 6},
		"a broken one": {handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, state: "pending", reason: "the connection failed", least: 4, most: 6},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			address, requests := b.receiver(tt.handle)
			e := b.endpoint(address)
			b.tell(e, 1)
			b.deliver(func(_ *alert.Config, d *alert.Deliverer) {
				if d != nil && name == "silence" {
					d.Within(300 * time.Millisecond)
				}
			})
			d := b.until(e, tt.state, 1)[0]
			code := 0
			if d.ResponseCode != nil {
				code = *d.ResponseCode
			}
			if code != tt.code || d.ResponseExcerpt != tt.excerpt || !strings.Contains(d.Error, tt.reason) || (d.Error == "") != (tt.reason == "") || *d.DurationMS < 0 {
				t.Errorf("delivery = %+v, want code %d, excerpt %.40q, error %q", d, tt.code, tt.excerpt, tt.reason)
			}
			wait := 0.0
			if d.DueAt != nil {
				wait = d.DueAt.Sub(*d.TriedAt).Seconds()
			}
			if wait < tt.least-0.5 || wait > tt.most+0.5 {
				t.Errorf("the next attempt is after %v s, want %v to %v", wait, tt.least, tt.most)
			}
			now, err := b.db.AlertEndpoint(t.Context(), b.tenant, e.ID)
			if err != nil || (now.State == "disabled") != (tt.code == 410) {
				t.Errorf("endpoint = %+v, %v, want it disabled after 410 alone", now, err)
			}
			if n := len(requests); n > 1 || n == 0 && name != "silence" { // which may end before it has come
				t.Errorf("requests = %d, want 1", n)
			}
		})
	}
}

// An attempt that fails is made again under the same id until there are eight.
func TestTriedAgain(t *testing.T) {
	b := setup(t)
	address, requests := b.receiver(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	e := b.endpoint(address)
	b.tell(e, 1)
	b.deliver()
	ids := map[string]int{}
	for attempt := 1; attempt <= 8; attempt++ {
		ids[b.get(requests).header.Get("webhook-id")]++
		b.until(e, map[bool]string{true: "pending", false: "failed"}[attempt < 8], attempt)
		b.due()
	}
	if len(ids) != 1 {
		t.Errorf("requests by id = %v, want one id", ids)
	}
	if now, err := b.db.AlertEndpoint(t.Context(), b.tenant, e.ID); err != nil || now.State != "enabled" || now.FailingSince == nil {
		t.Errorf("endpoint = %+v, %v, want it enabled and failing", now, err)
	}
}

// A receiver that does not answer keeps only its own deliveries waiting, and has two requests
// at once.
func TestSlowReceivers(t *testing.T) {
	b := setup(t)
	release := make(chan struct{})
	slow, hung := b.receiver(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	quick, requests := b.receiver(nil)
	b.tell(b.endpoint(slow), 20)
	e := b.endpoint(quick)
	b.deliver(func(_ *alert.Config, d *alert.Deliverer) {
		if d != nil {
			d.Within(time.Hour)
		}
	})
	b.get(hung)
	b.get(hung)
	b.tell(e, 10)
	b.until(e, "delivered", 1)
	if n := len(requests); n != 10 {
		t.Errorf("requests to the quick receiver = %d, want 10", n)
	}
	if n := len(hung); n != 0 {
		t.Errorf("more requests to the slow receiver = %d, want none beside its two", n)
	}
	close(release)
}

// Of several workers each delivery is sent by one, once.
func TestSeveralWorkers(t *testing.T) {
	b := setup(t)
	address, requests := b.receiver(nil)
	var all []postgres.AlertEndpoint
	for range 5 {
		e := b.endpoint(address)
		b.tell(e, 12)
		all = append(all, e)
	}
	for range 3 {
		b.deliver()
	}
	ids := map[string]int{}
	for _, e := range all {
		b.until(e, "delivered", 1)
	}
	for range len(requests) {
		ids[b.get(requests).header.Get("webhook-id")]++
	}
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%s was sent %d times, want once", id, n)
		}
	}
	if len(ids) != 60 {
		t.Errorf("%d deliveries were sent, want 60", len(ids))
	}
}

// What a worker has when it stops is sent again by another, under the same id.
func TestWorkerStops(t *testing.T) {
	b := setup(t)
	release := make(chan struct{})
	address, requests := b.receiver(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	e := b.endpoint(address)
	b.tell(e, 1)
	stop := b.deliver()
	first := b.get(requests)
	stop()
	list, err := b.db.AlertDeliveries(t.Context(), b.tenant, e.ID, nil, 9)
	if err != nil || list[0].State != "pending" || list[0].TriedAt != nil {
		t.Errorf("the delivery = %+v, %v, want nothing recorded of it", list, err)
	}
	close(release)
	b.due() // its lease has run out
	b.deliver()
	if again := b.get(requests); again.header.Get("webhook-id") != first.header.Get("webhook-id") {
		t.Errorf("sent after the stop = %v, want the id %s", again.header, first.header.Get("webhook-id"))
	}
	b.until(e, "delivered", 2)
}

// S27: however the inside is spelt, no request is made to it.
func TestS27_Inside(t *testing.T) {
	b := setup(t)
	address, requests := b.receiver(nil)
	port := portOf(t, address)
	clear(b.allow) // the receiver stands for anything inside
	hosts := []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "localhost", "169.254.169.254", "10.0.0.1", "192.168.1.1", "[fd00::1]"}
	var all []postgres.AlertEndpoint
	for _, host := range hosts {
		e := b.endpoint("https://" + host + ":" + port + "/")
		b.tell(e, 1)
		all = append(all, e)
	}
	b.deliver()
	for i, e := range all {
		if d := b.until(e, "pending", 1)[0]; !strings.Contains(d.Error, "public internet") || d.ResponseCode != nil || strings.Contains(d.Error, "127.") {
			t.Errorf("delivery to %s = %+v, want it refused, without an address", hosts[i], d)
		}
	}
	if n := len(requests); n != 0 {
		t.Errorf("requests that reached the inside = %d, want none", n)
	}
}

// S29: a receiver whose certificate is not trusted gets nothing.
func TestS29_Untrusted(t *testing.T) {
	b := setup(t)
	address, requests := b.receiver(nil)
	e := b.endpoint(address)
	b.tell(e, 1)
	b.roots = nil
	b.deliver()
	if d := b.until(e, "pending", 1)[0]; d.Error != "its certificate is not valid" {
		t.Errorf("delivery = %+v, want the certificate refused", d)
	}
	if n := len(requests); n != 0 {
		t.Errorf("requests = %d, want none", n)
	}
}

// S23: neither the secret nor what follows the host of a URL is in a log, and the secret is in
// no row. A secret that does not open signs nothing.
func TestS23_SecretsOfEndpoints(t *testing.T) {
	b := setup(t)
	refusing, requests := b.receiver(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	good, moved, gone := b.endpoint(refusing), b.endpoint(refusing), b.endpoint("https://127.0.0.1:1/c4n4ry-path")
	if _, err := b.pg.Admin.Exec(t.Context(), "UPDATE nofx.alert_endpoint SET sealed = (SELECT sealed FROM nofx.alert_endpoint WHERE id = $1) WHERE id = $2", good.ID, moved.ID); err != nil {
		t.Fatal(err)
	}
	for _, e := range []postgres.AlertEndpoint{good, moved, gone} {
		b.tell(e, 1)
	}
	stop := b.deliver()
	for _, e := range []postgres.AlertEndpoint{good, gone} {
		b.until(e, "pending", 1)
	}
	if d := b.until(moved, "pending", 1)[0]; !strings.Contains(d.Error, "cannot be opened") || d.ResponseCode != nil {
		t.Errorf("delivery with the secret of another endpoint = %+v, want it unsent", d)
	}
	stop()
	if n := len(requests); n != 1 {
		t.Errorf("requests = %d, want that of the endpoint with its own secret alone", n)
	}
	log := b.log.String()
	if !strings.Contains(log, run.AlertID.Format(good.ID)) {
		t.Errorf("the log does not tell of the delivery: %s", log)
	}
	tables, err := b.pg.Admin.Query(t.Context(), `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"the log": log}
	for _, name := range names {
		var rows string
		if err := b.pg.Admin.QueryRow(t.Context(), "SELECT coalesce(string_agg(to_jsonb(t)::text, ' '), '') FROM "+name+" t").Scan(&rows); err != nil {
			t.Fatal(err)
		}
		texts[name] = rows
	}
	for where, text := range texts {
		for _, form := range []string{aSecret[len("whsec_"):], string(key(aSecret)), fmt.Sprintf("%x", key(aSecret)), fmt.Sprintf("%x", aSecret)} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows the secret", where)
			}
		}
	}
	if strings.Contains(log, "c4n4ry") {
		t.Errorf("the log shows the path of a URL: %s", log)
	}
}
