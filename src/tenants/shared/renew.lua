-- Loans go on: their replica lives. One whose lease had ended (the replica stood still) has its places again. ARGV[1] is `Renewal`
-- as JSON.

local ask = cjson.decode(ARGV[1])
local now = clock(ask.now)
for _, loan in ipairs(ask.loans) do
  local key = P .. 't:' .. loan
  local record = redis.call('GET', key)
  if record then
    local held = cjson.decode(record)
    if held.gone then
      for _, m in ipairs(held.m) do add(P .. m[1], 'running', 1) end
      for _, w in ipairs(held.w) do add(P .. w[1], 'promised', tonumber(w[2])) end
      held.gone = nil
    end
    redis.call('SET', key, cjson.encode(held), 'EX', KEEP)
    redis.call('ZADD', P .. 'leases', text(now + ask.lease), loan)
    for _, m in ipairs(held.m) do redis.call('EXPIRE', P .. m[1], KEEP) end
  end
end
return 'ok'
