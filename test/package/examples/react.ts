// The guide's hook in a component, in strict mode, which mounts, unmounts and mounts again.
import type { EngineError } from "nibble-webgpu";
import { createElement, StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { useModel } from "./useModel.ts";

/** Called when there may be something to see: a component was rendered, or a file is asked for. */
const looks = new Set<() => void>();
const until = (holds: () => boolean): Promise<void> =>
  new Promise((resolve) => {
    const look = (): void => {
      if (!holds()) return;
      looks.delete(look);
      resolve();
    };
    looks.add(look);
    look();
  });

const asked: { path: string; signal: AbortSignal }[] = [];
const { fetch } = globalThis;
globalThis.fetch = (input, init) => {
  asked.push({ path: new URL(String(input)).pathname, signal: init!.signal! });
  looks.forEach((look) => look());
  return fetch(input, init);
};
/** Whether each load that came to ask for it was aborted: the first of strict mode's two is before it asks. */
const loads = (): boolean[] => asked.filter(({ path }) => path === "/model/config.json").map(({ signal }) => signal.aborted);

const complaints: unknown[] = [];
console.error = (...words: unknown[]) => complaints.push(words);
addEventListener("unhandledrejection", ({ reason }) => complaints.push(reason));

let state: ReturnType<typeof useModel> = { model: null, error: null };
function Reader({ source }: { source: string }): null {
  state = useModel(source);
  useEffect(() => looks.forEach((look) => look()));
  return null;
}
const root = createRoot(document.body);
const show = (source: string): void => root.render(createElement(StrictMode, null, createElement(Reader, { source })));
show("/model/");
await until(() => state.model !== null);
const first = state.model!;
const { text } = await first.complete("Once upon a time", { maxTokens: 12, temperature: 0 });
const loadsAlive = loads().filter((isAborted) => !isAborted).length;

show(`${location.origin}/model/`);
await until(() => state.model !== first);
const meanwhile = { ...state, first: await first.complete("Once").catch((error: EngineError) => error.code) };
await until(() => state.model !== null);

show("/nowhere/");
await until(() => state.error !== null);
const { code } = state.error as EngineError;

const loadsBefore = loads().length;
show("/model/");
await until(() => loads().length > loadsBefore);
root.unmount();
const areAborted = loads().every(Boolean);
await (await fetch("/model/config.json")).text(); // what is to be rejected is by now
Object.assign(globalThis, { results: { text, loadsAlive, meanwhile, code, areAborted, complaints: complaints.map(String) } });
