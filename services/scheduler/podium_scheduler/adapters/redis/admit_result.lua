-- Lets the chunks of one batch, which were put into its job's chunks before, be found: of each batch one upload.
-- KEYS: index, chunks. ARGV: first_item, item_count, time to live in seconds, upload, size of each chunk in bytes ...
-- Returns 1 when they can be found now, 0 when this batch was there already, -1 when they are not all there any more.
-- The chunks themselves do not come through here: a script would copy each of them twice.
local fields = {}
for i = 5, #ARGV do
  fields[i - 4] = ARGV[1] .. ':' .. ARGV[4] .. ':' .. (i - 5)
end
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  -- It may be the very same: the answer to its first time was lost.
  if string.match(known, '^%x+') ~= ARGV[4] then
    redis.call('HDEL', KEYS[2], unpack(fields))
  end
  return 0
end
for _, field in ipairs(fields) do
  if redis.call('HEXISTS', KEYS[2], field) == 0 then
    return -1
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4] .. ' ' .. ARGV[2] .. ' ' .. table.concat(ARGV, ' ', 5))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
