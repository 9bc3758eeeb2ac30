package blob

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
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
	if ttl < time.Second || ttl > MaxSignedTTL {
		return "", fmt.Errorf("sign %s: a life of %s is outside 1s to %s", key, ttl, MaxSignedTTL)
	}
	u := *s.public
	u.Path = s.cfg.PathPrefix + "/" + s.cfg.Bucket + "/" + key
	u.RawQuery = url.Values{
		"response-content-disposition": {disposition(filename)},
		"response-content-type":        {"application/octet-stream"},
	}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", key, err)
	}
	signed := signer.PreSignV4(*req, s.cfg.AccessKey, s.cfg.SecretKey, "", s.cfg.Region, int64(ttl/time.Second))
	return signed.URL.String(), nil
}

// disposition is an attachment header with two names: an ASCII one every client
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
