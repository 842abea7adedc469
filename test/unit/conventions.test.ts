import { describe, expect, test } from "vitest";
import { toReadableStream } from "../../src/generate/readableStream.ts";
import { LoadedModel } from "../../src/load/model.ts";
import { loadModel, type Model } from "../../src/index.ts";
import { transformersProgress, type TransformersProgressEvent } from "../../src/load/transformersProgress.ts";
import { toOpenAI } from "../../src/openai/toOpenAI.ts";
import type { CompletionRequest, CompletionResponse } from "../../src/openai/types.ts";
import { byteTokenizer } from "../fixtures/byteTokenizer.ts";
import { FormulaBackend, formulaConfig, type LogitFormula } from "../fixtures/formulaBackend.ts";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";
import { tolerances } from "../tolerances.ts";

const V = byteTokenizer.vocabSize;
const END = 256;

function modelOf(formula: LogitFormula): { model: Model; backend: FormulaBackend } {
  const backend = new FormulaBackend(V, formula);
  const model = new LoadedModel({ config: formulaConfig(V), contextLength: 64, backend, tokenizer: byteTokenizer, tokenizerFiles: {}, quantization: null as never, description: "" });
  return { model, backend };
}

/** A model of bytes whose likeliest text behind a two-byte prompt is `script`. */
function scripted(script: string): { model: Model; backend: FormulaBackend } {
  const ids = byteTokenizer.encode(script);
  return modelOf((context, id) => (id === (ids[context.length - 2] ?? END) ? 5 : Math.sin(id)));
}

const greedy = (request: Omit<CompletionRequest, "prompt">): CompletionRequest & { stream?: false } => ({ prompt: "ab", temperature: 0, ...request }) as CompletionRequest & { stream?: false };

async function chunksOf(model: Model, request: Omit<CompletionRequest, "prompt" | "stream">): Promise<CompletionResponse[]> {
  const chunks: CompletionResponse[] = [];
  for await (const chunk of await toOpenAI(model).completions.create({ ...greedy(request), stream: true })) chunks.push(chunk);
  return chunks;
}

describe("toOpenAI", () => {
  test("completes a prompt as OpenAI's API answers", async () => {
    const { model } = scripted("cde");
    const response = await toOpenAI(model).completions.create(greedy({ model: "stories", max_tokens: 9 }));
    expect(response).toEqual({
      id: expect.stringMatching(/^cmpl-\w+$/) as string,
      object: "text_completion",
      created: expect.any(Number) as number,
      model: "stories",
      choices: [{ text: "cde", index: 0, logprobs: null, finish_reason: "stop" }],
      usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 },
    });
  });

  test.each([
    [{ max_tokens: 2 }, "cd", "length"],
    [{ max_tokens: null }, "cdefghij", "stop"],
    [{ stop: "fg" }, "cde", "stop"],
    [{ stop: ["x", "e"] }, "cd", "stop"],
    [{ logit_bias: { [END]: 100 } }, "", "stop"],
  ] satisfies [Partial<CompletionRequest>, string, string][])("with %j gives %j and ends by %s", async (request, text, finishReason) => {
    const { choices } = await toOpenAI(scripted("cdefghij").model).completions.create(greedy(request));
    expect(choices[0]).toMatchObject({ text, finish_reason: finishReason });
  });

  test("takes 16 tokens where max_tokens is not given", async () => {
    const { usage } = await toOpenAI(scripted("x".repeat(40)).model).completions.create(greedy({}));
    expect(usage!.completion_tokens).toBe(16);
  });

  test("completes each of several prompts n times, each with a seed of its own, and counts a prompt once", async () => {
    const { model } = modelOf((_, id) => (id >= 97 && id < 123 ? 5 : -50)); // any letter
    const { choices, usage } = await toOpenAI(model).completions.create({ prompt: ["ab", "cde"], n: 2, seed: 7, max_tokens: 8 });
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect(choices[0]!.text).not.toBe(choices[1]!.text);
    const again = await toOpenAI(model).completions.create({ prompt: [byteTokenizer.encode("ab")], seed: 8, max_tokens: 8 });
    expect(again.choices[0]!.text).toBe(choices[1]!.text);
    expect(usage).toEqual({ prompt_tokens: 5, completion_tokens: 32, total_tokens: 37 });
  });

  test("reports log-probabilities, alternatives and offsets, of an echoed prompt too", async () => {
    const { model } = scripted("cé");
    const { choices } = await toOpenAI(model).completions.create(greedy({ echo: true, logprobs: 1 }));
    const { text, logprobs } = choices[0]!;
    expect(text).toBe("abcé");
    expect(logprobs!.tokens).toEqual(["a", "b", "c", "\uFFFD", "\uFFFD"]);
    expect(logprobs!.text_offset).toEqual([0, 1, 2, 3, 3]);
    const tokens = byteTokenizer.encode("abcé");
    const expected = await model.tokenLogProbs(tokens);
    expect(logprobs!.token_logprobs[0]).toBeNull();
    logprobs!.token_logprobs.slice(1).forEach((logProb, i) => expect(Math.abs(logProb! - expected[i]!)).toBeLessThan(tolerances.logProb));
    expect(Object.keys(logprobs!.top_logprobs[2]!)).toEqual(["c"]); // the likeliest is the token itself
    expect(Object.keys(logprobs!.top_logprobs[1]!)).toHaveLength(2); // "b" was not
    expect(Object.values(logprobs!.top_logprobs[1]!)[0]).toBeGreaterThan(logprobs!.token_logprobs[1]!);
  });

  test("scores a prompt without adding to it", async () => {
    const { choices } = await toOpenAI(scripted("cd").model).completions.create(greedy({ echo: true, logprobs: 0, max_tokens: 0 }));
    expect(choices[0]).toMatchObject({ text: "ab", finish_reason: "length", logprobs: { tokens: ["a", "b"] } });
  });

  test("streams chunks that add up to the response, the last with the reason, and the usage where it is asked for", async () => {
    const chunks = await chunksOf(scripted("cdé").model, { stream_options: { include_usage: true } });
    expect(chunks.map(({ choices }) => choices[0]?.text).join("")).toBe("cdé");
    expect(chunks.map(({ choices }) => choices[0]?.finish_reason)).toEqual([null, null, null, null, "stop", undefined]);
    expect(chunks.map(({ usage }) => usage)).toEqual([null, null, null, null, null, { prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 }]);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
    expect((await chunksOf(scripted("c").model, {})).every((chunk) => !("usage" in chunk))).toBe(true); // control case
  });

  test("ends the run where the loop over chunks is left, and completes again", async () => {
    const { model, backend } = scripted("cdefghijklmnop");
    for await (const _ of await toOpenAI(model).completions.create({ ...greedy({ n: 3 }), stream: true })) break;
    expect(backend.calls.length).toBeLessThan(4);
    expect((await toOpenAI(model).completions.create(greedy({ max_tokens: 2 }))).choices[0]!.text).toBe("cd");
  });

  test("refuses what is no model", () => {
    expect(() => toOpenAI(undefined as unknown as Model)).toThrow(new TypeError("model is undefined; expected a loaded model."));
  });

  test("rejects with the signal's reason", async () => {
    const reason = new Error("enough");
    await expect(toOpenAI(scripted("c").model).completions.create(greedy({}), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test.each([
    [{ max_tokens: -1 }, RangeError, "max_tokens is -1"],
    [{ top_p: 2 }, RangeError, "top_p is 2"],
    [{ logprobs: 21 }, RangeError, "logprobs is 21"],
    [{ logit_bias: { 999: 1 } }, RangeError, 'logit_bias has the key "999"'],
    [{ n: 0 }, RangeError, "n is 0"],
    [{ n: "2" }, TypeError, 'n is "2"'],
    [{ seed: 0.5 }, RangeError, "seed is 0.5"],
    [{ best_of: 2 }, TypeError, "best_of is 2; this engine does not serve it"],
    [{ prompt: [] }, TypeError, "prompt is []"],
    [{ prompt: 3 }, TypeError, "prompt is 3"],
  ] as [object, ErrorConstructor, string][])("refuses %j under OpenAI's name", async (wrong, type, message) => {
    const { completions } = toOpenAI(scripted("c").model);
    await completions.create(greedy({ logit_bias: null, user: "me" })); // control case
    const error = await completions.create({ ...greedy({}), ...wrong }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toContain(message);
  });
});

describe("toReadableStream", () => {
  test("gives the text of a generation, made as it is read", async () => {
    const { model, backend } = scripted("cdé!");
    const stream = toReadableStream(model.generate("ab", { temperature: 0 }));
    expect(backend.calls).toEqual([]);
    let text = "";
    for await (const piece of stream as unknown as AsyncIterable<string>) text += piece;
    expect(text).toBe("cdé!");
  });

  test("ends the generation when it is cancelled, and passes its error on", async () => {
    const { model } = scripted("cdefgh");
    const generation = model.generate("ab", { temperature: 0 });
    const reader = toReadableStream(generation).getReader();
    expect(await reader.read()).toEqual({ done: false, value: "c" });
    await reader.cancel();
    expect(generation.summary).toMatchObject({ finishReason: "cancelled", newTokens: 1 });
    const tooLong = toReadableStream(model.generate("x".repeat(65))).getReader();
    await expect(tooLong.read()).rejects.toMatchObject({ code: "promptTooLong" });
  });
});

describe("transformersProgress", () => {
  test("calls back as transformers.js does, file by file, ready last", async () => {
    const events: TransformersProgressEvent[] = [];
    using _ = await loadModel(seededCheckpoint(tinyCheckpoints.width100), { backend: "cpu", onProgress: transformersProgress((event) => events.push(event), "tiny") });
    const inOrder = events.map(({ status }) => status).filter((status, i, all) => status !== all[i - 1]);
    expect(inOrder).toEqual(["initiate", "download", "progress", "done", "ready"]);
    expect(events.findLast(({ status }) => status === "progress")).toMatchObject({ name: "tiny", file: "model.safetensors", progress: 100 });
    expect(events.at(-1)).toEqual({ status: "ready", task: "text-generation", model: "tiny" });
  });
});
