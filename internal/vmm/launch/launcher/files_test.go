package launcher

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestLoaderOf asks the library that knows all of ELF as well.
func TestLoaderOf(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{self, sleep} {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		known, err := elf.NewFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		for _, segment := range known.Progs {
			if segment.Type == elf.PT_INTERP {
				name, err := io.ReadAll(segment.Open())
				if err != nil {
					t.Fatal(err)
				}
				want = strings.TrimRight(string(name), "\x00")
			}
		}
		if got, err := loaderOf(file); err != nil || got != want {
			t.Errorf("%s is loaded by %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := loaderOf(strings.NewReader("#!/bin/sh\n")); !errors.Is(err, errNotELF) {
		t.Errorf("a script: %v", err)
	}
}

func FuzzLoaderOf(f *testing.F) {
	header := append([]byte("\x7fELF\x02\x01"), make([]byte, 58+56)...)
	header[32], header[54], header[56], header[64], header[64+32] = 64, 56, 1, 3, 6
	f.Add(header)
	f.Fuzz(func(t *testing.T, program []byte) {
		if loader, err := loaderOf(bytes.NewReader(program)); err != nil && loader != "" {
			t.Errorf("%q and %v", loader, err)
		}
	})
}
