package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files")

func spec() vmm.Spec {
	return vmm.Spec{
		ID: "b2c3", RunDir: "/run/user/1000/banger/vm/b2c3",
		ConsoleLog: "/home/u, v/console.log", VMMLog: "/home/u, v/vmm.log",
		Kernel: "/home/u, v/vmlinux", Initramfs: "/home/u, v/initramfs", Cmdline: "systemd.show_status=0",
		VCPU: 2, MemoryMiB: 2048,
		Disks: []vmm.Disk{
			{Path: "/home/u, v/root.ext4", ReadOnly: true},
			{Path: `/home/u, v/"overlay"=1.ext4`},
			{Path: "/home/u, v/work.ext4", Volatile: true},
		},
		NIC: &vmm.NIC{
			Mode: vmm.NetworkUser, MAC: "52:54:00:00:00:05",
			Address: "172.16.0.5/24", Gateway: "172.16.0.1", DNS: "172.16.0.3",
		},
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		on     host
		change func(*vmm.Spec)
	}{
		{"kvm", host{kvm: true, tscKHz: 2_000_000}, func(*vmm.Spec) {}},
		{"tcg", host{tscKHz: 2_445_428}, func(*vmm.Spec) {}},
		{"tcg-unknown-tsc", host{}, func(*vmm.Spec) {}},
		{"bare", host{kvm: true}, func(s *vmm.Spec) {
			s.Initramfs, s.Cmdline, s.Disks, s.NIC = "", "", nil, nil
		}},
		{"stream", host{kvm: true}, func(s *vmm.Spec) {
			s.NIC = &vmm.NIC{Mode: vmm.NetworkStream, MAC: s.NIC.MAC, Socket: "/run/a,b/network.sock"}
		}},
		{"tap", host{kvm: true}, func(s *vmm.Spec) {
			s.NIC = &vmm.NIC{Mode: vmm.NetworkTAP, MAC: s.NIC.MAC, TAP: "banger5"}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := spec()
			test.change(&s)
			args, err := arguments(s, test.on)
			if err != nil {
				t.Fatal(err)
			}
			// One argument a line, and a blank one before each option.
			got := strings.ReplaceAll("\n"+strings.Join(args, "\n"), "\n-", "\n\n-")[2:] + "\n"
			golden := filepath.Join("testdata", test.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments (-want +got); -update writes them:\n%s", diff)
			}
		})
	}
}

func TestArgumentsRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, want string
		change     func(*vmm.Spec)
	}{
		{"no CPU", "0 CPUs", func(s *vmm.Spec) { s.VCPU = 0 }},
		{"no memory", "0 MiB", func(s *vmm.Spec) { s.MemoryMiB = 0 }},
		{"deep directory", "at most 107 are allowed", func(s *vmm.Spec) { s.RunDir = "/" + strings.Repeat("d", 100) }},
		{"unknown mode", `unknown network mode "x"`, func(s *vmm.Spec) { s.NIC.Mode = "x" }},
		{"address without prefix", `"172.16.0.5" is not`, func(s *vmm.Spec) { s.NIC.Address = "172.16.0.5" }},
		{"IPv6", `"fd00::5/64" is not`, func(s *vmm.Spec) { s.NIC.Address = "fd00::5/64" }},
		{"small network", `"172.16.0.5/30" is not`, func(s *vmm.Spec) { s.NIC.Address = "172.16.0.5/30" }},
		{"gateway elsewhere", `"10.0.0.1" is not an address in 172.16.0.0/24`, func(s *vmm.Spec) { s.NIC.Gateway = "10.0.0.1" }},
		{"no DNS address", `"x" is not an address`, func(s *vmm.Spec) { s.NIC.DNS = "x" }},
		{"DNS at the gateway", "different addresses", func(s *vmm.Spec) { s.NIC.DNS = s.NIC.Gateway }},
	} {
		s := spec()
		test.change(&s)
		if _, err := arguments(s, host{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func TestUserNetworkDefaults(t *testing.T) {
	t.Parallel()
	got, err := userNetdev(vmm.NIC{Mode: vmm.NetworkUser, Address: "172.16.0.35/28"})
	if want := "user,id=net,ipv6=off,net=172.16.0.32/28,host=172.16.0.33,dns=172.16.0.35"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in, text string
		enough   bool
	}{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", "7.2.22", true},
		{"QEMU emulator version 10.0.2\n", "10.0.2", true},
		{"QEMU emulator version 8.0 (v8)", "8.0", true},
		{"QEMU emulator version 7.1.0", "7.1.0", false},
		{"QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)", "6.2.0", false},
		{"QEMU emulator version seven", "", false},
		{"QEMU emulator version 99999.0", "", false},
		{"", "", false},
	} {
		v, ok := parseVersion(test.in)
		if v.text != test.text || ok != (test.text != "") || v.atLeast(minMajor, minMinor) != test.enough {
			t.Errorf("%q: %+v, %v", test.in, v, ok)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("QEMU emulator version 7.2.22 (Debian)")
	f.Fuzz(func(t *testing.T, text string) {
		if v, ok := parseVersion(text); ok && (v.text == "" || v.major < 0 || v.minor < 0) {
			t.Errorf("%q: %+v", text, v)
		}
	})
}

func TestRate(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	from := tscSample{ticks: 1000, at: at}
	for _, test := range []struct {
		to   tscSample
		want uint64
	}{
		{tscSample{1000 + 2_500_000, at.Add(time.Millisecond)}, 2_500_000},
		{tscSample{999, at.Add(time.Millisecond)}, 0},
		{tscSample{2000, at}, 0},
	} {
		if got := rate(from, test.to); got != test.want {
			t.Errorf("%+v: %d kHz, want %d", test.to, got, test.want)
		}
	}
}
