package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sieve"
)

// How much of a response is read, and kept once it was redacted: so half a secret at its end
// is not kept.
const (
	readBytes = 4 << 10
	keepBytes = 1 << 10
)

// attempt makes one request and says what it came to.
func (d *Deliverer) attempt(ctx context.Context, c postgres.AlertClaim) postgres.AlertResult {
	began := time.Now()
	r, after := d.send(ctx, c)
	r.DurationMS = time.Since(began).Milliseconds()
	if !r.Delivered && !r.Gone {
		r.DelayS = next(c.Attempt, after)
	}
	return r
}

// send makes the request of a delivery. after is how long the receiver asks to be left alone.
func (d *Deliverer) send(ctx context.Context, c postgres.AlertClaim) (r postgres.AlertResult, after time.Duration) {
	secrets, err := d.secrets(c)
	if err != nil {
		d.Log.ErrorContext(ctx, "secret of an endpoint of alerts", "endpoint_id", run.AlertID.Format(c.EndpointID), "error", err)
		r.Error = "the secret of the endpoint cannot be opened"
		return r, 0
	}
	ctx, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	req, err := d.request(ctx, c, secrets, time.Now())
	if err != nil {
		r.Error = "the request cannot be made"
		return r, 0
	}
	resp, err := d.http.Do(req)
	if err != nil {
		r.Error = why(err)
		return r, 0
	}
	defer resp.Body.Close()
	excerpt, _ := io.ReadAll(io.LimitReader(resp.Body, readBytes)) // what there is until the time is over
	r.ResponseCode = resp.StatusCode
	r.ResponseExcerpt = clip(d.Redactor.With(secrets...).String(sieve.Clean(string(excerpt))))
	r.Delivered = resp.StatusCode/100 == 2
	r.Gone = resp.StatusCode == http.StatusGone
	if resp.StatusCode/100 == 3 {
		r.Error = "redirects are not followed"
	}
	return r, retryAfter(resp.Header.Get("Retry-After"), time.Now())
}

// secrets opens the secrets that sign a delivery.
func (d *Deliverer) secrets(c postgres.AlertClaim) ([]string, error) {
	names, sealed := c.Secrets()
	secrets := make([]string, len(names))
	for i, name := range names {
		text, err := d.Keys.Open(sealed[i], name.Bound()...)
		if err != nil {
			return nil, err
		}
		secrets[i] = string(text)
	}
	return secrets, nil
}

// request returns the signed request of a delivery.
func (d *Deliverer) request(ctx context.Context, c postgres.AlertClaim, secrets []string, at time.Time) (*http.Request, error) {
	body, err := d.body(c)
	if err != nil {
		return nil, err
	}
	id, timestamp := run.MessageID.Format(c.ID), strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		if signatures[i], err = sign(secret, id, timestamp, body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "nofx")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", strings.Join(signatures, " "))
	return req, nil
}

// body returns what an endpoint is told.
func (d *Deliverer) body(c postgres.AlertClaim) ([]byte, error) {
	var data map[string]any
	if err := json.Unmarshal(c.Data, &data); err != nil {
		return nil, fmt.Errorf("data of an alert: %w", err)
	}
	if id, ok := data["run_id"].(string); ok && d.PublicURL != "" {
		data["url"] = strings.TrimRight(d.PublicURL, "/") + "/api/runs/" + id
	}
	return json.Marshal(map[string]any{"type": c.Event, "timestamp": c.At.UTC().Format(time.RFC3339Nano), "data": data})
}

// sign returns the signature of a message by a secret, as Standard Webhooks define it.
func sign(secret, id, timestamp string, body []byte) (string, error) {
	text, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) == 0 {
		return "", errors.New("the secret is none of an endpoint")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// why returns the reason for which there was no response, in words that tell neither
// addresses nor the URL.
func why(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind == fault.Forbidden {
		return e.Detail
	}
	if e, ok := errors.AsType[*url.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "no response within " + answer.String()
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "its host has no address"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is not valid"
	}
	return "the connection failed"
}

// clip returns the beginning of a text that is kept.
func clip(text string) string {
	if len(text) <= keepBytes {
		return text
	}
	return strings.ToValidUTF8(text[:keepBytes], "")
}
