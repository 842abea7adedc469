// `count`, under ROLLED hidden from the compiler: software adapters take seconds to compile unrolled loops, and gain nothing by them.
// Needs `run`, whose count is never 0.
fn loop_bound(count: u32) -> u32 {
#if ROLLED
  return count * min(run.count, 1u);
#else
  return count;
#endif
}
