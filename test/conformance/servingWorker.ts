import { serve } from "../../src/worker/server.ts";
import { openDevice } from "./bench.ts";

/** Gives every model of this worker one device, which outlives them. */
async function shareDevice(): Promise<void> {
  const { gpu } = navigator;
  const [adapter, { subject: device }] = await Promise.all([gpu.requestAdapter(), openDevice(gpu)]);
  device.addEventListener("uncapturederror", ({ error }) => reportError(new Error(error.message)));
  device.destroy = () => undefined;
  adapter!.requestDevice = () => Promise.resolve(device);
  gpu.requestAdapter = () => Promise.resolve(adapter);
}

let shared: Promise<void> | undefined;
addEventListener("message", ({ ports: [port] }: MessageEvent) => {
  shared ??= shareDevice();
  void shared.then(() => {
    serve(port!);
    port!.start();
  });
});
