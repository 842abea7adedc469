// The guide's adapter behind the Vercel AI SDK.
import { generateText, jsonSchema, streamText, tool } from "ai";
import { loadModel } from "nibble-webgpu";
import { toLanguageModel } from "./toLanguageModel.ts";

const model = toLanguageModel(await loadModel("/model/", { backend: "cpu", cache: "none" }));
const call = { model, prompt: "Once upon a time", temperature: 0, maxOutputTokens: 12 };

async function drain(chunks: AsyncIterable<string>, onChunk = (): void => undefined): Promise<string> {
  let text = "";
  for await (const chunk of chunks) {
    text += chunk;
    onChunk();
  }
  return text;
}

const whole = await generateText(call);
const streamed = streamText(call);
const text = await drain(streamed.textStream);
const stopped = await generateText({ ...call, stopSequences: [" named"] });

const stop = new AbortController();
let aborts = 0;
const aborted = streamText({ ...call, maxOutputTokens: 200, abortSignal: stop.signal, onAbort: () => void aborts++ });
const start = await drain(aborted.textStream, () => stop.abort());
const after = await generateText({ ...call, tools: { look: tool({ inputSchema: jsonSchema({ type: "object" }) }) } });

const summaryOf = ({ inputTokens, outputTokens, totalTokens }: typeof whole.usage) => ({ inputTokens, outputTokens, totalTokens });
Object.assign(globalThis, {
  results: {
    whole: { text: whole.text, finishReason: whole.finishReason, usage: summaryOf(whole.usage), warnings: whole.warnings },
    streamed: { text, finishReason: await streamed.finishReason, usage: summaryOf(await streamed.usage) },
    stopped: { text: stopped.text, finishReason: stopped.finishReason },
    aborted: { isShort: text.startsWith(start), aborts },
    after: { text: after.text, warnings: after.warnings },
  },
});
