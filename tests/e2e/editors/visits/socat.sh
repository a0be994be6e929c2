#!/usr/bin/env bash
# A visit with nothing but bash and socat; ../visiting.py tells the story.
set -euo pipefail
socket=$XDG_RUNTIME_DIR/crabd/crabd.sock
# All events, in the order they came.
events=()

connect() {
  # What the first connection has been answered is no answer of the next.
  declare -gA answers=()
  coproc LINK { exec socat - "UNIX-CONNECT:$socket"; }
  exec {from_link}<&"${LINK[0]}" {to_link}>&"${LINK[1]}"
  link=$LINK_PID
}

hang_up() {
  kill "$link"
  exec {from_link}<&- {to_link}>&-
  wait "$link" || true
}

# Find a member of a JSON text, a string without escapes or a number; it is in $found then.
find() { [[ $1 =~ \"$2\":(-?[0-9]+|\"[^\"]*) ]] && found=${BASH_REMATCH[1]#\"}; }

send() { printf '{"jsonrpc":"2.0",%s}\n' "$1" >&"$to_link"; }

# ask ID METHOD PARAMS
ask() { send "\"id\":$1,\"method\":\"$2\",\"params\":$3"; }

# Read one message, and do with it what is to be done.
receive() {
  local message
  read -r -t 20 message <&"$from_link"
  case $message in
    *'"method":"session/event"'*) events+=("$message") ;;
    *'"method":"session/request_permission"'*) allow "$message" ;;
    *'"method":'*) ;;
    *) find "$message" id && answers[$found]=${message#*\"id\":"$found",} ;;
  esac
}

allow() {
  [[ $1 =~ \{[^{}]*\"kind\":\"allow_once\"[^{}]*\} ]] && find "${BASH_REMATCH[0]}" optionId
  local option=$found
  find "$1" id
  send "\"id\":$found,\"result\":{\"outcome\":{\"outcome\":\"selected\",\"optionId\":\"$option\"}}"
}

# Read on until a request is answered; the answer is in $answer then.
await() {
  until [[ -v answers[$1] ]]; do receive; done
  answer=${answers[$1]}
}

call() { ask "$@"; await "$1"; }

# wait_for TYPE COUNT FROM: read on until so many events of a type have come behind the first FROM.
wait_for() {
  local seen=0 at
  for ((at = $3; seen < $2; at++)); do
    while ((at >= ${#events[@]})); do receive; done
    if [[ ${events[at]} == *"\"type\":\"$1\""* ]]; then seen=$((seen + 1)); fi
  done
}

connect
call 1 initialize '{"client":{"name":"socat"},"protocol":1}'
find "$answer" name && server=$found
call 2 session/get_or_create '{"agent":"crab","sender":"socat"}'
find "$answer" id && session=$found
call 3 session/subscribe "{\"session\":\"$session\"}"
find "$answer" epoch && epoch=$found
call 4 session/send "{\"session\":\"$session\",\"content\":\"echo Grüße, 🦀\"}"
find "$answer" text && text=$found

from=${#events[@]}
ask 5 session/send "{\"session\":\"$session\",\"content\":\"slow 600 50\"}"
wait_for text_delta 1 "$from"
call 6 session/cancel "{\"session\":\"$session\"}"
find "$answer" stop_reason && cancelled=$found
await 5
find "$answer" stop_reason && ended=$found

from=${#events[@]}
ask 7 session/send "{\"session\":\"$session\",\"content\":\"slow 600 50\"}"
wait_for text_delta 1 "$from"
send '"method":"$/cancelRequest","params":{"id":7}'
await 7
find "$answer" code && abandoned=$found
call 8 session/cancel "{\"session\":\"$session\"}"

from=${#events[@]}
call 9 session/send "{\"session\":\"$session\",\"content\":\"slow 40 20\",\"wait\":false}"
wait_for text_delta 3 "$from"
hang_up
connect
find "${events[-1]}" seq && after=$found
call 1 session/subscribe "{\"session\":\"$session\",\"after\":$after,\"epoch\":\"$epoch\"}"
find "$answer" replay && replay=$found
wait_for run_ended 1 "$from"
hang_up

connect
call 1 initialize '{"protocolVersion":1,"clientCapabilities":{}}'
call 2 session/new "{\"cwd\":\"$PWD\",\"mcpServers\":[]}"
find "$answer" sessionId
prompt='[{"type":"text","text":"call bash {\"command\": \"touch allowed\"}"}]'
call 3 session/prompt "{\"sessionId\":\"$found\",\"prompt\":$prompt}"
find "$answer" stopReason && prompted=$found
hang_up

told=()
for event in "${events[@]}"; do
  find "$event" seq && seq=$found
  find "$event" type && type=$found
  # What others call text is deeper inside.
  if [[ $type != text_* ]] || ! find "$event" text; then found=; fi
  told+=("[$seq,\"$type\",\"$found\"]")
done
printf '{"server":"%s","session":"%s","text":"%s",' "$server" "$session" "$text"
printf '"cancelled":"%s","ended":"%s","abandoned":%s,' "$cancelled" "$ended" "$abandoned"
printf '"replay":"%s","prompted":"%s","events":[%s]}\n' "$replay" "$prompted" "$(IFS=,; echo "${told[*]}")"
