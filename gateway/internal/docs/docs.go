// Package docs has the page that shows the contract: Swagger UI as it was released
// (viewer/VERSION, with its licences), and a few files of our own. All of it is part of the
// program, and the page sends requests to its own gateway only.
//
// The viewer is kept compressed and most clients take it so; update.sh brings
// another release.
package docs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"io"
	"sync"
)

// Page is the HTML of the page.
//
//go:embed page.html
var Page []byte

// Policy is the Content-Security-Policy that the page is to be served with: no
// script, style or request but of its own origin. Pictures in data: URLs are the
// arrows of the viewer's style sheet.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var (
	//go:embed page.js
	script []byte
	//go:embed page.css
	style []byte
	//go:embed viewer/swagger-ui-bundle.js.gz
	viewerScript []byte
	//go:embed viewer/swagger-ui.css.gz
	viewerStyle []byte
)

// Assets are the files that the page refers to, by name.
var Assets = map[string]*Asset{
	"page.js":              {Type: "text/javascript", bytes: script},
	"page.css":             {Type: "text/css", bytes: style},
	"swagger-ui-bundle.js": {Type: "text/javascript", bytes: viewerScript, Gzipped: true},
	"swagger-ui.css":       {Type: "text/css", bytes: viewerStyle, Gzipped: true},
}

// Asset is one file.
type Asset struct {
	Type    string // media type
	Gzipped bool   // as kept

	bytes  []byte
	digest sync.Once
	sum    string
}

// Stored returns the bytes of the file as they are kept, which must not be changed.
func (a *Asset) Stored() []byte { return a.bytes }

// WriteTo writes the file to w, unpacked.
func (a *Asset) WriteTo(w io.Writer) (int64, error) {
	if !a.Gzipped {
		n, err := w.Write(a.bytes)
		return int64(n), err
	}
	r, err := gzip.NewReader(bytes.NewReader(a.bytes))
	if err != nil {
		return 0, err
	}
	return io.Copy(w, r)
}

// Digest returns sha256:<hex> of the file as it is kept.
func (a *Asset) Digest() string {
	a.digest.Do(func() {
		sum := sha256.Sum256(a.bytes)
		a.sum = "sha256:" + hex.EncodeToString(sum[:])
	})
	return a.sum
}
