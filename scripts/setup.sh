# shellcheck shell=bash
# What demo.sh and test.sh share; sourced by both, bash 3.2 and later.
#
# It makes a virtual environment (.venv in the checkout, or HISTOMIX_VENV), installs the package there as an editable one, and looks after the
# system libraries. PYTHON names the interpreter to build the environment from. pip's and apt's own settings hold: no index is named here.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HISTOMIX_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python

say() { printf '== %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The first interpreter that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python3.12 python3.13 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "Python 3.11 or later is needed and was not found. Install it, or name it: PYTHON=/path/to/python3.11 $0"
}

# need_packages PACKAGE... : installs the Debian packages that are missing, or says which they are.
need_packages() {
    local installed package missing=() as_root=()
    [ $# -gt 0 ] || return 0
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "Not a Debian system: what these Debian packages hold must be there already: $*"
        return
    fi
    # A package also counts as there when another one provides it (libglib2.0-0 is libglib2.0-0t64 in newer releases).
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}, ${Provides}\n' | sed -n 's/^installed //p' | tr ',\n' '  ')
    for package; do
        case " $installed " in
            *" $package "*) ;;
            *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            die "system packages are missing; ask an administrator to run: apt-get install ${missing[*]}"
        fi
        as_root=(sudo -n)
    fi
    say "Installing system packages: ${missing[*]}"
    local install=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    # The package lists may be absent or old: they are fetched only when it does not work with those that are there.
    "${install[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null 2>&1 ||
        { "${install[@]}" update && "${install[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; } </dev/null ||
        die "could not install these system packages: ${missing[*]} (apt-get's own words are above)"
}

# setup EXTRAS [DEBIAN PACKAGE...] : the packages on the system, and histomix with the extras in $venv.
# Nothing is installed again where that already holds for this checkout and its pyproject.toml.
setup() {
    local extras=$1 base='' clear=() stamp state
    shift
    if ! "$python" -m pip --version </dev/null >/dev/null 2>&1; then
        base=$(find_python)
        # Debian keeps the half of Python that makes environments in a package of its own.
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            set -- "$@" "$("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    need_packages "$@"

    if [ -n "$base" ]; then
        "$python" -c '' 2>/dev/null || clear=(--clear) # an environment that does not even start is made anew
        say "Making a Python environment in $venv ($("$base" --version))"
        "$base" -m venv ${clear[@]+"${clear[@]}"} "$venv" </dev/null ||
            die "$base could not make an environment in $venv; look at the permissions, the room on the disk and that Python"
    fi

    stamp=$venv/.histomix${extras:+-$extras}
    state="$root $(cksum <"$root/pyproject.toml")"
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    say "Installing napari-histomix${extras:+ with $extras} in $venv (some minutes the first time)"
    "$python" -m pip install --quiet --no-input --disable-pip-version-check --editable "$root${extras:+[$extras]}" </dev/null ||
        die "pip could not install napari-histomix; its own words are above"
    printf '%s\n' "$state" | tee "$stamp" >"$venv/.histomix" # what holds with extras holds without
}
