import { caches, loadModel } from "nibble-webgpu";
import { seededCheckpoint, tinyCheckpoints } from "../fixtures/seededCheckpoint.ts";

// As Safari before 26 has it.
delete (FileSystemFileHandle.prototype as Partial<FileSystemFileHandle>).createWritable;

const found: { quantizeMs: number; notices: readonly string[]; listed: number }[] = [];
for (let i = 0; i < 2; i++) {
  const model = await loadModel(seededCheckpoint(tinyCheckpoints.width2), { backend: "cpu" });
  found.push({ quantizeMs: model.quantization.quantizeMs, notices: model.adapter.notices, listed: (await caches.list()).length });
  model.dispose();
}
self.postMessage(found);
