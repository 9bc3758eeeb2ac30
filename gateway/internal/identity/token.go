package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/run"
)

// KeyEnv is the environment that an API key belongs to. It is part of the key, for people
// and for secret scanners.
type KeyEnv string

// The environments of keys.
const (
	LiveKey KeyEnv = "live"
	TestKey KeyEnv = "test"
	DevKey  KeyEnv = "dev" // of a developer's own machine; see [Config]
)

// A key is nofx_<env>_<id>_<secret>: the id as 32 hex digits, the secret as 43
// digits to base 62 (256 random bits) and 6 more, the CRC-32 of all before them.
// A typing error fails by the checksum, without a query, and scanners can tell a
// key from noise.
const (
	secretDigits = 43
	sumDigits    = 6
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Token is a new API key.
type Token struct {
	ID     uuid.UUID
	Prefix string   // the part that may be shown
	Text   string   // the whole key, shown once
	SHA256 [32]byte // of Text: what is stored
}

// NewToken returns a new key. The hash that is stored is of all of it, not of the secret
// alone, so that a key of one environment cannot be turned into one of another.
func NewToken(env KeyEnv) Token {
	t := Token{ID: run.NewID()}
	t.Prefix = "nofx_" + string(env) + "_" + hex.EncodeToString(t.ID[:])
	var secret [32]byte
	rand.Read(secret[:]) // never fails: see crypto/rand
	t.Text = t.Prefix + "_" + digits(new(big.Int).SetBytes(secret[:]), secretDigits)
	t.Text += checksum(t.Text)
	t.SHA256 = sha256.Sum256([]byte(t.Text))
	return t
}

func checksum(s string) string {
	return digits(big.NewInt(int64(crc32.ChecksumIEEE([]byte(s)))), sumDigits)
}

// digits returns n to base 62 with leading zeros.
func digits(n *big.Int, width int) string {
	b := make([]byte, width)
	base, digit := big.NewInt(int64(len(base62))), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		b[i] = base62[digit.Int64()]
	}
	return string(b)
}

// parseToken takes a key apart, and reports whether it could be one.
func parseToken(s string) (env KeyEnv, id uuid.UUID, ok bool) {
	parts := strings.Split(s, "_")
	if len(parts) != 4 || parts[0] != "nofx" || len(parts[3]) != secretDigits+sumDigits {
		return "", uuid.Nil, false
	}
	switch env = KeyEnv(parts[1]); env {
	case LiveKey, TestKey, DevKey:
	default:
		return "", uuid.Nil, false
	}
	id, err := run.KeyID.Parse(string(run.KeyID) + "_" + parts[2])
	if err != nil || strings.Trim(parts[3], base62) != "" {
		return "", uuid.Nil, false
	}
	body := s[:len(s)-sumDigits]
	return env, id, checksum(body) == s[len(body):]
}
