import { describe, expect, test } from "vitest";
import { loadModel } from "../../src/index.ts";
import { floatCheckpoints, mutateSafetensors, sizeOf, useModel } from "../fuzz/checkpoints.ts";
import { fuzz } from "../fuzz/fuzz.ts";
import { watchDevice } from "../fixtures/watchDevice.ts";
import { adapterName, requireAdapter } from "../gpu.ts";

/** The rest of the fuzzer runs on the CPU, in test/unit/fuzz.test.ts. */
describe.skipIf((await adapterName()) === "swiftshader")("hostile weights on a GPU", () => {
  test("end in a proper error or a correct load, and leave no buffer and no GPU error", async () => {
    const device = await (await requireAdapter()).requestDevice();
    const watch = watchDevice(device);
    const errors: string[] = [];
    device.addEventListener("uncapturederror", ({ error }) => errors.push(error.message));
    const tally = await fuzz("hostile weights", 60, (choices) => {
      const files = choices.pick(floatCheckpoints);
      const { file, what } = choices.oneIn(3) ? { file: files["model.safetensors"]!, what: "nothing changed" } : mutateSafetensors(choices, files["model.safetensors"]!);
      const changed = { ...files, "model.safetensors": file };
      return {
        what,
        givenBytes: sizeOf(changed) + 2 ** 16, // kernels as text
        run: async () => {
          if (watch.liveBytes > 0 || errors.length > 0) throw new Error(`the case before left ${watch.liveBytes} bytes, and errors: ${errors.splice(0).join()}`);
          using model = await loadModel(changed, { backend: "webgpu", device });
          await useModel(model, what === "nothing changed");
        },
      };
    });
    expect(tally.taken).toBeGreaterThan(10);
    expect(tally.refused).toBeGreaterThan(20);
    expect([watch.liveBytes, ...errors]).toEqual([0]);
    device.destroy();
  });
});
