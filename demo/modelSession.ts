import { EngineError, type LoadProgress, type Model } from "nibble-webgpu";
import type { Choice } from "./choice.ts";
import type { Agreement } from "./downloadOffer.ts";
import { backend, openModel } from "./engine.ts";
import { checkPolicy } from "./policy.ts";

/** What a session tells the page. */
export interface SessionView {
  loading(choice: Choice): void;
  /** Whether to load it, and as what; null: the user thinks better of it. */
  agree(choice: Choice, mayBeKept: boolean, signal: AbortSignal): Promise<Agreement | null>;
  progress(progress: LoadProgress): void;
  /** The model in use is about to go; resolves when nobody uses it any more. */
  release(): Promise<void>;
  loaded(model: Model, choice: Choice): void;
  failed(error: unknown): void;
  /** No load is under way any more, however it ended. */
  settled(): void;
}

/** A model, and what was chosen to get it. */
interface Loaded {
  model: Model;
  choice: Choice;
}

/** The model in use, and the load of the next one. */
export class ModelSession {
  /** What is in use. */
  current: Loaded | null = null;
  /** What was asked for last. */
  wanted: Choice;
  private controller: AbortController | null = null;

  constructor(
    first: Choice,
    private readonly view: SessionView,
  ) {
    this.wanted = first;
  }

  get isLoading(): boolean {
    return this.controller !== null;
  }

  cancel(): void {
    this.controller?.abort(new DOMException("Cancelled by the user.", "AbortError"));
  }

  /** Loads beside the model in use, which stays if this fails. A newer call takes the place of one under way. */
  async load(choice: Choice): Promise<void> {
    this.controller?.abort(new DOMException("Another model was chosen.", "AbortError"));
    const controller = new AbortController();
    const { signal } = controller;
    this.controller = controller;
    this.wanted = choice;
    this.view.loading(choice);
    try {
      await checkPolicy(choice.source);
      const loaded = await this.askAndOpen(choice, signal);
      if (!loaded) return;
      const { model } = loaded;
      if (signal.aborted) return model.dispose();
      await this.unload();
      this.current = loaded;
      this.view.loaded(model, loaded.choice);
      void model.lost.then((error) => this.view.failed(error));
    } catch (error) {
      if (!signal.aborted) this.view.failed(error);
    } finally {
      if (this.controller === controller) {
        this.controller = null;
        this.view.settled();
      }
    }
  }

  /** null: the user thinks better of it. Where what seemed to be kept has to be downloaded after all, ends that and asks. */
  private async askAndOpen(choice: Choice, signal: AbortSignal, mayBeKept = true): Promise<Loaded | null> {
    const agreed = await this.view.agree(choice, mayBeKept, signal);
    if (!agreed || signal.aborted) return null;
    this.wanted = agreed.choice;
    this.view.loading(agreed.choice);
    const unasked = new AbortController();
    const showProgress = (progress: LoadProgress): void => {
      if (signal.aborted) return;
      if (progress.stage === "download" && !agreed.mayDownload) unasked.abort();
      else this.view.progress(progress);
    };
    try {
      return { model: await this.openOrMakeRoom(agreed.choice, AbortSignal.any([signal, unasked.signal]), showProgress), choice: agreed.choice };
    } catch (error) {
      if (signal.aborted || !unasked.signal.aborted) throw error;
      return this.askAndOpen(choice, signal, false);
    }
  }

  /** Where memory is too small for two models, gives up the one in use and tries once more. */
  private async openOrMakeRoom({ source, preset: quantization, hub, integrity }: Choice, signal: AbortSignal, onProgress: (progress: LoadProgress) => void): Promise<Model> {
    const open = (): Promise<Model> => openModel(source, { quantization, backend, hub, integrity, signal, onProgress });
    try {
      return await open();
    } catch (error) {
      if (!this.current || !(error instanceof EngineError) || error.code !== "outOfMemory") throw error;
      await this.unload();
      return open();
    }
  }

  private async unload(): Promise<void> {
    await this.view.release();
    this.current?.model.dispose();
    this.current = null;
  }
}
