// cache[start + t] = k, v of token t of the chunk, rounded to the cache's format.
// qkv: f32 [count, qkv_stride]; cache, kv_scales: see kv_cache.wgsl.
// One invocation appends one head's k or v of one token; dispatch (⌈2 · H · count / 64⌉). Oracle: test/reference/gpt2.ts, attention(), with kvRounding.
#import "step"
#import "kv_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> attention: Attention;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> cache: array<CacheChunk>;
@group(0) @binding(4) var<storage, read_write> kv_scales: array<f32>;
#import "loop_bound"
#import "kv_cache"
#import "kv_append"

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let t = id.x / (2u * attention.heads);
  if (t >= run.count) { return; }
  let part_and_head = id.x % (2u * attention.heads);
  append(1u + part_and_head / attention.heads, part_and_head % attention.heads, t, run.start + t);
}
