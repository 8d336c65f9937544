package cli

import (
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
