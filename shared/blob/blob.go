// Package blob is the object storage both processes read and write, over
// anything that speaks S3. Of what ships, it is the only package that knows the
// S3 client.
//
// A [Store] is one bucket. Keys come from the builders in keys.go and hold ids
// and digests only, so the same key always means the same bytes: nothing here
// relies on conditional writes, which not every S3 has, and putting an object
// twice is harmless. Bytes come first and the database row second, so an object
// without a row is normal for a while and a row without its object never is.
//
// Errors carry kinds of fault: a missing object is Gone (object-gone), bytes
// that are not what was stored are Conflict (object-corrupt), and a storage that
// is down, slow or refusing is Unavailable. Every call has a limit of its own
// besides the caller's context; a transfer is limited by silence, not by length,
// so that a slow link can still move a large file.
package blob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"nofx.dev/shared/fault"
)

// Config says which bucket, and how to reach it.
type Config struct {
	Endpoint       string // base URL without a path, as "https://s3.eu-west-1.amazonaws.com"
	PublicEndpoint string // base URL that signed URLs carry, when clients reach the storage by another name
	Bucket         string
	Region         string // "us-east-1" when empty
	AccessKey      string
	SecretKey      string
	PathPrefix     string // path before the bucket, as "/storage/v1/s3"; of both endpoints
}

// The limits of single calls. A transfer may last as long as bytes keep moving.
const (
	pingTimeout     = 2 * time.Second
	callTimeout     = 30 * time.Second // stat, delete, start of an upload
	stallTimeout    = 30 * time.Second // silence within a transfer, or of a whole part
	completeTimeout = 5 * time.Minute  // the server joins the parts of a large object
	attempts        = 5                // per request, with jittered back-off up to 1.6 s
)

// Store is one bucket. It is safe for concurrent use.
type Store struct {
	cfg    Config
	core   *minio.Core
	public *url.URL
	stall  time.Duration
	log    *slog.Logger
}

// Open checks cfg and makes a Store. It does not connect: see [Store.Ping].
func Open(cfg Config) (*Store, error) {
	if cfg.Bucket == "" || cfg.AccessKey == "" || cfg.SecretKey == "" {
		return nil, errors.New("object storage: bucket, access key and secret key are required")
	}
	endpoint, err := parseEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("object storage endpoint: %w", err)
	}
	public := endpoint
	if cfg.PublicEndpoint != "" {
		if public, err = parseEndpoint(cfg.PublicEndpoint); err != nil {
			return nil, fmt.Errorf("object storage public endpoint: %w", err)
		}
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.PathPrefix = strings.Trim(cfg.PathPrefix, "/"); cfg.PathPrefix != "" {
		cfg.PathPrefix = "/" + cfg.PathPrefix
	}

	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure:       endpoint.Scheme == "https",
		Region:       cfg.Region,
		Transport:    newTransport(cfg),
		BucketLookup: minio.BucketLookupPath,
		// We repeat requests ourselves: the client rewinds a body that the refused
		// request may still be sending.
		MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("object storage client: %w", err)
	}
	return &Store{cfg: cfg, core: core, public: public, stall: stallTimeout, log: slog.New(slog.DiscardHandler)}, nil
}

// LogTo has log told of each request to a storage that lets it wait, before the first
// use of s.
func (s *Store) LogTo(log *slog.Logger) { s.log = log }

func parseEndpoint(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("%q is not an http or https URL", raw)
	case u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q has a path: set it as the path prefix", raw)
	}
	return u, nil
}

func newTransport(cfg Config) http.RoundTripper {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		// Objects stored gzipped are handed on as they are.
		DisableCompression: true,
	}
	if cfg.PathPrefix == "" {
		return t
	}
	return &prefixed{next: t, cfg: cfg}
}

// Info is what the storage says of an object.
type Info struct {
	Size        int64
	ContentType string
	Modified    time.Time
	ETag        string // other content has another
}

// Stat describes the object at key.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var o minio.ObjectInfo
	err := s.try(ctx, "stat", key, func() (err error) {
		o, err = s.core.StatObject(call, s.cfg.Bucket, key, minio.StatObjectOptions{})
		return err
	})
	return Info{Size: o.Size, ContentType: o.ContentType, Modified: o.LastModified, ETag: o.ETag}, err
}

// Delete removes the object at key; an object that is not there is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.try(ctx, "delete", key, func() error {
		return s.core.RemoveObject(call, s.cfg.Bucket, key, minio.RemoveObjectOptions{})
	})
}

// Ping reports within two seconds whether the bucket answers, for readiness. The error is
// fault.Unavailable, and its detail says what is wrong in words that strangers may read:
// it names settings and no address.
func (s *Store) Ping(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	ok, err := s.core.BucketExists(call, s.cfg.Bucket)
	if err == nil && !ok {
		err = minio.ErrorResponse{Code: minio.NoSuchBucket, StatusCode: http.StatusNotFound}
	}
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return failed(ctx, "ping", s.cfg.Bucket, err)
	}
	e := fault.New(fault.Unavailable, codeUnavailable, "object storage is not available: %s", plainly(err)).Because(fmt.Errorf("ping %s: %w", s.cfg.Bucket, err))
	e.RetryAfter = retryAfter
	return e
}
