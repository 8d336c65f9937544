package size_test

import (
	"strings"
	"testing"

	"banger/internal/size"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"512M": 512 << 20, "4G": 4 << 30, "4GiB": 4 << 30, "4gb": 4 << 30, "4g": 4 << 30,
		"64": 64 << 20, "1T": 1 << 40, "2k": 2 << 10, "007M": 7 << 20, "8388607T": 8388607 << 40,
	} {
		got, err := size.Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                     "whole number",
		"G":                    "whole number",
		"-1G":                  "whole number",
		"+1G":                  "whole number",
		" 1G":                  "whole number",
		"1.5G":                 "unit",
		"1 G":                  "unit",
		"4X":                   "unit",
		"4GiBB":                "unit",
		"4G\n":                 "unit",
		"0":                    "zero",
		"0G":                   "zero",
		"8388608T":             "too large",
		"99999999999999999999": "too large",
		"9223372036854775807":  "too large",
	} {
		got, err := size.Parse(text)
		if err == nil {
			t.Errorf("Parse(%q) = %d, want an error", text, got)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Parse(%q): error %q, want one line with %q", text, err, want)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		8 << 30: "8G", 1536 << 20: "1536M", 1 << 40: "1T", 1<<30 + 1<<10: "1048577K", 1: "1K", 0: "0K",
	} {
		if got := size.Format(bytes); got != want {
			t.Errorf("Format(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestHuman(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 73 << 10: "73 KiB", 1288490189: "1.2 GiB", 10 << 30: "10 GiB",
	} {
		if got := size.Human(bytes); got != want {
			t.Errorf("Human(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"512M", "4GiB", "64", "-1", "", "9223372036854775807T", "1٣G"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bytes, err := size.Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("Parse(%q): the error has more than one line", text)
			}
			return
		}
		if bytes <= 0 {
			t.Fatalf("Parse(%q) = %d", text, bytes)
		}
		again, err := size.Parse(size.Format(bytes))
		if err != nil || again != bytes {
			t.Errorf("Parse(Format(%d)) = %d, %v", bytes, again, err)
		}
	})
}
