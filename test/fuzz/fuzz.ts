import { writeFileSync } from "node:fs";
import { EngineError } from "../../src/errors.ts";
import { Choices } from "./choices.ts";
import { CallersError } from "./values.ts";
import { watchMemory } from "./watch.ts";

/** One hostile input. */
export interface FuzzCase {
  /** What is wrong with it, in a few words. */
  what: string;
  /** Its size, which bounds the memory that may be asked for. */
  givenBytes: number;
  /** Gives it to the engine; throws an Error of its own where the engine takes it and is wrong. */
  run: () => unknown;
  /** An argument of the caller's was changed: TypeError and RangeError are right answers too. */
  byCaller?: boolean;
}

export interface FuzzTally {
  /** Inputs that the engine took. */
  taken: number;
  /** Inputs that it refused as it should. */
  refused: number;
}

const FREE_BYTES = 2 ** 20;
const BYTES_PER_GIVEN_BYTE = 64;
const LONGEST_MESSAGE = 1_000;
/** A hang, on the slowest machine. */
const LONGEST_MS = 20_000;
const LISTED_FAILURES = 10;

/**
 * Runs cases 0 … count − 1 of a kind; NIBBLE_FUZZ=37 runs case 37 alone, NIBBLE_FUZZ=10000-20000 others, and NIBBLE_FUZZ_LOG=file keeps the
 * one at work in a file, should it end the process.
 * Throws with the seeds of those that ended in anything but acceptance or a proper error, asked for much memory, or changed a prototype.
 */
export async function fuzz(kind: string, count: number, make: (choices: Choices) => FuzzCase): Promise<FuzzTally> {
  const [first = 0, end = first + 1] = process.env.NIBBLE_FUZZ?.split("-").map(Number) ?? [0, count];
  const tally: FuzzTally = { taken: 0, refused: 0 };
  const failures = new Map<string, string>(); // one of each kind
  let failed = 0;
  const watch = watchMemory();
  try {
    for (let seed = first; seed < end; seed++) {
      const { what, givenBytes, run, byCaller = false } = make(new Choices(seed));
      const fail = (found: string): void => {
        failed++;
        failures.set(found.replace(/"[^"]*"|[\d.e+-]+|\bis .*;/g, ""), `NIBBLE_FUZZ=${seed} npx vitest run --project unit test/unit/fuzz.test.ts -t "${kind}": ${what}: ${found}`);
      };
      if (process.env.NIBBLE_FUZZ_LOG) writeFileSync(process.env.NIBBLE_FUZZ_LOG, `${kind} ${seed}: ${what}\n`);
      watch.reset();
      const startMs = performance.now();
      try {
        await run();
        tally.taken++;
      } catch (error) {
        const fault = faultOf(error, byCaller);
        if (fault) fail(fault);
        tally.refused++;
      }
      const tookMs = performance.now() - startMs;
      if (tookMs > LONGEST_MS) fail(`took ${Math.round(tookMs)} ms`);
      if (watch.largestBytes > FREE_BYTES + BYTES_PER_GIVEN_BYTE * givenBytes) fail(`asked for ${watch.largestBytes} bytes at once, given ${givenBytes}`);
      const pollution = watch.pollution();
      if (pollution.length > 0) throw new Error(`${what}: changed prototypes: ${pollution.join(", ")}`);
    }
  } finally {
    watch.stop();
  }
  if (failed > 0) throw new Error([`${failed} of ${end - first} cases failed:`, ...[...failures.values()].slice(0, LISTED_FAILURES)].join("\n"));
  return tally;
}

/** Why an error is none that the engine should end in; null where it is one. */
function faultOf(error: unknown, byCaller: boolean): string | null {
  if (error instanceof CallersError) return null;
  if (!(error instanceof Error)) return `threw ${String(error)}`;
  const place = /\bat .*/.exec(error.stack?.slice(error.message.length) ?? "")?.[0] ?? "";
  const shown = `${error.name}: ${error.message.slice(0, 200)} ${place}`;
  if (error instanceof EngineError) {
    // With shortages it is the plan of a model as large as its config says, before anything was allocated.
    if (error.code === "outOfMemory" && !("shortages" in error.details)) return `blamed the memory: ${shown}`;
  } else if (!byCaller || !(error instanceof TypeError || error instanceof RangeError) || !/expected/.test(error.message)) {
    return shown;
  }
  return error.message.length > LONGEST_MESSAGE ? `a message of ${error.message.length} characters: ${shown}` : null;
}
