import "nibble-webgpu/panel";
import { EngineError, loadModel, presets, type AdapterSummary, type LoadOptions, type LoadProgress, type Model, type ModelSource, type PresetName } from "nibble-webgpu";
import { registry } from "../models/registry.ts";
import { droppedFiles } from "./droppedFiles.ts";
import { element, errorLine } from "./element.ts";
import { formatNote, megabytes } from "./panel/format.ts";
import { uncalibratedPresets } from "./panel/recipes.ts";
import { Playground } from "./playground.ts";

/** What the user asked for. */
interface Choice {
  label: string;
  source: ModelSource;
  preset: PresetName;
}

const modelSelect = element("model", HTMLSelectElement);
const presetSelect = element("preset", HTMLSelectElement);
const openButton = element("open", HTMLButtonElement);
const openForm = element("opener", HTMLFormElement);
const address = element("address", HTMLInputElement);
const statusText = element("status", HTMLSpanElement);
const loadDetail = element("loadDetail", HTMLSpanElement);
const loadAction = element("loadAction", HTMLButtonElement);
const loadBar = element("loadProgress", HTMLProgressElement);
const panel = document.querySelector("perplexity-panel")!;
const playground = new Playground(showError);

const asked = new URLSearchParams(location.search).get("backend");
const backend = asked === "webgpu" || asked === "cpu" ? asked : "auto";

/** What the model list offers, by label: the registry, and what was loaded from elsewhere. */
const opened = new Map(registry.map((entry) => [entry.label, sourceOf(entry)]));
let loaded: { model: Model; choice: Choice } | null = null;
let loading: AbortController | null = null;
let wanted: Choice = { label: registry[0]!.label, source: sourceOf(registry[0]!), preset: "int8" };

/** null clears the line. */
function showError(error: unknown): void {
  element("alert", HTMLParagraphElement).textContent = error === null ? "" : errorLine(error);
}

function sourceOf(entry: (typeof registry)[number]): ModelSource {
  return entry.source === "embedded" ? new URL(`models/${entry.id}/`, document.baseURI) : entry.id;
}

/** What the weights must hash to, where the list knows it. */
function integrityOf({ label }: Choice): LoadOptions["integrity"] {
  const sha256 = registry.find((entry) => entry.label === label)?.sha256;
  return sha256 === undefined ? undefined : { "model.safetensors": `sha256-${sha256}` };
}

/** Loads beside the model in use, which stays if this fails. A newer call takes the place of one under way. */
async function load(choice: Choice): Promise<void> {
  loading?.abort(new DOMException("Another model was chosen.", "AbortError"));
  const controller = new AbortController();
  const { signal } = controller;
  loading = controller;
  wanted = choice;
  showError(null);
  showChoice(choice);
  statusText.textContent = `Loading as ${choice.preset}:`;
  loadAction.textContent = "Cancel";
  loadAction.hidden = false;
  loadBar.value = 0;
  loadBar.classList.remove("done");
  const onProgress = (progress: LoadProgress): void => {
    if (loading !== controller) return;
    loadBar.value = progress.fraction;
    loadDetail.textContent = describeProgress(progress);
  };
  try {
    const model = await loadOrMakeRoom(() => loadModel(choice.source, { quantization: choice.preset, backend, integrity: integrityOf(choice), signal, onProgress }));
    if (signal.aborted) return model.dispose();
    await unload();
    loaded = { model, choice };
    showLoaded(model, choice);
  } catch (error) {
    if (!signal.aborted) showError(error);
  } finally {
    if (loading === controller) {
      loading = null;
      showIdle();
    }
  }
}

/** Where memory is too small for two models, gives up the one in use and tries once more. */
async function loadOrMakeRoom(attempt: () => Promise<Model>): Promise<Model> {
  try {
    return await attempt();
  } catch (error) {
    if (!loaded || !(error instanceof EngineError) || error.code !== "outOfMemory") throw error;
    await unload();
    return attempt();
  }
}

async function unload(): Promise<void> {
  await playground.release();
  playground.use(null);
  loaded?.model.dispose();
  loaded = null;
}

function showLoaded(model: Model, { label, source }: Choice): void {
  playground.use(model);
  if (panel.source === null) panel.tokenLimit = model.adapter.backend === "cpu" || model.adapter.isFallback ? 512 : null;
  panel.source = source;
  opened.set(label, source);
  openForm.hidden = true;
  openButton.ariaExpanded = "false";
  void model.lost.then(showError);
}

function showIdle(): void {
  loadBar.classList.add("done");
  loadDetail.textContent = "";
  loadAction.hidden = loaded !== null;
  for (const option of [...modelSelect.options]) if (loaded && !opened.has(option.value)) option.remove();
  if (loaded) {
    statusText.textContent = describeAdapter(loaded.model.adapter);
    showChoice(loaded.choice);
  } else {
    statusText.textContent = "No model is loaded.";
    loadAction.textContent = "Try again";
  }
}

/** Names the choice in both lists; one that is not in the registry gets a line of its own. */
function showChoice({ label, preset }: Choice): void {
  let option = [...modelSelect.options].find(({ value }) => value === label);
  if (!option) {
    option = new Option(label, label);
    modelSelect.add(option);
  }
  option.selected = true;
  presetSelect.value = preset;
}

function describeProgress({ stage, file, loaded, total, unit }: LoadProgress): string {
  const doing = { download: "reading", quantize: "quantizing", upload: "uploading", compile: "compiling shaders", calibrate: "calibrating" }[stage];
  const amount = unit === "bytes" ? `${megabytes(loaded)}${total === null ? "" : ` of ${megabytes(total)}`} MB` : `${loaded}${total === null ? "" : ` of ${total}`} ${unit}`;
  return `${doing}${file === undefined ? "" : ` ${file}`}, ${amount}`;
}

/** Which backend runs, and why: "CPU · The only WebGPU adapter is software (…); running on the CPU." */
function describeAdapter({ backend, vendor, architecture, description, isFallback, notices }: AdapterSummary): string {
  if (backend === "cpu") return `CPU · ${notices.join(" ") || description}`;
  const parts = ["WebGPU", description || `${vendor} ${architecture}`.trim() || "unnamed adapter", isFallback ? "software, so slow" : "", ...notices];
  return parts.filter((part) => part !== "").join(" · ");
}

function chosenPreset(): PresetName {
  return presetSelect.value as PresetName;
}

function openFiles(files: readonly File[]): void {
  if (files.length === 0) return;
  const weights = files.find(({ name }) => name.endsWith(".safetensors")) ?? files[0]!;
  const folder = weights.webkitRelativePath.split("/").at(-2);
  void load({ label: folder ?? weights.name, source: files, preset: chosenPreset() });
}

for (const entry of registry) modelSelect.add(new Option(`${entry.label} (${megabytes(entry.downloadBytes)} MB)`, entry.label));
for (const name of uncalibratedPresets) presetSelect.add(new Option([name, formatNote(presets[name].linear)].filter((part) => part !== "").join(": "), name));

modelSelect.addEventListener("change", () => {
  const source = opened.get(modelSelect.value) ?? wanted.source;
  void load({ label: modelSelect.value, source, preset: chosenPreset() });
});
presetSelect.addEventListener("change", () => {
  const { label, source } = loaded?.choice ?? wanted;
  void load({ label, source, preset: chosenPreset() });
});
openButton.addEventListener("click", () => {
  openForm.hidden = !openForm.hidden;
  openButton.ariaExpanded = String(!openForm.hidden);
  if (!openForm.hidden) address.focus();
});
openForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = address.value.trim();
  const url = /^(https?:|[./])/.test(text) && URL.canParse(text, document.baseURI) ? new URL(text, document.baseURI) : null;
  void load({ label: text, source: url ?? text, preset: chosenPreset() });
});
for (const id of ["files", "folder"]) {
  const input = element(id, HTMLInputElement);
  input.addEventListener("change", () => {
    openFiles([...(input.files ?? [])]);
    input.value = ""; // so that the same files can be picked again
  });
}
loadAction.addEventListener("click", () => {
  if (loading) loading.abort(new DOMException("Cancelled by the user.", "AbortError"));
  else void load(wanted);
});

const dropHint = element("dropHint", HTMLDivElement);
const bringsFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  dropHint.hidden = false;
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) dropHint.hidden = true;
});
addEventListener("drop", (event) => {
  dropHint.hidden = true;
  if (!bringsFiles(event)) return;
  event.preventDefault();
  void droppedFiles(event.dataTransfer!).then(openFiles, showError);
});

panel.backend = backend;
panel.text = new URL("models/texts/stories-eval.txt", document.baseURI);
panel.textLabel = "the bundled stories";
panel.calibration = new URL("models/texts/stories-calibration.txt", document.baseURI);
void load(wanted);
