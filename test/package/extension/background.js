import { loadModel } from "./nibble/static.js";
import { story } from "./story.js";

chrome.runtime.onMessage.addListener((message, sender, respond) => {
  void story(loadModel).then(respond);
  return true; // the answer comes later
});
