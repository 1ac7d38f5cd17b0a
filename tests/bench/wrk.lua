-- What wrk is told and what it tells: one line of JSON at its end. Arguments after "--" are further hosts, asked in turn.
local requests = {}
local turn = 0

function init(hosts)
   for _, host in ipairs(hosts) do
      wrk.headers["Host"] = host
      table.insert(requests, wrk.format())
   end
   if #requests > 0 then
      request = function()
         turn = turn % #requests + 1
         return requests[turn]
      end
   end
end

function done(summary, latency)
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
