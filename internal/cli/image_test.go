package cli

import (
	"testing"

	"banger/internal/api"
)

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
