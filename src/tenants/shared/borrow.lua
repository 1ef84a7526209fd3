-- Lends what a request may need at most from all limits and budgets that it counts against, or says which one refuses; then
-- nothing is taken. ARGV[1] is `Borrow` as JSON; the answer is an array of texts (`Lent` in wire.rs).

local ask = cjson.decode(ARGV[1])
local now = clock(ask.now)
local second = math.floor(now / 1000000)
local epoch = redis.call('GET', P .. 'epoch')
if not epoch then
  epoch = ask.epoch
  redis.call('SET', P .. 'epoch', epoch)
end
reap(now)

for index, wallet in ipairs(ask.wallets) do
  local key = P .. wallet.name
  publish(wallet.name, ask.node, wallet.own)
  if redis.call('HEXISTS', key, 'seeded') == 0 then
    if not wallet.seeds then return {'seed', text(index - 1)} end
    for node, sums in pairs(wallet.seeds) do publish(wallet.name, node, sums) end
    redis.call('HSET', key, 'seeded', '1')
  end
  local spent, promised = {0, 0, 0}, 0
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    if flat[at] == 'promised' then
      promised = tonumber(flat[at + 1])
    elseif string.sub(flat[at], 1, 2) == 'n:' then
      local sums = {}
      for number in string.gmatch(flat[at + 1], '%-?%d+') do sums[#sums + 1] = tonumber(number) end
      spent[3] = spent[3] + sums[1]
      if sums[2] >= wallet.own[2] then spent[2] = spent[2] + sums[3] end
      if sums[4] >= wallet.own[4] then spent[1] = spent[1] + sums[5] end
    end
  end
  for which, budget in ipairs(wallet.budgets) do
    local used = spent[budget[1]] + promised
    -- A spent budget lets nothing through, not even what is free.
    if used >= budget[2] or used + wallet.most > budget[2] then
      return {'budget', text(index - 1), text(which - 1), text(used)}
    end
  end
end

local meters = {}
for index, terms in ipairs(ask.meters) do
  local meter = load(terms.name)
  meters[index] = meter
  advance(meter, second)
  if terms.places >= 0 and meter.running >= terms.places then
    return {'places', text(index - 1), text(meter.running), '1000000'}
  end
  if terms.tokens >= 0 then
    if ask.tokens > terms.tokens then return {'tokens', text(index - 1), text(meter.sum), '-1'} end
    if meter.sum + ask.tokens > terms.tokens then
      return {'tokens', text(index - 1), text(meter.sum), text(wait(meter, now, terms.tokens - ask.tokens))}
    end
  end
end
-- The rate of requests last, as in one process. A rate of nothing lets nothing through.
for index, terms in ipairs(ask.meters) do
  local meter = meters[index]
  if terms.every == 0 then return {'requests', text(index - 1), '0', '-1'} end
  if terms.every > 0 then
    -- A changed rate begins anew.
    if meter.every ~= terms.every or meter.slack ~= terms.slack then meter.tat = 0 end
    local earliest = meter.tat - terms.slack
    if now < earliest then return {'requests', text(index - 1), '0', text(earliest - now)} end
  end
end

local answer = {'ok', epoch}
local held = {m = {}, w = {}}
for index, terms in ipairs(ask.meters) do
  local meter = meters[index]
  local left, again = -1, 0
  if terms.every > 0 then
    local tat = math.max(meter.tat, now) + terms.every
    redis.call('HSET', meter.key, 'tat', text(tat), 'every', text(terms.every), 'slack', text(terms.slack))
    left = math.floor((now + terms.every + terms.slack - tat) / terms.every)
    again = tat - now
  end
  local slot = meter.newest % SLOTS
  if ask.tokens > 0 then
    meter.slots[slot] = (meter.slots[slot] or 0) + ask.tokens
    meter.sum = meter.sum + ask.tokens
    add(meter.key, text(slot), ask.tokens)
  end
  add(meter.key, 'running', 1)
  redis.call('EXPIRE', meter.key, KEEP)
  held.m[index] = {terms.name, text(meter.newest), text(ask.tokens)}
  for _, number in ipairs({meter.sum, wait(meter, now, 0), left, again}) do answer[#answer + 1] = text(number) end
end
for index, wallet in ipairs(ask.wallets) do
  add(P .. wallet.name, 'promised', wallet.most)
  held.w[index] = {wallet.name, text(wallet.most)}
end
redis.call('SET', P .. 't:' .. ask.loan, cjson.encode(held), 'EX', KEEP)
redis.call('ZADD', P .. 'leases', text(now + ask.lease), ask.loan)
return answer
