import { tokenizerOf } from "../../fixtures/tokenizers.ts";
import type { Subject } from "../measure.ts";
import type { ModelFiles } from "../nibbleSubject.ts";
import { type GgufFormat, gpt2Gguf } from "./gpt2Gguf.ts";
import { readShape } from "./gpt2Onnx.ts";

/** What is used of @wllama/wllama, which is too large to be a dependency. */
export interface WllamaModule {
  Wllama: new (paths: { default: string }, options: { suppressNativeLog: boolean }) => Wllama;
}
interface Wllama {
  loadModel(files: Blob[], options: { n_ctx: number; n_threads: number; n_gpu_layers: number }): Promise<void>;
  createCompletion(request: Readonly<Record<string, unknown>>): Promise<WllamaCompletion>;
  exit(): Promise<void>;
}
interface WllamaCompletion {
  choices: { logprobs: { content: { top_logprobs: { id: number; logprob: number }[] }[] } | null }[];
  timings: { prompt_n: number; prompt_ms: number; predicted_n: number; predicted_ms: number };
}

/** llama.cpp in the page on one thread of the CPU. It takes prompts as text alone, and times itself; the way to its worker and back is not in that. */
export async function wllamaSubject({ Wllama }: WllamaModule, { shape, files, format, wasm }: { shape: string; files: ModelFiles; format: GgufFormat; wasm: string }): Promise<Subject> {
  const { n_positions, vocab_size: V } = readShape(files);
  const tokenizer = tokenizerOf({}, { vocabSize: V, eosTokenId: null });
  const gguf = gpt2Gguf(files, format);
  const startMs = performance.now();
  const wllama = new Wllama({ default: wasm }, { suppressNativeLog: true });
  await wllama.loadModel([gguf], { n_ctx: n_positions, n_threads: 1, n_gpu_layers: 0 });
  const loadMs = performance.now() - startMs;

  const complete = async (prompt: string, promptCount: number, request: Readonly<Record<string, unknown>>): Promise<WllamaCompletion> => {
    const completion = await wllama.createCompletion({ prompt, temperature: 0, cache_prompt: false, ignore_eos: true, ...request });
    const { prompt_n } = completion.timings;
    if (prompt_n !== promptCount) throw new Error(`wllama ran a prompt of ${prompt_n} tokens; expected ${promptCount}.`);
    return completion;
  };
  return {
    name: `wllama ${format}`,
    shape,
    loadMs,
    nPositions: n_positions,
    vocabSize: V,
    async generate({ length }, newTokens) {
      const { timings } = await complete(" a".repeat(length), length, { max_tokens: newTokens }); // as long; which tokens makes no difference
      return { prefillMs: timings.prompt_ms, decodeMs: timings.predicted_ms, newTokens: timings.predicted_n };
    },
    /** ln p, which differ from logits by a constant. */
    async logits(prompt) {
      const { choices } = await complete(tokenizer.decode(prompt), prompt.length, { max_tokens: 1, logprobs: V });
      const logProbs = new Float32Array(V);
      for (const { id, logprob } of choices[0]!.logprobs!.content[0]!.top_logprobs) logProbs[id] = logprob;
      return logProbs;
    },
    dispose: () => wllama.exit(),
  };
}
