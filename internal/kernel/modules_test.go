package kernel

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testDependencies = `kernel/a/leaf.ko:
kernel/a/virtio-rng.ko:
kernel/b/middle.ko: kernel/a/leaf.ko
kernel/b/other.ko: kernel/a/leaf.ko
kernel/c/top.ko: kernel/b/other.ko kernel/b/middle.ko kernel/a/leaf.ko
kernel/d/self.ko: kernel/d/loop.ko
kernel/d/loop.ko: kernel/d/self.ko
kernel/d/lost.ko: kernel/d/none.ko
`

// loadOrder is both steps.
func loadOrder(names []string, dependencies, builtin []byte) ([]string, error) {
	m, err := parseModules(dependencies, builtin)
	if err != nil {
		return nil, err
	}
	return m.loadOrder(names)
}

func TestLoadOrder(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		names   []string
		want    []string
		wantErr string
	}{
		"none":                     {nil, nil, ""},
		"leaf":                     {[]string{"leaf"}, []string{"kernel/a/leaf.ko"}, ""},
		"with a dash":              {[]string{"virtio_rng"}, []string{"kernel/a/virtio-rng.ko"}, ""},
		"asked for with a dash":    {[]string{"virtio-rng"}, []string{"kernel/a/virtio-rng.ko"}, ""},
		"built in":                 {[]string{"ext4", "crc32c-generic"}, nil, ""},
		"with what it needs":       {[]string{"top"}, []string{"kernel/a/leaf.ko", "kernel/b/middle.ko", "kernel/b/other.ko", "kernel/c/top.ko"}, ""},
		"what is needed only once": {[]string{"other", "leaf", "middle", "other"}, []string{"kernel/a/leaf.ko", "kernel/b/other.ko", "kernel/b/middle.ko"}, ""},
		"unknown":                  {[]string{"leaf", "nope"}, nil, `no module "nope"`},
		"loop":                     {[]string{"self"}, nil, "depend on itself"},
		"needs what is not there":  {[]string{"lost"}, nil, `does not have "kernel/d/none.ko"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := loadOrder(test.names, []byte(testDependencies), []byte("kernel/fs/ext4/ext4.ko\n\nkernel/crypto/crc32c_generic.ko"))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want one with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
	for _, line := range []string{"no colon\n", "a.ko.xz:\n", ":\n"} {
		if _, err := loadOrder(nil, []byte(line), nil); err == nil {
			t.Errorf("modules.dep with the line %q was taken", line)
		}
	}
}

func FuzzLoadOrder(f *testing.F) {
	f.Add("top", testDependencies, "kernel/fs/ext4/ext4.ko\n")
	f.Fuzz(func(t *testing.T, name, dependencies, builtin string) {
		order, err := loadOrder([]string{name}, []byte(dependencies), []byte(builtin))
		if err != nil {
			return
		}
		// Each comes once, and after all that it needs.
		needs := make(map[string][]string)
		for line := range strings.Lines(dependencies) {
			file, rest, _ := strings.Cut(line, ":")
			needs[file] = strings.Fields(rest)
		}
		for i, file := range order {
			if slices.Contains(order[:i], file) {
				t.Errorf("%q comes twice in %q", file, order)
			}
			for _, needed := range needs[file] {
				if !slices.Contains(order[:i], needed) {
					t.Errorf("%q does not come before %q in %q", needed, file, order)
				}
			}
		}
	})
}

// sign appends what looks like a signature of that many bytes.
func sign(module string, signer, keyID byte, signature uint32) []byte {
	info := []byte{0, 0, 2, signer, keyID, 0, 0, 0}
	info = binary.BigEndian.AppendUint32(info, signature)
	data := append([]byte(module), make([]byte, int(signer)+int(keyID)+int(signature))...)
	return append(append(data, info...), signatureMagic...)
}

func TestWithoutSignature(t *testing.T) {
	t.Parallel()
	lie := sign("module", 0, 0, 300)
	binary.BigEndian.PutUint32(lie[len(lie)-len(signatureMagic)-4:], 1<<31)
	tests := map[string]struct {
		module []byte
		want   string
	}{
		"signed":            {sign("module", 0, 0, 300), "module"},
		"signed, old style": {sign("module", 3, 20, 300), "module"},
		"not signed":        {[]byte("module"), "module"},
		"empty":             {nil, ""},
		"only the end":      {[]byte(signatureMagic), signatureMagic},
		"too long":          {lie, string(lie)},
	}
	for name, test := range tests {
		if got := withoutSignature(test.module); string(got) != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzWithoutSignature(f *testing.F) {
	f.Add(sign("module", 3, 20, 300))
	f.Fuzz(func(t *testing.T, module []byte) {
		if got := withoutSignature(module); !bytes.HasPrefix(module, got) {
			t.Errorf("%q is no beginning of %q", got, module)
		}
	})
}
