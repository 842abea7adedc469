import { css } from "lit";

/** Takes the colours of the page around it where that page sets them as custom properties. */
export const panelStyles = css`
  :host {
    --card-color: var(--card, #ffffff);
    --ink-color: var(--ink, #1b1d1f);
    --soft-color: var(--soft, #5f646a);
    --line-color: var(--line, #e4e1d9);
    --control-color: var(--control, #8d8a82);
    --accent-color: var(--accent, #0b6e6a);
    --on-accent-color: var(--on-accent, #ffffff);
    --warn-color: var(--warn, #a4440f);
    --number-font: var(--mono, ui-monospace, "SF Mono", Menlo, Consolas, monospace);
    display: block;
    color: var(--ink-color);
    background: var(--card-color);
    border: 1px solid var(--line-color);
    border-radius: 10px;
    padding: 16px 18px;
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
      --warn-color: var(--warn, #f0a37a);
    }
  }
  :host([hidden]), [hidden] { display: none; }
  * { box-sizing: border-box; }
  :focus-visible { outline: 2px solid var(--accent-color); outline-offset: 2px; }
  p { margin: 0; }
  button, select, textarea { font: inherit; color: inherit; background: var(--card-color); border: 1px solid var(--control-color); border-radius: 7px; padding: 5px 12px; max-width: 100%; }
  button, select, input[type="checkbox"], fieldset label { cursor: pointer; }
  button:hover:not(:disabled) { border-color: var(--accent-color); }
  button:disabled { opacity: 0.5; cursor: default; }
  button.primary { background: var(--accent-color); border-color: var(--accent-color); color: var(--on-accent-color); min-width: 6.4rem; }
  textarea { display: block; width: 100%; resize: vertical; }
  input[type="checkbox"] { accent-color: var(--accent-color); margin: 0; flex: none; }
  .row { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: center; }
  .grow { flex: 1; }
  .soft, .row > label { color: var(--soft-color); }
  .row > label { font-size: 0.92rem; }
  .row > label select { color: var(--ink-color); font-size: 1rem; margin-left: 4px; }
  .number, table { font-family: var(--number-font); font-variant-numeric: tabular-nums; }
  .number { font-size: 0.88em; }
  fieldset { border: 0; margin: 0 0 12px; padding: 0; min-width: 0; }
  legend { padding: 0; margin-bottom: 4px; color: var(--soft-color); font-size: 0.92rem; }
  .recipes { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 6px 14px; }
  .recipes label { display: flex; gap: 8px; align-items: center; line-height: 1.3; }
  .recipes small { color: var(--soft-color); font-size: 0.78rem; }
  .given { margin: 10px 0 0; }
  .given label { display: block; margin-bottom: 4px; color: var(--soft-color); font-size: 0.92rem; }
  .actions { margin-top: 14px; }
  .alert { color: var(--warn-color); font-size: 0.95rem; min-height: 1.6rem; overflow-wrap: anywhere; }
  .scroll { overflow-x: auto; margin: 0 -18px; padding: 0 18px; }
  table { border-collapse: separate; border-spacing: 0; table-layout: fixed; width: 100%; font-size: 0.84rem; min-width: 62rem; }
  th:nth-child(1) { width: 17%; }
  th:nth-child(2) { width: 10.5%; }
  th:nth-child(3) { width: 6%; }
  th:nth-child(4) { width: 12.5%; }
  th:nth-child(5) { width: 14.5%; }
  th:nth-child(8) { width: 10.2%; }
  th:nth-child(9) { width: 11.3%; }
  th { text-align: right; font-weight: 500; color: var(--soft-color); padding: 7px 8px; border-bottom: 1px solid var(--line-color); white-space: nowrap; }
  td { text-align: right; padding: 8px; border-bottom: 1px solid var(--line-color); white-space: nowrap; }
  tr:last-child > * { border-bottom: 0; }
  tr > :first-child { text-align: left; padding-left: 0; font-weight: 400; position: sticky; left: 0; background: var(--card-color); }
  tbody th { color: inherit; }
  tr > .left { text-align: left; }
  td.hint { color: var(--soft-color); }
  tr.baseline { color: var(--soft-color); }
  tr .why { text-align: left; color: var(--warn-color); white-space: normal; }
  progress { appearance: none; display: inline-block; width: 74px; height: 5px; border: 0; border-radius: 3px; overflow: hidden; background: var(--line-color); vertical-align: middle; margin-right: 6px; }
  progress::-webkit-progress-bar { background: var(--line-color); }
  progress::-webkit-progress-value { background: var(--accent-color); }
  progress::-moz-progress-bar { background: var(--accent-color); }
  .below { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 24px; margin-top: 18px; }
  figure { margin: 0; min-height: 290px; min-width: 0; }
  figcaption { font-size: 0.9rem; margin-bottom: 6px; }
  figcaption span { color: var(--soft-color); }
  svg { display: block; }
  svg text { font: 12px system-ui, sans-serif; fill: var(--soft-color); }
  svg .name { fill: var(--ink-color); stroke: var(--card-color); stroke-width: 3px; paint-order: stroke; }
  svg .grid { fill: none; stroke: var(--line-color); }
  svg .frontier { fill: none; stroke: var(--accent-color); stroke-width: 1.5; stroke-dasharray: 4 4; }
  svg .leader { stroke: var(--control-color); stroke-width: 0.7; }
  svg .error { stroke: var(--accent-color); }
  svg circle { fill: var(--accent-color); }
  dl { margin: 0; font-size: 0.88rem; display: grid; gap: 8px; align-content: start; }
  dt { float: left; margin-right: 0.6ch; font-family: var(--number-font); font-size: 0.94em; }
  dd { margin: 0; color: var(--soft-color); }
  @media (max-width: 760px) {
    :host { padding: 14px; }
    .scroll { margin: 0 -14px; padding: 0 14px; }
    .below { grid-template-columns: minmax(0, 1fr); }
    .recipes { grid-template-columns: minmax(0, 1fr); }
    .actions .grow { flex: 1 0 100%; order: 1; min-height: 1.6em; }
    .row > label select { margin-left: 0; }
    figure { min-height: 320px; }
    table { min-width: 57rem; }
    th:nth-child(1) { width: 12%; }
    tr > :first-child { white-space: normal; }
    .row > label { flex: 1 1 100%; display: grid; grid-template-columns: 4.2rem minmax(0, 1fr); align-items: center; }
  }
`;
