/** Makes the whole page a place to drop files on; `hint` shows while they hover over it. */
export function acceptDrops(hint: HTMLElement, onFiles: (files: readonly File[]) => void, onError: (error: unknown) => void): void {
  const bringsFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragover", (event) => {
    if (!bringsFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) hint.hidden = true;
  });
  addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!bringsFiles(event)) return;
    event.preventDefault();
    droppedFiles(event.dataTransfer!).then(onFiles, onError);
  });
}

/** The files of a drop, those inside dropped folders included. Call it within the drop event: its items are gone afterwards. */
async function droppedFiles(transfer: DataTransfer): Promise<File[]> {
  const found = [...transfer.items].map(async (item) => {
    const entry = item.webkitGetAsEntry(); // null for what does not come from a file system
    const file = item.getAsFile();
    if (entry) return filesOf(entry);
    return file ? [file] : [];
  });
  return (await Promise.all(found)).flat();
}

async function filesOf(entry: FileSystemEntry): Promise<File[]> {
  if (isFile(entry)) return [await new Promise<File>((resolve, reject) => entry.file(resolve, reject))];
  if (!isDirectory(entry)) return [];
  const reader = entry.createReader();
  const found: File[] = [];
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return found; // a folder comes in batches (Chrome: 100), an empty one at the end
    found.push(...(await Promise.all(batch.map(filesOf))).flat());
  }
}

const isFile = (entry: FileSystemEntry): entry is FileSystemFileEntry => entry.isFile;
const isDirectory = (entry: FileSystemEntry): entry is FileSystemDirectoryEntry => entry.isDirectory;
