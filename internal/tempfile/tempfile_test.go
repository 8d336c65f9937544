package tempfile

import (
	"io"
	"os"
	"testing"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(string) (*os.File, error){"unnamed": Open, "nameless": nameless} {
		dir := t.TempDir()
		file, err := open(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer file.Close()
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: the directory has %v, %v", name, left, err)
		}
		if _, err := file.WriteString("text"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := io.ReadAll(io.NewSectionReader(file, 0, 4)); err != nil || string(text) != "text" {
			t.Errorf("%s: read %q, %v", name, text, err)
		}
	}
}
