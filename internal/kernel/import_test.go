package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/api"
	"banger/internal/progress"
)

func TestImportOfWhatIsNoPackage(t *testing.T) {
	t.Parallel()
	if checkTools() != nil {
		t.Skip("SKIPPED: no tools for Debian packages")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "linux_1_amd64.deb")
	if err := os.WriteFile(path, []byte("no package"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Dir: filepath.Join(dir, "store"), CacheDir: dir})
	_, err := s.Import(t.Context(), api.Import{Path: path}, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), "dpkg-deb: error") {
		t.Errorf("error %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "store", "*", "linux*@*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	_, err = s.Import(t.Context(), api.Import{Path: path, Name: "../x"}, progress.Discard)
	wantKind(t, "a bad name", err, api.KindUsage, "")
}
