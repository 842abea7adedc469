// What does not change during one generation; 48 bytes, written when it starts. Needs `run`, and `sampling` bound.
struct Sampling {
  seed: vec2<u32>,  // low word, high word
  first: u32,       // position of the first token sampled: the prompt's length
  vocabulary: u32,
  top_k: u32,       // vocabulary: no limit
  top_p: u32,       // p · 2³²; 0: no limit
  floor: f32,       // ln min-p; −3e38: no limit
  temperature: f32, // 0: greedy
  penalties: u32,   // 0: none, and `counts` is not read
  repetition: f32,
  frequency: f32,
  presence: f32,
};

const LOWEST = -3.0e38;
const SEEN_IN_PROMPT = 0x80000000u;

// The logit of a token after its penalties. count: how often it occurs in the output, and whether in the prompt.
fn penalized(logit: f32, count: u32) -> f32 {
  var score = logit;
  if (count != 0u) { score = select(score * sampling.repetition, score / sampling.repetition, score > 0.0); }
  let occurrences = count & ~SEEN_IN_PROMPT;
  if (occurrences != 0u) { score -= f32(occurrences) * sampling.frequency + sampling.presence; }
  return clamp(score, -1.0e38, 1.0e38);
}

// Only some tokens may be drawn, and which cannot be told from a few of them.
fn is_filtered() -> bool { return sampling.top_k < sampling.vocabulary || sampling.top_p != 0u || sampling.floor > LOWEST; }

// How many tokens were sampled before this one: the counter of its noise.
fn draw_index() -> u32 { return run.start + run.count - sampling.first; }
