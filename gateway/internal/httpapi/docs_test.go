package httpapi

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/docs"
)

// TestDocs checks that the page may load nothing but what this gateway serves, and
// that all it refers to is there, without a key.
func TestDocs(t *testing.T) {
	g := newGateway(t)
	nobody := header{"Authorization": "", "Accept-Encoding": "identity"}
	page := g.get("/api/docs", nobody)
	g.want(page, http.StatusOK, "")
	policy := page.header.Get("Content-Security-Policy")
	for _, directive := range strings.Split(policy, "; ") {
		name, sources, _ := strings.Cut(directive, " ")
		for _, source := range strings.Fields(sources) {
			if source != "'none'" && source != "'self'" && !(name == "img-src" && source == "data:") {
				t.Errorf("the page may load %s from %s", name, source)
			}
		}
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("Content-Security-Policy = %q, want %s in it", policy, want)
		}
	}
	if inline := regexp.MustCompile(`(?i)<style|<script>|\son[a-z]+=|\sstyle=|javascript:`).FindString(string(page.body)); inline != "" {
		t.Errorf("the page holds %q, which its policy forbids", inline)
	}
	refs := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(string(page.body), -1)
	seen := 0
	for _, ref := range refs {
		if ref[1] == "data:," {
			continue
		}
		if !strings.HasPrefix(ref[1], "/api/") {
			t.Errorf("the page refers to %q, want paths of the API alone", ref[1])
			continue
		}
		g.want(g.get(ref[1], nobody), http.StatusOK, "")
		if strings.HasPrefix(ref[1], "/api/docs/") {
			seen++
		}
	}
	if seen != len(docs.Assets) {
		t.Errorf("the page refers to %d assets, want all %d", seen, len(docs.Assets))
	}
	script := g.get("/api/docs/page.js", nobody)
	if !bytes.Contains(script.body, []byte(`url: "/api/openapi.yaml"`)) || !bytes.Contains(script.body, []byte("validatorUrl: null")) {
		t.Errorf("page.js = %s, want it to show the contract and to ask no validator", script.body)
	}
	contract := g.get("/api/openapi.yaml", nobody)
	if contract.status != http.StatusOK || !bytes.Equal(contract.body, api.Contract) {
		t.Errorf("contract = %d and %d bytes, want the document", contract.status, len(contract.body))
	}
	for _, name := range []string{"none.js", "viewer", "..%2fpage.html", "update.sh"} {
		g.want(g.get("/api/docs/"+name, nobody), http.StatusNotFound, "not-found")
	}
}

// TestDocsAssets checks that an asset comes compressed to those who take it so, as
// itself to others, and not at all to those who have it.
func TestDocsAssets(t *testing.T) {
	g := newGateway(t)
	for name := range docs.Assets {
		path := "/api/docs/" + name
		plain := g.get(path, header{"Accept-Encoding": "br, gzip;q=0"})
		g.want(plain, http.StatusOK, "")
		if plain.header.Get("Content-Encoding") != "" {
			t.Errorf("%s came as %s to who does not take that", name, plain.header.Get("Content-Encoding"))
		}
		packed := g.get(path, header{"Accept-Encoding": "br;q=1, gzip;q=0.8"})
		content := packed.body
		if packed.header.Get("Content-Encoding") == "gzip" {
			r, err := gzip.NewReader(bytes.NewReader(packed.body))
			if err != nil {
				t.Fatal(err)
			}
			if content, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(content, plain.body) || len(content) == 0 {
			t.Errorf("%s is %d bytes plain and %d packed, want the same", name, len(plain.body), len(content))
		}
		for _, outside := range []string{"<script", "sourceMappingURL="} {
			if strings.HasPrefix(name, "page.") && bytes.Contains(content, []byte(outside)) {
				t.Errorf("%s holds %s", name, outside)
			}
		}
		kept := g.get(path, header{"If-None-Match": plain.header.Get("ETag")})
		if kept.status != http.StatusNotModified || len(kept.body) != 0 {
			t.Errorf("%s again = %d with %d bytes, want 304", name, kept.status, len(kept.body))
		}
	}
}
