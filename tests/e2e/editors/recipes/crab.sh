# crab What is a monad? – in any sh, with socat and jq. -t: how long socat waits for an answer.
call() {
  printf '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}\n' "$1" "$2" |
    socat -t 86400 - "UNIX-CONNECT:$XDG_RUNTIME_DIR/crabd/crabd.sock"
}
crab() {
  session=$(call session/get_or_create '{"agent":"crab","sender":"sh"}' | jq -r .result.id)
  call session/send "$(jq -nc --arg session "$session" --arg content "$*" '$ARGS.named')" |
    jq -j --unbuffered 'if .params.type == "text_delta" then .params.text
      elif .id then "\n", ((.error // .result.error).message // empty | . + "\n")
      else empty end'
}
