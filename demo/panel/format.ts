import { describeFormat, type TensorFormat } from "nibble-webgpu";

/** Megabytes of 10⁶ bytes, as file sizes are given: "12.5". */
export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

/** "43.54", "1234", "2.1e+7"; "–" where nothing finite was measured. */
export function figure(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return value.toExponential(1);
  return value.toFixed(Math.abs(value) >= 1000 ? 0 : digits);
}

/** Tokens per second: one decimal below 100. */
export function rate(tokensPerSecond: number): string {
  return figure(tokensPerSecond, tokensPerSecond < 100 ? 1 : 0);
}

/** Three significant digits, whatever the size: "0.000123". */
export function smallFigure(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return "–";
  return value !== 0 && Math.abs(value) < 1e-6 ? value.toExponential(1) : value.toPrecision(digits);
}

/** A fraction as "97.3 %"; small ones as "0.034 %". */
export function percent(fraction: number): string {
  return `${fraction > 0 && fraction < 0.001 ? smallFigure(100 * fraction, 2) : figure(100 * fraction, 1)} %`;
}

/** A ratio to the baseline as a change: 1.034 ± 0.002 is "+3.40 % ± 0.20". */
export function change(ratio: number, ratioError: number): string {
  if (!Number.isFinite(ratio)) return "–";
  const percent = (ratio - 1) * 100;
  return `${percent < 0 ? "−" : "+"}${figure(Math.abs(percent))} % ± ${figure(ratioError * 100)}`;
}

/** "0:04", "12:30". */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** What a preset's name does not say of its format: "absmax, per channel"; "" for plain floats. */
export function formatNote(format: TensorFormat): string {
  return describeFormat(format).replace(/^\w+,? ?/, "");
}
