-- Finds the stored results of a job, batch after batch, as far as they follow each other without a gap.
--
-- KEYS[1]  hash    first item of a batch -> "<upload> <item count> <size of each chunk in bytes ...>"
-- KEYS[2]  hash    "<first item>:<upload>:<number>" -> chunk
-- ARGV[1]  first item of the batch to begin with
-- ARGV[2]  upload of which chunks were read already, or ""
-- ARGV[3]  how many of its chunks those are
-- ARGV[4]  bytes after which no further chunks are read
-- ARGV[5]  batches after which no further ones are read, or 0
-- ARGV[6]  bytes up to which the chunks come with the answer
--
-- Returns a list of { first item, item count, 1 if the batch's last chunk is included, upload, first chunk, the chunk
-- after the last }, and if they are small, one of the chunks. A batch that was stored anew since the last look is read
-- from its first chunk.

local item, budget, most = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[5])
local batches, skip, fields, total = {}, tonumber(ARGV[3]), {}, 0
while budget > 0 and (most == 0 or #batches < most) do
  local known = redis.call('HGET', KEYS[1], string.format('%d', item))
  local upload, count, sizes = string.match(known or '', '^(%x+) (%d+) (.*)$')
  if not upload then
    break
  end
  local from = (upload == ARGV[2]) and skip or 0
  local chunk, stop = 0, from
  for size in string.gmatch(sizes, '%d+') do
    if chunk >= from and budget > 0 then
      fields[#fields + 1] = string.format('%d', item) .. ':' .. upload .. ':' .. chunk
      stop, budget, total = chunk + 1, budget - tonumber(size), total + tonumber(size)
    end
    chunk = chunk + 1
  end
  if stop == from then
    break
  end
  batches[#batches + 1] = { item, tonumber(count), (stop == chunk) and 1 or 0, upload, from, stop }
  if stop < chunk then
    break
  end
  item, skip = item + tonumber(count), 0
end
-- unpack has a limit of some thousands.
if #fields > 0 and #fields <= 1000 and total <= tonumber(ARGV[6]) then
  return { batches, redis.call('HMGET', KEYS[2], unpack(fields)) }
end
return { batches }
