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
