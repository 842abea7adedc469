import { EngineError, throwIfAborted } from "../errors.ts";
import type { SourceOptions } from "./openSource.ts";
import { readPieces } from "./readPieces.ts";
import type { CheckpointSource, SourceFile } from "./types.ts";

/** A place on a server that holds the files of one checkpoint. */
export interface RemoteFolder {
  description: string;
  fileUrl: (name: string) => URL;
  safetensorsNames: readonly string[];
  /** Sent as Bearer; fetch itself drops it when a redirect leaves the origin. */
  token: string | undefined;
}

/**
 * Files over HTTP. open() sends the request, the file's first stream() takes the body of its response, every later one asks again.
 */
export function remoteSource(folder: RemoteFolder, { fetch: fetchOption, signal: sourceSignal }: Pick<SourceOptions, "fetch" | "signal">): CheckpointSource {
  const fetchFile = fetchOption ?? ((input: RequestInfo | URL, init?: RequestInit) => globalThis.fetch(input, init));

  async function request(url: URL, signal: AbortSignal | undefined): Promise<Response | null> {
    throwIfAborted(signal);
    const headers: Record<string, string> = folder.token ? { Authorization: `Bearer ${folder.token}` } : {};
    let response: Response;
    try {
      response = await fetchFile(url, { headers, signal });
    } catch (cause) {
      throwIfAborted(signal);
      throw new EngineError("network", `${show(url)} could not be reached: ${cause instanceof Error ? cause.message : String(cause)}.`, { url: show(url) }, { cause });
    }
    if (response.ok) return response;
    response.body?.cancel().catch(() => undefined); // nobody reads the error page
    if (response.status === 404) return null;
    throw new EngineError("network", `${show(url)} answered ${response.status}: ${meaning(response.status)}.`, { url: show(url), status: response.status });
  }

  /** opened: a response whose body nobody has read yet, requested under openSignal. */
  async function* stream(url: URL, opened: Response | null, openSignal: AbortSignal | undefined, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const response = opened ?? (await request(url, signal));
    if (!response) throw new EngineError("network", `${show(url)} answered 404; it was there before.`, { url: show(url), status: 404 });
    const expectedBytes = bodyBytes(response, url);
    let loadedBytes = 0;
    const brokeOff = (cause?: unknown): unknown => {
      if (openSignal?.aborted) return openSignal.reason;
      const message = `${show(url)} broke off after ${loadedBytes} bytes${expectedBytes === null ? "" : `; expected ${expectedBytes}`}.`;
      return new EngineError("network", message, { url: show(url), loadedBytes, expectedBytes }, { cause });
    };
    if (response.body) {
      for await (const piece of readPieces(response.body, signal, brokeOff)) {
        loadedBytes += piece.length;
        yield piece;
      }
    }
    if (expectedBytes !== null && loadedBytes < expectedBytes) throw brokeOff();
  }

  return {
    description: folder.description,
    safetensorsNames: folder.safetensorsNames,
    isLocal: false,
    async open(name, { signal = sourceSignal } = {}): Promise<SourceFile | null> {
      const url = folder.fileUrl(name);
      let opened = await request(url, signal);
      if (!opened) return null;
      return {
        name,
        sizeBytes: bodyBytes(opened, url),
        stream: (options) => {
          const response = opened;
          opened = null;
          return stream(url, response, signal, options?.signal ?? signal);
        },
      };
    },
  };
}

/**
 * Length of the body, null where Content-Length does not tell: it counts compressed bytes, and a server of another origin may
 * hide that it compressed. Weights are the exception, nobody compresses them on the way.
 */
function bodyBytes(response: Response, url: URL): number | null {
  if (response.headers.has("content-encoding")) return null;
  if (response.type === "cors" && !url.pathname.endsWith(".safetensors")) return null;
  const length = response.headers.get("content-length");
  return length !== null && /^\d+$/.test(length) ? Number(length) : null;
}

function meaning(status: number): string {
  if (status === 401) return "it does not exist, or needs a token with access (hub.token)";
  if (status === 403) return "access is refused; a gated model needs a token of an account that accepted its terms (hub.token)";
  if (status === 429) return "too many requests; try again later";
  if (status >= 500) return "the server failed; try again later";
  return "expected 200";
}

/** Without query and credentials, which may hold secrets. */
function show(url: URL): string {
  return url.origin + url.pathname;
}
