" vimrc: `:Crab What is a monad?` writes the answer into a new window as it comes. Vim 9, or 8.2.4775.
func s:Take(channel, message)
  if get(get(a:message, 'params', {}), 'type', '') ==# 'text_delta'
    let lines = split(getbufline(s:buffer, '$')[0] .. a:message.params.text, "\n", 1)
    call setbufline(s:buffer, '$', lines)
  endif
  let problem = get(a:message, 'error', get(get(a:message, 'result', {}), 'error', {}))
  if has_key(problem, 'message')
    echohl ErrorMsg | echomsg problem.message | echohl None
  endif
endfunc
func s:Ask(text)
  new
  let s:buffer = bufnr()
  if !exists('s:link') || ch_status(s:link) !=# 'open'
    let s:link = ch_open('unix:' .. $XDG_RUNTIME_DIR .. '/crabd/crabd.sock', #{mode: 'lsp', callback: 's:Take'})
  endif
  let params = #{agent: 'crab', sender: 'vim'}
  let session = ch_evalexpr(s:link, #{method: 'session/get_or_create', params: params}).result.id
  let params = #{session: session, content: a:text}
  call ch_sendexpr(s:link, #{method: 'session/send', params: params}, #{callback: 's:Take'})
endfunc
command -nargs=+ Crab call s:Ask(<q-args>)
