#!/bin/sh
# Runs a command with a timeout and tries again, three times at most: nothing it started is left.
#   docs/examples/timeout.sh 30s make test
set -u
PROCWIRE=${PROCWIRE:-procwire}
[ $# -ge 2 ] || { echo "usage: $0 DURATION PROGRAM [ARGUMENT...]" >&2; exit 2; }
limit=$1
shift

for attempt in 1 2 3; do
    "$PROCWIRE" run --timeout "$limit" -- "$@"
    code=$?
    case $code in
        124) echo "attempt $attempt of 3 is over" >&2 ;; # procwire has said why
        125) echo "the server failed" >&2; exit 125 ;;
        *) exit $code ;; # its own exit code, or 128 + n if signal n killed it
    esac
done
exit 124
