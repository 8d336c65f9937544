package oci

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// TestCredentials has a user of both docker and podman.
func TestCredentials(t *testing.T) {
	home := t.TempDir()
	for key, dir := range map[string]string{"HOME": "", "XDG_CONFIG_HOME": "config", "XDG_RUNTIME_DIR": "run", "DOCKER_CONFIG": ".docker"} {
		t.Setenv(key, filepath.Join(home, dir))
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("DOCKER_AUTH_CONFIG", "")
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(home, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// login stores credentials: the user's name says where they are from.
	login := func(path, user string, keys ...string) {
		t.Helper()
		auth := base64.StdEncoding.EncodeToString([]byte(user + ":secret"))
		var entries []string
		for _, key := range keys {
			entries = append(entries, `"`+key+`": {"auth": "`+auth+`"}`)
		}
		write(path, `{"auths": {`+strings.Join(entries, ", ")+`}}`)
	}
	user := func(repository string) string {
		t.Helper()
		target, err := name.NewRepository(repository)
		if err != nil {
			t.Fatal(err)
		}
		found, err := authn.Resolve(t.Context(), keychain, target)
		if err != nil {
			return "error: " + err.Error()
		}
		config, err := found.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		return config.Username
	}
	want := func(what string, want map[string]string) {
		t.Helper()
		got := make(map[string]string)
		for repository := range want {
			got[repository] = user(repository)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: credentials differ (-want +got):\n%s", what, diff)
		}
	}

	want("nobody has logged in", map[string]string{"alpine": "", "a.example/team/tool": ""})
	login(".docker/config.json", "docker", "a.example")
	login("run/containers/auth.json", "podman", "a.example", "b.example", strings.TrimPrefix(name.DefaultRegistry, "index."))
	login("config/containers/auth.json", "configured", "b.example", "c.example", "c.example/team")
	want("both have", map[string]string{
		"a.example/team/tool": "docker", "b.example/team/tool": "podman", "alpine": "podman",
		"c.example/tool": "configured", "c.example/team/tool": "configured", "d.example/tool": "", "b.example:5000/tool": "",
	})
	login("run/containers/auth.json", "namespace", "b.example/team", authn.DefaultAuthKey)
	want("for a namespace", map[string]string{
		"b.example/team/tool": "namespace", "b.example/team/deep/tool": "namespace", "b.example/teams": "configured", "alpine": "namespace",
	})
	write("bin/docker-credential-test", "#!/bin/sh\nread -r host\nprintf '{\"Username\": \"helper of %s\", \"Secret\": \"secret\"}' \"$host\"\n")
	t.Setenv("PATH", filepath.Join(home, "bin")+":"+os.Getenv("PATH"))
	write("run/containers/auth.json", `{"credHelpers": {"b.example": "test"}}`)
	want("by a helper", map[string]string{"b.example/team/tool": "helper of b.example", "c.example/tool": "configured"})

	if os.Getuid() != 0 { // root may look into all
		hidden := filepath.Join(home, "run/containers")
		if err := os.Chmod(hidden, 0); err != nil {
			t.Fatal(err)
		}
		want("in a directory of another user's", map[string]string{"b.example/tool": "configured", "d.example/tool": ""})
		if err := os.Chmod(hidden, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	login("other.json", "other", "b.example")
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(home, "other.json"))
	want("in another file", map[string]string{"a.example/tool": "docker", "b.example/tool": "other", "c.example/tool": ""})

	write("other.json", "no json")
	if got := user("b.example/tool"); !strings.HasPrefix(got, "error: ") || !strings.Contains(got, "other.json") {
		t.Errorf("a file that is none: %q", got)
	}
	if got := user("a.example/tool"); got != "docker" {
		t.Errorf("docker's, with a file of podman's that is none: %q", got)
	}
}
