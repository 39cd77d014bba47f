#!/bin/sh
# register.sh NAME PORT TARGET COMMAND...: runs a program, and keeps it registered as the instance NAME while it runs. Others call PORT of
# its service, and reach it on TARGET. Needs curl, a join token in TRANSEPT_TOKEN, and in TRANSEPT_REGISTRY where the control plane has
# its registration API, such as http://127.0.0.1:9910.
set -eu
[ $# -ge 4 ] || { echo "usage: $0 NAME PORT TARGET COMMAND..." >&2; exit 2; }
name=$1 port=$2 target=$3 secret=$TRANSEPT_TOKEN stopped=''
shift 3
unset TRANSEPT_TOKEN
path=$TRANSEPT_REGISTRY/v1/namespaces/${TRANSEPT_NAMESPACE:-default}/workloads/$name
spec="{\"ports\": [{\"port\": $port, \"targetPort\": $target}]}"
# Whoever has lost the answer, or could not wait for it, asks again with the same key.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
# Arguments are seen by everybody on the machine, so secrets go by standard input.
call() { printf 'header = "authorization: Bearer %s"\n' "$secret" | curl -sS --fail-with-body -K - -X "$@"; }
leave() { call DELETE "$path" || true; }

answer=$(call PUT "$path" -H "idempotency-key: $key" --retry 5 --retry-connrefused -d "$spec") || { echo "$answer" >&2; exit 1; }
secret=$(printf %s "$answer" | sed -n 's/.*"lease":"\([^"]*\)".*/\1/p')
exec 3<&0
"$@" <&3 &
child=$!
# Nobody shall call a program that is about to end.
trap 'stopped=yes; leave; kill "$child" || true' TERM INT
# What has ended, because this machine slept for example, is registered again.
(
  trap 'kill "$pause"; exit' TERM
  while sleep 10 & pause=$!; wait "$pause"; do call POST "$path/beat" || call PUT "$path" -d "$spec" || true; done
) >/dev/null 2>&1 &
beats=$!
status=0
wait "$child" || status=$?
if [ -n "$stopped" ]; then status=0; wait "$child" || status=$?; fi
kill "$beats"
leave
exit "$status"
