package agent

import (
	"bufio"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000000000000000 20 4 30 10 -1
   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1236 1 0 100
   3: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1237 1 0 100
`

func TestParseTCP(t *testing.T) {
	t.Parallel()
	sockets, err := parseTCP(bufio.NewScanner(strings.NewReader(tcpTable)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sockets {
		got = append(got, s.address.String()+" "+s.inode)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:8080 1234", "[::]:22 1236", "127.0.0.1:80 1237"}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add(tcpTable)
	f.Add("a b c 0A e f g h i j")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = parseTCP(bufio.NewScanner(strings.NewReader(text)))
	})
}

func TestSessionOf(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]int{
		"12 (sh) S 1 12 34 0 -1":             34,
		"12 (a) b (c) S 9 9) S 1 12 56 0 -1": 56,
		"12 (sh) S":                          -1,
		"":                                   -1,
	} {
		if got := sessionOf(stat); got != want {
			t.Errorf("%q: got %d, want %d", stat, got, want)
		}
	}
}

func TestParseCPU(t *testing.T) {
	t.Parallel()
	seconds, cpus := parseCPU("cpu  100 200 300 4000 5000 600 700 800 100 200\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nctxt 5\n")
	if seconds != 27 || cpus != 2 {
		t.Errorf("got %v s on %d CPUs", seconds, cpus)
	}
}

func TestParseMemory(t *testing.T) {
	t.Parallel()
	got := parseMemory("MemTotal:  1024 kB\nHugePages_Total:       0\nMemAvailable: 512 kB\nnonsense\n")
	if diff := cmp.Diff(map[string]uint64{"MemTotal": 1 << 20, "MemAvailable": 1 << 19}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseEnvironment(t *testing.T) {
	t.Parallel()
	got := parseEnvironment("# comment\nA=1\nexport B='x y'\n C=\"q\" \nD=a=b\nbroken\n=x\nE F=1\nG=\n")
	want := map[string]string{"A": "1", "B": "x y", "C": "q", "D": "a=b", "G": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseEnvironment(f *testing.F) {
	f.Add("A='1'\nexport B=\"2\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, kv := range pairs(parseEnvironment(text)) {
			if strings.ContainsRune(kv, 0) {
				t.Errorf("NUL in %q", kv)
			}
		}
	})
}
