// Package config reads the user's config.toml and works out the sizes of VMs.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger/internal/network/policy"
	"banger/internal/paths"
	"banger/internal/regular"
	"banger/internal/size"
	"banger/internal/tomlfile"
)

// Config is the user's configuration with every default filled in, except for
// VMDefaults, which [Sizes] combines with the host.
type Config struct {
	// DefaultImage is the image of a VM that names none.
	DefaultImage string
	// SSHKeyPath is the private key that opens guests, absolute.
	SSHKeyPath string
	// FirecrackerBin and QEMUBin are absolute, or empty: look in PATH.
	FirecrackerBin, QEMUBin string
	// VMM is one of [VMMs].
	VMM      string
	LogLevel slog.Level
	// DebianMirror is an http or https URL; empty leaves the choice to the
	// tool that fetches packages.
	DebianMirror string
	// VMDefaults are zero where the file says nothing.
	VMDefaults Request
	// FileSync is what new VMs get copies of.
	FileSync []FileSync
	// DNSPort is the port on 127.0.0.1 where NAME.vm is answered, 0 for none.
	DNSPort int
	// NetworkMode is how guests are connected: "auto", "user" or "bridge".
	NetworkMode string
	// Network is what guests may reach.
	Network policy.Policy
	// TrustedKeys are whose signatures of bundles count.
	TrustedKeys []ssh.PublicKey
	// HostEnvironment is what guests get of this host's own.
	HostEnvironment HostEnvironment
	// CatalogURLs are where lists of images and kernels are, besides that of
	// this binary; the first has precedence.
	CatalogURLs []string
}

// Error is what is wrong with the configuration file.
type Error tomlfile.Error

func (e *Error) Error() string { return "bad configuration: " + (*tomlfile.Error)(e).Error() }

// file is config.toml as written. Pointers tell an absent key from a zero.
type file struct {
	DefaultImage   *string  `toml:"default_image_name"`
	SSHKeyPath     *string  `toml:"ssh_key_path"`
	FirecrackerBin *string  `toml:"firecracker_bin"`
	QEMUBin        *string  `toml:"qemu_bin"`
	VMM            *string  `toml:"vmm"`
	LogLevel       *string  `toml:"log_level"`
	DNSPort        *int64   `toml:"dns_port"`
	NetworkMode    *string  `toml:"network"`
	DebianMirror   *string  `toml:"debian_mirror"`
	TrustedKeys    []string `toml:"trusted_keys"`
	CatalogURLs    []string `toml:"catalog_urls"`
	VMDefaults     struct {
		VCPU      *int64 `toml:"vcpu"`
		MemoryMiB *int64 `toml:"memory_mib"`
		// DiskSize is a size as text, or a number of MiB.
		DiskSize any `toml:"disk_size"`
	} `toml:"vm_defaults"`
	FileSync []fileSync `toml:"file_sync"`
	Network  struct {
		Host   *bool    `toml:"host"`
		LAN    *bool    `toml:"lan"`
		Guests *bool    `toml:"guests"`
		Allow  []string `toml:"allow"`
	} `toml:"network_access"`
	HostEnvironment struct {
		Proxy *string `toml:"proxy"`
		// Certificates is a word, or a list of files.
		Certificates any `toml:"certificates"`
	} `toml:"host_environment"`
}

// maxFile bounds what is read: a configuration is a page of text.
const maxFile = 1 << 20

// defaultDNSPort is where recipes expect the server.
const defaultDNSPort = 42069

// VMMs are what the key vmm and the flag --vmm may name.
func VMMs() []string { return []string{"auto", "firecracker", "qemu"} }

// Defaults is the configuration of a user who has no file.
func Defaults(dirs paths.Dirs) Config {
	return Config{
		DefaultImage: "debian-bookworm", SSHKeyPath: dirs.SSHKey(), VMM: "auto", NetworkMode: "auto", LogLevel: slog.LevelInfo, DNSPort: defaultDNSPort,
		HostEnvironment: HostEnvironment{Proxy: true, Certificates: true},
	}
}

// Load reads the configuration file of dirs. A missing file is the defaults.
// An unknown key, a wrong type or a bad value is an error of one line that
// names file, line and key.
func Load(dirs paths.Dirs) (Config, error) {
	return load(dirs, nil)
}

// LoadOf is [Load] by root, of another user's file. That is theirs, or what
// root lets everybody read; of the latter no error says what is in it.
func LoadOf(dirs paths.Dirs, uid int) (Config, error) { return load(dirs, &uid) }

func load(dirs paths.Dirs, uid *int) (Config, error) {
	path := dirs.ConfigFile()
	data, info, err := regular.Read(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Defaults(dirs), nil
	case errors.Is(err, regular.ErrKind), errors.Is(err, regular.ErrSize):
		return Config{}, fmt.Errorf("cannot read the configuration %q: it is not a regular file of at most %s", path, size.Human(maxFile))
	case err != nil:
		return Config{}, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if uid == nil {
		return parse(data, path, dirs)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != *uid && (owner != 0 || info.Mode().Perm()&0o004 == 0) {
		return Config{}, fmt.Errorf("cannot read the configuration %q: it belongs to another user", path)
	}
	config, err := parse(data, path, dirs)
	if bad, ok := errors.AsType[*Error](err); ok && owner != *uid {
		err = &Error{Path: path, Line: bad.Line, Reason: "it is wrong, and not the user's own file"}
	}
	return config, err
}

func parse(data []byte, path string, dirs paths.Dirs) (Config, error) {
	var f file
	if bad := tomlfile.Decode(path, data, &f); bad != nil {
		return Config{}, (*Error)(bad)
	}
	config := Defaults(dirs)
	for _, key := range []struct {
		name string
		set  func() error
	}{
		{"default_image_name", func() error { return setText(&config.DefaultImage, f.DefaultImage, imageName) }},
		{"ssh_key_path", func() error { return setPath(&config.SSHKeyPath, f.SSHKeyPath, dirs.Home) }},
		{"firecracker_bin", func() error { return setPath(&config.FirecrackerBin, f.FirecrackerBin, dirs.Home) }},
		{"qemu_bin", func() error { return setPath(&config.QEMUBin, f.QEMUBin, dirs.Home) }},
		{"vmm", func() error { return setText(&config.VMM, f.VMM, CheckVMM) }},
		{"log_level", func() error { return setLevel(&config.LogLevel, f.LogLevel) }},
		{"debian_mirror", func() error { return setText(&config.DebianMirror, f.DebianMirror, webAddress) }},
		{"trusted_keys", func() error { return setKeys(&config.TrustedKeys, f.TrustedKeys) }},
		{"catalog_urls", func() error { return setURLs(&config.CatalogURLs, f.CatalogURLs) }},
		{"dns_port", func() error { return setInt(&config.DNSPort, f.DNSPort, checkPort) }},
		{"vm_defaults.vcpu", func() error { return setInt(&config.VMDefaults.VCPU, f.VMDefaults.VCPU, CheckVCPU) }},
		{"vm_defaults.memory_mib", func() error { return setInt(&config.VMDefaults.MemoryMiB, f.VMDefaults.MemoryMiB, CheckMemory) }},
		{"vm_defaults.disk_size", func() error { return setDisk(&config.VMDefaults.DiskBytes, f.VMDefaults.DiskSize) }},
		{"network", func() error { return setText(&config.NetworkMode, f.NetworkMode, oneOf("auto", "user", "bridge")) }},
		{"network_access.host", func() error { return setBool(&config.Network.Host, f.Network.Host) }},
		{"network_access.lan", func() error { return setBool(&config.Network.LAN, f.Network.LAN) }},
		{"network_access.guests", func() error { return setBool(&config.Network.Guests, f.Network.Guests) }},
		{"network_access.allow", func() error { return setPrefixes(&config.Network.Allow, f.Network.Allow) }},
		{"host_environment.proxy", func() error { return setInherit(&config.HostEnvironment.Proxy, f.HostEnvironment.Proxy) }},
		{"host_environment.certificates", func() error {
			return setCertificates(&config.HostEnvironment, f.HostEnvironment.Certificates, dirs.Home)
		}},
	} {
		if err := key.set(); err != nil {
			return Config{}, &Error{Path: path, Line: tomlfile.KeyLine(data, key.name), Key: key.name, Reason: err.Error()}
		}
	}
	var err error
	config.FileSync, err = fileSyncs(f.FileSync, data, path, dirs.Home)
	if err != nil {
		return Config{}, err
	}
	return config, nil
}

func setText(to, from *string, check func(string) error) error {
	if from == nil {
		return nil
	}
	*to = *from
	return check(*from)
}

func setPath(to, from *string, home string) error {
	if from == nil {
		return nil
	}
	path := *from
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(home, rest)
	}
	if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\x00") {
		return fmt.Errorf("%q is not an absolute path, nor one that begins with ~/", *from)
	}
	// Not cleaned: "link/.." is not the same directory after it.
	*to = path
	return nil
}

func setInt(to *int, from *int64, check func(int) error) error {
	if from == nil {
		return nil
	}
	if *from < 0 || *from > math.MaxInt32 {
		return fmt.Errorf("%d is out of range", *from)
	}
	*to = int(*from)
	return check(*to)
}

func setDisk(to *int64, from any) error {
	switch value := from.(type) {
	case nil:
		return nil
	case string:
		parsed, err := size.Parse(value)
		if err != nil {
			return err
		}
		*to = parsed
	case int64:
		if value <= 0 || value > math.MaxInt64/size.MiB {
			return fmt.Errorf("%d is out of range", value)
		}
		*to = value * size.MiB
	default:
		return errors.New(`it must be a size such as "8G", or a number of MiB`)
	}
	return CheckDisk(*to)
}

func setURLs(to *[]string, from []string) error {
	for _, text := range from {
		if err := webAddress(text); err != nil {
			return err
		}
	}
	*to = from
	return nil
}

// setKeys takes ed25519 keys as they are in the files of ssh.
func setKeys(to *[]ssh.PublicKey, from []string) error {
	for _, line := range from {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 || key.Type() != ssh.KeyAlgoED25519 && key.Type() != ssh.KeyAlgoSKED25519 {
			return fmt.Errorf("%q is not one public key such as \"ssh-ed25519 AAAA...\"", line)
		}
		*to = append(*to, key)
	}
	return nil
}

func setLevel(to *slog.Level, from *string) error {
	if from == nil {
		return nil
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[*from]
	if !ok {
		return oneOf("debug", "info", "warn", "error")(*from)
	}
	*to = level
	return nil
}

// CheckVMM refuses what is not among [VMMs].
func CheckVMM(name string) error { return oneOf(VMMs()...)(name) }

func oneOf(allowed ...string) func(string) error {
	return func(value string) error {
		if slices.Contains(allowed, value) {
			return nil
		}
		return fmt.Errorf("%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func imageName(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%q is not an image name", name)
	}
	return nil
}

func webAddress(text string) error {
	address, err := url.Parse(text)
	if err != nil || address.Host == "" || (address.Scheme != "http" && address.Scheme != "https") || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%q is not an http or https URL", text)
	}
	return nil
}
