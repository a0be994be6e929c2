-- init.lua: `:Crab What is a monad?` writes the answer into a new window as it comes.
local path, link, buffer = vim.env.XDG_RUNTIME_DIR .. '/crabd/crabd.sock', nil, nil
local dispatchers = {
  notification = function(_, event)
    if event.type == 'text_delta' then
      local last = vim.api.nvim_buf_get_lines(buffer, -2, -1, false)[1]
      vim.api.nvim_buf_set_lines(buffer, -2, -1, false, vim.split(last .. event.text, '\n'))
    end
  end,
  on_exit = function() link = nil end,
}
vim.api.nvim_create_user_command('Crab', function(command)
  vim.cmd('new')
  buffer = vim.api.nvim_get_current_buf()
  -- Before Neovim 0.10: vim.lsp.rpc.start('socat', { '-', 'UNIX-CONNECT:' .. path }, dispatchers)
  link = link or vim.lsp.rpc.connect(path)(dispatchers)
  link.request('session/get_or_create', { agent = 'crab', sender = 'nvim' }, function(_, session)
    link.request('session/send', { session = session.id, content = command.args }, function(problem, result)
      problem = problem or result.error
      if problem then vim.notify(problem.message, vim.log.levels.ERROR) end
    end)
  end)
end, { nargs = '+' })
