package launcher

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"banger/internal/confine"
)

// systemFiles are what programs of a distribution, and their libraries, read
// to start: none of it is secret.
var systemFiles = []string{
	"/usr", "/lib", "/lib64", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld-nix.so.preload",
	// Cryptographic libraries, which some refuse to start without.
	"/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/crypto-policies", "/etc/gnutls", "/etc/gcrypt", "/proc/sys/crypto",
	// The host's processors and memory.
	"/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage", "/proc/cpuinfo", "/proc/meminfo",
}

// prefixFiles are the same for a program in PREFIX/bin. Of share only what is
// QEMU's: a prefix may be somebody's home.
var prefixFiles = []string{"lib", "lib64", "share/qemu", "share/qemu-firmware", "share/seabios"}

// harmlessDevices are of no consequence.
var harmlessDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// Rights on what is not a directory.
const (
	readFile  = landlock.AccessFSSet(ll.AccessFSReadFile)
	writeFile = readFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
	device    = writeFile | ll.AccessFSIoctlDev
)

// restrictFiles confines file access to the plan, where this kernel can.
func restrictFiles(p Plan, started program) (confine.Layer, error) {
	layer := confine.Layer{Name: "files"}
	abi, err := confine.LandlockABI()
	if err != nil {
		layer.Detail = err.Error()
		return layer, nil
	}
	var rules []landlock.Rule
	add := func(rights landlock.AccessFSSet, paths ...string) {
		for _, path := range paths {
			rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
		}
	}
	add(readFile|ll.AccessFSExecute, started.executed...)
	if started.shared {
		for _, path := range systemFiles {
			add(readRights(path), path)
		}
		for _, name := range prefixFiles {
			path := filepath.Join(filepath.Dir(filepath.Dir(p.Path)), name)
			add(readRights(path), path)
		}
	}
	add(readFile, p.Grant.ReadOnly...)
	add(writeFile, p.Grant.ReadWrite...)
	add(device, p.Grant.Devices...)
	add(device, harmlessDevices...)
	add(ll.AccessFSMakeSock|ll.AccessFSRemoveFile, p.Grant.RunDir)
	if err := confine.Thread.RestrictFiles(rules...); err != nil {
		return layer, err
	}
	layer.On, layer.Detail = true, fmt.Sprintf("this VM's alone (Landlock %d)", abi)
	return layer, nil
}

// readRights are for reading a file, or all below a directory.
func readRights(path string) landlock.AccessFSSet {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return readFile | ll.AccessFSReadDir
	}
	return readFile
}

// program is how an executable starts.
type program struct {
	// executed are the files that the kernel runs: its own, its loader's.
	executed []string
	// shared says that libraries of the system are loaded.
	shared bool
	// script says that it is a script, which starts others.
	script bool
}

// inspect looks at an executable, which may be a script around one.
func inspect(path string) (program, error) {
	file, err := os.Open(path)
	if err != nil {
		return program{}, fmt.Errorf("cannot look at it: %w", err)
	}
	defer file.Close()
	binary, err := elf.NewFile(file)
	if err != nil {
		return inspectScript(path, file)
	}
	found := program{executed: []string{path}}
	for _, part := range binary.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		const longestPath = 4096
		loader, err := io.ReadAll(io.LimitReader(part.Open(), longestPath))
		if err != nil {
			return program{}, fmt.Errorf("cannot look at it: %w", err)
		}
		found.executed = append(found.executed, strings.TrimRight(string(loader), "\x00"))
		found.shared = true
	}
	return found, nil
}

// inspectScript allows a script what it may run in place of itself: programs
// of the system. What those may do is as confined.
func inspectScript(path string, file *os.File) (program, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return program{}, fmt.Errorf("cannot look at it: %w", err)
	}
	magic, err := bufio.NewReader(file).Peek(2)
	if err != nil || string(magic) != "#!" {
		return program{}, errors.Join(errors.New("it is neither a program for this machine nor a script"), err)
	}
	return program{executed: []string{path, "/usr", "/bin", "/lib", "/lib64", "/nix/store", "/gnu/store"}, shared: true, script: true}, nil
}
