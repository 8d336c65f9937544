package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/api"
)

func TestTagsAreNoNames(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"image", "build", "-t", "app:latest", "."}}.do(t)
	if got.code != 2 || !strings.Contains(got.err, `hint: names have no ':'`) {
		t.Errorf("got %+v", got)
	}
}

// A Dockerfile that is a link is not what its name means in the VM.
func TestDockerfileInContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"context/Dockerfile", "context/sub/Dockerfile", "outside/Dockerfile"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte("FROM scratch\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"context/out": "../outside/Dockerfile", "context/in": filepath.Join(dir, "context/Dockerfile"), "context/dir": "sub", "context/away": "../outside"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{
		"": "Dockerfile", "context/sub/Dockerfile": "sub/Dockerfile", "context/dir/Dockerfile": "sub/Dockerfile",
		"context/out": "", "context/in": "", "context/away/Dockerfile": "", "outside/Dockerfile": "",
	} {
		b := build{options: imageBuildOptions{path: filepath.Join(dir, "context")}}
		if file != "" {
			b.options.dockerfile = filepath.Join(dir, file)
		}
		if err := b.readDockerfile(); err != nil || b.inContext != want {
			t.Errorf("%s: %q, %v, want %q", file, b.inContext, err, want)
		}
	}
}

func TestBuildArguments(t *testing.T) {
	t.Parallel()
	env := map[string]string{"VERSION": "3", "HTTP_PROXY": "http://127.0.0.1:3128", "http_proxy": "http://127.0.0.1:3128"}
	others := "https_proxy HTTPS_PROXY ftp_proxy FTP_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY"
	for own, want := range map[string]string{
		"":                             "http_proxy HTTP_PROXY " + others,
		"A=b=c A= VERSION UNSET":       "http_proxy HTTP_PROXY " + others + " A=b=c A= VERSION=3",
		"HTTP_PROXY=http://mine":       others + " HTTP_PROXY=http://mine",
		"http_proxy= HTTP_PROXY":       others + " http_proxy=",
		"HTTP_PROXY Http_Proxy":        "http_proxy HTTP_PROXY " + others,
		"Http_Proxy=x ftp_proxyserver": others + " Http_Proxy=x",
	} {
		got := strings.Join(buildArguments(strings.Fields(own), func(name string) string { return env[name] }), " ")
		if got != want {
			t.Errorf("%q: %q, want %q", own, got, want)
		}
	}
}

// What can be seen to be wrong before there is a VM, or bangerd.
func TestBuildRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"recipe.toml": "base = \"x\"\n", "good/Dockerfile": "FROM scratch\n", "none/x": "", "odd/Dockerfile/x": ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]outcome{
		"none":                        {code: 2, err: "banger: there is no \"DIR/none/Dockerfile\"\nhint: say where the Dockerfile is with -f FILE, or give a recipe\n"},
		"good -f DIR/missing":         {code: 2, err: "banger: there is no \"DIR/missing\"\nhint: say where the Dockerfile is with -f FILE, or give a recipe\n"},
		"odd":                         {code: 1, err: "banger: cannot read the Dockerfile: DIR/odd/Dockerfile: it is not a regular file\n"},
		"missing":                     {code: 1, err: "banger: cannot build \"DIR/missing\": no such file or directory\n"},
		"good --build-arg =x":         {code: 2, err: "banger: --build-arg \"=x\" is not of the form KEY=VALUE, or KEY\nhint: see 'banger image build --help'\n"},
		"good --load DIR/missing.tar": {code: 1, err: "banger: cannot load \"DIR/missing.tar\": no such file or directory\n"},
		"good --load DIR/none":        {code: 1, err: "banger: cannot load \"DIR/none\": DIR/none: it is not a regular file\n"},
		"recipe.toml --target x":      {code: 2, err: "banger: --target is about Dockerfiles, and \"DIR/recipe.toml\" is not the directory of one\nhint: see 'banger image build --help'\n"},
	} {
		fields := strings.Fields(strings.ReplaceAll(args, "DIR", dir))
		fields[0] = filepath.Join(dir, fields[0])
		got := run{args: append([]string{"image", "build", "-t", "app"}, fields...)}.do(t)
		if err := strings.ReplaceAll(got.err, dir, "DIR"); got.code != want.code || err != want.err || got.out != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", args, got.code, got.out, err)
		}
	}
}

func TestImageRows(t *testing.T) {
	t.Parallel()
	got := make(map[string]string)
	for _, row := range imageRows(api.Image{
		Name: "team", Present: true, Size: 700 << 20, UsedBy: []string{"old", "sandbox"},
		Usage:    &api.ImageUsage{Private: 0, Shared: 700 << 20, SharedWith: []string{"again", "base"}, VMs: 30 << 20},
		Received: &api.Received{From: "https://example.org/team.tar.zst", SignedBy: "ssh-ed25519 AAAA"},
	}) {
		got[row[0].text] = row[1].text
	}
	for key, want := range map[string]string{
		"size": "700 MiB", "private": "0 B, free without the image", "shared": "700 MiB with again, base",
		"used by": "old, sandbox (30 MiB on disks of their own)", "bundle": "https://example.org/team.tar.zst", "signed by": "ssh-ed25519 AAAA",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
}
