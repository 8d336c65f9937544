package catalog

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"banger/images/kernels"
)

var sum = "sha256:" + strings.Repeat("0", 64)

func TestEmbedded(t *testing.T) {
	t.Parallel()
	c, err := Embedded()
	if err != nil || len(c.Images) == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, entry := range c.Kernels {
		if _, err := kernels.Definitions.Open(entry.Definition + ".toml"); err != nil {
			t.Errorf("kernel %q: %v", entry.Name, err)
		}
	}
	for _, entry := range c.Images {
		if entry.Origin != BuiltIn {
			t.Errorf("origin of %q: %q", entry.Name, entry.Origin)
		}
	}
}

func TestOffers(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	serve := func(path, text string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	}
	serve("/a/catalog.json", `{"format": 1, "later": true, "images": [{"name": "x", "bundle": {"url": "b/x.tar.zst", "digest": "`+sum+`", "size": 7}}]}`)
	serve("/bad", `{"format": 1, "images": [{"name": "x", "bundle": {"url": "b", "digest": "sha256:x"}}]}`)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	urls := []string{server.URL + "/bad", server.URL + "/a/catalog.json", server.URL + "/none"}
	offers, err := Offers(t.Context(), urls, func(c Catalog) []Entry { return c.Images })
	if err == nil || !strings.Contains(err.Error(), "/bad") || !strings.Contains(err.Error(), "/none") || strings.Contains(err.Error(), "catalog.json") {
		t.Errorf("error %v", err)
	}
	if len(offers) != 1 {
		t.Fatalf("got %+v", offers)
	}
	entry := offers[0]
	if entry.Bundle.URL != server.URL+"/a/b/x.tar.zst" || entry.Origin != urls[1] || entry.Bundle.Size != 7 {
		t.Errorf("got %+v, %+v", entry, entry.Bundle)
	}
}

// TestSecretsInURLs has catalogs of which the URLs have passwords and tokens:
// they are sent, and never shown.
func TestSecretsInURLs(t *testing.T) {
	t.Parallel()
	const good = `{"format": 1, "images": [{"name": "x", "bundle": {"url": "b", "digest": "%s"}}]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		switch sent := password == "hush" && r.URL.Query().Get("token") == "hush"; {
		case sent && r.URL.Path == "/good":
			fmt.Fprintf(w, good, sum)
		case sent && r.URL.Path == "/bad":
			fmt.Fprint(w, `{"format": 1, "images": [{"name": "x", "bundle": {"url": "ftp://joe:hush@example.org/b?token=hush", "digest": "`+sum+`"}}]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	at := strings.Replace(server.URL, "http://", "http://joe:hush@", 1)
	urls := []string{at + "/good?token=hush", at + "/bad?token=hush", at + "/none?token=hush", at + "/%zz?token=hush"}
	offers, err := Offers(t.Context(), urls, func(c Catalog) []Entry { return c.Images })
	if len(offers) != 1 || offers[0].Bundle.URL != at+"/b" || !strings.HasSuffix(offers[0].Origin, "/good") || strings.Contains(offers[0].Origin, "hush") {
		t.Errorf("offers %+v", offers)
	}
	if err == nil || strings.Contains(err.Error(), "hush") || strings.Count(err.Error(), "cannot use ") != 3 || !strings.Contains(err.Error(), "/none") || !strings.Contains(err.Error(), "is no URL of a bundle") {
		t.Errorf("error %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	base := &url.URL{Scheme: "https", Host: "example.org", Path: "/c.json"}
	entry := func(text string) string { return `{"format": 1, "kernels": [` + text + `]}` }
	for text, want := range map[string]string{
		"":                        "EOF",
		"[]":                      "array",
		`{"format": 2}`:           "format 2",
		entry(`{"name": "../x"}`): "not a valid name",
		entry(`{"name": "x"}`):    "either a bundle or a definition",
		entry(`{"name": "x", "definition": "debian-6.12"}`):                                        "must have a bundle",
		entry(`{"name": "x", "definition": "y", "bundle": {"url": "y", "digest": "` + sum + `"}}`): "either a bundle or a definition",
		entry(`{"name": "x", "bundle": {"url": "y"}}`):                                             "no digest",
		entry(`{"name": "x", "bundle": {"url": "file:///y", "digest": "` + sum + `"}}`):            "no URL",
		entry(`{"name": "x", "bundle": {"url": "y", "digest": "` + sum + `", "size": -1}}`):        "size is -1",
		`{"format": 1, "images": [` + strings.Repeat(`{},`, maxEntries) + `{}]}`:                   "more than",
	} {
		if _, err := parse([]byte(text), base); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(embedded)
	f.Add([]byte(`{"format": 1, "images": [{"name": "x", "bundle": {"url": "b/x.tar.zst", "digest": "` + sum + `", "size": 7}}]}`))
	base := &url.URL{Scheme: "https", Host: "example.org", Path: "/c.json"}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data, base)
		if err != nil {
			return
		}
		for _, entry := range append(c.Images, c.Kernels...) {
			if entry.Bundle == nil || !strings.HasPrefix(entry.Bundle.URL, "http") || entry.Origin != base.String() {
				t.Errorf("%+v", entry)
			}
		}
	})
}
