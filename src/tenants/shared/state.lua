-- What all scripts know of the state that replicas share. Begins every script.
--
-- KEYS[1] is the prefix of all keys; its hash tag keeps them in one slot. Under it:
--   epoch          says whether this is the state that a replica knows; gone with the data
--   leases         sorted set: loan -> when it ends if nobody renews it (microseconds since 1970)
--   t:LOAN         JSON: m = [meter, second, tokens], w = [wallet, promised], gone = its lease has ended
--   probe          written to see whether this Redis takes what is written
--   c:CHARGE       an answer that was lent elsewhere has been charged
--   m:... (meter)  0..60 = tokens by second, newest = second of the newest, running, tat/every/slack = rate of requests
--   w:... (wallet) n:NODE = what the node has spent, promised, seeded
-- Numbers that may be long travel as text: JSON here keeps 14 digits.

local P = KEYS[1]
-- Slots of a second that count at a time; as in the window of one process.
local SLOTS = 61
-- Seconds that what nobody touches is kept.
local KEEP, KEEP_MONEY, KEEP_TRACES = 3600, 172800, 120

local function text(number)
  if number == 0 then return '0' end
  return string.format('%.0f', number)
end

-- Microseconds since 1970; a test says what time it is.
local function clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function add(key, field, amount)
  if amount ~= 0 and tonumber(redis.call('HINCRBY', key, field, text(amount))) < 0 then
    redis.call('HDEL', key, field)
  end
end

local function load(name)
  local meter = {key = P .. name, slots = {}, sum = 0, newest = 0, running = 0, tat = 0, every = 0, slack = 0}
  local flat = redis.call('HGETALL', meter.key)
  for at = 1, #flat, 2 do
    local slot, value = tonumber(flat[at]), tonumber(flat[at + 1])
    if slot then
      meter.slots[slot] = value
      meter.sum = meter.sum + value
    else
      meter[flat[at]] = value
    end
  end
  return meter
end

-- Forgets what is older than the window. Time that seems to go back stands still.
local function advance(meter, second)
  if second <= meter.newest then return end
  local gone = {}
  for passed = math.max(meter.newest + 1, second - SLOTS + 1), second do
    local slot = passed % SLOTS
    if meter.slots[slot] then
      meter.sum = meter.sum - meter.slots[slot]
      meter.slots[slot] = nil
      gone[#gone + 1] = text(slot)
    end
  end
  if #gone > 0 then redis.call('HDEL', meter.key, unpack(gone)) end
  meter.newest = second
  redis.call('HSET', meter.key, 'newest', text(second))
end

-- Microseconds until no more than `most` is taken.
local function wait(meter, now, most)
  local left = meter.sum
  for second = math.max(meter.newest - SLOTS + 1, 0), meter.newest do
    if left <= most then break end
    left = left - (meter.slots[second % SLOTS] or 0)
    if left <= most then return math.max((second + SLOTS) * 1000000 - now, 0) end
  end
  return 0
end

-- Places and promises of a loan are free again.
local function leave(held)
  for _, m in ipairs(held.m) do add(P .. m[1], 'running', -1) end
  for _, w in ipairs(held.w) do add(P .. w[1], 'promised', -tonumber(w[2])) end
end

-- Loans that nobody renews: their replica is gone. Their tokens stay taken for their minute.
local function reap(now)
  for _, loan in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(now), 'LIMIT', 0, 1000)) do
    redis.call('ZREM', P .. 'leases', loan)
    local record = redis.call('GET', P .. 't:' .. loan)
    if record then
      local held = cjson.decode(record)
      leave(held)
      held.gone = true
      redis.call('SET', P .. 't:' .. loan, cjson.encode(held), 'EX', KEEP_TRACES)
    end
  end
end

-- "total month's-first-hour month day's-first-hour day"; sums of a node only grow.
local function publish(name, node, own)
  local key, field = P .. name, 'n:' .. node
  local known = redis.call('HGET', key, field)
  local total, month, in_month, day, in_day = own[1], own[2], own[3], own[4], own[5]
  if known then
    local old = {}
    for number in string.gmatch(known, '%-?%d+') do old[#old + 1] = tonumber(number) end
    total = math.max(total, old[1])
    if old[2] == month then in_month = math.max(in_month, old[3]) elseif old[2] > month then month, in_month = old[2], old[3] end
    if old[4] == day then in_day = math.max(in_day, old[5]) elseif old[4] > day then day, in_day = old[4], old[5] end
  end
  local parts = {text(total), text(month), text(in_month), text(day), text(in_day)}
  redis.call('HSET', key, field, table.concat(parts, ' '))
  redis.call('EXPIRE', key, KEEP_MONEY)
end
