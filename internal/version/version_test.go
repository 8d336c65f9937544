package version

import "testing"

func TestBuildIsNeverEmpty(t *testing.T) {
	t.Parallel()
	if Build() == "" || Version == "" {
		t.Errorf("Version = %q, Build() = %q: neither may be empty", Version, Build())
	}
}
