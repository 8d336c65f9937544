package launcher

import "banger/internal/confine"

// LayerAlone confines this process by one layer, as if it was to become a
// program that uses the system's libraries.
func LayerAlone(name, path string, grant Grant) error {
	p := Plan{Path: path, Grant: grant}
	switch name {
	case "files":
		_, err := restrictFiles(p, program{})
		return err
	case CallsLayer:
		if err := confine.Thread.NoNewPrivileges(); err != nil {
			return err
		}
		_, err := restrictSyscalls(p, program{shared: true})
		return err
	case "limits":
		return limit(p.Grant)
	case "privileges":
		_, err := dropPrivileges(p.Grant)
		return err
	case "descriptors":
		return closeOthers(FirstFile)
	}
	return nil
}
