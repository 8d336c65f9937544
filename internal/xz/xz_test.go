package xz

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"banger/internal/xz/xztest"
)

func TestReader(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("kernel "), 100_000)
	packed := xztest.Pack(t, want)
	trailed := append(slices.Clone(packed), "what comes behind it"...)
	for name, test := range map[string]struct {
		packed  []byte
		options []string
		want    []byte
		fails   string
	}{
		"one stream":        {packed: packed, want: want},
		"two streams":       {packed: slices.Concat(packed, packed), want: slices.Concat(want, want)},
		"-9":                {packed: xztest.Pack(t, want, "-9"), want: want},
		"what comes behind": {packed: trailed, options: []string{"--single-stream"}, want: want},
		"not taken":         {packed: trailed, fails: "Compressed data is corrupt"},
		"cut off":           {packed: packed[:len(packed)/2], fails: "Unexpected end of input"},
		"greedy":            {packed: xztest.Greedy(t, want), fails: "Memory usage limit reached"},
		"another format":    {packed: xztest.Pack(t, want, "--format=lzma"), fails: "format not recognized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := NewReader(t.Context(), bytes.NewReader(test.packed), test.options...)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error %v, want one with %q", err, test.fails)
				}
			} else if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
