-- Puts the chunks of one batch into its job's result stream, once.
-- KEYS: index, results. ARGV: first_item, item_count, time to live in seconds, chunk ...
-- Returns 1 when they went in, 0 when this batch was there already.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  return 0
end
local first, last
for i = 4, #ARGV do
  last = redis.call('XADD', KEYS[2], '*', 'c', ARGV[i])
  first = first or last
end
redis.call('HSET', KEYS[1], ARGV[1], first .. ' ' .. last .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
