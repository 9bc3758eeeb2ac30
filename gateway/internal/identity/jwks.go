package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"nofx.dev/shared/fault"
)

const (
	keysFresh   = 10 * time.Minute // afterwards they are fetched again, while requests go on
	keysGrace   = 6 * time.Hour    // for which the keys of the last fetch are used
	fetchPause  = time.Minute      // between two fetches
	fetchRetry  = 5 * time.Second  // the same while there are no keys
	fetchMost   = 5 * time.Second  // for one fetch
	keySetBytes = 256 << 10        // of an answer at the most
	rsaBits     = 2048             // of a key at the least
)

// keyName is the name of a key in a set. The type of a key decides its algorithm, so that
// no key is used with another one.
type keyName struct {
	algorithm jose.SignatureAlgorithm
	id        string
}

// keySet is the JSON web key set of an issuer. Keys are added and removed there without a
// restart here, and an issuer that cannot be reached is not missed before keysGrace.
type keySet struct {
	url    string
	client *http.Client
	now    func() time.Time

	mu      sync.Mutex
	keys    map[keyName]any
	fetched time.Time     // when keys came
	tried   time.Time     // when the last fetch began
	err     error         // of the last fetch
	running chan struct{} // closed when the fetch that runs ends; nil: none does
}

func newKeySet(url string, now func() time.Time) *keySet {
	return &keySet{url: url, now: now, client: &http.Client{
		Timeout: fetchMost, Transport: &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// key returns the public key of a name. It fetches the set for a key that is not there, at
// most once in fetchPause. It returns errToken for a key that the issuer does not have, and
// fault.Unavailable while that cannot be known.
func (k *keySet) key(ctx context.Context, name keyName) (any, error) {
	k.mu.Lock()
	key, usable := k.look(name)
	stale := !usable || key == nil || k.now().Sub(k.fetched) >= keysFresh
	var running <-chan struct{}
	if stale {
		running = k.fetch()
	}
	k.mu.Unlock()
	if usable && key != nil {
		return key, nil
	}
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key, usable = k.look(name)
	switch {
	case usable && key != nil:
		return key, nil
	case usable && k.err == nil:
		return nil, errToken
	}
	return nil, fault.New(fault.Unavailable, "unavailable", "the keys of the token's issuer cannot be fetched").Because(k.err)
}

// look returns the key of a name, or nil, and whether the keys may still be used.
func (k *keySet) look(name keyName) (key any, usable bool) {
	return k.keys[name], k.keys != nil && k.now().Sub(k.fetched) < keysGrace
}

// fetch starts a fetch unless one runs or the last one was a moment ago. It returns a
// channel that is closed when the one that runs has ended, or nil. The goroutine ends within
// fetchMost; it outlives the request that started it, since others wait for it as well.
func (k *keySet) fetch() <-chan struct{} {
	if k.running != nil {
		return k.running
	}
	pause := fetchPause
	if k.keys == nil {
		pause = fetchRetry
	}
	if now := k.now(); !k.tried.IsZero() && now.Sub(k.tried) < pause {
		return nil
	}
	k.tried = k.now()
	done := make(chan struct{})
	k.running = done
	go func() {
		keys, err := k.get()
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.err = err; err == nil {
			k.keys, k.fetched = keys, k.now()
		}
		k.running = nil
		close(done)
	}()
	return done
}

// get asks the issuer for its keys. Those that are of no use here are left out; a set of
// none but those is an error.
func (k *keySet) get() (map[keyName]any, error) {
	resp, err := k.client.Get(k.url)
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch key set: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, keySetBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	if len(body) > keySetBytes {
		return nil, fmt.Errorf("key set is longer than %d bytes", keySetBytes)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	keys := map[keyName]any{}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || key.KeyID == "" || key.Use != "" && key.Use != "sig" {
			continue
		}
		algorithm := algorithmOf(key.Key)
		if algorithm == "" || key.Algorithm != "" && key.Algorithm != string(algorithm) {
			continue
		}
		keys[keyName{algorithm, key.KeyID}] = key.Key
	}
	if len(keys) == 0 {
		return nil, errors.New("key set has no key for signatures by ES256 or RS256")
	}
	return keys, nil
}

// algorithmOf returns the algorithm that a public key is used with, or "" for none: a
// symmetric or private key, another curve, or an RSA key that is too short.
func algorithmOf(key any) jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= rsaBits {
			return jose.RS256
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return jose.ES256
		}
	}
	return ""
}
