#!/usr/bin/env bash
# Starts a server, waits until it has printed that it is ready, runs a test, and kills the server with all
# it has started. Nothing but bash, cat, lines of JSON and process/wait.
#   docs/examples/server_ready.sh 'Serving HTTP' 'python3 -u -m http.server 8123' 'curl -s localhost:8123'
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 TEXT SERVER TEST" >&2; exit 2; }

coproc WIRE { exec "${PROCWIRE:-procwire}"; }
output=${WIRE[0]} input=${WIRE[1]} wire=$WIRE_PID
# Lines in one write: printf makes one of each line.
say() { local IFS=$'\n'; cat <<<"$*" >&"$input"; }
# A string for JSON.
quote() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; }

# The wait comes with the spawn, in one write, and so sees all output; it is answered, too, if the server
# ends or 60 s are over.
say '{"id":1,"method":"process/spawn","params":{"processHandle":"server","command":["sh","-c",'"$(quote "$2")"'],"stderr":"stdout","outputKeep":"tail","timeoutMs":null}}' \
    '{"id":2,"method":"process/wait","params":{"processHandle":"server","until":[{"text":'"$(quote "$1")"'}],"timeoutMs":60000}}'
while IFS= read -r line <&"$output"; do
    case $line in
        *'"id":1,"error"'*) echo "$line" >&2; exit 1 ;;
        *'"id":2,"result":{"index":0'*) ready=yes; break ;;
        *'"id":2,'*) echo "not ready: $line" >&2; break ;;
    esac
done
code=1
[ "${ready:-no}" = no ] || { code=0; sh -c "$3" || code=$?; }

exec {input}>&- # the end of the connection is the end of the server
wait "$wire"
exit "$code"
