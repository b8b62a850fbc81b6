#!/bin/sh
# Runs a program that prints far too much, and shows the beginning and the end of it: 2 KiB and 8 KiB.
# What is between is never stored; how much it was is said, and the exit code is the program's.
#   docs/examples/log_ends.sh make -j8
set -u
[ $# -ge 1 ] || { echo "usage: $0 PROGRAM [ARGUMENT...]" >&2; exit 2; }
# --merge: stderr where it was written, between the lines of stdout. -n: no input.
exec "${PROCWIRE:-procwire}" run -n --merge --keep 2K,8K -- "$@"
