#!/usr/bin/env bash
# Sets everything up, system libraries included, and passes the checks and the tests, those in a real window among them (on a virtual screen).
#
# Usage: scripts/test.sh [PYTEST ARGUMENT...]      with arguments (a folder, -k NAME, -x) only pytest runs, with those

set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

# A virtual screen, OpenGL in software, and what Qt's xcb platform links to.
libraries=(
    xvfb xauth libgl1 libegl1 libgl1-mesa-dri libglib2.0-0 libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0
    libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0
)
screen=()
if [ "$(uname)" = Linux ]; then
    setup qt,pyqt6,test "${libraries[@]}"
    command -v xvfb-run >/dev/null || die "xvfb-run was not found; install Xvfb"
    screen=(xvfb-run -a -s "-screen 0 1920x1200x24")
    export LIBGL_ALWAYS_SOFTWARE=1 QT_QPA_PLATFORM=xcb
else
    setup qt,pyqt6,test
fi
export QT_API=pyside6 PYTEST_QT_API=pyside6 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
cd "$root"

run_pytest() { ${screen[@]+"${screen[@]}"} "$python" -m pytest "$@" </dev/null; }

if [ $# -gt 0 ]; then
    say "Running tests: $*"
    run_pytest "$@"
    exit
fi

say "Checking style"
"$python" -m ruff check .
say "Checking types"
"$python" -m mypy
say "Checking the plugin's manifest"
"$python" -m npe2 validate --imports napari-histomix

say "Running the tests without a window"
# Files side by side, each process with one thread: with more, they would hold each other up. Without a screen, which they would share:
# the keys and the focus would go to whichever of them showed a panel last.
OMP_NUM_THREADS=1 QT_QPA_PLATFORM=offscreen "$python" -m pytest -m "not gui" --durations=25 --numprocesses=auto --maxprocesses=4 --dist=loadfile </dev/null

# Two at a time, each on a screen of its own, where keys and the focus are its own as well.
say "Running the tests in a window"
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
halves=2
[ ${#screen[@]} -gt 0 ] || halves=1
for half in $(seq "$halves"); do
    files=()
    number=0
    for file in tests/gui/test_*.py; do
        number=$((number + 1))
        [ $((number % halves + 1)) -eq "$half" ] && files+=("$file")
    done
    OMP_NUM_THREADS=1 run_pytest -m gui --junitxml="$reports/$half.xml" "${files[@]}" >"$reports/$half.log" 2>&1 &
done
failed=0
for process in $(jobs -p); do wait "$process" || failed=1; done
cat "$reports"/*.log
[ "$failed" -eq 0 ] || die "a test in a window failed"
# pytest is content when every test was skipped; a run that opened no window is not.
ran=$("$python" -c 'import sys, xml.etree.ElementTree as tree
cases = [case for path in sys.argv[1:] for case in tree.parse(path).iter("testcase")]
print(sum(case.find("skipped") is None for case in cases))' "$reports"/*.xml)
[ "$ran" -gt 0 ] || die "no test ran in a window: every one was skipped"

# The same job with Qt's other binding, which napari comes with.
say "Running the whole job and random events with PyQt6"
OMP_NUM_THREADS=1 QT_API=pyqt6 PYTEST_QT_API=pyqt6 run_pytest tests/gui/test_whole_job.py tests/gui/test_random_events.py
say "All passed; $ran of the tests opened a window"
