package launcher

import (
	"encoding/json"
	"path/filepath"
	"testing"
)

func FuzzParsePlan(f *testing.F) {
	good, err := json.Marshal(Plan{Path: "/bin/true", Grant: Grant{RunDir: "/run", FileBytes: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"path":"/a","grant":{"run_dir":"/","file_bytes":1,"read_only":["x"]}}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePlan(text)
		if err == nil && (!filepath.IsAbs(p.Path) || p.Files < 0) {
			t.Errorf("%q became %+v", text, p)
		}
	})
}
