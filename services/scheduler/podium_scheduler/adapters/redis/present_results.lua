-- Names the batches of a job whose results are there, all their chunks. KEYS: index, chunks.
-- One key without the other is the rest of an eviction or of a half-made repair, and so is a batch without its chunks
-- (or one that an older version has stored in its own way): nobody can read it, so it is dropped and counts as gone.
-- Chunks that are just being put there are put again then.
if redis.call('EXISTS', KEYS[1]) + redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[2])
end
local there = {}
local index = redis.call('HGETALL', KEYS[1])
for i = 1, #index, 2 do
  local upload, sizes = string.match(index[i + 1], '^(%x+) %d+ (%d.*)$')
  local chunk, whole = 0, upload ~= nil
  for _ in string.gmatch(sizes or '', '%d+') do
    whole = whole and redis.call('HEXISTS', KEYS[2], index[i] .. ':' .. upload .. ':' .. chunk) == 1
    chunk = chunk + 1
  end
  if whole then
    there[#there + 1] = index[i]
  else
    redis.call('HDEL', KEYS[1], index[i])
  end
end
return there
