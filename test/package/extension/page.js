import { loadModelInWorker } from "./nibble/index.js";
import { story } from "./story.js";

globalThis.results = { page: await story(loadModelInWorker), serviceWorker: await chrome.runtime.sendMessage("go") };
