package ssh

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/internal/atomicfile"
)

// Domain is what a VM's name ends with for ssh: NAME.vm.
const Domain = ".vm"

// KnownHost is one VM and the host keys that its sshd has.
type KnownHost struct {
	Name string   // of the VM, without [Domain]
	Keys []string // as in .pub files
}

// WriteKnownHosts makes path hold exactly these hosts. The file is replaced in
// one step, and not touched if that is what it holds already.
func WriteKnownHosts(path string, hosts []KnownHost) error {
	var lines []string
	for _, host := range hosts {
		if strings.ContainsAny(host.Name, " ,*?!#|\t\r\n") || host.Name == "" {
			return fmt.Errorf("cannot write the known hosts: %q is not a name", host.Name)
		}
		for _, key := range host.Keys {
			public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
			if err != nil {
				return fmt.Errorf("cannot write the known hosts: the host key of %q: %w", host.Name, err)
			}
			lines = append(lines, host.Name+Domain+" "+authorizedLine(public)+"\n")
		}
	}
	slices.Sort(lines)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot create the directory of the known hosts: %w", err)
	}
	return atomicfile.WriteIfChanged(path, []byte(strings.Join(lines, "")), 0o600)
}

// ConfigOptions are what the ssh_config file names. All are absolute paths.
type ConfigOptions struct {
	Key        string // private key that opens guests
	KnownHosts string
	Banger     string // this program
}

// WriteConfig makes path an ssh_config file with which `ssh -F path NAME.vm`,
// or ssh with an Include of it, reaches VMs. The file is replaced in one step,
// and not touched if it is the same.
func WriteConfig(path string, options ConfigOptions) error {
	text, err := configText(options)
	if err != nil {
		return fmt.Errorf("cannot write the ssh configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot create the configuration directory: %w", err)
	}
	return atomicfile.WriteIfChanged(path, []byte(text), 0o600)
}

func configText(options ConfigOptions) (string, error) {
	key, err := configQuote(options.Key)
	if err != nil {
		return "", err
	}
	knownHosts, err := configQuote(options.KnownHosts)
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(options.Banger, "\r\n\x00") {
		return "", fmt.Errorf("the path %q has a line break", options.Banger)
	}
	proxy := strings.ReplaceAll(shellQuote(options.Banger), "%", "%%")
	return "# Written by banger. Changes to this file are lost.\n" +
		"Host *" + Domain + "\n" +
		"    User root\n" +
		"    IdentityFile " + key + "\n" +
		"    IdentitiesOnly yes\n" +
		"    PreferredAuthentications publickey\n" +
		"    UserKnownHostsFile " + knownHosts + "\n" +
		"    GlobalKnownHostsFile /dev/null\n" +
		"    StrictHostKeyChecking yes\n" +
		"    UpdateHostKeys no\n" +
		"    CanonicalizeHostname no\n" +
		"    ForwardAgent no\n" +
		"    ControlMaster no\n" +
		"    ControlPath none\n" +
		// A guest that hangs traps nobody for more than a minute.
		"    ServerAliveInterval 15\n" +
		"    ServerAliveCountMax 4\n" +
		"    ProxyCommand " + proxy + " internal ssh-proxy %h\n", nil
}

// configQuote quotes a path for an option in which OpenSSH expands tokens.
func configQuote(path string) (string, error) {
	if strings.ContainsAny(path, "\r\n\x00\"") || strings.Contains(path, "${") || strings.HasSuffix(path, `\`) {
		return "", fmt.Errorf("OpenSSH cannot use the path %q", path)
	}
	path = strings.ReplaceAll(path, "%", "%%")
	return `"` + strings.ReplaceAll(path, `\`, `\\`) + `"`, nil
}

// shellQuote quotes text for a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// Command is the command line that opens ssh to a VM with banger's ssh_config
// file and no other. The options go before the host. The command, as always
// with ssh, is joined with spaces and read by the guest's shell; without one
// there is a login shell.
func Command(config, name string, options, command []string) []string {
	argv := append([]string{"ssh", "-F", config}, options...)
	argv = append(argv, name+Domain)
	if len(command) > 0 {
		argv = append(append(argv, "--"), command...)
	}
	return argv
}
