package config_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/config"
	"banger/internal/size"
)

func TestSizes(t *testing.T) {
	t.Parallel()
	big := config.Host{CPUs: 64, MemoryBytes: 256 * size.GiB}
	for _, test := range []struct {
		name          string
		flags, config config.Request
		host          config.Host
		want          config.Spec
	}{
		{
			name: "small host", host: config.Host{CPUs: 2, MemoryBytes: 16 * size.GiB},
			want: config.Spec{VCPU: 1, VCPUFrom: "host", MemoryMiB: 2048, MemoryFrom: "host", DiskBytes: 8 * size.GiB, DiskFrom: "built-in"},
		},
		{
			name: "big host", host: big,
			want: config.Spec{VCPU: 4, VCPUFrom: "host", MemoryMiB: 8192, MemoryFrom: "host", DiskBytes: 8 * size.GiB, DiskFrom: "built-in"},
		},
		{
			name: "12 CPUs", host: config.Host{CPUs: 12, MemoryBytes: 12 * size.GiB},
			want: config.Spec{VCPU: 3, VCPUFrom: "host", MemoryMiB: 1536, MemoryFrom: "host", DiskBytes: 8 * size.GiB, DiskFrom: "built-in"},
		},
		{
			name: "unknown host",
			want: config.Spec{VCPU: 1, VCPUFrom: "built-in", MemoryMiB: 512, MemoryFrom: "built-in", DiskBytes: 8 * size.GiB, DiskFrom: "built-in"},
		},
		{
			name: "tiny host", host: config.Host{CPUs: 1, MemoryBytes: 2 * size.GiB},
			want: config.Spec{VCPU: 1, VCPUFrom: "host", MemoryMiB: 512, MemoryFrom: "built-in", DiskBytes: 8 * size.GiB, DiskFrom: "built-in"},
		},
		{
			name: "each from elsewhere", host: big, config: config.Request{VCPU: 2, DiskBytes: 5 * size.GiB}, flags: config.Request{DiskBytes: 6 * size.GiB},
			want: config.Spec{VCPU: 2, VCPUFrom: "config", MemoryMiB: 8192, MemoryFrom: "host", DiskBytes: 6 * size.GiB, DiskFrom: "flag"},
		},
	} {
		got := config.Sizes(config.Config{VMDefaults: test.config}, test.flags, test.host)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestSpecString(t *testing.T) {
	t.Parallel()
	spec := config.Spec{VCPU: 2, MemoryMiB: 1536, DiskBytes: 8 * size.GiB}
	if got, want := spec.String(), "2 vCPU, 1536M RAM, 8G disk"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestThisHost(t *testing.T) {
	t.Parallel()
	host, err := config.ThisHost()
	if err != nil || host.CPUs < 1 || host.MemoryBytes < 16*size.MiB {
		t.Errorf("ThisHost() = %+v, %v", host, err)
	}
}
