import { EngineError, type AdapterSummary, type EngineErrorCode, type LoadProgress, type Model } from "nibble-webgpu";
import { element, errorLine, hide } from "./element.ts";
import { FileRows } from "./fileRows.ts";
import { clock, megabytes } from "./panel/format.ts";

const line = element("status", HTMLSpanElement);
const detail = element("loadDetail", HTMLSpanElement);
const action = element("loadAction", HTMLButtonElement);
const bar = element("loadProgress", HTMLProgressElement);
const alertLine = element("alert", HTMLParagraphElement);
const modelSelect = element("model", HTMLSelectElement);

/** Rates are shown once a file has been under way for so long. */
const settlingMs = 400;
const stageNames: Readonly<Record<LoadProgress["stage"], string>> = {
  download: "reading",
  quantize: "quantizing",
  upload: "uploading",
  compile: "compiling shaders",
  calibrate: "calibrating",
};
/** What the user can do next. */
const advice: Partial<Record<EngineErrorCode, string>> = {
  network: "Check the address and the connection, then try again.",
  checkpoint: "Choose a GPT-2 model: config.json beside model.safetensors.",
  unsupported: "Choose another model or other weights.",
  integrity: "Load it again; if it stays so, the file is damaged where it comes from.",
  outOfMemory: "Choose smaller weights, such as nf4, or close other tabs.",
  deviceLost: "Reload the page.",
  worker: "Check the connection and try again.",
};

/** One line for whatever was thrown: what happened, and what to do next. null clears it. */
export function showError(error: unknown): void {
  const next = error instanceof EngineError ? (advice[error.code] ?? "") : "";
  alertLine.textContent = error === null ? "" : `${errorLine(error)} ${next}`.trim();
}

/** The line below the model lists: what is loading, or what it runs on. */
export class LoadStatus {
  /** Of the file under way: when it began, and with how many bytes. */
  private start = { file: "", ms: 0, bytes: 0 };
  private isReading = false;
  private readonly files = new FileRows();

  /** `act` is called by the button: "Cancel", or "Try again" where there is no model. */
  constructor(act: () => void) {
    action.addEventListener("click", act);
  }

  showStart(text: string): void {
    showError(null);
    line.textContent = text;
    detail.textContent = "";
    this.files.clear();
    this.start.file = ""; // the same file may come again
    this.isReading = false;
    action.textContent = "Cancel";
    action.hidden = false;
    bar.value = 0;
    bar.classList.remove("done");
  }

  showProgress(progress: LoadProgress): void {
    bar.value = progress.fraction;
    const { stage, file, loaded, total, unit } = progress;
    if (stage === "quantize" && this.isReading) return; // tensors are quantized between the pieces of their file
    this.isReading = stage === "download" && loaded !== total;
    const amount = unit === "bytes" ? `${megabytes(loaded)}${total === null ? "" : ` of ${megabytes(total)}`} MB` : `${loaded}${total === null ? "" : ` of ${total}`} ${unit}`;
    const parts = [amount, ...this.pace(progress)].join(", ");
    const place = file === undefined ? null : this.files.show(file, parts);
    if (stage === "download" && !navigator.onLine) detail.textContent = "this browser is offline";
    else if (place) detail.textContent = `${stageNames[stage]} file ${place.number} of ${place.count}`;
    else detail.textContent = `${stageNames[stage]}${file === undefined ? "" : ` ${file}`}, ${parts}`;
  }

  /** Where no load is under way: what `model` runs on. */
  showIdle(model: Model | null): void {
    bar.classList.add("done");
    detail.textContent = "";
    this.files.clear();
    if (model) hide(action, modelSelect);
    else action.hidden = false;
    line.textContent = model ? describeAdapter(model.adapter) : "No model is loaded.";
    action.textContent = "Try again";
  }

  /** "8.1 MB/s", "0:42 left": of the file being read. */
  private pace({ file = "", loaded, total, unit }: LoadProgress): string[] {
    const nowMs = performance.now();
    if (file !== this.start.file || loaded < this.start.bytes) this.start = { file, ms: nowMs, bytes: loaded };
    const seconds = (nowMs - this.start.ms) / 1000;
    const bytesPerSecond = (loaded - this.start.bytes) / seconds;
    if (unit !== "bytes" || loaded === total || seconds * 1000 < settlingMs || bytesPerSecond === 0) return [];
    return [`${megabytes(bytesPerSecond)} MB/s`, ...(total === null ? [] : [`${clock((total - loaded) / bytesPerSecond)} left`])];
  }
}

/** Which backend runs, and why: "CPU · The only WebGPU adapter is software (…); running on the CPU." */
function describeAdapter({ backend, vendor, architecture, description, isFallback, notices }: AdapterSummary): string {
  if (backend === "cpu") return `CPU · ${notices.join(" ") || description.replace(/ on the CPU$/, "")}`;
  const parts = ["WebGPU", description || `${vendor} ${architecture}`.trim() || "unnamed adapter", isFallback ? "software, so slow" : "", ...notices];
  return parts.filter((part) => part !== "").join(" · ");
}
