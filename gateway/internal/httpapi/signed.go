package httpapi

import (
	"context"
	"crypto/sha256"
	"net/http"
	"time"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
)

// signedURL returns a URL that serves the bytes at key as a file of that name until it
// expires, once the audit log has its digest. about is the id of the thing whose bytes they
// are.
func (s *Server) signedURL(ctx context.Context, p *identity.Principal, about, key, filename string) (url string, expires time.Time, err error) {
	expires = urlExpiry()
	if url, err = s.Blobs.SignedURL(ctx, key, filename, blob.MaxSignedTTL); err != nil {
		return "", expires, err
	}
	return url, expires, s.auditURLs(ctx, p, about, http.MethodGet, expires, url)
}

// urlExpiry returns when a URL that is signed now expires.
func urlExpiry() time.Time { return time.Now().Add(blob.MaxSignedTTL).UTC().Truncate(time.Second) }

// auditURLs records that the caller is about to be given URLs of parts of a thing.
func (s *Server) auditURLs(ctx context.Context, p *identity.Principal, about, method string, expires time.Time, urls ...string) error {
	if len(urls) == 0 {
		return nil
	}
	sums := make([][32]byte, len(urls))
	for i, url := range urls {
		sums[i] = sha256.Sum256([]byte(url))
	}
	return s.Store.AuditURLs(ctx, p.Tenant, about, method, sums, expires)
}
