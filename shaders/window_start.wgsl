// The first position that the token at `position` sees: windows that lie side by side in the cache do not see each other. Needs `run`.
const SIDE_BY_SIDE = 0x80000000u; // in Step.splits, the rest of which is then the tokens of each window

fn window_start(position: u32) -> u32 {
  if ((run.splits & SIDE_BY_SIDE) == 0u) { return 0u; }
  return position - position % (run.splits ^ SIDE_BY_SIDE);
}
