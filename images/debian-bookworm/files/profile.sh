# What mise installs is found through its shims, which cost a shell's start nothing.
PATH="$HOME/.local/bin:$HOME/.local/share/mise/shims:$PATH"
export PATH
: "${LANG:=C.UTF-8}"
export LANG
