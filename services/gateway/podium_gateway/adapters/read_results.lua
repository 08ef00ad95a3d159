-- Reads the stored results of a job, batch after batch, as far as they follow each other without a gap.
--
-- KEYS[1]  hash    first item of a batch -> "<first entry id> <last entry id> <item count>"
-- KEYS[2]  stream  one entry for each chunk: field c, a serialized ResultChunk
-- ARGV[1]  first item of the batch to begin with
-- ARGV[2]  id of the entry to go on after, or "" for the batch's first
-- ARGV[3]  bytes after which no further entries are read
-- ARGV[4]  batches after which no further ones are read, or 0
--
-- Returns a list of { first item, item count, 1 if the batch's last entry is included, id of the last entry, { chunk, ... } }.
-- A batch whose entries are gone ends the list, like one that is not in the index.

local STEP = 4

local function read_batch(first, last, after, budget)
  local chunks, seen, used = {}, after, 0
  while used < budget do
    local from = (seen == '') and first or ('(' .. seen)
    local entries = redis.call('XRANGE', KEYS[2], from, last, 'COUNT', STEP)
    if #entries == 0 then
      break
    end
    for _, entry in ipairs(entries) do
      seen = entry[1]
      chunks[#chunks + 1] = entry[2][2]
      used = used + #entry[2][2]
    end
    if seen == last then
      break
    end
  end
  return chunks, seen, used
end

local item, after, budget = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local batches, most = {}, tonumber(ARGV[4])
while budget > 0 and (most == 0 or #batches < most) do
  local known = redis.call('HGET', KEYS[1], string.format('%d', item))
  if not known then
    break
  end
  local first, last, count = string.match(known, '^(%S+) (%S+) (%d+)$')
  local chunks, seen, used = read_batch(first, last, after, budget)
  if #chunks == 0 then
    break
  end
  local complete = (seen == last) and 1 or 0
  batches[#batches + 1] = { item, tonumber(count), complete, seen, chunks }
  if complete == 0 then
    break
  end
  item, after, budget = item + tonumber(count), '', budget - used
end
return batches
