package blob

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// MaxSignedTTL is the longest life of a signed URL.
const MaxSignedTTL = 15 * time.Minute

// SignedURL makes a URL with which anybody can GET the object at key, and
// nothing else, until ttl (whole seconds, at most 15 minutes) has passed. The
// answer is an attachment of unspecific type under a safe form of filename,
// whatever was declared when it was stored. The caller has checked who asks,
// and keeps the URL out of rows, events and logs.
func (s *Store) SignedURL(ctx context.Context, key, filename string, ttl time.Duration) (string, error) {
	query := url.Values{
		"response-content-disposition": {disposition(filename)},
		"response-content-type":        {"application/octet-stream"},
	}
	return s.sign(ctx, http.MethodGet, key, query.Encode(), nil, ttl)
}

// SignedPut makes a URL with which anybody can PUT exactly size bytes at key, and
// nothing else, until ttl (as of SignedURL) has passed. The headers belong to the
// signature and must be sent as they are. What was put is for its reader to
// verify: a signed checksum holds on some S3 only, and others refuse it.
func (s *Store) SignedPut(ctx context.Context, key string, size int64, ttl time.Duration) (url string, headers map[string]string, err error) {
	headers = map[string]string{"Content-Length": strconv.FormatInt(size, 10)}
	url, err = s.sign(ctx, http.MethodPut, key, "", headers, ttl)
	return url, headers, err
}

// sign makes the URL of one request with these headers, within the longest life.
func (s *Store) sign(ctx context.Context, method, key, query string, headers map[string]string, ttl time.Duration) (string, error) {
	if ttl < time.Second || ttl > MaxSignedTTL {
		return "", fmt.Errorf("sign %s: a lifetime of %s is outside 1s to %s", key, ttl, MaxSignedTTL)
	}
	u := *s.public
	u.Path = s.cfg.PathPrefix + "/" + s.cfg.Bucket + "/" + key
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", key, err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	signed := signer.PreSignV4(*req, s.cfg.AccessKey, s.cfg.SecretKey, "", s.cfg.Region, int64(ttl/time.Second))
	return signed.URL.String(), nil
}

// disposition returns an attachment header with two names: an ASCII one every client
// understands, and the exact one as RFC 5987 has it. Both are the last element
// of filename without control characters.
func disposition(filename string) string {
	name := path.Base(strings.ReplaceAll(strings.ToValidUTF8(filename, "_"), `\`, "/"))
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, name)
	if runes := []rune(name); len(runes) > 120 {
		name = string(runes[len(runes)-120:]) // keep the extension
	}
	if strings.Trim(name, "./ ") == "" {
		name = "download"
	}
	ascii := strings.Map(func(r rune) rune {
		if r > '~' || strings.ContainsRune(`"\%;`, r) {
			return '_'
		}
		return r
	}, name)
	return fmt.Sprintf(`attachment; filename="%s"; filename*=UTF-8''%s`, ascii, extValue(name))
}

// extValue percent-encodes everything RFC 5987 does not allow as it is.
func extValue(s string) string {
	const plain = "!#$&+-.^_`|~"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
