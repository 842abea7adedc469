import { css } from "lit";

/** Controls, text and figures, alike in every part of the panel. The colours are set by the panel itself (panelColors) and inherited. */
export const partStyles = css`
  :host { display: block; color: var(--ink-color); }
  :host([hidden]), [hidden] { display: none !important; }
  * { box-sizing: border-box; }
  :focus-visible { outline: 2px solid var(--accent-color); outline-offset: 2px; }
  p, h3, figure { margin: 0; }
  h3 { font-size: 0.95rem; font-weight: 600; }
  button, select, textarea, input { font: inherit; color: inherit; background: var(--card-color); border: 1px solid var(--control-color); border-radius: 7px; padding: 5px 12px; max-width: 100%; min-width: 0; }
  button, select, input[type="checkbox"], input[type="file"], summary { cursor: pointer; }
  button:hover:not(:disabled) { border-color: var(--accent-color); }
  button:disabled, select:disabled, input:disabled { opacity: 0.55; cursor: default; }
  button.primary { background: var(--accent-color); border-color: var(--accent-color); color: var(--on-accent-color); min-width: 6.4rem; }
  button.small { font-size: 0.82rem; padding: 2px 10px; }
  button.plain { border-color: transparent; background: none; padding: 2px 4px; color: var(--accent-color); text-decoration: underline; text-underline-offset: 3px; }
  textarea { display: block; width: 100%; resize: vertical; }
  input[type="checkbox"] { accent-color: var(--accent-color); margin: 0; flex: none; padding: 0; }
  input[aria-invalid="true"], select[aria-invalid="true"] { border-color: var(--warn-color); }
  input::placeholder { color: var(--soft-color); opacity: 1; }
  label { color: var(--soft-color); font-size: 0.92rem; }
  fieldset { border: 0; margin: 0; padding: 0; min-width: 0; }
  legend { padding: 0; }
  .row { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center; }
  .grow { flex: 1; }
  .soft, small { color: var(--soft-color); }
  small { font-size: 0.8rem; line-height: 1.35; }
  .number, table { font-family: var(--number-font); font-variant-numeric: tabular-nums; }
  .number { font-size: 0.88em; }
  .warn { color: var(--warn-color); }
  .hint { color: var(--soft-color); font-size: 0.93rem; max-width: 72ch; }
  .caption { border-left: 3px solid var(--accent-soft-color); padding: 2px 0 2px 14px; color: var(--soft-color); font-size: 0.93rem; max-width: 76ch; }
  .caption b, .caption dfn { color: var(--ink-color); font-weight: 600; font-style: normal; }
  .fields { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 12px 16px; align-items: start; }
  .fields label { display: grid; gap: 3px; align-content: start; }
  .fields :is(input, select) { color: var(--ink-color); width: 100%; font-size: 1rem; }
  .visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  progress { appearance: none; display: inline-block; width: 74px; height: 5px; border: 0; border-radius: 3px; overflow: hidden; background: var(--line-color); vertical-align: middle; margin-right: 6px; }
  progress::-webkit-progress-bar { background: var(--line-color); }
  progress::-webkit-progress-value { background: var(--accent-color); }
  progress::-moz-progress-bar { background: var(--accent-color); }
  .scroll { overflow-x: auto; }
  table { border-collapse: separate; border-spacing: 0; font-size: 0.84rem; line-height: 21px; } /* whole pixels: a sticky cell's border must meet its row's */
  table small { line-height: 17px; }
  th { text-align: right; font-weight: 500; color: var(--soft-color); padding: 7px 8px; border-bottom: 1px solid var(--line-color); white-space: nowrap; }
  td { text-align: right; padding: 8px; border-bottom: 1px solid var(--line-color); white-space: nowrap; }
  tbody tr:last-child > * { border-bottom: 0; }
  tr > .left, tr > :first-child { text-align: left; }
  tr > :first-child { padding-left: 0; }
  tbody th { color: inherit; font-weight: 400; }
  .cards { font-size: 0.79rem; }
  .cards, .cards :is(thead, tbody) { display: block; }
  .cards tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: 3px 12px; align-content: start; padding: 10px 0; border-bottom: 1px solid var(--line-color); }
  .cards :is(td, tbody th) { display: block; padding: 0; border: 0; text-align: left; }
  .cards td[data-label]::before { content: attr(data-label) / ""; display: block; color: var(--soft-color); font: 0.78rem/17px system-ui, sans-serif; }
  .cards .line { grid-column: 1 / -1; }
`;

/** Takes the colours of the page around it where that page sets them as custom properties. */
export const panelColors = css`
  :host {
    --card-color: var(--card, #ffffff);
    --ink-color: var(--ink, #1b1d1f);
    --soft-color: var(--soft, #5f646a);
    --line-color: var(--line, #e4e1d9);
    --control-color: var(--control, #8d8a82);
    --accent-color: var(--accent, #0b6e6a);
    --on-accent-color: var(--on-accent, #ffffff);
    --accent-soft-color: var(--accent-soft, #d7ebe9);
    --warn-color: var(--warn, #a4440f);
    --number-font: var(--mono, ui-monospace, "SF Mono", Menlo, Consolas, monospace);
    background: var(--card-color);
    border: 1px solid var(--line-color);
    border-radius: 10px;
    padding: 16px 18px;
    font-size: 1rem;
    line-height: 1.55;
  }
  @media (prefers-color-scheme: dark) {
    :host {
      --card-color: var(--card, #1b1e23);
      --ink-color: var(--ink, #e9e7e2);
      --soft-color: var(--soft, #9aa0a8);
      --line-color: var(--line, #2d3138);
      --control-color: var(--control, #6b727c);
      --accent-color: var(--accent, #5cc8bf);
      --on-accent-color: var(--on-accent, #10211f);
      --accent-soft-color: var(--accent-soft, #1d3a39);
      --warn-color: var(--warn, #f0a37a);
    }
  }
  @media (max-width: 760px) {
    :host { padding: 14px; }
  }
`;
