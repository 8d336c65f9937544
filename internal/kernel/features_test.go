package kernel

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
)

// withAll is a kernel with all that [features] names, but what is left out.
func withAll(t *testing.T, without ...string) (moduleSet, map[string]string) {
	t.Helper()
	var dep strings.Builder
	config := make(map[string]string)
	out := make(map[string]bool)
	for _, option := range without {
		out[option] = true
	}
	for _, f := range features {
		for need := range strings.FieldsSeq(strings.ReplaceAll(f.needs, "|", " ")) {
			option, module, ok := strings.Cut(need, ":")
			if out[option] {
				delete(out, option)
				continue
			}
			config[option] = "y"
			if ok {
				config[option] = "m"
				fmt.Fprintf(&dep, "kernel/%s.ko:\n", module)
			}
		}
	}
	if len(out) > 0 {
		t.Fatalf("no such options: %v", out)
	}
	modules, err := parseModules([]byte(dep.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	return modules, config
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		without  []string
		noConfig bool
		builtIn  string // an option without its module
		missing  map[string][]string
		unknown  []string
		refused  string
	}{
		"all":                   {},
		"an optional module":    {without: []string{"FUSE_FS"}, missing: map[string][]string{"FUSE": {"CONFIG_FUSE_FS"}}},
		"an optional option":    {without: []string{"BPF_JIT", "BPF_SYSCALL"}, missing: map[string][]string{"eBPF": {"CONFIG_BPF_SYSCALL", "CONFIG_BPF_JIT"}}},
		"one of two is enough":  {without: []string{"IP_NF_NAT", "VIRTIO_MMIO_CMDLINE_DEVICES"}},
		"none of two":           {without: []string{"IP_NF_NAT", "NFT_COMPAT"}, missing: map[string][]string{"Docker's networks": {"CONFIG_NFT_COMPAT or CONFIG_IP_NF_NAT"}}},
		"built in":              {without: []string{"WIREGUARD"}, builtIn: "WIREGUARD"},
		"a required module":     {without: []string{"OVERLAY_FS"}, missing: map[string][]string{"disks": {"CONFIG_OVERLAY_FS"}}, refused: "disks (CONFIG_OVERLAY_FS)"},
		"a required option":     {without: []string{"DEVTMPFS"}, missing: map[string][]string{"initramfs": {"CONFIG_DEVTMPFS"}}, refused: "initramfs (CONFIG_DEVTMPFS)"},
		"no configuration":      {noConfig: true, unknown: []string{"virtio devices", "network", "initramfs", "serial console", "systemd", "containers", "eBPF"}},
		"neither, and a module": {noConfig: true, without: []string{"VIRTIO_NET"}, missing: map[string][]string{"network": {"CONFIG_VIRTIO_NET"}}, unknown: []string{"virtio devices", "initramfs", "serial console", "systemd", "containers", "eBPF"}, refused: "network (CONFIG_VIRTIO_NET)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modules, config := withAll(t, test.without...)
			if test.builtIn != "" {
				config[test.builtIn] = "y"
			}
			if test.noConfig {
				config = nil
			}
			list := checkFeatures(modules, config)
			var missing map[string][]string
			var unknown []string
			for _, f := range list {
				switch f.State {
				case api.FeatureMissing:
					if missing == nil {
						missing = make(map[string][]string)
					}
					missing[f.Name] = f.Options
				case api.FeatureUnknown:
					unknown = append(unknown, f.Name)
				case api.FeaturePresent:
					if f.Options != nil {
						t.Errorf("%q is there, and misses %q", f.Name, f.Options)
					}
				}
			}
			if diff := cmp.Diff(test.missing, missing); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.unknown, unknown); diff != "" {
				t.Errorf("unknown (-want +got):\n%s", diff)
			}
			switch err := checkRequired(list); {
			case test.refused == "" && err != nil:
				t.Error(err)
			case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("error %v, want %q", err, test.refused)
			}
		})
	}
}

// What the initramfs loads is what is looked for.
func TestFeaturesHaveBootModules(t *testing.T) {
	t.Parallel()
	offered, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	var required strings.Builder
	for _, f := range features {
		if f.required {
			required.WriteString(f.needs + " ")
		}
	}
	for _, r := range offered {
		for _, module := range r.BootModules {
			if !strings.Contains(required.String(), ":"+module+" ") {
				t.Errorf("kernel %q boots with %q, which is not required", r.name, module)
			}
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	const text = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"y=z\"\n\nnothing\nOTHER=y\n"
	want := map[string]string{"B": "y", "C": "m", "D": `"y=z"`}
	if diff := cmp.Diff(want, parseConfig([]byte(text))); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if got := configIn(ikconfig(t, text)); string(got) != text {
		t.Errorf("in the kernel: %q", got)
	}
	for _, vmlinux := range []string{"", "code IKCFG_ST code", "IKCFG_ST\x1f\x8b", "IKCFG_ST\x1f\x8b\x08garbage"} {
		if got := configIn([]byte(vmlinux)); got != nil {
			t.Errorf("in %q: %q", vmlinux, got)
		}
	}
}

// ikconfig is a kernel with its configuration.
func ikconfig(tb testing.TB, text string) []byte {
	tb.Helper()
	var b bytes.Buffer
	b.WriteString("IKCFG_ST in the code\x00IKCFG_ST")
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	b.WriteString("IKCFG_ED and more")
	return b.Bytes()
}

func FuzzConfig(f *testing.F) {
	f.Add(ikconfig(f, "CONFIG_A=y\n"))
	f.Add([]byte("Linux version 6.1.0-1-x (a@b)"))
	f.Fuzz(func(t *testing.T, vmlinux []byte) {
		if data := configIn(vmlinux); len(data) > maxSmall {
			t.Errorf("%d bytes", len(data))
		}
		if version, err := release(vmlinux); err == nil && (version == "" || strings.ContainsAny(version, "/ \x00\n")) {
			t.Errorf("version %q", version)
		}
	})
}
