-- Drops the chunks of the batches that begin before an item.
-- KEYS: index, chunks. ARGV: before_item. Returns the number of batches dropped.
local dropped = 0
local index = redis.call('HGETALL', KEYS[1])
for i = 1, #index, 2 do
  local item = index[i]
  if tonumber(item) < tonumber(ARGV[1]) then
    local upload, sizes = string.match(index[i + 1], '^(%x+) %d+ (.*)$')
    local chunk = 0
    for _ in string.gmatch(sizes or '', '%d+') do
      redis.call('HDEL', KEYS[2], item .. ':' .. upload .. ':' .. chunk)
      chunk = chunk + 1
    end
    redis.call('HDEL', KEYS[1], item)
    dropped = dropped + 1
  end
end
return dropped
