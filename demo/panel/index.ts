import "./perplexityPanel.ts";
export type * from "./panelElement.ts";
