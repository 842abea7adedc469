import { EngineError } from "../errors.ts";
import { parseSafetensorsHeader, readHeaderLength, type SafetensorsHeader } from "../safetensors/index.ts";
import type { SourceFile } from "../source/types.ts";
import { FileReader } from "./fileReader.ts";

/** A file that is being read. */
export interface StartedFile {
  name: string;
  header: SafetensorsHeader;
  /** Stands where the data begins. */
  reader: FileReader;
}

/** One .safetensors of a checkpoint, whose header can be read ahead of its weights. */
export class WeightFile {
  private readonly open: (signal: AbortSignal | undefined) => Promise<SourceFile>;
  private ahead: StartedFile | null = null;

  /** open: called once per pass, when its turn comes: an opened response waits for nobody. */
  constructor(
    readonly name: string,
    open: (signal: AbortSignal | undefined) => Promise<SourceFile>,
  ) {
    this.open = open;
  }

  /** The header alone; the next start() goes on with the same transfer. */
  async readHeader(signal: AbortSignal | undefined): Promise<SafetensorsHeader> {
    this.ahead ??= await this.begin(signal);
    return this.ahead.header;
  }

  async start(signal: AbortSignal | undefined): Promise<StartedFile> {
    const started = this.ahead ?? (await this.begin(signal));
    this.ahead = null;
    return started;
  }

  /** Ends the transfer that readHeader() began. */
  async close(): Promise<void> {
    await this.ahead?.reader.close();
    this.ahead = null;
  }

  private async begin(signal: AbortSignal | undefined): Promise<StartedFile> {
    const file = await this.open(signal);
    const { name } = file;
    const reader = new FileReader(file, signal);
    try {
      const start = await reader.read(8);
      const headerBytes = inFile(name, () => readHeaderLength(start, file.sizeBytes));
      const rest = await reader.read(headerBytes);
      const bytes = new Uint8Array(8 + headerBytes);
      bytes.set(start);
      bytes.set(rest, 8);
      return { name, reader, header: inFile(name, () => parseSafetensorsHeader(bytes, file.sizeBytes)) };
    } catch (error) {
      await reader.close();
      throw error;
    }
  }
}

/** Puts the file's name before the parser's message. */
function inFile<Result>(file: string, parse: () => Result): Result {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new EngineError(error.code, `${file}: ${error.message}`, { ...error.details, file }, { cause: error });
  }
}
