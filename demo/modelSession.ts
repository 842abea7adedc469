import { EngineError, type LoadProgress, type Model } from "nibble-webgpu";
import type { Choice } from "./choice.ts";
import { backend, openModel } from "./engine.ts";
import { checkPolicy } from "./policy.ts";

/** What a session tells the page. */
export interface SessionView {
  loading(choice: Choice): void;
  /** Whether to load it, and as what; null: the user thinks better of it. */
  agree(choice: Choice, signal: AbortSignal): Promise<Choice | null>;
  progress(progress: LoadProgress): void;
  /** The model in use is about to go; resolves when nobody uses it any more. */
  release(): Promise<void>;
  loaded(model: Model, choice: Choice): void;
  failed(error: unknown): void;
  /** No load is under way any more, however it ended. */
  settled(): void;
}

/** The model in use, and the load of the next one. */
export class ModelSession {
  /** What is in use. */
  current: { model: Model; choice: Choice } | null = null;
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
      const agreed = await this.view.agree(choice, signal);
      if (!agreed || signal.aborted) return;
      this.wanted = agreed;
      this.view.loading(agreed);
      const model = await this.openOrMakeRoom(agreed, signal);
      if (signal.aborted) return model.dispose();
      await this.unload();
      this.current = { model, choice: agreed };
      this.view.loaded(model, agreed);
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

  /** Where memory is too small for two models, gives up the one in use and tries once more. */
  private async openOrMakeRoom(choice: Choice, signal: AbortSignal): Promise<Model> {
    const { source, preset: quantization, hub, integrity } = choice;
    const open = (): Promise<Model> => openModel(source, { quantization, backend, hub, integrity, signal, onProgress: (progress) => signal.aborted || this.view.progress(progress) });
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
