package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// keychain has docker's credentials, and podman's where docker has none: who has
// both may have logged in with either.
var keychain = authn.NewMultiKeychain(authn.DefaultKeychain, podman{})

// podman finds credentials where podman does: containers-auth.json(5).
type podman struct{}

// Resolve implements [authn.Keychain].
func (podman) Resolve(target authn.Resource) (authn.Authenticator, error) {
	for _, path := range podmanFiles() {
		found, err := credentialsIn(path, target)
		if err != nil {
			return nil, fmt.Errorf("cannot read %q: %w", path, err)
		}
		if found != authn.Anonymous {
			return found, nil
		}
	}
	return authn.Anonymous, nil
}

// podmanFiles are where credentials may be, the first to be looked at first.
func podmanFiles() []string {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []string{path}
	}
	runtime := filepath.Join("/run/containers", strconv.Itoa(os.Getuid()))
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		runtime = filepath.Join(dir, "containers")
	}
	files := []string{filepath.Join(runtime, "auth.json")}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}

// credentialsIn are those that a file has for a repository: the ones for the
// most of its name. The file need not be there, nor where this user may look.
func credentialsIn(path string, target authn.Resource) (authn.Authenticator, error) {
	file, err := os.Open(path)
	if _, hidden := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(hidden, fs.ErrPermission) {
		// Root's podman makes a /run/containers that nobody else may look into.
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	config, err := dockerconfig.LoadFromReader(file)
	if err != nil {
		return nil, err
	}
	for _, key := range podmanKeys(target) {
		// Not GetAuthConfig, which does not tell namespaces of a registry apart.
		found := config.AuthConfigs[key]
		if helper := config.CredentialHelpers[key]; helper != "" {
			if found, err = credentials.NewNativeStore(config, helper).Get(key); err != nil {
				return nil, err
			}
		}
		found.ServerAddress = ""
		if found != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: found.Username, Password: found.Password, Auth: found.Auth,
				IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// shortDefault is the registry that a reference without one means, as podman
// calls it.
var shortDefault = strings.TrimPrefix(name.DefaultRegistry, "index.")

// podmanKeys are what credentials for a repository may be stored under: its
// name, and that of each namespace that it is in, up to the registry.
func podmanKeys(target authn.Resource) []string {
	var keys []string
	key, isDefault := strings.CutPrefix(target.String(), name.DefaultRegistry)
	if isDefault {
		key = shortDefault + key
	}
	for ; key != ""; key = key[:max(0, strings.LastIndexByte(key, '/'))] {
		keys = append(keys, key)
	}
	if isDefault { // by older versions, and by docker
		keys = append(keys, authn.DefaultAuthKey)
	}
	return keys
}
