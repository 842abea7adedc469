// What changes from dispatch to dispatch; 16 bytes, written before each submit.
struct Step {
  start: u32,  // position of the first token of this chunk
  count: u32,  // tokens (rows) of this chunk
  row: u32,    // first row to read of an activation that holds more than this chunk
  splits: u32, // ranges of cached positions that decode attention works on; or windows side by side, see window_start.wgsl
};
