package bridge

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/network/netnstest"
	"banger/internal/network/policy"
	"banger/internal/network/program"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; run the test with -update):\n%s", path, diff)
	}
}

func TestRuleset(t *testing.T) {
	t.Parallel()
	attached := policy.Prefixes("198.51.100.0/24")
	for name, allowed := range map[string]policy.Policy{
		"default.nft": {},
		"open.nft":    {Host: true, Guests: true, Allow: policy.Prefixes("10.1.0.0/16")},
		"lan.nft":     {LAN: true},
	} {
		s := settings(2)
		s.Policy = allowed
		rules, err := ruleset(s, attached)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, rules)
	}
}

// TestSystemd goes by what is asked of systemd, which does not run in tests.
func TestSystemd(t *testing.T) {
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	h.Systemd, h.Resolved = h.Units, h.Units // anything that is there
	bin := t.TempDir()
	said := filepath.Join(bin, "said")
	for _, name := range []string{"systemctl", "resolvectl"} {
		script := "#!/bin/sh\necho \"${0##*/} $*\" >>" + said + "\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	ctx := program.WithStubs(t.Context(), bin)
	before := snapshot(t, h)
	self := filepath.Join(bin, "banger")                                     // in a directory that others can write
	if err := os.WriteFile(self, []byte("the program"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	if err := os.Chmod(bin, 0o777); err != nil { //nolint:gosec // on purpose
		t.Fatal(err)
	}
	h.Self = self
	h.onlyRoots = func(string) bool { return false }
	if err := Setup(ctx, h, settings(1), self, func(string) {}); err == nil || !strings.Contains(err.Error(), "others than root") {
		t.Errorf("a copy goes where others can write: %v", err)
	}
	h.onlyRoots = func(path string) bool { return path == filepath.Dir(h.Program) || path == h.Program }
	if err := os.WriteFile(h.Program, []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Setup(ctx, h, settings(1), self, func(string) {}); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("a program of somebody else's is replaced: %v", err)
	}
	if _, err := Teardown(ctx, h, true, func(string) {}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(h.Program); err != nil || string(data) != "somebody else's" {
		t.Errorf("somebody else's program: %q, %v", data, err)
	}
	if err := os.Remove(h.Program); err != nil {
		t.Fatal(err)
	}
	// What is at the path by now is not what runs.
	elsewhere := filepath.Join(bin, "replaced")
	if err := os.WriteFile(elsewhere, []byte("the user's"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	unitPath := filepath.Join(h.Units, unitName)
	if err := os.WriteFile(unitPath, []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Setup(ctx, h, settings(1), self, func(string) {}); err == nil {
		t.Error("a unit of somebody else's is replaced")
	}
	if data, err := os.ReadFile(unitPath); err != nil || string(data) != "somebody else's" {
		t.Errorf("somebody else's unit: %q, %v", data, err)
	}
	if err := os.Remove(unitPath); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Setup(ctx, h, settings(1), elsewhere, func(text string) { t.Error("warned:", text) }); err != nil {
			t.Fatal(err)
		}
	}
	unit, err := os.ReadFile(filepath.Join(h.Units, unitName))
	if err != nil || !strings.Contains(string(unit), "\nExecStart=\""+h.Program+"\" network setup --boot\n") {
		t.Errorf("the unit: %s, %v", unit, err)
	}
	if data, err := os.ReadFile(h.Program); err != nil || string(data) != "the program" {
		t.Errorf("its program: %q, %v", data, err)
	}
	if err := Restore(ctx, h, func(text string) { t.Error("warned:", text) }); err != nil {
		t.Error(err)
	}
	status, err := Look(ctx, h)
	if err != nil || !status.Boot || status.Problems != nil {
		t.Errorf("status: %+v, %v", status, err)
	}
	if done, err := Teardown(ctx, h, false, func(string) {}); err != nil || !done {
		t.Fatalf("teardown: %v, %v", done, err)
	}
	if diff := cmp.Diff(before, snapshot(t, h)); diff != "" {
		t.Errorf("after the teardown (-before +after):\n%s", diff)
	}
	data, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	names := "resolvectl dns banger0 127.0.0.1:42069\nresolvectl domain banger0 ~vm\nresolvectl default-route banger0 no\n"
	once := names + "systemctl daemon-reload\nsystemctl enable --quiet banger-network.service\n"
	want := once + once + names + "systemctl disable --now --quiet banger-network.service\nsystemctl daemon-reload\n"
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("asked of systemd (-want +got):\n%s", diff)
	}
}

func TestRunsAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, other := filepath.Join(dir, "self"), filepath.Join(dir, "other")
	for _, path := range []string{self, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := Host{Self: self, onlyRoots: func(string) bool { return true }}
	if !h.runsAsItIs(self) || h.runsAsItIs(other) {
		t.Error("it is the program that runs which counts")
	}
	h.onlyRoots = nil
	if h.runsAsItIs(self) {
		t.Error("a file below /tmp is run by root")
	}
}
