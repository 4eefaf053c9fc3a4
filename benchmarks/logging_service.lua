-- Sends batches of predictions, no id twice, and prints what came of it as one line of JSON.
-- Arguments after "--": predictions a batch, "sorted" or "random" ids, a prefix for the ids.

local batch, random, prefix
local number = 0

function init(args)
  batch, random, prefix = tonumber(args[1]), args[2] == "random", args[3]
  math.randomseed(tonumber(prefix, 16) % 2147483647)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

local function identifier()
  number = number + 1
  if random then
    return string.format("%08x%08x%s%08x",
      math.random(0, 2147483647), math.random(0, 2147483647), prefix, number)
  end
  return string.format("%s%012x%08x", prefix, number, math.random(0, 2147483647))
end

function request()
  local now = os.time()
  local parts = {}
  for i = 1, batch do
    parts[i] = string.format(
      '{"prediction_id":"%s","image_id":"line-4/image-%08d.png","timestamp":%d.%03d,' ..
      '"model_name":"steel-defects","model_version":"3","inference_time_ms":2.418,' ..
      '"detections":[{"class":"scratch","confidence":0.934512,"bbox":null,"uncertain":false}],' ..
      '"defect_detected":%s,"confidence_scores":[0.934512,0.04,0.02,0.005488],' ..
      '"edge_device_id":"edge-%d"}',
      identifier(), number, now, number % 1000, number % 7 == 0 and "true" or "false", number % 20)
  end
  return wrk.format(nil, nil, nil,
    '{"edge_device_id":"edge-0","batch_size":' .. batch .. ',"timestamp":' .. now ..
    ',"predictions":[' .. table.concat(parts, ",") .. ']}')
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%.1f,"p99_us":%.1f,"max_us":%.1f,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
