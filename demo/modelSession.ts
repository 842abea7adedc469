import { EngineError, type LoadProgress, type Model } from "nibble-webgpu";
import type { Choice } from "./choice.ts";
import { backend, openModel } from "./engine.ts";
import { checkPolicy } from "./policy.ts";

/** What a session tells the page. */
export interface SessionView {
  loading(choice: Choice): void;
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
      const model = await this.openOrMakeRoom(choice, signal);
      if (signal.aborted) return model.dispose();
      await this.unload();
      this.current = { model, choice };
      this.view.loaded(model, choice);
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
    const open = async (): Promise<Model> => {
      const { source, preset: quantization, hub, integrity } = choice;
      await checkPolicy(source);
      return openModel(source, { quantization, backend, hub, integrity, signal, onProgress: (progress) => signal.aborted || this.view.progress(progress) });
    };
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
