package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/paths"
	"banger/internal/size"
)

func testDirs(t *testing.T) paths.Dirs {
	t.Helper()
	home := filepath.Join(t.TempDir(), "a home")
	return paths.Dirs{Home: home, Config: filepath.Join(home, "config"), State: filepath.Join(home, "state")}
}

func write(t *testing.T, dirs paths.Dirs, text string) {
	t.Helper()
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dirs.ConfigFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	defaults := Config{DefaultImage: "debian-bookworm", SSHKeyPath: dirs.SSHKey(), VMM: "auto", NetworkMode: "auto", DNSPort: 42069, HostEnvironment: HostEnvironment{Proxy: true, Certificates: true}}
	got, err := Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults, got); diff != "" {
		t.Errorf("without a file (-want +got):\n%s", diff)
	}

	write(t, dirs, "# nothing\n[vm_defaults]\n")
	got, err = Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults, got); diff != "" {
		t.Errorf("with an empty file (-want +got):\n%s", diff)
	}

	write(t, dirs, `default_image_name = "alpine"
ssh_key_path = "~/keys/mine"
firecracker_bin = "/opt/fc"
qemu_bin = "~/qemu"
vmm = "qemu"
log_level = "debug"
dns_port = 0
network = "bridge"
debian_mirror = "http://mirror.example/debian"
vm_defaults = {vcpu = 3, memory_mib = 2048, disk_size = "16G"}
host_environment = {proxy = "none", certificates = ["/ca.pem"]}
`)
	got, err = Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		DefaultImage: "alpine", SSHKeyPath: filepath.Join(dirs.Home, "keys/mine"), FirecrackerBin: "/opt/fc",
		QEMUBin: filepath.Join(dirs.Home, "qemu"), VMM: "qemu", NetworkMode: "bridge", LogLevel: slog.LevelDebug,
		DebianMirror:    "http://mirror.example/debian",
		VMDefaults:      Request{VCPU: 3, MemoryMiB: 2048, DiskBytes: 16 * size.GiB},
		HostEnvironment: HostEnvironment{CertificateFiles: []string{"/ca.pem"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with every key (-want +got):\n%s", diff)
	}

	write(t, dirs, "[vm_defaults]\ndisk_size = 512\n")
	if got, err = Load(dirs); err != nil || got.VMDefaults.DiskBytes != 512*size.MiB {
		t.Errorf("a bare number of MiB: %d, %v", got.VMDefaults.DiskBytes, err)
	}
}

func TestLoadNamesFileLineAndKey(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"\ncolour = 1\n":                               {":2: colour: ", "unknown key"},
		"[vm_defaults]\nvcpu = 1\ncpus = 2\n":          {":3: vm_defaults.cpus: ", "unknown key"},
		"[nonsense]\nvcpu = 1\n":                       {":1: nonsense", "unknown key"},
		"# x\nvmm = 3\n":                               {":2: vmm: "},
		"vmm = \"xen\"\n":                              {":1: vmm: ", "auto, firecracker, qemu"},
		"\n\nlog_level = \"loud\"\n":                   {":3: log_level: ", "debug, info, warn, error"},
		"ssh_key_path = \"keys/mine\"\n":               {":1: ssh_key_path: ", "absolute"},
		"ssh_key_path = \"\"\n":                        {":1: ssh_key_path: ", "absolute"},
		"ssh_key_path = \"/a\\nb\"\n":                  {":1: ssh_key_path: "},
		"firecracker_bin = [\"a\"]\n":                  {":1: firecracker_bin: "},
		"default_image_name = \"\"\n":                  {":1: default_image_name: "},
		"debian_mirror = \"file:///x\"\n":              {":1: debian_mirror: ", "URL"},
		"debian_mirror = \"http://a b/\"\n":            {":1: debian_mirror: ", "URL"},
		"[vm_defaults]\n\nvcpu = 0\n":                  {":3: vm_defaults.vcpu: ", "1 to 32"},
		"[vm_defaults]\nvcpu = -1\n":                   {":2: vm_defaults.vcpu: "},
		"[vm_defaults]\nvcpu = \"two\"\n":              {":2: vm_defaults.vcpu: "},
		"[vm_defaults]\nvcpu = 99999999999999999999\n": {":2: vm_defaults.vcpu: "},
		"[vm_defaults]\nvcpu = 4294967297\n":           {":2: vm_defaults.vcpu: "},
		"[vm_defaults]\nmemory_mib = 1\n":              {":2: vm_defaults.memory_mib: "},
		"[vm_defaults]\nmemory_mib = 1.5\n":            {":2: vm_defaults.memory_mib: "},
		"vm_defaults.memory_mib = 1\n":                 {":1: vm_defaults.memory_mib: "},
		"vm_defaults = {memory_mib = 1}\n":             {":1: vm_defaults.memory_mib: "},
		"[vm_defaults]\ndisk_size = \"8Q\"\n":          {":2: vm_defaults.disk_size: ", "8Q"},
		"[vm_defaults]\ndisk_size = -5\n":              {":2: vm_defaults.disk_size: "},
		"[vm_defaults]\ndisk_size = true\n":            {":2: vm_defaults.disk_size: "},
		"[vm_defaults]\ndisk_size = \"1M\"\n":          {":2: vm_defaults.disk_size: ", "64M"},
		"dns_port = 53\n":                              {":1: dns_port: ", "1024"},
		"[network_access]\nhost = 1\n":                 {":2: network_access.host: "},
		"[network_access]\nwan = true\n":               {":2: network_access.wan: ", "unknown key"},
		"[network_access]\nallow = \"10.0.0.0/8\"\n":   {":2: network_access.allow: "},
		"network_access = {allow = [\"ten\"]}\n":       {":1: network_access.allow: ", "ten"},
		"network_access.allow = [\"10.1.2.3/8\"]\n":    {":1: network_access.allow: ", "10.0.0.0/8"},
		"network_access.allow = [\"fd00::/8\"]\n":      {":1: network_access.allow: ", "IPv4"},
		"vmm = \"auto\"\nvmm = \"auto\"\n":             {":2: vmm: "},
		"vmm = \n":                                     {":1: "},
		"= 5\n":                                        {":1: "},
		"vmm = \"\xff\"\n":                             {":1: "},
		"[vm_defaults\n":                               {":1: "},
		"vm_defaults = 7\n":                            {":1: vm_defaults: "},
		"[[vm_defaults]]\nvcpu = 1\n":                  {"vm_defaults"},
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			dirs := testDirs(t)
			write(t, dirs, text)
			got, err := Load(dirs)
			if err == nil {
				t.Fatalf("%q was taken as %+v", text, got)
			}
			for _, want := range append(want, dirs.ConfigFile()) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q: error %q does not contain %q", text, err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: the error has more than one line: %q", text, err)
			}
		})
	}
}

func TestLoadUnreadable(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	if err := os.MkdirAll(dirs.ConfigFile(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dirs); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("vmm = \"qemu\"\n[vm_defaults]\nvcpu = 1\ndisk_size = \"8G\"\n"))
	f.Add([]byte("vm_defaults = {disk_size = {a = 1}}"))
	f.Add([]byte("a.b.\"c\" = 1\n[[x]]"))
	dirs := paths.Dirs{Home: "/home/u", State: "/home/u/state"}
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := parse(data, "/c.toml", dirs)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
			return
		}
		spec := Sizes(config, Request{}, Host{})
		if CheckVCPU(spec.VCPU) != nil || CheckMemory(spec.MemoryMiB) != nil || CheckDisk(spec.DiskBytes) != nil {
			t.Errorf("accepted, but out of range: %+v", spec)
		}
	})
}

func TestTrustedKeys(t *testing.T) {
	t.Parallel()
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9nNSKBfKgvBuZ8VmWCzr6YGtYGpVjSHYLvIYYsUU2n a comment"
	config, err := parse([]byte(`trusted_keys = ["`+good+`"]`), "f", paths.Dirs{})
	if err != nil || len(config.TrustedKeys) != 1 {
		t.Errorf("got %v, %v", config.TrustedKeys, err)
	}
	for _, bad := range []string{"", "key", "ssh-ed25519 AAAA", good + `\n` + good, "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="} {
		_, err := parse([]byte("\ntrusted_keys = [\""+bad+"\"]"), "f", paths.Dirs{})
		if told, ok := errors.AsType[*Error](err); !ok || told.Line != 2 || told.Key != "trusted_keys" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLoadOf(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	write(t, dirs, "secret = 1\n")
	mine := os.Getuid()
	if _, err := LoadOf(dirs, mine); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("the user's own: %v", err)
	}
	if _, err := LoadOf(dirs, mine+1); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("another user's: %v", err)
	}
	// A link of the user's to a file of root's that everybody may read.
	if err := os.Remove(dirs.ConfigFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", dirs.ConfigFile()); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOf(dirs, 12345); err == nil || !strings.Contains(err.Error(), "not the user's own") || strings.Contains(err.Error(), "root:") {
		t.Errorf("root's: %v", err)
	}
}

func TestLoadFIFO(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(dirs.ConfigFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dirs); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
}
