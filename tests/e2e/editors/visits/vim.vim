" A visit with the channels of Vim, through $WAY; ../visiting.py tells the story.
"   lsp  Vim speaks JSON-RPC itself, with headers
"   nl   Vim gives and takes lines
let s:path = $XDG_RUNTIME_DIR .. '/crabd/crabd.sock'
let s:events = []
let s:answers = {}
let s:ids = 0
let s:channel = v:null

" What comes that answers nothing: the events, and the daemon's questions.
func s:Take(channel, message) abort
  let message = type(a:message) == v:t_string ? json_decode(a:message) : a:message
  if !has_key(message, 'method')
    let s:answers[message.id] = message
  elseif has_key(message, 'id')
    let options = filter(copy(message.params.options), {_, option -> option.kind ==# 'allow_once'})
    let outcome = #{outcome: 'selected', optionId: options[0].optionId}
    call s:Send(#{id: message.id, result: #{outcome: outcome}})
  elseif message.method ==# 'session/event'
    call add(s:events, message.params)
  endif
endfunc

func s:Connect() abort
  let s:channel = ch_open('unix:' .. s:path, #{mode: $WAY, callback: function('s:Take')})
  if ch_status(s:channel) !=# 'open'
    throw 'not connected'
  endif
endfunc

func s:Send(message) abort
  if $WAY ==# 'nl'
    call ch_sendraw(s:channel, json_encode(extend(#{jsonrpc: '2.0'}, a:message)) .. "\n")
  else
    call ch_sendexpr(s:channel, a:message)
  endif
endfunc

" Ask without waiting; gives the id of the request.
func s:Ask(method, params) abort
  let message = #{method: a:method, params: a:params}
  if $WAY ==# 'nl'
    let s:ids += 1
    call s:Send(extend(message, #{id: s:ids}))
    return s:ids
  endif
  return ch_sendexpr(s:channel, message, #{callback: function('s:Take')}).id
endfunc

func s:Until(Condition) abort
  let start = reltime()
  while !a:Condition()
    if reltimefloat(reltime(start)) > 20
      throw 'nothing came'
    endif
    sleep 2m
  endwhile
endfunc

func s:Answer(id) abort
  call s:Until({-> has_key(s:answers, a:id)})
  return remove(s:answers, a:id)
endfunc

func s:Call(method, params) abort
  let answer = s:Answer(s:Ask(a:method, a:params))
  if !has_key(answer, 'result')
    throw string(answer.error)
  endif
  return answer.result
endfunc

func s:Words(count, from) abort
  call s:Until({-> count(map(s:events[a:from :], {_, event -> event.type}), 'text_delta') >= a:count})
endfunc

func s:Visit() abort
  let told = {}
  call s:Connect()
  let told.server = s:Call('initialize', #{client: #{name: 'vim'}, protocol: 1}).name
  let session = s:Call('session/get_or_create', #{agent: 'crab', sender: 'vim'}).id
  let epoch = s:Call('session/subscribe', #{session: session}).epoch
  let told.session = session
  let told.text = s:Call('session/send', #{session: session, content: 'echo Grüße, 🦀'}).text

  let from = len(s:events)
  let long = s:Ask('session/send', #{session: session, content: 'slow 600 50'})
  call s:Words(1, from)
  let told.cancelled = s:Call('session/cancel', #{session: session}).stop_reason
  let told.ended = s:Answer(long).result.stop_reason

  let from = len(s:events)
  let given_up = s:Ask('session/send', #{session: session, content: 'slow 600 50'})
  call s:Words(1, from)
  call s:Send(#{method: '$/cancelRequest', params: #{id: given_up}})
  let told.abandoned = s:Answer(given_up).error.code
  call s:Call('session/cancel', #{session: session})

  let from = len(s:events)
  call s:Call('session/send', #{session: session, content: 'slow 40 20', wait: v:false})
  call s:Words(3, from)
  call ch_close(s:channel)
  call s:Connect()
  let after = s:events[-1].seq
  let told.replay = s:Call('session/subscribe', #{session: session, after: after, epoch: epoch}).replay
  call s:Until({-> len(s:events) > from && s:events[-1].type ==# 'run_ended'})
  call ch_close(s:channel)

  call s:Connect()
  call s:Call('initialize', #{protocolVersion: 1, clientCapabilities: {}})
  let acp_session = s:Call('session/new', #{cwd: getcwd(), mcpServers: []}).sessionId
  let prompt = [#{type: 'text', text: 'call bash {"command": "touch allowed"}'}]
  let told.prompted = s:Call('session/prompt', #{sessionId: acp_session, prompt: prompt}).stopReason
  call ch_close(s:channel)

  let told.events = map(s:events, {_, event -> [event.seq, event.type, get(event, 'text', '')]})
  return told
endfunc

try
  call writefile([json_encode(s:Visit())], '/dev/stdout')
  qall!
catch
  call writefile([v:exception, v:throwpoint], '/dev/stderr')
  cquit!
endtry
