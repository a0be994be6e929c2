-- A visit with what Neovim has of its own, through $WAY; ../visiting.py tells the story.
--   rpc   vim.lsp.rpc, as for a language server; before Neovim 0.10 through socat
--   pipe  a pipe of libuv, a line of JSON a message
local path = vim.env.XDG_RUNTIME_DIR .. '/crabd/crabd.sock'

local function connect_rpc(on_event, on_request)
  local dispatchers = {
    notification = on_event,
    server_request = function(method, params) return on_request(method, params), nil end,
    on_exit = function() end,
    on_error = function(...) error(vim.inspect({ ... })) end,
  }
  local client
  if vim.fn.has('nvim-0.10') == 1 then
    client = vim.lsp.rpc.connect(path)(dispatchers)
  else
    client = vim.lsp.rpc.start('socat', { '-', 'UNIX-CONNECT:' .. path }, dispatchers)
  end
  return {
    request = function(method, params, done)
      -- Of an abandoned request it tells no more than that it is over, and it tells so before an answer.
      local over = vim.schedule_wrap(function() done(nil, nil) end)
      local _, id = client.request(method, params, done, over)
      return id
    end,
    notify = client.notify,
    close = function()
      if client.terminate then client.terminate() else client.handle:kill(15) end
    end,
  }
end

local function connect_pipe(on_event, on_request)
  local pipe, unread, waiting, ids = vim.loop.new_pipe(false), '', {}, 0
  local is_open = false
  local function send(message)
    message.jsonrpc = '2.0'
    pipe:write(vim.json.encode(message) .. '\n')
  end
  local function take(message)
    if message.method and message.id then
      send({ id = message.id, result = on_request(message.method, message.params) })
    elseif message.method then
      on_event(message.method, message.params)
    else
      waiting[message.id](message.error, message.result)
    end
  end
  pipe:connect(path, function(problem)
    assert(not problem, problem)
    is_open = true
    pipe:read_start(vim.schedule_wrap(function(_, data)
      unread = unread .. (data or '')
      while unread:find('\n', 1, true) do
        local line, rest = unread:match('^(.-)\n(.*)$')
        unread = rest
        take(vim.json.decode(line))
      end
    end))
  end)
  vim.wait(10000, function() return is_open end)
  return {
    request = function(method, params, done)
      ids = ids + 1
      waiting[ids] = done
      send({ id = ids, method = method, params = params })
      return ids
    end,
    notify = function(method, params) send({ method = method, params = params }) end,
    close = function() pipe:close() end,
  }
end

local connect = vim.env.WAY == 'rpc' and connect_rpc or connect_pipe

-- All events, in the order they came.
local events = {}

local function follow() return connect(function(_, event) table.insert(events, event) end) end

local function wait(condition) assert(vim.wait(20000, condition, 5), 'nothing came') end

local function words(count, from)
  wait(function()
    local seen = 0
    for at = from + 1, #events do
      if events[at].type == 'text_delta' then seen = seen + 1 end
    end
    return seen >= count
  end)
end

-- Ask, and return a function that waits for result or error, and the request's id.
local function ask(link, method, params)
  local answer
  local id = link.request(method, params, function(problem, result)
    answer = answer or { result = result, problem = problem }
  end)
  return function()
    wait(function() return answer end)
    return answer.result, answer.problem
  end, id
end

local function call(link, method, params)
  local result, problem = ask(link, method, params)()
  assert(result, vim.inspect(problem))
  return result
end

local function visit()
  local told = {}
  local link = follow()
  local server = call(link, 'initialize', { client = { name = 'neovim' }, protocol = 1 })
  local session = call(link, 'session/get_or_create', { agent = 'crab', sender = 'neovim' }).id
  local epoch = call(link, 'session/subscribe', { session = session }).epoch
  told.server, told.session = server.name, session
  told.text = call(link, 'session/send', { session = session, content = 'echo Grüße, 🦀' }).text

  local from = #events
  local long = ask(link, 'session/send', { session = session, content = 'slow 600 50' })
  words(1, from)
  told.cancelled = call(link, 'session/cancel', { session = session }).stop_reason
  told.ended = long().stop_reason

  from = #events
  local given_up, id = ask(link, 'session/send', { session = session, content = 'slow 600 50' })
  words(1, from)
  link.notify('$/cancelRequest', { id = id })
  local _, problem = given_up()
  told.abandoned = problem and problem.code or vim.NIL
  call(link, 'session/cancel', { session = session })

  from = #events
  call(link, 'session/send', { session = session, content = 'slow 40 20', wait = false })
  words(3, from)
  link.close()
  link = follow()
  local after = events[#events].seq
  local params = { session = session, after = after, epoch = epoch }
  told.replay = call(link, 'session/subscribe', params).replay
  wait(function() return #events > from and events[#events].type == 'run_ended' end)
  link.close()

  local acp = connect(function() end, function(_, question)
    for _, option in ipairs(question.options) do
      if option.kind == 'allow_once' then
        return { outcome = { outcome = 'selected', optionId = option.optionId } }
      end
    end
  end)
  call(acp, 'initialize', { protocolVersion = 1, clientCapabilities = {} })
  local acp_session = call(acp, 'session/new', { cwd = vim.loop.cwd(), mcpServers = {} }).sessionId
  local prompt = { { type = 'text', text = 'call bash {"command": "touch allowed"}' } }
  told.prompted = call(acp, 'session/prompt', { sessionId = acp_session, prompt = prompt }).stopReason
  acp.close()

  told.events = vim.tbl_map(function(event) return { event.seq, event.type, event.text or '' } end, events)
  return told
end

local ok, told = xpcall(visit, debug.traceback)
io.stdout:write(ok and vim.json.encode(told) or told)
vim.cmd(ok and 'qall!' or 'cquit')
