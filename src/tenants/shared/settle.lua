-- Ends loans: places and promises are given back, tokens that were not used are, and what nodes have spent is taken over. A loan
-- that is ended twice is ended once. ARGV[1] is a list of `Settlement` as JSON.

local list = cjson.decode(ARGV[1])
local epoch = redis.call('GET', P .. 'epoch')

for _, done in ipairs(list) do
  local now = clock(done.now)
  for _, wallet in ipairs(done.wallets) do publish(wallet.name, done.node, wallet.own) end
  local record = redis.call('GET', P .. 't:' .. done.loan)
  if record then
    local held = cjson.decode(record)
    redis.call('DEL', P .. 't:' .. done.loan)
    redis.call('ZREM', P .. 'leases', done.loan)
    if not held.gone then leave(held) end
    for _, m in ipairs(held.m) do
      local key, at = P .. m[1], tonumber(m[2])
      local newest = tonumber(redis.call('HGET', key, 'newest') or '0')
      -- What is older has come back already.
      if at + SLOTS > newest then add(key, text(at % SLOTS), -math.max(tonumber(m[3]) - done.used, 0)) end
    end
  elseif done.epoch ~= epoch and done.used > 0 then
    -- It was lent by the replica itself, or by a state that is gone.
    if redis.call('SET', P .. 'c:' .. done.loan, '1', 'NX', 'EX', KEEP_TRACES) then
      for _, name in ipairs(done.meters) do
        local meter = load(name)
        advance(meter, math.floor(now / 1000000))
        local at = math.min(done.at, meter.newest)
        if at + SLOTS > meter.newest then add(meter.key, text(at % SLOTS), done.used) end
        redis.call('EXPIRE', meter.key, KEEP)
      end
    end
  end
end
return 'ok'
