package image

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"banger/images"
)

const goodDefinition = `
description = "a test"
kernel = "debian-6.12"
init = "/sbin/init"
image_space = "1M"
build_space = "2M"
suite = "bookworm"
variant = "custom"
components = ["main"]
packages = ["base-files"]
key_packages = ["base-files"]
scripts = ["do.sh"]

[[file]]
path = "/etc/one"
source = "files/one"
mode = "4755"

[[npm]]
name = "tool"
package = "@some/tool"
version = "1.2.3"
integrity = "sha512-ButPFGyztN0Rk/HOHvHuf+W80CkvQRAjbDWHvhGJc3PnL3e2KhCYZIOyjx8wPkhr9VJa/7sJZXpxtt5JLjsfaQ=="
member = "package/bin/tool"
path = "/usr/local/bin/tool"
mode = "0755"
`

func definitionDir(text string) fstest.MapFS {
	return fstest.MapFS{
		"test/" + definitionFile: {Data: []byte(text)},
		"test/do.sh":             {Data: []byte("true\n")},
		"test/files/one":         {Data: []byte("1\n")},
	}
}

func TestDefinitionErrors(t *testing.T) {
	t.Parallel()
	if _, err := readDefinition(definitionDir(goodDefinition), "test"); err != nil {
		t.Fatalf("the definition that the cases are made of: %v", err)
	}
	for _, test := range []struct {
		name, old, with, want string
	}{
		{"unknown key", `init = `, "inid = ", `line 4: unknown key "inid"`},
		{"unknown key in a table", `member = `, "mumble = ", `unknown key "npm.mumble"`},
		{"wrong type", `suite = "bookworm"`, "suite = 12", "line 7"},
		{"no TOML", `suite = "bookworm"`, "suite", "line 7"},
		{"no suite", `suite = "bookworm"`, "", "suite: is missing"},
		{"suite that is an option", `"bookworm"`, `"--help"`, `suite: "--help" is not allowed`},
		{"package that is an option", `packages = ["base-files"]`, `packages = ["-x"]`, `packages: "-x" is not allowed`},
		{"two packages in one", `packages = ["base-files"]`, `packages = ["a,b"]`, `"a,b" is not allowed`},
		{"less than nothing", `scripts = `, "without = [\"x\"]\nscripts = ", "extends nothing"},
		{"no packages", `packages = ["base-files"]`, `packages = []`, "packages: is missing"},
		{"relative init", `"/sbin/init"`, `"sbin/init"`, "init: "},
		{"bad size", `"1M"`, `"much"`, "image_space: "},
		{"relative path", `"/etc/one"`, `"etc/one"`, "clean absolute path"},
		{"path that leaves", `"/etc/one"`, `"/etc/../../one"`, "clean absolute path"},
		{"bad mode", `"4755"`, `"rwx"`, "no octal file mode"},
		{"mode of more than permissions", `"4755"`, `"100644"`, "no octal file mode"},
		{"missing source", `"files/one"`, `"files/two"`, "files/two"},
		{"source outside", `"files/one"`, `"../one"`, "../one"},
		{"missing script", `"do.sh"`, `"done.sh"`, "done.sh"},
		{"version range", `"1.2.3"`, `"^1.2.3"`, "no exact version"},
		{"package that is a path", `"@some/tool"`, `"../tool"`, "is no package"},
		{"weak integrity", `"sha512-`, `"sha1-`, "no sha512 integrity"},
		{"member outside", `"package/bin/tool"`, `"/package"`, "no member of an archive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(goodDefinition, test.old, test.with, 1)
			if text == goodDefinition {
				t.Fatalf("%q is not in the definition", test.old)
			}
			_, err := readDefinition(definitionDir(text), "test")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `"test"`) {
				t.Errorf("got error %v, want one with %q and the image's name", err, test.want)
			}
		})
	}
}

func FuzzDefinition(f *testing.F) {
	f.Add([]byte(goodDefinition))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDefinition(data)
		if err != nil || d.check() != nil {
			return
		}
		for _, word := range append(d.Packages, d.Suite, d.Variant) {
			if word == "" || word[0] == '-' || strings.ContainsAny(word, ", \n") {
				t.Errorf("%q got through", word)
			}
		}
		for _, file := range d.Files {
			if err := checkPath(file.Path); err != nil {
				t.Error(err)
			}
		}
	})
}

// The digest has to change with any file, since it tells apart what images
// were built from.
func TestDefinitionDigest(t *testing.T) {
	t.Parallel()
	digest := func(change func(fstest.MapFS)) string {
		dir := definitionDir(goodDefinition)
		change(dir)
		d, err := readDefinition(dir, "test")
		if err != nil {
			t.Fatal(err)
		}
		return d.digest
	}
	plain := digest(func(fstest.MapFS) {})
	if again := digest(func(fstest.MapFS) {}); again != plain {
		t.Errorf("the same definition has two digests: %s and %s", plain, again)
	}
	changed := digest(func(dir fstest.MapFS) { dir["test/files/one"].Data = []byte("2\n") })
	moved := digest(func(dir fstest.MapFS) { dir["test/files/more"] = &fstest.MapFile{} })
	if changed == plain || moved == plain || changed == moved {
		t.Errorf("other files, the same digest: %s, %s, %s", plain, changed, moved)
	}
}

func TestExtends(t *testing.T) {
	t.Parallel()
	read := func(variant string) (*Definition, error) {
		dir := definitionDir(goodDefinition)
		dir["variant/"+definitionFile] = &fstest.MapFile{Data: []byte(variant)}
		dir["variant/more.sh"] = &fstest.MapFile{Data: []byte("false\n")}
		dir["third/"+definitionFile] = &fstest.MapFile{Data: []byte(`extends = "test"`)}
		return readDefinition(dir, "variant")
	}
	got, err := read(`
extends = "test"
suite = "trixie"
packages = ["more"]
without = ["base-files", "/etc/one"]
scripts = ["more.sh"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readDefinition(definitionDir(goodDefinition), "test")
	if err != nil {
		t.Fatal(err)
	}
	if got.digest == want.digest {
		t.Error("two definitions, one digest")
	}
	want.Extends, want.Suite, want.Packages, want.Files = "test", "trixie", []string{"more"}, []File{}
	want.Without, want.Scripts = []string{"base-files", "/etc/one"}, []string{"do.sh", "more.sh"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Definition{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		`extends = "none"`:                               "none",
		`extends = "../test"`:                            "../test",
		`extends = "third"`:                              "extends another",
		"extends = \"test\"\nwithout = [\"missing\"]":    `no package or file "missing"`,
		"extends = \"test\"\nwithout = [\"base-files\"]": "packages: is missing",
		"extends = \"test\"\nsuite = \"-x\"":             `suite: "-x" is not allowed`,
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"variant"`) {
			t.Errorf("%s: got error %v, want one with %q", text, err, want)
		}
	}
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	definitions, err := readCatalog(images.FS)
	if err != nil {
		t.Fatal(err)
	}
	d := definitions["debian-trixie"]
	if d == nil || d.Suite != "trixie" || d.Init == "" {
		t.Fatalf("debian-trixie: %+v", d)
	}
	if d = definitions["debian-bookworm"]; d == nil {
		t.Fatal("the catalog has no debian-bookworm")
	}
	// What users are promised of sshd.
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := d.writeFiles(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sshd := member(t, &buf, "./etc/ssh/sshd_config.d/10-banger.conf")
	var got []string
	for line := range strings.Lines(sshd) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			got = append(got, line)
		}
	}
	want := []string{
		"PermitRootLogin prohibit-password",
		"PubkeyAuthentication yes",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"AuthorizedKeysFile /root/.ssh/authorized_keys",
		"StrictModes yes",
		"UseDNS no",
		"PrintMotd no",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sshd's settings (-want +got):\n%s", diff)
	}
}

func member(t *testing.T, archive io.Reader, name string) string {
	t.Helper()
	tr := tar.NewReader(archive)
	for {
		header, err := tr.Next()
		if err != nil {
			t.Fatalf("%s is not in the archive: %v", name, err)
		}
		if header.Name != name {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}
