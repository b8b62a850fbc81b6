#!/usr/bin/env bash
# Runs one command on many hosts at the same time, and reports which of them failed. When this script
# ends, however it ends, so does what it started over there.
#   docs/examples/remote.sh 'web1 web2 web3' systemctl is-active nginx
# The variable VIA says how a host is reached: VIA='docker exec -i %s procwire' for containers.
set -u
PROCWIRE=${PROCWIRE:-procwire}
VIA=${VIA:-ssh -o BatchMode=yes -o ServerAliveInterval=5 %s procwire}
[ $# -ge 2 ] || { echo "usage: $0 'HOST...' PROGRAM [ARGUMENT...]" >&2; exit 2; }
read -ra hosts <<<"$1"
shift

declare -A pids
for host in "${hosts[@]}"; do
    { "$PROCWIRE" run --server "${VIA//%s/$host}" --timeout 10m -- "$@" </dev/null 2>&1 |
        sed -u "s/^/$host: /"; exit "${PIPESTATUS[0]}"; } &
    pids[$host]=$!
done

failed=0
for host in "${hosts[@]}"; do
    wait "${pids[$host]}" && continue
    echo "$host: failed with exit code $?" >&2
    failed=$((failed + 1))
done
[ "$failed" -eq 0 ]
