#!/usr/bin/env bash
# Ends a program with everything it has started, background jobs that ignore signals included.
# Nothing but bash and lines of JSON: this is how little a client needs.
#   docs/examples/kill_tree.sh
set -euo pipefail

coproc SERVER { exec "${PROCWIRE:-procwire}"; }
output=${SERVER[0]} input=${SERVER[1]} server=$SERVER_PID
say() { printf '%s\n' "$1" >&"$input"; }
# Reads lines up to one that matches.
hear() {
    while IFS= read -r -t 10 line <&"$output"; do
        [[ $line =~ $1 ]] && return
    done
    echo "no line like $1" >&2
    exit 1
}

tree='trap "" TERM HUP; sleep 1000 & (sleep 1001 & sleep 1002) & echo started; wait'
say '{"id":1,"method":"process/spawn","params":{"processHandle":"tree","command":["sh","-c","'"${tree//\"/\\\"}"'"],"streamStdoutStderr":true,"timeoutMs":null}}'
hear '"pid":([0-9]+)'
pid=${BASH_REMATCH[1]}
hear '"deltaBase64":"c3RhcnRlZAo="' # "started\n"
echo "running: $(pgrep -c -g "$pid") processes in group $pid"

# A polite signal first, and what cannot be ignored half a second later.
say '{"id":2,"method":"process/kill","params":{"processHandle":"tree","signal":"TERM","graceMs":500}}'
hear '"method":"process/exited".*"signal":"([A-Z]+)"'
echo "ended by ${BASH_REMATCH[1]}: $(pgrep -c -g "$pid" || true) left"

exec {input}>&- # the end of the connection
wait "$server"
