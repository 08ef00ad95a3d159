-- Names the batches of a job whose results are there: the fields of the index.
-- KEYS: index, chunks. One key without the other is the rest of an eviction or of a half-made repair: nobody can read
-- it, so it is dropped, and the batches count as gone. Chunks that are just being put there are put again then.
if redis.call('EXISTS', KEYS[1]) + redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[2])
end
return redis.call('HKEYS', KEYS[1])
