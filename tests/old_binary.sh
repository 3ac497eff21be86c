#!/usr/bin/env bash
# Builds the program of an earlier commit, with its daemon and its bdev module, into target/old/COMMIT, for tests in
# which programs of two ages meet. Does nothing if it is there.
#
#     tests/old_binary.sh [COMMIT]
#
# It takes the sources from git's history, and the crates from where cargo has put them for this workspace; without a
# network, those must be there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The last commit before version 2 of the format of pools on files.
commit=${1:-a63cb55}
target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
place=$target/old/$commit

fail() {
    echo "cannot build the program of $commit: $1" >&2
    exit 1
}

if [ -x "$place/chimaera" ]; then
    echo "$place/chimaera is there"
    exit 0
fi
git rev-parse --git-dir >/dev/null 2>&1 || fail "$PWD has no git history: clone the repository"
git cat-file -e "$commit^{commit}" 2>/dev/null ||
    fail "git's history here does not have it: run 'git fetch --unshallow' if this is a shallow clone"

work=$target/old/$commit.building
rm -rf "$work"
mkdir -p "$work/source"
trap 'rm -rf "$work"' EXIT
git archive "$commit" | tar --extract --directory "$work/source"
cd "$work/source"

# Fetching asks the network only for what is missing.
cargo fetch --quiet --locked --offline 2>/dev/null || cargo fetch --quiet --locked ||
    fail "crates of its Cargo.lock are not here, and could not be fetched: run this once with a network"
# What is built is used by tests only: the faster it is built, the better.
CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$work/target \
    cargo build --quiet --locked --offline --package chimaera-cli --package chimaera-bdev-runtime ||
    fail "see above"

mkdir "$work/program"
cp "$work/target/debug/chimaera" "$work/target/debug/libchimaera_bdev_runtime.so" "$work/program"
rm -rf "$place"
mv "$work/program" "$place"
echo "$place/chimaera is built"
