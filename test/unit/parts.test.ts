import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { fetchPart } from "../../src/parts.ts";

describe("a part of the engine", () => {
  test("that cannot be fetched rejects with network and its name, and is asked for again by the next call", async () => {
    const causes = [new TypeError("Failed to fetch dynamically imported module")];
    const importPart = async (): Promise<string> => {
      const cause = causes.pop();
      if (cause) throw cause;
      return "part";
    };
    const [cause] = causes;
    const error = await fetchPart("The CPU backend", importPart).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EngineError);
    expect(error).toMatchObject({ code: "network", details: { part: "The CPU backend" }, cause });
    expect((error as EngineError).message).toBe("The CPU backend could not be fetched: Failed to fetch dynamically imported module; expected its file where the engine's own lies.");
    expect(await fetchPart("The CPU backend", importPart)).toBe("part");
  });

  test("that is on its way is not waited for after an abort, and leaves no listener", async () => {
    const aborting = new AbortController();
    const { signal } = aborting;
    const listeners = (): number => getEventListeners(signal, "abort").length;
    expect(await fetchPart("A part", async () => "here", signal)).toBe("here"); // control case
    expect(listeners()).toBe(0);
    const fetched = fetchPart("A part", () => new Promise(() => undefined), signal);
    expect(listeners()).toBe(1);
    const reason = new Error("no longer wanted");
    aborting.abort(reason);
    await expect(fetched).rejects.toBe(reason);
    expect(listeners()).toBe(0);
    let asked = false;
    await expect(fetchPart("A part", async () => (asked = true), signal)).rejects.toBe(reason);
    expect(asked).toBe(false);
  });
});
