import type { Model } from "nibble-webgpu";
import { type Choice, modelNamed } from "./choice.ts";
import { Chooser } from "./chooser.ts";
import { offer } from "./downloadOffer.ts";
import { backend } from "./engine.ts";
import { KeptModels } from "./keptModels.ts";
import { LoadStatus, showError } from "./loadStatus.ts";
import { ModelSession } from "./modelSession.ts";
import { keepForOffline } from "./offline.ts";
import { Playground } from "./playground.ts";

const panel = document.querySelector("perplexity-panel")!;
const playground = new Playground(showError);
const chooser = new Chooser((choice) => void session.load(choice), showError);
const kept = new KeptModels(showError);
const status = new LoadStatus(() => (session.isLoading ? session.cancel() : void session.load(session.wanted)));

const session = new ModelSession(chooser.first, {
  loading: (choice) => {
    chooser.show(choice);
    status.showStart(`Loading as ${choice.preset}:`);
  },
  agree: (choice, mayBeKept, signal) => {
    status.showStart(`Looking at ${choice.label}.`);
    return offer(choice, mayBeKept, signal);
  },
  progress: (progress) => status.showProgress(progress),
  release: async () => {
    await playground.release();
    playground.use(null);
  },
  loaded: (model, choice) => {
    playground.use(model);
    chooser.keep(choice);
    showInPanel(model, choice);
  },
  failed: showError,
  settled: showSettled,
});

/** Names what is in use, or on its way to it; not what was asked for in vain. */
function showSettled(): void {
  const { current, wanted, isLoading } = session;
  chooser.show(isLoading || !current ? wanted : current.choice);
  if (isLoading) return;
  status.showIdle(current?.model ?? null);
  void kept.refresh();
  if (current) chooser.dropUnknown();
}

function showInPanel(model: Model, { source, hub, integrity }: Choice): void {
  if (!panel.source) panel.tokenLimit = model.adapter.backend === "cpu" || model.adapter.isFallback ? 512 : null;
  panel.loadOptions = { hub, integrity };
  panel.source = source;
}

// A link of the panel's may name another model: the page takes it, as if it had been chosen from the list.
panel.addEventListener("model", (event) => {
  event.preventDefault();
  void session.load({ ...modelNamed((event as CustomEvent<string>).detail), preset: chooser.preset });
});
panel.backend = backend;
panel.text = new URL("models/texts/stories-eval.txt", document.baseURI);
panel.textLabel = "the bundled stories";
panel.calibration = new URL("models/texts/stories-calibration.txt", document.baseURI);
// The panel takes its properties when its code is there, which is when it is nearly in sight.
const nearing = new IntersectionObserver(
  (entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    nearing.disconnect();
    import("nibble-webgpu/panel").catch(showError);
  },
  { rootMargin: "30%" },
);
nearing.observe(panel);
void session.load(session.wanted).then(keepForOffline);
