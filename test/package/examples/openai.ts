// toOpenAI() against the types of OpenAI's own client, and as the server that this client talks to.
import { type CompletionRequest, type CompletionResponse, loadModel, toOpenAI } from "nibble-webgpu";
import OpenAI from "openai";

/** The client's types leave out the null that chunks have for what is not known yet. */
type Nullable<T> = T extends object ? { [K in keyof T]: Nullable<T[K]> | null } : T;
type Params<T extends OpenAI.CompletionCreateParams> = T & { prompt: string };

const { completions } = toOpenAI(await loadModel("/model/", { backend: "cpu", cache: "none" }));
const request = { model: "gpt2", prompt: "Once upon a time", max_tokens: 12, temperature: 0, logprobs: 2, echo: true, n: 2, stop: [" loved"], seed: 1, logit_bias: { "50256": -100 } };
const wholeRequest: Params<OpenAI.CompletionCreateParamsNonStreaming> = request;
const streamRequest: Params<OpenAI.CompletionCreateParamsStreaming> = { ...request, stream: true, stream_options: { include_usage: true } };
const whole: Nullable<OpenAI.Completion> = await completions.create(wholeRequest);
const chunks: AsyncIterable<Nullable<OpenAI.Completion>> = await completions.create(streamRequest);

async function* events(chunks: AsyncIterable<CompletionResponse>): AsyncGenerator<string> {
  for await (const chunk of chunks) yield `data: ${JSON.stringify(chunk)}\n\n`;
  yield "data: [DONE]\n\n";
}
async function serve(_: string | URL | Request, init?: RequestInit): Promise<Response> {
  const asked = JSON.parse(String(init?.body)) as CompletionRequest;
  if (!asked.stream) return Response.json(await completions.create({ ...asked, stream: false }));
  const written = events(await completions.create({ ...asked, stream: true }));
  const body = new ReadableStream<string>({
    async pull(controller) {
      const { done, value } = await written.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  return new Response(body.pipeThrough(new TextEncoderStream()), { headers: { "Content-Type": "text/event-stream" } });
}
const client = new OpenAI({ apiKey: "none", baseURL: "http://localhost", dangerouslyAllowBrowser: true, fetch: serve });

/** Without what every answer has anew. */
const comparable = ({ choices, usage, object, model }: Nullable<OpenAI.Completion>) => ({ choices, usage, object, model });
const listed = async (chunks: AsyncIterable<Nullable<OpenAI.Completion>>) => {
  const all: ReturnType<typeof comparable>[] = [];
  for await (const chunk of chunks) all.push(comparable(chunk));
  return all;
};
const [direct, served] = [await listed(chunks), await listed(await client.completions.create(streamRequest))];
Object.assign(globalThis, {
  results: {
    text: whole.choices![0]!.text,
    streamedText: direct.map(({ choices }) => choices!.map((choice) => (choice!.index === 0 ? choice!.text : "")).join("")).join(""),
    usage: [whole.usage, direct.at(-1)!.usage],
    whole: [comparable(whole), comparable(await client.completions.create(wholeRequest))],
    chunks: [direct, served],
  },
});
