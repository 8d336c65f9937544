package configure

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/agent/wire"
	"banger/internal/leftout"
)

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, dir, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
	}
}

func hasNot(t *testing.T, dir, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", name, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	root, dir := newRoot(t)
	for _, name := range []string{"etc/systemd", "etc/profile.d"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "etc/environment", "PATH=/bin\n")
	set := func(want bool, variables map[string]string) {
		t.Helper()
		if changed, err := environment(root, variables); err != nil || changed != want {
			t.Errorf("changed: %v, %v, want %v", changed, err, want)
		}
	}
	set(false, nil)
	has(t, dir, "etc/environment", "PATH=/bin\n")
	hasNot(t, dir, servicesFile)

	variables := map[string]string{"http_proxy": `http://a:b%2F"'\@h:1`, "x": "y z"}
	set(true, variables)
	set(false, variables)
	has(t, dir, servicesFile, written+"[Manager]\nDefaultEnvironment=\"http_proxy=http://a:b%%2F\\\"'\\\\@h:1\" \"x=y z\"\n")
	has(t, dir, profileFile, written+"export http_proxy='http://a:b%2F\"'\\''\\@h:1'\nexport x='y z'\n")
	// Where PAM reads /etc/environment shells need nothing else.
	put(t, dir, "etc/pam.d/sshd", "")
	set(false, variables)
	hasNot(t, dir, profileFile)

	set(true, nil)
	set(false, nil)
	has(t, dir, "etc/environment", "PATH=/bin\n"+begin+"\n"+end+"\n")
	hasNot(t, dir, servicesFile)
}

// What is for one VM alone is in no image of it.
func TestInheritedIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, name := range []string{servicesFile, profileFile, hostBundle} {
		if !leftout.File(name[1:]) {
			t.Errorf("%s would be in images", name)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	one := wire.Certificate{ID: "11", SubjectHash: "aaaaaaaa", PEM: "ONE\n"}
	two := wire.Certificate{ID: "22", SubjectHash: "aaaaaaaa", PEM: "TWO"}
	root, dir := newRoot(t)
	put(t, dir, "etc/ssl/certs/ca-certificates.crt", "IMAGE\n")
	put(t, dir, "etc/ssl/certs/aaaaaaaa.0", "the image's")
	set := func(certs ...wire.Certificate) map[string]string {
		t.Helper()
		variables, err := certificates(root, wire.Configuration{Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		return variables
	}
	const (
		bundle  = "etc/ssl/certs/ca-certificates.crt"
		anchors = "usr/local/share/ca-certificates/banger-host-"
	)
	if got := set(); len(got) != 0 {
		t.Errorf("variables for nothing: %v", got)
	}
	hasNot(t, dir, "usr/local")

	for range 2 {
		if got := set(one, two); got["SSL_CERT_FILE"] != "/"+bundle || got["NODE_EXTRA_CA_CERTS"] != hostBundle {
			t.Errorf("variables: %v", got)
		}
		has(t, dir, bundle, "IMAGE\nONE\nTWO\n")
		has(t, dir, hostBundle, written+"ONE\nTWO\n")
		has(t, dir, anchors+"11.crt", "ONE\n")
		for link, want := range map[string]string{"aaaaaaaa.1": "banger-host-11.pem", "aaaaaaaa.2": "banger-host-22.pem", "banger-host-22.pem": "/" + anchors + "22.crt"} {
			if got, err := os.Readlink(filepath.Join(dir, "etc/ssl/certs", link)); err != nil || got != want {
				t.Errorf("%s leads to %q, %v", link, got, err)
			}
		}
	}
	// The guest's own tool has made the bundle anew.
	put(t, dir, bundle, "ONE\nIMAGE 2\nTWO\n")
	set(two)
	has(t, dir, bundle, "IMAGE 2\nTWO\n")
	hasNot(t, dir, anchors+"11.crt")
	hasNot(t, dir, "etc/ssl/certs/banger-host-11.pem")
	hasNot(t, dir, "etc/ssl/certs/aaaaaaaa.2")
	has(t, dir, "etc/ssl/certs/aaaaaaaa.0", "the image's")

	set()
	has(t, dir, bundle, "IMAGE 2\n")
	hasNot(t, dir, anchors+"22.crt")
	hasNot(t, dir, "etc/ssl/certs/aaaaaaaa.1")
	hasNot(t, dir, hostBundle)
}

func TestCertificatesElsewhere(t *testing.T) {
	t.Parallel()
	cert := wire.Certificate{ID: "11", SubjectHash: "aaaaaaaa", PEM: "ONE"}
	root, dir := newRoot(t)
	put(t, dir, "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "IMAGE\n")
	if err := os.MkdirAll(filepath.Join(dir, "etc/ssl/certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt")); err != nil {
		t.Fatal(err)
	}
	got, err := certificates(root, wire.Configuration{Certificates: []wire.Certificate{cert}})
	if err != nil || got["PIP_CERT"] != "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem" {
		t.Errorf("got %v, %v", got, err)
	}
	has(t, dir, "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "IMAGE\nONE\n")
	has(t, dir, "etc/pki/ca-trust/source/anchors/banger-host-11.crt", "ONE\n")

	root, dir = newRoot(t) // an image without any
	got, err = certificates(root, wire.Configuration{Certificates: []wire.Certificate{cert}})
	if err != nil || len(got) != 1 || got["NODE_EXTRA_CA_CERTS"] != hostBundle {
		t.Errorf("got %v, %v", got, err)
	}
	has(t, dir, hostBundle, written+"ONE\n")
}
