// Chooses the next token from a row of logits as src/generate/sampler.ts does, notes it, and embeds it as the x of the next step.
// score = penalized(logit); keep the top_k best (score descending, then id ascending), of these the fewest whose e^((score − max) / temperature)
// reach the share top_p, of these what is not below min-p; the largest (score − max) / temperature + gumbel(philox(seed, draw, id)) wins.
// logits: f32 [V padded to 4]; counts: u32 [V padded to 4], see penalized(); y: vec4<u32> [draws] = the id, then as f32 bits its logit, the row's
// max m and Σ e^(l − m), which is not finite where a logit is not; codes, scales, wpe, x: see embed.wgsl, x being one row.
// candidates: of candidates.wgsl, where the head leaves them; else the logits are read instead.
// One workgroup does it all; dispatch 1. Oracle: test/reference/gpt2.ts, logSoftmax(); the choice: src/generate/sampler.ts.
#import "step"
#import "sampling"
#import "matrix_shape"
@group(0) @binding(0) var<uniform> run: Step;
@group(0) @binding(1) var<uniform> sampling: Sampling;
@group(0) @binding(2) var<uniform> shape: Shape;
@group(0) @binding(3) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> codes: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> wpe: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> counts: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(9) var<storage, read_write> x: array<vec4<f32>>;
#if CANDIDATES
@group(0) @binding(10) var<storage, read> candidates: array<vec4<f32>>;
#endif
const WG = 256u;
#import "loop_bound"
#import "matrix"
#import "embed_row"
#import "philox"
#import "gumbel"

// `count`, hidden from every compiler: loops that are long, or hold much, and gain nothing from being unrolled.
fn rolled(count: u32) -> u32 { return count * min(run.count, 1u); }

fn largest_of(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn inside(i: u32) -> vec4<bool> { return vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(sampling.vocabulary); }

// Scores of tokens 4i … 4i + 3; LOWEST beyond the vocabulary.
fn scores(i: u32) -> vec4<f32> {
  var s = logits[i];
  if (sampling.penalties != 0u) {
    let c = counts[i];
    s = vec4<f32>(penalized(s.x, c.x), penalized(s.y, c.y), penalized(s.z, c.z), penalized(s.w, c.w));
  }
  return select(vec4<f32>(LOWEST), s, inside(i));
}

// What is known of a set of tokens: x, y: max and Σ e^(l − max) of the logits; z, w: the largest score and the lowest id that has it (exact: V < 2²⁴).
fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let largest = max(a.x, b.x);
  let better = b.z > a.z || (b.z == a.z && b.w < a.w);
  return vec4<f32>(largest, a.y * exp(a.x - largest) + b.y * exp(b.x - largest), select(a.zw, b.zw, better));
}

const LEAVES = 16u;
var<workgroup> leaves: array<vec4<f32>, WG>;
var<workgroup> branches: array<vec4<f32>, WG / LEAVES>;

// The join of what all threads know, in a fixed order, the same for every thread.
fn all_joined(own: vec4<f32>, t: u32) -> vec4<f32> {
  leaves[t] = own;
  workgroupBarrier();
  if (t < WG / LEAVES) {
    var branch = leaves[t * LEAVES];
    for (var i = 1u; i < rolled(LEAVES); i++) { branch = joined(branch, leaves[t * LEAVES + i]); }
    branches[t] = branch;
  }
  workgroupBarrier();
  var all = branches[0];
  for (var i = 1u; i < rolled(WG / LEAVES); i++) { all = joined(all, branches[i]); }
  return all;
}

// Order of scores as u32: 0 is the best. −0 equals 0.
fn rank_of(score: f32) -> u32 {
  let bits = select(bitcast<u32>(score), 0u, score == 0.0);
  return select(~(bits | 0x80000000u), bits, (bits >> 31u) == 1u);
}

fn score_of(rank: u32) -> f32 { return bitcast<f32>(select(~rank & 0x7fffffffu, rank, (rank >> 31u) == 1u)); }

// e^((score − max) / temperature) in units of 2⁻³¹, so that sums are exact in any order.
fn weight_of(score: f32, top: f32) -> u32 { return u32(exp((score - top) / sampling.temperature) * 2147483648.0 + 0.5); }

// A histogram of the tokens that are still undecided: weights as 64 bits, and the least and the greatest coordinate in each bin.
const BINS = WG;
var<workgroup> bin_low: array<atomic<u32>, BINS>;
var<workgroup> bin_high: array<atomic<u32>, BINS>;
var<workgroup> bin_first: array<atomic<u32>, BINS>;
var<workgroup> bin_last: array<atomic<u32>, BINS>;
var<workgroup> undecided: vec4<u32>; // phase, first and last coordinate, rank that is tied

// How the undecided are told apart: roughly by the score's value, which spreads them best; then by rank; those of one rank by id.
const BY_VALUE = 0u;
const BY_RANK = 1u;
const BY_ID = 2u;
const DECIDED = 3u;

fn before(a: vec2<u32>, b: vec2<u32>) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }
fn minus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> { return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x)); }
fn plus(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> { return vec2<u32>(a.x + b.x, a.y + b.y + select(0u, 1u, a.x + b.x < a.x)); }

fn kept(rank: u32, id: u32, cut: vec2<u32>) -> bool { return rank < cut.x || (rank == cut.x && id <= cut.y); }

// Of the tokens up to `cut` = (rank, id), the last one of the fewest best whose weights reach the need: top_k with weights of 1, or the share top_p of all.
fn narrow(by_weight: bool, cut: vec2<u32>, top: f32, t: u32) -> vec2<u32> {
  var needed = vec2<u32>(sampling.top_k, 0u); // thread 0's is the one that counts
  var now = vec4<u32>(BY_VALUE, 0u, 0xffffffffu, 0u);
  for (var round = 0u; round < rolled(8u) && now.x != DECIDED; round++) { // by value once, by rank 4 times at most, by id 3
    atomicStore(&bin_low[t], 0u);
    atomicStore(&bin_high[t], 0u);
    atomicStore(&bin_first[t], 0xffffffffu);
    atomicStore(&bin_last[t], 0u);
    workgroupBarrier();
    let width = (now.z - now.y) / BINS + 1u;
    for (var i = t; 4u * i < sampling.vocabulary; i += WG) {
      let s = scores(i);
      for (var j = 0u; j < loop_bound(4u); j++) {
        let id = 4u * i + j;
        let rank = rank_of(s[j]);
        let coordinate = select(rank, id, now.x == BY_ID);
        if (id >= sampling.vocabulary || !kept(rank, id, cut)) { continue; }
        if (coordinate < now.y || coordinate > now.z || (now.x == BY_ID && rank != now.w)) { continue; }
        var bin = (coordinate - now.y) / width;
        if (now.x == BY_VALUE) { bin = u32(min((top - s[j]) * 8.0, 255.0)); }
        let weight = select(1u, weight_of(s[j], top), by_weight);
        if (atomicAdd(&bin_low[bin], weight) > 0xffffffffu - weight) { atomicAdd(&bin_high[bin], 1u); }
        atomicMin(&bin_first[bin], coordinate);
        atomicMax(&bin_last[bin], coordinate);
      }
    }
    workgroupBarrier();
    if (t == 0u) {
      if (by_weight && now.x == BY_VALUE) { // ⌈p · total⌉
        var total = vec2<u32>(0u);
        for (var b = 0u; b < rolled(BINS); b++) { total = plus(total, vec2<u32>(atomicLoad(&bin_low[b]), atomicLoad(&bin_high[b]))); }
        needed = plus(vec2<u32>(multiply_high(total.x, sampling.top_p), 0u), vec2<u32>(total.y * sampling.top_p, multiply_high(total.y, sampling.top_p)));
        needed = plus(needed, vec2<u32>(select(0u, 1u, total.x * sampling.top_p != 0u), 0u));
      }
      var b = 0u;
      var weight = vec2<u32>(0u);
      for (; b < rolled(BINS); b++) {
        weight = vec2<u32>(atomicLoad(&bin_low[b]), atomicLoad(&bin_high[b]));
        if (!before(weight, needed)) { break; }
        needed = minus(needed, weight);
      }
      let first = atomicLoad(&bin_first[min(b, BINS - 1u)]);
      let last = atomicLoad(&bin_last[min(b, BINS - 1u)]);
      let single = select(1u, weight_of(score_of(first), top), by_weight);
      if (b == BINS) { // the weights fall short: all stay
        undecided = vec4<u32>(DECIDED, cut.y, 0u, cut.x);
      } else if (now.x == BY_ID) {
        undecided = vec4<u32>(select(BY_ID, DECIDED, first == last), first, last, now.w);
      } else if (first < last) {
        undecided = vec4<u32>(BY_RANK, first, last, 0u);
      } else if (weight.x == single && weight.y == 0u) { // one token, not several of one rank
        undecided = vec4<u32>(DECIDED, 0xffffffffu, 0u, first);
      } else {
        undecided = vec4<u32>(BY_ID, 0u, sampling.vocabulary - 1u, first);
      }
    }
    now = workgroupUniformLoad(&undecided);
  }
  return vec2<u32>(now.w, now.y);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32) {
#if CODE == lut4
  load_table(t);
#endif
  var known = vec4<f32>(LOWEST, 0.0, LOWEST, 0.0);
#if CANDIDATES
  for (var i = t; 2u * i < arrayLength(&candidates); i += WG) { known = joined(known, candidates[2u * i]); }
#else
  for (var i = t; 4u * i < sampling.vocabulary; i += WG) {
    let l = select(vec4<f32>(logits[i].x), logits[i], inside(i));
    let largest = max(known.x, largest_of(l));
    let terms = select(vec4<f32>(0.0), exp(l - largest), inside(i));
    known.y = known.y * exp(known.x - largest) + terms.x + terms.y + terms.z + terms.w;
    if (largest_of(-l) > -LOWEST) { known.y = l.x - largest_of(-l); } // e^−∞ would leave no trace in the sum
    known.x = largest;
    let s = scores(i);
    let best = largest_of(s);
    if (best > known.z) {
      known.z = best;
      known.w = f32(4u * i + select(select(select(3u, 2u, s.z == best), 1u, s.y == best), 0u, s.x == best));
    }
  }
#endif
  known = all_joined(known, t);
  let top = known.z;

  let draw = draw_index();
  if (sampling.temperature > 0.0) {
    var cut = vec2<u32>(0xffffffffu); // rank and id of the last token that is kept
    for (var filter_index = 0u; filter_index < rolled(2u); filter_index++) { // a loop, so that narrow() is compiled once
      let wanted = select(sampling.top_k < sampling.vocabulary, sampling.top_p != 0u, filter_index == 1u);
      if (wanted) { cut = narrow(filter_index == 1u, cut, top, t); }
    }
    var drawn = vec4<f32>(0.0, 0.0, LOWEST, known.w);
#if CANDIDATES
    for (var i = t; !is_filtered() && 2u * i < arrayLength(&candidates); i += WG) {
      let candidate = candidates[2u * i + 1u];
      let noisy = (candidate.x - top) / sampling.temperature + candidate.z;
      if (noisy > drawn.z) { drawn = vec4<f32>(0.0, 0.0, noisy, candidate.y); }
    }
    for (var i = t; is_filtered() && 4u * i < sampling.vocabulary; i += WG) {
#else
    for (var i = t; 4u * i < sampling.vocabulary; i += WG) {
#endif
      let raw = scores(i);
      var s = (raw - top) / sampling.temperature;
      for (var j = 0u; j < loop_bound(4u); j++) {
        if (s[j] < sampling.floor || 4u * i + j >= sampling.vocabulary || !kept(rank_of(raw[j]), 4u * i + j, cut)) { s[j] = LOWEST; }
      }
      if (largest_of(s) < max(drawn.z - 22.9, LOWEST / 2.0)) { continue; } // none is kept, or the largest noise there is makes none win
      let words = philox(vec4<u32>(i, draw, 0u, 0u), sampling.seed);
      for (var j = 0u; j < loop_bound(4u); j++) {
        let noisy = s[j] + gumbel(words[j]);
        if (noisy > drawn.z) { drawn = vec4<f32>(0.0, 0.0, noisy, f32(4u * i + j)); }
      }
    }
    known.w = all_joined(drawn, t).w;
  }

  let id = u32(known.w);
  if (t == 0u) {
    counts[id >> 2u][id & 3u] += 1u;
    y[draw] = vec4<u32>(id, bitcast<u32>(logits[id >> 2u][id & 3u]), bitcast<u32>(known.x), bitcast<u32>(known.y));
  }
  let position = run.start + run.count; // where the context is full, there is no next step, and any x will do
  for (var k4 = t; k4 < shape.x_stride; k4 += WG) { x[k4] = embedded(id, position, k4); }
}
