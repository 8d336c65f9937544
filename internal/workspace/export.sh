# Compare the directory $1 with the tree $2 (object format $3) and print the
# report $4. git works in a directory of its own that borrows the repository's
# objects: nothing of the repository is written, and none of its configuration,
# hooks or filters is used.
set -eu
dir=$1 base=$2 format=$3 report=$4
command -v git >/dev/null || exit 91
[ -d "$dir/.git/objects" ] || exit 92
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null LC_ALL=C
git init -q --bare --object-format="$format" "$scratch"
export GIT_DIR="$scratch" GIT_WORK_TREE="$dir"
cd "$dir"
echo "$dir/.git/objects" >"$scratch/objects/info/alternates"
mkdir -p "$scratch/info"
echo '* -text -filter -ident -working-tree-encoding' >"$scratch/info/attributes"
[ ! -f "$dir/.git/info/exclude" ] || cp "$dir/.git/info/exclude" "$scratch/info/exclude"
git config core.bare false
git read-tree "$base" 2>/dev/null || exit 93
# Files that were shipped although they are ignored stay part of it.
git -c advice.addEmbeddedRepo=false add -A .
now=$(git write-tree)
case $report in
patch) git diff-tree -r -p --binary --full-index --no-renames --no-ext-diff --no-textconv --no-color "$base" "$now" ;;
name-status) git -c core.quotePath=true diff-tree -r --name-status --no-renames "$base" "$now" ;;
esac
