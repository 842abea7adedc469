import { Pacer } from "../model/cpu/pacer.ts";
import { createTokenizerSteps, type Tokenizer } from "../tokenizer/index.ts";
import type { Gpt2Config } from "../types.ts";

/** createTokenizer(), with pauses for the event loop. @throws as it; signal.reason on abort */
export async function readTokenizer(files: Readonly<Record<string, string>>, config: Gpt2Config, signal: AbortSignal | undefined): Promise<Tokenizer> {
  const steps = createTokenizerSteps(files, config);
  const pacer = new Pacer();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (pacer.isDue()) await pacer.rest(signal);
  }
}
