-- Drops the chunks of the batches that begin before an item.
-- KEYS: index, results. ARGV: before_item. Returns the number of batches dropped.
-- All entries of a batch were added by one script run, in which Redis' clock stands still: their ids differ only in
-- the sequence number, so they can be named without reading them.
local dropped = 0
local index = redis.call('HGETALL', KEYS[1])
for i = 1, #index, 2 do
  if tonumber(index[i]) < tonumber(ARGV[1]) then
    local ms, first, last = string.match(index[i + 1], '^(%d+)-(%d+) %d+-(%d+) ')
    for sequence = tonumber(first), tonumber(last) do
      redis.call('XDEL', KEYS[2], ms .. '-' .. string.format('%d', sequence))
    end
    redis.call('HDEL', KEYS[1], index[i])
    dropped = dropped + 1
  end
end
if redis.call('XLEN', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[2])
end
return dropped
