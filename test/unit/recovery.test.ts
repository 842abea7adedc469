import { describe, expect, test } from "vitest";
import { EngineError } from "../../src/errors.ts";
import { LossCounter, RecoveringBackend } from "../../src/load/recovery.ts";
import { FormulaBackend } from "../fixtures/formulaBackend.ts";

const loss = (): EngineError => new EngineError("deviceLost", "The GPU device was lost (unknown): test.");

/** A clock that stands until it is set. */
function stoppedClock(): { now: () => number; ms: number } {
  const clock = { ms: 0, now: () => clock.ms };
  return clock;
}

/** Loses its device when it is asked for the call of this number, counted from 1. */
class LosingBackend extends FormulaBackend {
  constructor(
    private readonly lastCall: number,
    private readonly failure: () => Error = loss,
  ) {
    super(11, (context, id) => Math.sin(3 * id + context.reduce((sum, token, i) => sum + token * (i + 1), 0)));
  }

  override async forward(...args: Parameters<FormulaBackend["forward"]>): Promise<Float32Array> {
    this.requireDevice();
    return super.forward(...args);
  }

  override async encodeWindow(...args: Parameters<FormulaBackend["encodeWindow"]>): Promise<void> {
    this.requireDevice();
    return super.encodeWindow(...args);
  }

  override async score(...args: Parameters<FormulaBackend["score"]>): Promise<Float32Array> {
    this.requireDevice();
    return super.score(...args);
  }

  private requireDevice(): void {
    if (this.calls.length + 1 >= this.lastCall) throw this.failure();
  }
}

/** Backends in the order in which they are built; where there are no more, building fails. */
function recovering(backends: readonly LosingBackend[], clock = stoppedClock()): RecoveringBackend {
  const [backend, ...others] = backends as [LosingBackend, ...LosingBackend[]];
  const rebuild = async (): Promise<LosingBackend> => {
    const next = others.shift();
    if (!next) throw new EngineError("unsupported", "No WebGPU adapter was found.");
    return next;
  };
  return new RecoveringBackend({ backend, rebuild, losses: new LossCounter({}, clock.now) });
}

const sound = (): LosingBackend => new LosingBackend(Infinity);

describe("LossCounter", () => {
  test.each([
    [[0, 1, 2], 3],
    [[0, 30_000, 59_999], 3],
    [[0, 30_000, 60_000], null], // the first is a minute ago
    [[0, 59_000, 118_000, 177_000], null],
    [[0, 59_000, 118_000, 118_500], 4],
  ])("of losses at %j ms the one too many is %j", (timesMs, last) => {
    const clock = stoppedClock();
    const losses = new LossCounter({}, clock.now);
    for (const [i, ms] of timesMs.entries()) {
      clock.ms = ms;
      const error = loss();
      if (i + 1 === last) expect(() => losses.note(error)).toThrow(error);
      else losses.note(error);
    }
  });

  test("throws what is no loss, and any loss of the caller's own device", () => {
    const shader = new EngineError("shader", "NaN");
    new LossCounter().note(loss()); // control case
    expect(() => new LossCounter().note(shader)).toThrow(shader);
    const own = loss();
    expect(() => new LossCounter({ device: {} as GPUDevice }).note(own)).toThrow(own);
  });
});

describe("RecoveringBackend", () => {
  test("makes the calls again that made the KV cache, one by one, and then the one that failed", async () => {
    const [first, second] = [new LosingBackend(4), sound()];
    const backend = recovering([first, second]);
    await backend.encodeWindow([9]); // of another call's: not made again
    await backend.forward([1, 2, 3], 0);
    await backend.forward([4], 3);
    expect(await backend.forward([5], 4)).toEqual(sound().logits([1, 2, 3, 4, 5]));
    expect(first.calls.at(-1)).toBe("dispose");
    expect(second.calls).toEqual(["forward 1 2 3 at 0", "forward 4 at 3", "forward 5 at 4"]);
  });

  test("encodes the window again before it scores on, also where the second device is lost in that", async () => {
    const [second, third] = [new LosingBackend(1), sound()];
    const backend = recovering([new LosingBackend(3), second, third]);
    await backend.encodeWindow([1, 2, 3, 4]);
    const scores = [await backend.score(0, [2]), await backend.score(1, [3])];
    expect(second.calls).toEqual(["dispose"]);
    expect(third.calls).toEqual(["encodeWindow 4", "score 1 1"]);
    const expected = sound();
    await expected.encodeWindow([1, 2, 3, 4]);
    expect(scores).toEqual([await expected.score(0, [2]), await expected.score(1, [3])]);
  });

  test("hands on any other error, and stays in use", async () => {
    const shader = new EngineError("shader", "NaN");
    const first = new LosingBackend(1, () => shader);
    const backend = recovering([first]);
    await expect(backend.forward([1], 0)).rejects.toBe(shader);
    expect(first.calls).toEqual([]); // not even disposed
    await expect(backend.score(0, [1])).rejects.toBe(shader);
  });

  test("goes on for ever where losses are rare, and ends with three within a minute", async () => {
    const clock = stoppedClock();
    const backend = recovering(Array.from({ length: 8 }, () => new LosingBackend(2)), clock);
    for (let i = 0; i < 6; i++) {
      await backend.forward([i], 0);
      clock.ms += 31_000;
    }
    expect(backend.adapter.notices).toEqual(["The device was lost and made again, 5 times."]);
    await backend.forward([7], 0);
    await expect(backend.forward([8], 0)).rejects.toMatchObject({ code: "deviceLost", message: expect.stringContaining("3 times within a minute") as string });
    const lost = await backend.lost;
    await expect(backend.score(0, [1])).rejects.toBe(lost);
  });

  test("ends where it cannot be built again, and says why", async () => {
    const backend = recovering([new LosingBackend(2)]);
    await backend.forward([1], 0); // control case
    const message = "The GPU device was lost and could not be made again: No WebGPU adapter was found.";
    await expect(backend.forward([1], 0)).rejects.toMatchObject({ code: "deviceLost", message, cause: { code: "unsupported" } });
    expect(await backend.lost).toMatchObject({ message });
  });

  test("draws on behind what was drawn where the backend samples by itself", async () => {
    const asked: (readonly number[])[] = [];
    const drawing = (last: number): LosingBackend =>
      Object.assign(sound(), {
        decode: async function* (_tokens: unknown, _options: unknown, limit: number, _signal: unknown, drawn: readonly number[] = []) {
          asked.push([...drawn]);
          for (let id = drawn.length; id < limit; id++) {
            if (id === last) throw loss();
            yield { id, logProb: -1, top: [] };
          }
        },
      });
    const backend = recovering([drawing(3), drawing(4), drawing(Infinity)], { ms: 0, now: () => (asked.length - 1) * 31_000 });
    const ids: number[] = [];
    const options = { temperature: 0, topK: 11, topP: 1, minP: 0, repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0, seed: 1 };
    for await (const { id } of backend.decode([1], options, 6)!) ids.push(id);
    expect(ids).toEqual([0, 1, 2, 3, 4, 5]);
    expect(asked).toEqual([[], [0, 1, 2], [0, 1, 2, 3]]);
    expect(recovering([sound()]).decode([1], options, 6)).toBeNull(); // control case: a backend that cannot
  });
});
