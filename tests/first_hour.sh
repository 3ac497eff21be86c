#!/usr/bin/env bash
# Runs what a newcomer would: every command that README.md and docs/ print, as printed and in that order, in a
# fresh copy of the sources in which nothing was built. First as a user without rights and without
# XDG_RUNTIME_DIR, who builds all of it, then as root. Then the commands that the program itself prints.
#
# It has mounts and processes of its own, so that it disturbs nothing of the machine's and leaves nothing
# behind. What is not run is said, with the reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1-}" != inside ]; then
    if [ "$(id -u)" != 0 ] || ! unshare --mount --pid --fork --mount-proc true 2>/dev/null; then
        echo "skipped the first hour: it takes root and namespaces to run commands as other users"
        exit 0
    fi
    mkdir -p target
    place=$(mktemp -d "$PWD/target/first-hour.XXXXXX")
    trap 'rm -rf --one-file-system "$place"' EXIT
    unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" inside "$place"
    exit
fi

place=$2
# Not 65534, which stands for whoever has no user id, and owns nothing.
nobody=65533
failures=0

# A machine of its own: an empty /run, and a /tmp and a /var/tmp that lie on the disk.
mkdir -m 1777 "$place/tmp" "$place/var"
clone=/tmp/chimaera
mkdir -m 0755 "$place/tmp/chimaera" "$place/tmp/toolchain"
mkdir -m 0700 "$place/tmp/home"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | xargs -0 cp --parents -t "$place/tmp/chimaera"
chown -R $nobody:$nobody "$place/tmp/chimaera" "$place/tmp/home"
# Who has the toolchain in a home folder lends it.
path=/usr/local/bin:/usr/bin:/bin
toolchain=()
for folder in "${RUSTUP_HOME:-$HOME/.rustup}" "${CARGO_HOME:-$HOME/.cargo}"; do
    case $folder in "${RUSTUP_HOME:-$HOME/.rustup}") name=rustup ;; *) name=cargo ;; esac
    if [ -d "$folder" ]; then
        mkdir "$place/tmp/toolchain/$name"
        mount --bind "$folder" "$place/tmp/toolchain/$name"
        mount -o remount,bind,ro "$place/tmp/toolchain/$name"
        toolchain+=("${name^^}_HOME=/tmp/toolchain/$name")
        path=/tmp/toolchain/$name/bin:$path
    fi
done
mount -t tmpfs -o mode=0755 none /run
mount --bind "$place/var" /var/tmp
mount --rbind "$place/tmp" /tmp

# Where commands run.
folder_of_commands=$clone

# Runs a command as a user who has just logged in.
as() {
    local user=$1 home=/tmp/home
    shift
    [ "$user" != 0 ] || home=/root
    setpriv --reuid "$user" --regid "$user" --clear-groups env -i --chdir="$folder_of_commands" \
        HOME=$home PATH="$path" CARGO_NET_OFFLINE=true TERM=dumb "${toolchain[@]}" "$@"
}

# Commands that are not run here, by their beginning, and why.
skips=(
    "cargo test --workspace|.ci/run has run the tests"
    "cargo run --release -p chimaera-instructions|.ci/run runs it"
    "cargo build --release -p chimaera-cli --features peers|the peers are not installed everywhere"
    "target/release/chimaera bench --quick|measuring wants a machine that nobody else uses"
    "target/release/chimaera bench --report|measuring wants a machine that nobody else uses"
    "target/release/chimaera bench --case|measuring wants a machine that nobody else uses"
)
declare -A skipped=()

# The commands of a page, without those that are skipped.
commands_of() {
    awk '/^```sh$/ { on = 1; next } /^```/ { on = 0 } on' "$1"
}

# Runs the commands of a page in one shell, as they would be pasted.
run_page() {
    local user=$1 page=$2 line skip script
    script=$(mktemp /tmp/page.XXXXXX)
    while IFS= read -r line; do
        for skip in "${skips[@]}"; do
            if [[ $line == "${skip%%|*}"* ]]; then
                skipped[$skip]=yes
                echo "skipped: $line (${skip#*|})"
                continue 2
            fi
        done
        printf '%s\n' "$line" >>"$script"
    done < <(commands_of "$page")
    chmod 0644 "$script"
    [ -s "$script" ] || return 0
    printf '\n== %s, as user %s\n' "$page" "$user"
    if ! as "$user" sh -ev "$script"; then
        echo "FAILED: a command of $page, as user $user"
        failures=$((failures + 1))
    fi
}

# Runs the command that a text of the program names, which must have been called by $2.
run_printed() {
    local user=$1 text=$2 command
    command=$(sed -n 's/.*`\([^`]* runtime start[^`]*\)`.*/\1/p' <<<"$text" | head -n 1)
    case $command in *--detach*) ;; *) command+=" --detach" ;; esac
    printf '\n== printed for user %s: %s\n' "$user" "$command"
    if ! as "$user" sh -evc "$command
        target/release/chimaera runtime status
        target/release/chimaera runtime stop"; then
        echo "FAILED: $command, as user $user"
        failures=$((failures + 1))
    fi
}

for user in $nobody 0; do
    pages=(README.md)
    for page in docs/*.md; do
        if [ "$user" = 0 ] && [ "$page" = docs/WRITING_A_CHIMOD.md ]; then
            echo "skipped $page as root: the module was written as another user"
        else
            pages+=("$page")
        fi
    done
    for page in "${pages[@]}"; do
        run_page "$user" "$page"
    done
    if [ "$user" = 0 ]; then
        echo "skipped the new module as root: it has been built and used as another user"
    else
        # What the program has written says how to go on.
        folder_of_commands=$clone/greeter
        run_page "$user" "$clone/greeter/README.md"
        folder_of_commands=$clone
    fi
    said=$(as "$user" target/release/chimaera demo)
    run_printed "$user" "$said"
    said=$(as "$user" target/release/chimaera pool list 2>&1) && {
        echo "FAILED: a daemon was left running: $said"
        failures=$((failures + 1))
    }
    run_printed "$user" "$said"
    # What one user stored is not the next one's.
    rm -rf /var/tmp/*
done

for skip in "${skips[@]}"; do
    if [ -z "${skipped[$skip]-}" ]; then
        echo "FAILED: no page prints \"${skip%%|*}\", which is not to be run"
        failures=$((failures + 1))
    fi
done
[ "$failures" = 0 ] || { echo "$failures failed"; exit 1; }
echo "all commands work as printed"
