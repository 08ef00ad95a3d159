-- Drops the results of named batches of a job. KEYS: index, results. ARGV: first_item ... Returns how many there were.
-- All entries of a batch were added by one script run, in which Redis' clock stands still: their ids differ only in
-- the sequence number, so they can be named without reading them.
local dropped = 0
for _, item in ipairs(ARGV) do
  local known = redis.call('HGET', KEYS[1], item)
  if known then
    local ms, first, last = string.match(known, '^(%d+)-(%d+) %d+-(%d+) ')
    for sequence = tonumber(first), tonumber(last) do
      redis.call('XDEL', KEYS[2], ms .. '-' .. string.format('%d', sequence))
    end
    redis.call('HDEL', KEYS[1], item)
    dropped = dropped + 1
  end
end
if redis.call('XLEN', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[2])
end
return dropped
