package blob

import (
	"net/http"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// prefixed serves storages whose S3 lives under a path, as Supabase's does under
// /storage/v1/s3. The signature covers the whole path and the S3 client knows
// only bare hosts, so the request is moved under the prefix and signed again.
type prefixed struct {
	next http.RoundTripper
	cfg  Config
}

func (p *prefixed) RoundTrip(r *http.Request) (*http.Response, error) {
	moved := r.Clone(r.Context()) // a RoundTripper may not change its request
	moved.URL.Path = p.cfg.PathPrefix + moved.URL.Path
	if moved.URL.RawPath != "" {
		moved.URL.RawPath = p.cfg.PathPrefix + moved.URL.RawPath
	}
	moved.Header.Del("Authorization")
	return p.next.RoundTrip(signer.SignV4(*moved, p.cfg.AccessKey, p.cfg.SecretKey, "", p.cfg.Region))
}
