#!/bin/sh
# A check for smoke.sh: the sensor kills what its policy names, and says so.
#
#   kill.sh SLS
set -eu
directory=$(mktemp -d)
trap 'kill "$sensor" 2>/dev/null || true; rm -rf "$directory"' EXIT
cp /bin/sleep "$directory/victim"
cat >"$directory/policy.yaml" <<POLICY
Victim:
  policy: program
  responseActions: [kill, alert]
  rules:
    - match programName == "$directory/victim"
    - default ignore
POLICY
"$1" run --no-content --policy "$directory/policy.yaml" --output "file:$directory/alerts" 2>"$directory/log" &
sensor=$!
tries=0
until grep -q watching "$directory/log"; do
  tries=$((tries + 1))
  [ $tries -lt 300 ] || { cat "$directory/log"; exit 1; }
  sleep 0.1
done
status=0
"$directory/victim" 20 || status=$?
kill "$sensor"
wait "$sensor"
[ $status = 137 ] || { echo "the victim ended with $status"; cat "$directory/log" "$directory/alerts"; exit 1; }
grep -q '"action_result":"successful"' "$directory/alerts" || { cat "$directory/log" "$directory/alerts"; exit 1; }
