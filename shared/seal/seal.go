// Package seal keeps texts that only our processes may read: secrets of tenants, as they
// are stored. Each text is encrypted under a data key of its own, and that one under the key
// of the installation (the KEK), which NOFX_KEK names and which is never in the database.
//
// A sealed text is bound to what it is and where it belongs: names, such as tenant, name and
// version, are part of what is authenticated, so that a row that was moved, swapped with
// another or put back to an older version does not open.
//
// The KEK is symmetric: what seals can open as well. A gateway that could only seal would need
// no other rights in the database, and could not tell a wrong key from the right one.
package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"nofx.dev/shared/fault"
)

// ErrSealed is the error of a text that does not open: it was changed or moved, or sealed
// with another key.
var ErrSealed = errors.New("the sealed text does not open: it was changed or moved, or sealed with another key")

// Key is the key of the installation. It is safe for concurrent use; nil has no key.
type Key struct {
	path    string
	private bool // the file must be its owner's alone

	mu   sync.Mutex
	kek  tink.AEAD // nil until the file was read
	seen bool      // Verified was called
}

// New returns the key that a URI names, file:/path, and nil for "". With private, as in
// production, a file that group or others may read is refused when it is read. The file is
// read when it is needed first, since it may come later.
func New(uri string, private bool) (*Key, error) {
	if uri == "" {
		return nil, nil
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme == "":
		return nil, errors.New("must be a URI such as file:/etc/nofx/kek")
	case u.Scheme != "file":
		return nil, fmt.Errorf("keys of kind %s: are not supported yet; use file:/path", u.Scheme)
	case u.Host != "" || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || !filepath.IsAbs(u.Path):
		return nil, errors.New("must name an absolute path, such as file:/etc/nofx/kek")
	}
	return &Key{path: u.Path, private: private}, nil
}

// Create writes a new key to a file, which only its owner may read. It returns an error for a
// file that exists: texts sealed with its key could not be opened again.
func Create(path string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	var doc bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&doc)); err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	// It is complete before it has its name.
	f, err := os.CreateTemp(filepath.Dir(path), ".kek-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(doc.Bytes(), '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists; a key is never replaced, since what it seals could not be opened again", path)
		}
		return err
	}
	return nil
}

// Ready returns nil when the key can be used, and otherwise fault.Unavailable with the
// reason, which names no path.
func (k *Key) Ready() error {
	_, err := k.read()
	return err
}

// Verified reports whether what is stored was opened with the key before, and Verify notes
// that it was, so that callers need not look again.
func (k *Key) Verified() bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen
}

// Verify notes that something stored was opened with the key.
func (k *Key) Verify() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = true
}

func unavailable(format string, args ...any) error {
	return fault.New(fault.Unavailable, "unavailable", format, args...)
}

func (k *Key) read() (tink.AEAD, error) {
	if k == nil {
		return nil, unavailable("there is no key for secrets (NOFX_KEK is not set)")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kek != nil {
		return k.kek, nil
	}
	info, err := os.Stat(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unavailable("the file of NOFX_KEK does not exist")
	case err != nil || !info.Mode().IsRegular():
		return nil, unavailable("the file of NOFX_KEK cannot be read")
	case k.private && info.Mode().Perm()&0o077 != 0:
		return nil, unavailable("the file of NOFX_KEK may be read by others than its owner; chmod 600")
	}
	raw, err := os.ReadFile(k.path)
	if err != nil {
		return nil, unavailable("the file of NOFX_KEK cannot be read")
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, unavailable("the file of NOFX_KEK holds no key; gateway kek create makes one")
	}
	kek, err := aead.New(handle)
	if err != nil {
		return nil, unavailable("the file of NOFX_KEK holds a key of another kind; gateway kek create makes one")
	}
	k.kek = kek
	return kek, nil
}

// Seal encrypts a text and binds it to names.
func (k *Key) Seal(text []byte, names ...string) ([]byte, error) {
	kek, err := k.read()
	if err != nil {
		return nil, err
	}
	sealed, err := aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), kek).Encrypt(text, bound(names))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// Open returns the text that was sealed with the same names, or ErrSealed.
func (k *Key) Open(sealed []byte, names ...string) ([]byte, error) {
	kek, err := k.read()
	if err != nil {
		return nil, err
	}
	text, err := aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), kek).Decrypt(sealed, bound(names))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(names, " "), ErrSealed)
	}
	return text, nil
}

// bound returns names as associated data, each after its length: no two lists are alike.
func bound(names []string) []byte {
	var data []byte
	for _, name := range names {
		data = binary.BigEndian.AppendUint32(data, uint32(len(name)))
		data = append(data, name...)
	}
	return data
}
