-- Drops the results of named batches of a job. KEYS: index, chunks. ARGV: first_item ... Returns how many there were.
local dropped = 0
for _, item in ipairs(ARGV) do
  local known = redis.call('HGET', KEYS[1], item)
  if known then
    local upload, sizes = string.match(known, '^(%x+) %d+ (.*)$')
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
