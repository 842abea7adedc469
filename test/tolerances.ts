/** Every tolerance of the suites, each with its reason. A test that needs another adds it here. */
export const tolerances = {
  /** Oracle against the golden files: two float64 programs that differ in the order of their sums. */
  oracleLogit: 1e-9,

  /** Kernels against the f64 oracle on the same (dequantized) operands, by NMSE: f32 sums of K ≤ 6,400 terms err by at most √K · 2⁻²⁴ ≈ 5e-6 relative, squared 2e-11. */
  kernelNmse: {
    f32: 1e-10,
    /** Storage formats restore their values exactly or within one f32 rounding; the sum dominates, as for f32. */
    quantized: 1e-10,
    /** exp and division of WGSL may be off by some units in the last place. */
    attention: 1e-10,
    /** A quotient within an ulp of a half may round to the neighbouring code: a few values off by 1/127 of a head's largest. Measured 1.3e-7. */
    attentionInt8: 1e-6,
    layerNorm: 1e-10,
    activation: 1e-10,
  },

  /** Statistics of a model's inputs, by NMSE: those inputs carry an f32 error of about 1e-6 from layer to layer, which the sums share. */
  statisticsNmse: 1e-10,
  /**
   * Share of magnitudes that the same error e moves across an edge: bins are about x / 90 wide, so that 90 · e / x of the values near x move,
   * in all 90 · e · ln(1 / e) = 1e-3 of values of order 1. Measured 1.25e-3, two values of 1,600.
   */
  histogramMoved: 5e-3,

  /** GELU over max(1, |x|): exp within 3 + 2|x| ulp and a division within 2.5 ulp; measured 3.3e-7 on both software adapters. */
  geluRelative: 1e-6,

  /** Softmax in f32: exp within 2 ulp, a sum of 1,024 terms in four lanes, a division. */
  probability: 1e-6,

  /** ln p of one row from a max and a sum in f32: half an ulp of logits up to 64. */
  rowLogProb: 1e-5,
  /** Gumbel noise in f32: two logarithms within an ulp or two of results up to 23. */
  gumbel: 5e-6,
  /** KL of one row, relative, down to 5e-7 nats: what logits near 32, with an ulp of 2e-6, leave of a difference of 1e-3. Measured 8e-6. */
  rowDivergenceRelative: 1e-4,

  /** Mean NLL over thousands of tokens: the errors of single tokens average out. */
  meanNll: 1e-5,

  /** Perplexity, relative, where calibration ran on another backend: its f32 sums in another order turn some codes to their neighbours. */
  calibratedNll: 1e-2,

  /** Logits of a whole model, absolute: design §6. Rounding of f32 activations and sums over the layers; the CPU backend, which sums in f64, stays within 2e-6 on the tiny checkpoints. */
  logit: 2e-4,

  /** Log-probabilities: a difference of two numbers that each carry the logits' error. */
  logProb: 4e-4,

  /** Measures of a comparison on the CPU backend, relative to the largest of their kind: what f32 logits leave of divergences of 1e-3 nats, as in rowDivergenceRelative. Measured 6.4e-5. */
  measureRelative: 2e-4,

  /** KL divergence, nats: errors of single logits average out under Σ p. */
  klDivergence: 1e-4,

  /**
   * Logits under a rounded KV cache against the oracle with the same rounding: an f32 error of 1e-7 moves a few values across a rounding boundary,
   * and each that moves is off by a whole step (f16: 2⁻¹⁰ relative; int8: 1/127 of the head's largest). Measured on the CPU backend: f16 3e-4, int8 2e-6 where nothing crossed;
   * the rounding as a whole moves these logits by 3e-3 and 5e-2.
   */
  logitKvF16: 1e-3,
  logitKvInt8: 1e-2,
  /** Under int8 activations, for the same reason: a code that crosses is off by 1/127 of its row's largest. */
  logitActivationsInt8: 1e-2,

  /** Squared error of int8 activations under a range chosen from a histogram, against the best of 200 ranges: bins 1.1 to 1.6 % wide, values taken at their middles. Measured 1.003. */
  rangeError: 1.01,

  /** GPTQ's squared error of the outputs over rounding to nearest's, 16 × 128 weights, neighbouring inputs correlated by 0.9. Measured 0.15 to 0.19, with activation order 0.1. */
  gptqGain: 0.25,
  /** R · Rᵀ against H, relative to √(H_ii · H_jj), in f64. Measured 2e-15. */
  factorization: 1e-13,

  /** Logits of an equalized model, relative to the largest: its weights are rounded to f32 once more. Measured 1e-7. */
  equalizedLogit: 1e-6,
  /** The squared error under the α that the estimate finds best, over the least of all α. Measured 1.007. */
  searchedError: 1.1,
  /** A factor, relative: f32 against f64. Measured 4e-8 to 5e-8. */
  factor: 1e-6,

  /** Growth of the heap, arrays and WebAssembly memories over 80 loads: what V8's compilers keep. Ten models of them would be more. */
  leakedBytes: 2 * 2 ** 20,

  /**
   * What a page may grow by while 124M loads as NF4 on the CPU: 90 MB of weights, 62 MB that Chromium reads ahead, blocks of 8 to 9.4 MB in the reader and the
   * workers, and what engines have not collected yet. Measured with the cache and one worker, on a busy machine: 204 to 254 MB over HTTP, 208 from files, 192 to 198 from
   * buffers; MiB here, for what collectors may leave. Over HTTP, ranges of 8 MB made it 425, since each body that ends leaves Chromium something to collect.
   */
  loadPeakBytes: 250 * 2 ** 20,

  /**
   * Of a part of the page against its picture. Measured 0 under three hintings and both orders of subpixels, which the test switches off; without a control
   * 46 (a disabled button in dark colours) to 350 (three lines of small text).
   */
  differingPixels: 30,
  /** Where the pictures are of another major version of Chromium, whose curves and controls may differ: what is gone shows, what has moved by little does not. */
  differingPixelsOfAnotherChromium: 1000,
  /** Of the README's pictures, which show how fast this machine is: a digit takes 20 to 50 pixels, and they have at most 25. */
  differingPixelsOfTimings: 1000,
  /** How far the page moves by itself while a model loads, as web vitals sum it up (0.1 is good): figures that take the place of dashes. Measured 0.002 to 0.006. */
  layoutShift: 0.02,
} as const;
