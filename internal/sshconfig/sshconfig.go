// Package sshconfig puts one Include into the user's ~/.ssh/config, and takes
// it out again leaving every other byte as it was.
package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"banger/internal/atomicfile"
)

// The fence around what is banger's. The Include stands at the top of the
// file: further down it would belong to the Host block before it.
const (
	begin = "# >>> banger >>> (kept by banger ssh-config)\n"
	// beginNew is the fence in a file that banger itself made.
	beginNew = "# >>> banger >>> (kept by banger ssh-config, which made this file)\n"
	end      = "# <<< banger <<<\n"
)

// maxFile bounds what is read.
const maxFile = 16 << 20

// Line is the line that a user can put at the top of ~/.ssh/config by hand.
func Line(include string) (string, error) {
	if strings.ContainsAny(include, "\r\n\x00\"*?[") || strings.Contains(include, "${") {
		return "", fmt.Errorf("OpenSSH cannot include the path %q", include)
	}
	return `Include "` + strings.ReplaceAll(include, `\`, `\\`) + `"`, nil
}

// Installed says whether the file has banger's Include of this path.
func Installed(config, include string) (bool, error) {
	line, err := Line(include)
	if err != nil {
		return false, err
	}
	file, err := read(config)
	if err != nil {
		return false, err
	}
	return file.block == begin+line+"\n"+end || file.block == beginNew+line+"\n"+end, nil
}

// Install makes the file include the path; changed is false if it did already.
// The file is made if there is none. A file that is a link stays one, modes
// are kept, and the file is replaced in one step.
func Install(config, include string) (changed bool, err error) {
	line, err := Line(include)
	if err != nil {
		return false, err
	}
	file, err := read(config)
	if err != nil {
		return false, err
	}
	first := begin
	if !file.exists || strings.HasPrefix(file.block, beginNew) {
		first = beginNew
	}
	block := first + line + "\n" + end
	if file.block == block {
		return false, nil
	}
	return true, file.replace(file.before + block + file.after)
}

// Uninstall takes the Include out again; changed is false if there was none. A
// file that banger made, and that has nothing else in it, is removed.
func Uninstall(config string) (changed bool, err error) {
	file, err := read(config)
	if err != nil || file.block == "" {
		return false, err
	}
	rest := file.before + file.after
	if rest == "" && strings.HasPrefix(file.block, beginNew) {
		if err := os.Remove(file.path); err != nil {
			return false, fmt.Errorf("cannot remove the file: %w", err)
		}
		return true, nil
	}
	return true, file.replace(rest)
}

// userFile is a file in three parts; block is empty if banger is not in it.
type userFile struct {
	path                 string // with links followed
	exists               bool
	mode                 fs.FileMode
	uid, gid             int
	before, block, after string
}

func read(config string) (userFile, error) {
	path, err := filepath.EvalSymlinks(config)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(config); err == nil {
			return userFile{}, fmt.Errorf("cannot use %q: it is a link to a file that does not exist", config)
		}
		return userFile{path: config, mode: 0o600, uid: -1, gid: -1}, nil
	}
	if err != nil {
		return userFile{}, fmt.Errorf("cannot use %q: %w", config, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return userFile{}, fmt.Errorf("cannot read the file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return userFile{}, fmt.Errorf("cannot use %q: it is not a text file", config)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return userFile{}, fmt.Errorf("cannot read the file: %w", err)
	}
	file := userFile{path: path, exists: true, mode: info.Mode(), uid: -1, gid: -1}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		file.uid, file.gid = int(stat.Uid), int(stat.Gid)
	}
	file.before, file.block, file.after, err = split(data)
	if err != nil {
		return userFile{}, fmt.Errorf("cannot use %q: %w", config, err)
	}
	return file, nil
}

// split finds the fence. A fence that somebody edited is not guessed at.
func split(data []byte) (before, block, after string, err error) {
	text := string(data)
	opened := bytes.Count(data, []byte("# >>> banger >>>"))
	closed := bytes.Count(data, []byte("# <<< banger <<<"))
	if opened == 0 && closed == 0 {
		return "", "", text, nil
	}
	edited := errors.New("the lines between \"# >>> banger >>>\" and \"# <<< banger <<<\" were edited; remove them by hand")
	if opened != 1 || closed != 1 {
		return "", "", "", edited
	}
	for _, first := range []string{begin, beginNew} {
		start := strings.Index(text, first)
		if start < 0 || (start > 0 && text[start-1] != '\n') {
			continue
		}
		line, rest, ok := strings.Cut(text[start+len(first):], "\n")
		if !ok || !strings.HasPrefix(line, "Include ") || !strings.HasPrefix(rest, end) {
			return "", "", "", edited
		}
		after = rest[len(end):]
		return text[:start], text[start : len(text)-len(after)], after, nil
	}
	return "", "", "", edited
}

func (f userFile) replace(text string) (err error) {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot create the directory: %w", err)
	}
	if f.uid >= 0 && f.uid != os.Geteuid() {
		return f.replaceOthers(text)
	}
	return atomicfile.Write(f.path, []byte(text), f.mode)
}

// replaceOthers replaces a file that belongs to another user, as it can be for
// root, who then gives the new file to that user too.
func (f userFile) replaceOthers(text string) (err error) {
	temporary, err := atomicfile.WriteTemp(filepath.Dir(f.path), filepath.Base(f.path), []byte(text), f.mode)
	if err != nil {
		return err
	}
	err = os.Chown(temporary, f.uid, f.gid)
	if err == nil {
		err = os.Rename(temporary, f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot replace %q, which belongs to uid %d: %w", f.path, f.uid, err), os.Remove(temporary))
	}
	return nil
}
